"""A name or key that isn't there costs the work of one that is: statements and cryptography."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import Clock
from internals import verify_person
from statements import statements
from test_mfa import app_of
from test_verification import code_for, other_code

from pipelit_agents import Agent, Keyring, Pipelit, Proof
from pipelit_agents.errors import (
    AuthenticationError,
    CodeRejected,
    PeerLocked,
    RateLimited,
    VerificationError,
)
from pipelit_agents.identity import codes

BACKENDS = ("sqlite", "postgres")


@contextmanager
def work(pipelit: Pipelit) -> Iterator[Counter[str]]:
    """Counts the statements that are sent, the secrets that are opened, and the hashes."""
    done: Counter[str] = Counter()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **options: Any) -> Any:
            done[name] += 1
            return call(*given, **options)

        return counted

    with statements(pipelit) as sent, pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (Keyring, "unseal"), (codes, "totp"), (hmac, "digest"),
            (hmac, "compare_digest"), (hashlib, "sha256"),
        ):  # fmt: skip
            patch.setattr(module, name, counting(name, getattr(module, name)))
        yield done
    done.update(sent)


def cost(pipelit: Pipelit, ask: Callable[[], Any]) -> Counter[str]:
    """The work of a refusal; the second time, when what is made once is made."""
    for _ in range(2):
        with work(pipelit) as done, pytest.raises((VerificationError, AuthenticationError)):
            ask()
    return done


@pytest.mark.parametrize("kind", ["audience", "plain"])
def test_a_code_of_nobody_costs_as_much_as_a_wrong_one(
    pipelit: Pipelit, writer: Agent, editor: Agent, kind: Any
) -> None:
    """Unknown, a person without a factor, deactivated: their code is computed and compared too."""
    pipelit.users.create_agent("agent_gone", owner="alice", purpose="leaves")
    pipelit.users.deactivate("agent_gone")
    code = other_code(code_for(writer, editor, kind))
    known = cost(pipelit, lambda: editor.verify_peer("agent_writer", code, kind=kind))
    # For the steps that are accepted, and for those before, in which a right code came late.
    assert known["unseal"] == 2
    assert known["digest"] + known["totp"] >= 3
    for name in ("agent_nobody", "agent_gone"):
        costs = cost(pipelit, lambda n=name: editor.verify_peer(n, code, kind=kind))
        assert costs == known, name


def test_a_key_of_nobody_costs_as_much_as_a_forged_one(pipelit: Pipelit) -> None:
    """An id that isn't there, another secret behind one that is: read, hashed and compared."""
    key = pipelit.users.issue_api_key("alice", name="k")
    forged = f"plit_{key.id}_{'A' * 43}"
    known = cost(pipelit, lambda: pipelit.users.authenticate(forged))
    assert (known["compare_digest"], known["sha256"]) == (1, 1)
    unknown = f"plit_{'0' * 12}_{'A' * 43}"
    assert cost(pipelit, lambda: pipelit.users.authenticate(unknown)) == known
    for _ in range(30):
        with pytest.raises(AuthenticationError):
            pipelit.users.authenticate(unknown)
    # Also in a flood, when neither is written any more.
    assert cost(pipelit, lambda: pipelit.users.authenticate(unknown)) == cost(
        pipelit, lambda: pipelit.users.authenticate(forged)
    )


def test_a_proof_of_nobody_costs_as_much_as_a_forged_one(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """The value is computed for a name that isn't there as well."""

    def forged(name: str) -> Callable[[], Any]:
        def ask() -> Any:
            challenge = editor.challenge(name)
            proof = Proof(name, "agent_editor", 60_000_000, "0" * 64)
            return editor.verify_proof(proof, challenge=challenge, payload=b"x")

        return ask

    known = cost(pipelit, forged("agent_writer"))
    assert known["unseal"] == 1
    assert cost(pipelit, forged("agent_nobody")) == known


# Floods, in each lane

ROUTES: dict[str, Callable[[Pipelit, str], Any]] = {
    "others, by a stranger's agent": lambda p, name: p.agent("agent_bob").verify_peer(
        name, "000000", kind="plain"
    ),
    "others, by a resumed graph": lambda p, name: verify_person(p, name, "000000", own=False),
    "self": lambda p, name: p.mfa.verify(name, "000000"),
    "nobody": lambda p, name: p.agent("ghost").verify_peer(name, "000000", kind="plain"),
    "nobody, by a deactivated agent": lambda p, name: p.agent("agent_gone").verify_peer(
        name, "000000", kind="plain"
    ),
    "audience": lambda p, name: p.agent("agent_bob").verify_peer(name, "00000000"),
}


@pytest.fixture
def accounts(pipelit: Pipelit, clock: Clock) -> dict[str, list[str]]:
    """People, agents and unknown names that a guesser mustn't tell apart, by who can be named."""
    for name in ("bob", "carol", "dave"):
        pipelit.users.create(name)
    for name in ("bob", "carol"):
        app = app_of(pipelit.mfa.enroll(name))
        pipelit.mfa.confirm(name, app.at(clock()))
    pipelit.users.deactivate("carol")
    for name in ("agent_bob", "agent_gone"):
        pipelit.users.create_agent(name, owner="bob", purpose="guesses")
    for name in ("agent_here", "agent_left"):
        pipelit.users.create_agent(name, owner="alice", purpose="is guessed at")
    for name in ("agent_gone", "agent_left"):
        pipelit.users.deactivate(name)
    clock.advance(60)
    # With a factor, deactivated, without a factor; an agent, and one that was deactivated.
    return {
        "mfa": ["bob", "carol", "dave"],
        "agents": ["bob", "carol", "dave", "agent_here", "agent_left"],
    }


def flood(clock: Clock, ask: Callable[[], Any], name: str, times: int) -> list[Any]:
    """What somebody hears who asks on and on, by a clock that begins at one moment each time."""
    began, heard = clock.now, []
    for _ in range(times):
        with pytest.raises(VerificationError) as caught:
            ask()
        wait = getattr(caught.value, "retry_after", None)
        heard.append((type(caught.value), str(caught.value).replace(name, "NAME"), wait))
        # Now and then sooner than allowed, so that waits are heard too.
        clock.advance((wait or 0.0) if len(heard) % 3 else 1.0)
    clock.now = began
    return heard


@pytest.mark.slow
@pytest.mark.backends("sqlite", "redis")
@pytest.mark.parametrize("route", ROUTES)
def test_a_long_flood_hears_the_same_about_whatever_name(
    pipelit: Pipelit, accounts: dict[str, list[str]], clock: Clock, route: str
) -> None:
    """Outcomes, words and waits, to the second, over waits and locks of a month."""
    ask = ROUTES[route]
    names = accounts["mfa" if "mfa" in ask.__code__.co_names else "agents"]
    unknown = flood(clock, lambda: ask(pipelit, "nobody_here"), "nobody_here", 45)
    assert {each[0] for each in unknown} == {CodeRejected, RateLimited, PeerLocked}
    for name in names:
        assert flood(clock, lambda n=name: ask(pipelit, n), name, 45) == unknown, name


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_each_answer_costs_the_same_about_whatever_name(
    pipelit: Pipelit, accounts: dict[str, list[str]], clock: Clock, route: str
) -> None:
    """Statements and cryptography, of a refusal, of a wait and in a lock."""
    ask = ROUTES[route]
    names = accounts["mfa" if "mfa" in ask.__code__.co_names else "agents"]

    def costs(name: str) -> list[Counter[str]]:
        found = []
        for failures in (0, 3, 5):
            for _ in range(failures):
                with pytest.raises(VerificationError):
                    ask(pipelit, name)
            # Twice: evaluated, and within the minute's or the lock's wait.
            found.append(cost(pipelit, lambda: ask(pipelit, name)))
            clock.advance(61 if failures == 3 else 0)
        return found

    unknown = costs("nobody_here")
    assert unknown[0]["digest"] + unknown[0]["totp"] > 0
    for name in names:
        assert costs(name) == unknown, name


@pytest.mark.slow
@pytest.mark.backends("sqlite")
def test_what_one_route_counts_tells_another_nothing(
    pipelit: Pipelit, accounts: dict[str, list[str]]
) -> None:
    """After a flood of one lane each other lane answers alike, whether there is such a person."""
    told = {}
    for name in (*accounts["mfa"], "nobody_here"):
        heard: list[Any] = []
        for ask in ROUTES.values():
            for _ in range(6):
                with pytest.raises(VerificationError) as caught:
                    ask(pipelit, name)
                heard.append(type(caught.value))
        told[name] = heard
    assert all(each == told["nobody_here"] for each in told.values()), told
