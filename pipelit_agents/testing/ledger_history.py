"""A made-up history of a database, in which a ledger decides like the one in the database."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from random import Random
from typing import Final

from pipelit_agents.errors import VerificationError
from pipelit_agents.testing.ledger_parts import PLAIN_WRONG, WRONG, LedgerParts

__all__ = ["live_through"]

_DAY: Final = 86_400.0
_VERIFIERS: Final = (
    "agent_verifier",
    "agent_colleague",
    "agent_stranger",
    "agent_other",
    "agent_nobody",
)
_PEERS: Final = ("agent_peer", "agent_peer", "agent_peer", "alice", "agent_unknown")
# As long as a code is good, as a minute, a lock, or the year's allowance.
_WAITS: Final = (1.0, 29.0, 30.0, 45.0, 60.0, 61.0, 901.0, _DAY, 40 * _DAY, 300 * _DAY)
_LANES: Final = (
    None,
    None,
    "self",
    "family",
    "others",
    "audience:agent_verifier",
    "nobody:agent_other",
)


def live_through(parts: LedgerParts, seed: int, steps: int) -> None:
    """Verify, guess, wait, unlock, rotate and deactivate, as the seed says.

    Each decision is compared by the ledger's watch, so there is nothing to check here.
    """
    _History(parts, Random(seed)).run(steps)  # noqa: S311 - reproducible, and no secret


class _History:
    def __init__(self, parts: LedgerParts, random: Random) -> None:
        self._parts = parts
        self._random = random
        self._shown: list[tuple[str, str, str, bool]] = []

    def run(self, steps: int) -> None:
        self._parts.enrol()
        acts = (
            [self._show] * 6
            + [self._show_again] * 3
            + [self._guess] * 4
            + [self._wait] * 5
            + [self._wait_as_told, self._person, self._person]
        )
        rare = (self._unlock, self._rotate, self._deactivate, self._restart)
        for number in range(steps):
            act = self._random.choice(rare if number % 10 == 9 else acts)
            with suppress(VerificationError):
                act()

    def _show(self) -> None:
        verifier, peer = self._random.choice(_VERIFIERS), self._random.choice(_PEERS)
        plain = peer == "alice" or self._random.random() < 0.5
        ahead = self._random.choice((-2, -1, 0, 0, 0, 1, 2))
        if peer == "alice":
            code = self._parts.person_code(ahead)
        elif peer == "agent_unknown":
            code = PLAIN_WRONG if plain else WRONG
        else:
            code = self._parts.code(plain=plain, verifier=verifier, peer=peer, ahead=ahead)
        self._shown.append((verifier, peer, code, plain))
        self._verify(verifier, peer, code, plain)

    def _show_again(self) -> None:
        if self._shown:
            verifier, peer, code, plain = self._shown[-1]
            if plain:
                verifier = self._random.choice((verifier, *_VERIFIERS))
            self._verify(verifier, peer, code, plain)

    def _verify(self, verifier: str, peer: str, code: str, plain: bool) -> None:
        acting: AbstractContextManager[None] = nullcontext()
        if self._random.random() < 0.2:
            acting = self._parts.pipelit.acting_for("alice")
        with acting:
            self._parts.verify(code, plain=plain, verifier=verifier, peer=peer)

    def _guess(self) -> None:
        verifier, peer = self._random.choice(_VERIFIERS), self._random.choice(_PEERS)
        plain = self._random.random() < 0.5
        for _ in range(self._random.randint(1, 12)):
            self._parts.guess(plain=plain, verifier=verifier, peer=peer)
            self._parts.clock.advance(self._random.choice((0.0, 13.0, 61.0)))

    def _person(self) -> None:
        ahead = self._random.choice((None, -1, 0, 0, 1))
        code = PLAIN_WRONG if ahead is None else self._parts.person_code(ahead)
        self._parts.pipelit.mfa.verify("alice", code)

    def _wait(self) -> None:
        self._parts.clock.advance(self._random.choice(_WAITS))

    def _wait_as_told(self) -> None:
        refusal = self._parts.guess()
        self._parts.clock.advance(getattr(refusal, "retry_after", None) or 0.0)

    def _unlock(self) -> None:
        for name in ("agent_peer", "alice"):
            self._parts.pipelit.users.unlock(name, lane=self._random.choice(_LANES))

    def _rotate(self) -> None:
        overlap = timedelta(seconds=self._random.choice((0, 45, 900)))
        self._parts.pipelit.users.rotate_totp("agent_peer", overlap=overlap)

    def _deactivate(self) -> None:
        users = self._parts.pipelit.users
        if users.get("agent_other").active:
            users.deactivate("agent_other")

    def _restart(self) -> None:
        self._parts.restart()
