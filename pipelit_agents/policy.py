"""The limits of verification, in one object for the whole deployment."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final, Literal

__all__ = ["FIRST_CODES", "LaneClass", "VerificationPolicy", "tries_in_a_year"]

LaneClass = Literal["people", "plain", "audience", "first"]

YEAR: Final = 366 * 86_400.0
# The chance of guessing a code of an account in a year has to stay below this.
PROMISED: Final = 1e-3
# A margin for rounding.
_BUDGET: Final = 0.95 * PROMISED
_AUDIENCE_VERIFIERS: Final = 100
# The lanes "self" and "others".
_PERSON_LANES: Final = 2
# Wrong first codes of a person that are evaluated in a year, over all enrolments. An accepted first
# code returns the recovery codes, so a wrong one counts as a guess.
FIRST_CODES: Final = 45
# Time steps before and after the current one in which a first code is valid, in any policy.
FIRST_CODE_WINDOW: Final = 1
# The chance of guessing a first code in a year.
_FIRST_CODE_CHANCE: Final = FIRST_CODES * (2 * FIRST_CODE_WINDOW + 1) / 10.0**6
# An agent's shared lanes, "family" and "others".
_SHARED_LANES: Final = 2
# The share of an agent's budget for plain codes. A guess at a plain code succeeds a hundred times
# as often as one at an audience code. But there are more lanes for audience codes, and models make
# mistakes with them.
_PLAIN_SHARE: Final = 0.75
# During an overlap a guess counts twice, and three quarters of the allowance may be used at once.
_MIN_FORGIVEN: Final = 3
# Larger than any useful number, and every ledger can store it.
_MAX_COUNT: Final = 10**9
_FIELDS_IN_SECONDS: Final = frozenset({"lock_seconds", "longest_lock_seconds"})
_FIELDS_FROM_ZERO: Final = frozenset({"window", "own_lanes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPolicy:
    """The number of failures that a lane allows, and the duration of its locks.

    A lane counts the failures of certain verifiers about one account; SECURITY.md lists the lanes.
    Failures in one lane don't affect another.

    The limits keep one promise: if everybody guesses all year as fast as the limits allow, the
    chance of being accepted as one account stays below 1 in 1,000. A policy that can't keep it is
    refused. The remaining budget is used to forgive failures. A right code resets the lane's
    failures, as long as the lane hasn't used up its wrong guesses of the year
    (``forgiven_in_a_year``). After that a right code is still accepted, but the failures aren't
    reset. Without this limit, an attacker who guesses between the right codes of others would never
    be stopped. An operator's unlock and a new secret reset the failures under the same condition,
    so the promise doesn't depend on how often accounts are unlocked, rotated or enrolled again.

    Attributes:
        failures_per_minute: Failures of one lane in 60 seconds after which it has to wait.
        lock_after: Failures in a row after which a lane is locked. From then on it gets one try
            after each lock, until a code is right or an operator unlocks it, as long as the lane
            hasn't used up its wrong guesses of the year.
        lock_seconds: The duration of the first lock. Each further failure doubles it.
        longest_lock_seconds: The maximum duration of a lock.
        own_lanes: The number of verifiers of other owners that get their own lane for an agent's
            plain codes: the first ones that verified a right code, until they are deactivated. The
            others share the lane "others". Verifiers of the agent's own root owner share the lane
            "family".
        window: Time steps before and after the current one in which a code is valid.
        agents_per_owner: Active agents that one root owner may have.
        agents_per_creator: Active agents that one agent may have created, including those that
            these created in turn. All agents of one root owner together may create three quarters
            of ``agents_per_owner``; a quarter, rounded down, is reserved for agents that people
            create.

    Raises:
        TypeError: A value isn't a number, or a count isn't a whole number.
        ValueError: A number is out of range, or the policy breaks the promise. The message names
            the field and the fix.
    """

    failures_per_minute: int = 5
    lock_after: int = 10
    lock_seconds: float = 900.0
    longest_lock_seconds: float = 30 * 86_400.0
    own_lanes: int = 2
    window: int = 1
    agents_per_owner: int = 20
    agents_per_creator: int = 10

    def __post_init__(self) -> None:
        for each in fields(self):
            least = 0 if each.name in _FIELDS_FROM_ZERO else 1
            value = getattr(self, each.name)
            kind, form = (int | float, "a") if each.name in _FIELDS_IN_SECONDS else (int, "a whole")
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{each.name} must be {form} number, not {type(value).__name__}")
            if not value >= least:
                raise ValueError(f"{each.name} must be at least {least}, not {value!r}")
            if kind is int and value > _MAX_COUNT:
                raise ValueError(f"{each.name} must be at most {_MAX_COUNT:,}")
            if kind is not int and not value <= YEAR:
                raise ValueError(
                    f"{each.name} must be at most a year: deactivate an account to end it"
                )
        if self.longest_lock_seconds < self.lock_seconds:
            raise ValueError(
                "longest_lock_seconds must not be less than lock_seconds "
                f"({self.lock_seconds:g}): raise it"
            )
        if self.window > 2:
            raise ValueError("window must be at most 2 steps, so that codes expire within minutes")
        classes: tuple[LaneClass, ...] = ("people", "plain", "audience")
        for lanes in classes:
            if self.forgiven_in_a_year(lanes) < _MIN_FORGIVEN:
                whose = "a person" if lanes == "people" else "an agent"
                raise ValueError(
                    f"with lock_after={self.lock_after}, lock_seconds={self.lock_seconds:g}, "
                    f"longest_lock_seconds={self.longest_lock_seconds:g}, "
                    f"own_lanes={self.own_lanes} and window={self.window} a year of guessing at "
                    f"{whose} could succeed with a chance of 1 in 1,000: lower lock_after, "
                    "own_lanes or window, or raise lock_seconds or longest_lock_seconds"
                )

    def tries_in_a_year(self) -> int:
        """Return how many codes a lane evaluates in a year without a right one."""
        return tries_in_a_year(self.lock_after, self.lock_seconds, self.longest_lock_seconds)

    def forgiven_in_a_year(self, lanes: LaneClass) -> int:
        """Return how many wrong guesses in a year may be forgiven in one lane.

        Right codes, unlocks and new secrets forgive them.

        Args:
            lanes: ``people`` for the lanes of a person, ``plain`` and ``audience`` for the lanes of
                an agent's plain codes and audience codes, ``first`` for wrong first codes of a
                person's enrolments. Further first codes are refused without evaluation.
        """
        if lanes == "first":
            return FIRST_CODES
        each = {
            "people": (_BUDGET - _FIRST_CODE_CHANCE) / (_PERSON_LANES * _hits(self.window, 6)),
            "plain": _PLAIN_SHARE
            * _BUDGET
            / ((self.own_lanes + _SHARED_LANES) * _hits(self.window, 6)),
            "audience": (1 - _PLAIN_SHARE)
            * _BUDGET
            / (_AUDIENCE_VERIFIERS * _hits(self.window, 8)),
        }
        return int(each[lanes]) - self.tries_in_a_year()

    def chance_of_guessing(
        self, *, people: bool, audience_verifiers: int = _AUDIENCE_VERIFIERS
    ) -> float:
        """Return the largest chance that a year of guessing by everybody succeeds at one account.

        This is the sum over all lanes about the account in the worst case: each uses up its
        forgiven guesses, and then tries once after each lock. For a person, the first codes of
        enrolments are added.

        Args:
            people: Whether the account is a person's; otherwise it is an agent's.
            audience_verifiers: The number of verifiers that guess at audience codes all year. Each
                has its own lane, so each adds a little. People have no audience codes.
        """
        if people:
            return (
                _PERSON_LANES * self._worst("people") * _hits(self.window, 6) + _FIRST_CODE_CHANCE
            )
        plain = (self.own_lanes + _SHARED_LANES) * self._worst("plain") * _hits(self.window, 6)
        return plain + audience_verifiers * self._worst("audience") * _hits(self.window, 8)

    def _worst(self, lanes: LaneClass) -> int:
        return self.tries_in_a_year() + self.forgiven_in_a_year(lanes)


@lru_cache(maxsize=64)
def tries_in_a_year(lock_after: int, lock_seconds: float, longest_lock_seconds: float) -> int:
    """Return how many codes a lane evaluates in a year of failures, beginning with an empty lane.

    Args:
        lock_after: Failures in a row after which the lane is locked; assumed to take no time.
        lock_seconds: The first lock. The lane gets one try after each lock, which doubles it.
        longest_lock_seconds: The longest lock.
    """
    tries, passed, lock = lock_after, float(lock_seconds), float(lock_seconds)
    while passed < YEAR:
        if lock >= longest_lock_seconds:
            # All further locks have this duration.
            return tries + 1 + int((YEAR - passed) // longest_lock_seconds)
        tries += 1
        lock = min(2 * lock, longest_lock_seconds)
        passed += lock
    return tries


def _hits(window: int, digits: int) -> float:
    """Return the chance of one guess, which may hit the code of any step in the window."""
    return (2 * window + 1) / 10.0**digits
