"""Proofs that are made and verified at once: each is decided by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from internals import Batching, database_of

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import ProofRejected, StorageError

BACKENDS = ("sqlite", "postgres")


def test_proofs_checked_at_once_are_decided_one_by_one(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Of fifty, each is judged by itself, and each has its row with its own reason."""
    challenges = [editor.challenge("agent_writer") for _ in range(50)]
    proofs = [
        writer.prove(challenge.value, b"x" if number % 2 else b"y", verifier="agent_editor")
        for number, challenge in enumerate(challenges)
    ]

    async def check() -> list[object]:
        return await asyncio.gather(
            *(
                editor.averify_proof(proof, challenge=challenge, payload=b"x")
                for proof, challenge in zip(proofs, challenges, strict=True)
            ),
            return_exceptions=True,
        )

    for number, outcome in enumerate(asyncio.run(check())):
        assert isinstance(outcome, ProofRejected) != bool(number % 2)
    entries = pipelit.audit.list(action="verify.proof")
    assert sorted(entry.reason for entry in entries) == [""] * 25 + ["wrong proof"] * 25


def test_a_challenge_checked_twice_at_once_is_spent_once(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Of twins in one batch one is refused."""
    challenge = editor.challenge("agent_writer")
    proof = writer.prove(challenge.value, b"x", verifier="agent_editor")

    async def check() -> list[object]:
        twin = [editor.averify_proof(proof, challenge=challenge, payload=b"x") for _ in range(9)]
        return await asyncio.gather(*twin, return_exceptions=True)

    outcomes = asyncio.run(check())
    assert sum(not isinstance(outcome, ProofRejected) for outcome in outcomes) == 1
    reasons = [entry.reason for entry in pipelit.audit.list(action="verify.proof")]
    assert sorted(reasons) == [""] + ["challenge used before"] * 8


def test_a_row_that_cannot_be_written_is_an_outcome_for_nobody(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Without the audit's table no proof of a batch is believed."""
    challenges = [editor.challenge("agent_writer") for _ in range(5)]
    proofs = [writer.prove(each.value, b"x", verifier="agent_editor") for each in challenges]
    with database_of(pipelit).writing() as connection:
        connection.exec_driver_sql("ALTER TABLE pipelit_audit RENAME TO gone")

    async def check() -> list[object]:
        return await asyncio.gather(
            *(
                editor.averify_proof(proof, challenge=challenge, payload=b"x")
                for proof, challenge in zip(proofs, challenges, strict=True)
            ),
            return_exceptions=True,
        )

    assert {type(outcome) for outcome in asyncio.run(check())} == {StorageError}


@pytest.mark.parametrize(
    "wrong",
    [{"kind": None}, {"kind": "\ud800"}, {"depth": "1"}, {"depth": 10**5000}, {"depth": True}],
)
def test_who_asks_for_what_cannot_be_bound_fails_alone(
    pipelit: Pipelit, writer: Agent, editor: Agent, wrong: dict[str, Any]
) -> None:
    """It is told so, its challenge isn't spent by that, and who asked with it is decided."""

    async def check() -> list[object]:
        challenge = editor.challenge("agent_writer")
        proof = await writer.aprove(challenge.value, b"x", verifier="agent_editor")
        other = editor.challenge("agent_writer")
        answer = await writer.aprove(other.value, b"x", verifier="agent_editor")
        first = await asyncio.gather(
            editor.averify_proof(proof, challenge=challenge, payload=b"x", **wrong),
            editor.averify_proof(answer, challenge=other, payload=b"x"),
            writer.aprove(other.value, b"x", verifier="agent_editor", **wrong),
            return_exceptions=True,
        )
        again = await editor.averify_proof(proof, challenge=challenge, payload=b"x")
        return [*first, again]

    names = [type(each).__name__ for each in asyncio.run(check())]
    assert names == ["ValueError", "Verification", "ValueError", "Verification"]


def test_who_has_no_secret_fails_alone(pipelit: Pipelit, writer: Agent) -> None:
    """An agent that isn't there makes no proof; who asked with it does."""
    pipelit.users.create_agent("agent_gone", owner="alice", purpose="x")
    gone = pipelit.agent("agent_gone")
    pipelit.users.deactivate("agent_gone")

    async def prove() -> list[object]:
        return await asyncio.gather(
            *(
                agent.aprove(b"c" * 32, b"x", verifier="agent_editor")
                for agent in (writer, gone, pipelit.agent("agent_nobody"), writer)
            ),
            return_exceptions=True,
        )

    names = [type(each).__name__ for each in asyncio.run(prove())]
    assert names == ["Proof", "UserInactive", "UserNotFound", "Proof"]


async def test_the_answer_to_another_request_is_refused(
    writer: Agent, editor: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the batches confused their requests, nobody would get the answer to another one."""
    first, second = (editor.challenge("agent_writer") for _ in range(2))
    kept: list[Any] = []
    ask, aask = Batching.ask, Batching.aask

    def confused(batching: Any, request: Any) -> Any:
        kept.append(ask(batching, request))
        return kept[0]

    async def aconfused(batching: Any, request: Any) -> Any:
        kept.append(await aask(batching, request))
        return kept[0]

    monkeypatch.setattr(Batching, "ask", confused)
    monkeypatch.setattr(Batching, "aask", aconfused)
    proof = writer.prove(first.value, b"x", verifier="agent_editor")
    with pytest.raises(RuntimeError, match="another request"):
        writer.prove(second.value, b"x", verifier="agent_editor")
    with pytest.raises(RuntimeError, match="another request"):
        await writer.aprove(second.value, b"x", verifier="agent_editor")
    kept.clear()
    editor.verify_proof(proof, challenge=first, payload=b"x")
    third, fourth = (editor.challenge("agent_writer") for _ in range(2))
    monkeypatch.setattr(Batching, "ask", ask)
    honest = [writer.prove(each.value, b"x", verifier="agent_editor") for each in (third, fourth)]
    monkeypatch.setattr(Batching, "ask", confused)
    with pytest.raises(RuntimeError, match="another request"):
        editor.verify_proof(honest[0], challenge=third, payload=b"x")
    with pytest.raises(RuntimeError, match="another request"):
        await editor.averify_proof(honest[1], challenge=fourth, payload=b"x")
