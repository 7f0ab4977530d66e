"""The limits of verification, in one value that a deployment chooses once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

__all__ = ["VerificationPolicy"]

_YEAR: Final = 366 * 86_400
# More than anybody counts to, and what every ledger can write down.
_MOST: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPolicy:
    """How many failures are borne, and for how long they are remembered.

    The defaults are what the project promises. Looser limits give a guesser more tries, up to
    ``switch_off_after``, which can only be lowered.

    Attributes:
        failures_per_minute: Failures of one verifier about one peer in 60 seconds; then it waits.
        lock_after: Failures in a row after which that pair is locked.
        lock_seconds: How long a lock lasts.
        owner_lock_after: Failures in a row about one peer by all agents of one root owner, after
            which they are locked together.
        switch_off_after: Failures in a row about one peer by anybody, after which its short codes
            are off until an operator unlocks it (NIST SP 800-63B: at most 100).
        window: Time steps before and after the present one in which a code is good.
        agents_per_owner: Living agents that one root owner may have.
        agents_per_creator: Living agents that one agent may have made, with all that these made in
            turn. All agents of one root owner together may make three quarters of
            ``agents_per_owner``; a quarter, rounded down, is kept for agents that people make.

    Raises:
        TypeError: One isn't a number, or one that counts isn't whole.
        ValueError: A number is out of its range; the message names it.
    """

    failures_per_minute: int = 5
    lock_after: int = 10
    lock_seconds: float = 900.0
    owner_lock_after: int = 50
    switch_off_after: int = 100
    window: int = 1
    agents_per_owner: int = 20
    agents_per_creator: int = 10

    def __post_init__(self) -> None:
        for each in fields(self):
            least = 0 if each.name == "window" else 1
            value = getattr(self, each.name)
            kind, form = (int | float, "a") if each.name == "lock_seconds" else (int, "a whole")
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{each.name} has to be {form} number, not {type(value).__name__}")
            if not value >= least:
                raise ValueError(f"{each.name} must be at least {least}, not {value!r}")
            if kind is int and value > _MOST:
                raise ValueError(f"{each.name} must be at most {_MOST:,}")
        if not self.lock_seconds <= _YEAR:
            raise ValueError("lock_seconds must be at most a year: deactivate an account to end it")
        if self.switch_off_after > 100:
            raise ValueError("switch_off_after must be at most 100 (NIST SP 800-63B)")
        if self.window > 2:
            raise ValueError("window must be at most 2 steps, so that a code dies within minutes")
