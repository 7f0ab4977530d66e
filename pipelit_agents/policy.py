"""The limits of verification, in one value that a deployment chooses once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final, Literal

__all__ = ["FIRST_CODES", "LaneClass", "VerificationPolicy", "tries_in_a_year"]

LaneClass = Literal["people", "plain", "audience", "first"]

YEAR: Final = 366 * 86_400.0
# The chance of guessing that an account bears in a year has to stay below this.
PROMISED: Final = 1e-3
# Rounding must not reach the promise.
_BUDGET: Final = 0.95 * PROMISED
_AUDIENCE_VERIFIERS: Final = 100
# "self" and "others".
_LANES_OF_A_PERSON: Final = 2
# How many wrong first codes of a person's enrolments are evaluated in a year, whoever begins the
# enrolments: an accepted first code brings the recovery codes, so a wrong one is a guess.
FIRST_CODES: Final = 45
# Time steps on both sides of the present one in which a first code is good, whatever the policy.
FIRST_CODE_WINDOW: Final = 1
# The chance of guessing a first code in a year.
_FIRST: Final = FIRST_CODES * (2 * FIRST_CODE_WINDOW + 1) / 10.0**6
# Of an agent: "family" and "others".
_SHARED_LANES: Final = 2
# Of an agent's budget: a guess at a plain code hits a hundred times as often as one at an audience
# code, but there are more lanes for audience codes, and models make mistakes with them.
_FOR_PLAIN: Final = 0.75
# While an overlap lasts, a guess counts twice, and three quarters may be used at once.
_FEWEST_FORGIVEN: Final = 3
# More than anybody counts to, and what every ledger can write down.
_MOST: Final = 10**9
_SECONDS: Final = frozenset({"lock_seconds", "longest_lock_seconds"})
_NONE_IS_POSSIBLE: Final = frozenset({"window", "own_lanes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPolicy:
    """How many failures a lane bears, and how long its locks last.

    A lane is who asks about whom: see SECURITY.md for the list of lanes. What is counted in one
    lane changes nothing in another.

    The limits keep one promise: if everybody guesses all year as fast as the limits allow, the
    chance of being accepted as one account stays below 1 in 1,000. A policy that can't keep it is
    refused. What the promise leaves room for is used to forgive: a right code ends the lane's
    count of failures, as long as the lane hasn't used up its wrong guesses of the year
    (:meth:`forgiven_in_a_year`). After that a right code is still accepted, but the count stays.
    Without that bound, somebody who guesses between the right codes of others is never stopped.
    An operator's unlock and a new secret end the count under the same condition, so the promise
    doesn't depend on how often accounts are unlocked, rotated or enrolled again.

    Attributes:
        failures_per_minute: Failures of one lane in 60 seconds; then it waits.
        lock_after: Failures in a row after which a lane is locked. From then on it gets one try
            after each lock, until a code is right or an operator unlocks it, as long as the lane
            has something left to forgive.
        lock_seconds: How long the first lock lasts. Each further failure doubles it.
        longest_lock_seconds: How long a lock lasts at the most.
        own_lanes: How many verifiers of other owners get a lane of their own for an agent's plain
            codes: the first that were shown a right one, until they are deactivated. All others
            of them share the lane "others"; verifiers of the agent's own root owner share the
            lane "family".
        window: Time steps before and after the present one in which a code is good.
        agents_per_owner: Living agents that one root owner may have.
        agents_per_creator: Living agents that one agent may have made, with all that these made in
            turn. All agents of one root owner together may make three quarters of
            ``agents_per_owner``; a quarter, rounded down, is kept for agents that people make.

    Raises:
        TypeError: One isn't a number, or one that counts isn't whole.
        ValueError: A number is out of its range, or the policy breaks the promise; the message
            names the field and the fix.
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
            least = 0 if each.name in _NONE_IS_POSSIBLE else 1
            value = getattr(self, each.name)
            kind, form = (int | float, "a") if each.name in _SECONDS else (int, "a whole")
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{each.name} has to be {form} number, not {type(value).__name__}")
            if not value >= least:
                raise ValueError(f"{each.name} must be at least {least}, not {value!r}")
            if kind is int and value > _MOST:
                raise ValueError(f"{each.name} must be at most {_MOST:,}")
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
            raise ValueError("window must be at most 2 steps, so that a code dies within minutes")
        classes: tuple[LaneClass, ...] = ("people", "plain", "audience")
        for lanes in classes:
            if self.forgiven_in_a_year(lanes) < _FEWEST_FORGIVEN:
                whose = "a person" if lanes == "people" else "an agent"
                raise ValueError(
                    f"with lock_after={self.lock_after}, lock_seconds={self.lock_seconds:g}, "
                    f"longest_lock_seconds={self.longest_lock_seconds:g}, "
                    f"own_lanes={self.own_lanes} and window={self.window} a year of guessing at "
                    f"{whose} could succeed with a chance of 1 in 1,000: lower lock_after, "
                    "own_lanes or window, or raise lock_seconds or longest_lock_seconds"
                )

    def tries_in_a_year(self) -> int:
        """Return how many codes a lane evaluates in a year in which none is right."""
        return tries_in_a_year(self.lock_after, self.lock_seconds, self.longest_lock_seconds)

    def forgiven_in_a_year(self, lanes: LaneClass) -> int:
        """Return how many wrong guesses in a year may be forgiven in one lane.

        Right codes, unlocks and new secrets forgive them.

        Args:
            lanes: ``people`` for the lanes of a person, ``plain`` and ``audience`` for those of an
                agent's plain codes and audience codes; ``first`` for wrong first codes of a
                person's enrolments, which are refused unevaluated beyond that.
        """
        if lanes == "first":
            return FIRST_CODES
        each = {
            "people": (_BUDGET - _FIRST) / (_LANES_OF_A_PERSON * _hits(self.window, 6)),
            "plain": _FOR_PLAIN
            * _BUDGET
            / ((self.own_lanes + _SHARED_LANES) * _hits(self.window, 6)),
            "audience": (1 - _FOR_PLAIN) * _BUDGET / (_AUDIENCE_VERIFIERS * _hits(self.window, 8)),
        }
        return int(each[lanes]) - self.tries_in_a_year()

    def chance_of_guessing(
        self, *, people: bool, audience_verifiers: int = _AUDIENCE_VERIFIERS
    ) -> float:
        """Return the most that a year of guessing by everybody can succeed with, at one account.

        It adds up all lanes about the account, each at its worst: it uses up what may be forgiven,
        and then tries once after each lock. For a person it adds the first codes of enrolments.

        Args:
            people: Whether the account is a person's; otherwise an agent's.
            audience_verifiers: How many verifiers guess at audience codes all year. Each has a
                lane of its own, so each adds a little; people have no audience codes.
        """
        if people:
            return _LANES_OF_A_PERSON * self._worst("people") * _hits(self.window, 6) + _FIRST
        plain = (self.own_lanes + _SHARED_LANES) * self._worst("plain") * _hits(self.window, 6)
        return plain + audience_verifiers * self._worst("audience") * _hits(self.window, 8)

    def _worst(self, lanes: LaneClass) -> int:
        return self.tries_in_a_year() + self.forgiven_in_a_year(lanes)


@lru_cache(maxsize=64)
def tries_in_a_year(lock_after: int, lock_seconds: float, longest_lock_seconds: float) -> int:
    """Return how many codes a lane evaluates in a year of failures, from an empty lane on.

    Args:
        lock_after: Failures in a row after which the lane is locked; they take no time here.
        lock_seconds: The first lock. The lane gets one try after each lock, which doubles it.
        longest_lock_seconds: The longest lock.
    """
    tries, passed, lock = lock_after, float(lock_seconds), float(lock_seconds)
    while passed < YEAR:
        if lock >= longest_lock_seconds:
            # From here on all locks are as long.
            return tries + 1 + int((YEAR - passed) // longest_lock_seconds)
        tries += 1
        lock = min(2 * lock, longest_lock_seconds)
        passed += lock
    return tries


def _hits(window: int, digits: int) -> float:
    """The chance of one guess, which may hit the code of any step in the window."""
    return (2 * window + 1) / 10.0**digits
