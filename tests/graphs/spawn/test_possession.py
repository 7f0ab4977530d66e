"""A child that hangs where it has to show its secret: it is given up, and holds up nobody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from paths import SUPPORT
from spawning import NAME, graph_of, parent_of, tasks

from pipelit_agents import Agent, Challenge, Pipelit
from pipelit_agents._threads import Apart, Stuck, aside
from pipelit_agents.graphs import VerifiedChild, verified_child
from pipelit_agents.graphs.spawn import possession

BACKENDS = ("sqlite",)


class Hanging(VerifiedChild):
    """A child that shows nothing until it is let go."""

    gate: threading.Event
    began: list[str]

    def prove_possession(self, challenge: Challenge) -> Any:
        """Hangs, and says on which thread."""
        self.began.append(threading.current_thread().name)
        self.gate.wait(60)
        return super().prove_possession(challenge)


@pytest.fixture
def hanging(pipelit: Pipelit) -> Iterator[Hanging]:
    """Such a child; at the end it is let go."""
    pipelit.users.create_agent(NAME, owner="alice", purpose="hangs")
    child = Hanging(graph=graph_of(), agent=pipelit.agent(NAME))
    child.gate, child.began = threading.Event(), []
    yield child
    child.gate.set()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """The limit that holds without a timeout, so short that a test can wait for it."""
    monkeypatch.setattr(possession, "POSSESSION_TIMEOUT", 0.4)
    return 0.4


WITHIN = [{"timeout": 0.3}, {}]


@pytest.mark.slow
@pytest.mark.parametrize("options", WITHIN, ids=["timeout", "none"])
def test_a_child_that_hangs_is_given_up(
    pipelit: Pipelit, lead: Agent, hanging: Hanging, short: float, options: dict[str, Any]
) -> None:
    """Sync: within its timeout, and without one within a limit of its own; it is in the audit."""
    graph = parent_of(lead, {NAME: hanging}, on_failure="collect", **options)
    (result,) = graph.invoke(tasks("x"))["results"]
    assert result["status"] == "timeout"
    assert "within" in result["error"]
    row = pipelit.audit.list(limit=1)[0]
    assert row.reason in ("no possession in time", "no answer in time")


@pytest.mark.slow
@pytest.mark.parametrize("options", WITHIN, ids=["timeout", "none"])
async def test_it_holds_no_thread_of_anybodys(
    pipelit: Pipelit, lead: Agent, hanging: Hanging, short: float, options: dict[str, Any]
) -> None:
    """Async, forty tasks: two calls hang, on their own threads; everybody else's are free."""
    graph = parent_of(lead, {NAME: hanging}, on_failure="collect", **options)
    results = (await graph.ainvoke(tasks(*"x" * 40)))["results"]
    assert {each["status"] for each in results} == {"timeout"}
    # Once before the tasks, and once for all of them.
    assert hanging.began == ["pipelit-apart"] * 2
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 5) == 1
    assert await asyncio.wait_for(aside(lambda: 2), 5) == 2
    # One row for each task.
    assert len(pipelit.audit.list(action="verify.proof")) == 40


@pytest.mark.slow
async def test_its_siblings_are_verified(
    pipelit: Pipelit, lead: Agent, hanging: Hanging, short: float
) -> None:
    """An honest child beside it isn't late for it."""
    pipelit.users.create_agent("agent_honest", owner="alice", purpose="works")
    honest = verified_child(graph_of(), pipelit.agent("agent_honest"))
    graph = parent_of(lead, {NAME: hanging, "agent_honest": honest}, on_failure="collect")
    given = [{"agent": name, "input": {"q": "x"}} for name in (NAME, "agent_honest") * 5]
    results = (await graph.ainvoke({"tasks": given}))["results"]
    assert [each["status"] for each in results] == ["timeout", "verified"] * 5


@pytest.mark.slow
async def test_a_slow_child_is_waited_for(lead: Agent, hanging: Hanging) -> None:
    """Longer than all tasks wait for it; those ask once more, together."""
    graph = parent_of(lead, {NAME: hanging}, on_failure="collect")
    threading.Timer(0.3, hanging.gate.set).start()
    results = (await graph.ainvoke(tasks("x", "y", "z")))["results"]
    assert [each["status"] for each in results] == ["verified"] * 3
    assert len(hanging.began) == 2


HANGS = """
import asyncio, sys, threading, time
from pipelit_agents import Pipelit
from pipelit_agents.graphs import VerifiedChild, spawn_and_await
sys.path.insert(0, sys.argv[3])
from paths import SUPPORT
from spawning import NAME, graph_of, tasks

class Hangs(VerifiedChild):
    def prove_possession(self, challenge):
        time.sleep(600)

pipelit = Pipelit(database_url=sys.argv[1], encryption_keys=[sys.argv[2]])
child = Hangs(graph=graph_of(), agent=pipelit.agent(NAME))
node = spawn_and_await(pipelit.agent("agent_lead"), {NAME: child}, on_failure="collect", timeout=1)
print(asyncio.run(node.ainvoke(tasks("x", "y")))["results"][0]["status"])
print(node.invoke(tasks("x"))["results"][0]["status"])
"""


@pytest.mark.process
def test_no_loop_and_no_process_waits_for_it(
    lead: Agent, hanging: Hanging, database_url: str, key: str
) -> None:
    """``asyncio.run`` and the interpreter end while it hangs."""
    here = str(SUPPORT)
    command = [sys.executable, "-c", HANGS, database_url, key, here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["timeout", "timeout"]


def test_hung_calls_are_counted() -> None:
    """So many hang, and no more: then nothing is begun until one comes back."""
    apart, gate = Apart(3), threading.Event()
    for _ in range(3):
        with pytest.raises(Stuck):
            apart.run(gate.wait, within=0.01)
    began: list[int] = []
    with pytest.raises(Stuck):
        apart.run(lambda: began.append(1), within=5)
    assert not began
    gate.set()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            assert apart.run(lambda: 7, within=5) == 7
            break
        except Stuck:
            time.sleep(0.01)
    assert apart.run(lambda: 8, within=5) == 8


async def test_a_cancelled_call_is_counted_until_it_comes_back() -> None:
    """Who stops waiting doesn't end it."""
    apart, gate = Apart(1), threading.Event()
    for within in (30, 1e-9):
        # One that still has time holds up nobody, and one that is late does.
        assert await apart.arun(lambda: 1, within=5) == 1
        waiting = asyncio.create_task(apart.arun(lambda: gate.wait(30), within=within))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, Stuck)):
            await waiting
    with pytest.raises(Stuck):
        await apart.arun(lambda: 1, within=5)
    gate.set()


class Odd(BaseException):
    """What no ``except Exception`` catches."""


@pytest.mark.parametrize("error", [ValueError, StopIteration, TimeoutError, Odd, KeyboardInterrupt])
def test_what_it_raises_is_raised(error: type[BaseException]) -> None:
    """Of any kind, and told from a limit that was passed; sync and async."""

    def fail() -> None:
        raise error

    async def ask() -> str:
        try:
            await Apart(1).arun(fail, within=30)
        except BaseException as raised:
            return type(raised).__name__
        return "nothing"

    with pytest.raises(error):
        Apart(1).run(fail, within=30)
    if error is not StopIteration:
        # Which Python itself turns into a RuntimeError where it leaves a coroutine.
        assert asyncio.run(ask()) == error.__name__


def test_hung_calls_are_counted_by_name_and_in_all() -> None:
    """A name whose calls hang holds up itself, and others only when all of them are too many."""
    apart, gate = Apart(1, in_all=2), threading.Event()

    def hang(name: str) -> None:
        with pytest.raises(Stuck):
            apart.run(gate.wait, within=0.01, of=name)

    began: list[str] = []
    hang("a")
    with pytest.raises(Stuck):
        apart.run(lambda: began.append("a"), within=5, of="a")
    apart.run(lambda: began.append("b"), within=5, of="b")
    hang("b")
    with pytest.raises(Stuck):
        apart.run(lambda: began.append("c"), within=5, of="c")
    gate.set()
    assert began == ["b"]
