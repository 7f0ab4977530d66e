"""Proofs: the published bytes, and every reason to refuse one."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import json
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from conftest import Clock
from hypothesis import given
from hypothesis import strategies as st
from internals import database_of, identity_of, keyring_of
from paths import ROOT
from sqlalchemy import text

from pipelit_agents import Agent, Challenge, Pipelit, Proof
from pipelit_agents.errors import InvalidUsername, ProofRejected
from pipelit_agents.protocol.binding import Binding, derive_challenge

VECTORS = ROOT / "docs" / "proof-vectors.json"

# The worked example. What follows is written from docs/protocol.md with struct, hashlib and hmac
# only; the library is compared with it, and so is the file that is published.

FIELDS = (
    "role",
    "suite",
    "relation",
    "prover",
    "verifier",
    "challenge",
    "depth",
    "request",
    "kind",
    "payload",
)

# Proofs are counted nowhere.
BACKENDS = ("sqlite", "postgres")
SECRET = bytes(range(32))
SEED = bytes(range(32, 64))
ATTEMPT = 1
STEP = 60_000_000
INPUT = b'{"question":"why?"}'
# The peering that the parent proves its request under, and the one that it names for the answer.
RELATION = b"00112233445566778899aabbccddeeff"
ANSWER_RELATION = b"ffeeddccbbaa99887766554433221100"
ANSWER = '{"answer":"because \u2713"}'.encode()
MESSAGE = "pay bob 90 \u20ac"


def example(name: str, **fields: bytes) -> dict[str, Any]:
    """One worked example: every intermediate value in hexadecimal."""
    parts = {field: fields.get(field, b"") for field in FIELDS}
    encoded = {field: struct.pack(">I", len(part)) + part for field, part in parts.items()}
    message = b"pipelit-agents/v1\x00" + b"".join(encoded.values())
    digest = hashlib.sha256(message).digest()
    data = parts["suite"] + b"\x00" + digest + b"\x00" * 96 + struct.pack(">Q", STEP)
    mac = hmac.new(SECRET, data, hashlib.sha256).digest()
    response = mac.hex()
    if parts["suite"].endswith(b"-8:QH64-T30S"):
        offset = mac[31] % 16
        number = struct.unpack(">I", mac[offset : offset + 4])[0] % 2**31
        response = f"{number % 10**8:08d}"
    return {
        "name": name,
        "encoded_fields": {field: part.hex() for field, part in encoded.items()},
        "message": message.hex(),
        "question": digest.hex(),
        "ocra_data_input": data.hex(),
        "hmac": mac.hex(),
        "response": response,
    }


def worked() -> dict[str, Any]:
    """The whole of the published file."""
    challenge = hashlib.sha256(
        b"pipelit-agents/challenge/v1\x00" + SEED + struct.pack(">I", ATTEMPT)
    ).digest()
    between = {"prover": b"agent_researcher", "verifier": b"agent_lead"}
    proof = {"suite": b"OCRA-1:HOTP-SHA256-0:QH64-T30S", "challenge": challenge, "depth": b"1"}
    asked = hashlib.sha256(INPUT).digest()
    return {
        "source": "docs/protocol.md; tests/identity/test_proof.py computes it without the library",
        "secret": SECRET.hex(),
        "seed": SEED.hex(),
        "attempt": ATTEMPT,
        "challenge": challenge.hex(),
        "step": STEP,
        "depth": 1,
        "kind": "result",
        "request": INPUT.hex(),
        "payload": ANSWER.hex(),
        "message_text": MESSAGE,
        "parent": "agent_lead",
        "child": "agent_researcher",
        "examples": [
            example(
                "spawn-result",
                role=b"spawn-result",
                **between,
                **proof,
                request=asked,
                kind=b"result",
                payload=hashlib.sha256(ANSWER).digest(),
            ),
            example(
                "spawn-request",
                role=b"spawn-request",
                prover=b"agent_lead",
                verifier=b"agent_researcher",
                **proof,
                request=asked,
            ),
            example(
                "spawn-request between domains",
                role=b"spawn-request",
                relation=RELATION,
                prover=b"agent_lead",
                verifier=b"agent_researcher",
                **proof,
                request=asked,
                kind=ANSWER_RELATION,
            ),
            example(
                "audience-code",
                role=b"audience-code",
                suite=b"OCRA-1:HOTP-SHA256-8:QH64-T30S",
                **between,
            ),
            example(
                "audience-code with a message",
                role=b"audience-code",
                suite=b"OCRA-1:HOTP-SHA256-8:QH64-T30S",
                **between,
                kind=b"message",
                payload=hashlib.sha256(MESSAGE.encode()).digest(),
            ),
        ],
    }


def bindings() -> dict[str, Binding]:
    """The same examples, as the library has them."""
    challenge = derive_challenge(SEED, ATTEMPT)
    return {
        "spawn-result": Binding(
            role="spawn-result",
            prover="agent_researcher",
            verifier="agent_lead",
            challenge=challenge,
            depth=1,
            request=INPUT,
            kind="result",
            payload=ANSWER,
        ),
        "spawn-request": Binding(
            role="spawn-request",
            prover="agent_lead",
            verifier="agent_researcher",
            challenge=challenge,
            depth=1,
            request=INPUT,
        ),
        "spawn-request between domains": Binding(
            role="spawn-request",
            relation=RELATION.decode(),
            prover="agent_lead",
            verifier="agent_researcher",
            challenge=challenge,
            depth=1,
            request=INPUT,
            kind=ANSWER_RELATION.decode(),
        ),
        "audience-code": Binding(
            role="audience-code",
            suite="OCRA-1:HOTP-SHA256-8:QH64-T30S",
            prover="agent_researcher",
            verifier="agent_lead",
        ),
        "audience-code with a message": Binding(
            role="audience-code",
            suite="OCRA-1:HOTP-SHA256-8:QH64-T30S",
            prover="agent_researcher",
            verifier="agent_lead",
            kind="message",
            payload=MESSAGE.encode(),
        ),
    }


def test_the_published_example_is_right() -> None:
    """Each value in docs/proof-vectors.json is what the protocol's words give."""
    assert json.loads(VECTORS.read_text()) == worked()


def test_a_possession_is_audited_unless_an_answer_follows(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Only the step before a spawn, by its own method, leaves no row where it succeeds."""

    def shown() -> tuple[Challenge, Proof]:
        challenge = editor.challenge("agent_writer")
        return challenge, writer.prove(
            challenge.value, b"", verifier="agent_editor", kind="possession"
        )

    before = len(pipelit.audit.list())
    challenge, proof = shown()
    assert editor.verify_possession(proof, challenge=challenge).peer == "agent_writer"
    assert len(pipelit.audit.list()) == before
    challenge, proof = shown()
    editor.verify_proof(proof, challenge=challenge, payload=b"", kind="possession")
    with pytest.raises(ProofRejected):
        editor.verify_possession(proof, challenge=challenge)
    assert [each.outcome for each in pipelit.audit.list()[before:]] == ["ok", "refused"]


def test_the_library_computes_the_published_example() -> None:
    """Challenge, message, question and response of the library are the published ones."""
    published = json.loads(VECTORS.read_text())
    assert derive_challenge(SEED, ATTEMPT).hex() == published["challenge"]
    ours = bindings()
    assert [each["name"] for each in published["examples"]] == list(ours)
    for each in published["examples"]:
        binding = ours[each["name"]]
        assert binding.message().hex() == each["message"]
        assert binding.question() == each["question"]
        assert binding.answer(SECRET, STEP) == each["response"]


def test_agents_compute_the_published_example(pipelit: Pipelit, clock: Clock) -> None:
    """Agents that hold the published secret make the published proofs and codes."""
    published = json.loads(VECTORS.read_text())
    assert clock.now == 30 * STEP
    for name in ("agent_researcher", "agent_lead"):
        pipelit.users.create_agent(name, owner="alice", purpose="p")
        with database_of(pipelit).writing() as connection:
            token = keyring_of(pipelit).seal(SECRET, f"user:{name}:totp")
            connection.execute(
                text("UPDATE pipelit_users SET totp_secret = :t WHERE username = :n"),
                {"t": token, "n": name},
            )
    child, parent = pipelit.agent("agent_researcher"), pipelit.agent("agent_lead")
    value = bytes.fromhex(published["challenge"])
    result = child.prove(value, ANSWER, verifier="agent_lead", request=INPUT, depth=1)
    request = parent.prove_request(value, INPUT, verifier="agent_researcher", depth=1)
    code = child.totp_code(audience="agent_lead").code
    bound = child.totp_code(audience="agent_lead", message=published["message_text"]).code
    with database_of(pipelit).writing() as connection:
        connection.execute(
            text("INSERT INTO pipelit_peerings VALUES (:r, 'agent_lead', 'there', :s, 0, 'alice')"),
            {
                "r": RELATION.decode(),
                "s": keyring_of(pipelit).seal(SECRET, f"peering:{RELATION.decode()}"),
            },
        )
    between = parent.prove_request(
        value,
        INPUT,
        verifier="agent_researcher",
        depth=1,
        relation=RELATION.decode(),
        answer_relation=ANSWER_RELATION.decode(),
    )
    assert [result.value, request.value, between.value, code, bound] == [
        each["response"] for each in published["examples"]
    ]


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tuples = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["audience-code", "spawn-request", "spawn-result"]),
        "suite": words,
        "relation": words,
        "prover": words,
        "verifier": words,
        "challenge": st.binary(max_size=40),
        "depth": st.none() | st.integers(1, 2000),
        "request": st.none() | st.binary(max_size=40),
        "kind": words,
        "payload": st.none() | st.binary(max_size=40),
    }
)


@given(tuples, tuples)
def test_different_fields_never_give_equal_bytes(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Two messages are equal only where all ten fields are."""
    assert (Binding(**one).message() == Binding(**other).message()) == (one == other)


@given(tuples, st.sampled_from(FIELDS[1:5]), st.sampled_from(FIELDS[1:5]))
def test_bytes_don_t_move_between_fields(fields: dict[str, Any], one: str, other: str) -> None:
    """Moving the end of one field to the beginning of another gives other bytes."""
    moved = dict(fields)
    moved[one], moved[other] = fields[one][:-1], fields[one][-1:] + fields[other]
    same = moved == fields
    assert (Binding(**moved).message() == Binding(**fields).message()) == same


def test_each_attempt_has_a_challenge_of_its_own() -> None:
    """The challenge depends on the seed and on the attempt."""
    assert len({derive_challenge(seed, n) for seed in (SEED, SECRET) for n in range(1, 9)}) == 16
    with pytest.raises(ValueError, match="32 bytes"):
        derive_challenge(b"short", 1)


# What is accepted, and what isn't

ANSWERED = {"request": b"request", "kind": "result", "depth": 2}
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def asked(editor: Agent, writer: Agent) -> Challenge:
    """A challenge of the editor's to the writer."""
    return editor.challenge(writer.username)


@pytest.fixture
def proof(writer: Agent, asked: Challenge) -> Proof:
    """The writer's right answer to it."""
    return writer.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)


def check(editor: Agent, proof: Proof, challenge: Challenge, **changed: Any) -> Any:
    """Checks the answer, with something changed."""
    return editor.verify_proof(
        proof, challenge=challenge, **{"payload": b"payload", **ANSWERED, **changed}
    )


def refused(
    pipelit: Pipelit, reason: str, attempt: Callable[[], Any], verifier: str = "agent_editor"
) -> None:
    """The attempt is refused in the words of all refusals, and the audit has the true reason."""
    before = pipelit.audit.list(limit=1)[0].id
    with pytest.raises(ProofRejected) as caught:
        attempt()
    assert str(caught.value) == str(ProofRejected())
    assert (caught.value.peer, caught.value.verifier) == ("agent_writer", verifier)
    (entry,) = pipelit.audit.list(after=before)
    assert (entry.actor, entry.subject, entry.outcome, entry.reason) == (
        verifier,
        "agent_writer",
        "refused",
        reason,
    )
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pipelit_ledger")) == 0


@pytest.mark.slow
def test_a_right_proof_is_accepted_once(
    pipelit: Pipelit, editor: Agent, asked: Challenge, proof: Proof
) -> None:
    """The right answer verifies, and a second look at it is refused."""
    verified = check(editor, proof, asked)
    assert (verified.peer, verified.verifier, verified.kind, verified.step) == (
        "agent_writer",
        "agent_editor",
        "proof",
        STEP,
    )
    entry = pipelit.audit.list(limit=1)[0]
    assert (entry.action, entry.outcome, entry.reason) == ("verify.proof", "ok", "")
    refused(pipelit, "challenge used before", lambda: check(editor, proof, asked))


async def test_the_async_twins_do_the_same(writer: Agent, editor: Agent, asked: Challenge) -> None:
    """``aprove`` and ``averify_proof`` make and check proofs like their twins."""
    made = await writer.aprove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)
    assert await editor.averify_proof(made, challenge=asked, payload=b"payload", **ANSWERED)


@pytest.mark.parametrize(
    "changed",
    [
        {"payload": b"Payload"},
        {"payload": b"payload "},
        {"payload": b""},
        {"request": b"Request"},
        {"request": b""},
        {"kind": "error"},
        {"kind": "possession"},
        {"kind": ""},
        {"depth": 1},
        {"depth": 3},
        {"depth": None},
        {"request": b"payload", "payload": b"request"},
    ],
)
def test_a_proof_of_something_else_is_refused(
    pipelit: Pipelit, editor: Agent, asked: Challenge, proof: Proof, changed: dict[str, Any]
) -> None:
    """One wrong byte of payload or request, another kind or depth: refused, challenge spent."""
    reason = "no possession" if changed.get("kind") == "possession" else "wrong proof"
    refused(pipelit, reason, lambda: check(editor, proof, asked, **changed))
    refused(pipelit, "challenge used before", lambda: check(editor, proof, asked))


def test_a_proof_of_another_challenge_is_refused(
    pipelit: Pipelit, editor: Agent, proof: Proof
) -> None:
    """The answer to an earlier question isn't the answer to this one."""
    again = editor.challenge("agent_writer")
    refused(pipelit, "wrong proof", lambda: check(editor, proof, again))


def test_a_proof_by_another_is_refused(
    pipelit: Pipelit, editor: Agent, writer: Agent, asked: Challenge
) -> None:
    """Another agent's answer is refused, in its own name and in the writer's."""
    pipelit.users.create_agent("agent_other", owner="alice", purpose="p")
    other = pipelit.agent("agent_other")
    made = other.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)
    refused(pipelit, "made by or for another", lambda: check(editor, made, asked))
    forged = Proof("agent_writer", "agent_editor", made.step, made.value)
    again = Challenge(
        asked.value,
        prover=asked.prover,
        verifier=asked.verifier,
        issued_at=asked.issued_at,
        expires_at=asked.expires_at,
    )
    refused(pipelit, "wrong proof", lambda: check(editor, forged, again))


def test_a_proof_for_another_verifier_is_refused(
    pipelit: Pipelit, editor: Agent, writer: Agent
) -> None:
    """An answer made for C can't be relayed to B, under either name."""
    for named, reason in (("agent_c", "made by or for another"), ("agent_editor", "wrong proof")):
        asked = editor.challenge("agent_writer")
        made = writer.prove(asked.value, b"payload", verifier="agent_c", **ANSWERED)
        relayed = Proof("agent_writer", named, made.step, made.value)
        refused(pipelit, reason, lambda a=asked, r=relayed: check(editor, r, a))


def test_another_verifiers_challenge_is_refused(
    pipelit: Pipelit, editor: Agent, asked: Challenge, proof: Proof
) -> None:
    """Who didn't ask can't check; and doesn't use up the challenge of who did."""
    pipelit.users.create_agent("agent_other", owner="alice", purpose="p")
    other = pipelit.agent("agent_other")
    reason = "challenge of another verifier"
    refused(pipelit, reason, lambda: check(other, proof, asked), verifier="agent_other")
    assert check(editor, proof, asked)


def test_an_agent_does_not_verify_its_own_proof(pipelit: Pipelit, writer: Agent) -> None:
    """A hand-made challenge by which an agent would verify itself is refused."""
    asked = Challenge(
        b"c" * 32, prover="agent_writer", verifier="agent_writer", issued_at=0, expires_at=9e9
    )
    made = writer.prove(asked.value, b"payload", verifier="agent_writer", **ANSWERED)
    refused(
        pipelit,
        "challenge of another verifier",
        lambda: check(writer, made, asked),
        verifier="agent_writer",
    )


def test_request_and_result_are_not_interchangeable(
    pipelit: Pipelit, editor: Agent, writer: Agent
) -> None:
    """A proven request isn't a proven result, nor the other way round, whatever they hold."""
    asked = editor.challenge("agent_writer")
    request = writer.prove_request(asked.value, b"request", verifier="agent_editor", depth=2)
    refused(pipelit, "wrong proof", lambda: check(editor, request, asked, kind="", payload=b""))
    again = editor.challenge("agent_writer")
    result = writer.prove(again.value, b"", verifier="agent_editor", request=b"request", depth=2)
    refused(
        pipelit,
        "wrong proof",
        lambda: editor.verify_request(result, challenge=again, request=b"request", depth=2),
    )
    assert pipelit.audit.list(limit=1)[0].action == "verify.request"
    last = editor.challenge("agent_writer")
    right = writer.prove_request(last.value, b"request", verifier="agent_editor", depth=2)
    assert editor.verify_request(right, challenge=last, request=b"request", depth=2)


@pytest.mark.parametrize("wrong", ["peer", "A" * 32, "0" * 31, None, b""])
def test_the_peering_of_an_answer_is_an_id(writer: Agent, editor: Agent, wrong: Any) -> None:
    """Anything else is refused by both sides, and spends no challenge."""
    asked = editor.challenge("agent_writer")
    words = "answer_relation must be the id of a peering"
    with pytest.raises(ValueError, match=words):
        writer.prove_request(asked.value, b"r", verifier="agent_editor", answer_relation=wrong)
    proof = writer.prove_request(asked.value, b"r", verifier="agent_editor")
    with pytest.raises(ValueError, match=words):
        editor.verify_request(proof, challenge=asked, request=b"r", answer_relation=wrong)
    assert editor.verify_request(proof, challenge=asked, request=b"r")


@pytest.mark.slow
def test_of_32_threads_with_one_challenge_one_wins(writer: Agent, editor: Agent) -> None:
    """A challenge is used by exactly one check, in every round."""
    for _ in range(5):
        asked = editor.challenge("agent_writer")
        made = writer.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)
        barrier = Barrier(32)

        def attempt(
            _: int, asked: Challenge = asked, made: Proof = made, barrier: Barrier = barrier
        ) -> bool:
            barrier.wait()
            try:
                return bool(check(editor, made, asked))
            except ProofRejected:
                return False

        with ThreadPoolExecutor(32) as pool:
            assert sum(pool.map(attempt, range(32))) == 1


def test_a_late_proof_is_refused(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """From the end of its lifetime on a challenge takes no answer, however right."""
    for late in (False, True):
        asked = editor.challenge("agent_writer", lifetime=100)
        clock.advance(100 if late else 99)
        made = writer.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)
        if late:
            refused(pipelit, "late", lambda a=asked, m=made: check(editor, m, a))
        else:
            assert check(editor, made, asked)


@pytest.mark.parametrize(
    ("steps", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)]
)
def test_a_step_is_not_before_the_question_nor_in_the_future(
    pipelit: Pipelit,
    clock: Clock,
    writer: Agent,
    editor: Agent,
    asked: Challenge,
    steps: int,
    good: bool,
) -> None:
    """A proof's step is from the one before the question to the one after the present."""
    clock.advance(30 * steps)
    made = writer.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)
    clock.advance(-30 * steps)
    if good:
        assert check(editor, made, asked).step == STEP + steps
    else:
        refused(pipelit, "step out of range", lambda: check(editor, made, asked))


@pytest.mark.parametrize("step", [0, 2**40, 2**62, 2**63 - 1])
def test_a_step_that_is_no_time_is_refused_like_any(
    pipelit: Pipelit, editor: Agent, asked: Challenge, proof: Proof, step: int
) -> None:
    """A hostile step number is a ProofRejected, and not an error of the arithmetic."""
    forged = Proof(proof.prover, proof.verifier, step, proof.value)
    refused(pipelit, "step out of range", lambda: check(editor, forged, asked))


def test_a_long_spawn_may_answer_until_its_deadline(
    clock: Clock, writer: Agent, editor: Agent
) -> None:
    """An answer made early and shown late, but in time, is good: nothing but the deadline ends."""
    asked = editor.challenge("agent_writer", lifetime=3600)
    made = writer.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)
    clock.advance(3599)
    assert check(editor, made, asked)


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("agent_writer", "peer inactive"),
        ("alice", "peer inactive"),
        ("agent_judge", "verifier unknown or inactive"),
        ("bob", "verifier unknown or inactive"),
    ],
)
def test_who_was_deactivated_proves_and_verifies_nothing(
    pipelit: Pipelit, writer: Agent, gone: str, reason: str
) -> None:
    """Prover, its owner, verifier or its owner deactivated: refused, with a proof from before."""
    pipelit.users.create("bob")
    pipelit.users.create_agent("agent_judge", owner="bob", purpose="judges")
    judge = pipelit.agent("agent_judge")
    asked = judge.challenge("agent_writer")
    made = writer.prove(asked.value, b"payload", verifier="agent_judge", **ANSWERED)
    pipelit.users.deactivate(gone)
    refused(pipelit, reason, lambda: check(judge, made, asked), verifier="agent_judge")


def test_an_unknown_prover_is_refused_in_the_same_words(pipelit: Pipelit, editor: Agent) -> None:
    """A name that isn't there is refused like a wrong proof."""
    asked = editor.challenge("agent_nobody")
    made = Proof("agent_nobody", "agent_editor", STEP, "0" * 64)
    with pytest.raises(ProofRejected) as caught:
        check(editor, made, asked)
    assert str(caught.value) == str(ProofRejected())
    assert pipelit.audit.list(limit=1)[0].reason == "peer unknown"


def test_failures_lock_nobody(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """After 120 wrong proofs the right one verifies, and so does a code."""
    for _ in range(120):
        asked = editor.challenge("agent_writer")
        with pytest.raises(ProofRejected):
            check(editor, Proof("agent_writer", "agent_editor", STEP, "0" * 64), asked)
    asked = editor.challenge("agent_writer")
    made = writer.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)
    assert check(editor, made, asked)
    editor.verify_peer("agent_writer", writer.totp_code(audience="agent_editor").code)


def test_a_rotation_ends_old_proofs_when_it_says(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """During an overlap a proof of the old secret is good, after it and without one it isn't."""

    def pair() -> tuple[Challenge, Proof]:
        asked = editor.challenge("agent_writer", lifetime=3600)
        return asked, writer.prove(asked.value, b"payload", verifier="agent_editor", **ANSWERED)

    (one, before), (two, then), (three, last) = pair(), pair(), pair()
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(seconds=60))
    assert check(editor, before, one)
    clock.advance(60)
    refused(pipelit, "wrong proof", lambda: check(editor, then, two))
    clock.advance(-60)
    pipelit.users.rotate_totp("agent_writer")
    refused(pipelit, "wrong proof", lambda: check(editor, last, three))


@pytest.mark.parametrize(
    "fields",
    [
        {"prover": None},
        {"verifier": b"agent_editor"},
        {"step": "60000000"},
        {"step": 6e7},
        {"step": True},
        {"step": -1},
        {"step": 2**63},
        {"value": "A" * 64},
        {"value": "0" * 63},
        {"value": "0" * 65},
        {"value": "0" * 64 + "\n"},
        {"value": "\uff10" * 64},
        {"value": b"0" * 64},
        {"value": None},
    ],
)
def test_what_is_no_proof_can_not_be_made(fields: dict[str, Any]) -> None:
    """A Proof of the wrong form is refused when it is made."""
    good = {"prover": "a", "verifier": "b", "step": STEP, "value": "0" * 64}
    Proof(**good)  # type: ignore[arg-type]
    with pytest.raises(ProofRejected, match="malformed"):
        Proof(**{**good, **fields})


def test_challenges_are_fresh_and_used_once(editor: Agent, clock: Clock) -> None:
    """Each challenge is another one, can't be copied, and hides its value."""
    made = [editor.challenge("agent_writer") for _ in range(50)]
    assert len({each.value for each in made}) == 50
    assert all(len(each.value) == 32 for each in made)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="used once"):
            way(made[0])
    assert made[0].value.hex() not in repr(made[0])
    assert (made[0].issued_at, made[0].expires_at) == (clock.now, clock.now + 60)
    for lifetime in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="lifetime"):
            editor.challenge("agent_writer", lifetime=lifetime)
    with pytest.raises(ValueError, match="32 bytes"):
        Challenge(b"short", prover="a", verifier="b", issued_at=0, expires_at=1)


class OwnText(str):
    """Text that would run code where others wait for it."""

    def encode(self, *_: Any) -> bytes:
        pytest.fail("ran")


class OwnBytes(bytes):
    """Bytes of another's class."""


@pytest.mark.parametrize(
    "own",
    [
        {"verifier": OwnText("agent_editor")},
        {"challenge": OwnBytes(32)},
        {"payload": OwnBytes()},
        {"request": OwnBytes()},
        {"kind": OwnText("result")},
        {"relation": OwnText("")},
    ],
    ids=lambda own: next(iter(own)),
)
async def test_no_class_of_the_askers_gets_into_a_proof(
    writer: Agent, editor: Agent, own: dict[str, Any]
) -> None:
    """It is refused where it is given; those who ask at that moment get their proofs."""
    honest: dict[str, Any] = {"challenge": b"c" * 32, "payload": b"", "verifier": "agent_editor"}
    found = await asyncio.gather(
        *(writer.aprove(**honest | more) for more in ({}, own, {})), return_exceptions=True
    )
    assert [type(each) for each in (found[0], found[2])] == [Proof, Proof]
    assert isinstance(found[1], TypeError | ValueError | InvalidUsername)


async def test_a_proof_that_cant_be_made_is_missed_by_its_asker_alone(
    writer: Agent, editor: Agent
) -> None:
    """Whatever it fails of, in the midst of others."""
    maker = identity_of(writer).maker
    asked = writer._proof_request(
        "spawn-result", b"c" * 32, "agent_editor", b"", None, None, "", b""
    )
    bad = asked._replace(step=None)  # type: ignore[arg-type]
    found = await asyncio.gather(
        *(maker.amake(each) for each in (asked, asked, bad, asked)),
        return_exceptions=True,
    )
    assert [type(each) for each in found] == [Proof, Proof, TypeError, Proof]


@pytest.mark.parametrize("field", ["prover", "verifier", "value"])
def test_a_proof_is_of_plain_text(field: str) -> None:
    """A class of the sender's would run its code where others are checked."""
    fields = {"prover": "agent_writer", "verifier": "agent_editor", "value": "0" * 64}
    with pytest.raises(ProofRejected):
        Proof(**fields | {field: OwnText(fields[field])}, step=1)  # type: ignore[arg-type]


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(worked(), indent=1) + "\n")
