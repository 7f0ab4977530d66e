"""The bytes that a proof and an audience code authenticate, and the challenge that a proof answers.

Nothing here reads a clock, a database or a key by itself; ``docs/protocol.md`` has the same words
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
from typing import Any, Final, Literal, NamedTuple, NoReturn, SupportsIndex

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents.errors import ProofRejected
from pipelit_agents.otp import ocra_each
from pipelit_agents.protocol.usernames import is_username, require_username

__all__ = ["Binding", "Challenge", "Proof", "Role", "derive_challenge"]

PERIOD: Final = 30
PROOF_SUITE: Final = "OCRA-1:HOTP-SHA256-0:QH64-T30S"
CODE_SUITE: Final = "OCRA-1:HOTP-SHA256-8:QH64-T30S"

Role = Literal["audience-code", "spawn-request", "spawn-result", "approval"]

_LABEL: Final = b"pipelit-agents/v1\0"
_CHALLENGE_LABEL: Final = b"pipelit-agents/challenge/v1\0"
_HEX64: Final = re.compile(r"[0-9a-f]{64}\Z")
# Years beyond any date that Python can show, on both sides of 1970.
_FARTHEST: Final = 1e12
_MOST_ATTEMPTS: Final = 2**32 - 1


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
        kind: ``result``, ``error`` or ``possession``; for a request, the relation that its answer
            is to be proven under; ``message`` in a code bound to a message.
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
        # Exact types and forms: a proof is checked together with others, and nothing in it may run
        # code, or take time, while those wait.
        named = is_username(self.prover) and is_username(self.verifier)
        if not named or type(self.step) is not int or not 0 <= self.step < 2**63:
            raise ProofRejected("the proof is malformed: prover, verifier or step")
        if type(self.value) is not str or not _HEX64.match(self.value):
            raise ProofRejected("the proof is malformed: value is 64 lowercase hexadecimal digits")


class _Process:
    """Names the process that this code runs in; a forked child has another name."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Take a new name."""
        self._token = object()

    def name(self) -> tuple[object, int]:
        """Return what differs between any two processes."""
        # The number by itself is given again when a process has ended; the token by itself is
        # copied where something forks without telling Python.
        return self._token, os.getpid()


_PROCESS: Final = _Process()


class Question(NamedTuple):
    """What a challenge says: exact types and forms, that a check keeps for itself."""

    value: bytes
    prover: str
    verifier: str
    issued_at: float
    expires_at: float

    @classmethod
    def of(
        cls, value: object, prover: object, verifier: object, issued_at: object, expires_at: object
    ) -> Question:
        """Return the question of these fields; errors as :class:`Challenge`."""
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
    """A verifier's question to one prover. The first check spends it, good or bad.

    It is good in the process that made it. It can't be changed, copied, pickled or subclassed, and
    a forked child's copy of it is refused: otherwise each process would accept one proof once.

    Args:
        value: 32 bytes that nobody could foresee.
        prover: Who is to answer.
        verifier: Who asked, and alone may check.
        issued_at: Unix seconds; a proof older than the step before is refused.
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
        said = Question.of(value, prover, verifier, issued_at, expires_at)
        keep = partial(object.__setattr__, self)
        keep("value", said.value)
        keep("prover", said.prover)
        keep("verifier", said.verifier)
        keep("issued_at", said.issued_at)
        keep("expires_at", said.expires_at)
        keep("_minted_in", _PROCESS.name())
        # Taking the only item is one step, whichever threads try. A lock would be one more thing
        # that a signal handler could wait for while its own thread holds it.
        keep("_unspent", [True])

    @classmethod
    def mint(cls, *, prover: str, verifier: str, issued_at: float, expires_at: float) -> Challenge:
        """Makes a challenge from the system's random source."""
        value = derive_challenge(secrets.token_bytes(32), 1)
        return cls(
            value, prover=prover, verifier=verifier, issued_at=issued_at, expires_at=expires_at
        )

    def question(self) -> Question:
        """Return what it says, checked once more: somebody may have written into it all the same.

        Raises:
            TypeError: It isn't one that was made by calling its class, or a time isn't a number.
            ValueError: A field has another form.
        """
        try:
            fields = (self.value, self.prover, self.verifier, self.issued_at, self.expires_at)
        except AttributeError:
            raise TypeError("a Challenge has to be made by calling its class") from None
        return Question.of(*fields)

    @property
    def minted_here(self) -> bool:
        """Whether this process made the challenge, and not one that it was forked from."""
        return self._minted_in == _PROCESS.name()

    def spend(self) -> bool:
        """Marks the challenge as used; False if it was, or is another process's."""
        if not self.minted_here:
            return False
        try:
            return self._unspent.pop()
        except IndexError:
            return False

    def __init_subclass__(cls, **_: Any) -> NoReturn:
        raise TypeError("a Challenge is checked by its exact class, so it has no subclasses")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Challenge can't be changed: ask again instead of setting {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Challenge can't be changed: {name} stays")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Challenge is used once, so it is neither copied nor pickled")

    def __reduce_ex__(self, _: SupportsIndex) -> NoReturn:
        self.__reduce__()

    def __repr__(self) -> str:
        return f"Challenge(prover={self.prover!r}, verifier={self.verifier!r})"


def _time(value: object, argument: str) -> float:
    if type(value) is not int and type(value) is not float:
        raise TypeError(f"{argument} has to be Unix seconds, not {type(value).__name__}")
    # False for NaN too; a large int isn't converted before it was compared.
    if not -_FARTHEST <= value <= _FARTHEST:
        raise ValueError(f"{argument} has to be Unix seconds, a finite number")
    return float(value)


def derive_challenge(seed: bytes, attempt: int) -> bytes:
    """The challenge of one attempt: SHA-256 of a label, the 32-byte seed and the attempt (u32).

    The seed outlives interrupts and restarts; each attempt has a challenge of its own.
    """
    if type(seed) is not bytes or len(seed) != 32:
        raise ValueError("seed: 32 bytes")
    if type(attempt) is not int or not 0 <= attempt <= _MOST_ATTEMPTS:
        raise ValueError("attempt: a whole number from 0 to 2**32 - 1")
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
