"""The bytes that a proof or an audience code authenticates, and the challenge that a proof answers.

This module reads no clock, database or key store. ``docs/protocol.md`` describes the same bytes
with a worked example.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final, Literal, NamedTuple, NoReturn

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents.errors import ProofRejected
from pipelit_agents.otp import ocra_each
from pipelit_agents.protocol.usernames import is_username, require_username

__all__ = ["Binding", "Challenge", "Proof", "Role", "derive_challenge"]

PERIOD: Final = 30
PROOF_SUITE: Final = "OCRA-1:HOTP-SHA256-0:QH64-T30S"
CODE_SUITE: Final = "OCRA-1:HOTP-SHA256-8:QH64-T30S"

Role = Literal["audience-code", "spawn-request", "spawn-result"]

_LABEL: Final = b"pipelit-agents/v1\0"
_CHALLENGE_LABEL: Final = b"pipelit-agents/challenge/v1\0"
_HEX64: Final = re.compile(r"[0-9a-f]{64}\Z")
# Seconds before and after 1970; beyond any date that Python can represent.
_MAX_UNIX_SECONDS: Final = 1e12
_MAX_ATTEMPT: Final = 2**32 - 1


class Binding(NamedTuple):
    """Everything that one answer is bound to. Unused fields are empty.

    Attributes:
        role: The purpose of the answer; fixed by the method that makes or verifies it.
        prover: The agent that answers.
        verifier: The agent that verifies the answer.
        suite: The OCRA suite (RFC 6287), fixed by the verifier.
        relation: The id of the peering; empty between agents of one database.
        challenge: The verifier's challenge, 32 bytes.
        depth: The depth in nested spawns, 1 for the outermost.
        request: The exact bytes of the request.
        kind: ``result``, ``error`` or ``possession``. For a request, the peering with whose secret
            its answer must be proven. ``message`` in a code bound to a message.
        payload: The exact bytes of the answer or of the message.
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
        """Return the bytes under the MAC: a label, and each field after its length (u32, BE)."""
        return b"".join(
            (
                _parties(self.role, self.suite, self.relation, self.prover, self.verifier),
                _field(self.challenge),
                _NOTHING if self.depth is None else _text(str(self.depth)),
                _digest(self.request),
                _text(self.kind),
                _digest(self.payload),
            )
        )

    def question(self) -> str:
        """Return the OCRA question: SHA-256 of the message, 64 lowercase hexadecimal digits."""
        return self._question_digest().hex()

    def answer(self, key: bytes, step: int) -> str:
        """Return the OCRA response for a key and a time step (RFC 6287)."""
        return self.answers(key, [step])[0]

    def answers(self, key: bytes, steps: Iterable[int]) -> list[str]:
        """Return the responses for several steps."""
        moments = [step * PERIOD for step in steps]
        return ocra_each(key, self.suite, self._question_digest(), moments)

    def _question_digest(self) -> bytes:
        return hashlib.sha256(self.message()).digest()


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof that an agent gave this answer to this request: an untruncated OCRA response.

    Attributes:
        prover: The agent that made it.
        verifier: The only agent that may verify it.
        step: The time step in which it was made.
        value: 64 lowercase hexadecimal digits.
    """

    prover: str
    verifier: str
    step: int
    value: str = field(repr=False)

    def __post_init__(self) -> None:
        # Exact types and forms: proofs are verified in batches, so a field may not run its own code
        # or take long while the others wait.
        named = is_username(self.prover) and is_username(self.verifier)
        if not named or type(self.step) is not int or not 0 <= self.step < 2**63:
            raise ProofRejected("the proof is malformed: prover, verifier or step")
        if type(self.value) is not str or not _HEX64.match(self.value):
            raise ProofRejected("the proof is malformed: value is 64 lowercase hexadecimal digits")


class _Process:
    """A name for the current process; a forked child has another name."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Take a new name."""
        self._token = object()

    def name(self) -> tuple[object, int]:
        """Return a value that differs between any two processes."""
        # A process id alone is reused when a process has ended. The token alone is copied if native
        # code forks without Python's fork hooks.
        return self._token, os.getpid()


_PROCESS: Final = _Process()


class Question(NamedTuple):
    """The fields of a challenge, with exact types and forms; a verification keeps its own copy."""

    value: bytes
    prover: str
    verifier: str
    issued_at: float
    expires_at: float

    @classmethod
    def of(
        cls, value: object, prover: object, verifier: object, issued_at: object, expires_at: object
    ) -> Question:
        """Check the fields and return the question; errors are those of ``Challenge``."""
        if type(value) is not bytes or len(value) != 32:
            raise ValueError("value: a challenge is 32 bytes")
        return cls(
            value,
            require_username(prover, argument="prover"),
            require_username(verifier, argument="verifier"),
            _time(issued_at, "issued_at"),
            _time(expires_at, "expires_at"),
        )


class Challenge:
    """A verifier's question to one prover. The first verification spends it, valid or not.

    It is valid only in the process that made it. It can't be changed, copied, pickled or
    subclassed, and a forked child's copy is refused. Otherwise each process would accept the same
    proof once.

    Args:
        value: 32 unpredictable bytes.
        prover: The agent that answers.
        verifier: The agent that made the challenge; only it may verify the answer.
        issued_at: Unix seconds; a proof older than the previous time step is refused.
        expires_at: Unix seconds; from then on every proof is refused.

    Raises:
        TypeError: A time isn't an ``int`` or a ``float``.
        ValueError: The value isn't exactly 32 ``bytes``, or a time isn't finite.
        InvalidUsername: The prover or the verifier isn't a username.
    """

    __slots__ = ("_minted_in", "_unspent", "expires_at", "issued_at", "prover", "value", "verifier")

    value: bytes
    prover: str
    verifier: str
    issued_at: float
    expires_at: float
    _minted_in: tuple[object, int]
    _unspent: list[bool]

    def __init__(
        self, value: bytes, *, prover: str, verifier: str, issued_at: float, expires_at: float
    ) -> None:
        checked = Question.of(value, prover, verifier, issued_at, expires_at)
        keep = partial(object.__setattr__, self)
        for name, each in checked._asdict().items():
            keep(name, each)
        keep("_minted_in", _PROCESS.name())
        # Popping the only item is atomic. A signal handler could wait for a lock forever while its
        # own thread holds it.
        keep("_unspent", [True])

    @classmethod
    def mint(cls, *, prover: str, verifier: str, issued_at: float, expires_at: float) -> Challenge:
        """Make a challenge from the system's random source."""
        value = derive_challenge(secrets.token_bytes(32), 1)
        return cls(
            value, prover=prover, verifier=verifier, issued_at=issued_at, expires_at=expires_at
        )

    def question(self) -> Question:
        """Return the fields, checked again because code may have changed them nevertheless.

        Raises:
            TypeError: It wasn't created by calling its class, or a time isn't a number.
            ValueError: A field is malformed.
        """
        try:
            fields = (self.value, self.prover, self.verifier, self.issued_at, self.expires_at)
        except AttributeError:
            raise TypeError("a Challenge must be created by calling its class") from None
        return Question.of(*fields)

    @property
    def minted_here(self) -> bool:
        """Whether this process made the challenge, not a process that it was forked from."""
        return self._minted_in == _PROCESS.name()

    def spend(self) -> bool:
        """Mark the challenge as used; return False if it was used or is another process's."""
        if not self.minted_here:
            return False
        try:
            return self._unspent.pop()
        except IndexError:
            return False

    def __init_subclass__(cls, **_: object) -> NoReturn:
        raise TypeError("a Challenge is verified by its exact class, so it can't be subclassed")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a Challenge can't be changed: make another instead of setting {name}"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Challenge can't be changed: {name} can't be deleted")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Challenge is used once, so it can't be copied or pickled")

    def __repr__(self) -> str:
        return f"Challenge(prover={self.prover!r}, verifier={self.verifier!r})"


def _time(value: object, argument: str) -> float:
    if type(value) is not int and type(value) is not float:
        raise TypeError(f"{argument} must be Unix seconds, not {type(value).__name__}")
    # Also false for NaN. Compared before the conversion, because a large int can't be converted.
    if not -_MAX_UNIX_SECONDS <= value <= _MAX_UNIX_SECONDS:
        raise ValueError(f"{argument} must be Unix seconds, a finite number")
    return float(value)


def derive_challenge(seed: bytes, attempt: int) -> bytes:
    """Return the challenge of one attempt: SHA-256 of a label, the seed and the attempt (u32).

    The 32-byte seed survives interrupts and restarts; each attempt has a different challenge.
    """
    if type(seed) is not bytes or len(seed) != 32:
        raise ValueError("seed: 32 bytes")
    if type(attempt) is not int or not 0 <= attempt <= _MAX_ATTEMPT:
        raise ValueError("attempt: a whole number from 0 to 2**32 - 1")
    return hashlib.sha256(_CHALLENGE_LABEL + seed + attempt.to_bytes(4, "big")).digest()


def same(ours: str, theirs: str) -> bool:
    """Compare two ASCII strings in constant time."""
    return hmac.compare_digest(ours.encode(), theirs.encode())


@lru_cache(maxsize=256)
def _parties(*names: str) -> bytes:
    # Cached: these bytes are the same for every message between two agents.
    return _LABEL + b"".join(map(_text, names))


def _text(text: str) -> bytes:
    return _field(text.encode())


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


_NOTHING: Final = _field(b"")


def _digest(data: bytes | None) -> bytes:
    return _NOTHING if data is None else _field(hashlib.sha256(data).digest())
