"""One item of a batch that is odd: it fails alone, and every row of the audit is written."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import os
import pickle
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from conftest import Clock
from internals import WITHHELD, Batching, database_of
from sqlalchemy import event, text

from pipelit_agents import Agent, Challenge, Pipelit, Proof, Verification
from pipelit_agents._run_context import RunContext
from pipelit_agents.audit.records import entry, write
from pipelit_agents.errors import ConfigurationError, ProofRejected, StorageError

BACKENDS = ("sqlite", "postgres")
SQLITE = pytest.mark.backends("sqlite")
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")


class Hostile:
    """Fails whoever compares, hashes, prints or measures it."""

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("ran")

    __eq__ = __hash__ = __str__ = __repr__ = __len__ = __bool__ = _fail  # type: ignore[assignment]


class Liar:
    """Says that it is text."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        return str


class OwnText(str):
    """Text with code of its own."""

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("ran")

    isascii = isprintable = encode = __str__ = __getitem__ = _fail  # type: ignore[assignment]


class OwnInt(int):
    """A number with code of its own."""

    def __floordiv__(self, _: object) -> Any:
        raise RuntimeError("ran")


class OwnBytes(bytes):
    """Bytes of another's class."""


NO_NAMES = [
    None, 5, True, 1.5, b"agent_writer", ["agent_writer"], {}, (), Hostile(), Liar(),
    OwnText("agent_writer"), "", "\ud800", "agent\0writer", "x" * 10_000_000, "Agent_Writer",
    "agent_writer\n", " agent_writer",
]  # fmt: skip
NO_TIMES = [
    None, "5", True, math.nan, math.inf, -math.inf, 2**200, 10**5000, 1e300, 5j, Hostile(),
    OwnInt(5), [],
]  # fmt: skip
NO_STEPS = [None, "5", True, 6e7, -1, 2**63, 2**200, 10**5000, math.nan, Hostile(), OwnInt(5)]
NO_VALUES = [
    None, 5, b"0" * 64, "0" * 63, "0" * 65, "0" * 10_000_000, "0" * 63 + "\ud800", "\0" * 64,
    OwnText("0" * 64), Hostile(), Liar(),
]  # fmt: skip
ODD = {
    "prover": NO_NAMES,
    "verifier": NO_NAMES,
    "issued_at": NO_TIMES,
    "expires_at": NO_TIMES,
    "value": [None, b"", b"x" * 31, "x" * 32, OwnBytes(b"x" * 32), bytearray(32), Hostile()],
}
GOOD: dict[str, Any] = {
    "value": b"x" * 32,
    "prover": "agent_writer",
    "verifier": "agent_editor",
    "issued_at": 0,
    "expires_at": 9e9,
}


@pytest.mark.parametrize("field", list(ODD))
def test_an_odd_challenge_can_not_be_made(field: str) -> None:
    """A field of another type or form is refused where the challenge is made, by its name."""
    assert Challenge(**GOOD).expires_at == 9e9
    for odd in ODD[field]:
        with pytest.raises((TypeError, ValueError), match=f"^{field}"):
            Challenge(**GOOD | {field: odd})


@pytest.mark.parametrize(
    ("field", "odds"),
    [("prover", NO_NAMES), ("verifier", NO_NAMES), ("step", NO_STEPS), ("value", NO_VALUES)],
)
def test_an_odd_proof_can_not_be_made(field: str, odds: Sequence[Any]) -> None:
    """A field of another type or form is a ProofRejected."""
    good = {"prover": "a", "verifier": "b", "step": 1, "value": "0" * 64}
    Proof(**good)  # type: ignore[arg-type]
    for odd in odds:
        with pytest.raises(ProofRejected, match="malformed"):
            Proof(**good | {field: odd})  # type: ignore[arg-type]


def test_a_challenge_is_not_changed_copied_or_inherited(editor: Agent) -> None:
    """There is no second one of it, and no other in its place."""
    asked = editor.challenge("agent_writer")
    for name in ("prover", "verifier", "value", "expires_at", "_unspent", "another"):
        with pytest.raises(AttributeError):
            setattr(asked, name, "agent_writer")
    with pytest.raises(AttributeError):
        del asked.prover
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="used once"):
            way(asked)
    with pytest.raises(TypeError):
        dataclasses.replace(asked)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="can't be subclassed"):
        type("Mine", (Challenge,), {})
    assert asked.spend()
    assert not asked.spend()


def planted(field: str, odd: Any) -> Challenge:
    """A challenge that somebody changed, around every check."""
    made = Challenge(**GOOD)
    object.__setattr__(made, field, odd)
    return made


def forged(field: str, odd: Any) -> Proof:
    """A proof that somebody changed."""
    made = Proof("agent_writer", "agent_editor", 1, "0" * 64)
    object.__setattr__(made, field, odd)
    return made


def unmade(kind: type[Any]) -> Any:
    """One that was never initialised."""
    return kind.__new__(kind)


class Mine(Proof):
    """A proof with code of its own."""

    @property
    def value(self) -> Any:  # type: ignore[override]
        """Fails."""
        raise RuntimeError("ran")


def test_an_odd_item_fails_alone(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """Beside forty honest checks and proofs, sync and async: all of those are right, and audited.

    Whatever is in the odd ones, however it was put there.
    """
    good = Proof("agent_writer", "agent_editor", 1, "0" * 64)
    items: list[tuple[Any, Any]] = [
        *((good, planted(field, odd)) for field, odds in ODD.items() for odd in odds),
        *((forged("prover", odd), Challenge(**GOOD)) for odd in NO_NAMES),
        *((forged("step", odd), Challenge(**GOOD)) for odd in NO_STEPS),
        *((forged("value", odd), Challenge(**GOOD)) for odd in NO_VALUES),
        (unmade(Proof), Challenge(**GOOD)),
        (good, unmade(Challenge)),
        (unmade(Mine), Challenge(**GOOD)),
        *((odd, Challenge(**GOOD)) for odd in (None, Hostile(), Liar())),
        *((good, odd) for odd in (None, Hostile(), Liar())),
    ]
    honest = [editor.challenge("agent_writer") for _ in range(40)]
    proofs = [writer.prove(each.value, b"x", verifier="agent_editor") for each in honest]
    before = len(pipelit.audit.list(limit=10_000))

    async def check() -> tuple[list[Any], list[Any]]:
        kinds = (TypeError, ValueError, ProofRejected)
        odd = [editor.averify_proof(p, challenge=c, payload=b"x") for p, c in items]
        right = [
            editor.averify_proof(p, challenge=c, payload=b"x")
            for p, c in zip(proofs, honest, strict=True)
        ]
        made = [
            writer.aprove(b"c" * 32, b"", verifier=each)  # type: ignore[arg-type]
            for each in (*NO_NAMES, *["agent_editor"] * 5)
        ]
        found = await asyncio.gather(*odd[::2], *right, *made, *odd[1::2], return_exceptions=True)
        wrong = len(odd[::2])
        assert all(isinstance(each, kinds) for each in found[:wrong])
        assert all(isinstance(each, kinds) for each in found[-len(odd[1::2]) :])
        return found[wrong : wrong + 40], found[wrong + 40 : wrong + 40 + len(made)]

    right, made = asyncio.run(check())
    assert [type(each) for each in right] == [Verification] * 40
    assert [type(each) for each in made[-5:]] == [Proof] * 5
    assert not any(isinstance(each, Proof) for each in made[:-5])
    rows = pipelit.audit.list(limit=10_000)[before:]
    assert sum(row.outcome == "ok" for row in rows) == 40
    for proof, challenge in items[::7]:
        with pytest.raises((TypeError, ValueError, ProofRejected)):
            editor.verify_proof(proof, challenge=challenge, payload=b"x")


def test_a_batch_that_fails_together_is_decided_one_by_one(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """What no check of ours foresaw fails alone too: here a row that the database refuses."""
    pipelit.users.create_agent("agent_odd", owner="alice", purpose="p")
    with database_of(pipelit).writing() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(
                text(
                    "CREATE TRIGGER odd BEFORE INSERT ON pipelit_audit "
                    "WHEN NEW.subject = 'agent_odd' BEGIN SELECT RAISE(ABORT, 'odd'); END"
                )
            )
        else:
            connection.execute(
                text(
                    "ALTER TABLE pipelit_audit ADD CONSTRAINT odd CHECK (subject <> 'agent_odd') "
                    "NOT VALID"
                )
            )
    names = ["agent_writer"] * 6 + ["agent_odd"] + ["agent_writer"] * 6

    async def check() -> list[Any]:
        asked = [editor.challenge(name) for name in names]
        made = [
            await pipelit.agent(each.prover).aprove(each.value, b"x", verifier="agent_editor")
            for each in asked
        ]
        return await asyncio.gather(
            *(
                editor.averify_proof(proof, challenge=challenge, payload=b"x")
                for proof, challenge in zip(made, asked, strict=True)
            ),
            return_exceptions=True,
        )

    kinds = [type(each) for each in asyncio.run(check())]
    assert kinds == [Verification] * 6 + [StorageError] + [Verification] * 6
    rows = pipelit.audit.list(action="verify.proof")
    assert [row.subject for row in rows] == ["agent_writer"] * 12


def test_one_by_one_ends_where_nothing_can_be_served() -> None:
    """Five hundred questions to a server that is away wait for it once, and not each."""
    tried: list[int] = []
    looked: list[bool] = []

    def serve(asked: Sequence[int]) -> list[int | Exception]:
        tried.append(len(asked))
        raise StorageError("refused")

    def usable() -> None:
        looked.append(True)
        if len(looked) > 2:
            raise StorageError("away")

    batching: Batching[int, int] = Batching(serve, largest=500, usable=usable)

    async def ask() -> list[Any]:
        return await asyncio.gather(*map(batching.aask, range(500)), return_exceptions=True)

    found = asyncio.run(ask())
    assert [str(each) for each in found] == ["refused"] * 2 + ["away"] * 498
    assert tried == [500, 1, 1]
    assert len({id(each) for each in found}) == 500


@pytest.mark.slow
def test_more_names_than_a_statement_takes(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """Thousands of names at once are looked up in batches; the honest ones among them verify."""
    if database_of(pipelit).engine.dialect.name == "sqlite":
        # A few more than the 400 names of the largest batch. Some builds accept only 999.
        pipelit.close()

        def limited(connection: sqlite3.Connection, _: object) -> None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 450)

        event.listen(database_of(pipelit).engine, "connect", limited)
    asked = [editor.challenge(f"agent_{number}") for number in range(1500)]
    wrong = Proof("agent_writer", "agent_editor", 1, "0" * 64)

    async def check() -> list[Any]:
        right = editor.challenge("agent_writer")
        proof = await writer.aprove(right.value, b"x", verifier="agent_editor")
        checks = [editor.averify_proof(wrong, challenge=each, payload=b"x") for each in asked]
        made = [writer.aprove(b"c" * 32, b"", verifier=f"agent_{n}") for n in range(1500)]
        return await asyncio.gather(
            *checks,
            editor.averify_proof(proof, challenge=right, payload=b"x"),
            *made,
            return_exceptions=True,
        )

    found = asyncio.run(check())
    assert {type(each) for each in found[:1500]} == {ProofRejected}
    assert isinstance(found[1500], Verification)
    assert {type(each) for each in found[1501:]} == {Proof}
    assert len(pipelit.audit.list(limit=5000, action="verify.proof")) == 1501


def test_every_row_can_be_stored(pipelit: Pipelit) -> None:
    """Whatever is in an entry, it is written, in a form that every database takes."""
    odd = [
        None, 5, b"x", Hostile(), Liar(), OwnText("agent_own"), "\ud800", "a\0b", "x" * 10_000_000,
        "\u202e\n\r\x1b[2J", [], math.nan,
    ]  # fmt: skip
    entries = [
        entry(
            at=at,
            actor=each,  # type: ignore[arg-type]
            subject=each,  # type: ignore[arg-type]
            action=each,  # type: ignore[arg-type]
            outcome="refused",
            reason=each,  # type: ignore[arg-type]
            context=RunContext(each, each, each),  # type: ignore[arg-type]
        )
        for each in odd
        for at in (1.8e9, math.nan, math.inf, 10**400, "now", None, Hostile())
    ]
    with database_of(pipelit).deciding() as connection:
        write(connection, *entries)
    rows = pipelit.audit.list(limit=1000, outcome="refused")
    assert len(rows) == len(entries)
    assert {"<NoneType>", "<int>", "<Hostile>", "<Liar>", "agent_own", "\\ud800", "a\\x00b"} <= {
        row.actor for row in rows
    }
    assert all(row.actor.isascii() and row.actor.isprintable() for row in rows)
    pipelit.audit.seal()
    assert not pipelit.audit.verify().problems


def test_a_refusal_of_anything_is_noted(pipelit: Pipelit, editor: Agent) -> None:
    """``note_refusal`` takes any text, and records an ordinary name; what is no text is refused."""
    for odd in (None, Hostile()):
        with pytest.raises(TypeError, match="peer must be a username"):
            editor.note_refusal(odd, "verify.proof", "odd")  # type: ignore[arg-type]
    for peer in ("\ud800\0", OwnText("agent_x"), "y" * 10_000_000):
        editor.note_refusal(peer, "verify.proof", "odd")
    found = [row.subject for row in pipelit.audit.list(action="verify.proof")]
    assert found == [WITHHELD, "agent_x", WITHHELD]


@pytest.mark.parametrize(
    "challenge", [None, b"", b"c" * 31, "c" * 32, bytearray(32), OwnBytes(b"c" * 32), Hostile()]
)
def test_a_request_is_spent_by_32_bytes(editor: Agent, challenge: Any) -> None:
    """Anything else is no challenge, and is told so."""
    with pytest.raises(ValueError, match="challenge must be"):
        editor.spend_request("agent_writer", challenge)


@pytest.mark.parametrize("now", [math.nan, math.inf, 1e300, -1.0, "soon", None, 10**400])
def test_a_clock_that_shows_no_time_is_named(
    pipelit: Pipelit, settings: dict[str, Any], writer: Agent, editor: Agent, now: Any
) -> None:
    """It is the setting that is wrong, and nobody beside it is refused for it."""
    with Pipelit(**settings, clock=lambda: now) as broken:
        with pytest.raises(ConfigurationError, match="clock has to return Unix seconds"):
            broken.agent("agent_editor").challenge("agent_writer")
        with pytest.raises(ConfigurationError, match="clock"):
            broken.agent("agent_writer").prove(b"c" * 32, b"", verifier="agent_editor")


# A challenge is one process's


def in_a_child(work: Callable[[], str]) -> str:
    """What it returns in a forked child."""
    reader, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, work().encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reader) as said:
        found = said.read()
    os.waitpid(child, 0)
    return found


@pytest.mark.process
@FORKS
def test_a_challenge_from_before_a_fork_is_its_makers(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """In each child it is refused, with the reason in the audit; its maker uses it once."""
    challenge = editor.challenge("agent_writer")
    proof = writer.prove(challenge.value, b"pay 100", verifier="agent_editor")

    def check() -> str:
        try:
            editor.verify_proof(proof, challenge=challenge, payload=b"pay 100")
        except ProofRejected:
            return "refused"
        return "accepted"

    assert [in_a_child(check) for _ in range(3)] == ["refused"] * 3
    assert in_a_child(lambda: in_a_child(check)) == "refused"
    assert [check(), check()] == ["accepted", "refused"]
    rows = [(each.outcome, each.reason) for each in pipelit.audit.list(action="verify.proof")]
    assert rows == [
        *[("refused", "challenge of another process")] * 4,
        ("ok", ""),
        ("refused", "challenge used before"),
    ]


@pytest.mark.process
@FORKS
def test_a_child_uses_what_it_made_itself(writer: Agent, editor: Agent) -> None:
    """Also in a thread, and while a thread of the parent's is using one of its own."""

    def check() -> str:
        challenge = editor.challenge("agent_writer")
        proof = writer.prove(challenge.value, b"x", verifier="agent_editor")
        found: list[str] = []

        def once() -> None:
            try:
                editor.verify_proof(proof, challenge=challenge, payload=b"x")
                found.append("accepted")
            except ProofRejected:
                found.append("refused")

        threads = [threading.Thread(target=once) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return " ".join(sorted(found))

    assert check() == in_a_child(check) == "accepted refused refused refused"


@pytest.mark.process
@FORKS
@SQLITE
def test_no_other_process_is_taken_for_the_maker(editor: Agent, clock: Clock) -> None:
    """Not one of the same number, as numbers are given again; nor one forked without Python."""
    challenge = editor.challenge("agent_writer")
    number = os.getpid()

    def same_number() -> str:
        os.getpid = lambda: number  # type: ignore[assignment]
        return str(challenge.spend())

    assert in_a_child(same_number) == "False"
    original = os.getpid
    try:
        os.getpid = lambda: number + 1  # type: ignore[assignment]
        assert not challenge.spend()
    finally:
        os.getpid = original  # type: ignore[assignment]
    assert challenge.spend()
