"""The bytes that a proof and an audience code authenticate, and the challenge that a proof answers.

Nothing here reads a clock, a database or a key by itself; ``docs/protocol.md`` has the same words
with a worked example.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from pipelit_agents.errors import ProofRejected
from pipelit_agents.otp import ocra_each

__all__ = ["Binding", "Challenge", "Proof", "Role", "derive_challenge"]

PERIOD: Final = 30
PROOF_SUITE: Final = "OCRA-1:HOTP-SHA256-0:QH64-T30S"
CODE_SUITE: Final = "OCRA-1:HOTP-SHA256-8:QH64-T30S"

Role = Literal["audience-code", "spawn-request", "spawn-result", "approval"]

_LABEL: Final = b"pipelit-agents/v1\0"
_CHALLENGE_LABEL: Final = b"pipelit-agents/challenge/v1\0"
_HEX64: Final = re.compile(r"[0-9a-f]{64}\Z")


class Binding(NamedTuple):
    """Everything that one answer is bound to. Unused fields stay empty.

    Attributes:
        role: What the answer is for; fixed by the method that makes or checks it.
        prover: Who answers.
        verifier: Who is to check the answer.
        suite: The OCRA suite (RFC 6287), fixed by the verifier.
        relation: The peering it belongs to; empty between agents of one database.
        challenge: The verifier's challenge, 32 bytes.
        depth: How deep in nested spawns, 1 for the outermost.
        request: The exact bytes that were asked.
        kind: ``result``, ``error`` or ``possession``; ``message`` in a code bound to a message.
        payload: The exact bytes of the answer, or of the message.
    """

    role: Role
    prover: str
    verifier: str
    suite: str = PROOF_SUITE
    relation: str = ""
    challenge: bytes = b""
    depth: int | None = None
    request: bytes | None = None
    kind: str = ""
    payload: bytes | None = None

    def message(self) -> bytes:
        """The bytes under the MAC: a label, then each field with its length (u32, big-endian)."""
        return b"".join(
            (
                _parties(self.role, self.suite, self.relation, self.prover, self.verifier),
                _field(self.challenge),
                _text("" if self.depth is None else str(self.depth)),
                _digest(self.request),
                _text(self.kind),
                _digest(self.payload),
            )
        )

    def question(self) -> str:
        """The OCRA question: SHA-256 of the message, 64 lowercase hexadecimal digits."""
        return self._asked().hex()

    def answer(self, key: bytes, step: int) -> str:
        """The OCRA response under a key at a time step (RFC 6287)."""
        return self.answers(key, [step])[0]

    def answers(self, key: bytes, steps: Iterable[int]) -> list[str]:
        """The responses at several steps."""
        moments = [step * PERIOD for step in steps]
        return ocra_each(key, self.suite, self._asked(), moments)

    def _asked(self) -> bytes:
        return hashlib.sha256(self.message()).digest()


@dataclass(frozen=True, slots=True)
class Proof:
    """Who produced this answer to this request, now: an untruncated OCRA response.

    Attributes:
        prover: Who made it.
        verifier: Who may check it.
        step: The time step it was made in.
        value: 64 lowercase hexadecimal digits.
    """

    prover: str
    verifier: str
    step: int
    value: str = field(repr=False)

    def __post_init__(self) -> None:
        named = type(self.prover) is str and type(self.verifier) is str
        if not named or type(self.step) is not int or not 0 <= self.step < 2**63:
            raise ProofRejected("the proof is malformed: prover, verifier or step")
        if type(self.value) is not str or not _HEX64.match(self.value):
            raise ProofRejected("the proof is malformed: value is 64 lowercase hexadecimal digits")


class Challenge:
    """A verifier's question to one prover. It is spent by the first check, good or bad.

    Args:
        value: 32 bytes that nobody could foresee.
        prover: Who is to answer.
        verifier: Who asked, and alone may check.
        issued_at: Unix seconds; a proof older than the step before is refused.
        expires_at: Unix seconds; from then on every proof is refused.
    """

    __slots__ = ("_lock", "_spent", "expires_at", "issued_at", "prover", "value", "verifier")

    def __init__(
        self, value: bytes, *, prover: str, verifier: str, issued_at: float, expires_at: float
    ) -> None:
        if len(value) != 32:
            raise ValueError("value: a challenge is 32 bytes")
        self.value = value
        self.prover = prover
        self.verifier = verifier
        self.issued_at = issued_at
        self.expires_at = expires_at
        self._spent = False
        self._lock = threading.Lock()

    @classmethod
    def mint(cls, *, prover: str, verifier: str, issued_at: float, expires_at: float) -> Challenge:
        """Makes a challenge from the system's random source."""
        value = derive_challenge(secrets.token_bytes(32), 1)
        return cls(
            value, prover=prover, verifier=verifier, issued_at=issued_at, expires_at=expires_at
        )

    def spend(self) -> bool:
        """Marks the challenge as used; False if it was."""
        with self._lock:
            first, self._spent = not self._spent, True
        return first

    def __reduce__(self) -> Any:
        raise TypeError("a Challenge is used once, so it is neither copied nor pickled")

    def __repr__(self) -> str:
        return f"Challenge(prover={self.prover!r}, verifier={self.verifier!r})"


def derive_challenge(seed: bytes, attempt: int) -> bytes:
    """The challenge of one attempt: SHA-256 of a label, the 32-byte seed and the attempt (u32).

    The seed outlives interrupts and restarts; each attempt has a challenge of its own.
    """
    if len(seed) != 32:
        raise ValueError("seed: 32 bytes")
    return hashlib.sha256(_CHALLENGE_LABEL + seed + attempt.to_bytes(4, "big")).digest()


def same(ours: str, theirs: str) -> bool:
    """Compares two ASCII texts in constant time."""
    return hmac.compare_digest(ours.encode(), theirs.encode())


@lru_cache(maxsize=256)
def _parties(*names: str) -> bytes:
    # The same for all that two agents say to each other.
    return _LABEL + b"".join(map(_text, names))


def _text(text: str) -> bytes:
    return _field(text.encode())


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _digest(data: bytes | None) -> bytes:
    return _field(b"" if data is None else hashlib.sha256(data).digest())
