"""A name or key that isn't there costs the work of one that is: statements and cryptography."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from test_verification import code_for, other_code, statements

from pipelit_agents import Agent, Keyring, Pipelit, Proof, verification
from pipelit_agents.errors import AuthenticationError, VerificationError

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
            (Keyring, "unseal"), (verification, "totp"), (hmac, "digest"),
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
