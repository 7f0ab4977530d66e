"""Nobody can lock anyone else out: what strangers and agents do, and who is verified at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyotp
import pytest
from conftest import Clock
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from test_approval import ASKED, Apps, apps, paying

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import CodeRejected, PeerLocked, RateLimited, VerificationError
from pipelit_agents.tools import VerifyPeer

__all__ = ["apps"]
BACKENDS = ("sqlite", "redis")
WRONG = "000000"


def agents(pipelit: Pipelit, names: Sequence[str], owner: str = "alice") -> list[Agent]:
    """Agents of one owner."""
    for name in names:
        pipelit.users.create_agent(name, owner=owner, purpose="x")
    return [pipelit.agent(name) for name in names]


def resumed_by_a_stranger(pipelit: Pipelit, times: int, clock: Clock) -> Any:
    """A graph that waits for alice, resumed again and again with wrong codes in her name."""
    graph = paying(pipelit, "alice", saver=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    graph.invoke(ASKED, config)
    for _ in range(times):
        graph.invoke(Command(resume={"username": "alice", "code": WRONG}), config)
        clock.advance(1)
    return graph, config


@pytest.mark.slow
def test_alice_says_yes_after_150_resumes_by_a_stranger(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Her own lane is open, for what she does herself and for a resume that acts for her."""
    graph, config = resumed_by_a_stranger(pipelit, 150, clock)
    assert pipelit.mfa.verify("alice", apps["alice"].at(clock())).peer == "alice"
    clock.advance(30)
    answer = Command(resume={"username": "alice", "code": apps["alice"].at(clock())})
    # Without anybody who vouches for her it is a stranger's resume, and strangers have to wait.
    assert "__interrupt__" in graph.invoke(answer, config)
    with pipelit.acting_for("alice"):
        assert graph.invoke(answer, config)["done"] == ["paid"]


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_100_wrong_codes_said_to_one_verifier_stop_no_other(pipelit: Pipelit, clock: Clock) -> None:
    """Strangers talk to one agent about another; every other agent verifies that one at once."""
    asked, *others = agents(pipelit, [f"agent_{number}" for number in range(6)])
    (peer,) = agents(pipelit, ["agent_a"])
    tool = VerifyPeer(agent=asked)
    for _ in range(100):
        tool.invoke({"username": "agent_a", "code": "00000000"})
        clock.advance(5)
    for verifier in others:
        code = peer.totp_code(audience=verifier.username).code
        assert verifier.verify_peer("agent_a", code).peer == "agent_a"
    code = peer.totp_code(audience=asked.username).code
    with pytest.raises(PeerLocked):
        asked.verify_peer("agent_a", code)


def test_twenty_agents_that_try_audience_codes_about_a_person_stop_nobody(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """No such code can be right; hers are accepted from her, and from an agent that she tells."""
    twenty = agents(pipelit, [f"agent_{number}" for number in range(20)])
    for verifier in twenty:
        for _ in range(10):
            with pytest.raises((CodeRejected, RateLimited, PeerLocked)):
                verifier.verify_peer("alice", "00000000")
    assert pipelit.mfa.verify("alice", apps["alice"].at(clock())).peer == "alice"
    clock.advance(30)
    code = apps["alice"].at(clock())
    assert twenty[0].verify_peer("alice", code, kind="plain").peer == "alice"


@pytest.mark.slow
def test_plain_codes_of_an_agent_about_her_close_the_strangers_lane_only(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """An agent that guesses her codes is a stranger, also together with a stranger's resumes."""
    (guesser,) = agents(pipelit, ["agent_guesser"])
    for _ in range(40):
        with pytest.raises(VerificationError):
            guesser.verify_peer("alice", WRONG, kind="plain")
        clock.advance(20)
    resumed_by_a_stranger(pipelit, 20, clock)
    assert pipelit.mfa.verify("alice", apps["alice"].at(clock())).peer == "alice"


def test_what_strangers_tried_before_she_enrolled_keeps_her_from_nothing(
    pipelit: Pipelit, clock: Clock
) -> None:
    """A hundred guesses at a factor that isn't there; then she turns it on and uses it."""
    twenty = agents(pipelit, [f"agent_{number}" for number in range(20)])
    for number in range(100):
        with pytest.raises(VerificationError):
            twenty[number % 20].verify_peer("alice", WRONG, kind="plain")
        clock.advance(30)
    uri = pipelit.mfa.enroll("alice").get_secret_value()
    app = pyotp.parse_uri(uri)
    assert isinstance(app, pyotp.TOTP)
    assert len(pipelit.mfa.confirm("alice", app.at(clock()))) == 10
    clock.advance(30)
    assert twenty[0].verify_peer("alice", app.at(clock()), kind="plain").peer == "alice"
