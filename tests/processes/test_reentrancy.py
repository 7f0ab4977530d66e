"""Whoever interrupts a check or a proof may ask too: it is done or refused, and never waited for.

A signal handler, a finalizer and a tracing function run in the thread that they interrupt, in the
middle of whatever it has locked. Each test runs ``interrupted.py`` in a process with a deadline.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import fresh
import pytest
from paths import SUPPORT

from pipelit_agents import Agent, Pipelit

BACKENDS = ("sqlite", "postgres")
SQLITE = pytest.mark.backends("sqlite")
POSIX = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer's signals here")
PROGRAM = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
import interrupted
interrupted.main(*sys.argv[1:])
"""

Run = Callable[..., dict[str, int]]


@pytest.fixture
def seconds(pytestconfig: pytest.Config) -> float:
    """How long something is interrupted, and longer if nothing was done meanwhile."""
    return 2 if pytestconfig.getoption("everywhere") else 0.5


@pytest.fixture
def run(pipelit: Pipelit, database_url: str, key: str, writer: Agent, editor: Agent) -> Run:
    """Runs the program, and returns how often each outcome was seen."""

    def run(*options: object) -> dict[str, int]:
        done = fresh.run(PROGRAM, os.environ, database_url, key, *map(str, options))
        assert done.returncode == 0, done.stderr[-4000:]
        # What a finalizer raises is printed, and goes no further.
        assert "Traceback" not in done.stderr, done.stderr[-4000:]
        found: dict[str, int] = json.loads(done.stdout)
        return found

    return run


def test_a_proof_within_anything_is_made(run: Run) -> None:
    """At whichever line it interrupts, a proof is made at once: it waits for nothing."""
    seen = run("every_line", "verify", "prove", 43)
    assert seen["done"] > 5
    assert "refused" not in seen


def test_what_writes_within_a_transaction_is_refused(run: Run) -> None:
    """Where the thread's own transaction is open it is refused in words, and elsewhere it is done.

    What was interrupted ends well either way.
    """
    seen = run("every_line", "verify", "verify", 43)
    assert seen["done"]
    assert seen["refused"]


@SQLITE
@pytest.mark.parametrize(
    ("outer", "inner"), [("verify", "code"), ("code", "refuse"), ("spend", "verify")]
)
def test_what_is_no_proof_interrupts_and_is_interrupted(run: Run, outer: str, inner: str) -> None:
    """A code's check, an audit row and a used request, in the middle of one another."""
    seen = run("every_line", outer, inner, 37)
    assert seen["done"]
    assert seen["refused"]


@SQLITE
@pytest.mark.parametrize("inner", ["prove", "verify"])
def test_the_database_can_be_opened_in_the_middle_of_opening_it(run: Run, inner: str) -> None:
    """Engine, pool and first connection have locks too."""
    assert run("opening", inner, 53)["done"] > 3


@POSIX
@pytest.mark.parametrize("inner", ["prove", "verify"])
def test_signals_stop_nothing(run: Run, inner: str, seconds: float) -> None:
    """A handler that asks, wherever a timer's signal falls."""
    seen = run("signals", "verify", inner, seconds)
    assert seen["done"]
    assert seen["outer"]
    assert inner == "verify" or "refused" not in seen


@SQLITE
@pytest.mark.parametrize("inner", ["prove", "verify"])
def test_finalizers_stop_nothing(run: Run, inner: str, seconds: float) -> None:
    """``__del__`` and weak references' callbacks that ask, in threads and in tasks at once."""
    seen = run("finalizers", "verify", inner, seconds)
    assert seen["done"]
    assert seen["outer"]


@SQLITE
def test_a_handler_that_waits_for_another_thread_is_served(run: Run) -> None:
    """That thread doesn't wait for the turn of the one that waits for it."""
    assert run("joined")["done"] == 6


@SQLITE
@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system doesn't fork")
def test_a_child_that_is_forked_in_the_middle_goes_on(run: Run) -> None:
    """A fork within a check leaves nothing in the child that it would wait for."""
    assert run("forked")["child"] > 5
