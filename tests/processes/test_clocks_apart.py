"""Machines whose clocks are ten minutes apart, on one database server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pyotp
import pytest

from pipelit_agents import Pipelit
from pipelit_agents.errors import AuthenticationError, CodeRejected

BACKENDS = ("postgres",)
APART = 600.0
Machine = Callable[[float], Pipelit]


@pytest.fixture
def machine(migrated_url: str, key: str) -> Iterator[Machine]:
    """Open the database on a machine whose clock is so many seconds ahead of the server's."""
    real = time.time
    with ExitStack() as opened:

        def on(ahead: float) -> Pipelit:
            settings: dict[str, Any] = {"database_url": migrated_url, "encryption_keys": [key]}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(time, "time", lambda: real() + ahead)
                return opened.enter_context(Pipelit(**settings))

        yield on


@pytest.fixture
def right(machine: Machine) -> Pipelit:
    """A machine whose clock is right, with alice and her agents."""
    made = machine(0)
    made.users.create("alice")
    for name in ("agent_writer", "agent_editor"):
        made.users.create_agent(name, owner="alice", purpose="takes part")
    return made


def test_a_used_request_stays_used(right: Pipelit, machine: Machine) -> None:
    """A worker whose clock is ahead doesn't delete what the others still refuse."""
    request = b"c" * 32
    assert right.agent("agent_writer").spend_request("agent_editor", request)
    ahead = machine(APART).agent("agent_writer")
    assert ahead.spend_request("agent_editor", b"d" * 32)
    assert not right.agent("agent_writer").spend_request("agent_editor", request)
    assert not machine(-APART).agent("agent_writer").spend_request("agent_editor", b"d" * 32)


@pytest.mark.parametrize("ahead", [APART, -APART])
def test_a_rotated_secret_is_good_until_the_end_of_its_overlap(
    right: Pipelit, machine: Machine, ahead: float
) -> None:
    """The machine that rotates it may have any clock: the server's decides about its codes."""
    editor = right.agent("agent_editor")
    before = right.agent("agent_writer").totp_code(audience="agent_editor").code
    machine(ahead).users.rotate_totp("agent_writer", overlap=timedelta(minutes=5))
    assert editor.verify_peer("agent_writer", before)
    right.users.create_agent("agent_other", owner="alice", purpose="takes part")
    old = right.agent("agent_other").totp_code(audience="agent_editor").code
    machine(ahead).users.rotate_totp("agent_other", overlap=timedelta(microseconds=1))
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_other", old)


@pytest.mark.parametrize("ahead", [APART, -APART])
def test_a_second_factor_is_enrolled_by_the_clock_that_verifies_it(
    right: Pipelit, machine: Machine, ahead: float
) -> None:
    """A person's app and the server agree, and so the first code is right."""
    there = machine(ahead)
    app = pyotp.parse_uri(there.mfa.enroll("alice").get_secret_value())
    assert isinstance(app, pyotp.TOTP)
    assert there.mfa.confirm("alice", app.now())
    assert right.mfa.status("alice").on


def test_an_api_key_expires_at_one_moment(right: Pipelit, machine: Machine) -> None:
    """A key is good or isn't, whichever machine is asked."""
    behind, ahead = machine(-APART), machine(APART)
    soon = datetime.now(UTC) + timedelta(minutes=5)
    living = behind.users.issue_api_key("alice", name="a", expires_at=soon)
    past = datetime.now(UTC) - timedelta(minutes=5)
    ended = behind.users.issue_api_key("alice", name="b", expires_at=past)
    for each in (behind, right, ahead):
        assert each.users.authenticate(living.api_key.get_secret_value()).username == "alice"
        assert each.users.holder_of_key(living.id).username == "alice"
        with pytest.raises(AuthenticationError):
            each.users.authenticate(ended.api_key.get_secret_value())
        with pytest.raises(AuthenticationError):
            each.users.holder_of_key(ended.id)
