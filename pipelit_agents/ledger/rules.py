"""The limits, as pure functions: no clock, no database.

``decide`` is the whole decision about one attempt. ``SqlLedger`` calls it, ``decide.lua``
repeats it for Redis, and ``tests/test_ledgers_agree.py`` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, get_args

from pipelit_agents.ledger.attempts import Account, Attempt, Verdict
from pipelit_agents.policy import YEAR, LaneClass, VerificationPolicy
from pipelit_agents.protocol.binding import PERIOD

__all__ = [
    "EARLIEST",
    "Found",
    "Lane",
    "Peer",
    "Rules",
    "Ruling",
    "Spent",
    "State",
    "as_ranges",
    "class_of",
    "compared",
    "decide",
    "expired",
    "find_steps",
    "last_step",
    "spent_ahead",
    "was_expired",
    "window_of",
]

# November 2023, before the first release: a clock that says less is wrong.
EARLIEST: Final = 1_700_000_000.0
# A code that was right in the last ten minutes was made by the peer, and is no guess.
_EXPIRED_STEPS: Final = 20
# 2.0 to the power of more doesn't fit into a float.
_MOST_DOUBLINGS: Final = 60
# The part of a year's forgiveness that may be used at once.
_AT_ONCE: Final = 0.75
_LONGEST_FORGIVEN: Final = YEAR * _AT_ONCE / (1 - _AT_ONCE)


class Lane(NamedTuple):
    """The counts of one lane.

    Attributes:
        in_a_row: Failures since the last valid code. The end of a lock doesn't change this number.
        recent: The times of the failures of the last minute, in Unix seconds, ascending.
        locked_until: The end of its lock.
        whole_at: The time at which the lane has its whole yearly allowance of wrong guesses again.
            Each wrong guess moves it. A valid code, an unlock or a new secret doesn't.
    """

    in_a_row: int = 0
    recent: tuple[float, ...] = ()
    locked_until: float = 0.0
    whole_at: float = 0.0


class Spent(NamedTuple):
    """The last time steps that were spent.

    Attributes:
        step: The last one of the current secret; -1 if there is none.
        previous: The last one of the previous secret, whose codes may be valid for a while.
    """

    step: int = -1
    previous: int = -1


class Found(NamedTuple):
    """What was found out about a code.

    Attributes:
        unfit: Why no code is accepted whatever it says; empty where one may be.
        steps: The steps in which it is a code of the present secret.
        previous: The steps in which it is a code of the previous one.
    """

    unfit: str
    steps: Sequence[int]
    previous: Sequence[int] = ()


class State(NamedTuple):
    """The state that a ledger stores for one attempt.

    Attributes:
        lane: The counts of the lane of the attempt.
        spent: What was spent; of a verifier's audience codes, or of all plain codes of the peer.
        ahead: The steps that were spent while the clock was ahead, as ``as_ranges``.
    """

    lane: Lane = Lane()
    spent: Spent = Spent()
    ahead: str = ""


class Ruling(NamedTuple):
    """The result of one attempt.

    Attributes:
        verdict: The decision that the caller gets.
        reason: The true reason, for the audit.
        lane: The new counts of the lane.
        spent: The new spent steps.
        step: The step of an accepted code.
        retry_after: Seconds to wait, if the code wasn't evaluated.
        first_lock: Whether this failure locked the lane for the first time.
    """

    verdict: Verdict
    reason: str
    lane: Lane
    spent: Spent
    step: int = 0
    retry_after: float | None = None
    first_lock: bool = False


class Peer(NamedTuple):
    """The peer of an attempt.

    Attributes:
        account: Its secrets; None if there is no such account.
        unfit: Why no code of it can be accepted; empty if one can.
        lanes: The class of the lane that the attempt counts in.
    """

    account: Account | None
    unfit: str
    lanes: LaneClass


class Rules:
    """The limits of a policy.

    Args:
        policy: The limits.
    """

    def __init__(self, policy: VerificationPolicy) -> None:
        self.policy: Final = policy
        tries = policy.tries_in_a_year()
        self._costs: dict[LaneClass, float] = {}
        self._longest_debts: dict[LaneClass, float] = {}
        for lanes in get_args(LaneClass):
            forgiven = policy.forgiven_in_a_year(lanes)
            # In any year as many: three quarters of them at once, and a quarter as the allowance
            # grows again.
            cost = self._costs[lanes] = YEAR / (forgiven * (1 - _AT_ONCE))
            self._longest_debts[lanes] = (forgiven + 2 * tries) * cost

    def cost(self, lanes: LaneClass) -> float:
        """Return the number of seconds by which a wrong guess moves ``Lane.whole_at``."""
        return self._costs[lanes]

    def longest_debt(self, lanes: LaneClass) -> float:
        """Return how far ahead of the clock ``Lane.whole_at`` can be, in seconds."""
        return self._longest_debts[lanes]

    def lock_of(self, in_a_row: int) -> float:
        """Return the duration of the lock after a number of failures in a row, in seconds."""
        doublings = min(max(0, in_a_row - self.policy.lock_after), _MOST_DOUBLINGS)
        return min(self.policy.lock_seconds * 2.0**doublings, self.policy.longest_lock_seconds)

    def lock_end(self, in_a_row: int, now: float) -> float:
        """Return the end of the lock that a failure sets; 0 if it sets none.

        Args:
            in_a_row: Failures in a row, with this one.
            now: The time by the ledger's clock, in Unix seconds.
        """
        return now + self.lock_of(in_a_row) if in_a_row >= self.policy.lock_after else 0.0

    def seen(self, lane: Lane, now: float, lanes: LaneClass) -> Lane:
        """Return a lane as it applies now, whatever the clock was when it was written.

        A clock that was ahead may have written times in the future. None of them has an effect for
        longer than if it had been written now.
        """
        recent = tuple(min(at, now) for at in lane.recent if at > now - 60)
        locked_until = lane.locked_until
        if locked_until > now:
            locked_until = min(locked_until, now + self.lock_of(lane.in_a_row))
        whole_at = lane.whole_at
        if whole_at > now:
            whole_at = min(whole_at, now + self._longest_debts[lanes])
        return Lane(lane.in_a_row, recent, locked_until, whole_at)

    def forgives(self, lane: Lane, now: float) -> bool:
        """Return whether a valid code, an unlock or a new secret resets the count of the lane."""
        return lane.whole_at <= now + _LONGEST_FORGIVEN

    def wait(self, guesses: int, lane: Lane, now: float, lanes: LaneClass) -> float:
        """Return the seconds until a lane may make this many more wrong guesses in its year.

        The result is 0 or less if it may make them now. Otherwise a code is evaluated only after
        each lock, and only under the current secret: during an overlap of two secrets, a guess
        could match the code of either.
        """
        return max(lane.whole_at, now) + guesses * self._costs[lanes] - now - _LONGEST_FORGIVEN

    def charged(self, lane: Lane, now: float, lanes: LaneClass, guesses: int = 1) -> float:
        """Return ``whole_at`` of a lane after a number of wrong guesses."""
        return max(lane.whole_at, now) + guesses * self._costs[lanes]

    def unlocked(self, lane: Lane, now: float, lanes: LaneClass) -> Lane:
        """Return a lane after an unlock, or under a new secret of the peer.

        The count of failures is reset as it is after a valid code, but not if the guesses of the
        year are used up. Otherwise frequent unlocks or rotations would give a guesser more
        guesses than the policy allows in a year.

        What was written while the clock was ahead is repaired. Then nobody knows what the lane has
        left, so it has nothing left to give but this one unlock, and gets it back in time.
        """
        if now < EARLIEST:
            # This clock can't tell what is ahead of it.
            return lane
        whole_at = lane.whole_at
        if whole_at > now + self._longest_debts[lanes]:
            whole_at = now + _LONGEST_FORGIVEN
        lane = self.seen(lane, now, lanes)._replace(recent=(), whole_at=whole_at)
        return Lane(whole_at=whole_at) if self.forgives(lane, now) else lane

    def held(self, lane: Lane, spent: Spent, now: float) -> Ruling | None:
        """Return why a lane, as ``seen``, evaluates no code now; None if it does."""
        if lane.locked_until > now:
            return Ruling("locked", "lane locked", lane, spent, retry_after=lane.locked_until - now)
        most = self.policy.failures_per_minute
        if len(lane.recent) >= most:
            wait = lane.recent[-most] + 60 - now
            return Ruling("limited", "rate limited", lane, spent, retry_after=wait)
        return None

    def refused(
        self, lane: Lane, spent: Spent, reason: str, now: float, cost: float = 0.0
    ) -> Ruling:
        """Count a failure in a lane that isn't ``held``.

        Args:
            lane: As ``seen``.
            spent: What was spent.
            reason: The true reason.
            now: The time by the ledger's clock, in Unix seconds.
            cost: The number of seconds by which it moves ``Lane.whole_at``; 0 if it was no guess.
        """
        in_a_row = lane.in_a_row + 1
        recent, locked_until = (*lane.recent, now), lane.locked_until
        if lock_end := self.lock_end(in_a_row, now):
            recent, locked_until = (), lock_end
        whole_at = max(lane.whole_at, now) + cost if cost else lane.whole_at
        first_lock = in_a_row == self.policy.lock_after
        lane = Lane(in_a_row, recent, locked_until, whole_at)
        return Ruling("rejected", reason, lane, spent, first_lock=first_lock)


def class_of(kind: str, *, person: bool) -> LaneClass:
    """Return the class of a lane.

    Args:
        kind: Of the row, as ``LaneKind``.
        person: Whether the account is a person's.
    """
    if kind == "pair":
        return "audience"
    if kind == "first":
        return "first"
    # No guess counts in the lane "nobody", so its class must not depend on the account.
    return "people" if person or kind in ("self", "nobody") else "plain"


def window_of(now: float, window: int) -> range:
    """Return the steps in which a code is good at a moment."""
    present = int(now) // PERIOD
    return range(max(0, present - window), present + window + 1)


def expired(now: float, window: int) -> range:
    """Return the steps in which a code was good a few minutes before a moment."""
    first = window_of(now, window)[0]
    return range(max(0, first - _EXPIRED_STEPS), first)


def _unspent(steps: Sequence[int], spent: int) -> Sequence[int]:
    return [max(steps)] if steps and max(steps) > spent else ()


def decide(
    state: State, attempt: Attempt, peer: Peer, rules: Rules, now: float, *, forgotten: int = -1
) -> tuple[State, Ruling]:
    """Decide one attempt.

    Args:
        state: The counts and spent steps until now.
        attempt: The attempt. Its code is compared, unless a limit ends the attempt first.
        peer: The facts about the peer.
        rules: The limits.
        now: The time by the ledger's clock, in Unix seconds.
        forgotten: The last step that may have been spent in commits that were lost. No code of
            that step or an earlier one is accepted.

    Returns:
        The new state, and the result of the attempt.
    """
    lane = rules.seen(state.lane, now, peer.lanes)
    ruling = rules.held(lane, state.spent, now)
    if ruling is None:
        ruling = _judged(lane, state, attempt, peer, rules, now, forgotten)
    return State(ruling.lane, ruling.spent, state.ahead), ruling


def _judged(
    lane: Lane, state: State, attempt: Attempt, peer: Peer, rules: Rules, now: float, forgotten: int
) -> Ruling:
    """Compare the code, in a lane as ``Rules.seen`` that isn't ``Rules.held``, and decide."""
    window, spent = rules.policy.window, state.spent
    account, secrets = compared(peer.account, rules, lane, now, peer.lanes)
    found = find_steps(attempt, account, peer.unfit, window_of(now, window), state.ahead)
    step = max(
        (*_unspent(found.steps, spent.step), *_unspent(found.previous, spent.previous)),
        default=-1,
    )
    if found.unfit:
        reason = found.unfit
    elif not found.steps and not found.previous:
        reason = "wrong code"
    elif step < 0:
        held = spent.step if found.steps else spent.previous
        reason = "spent step ahead of the clock" if held > last_step(now, window) else "replay"
    elif step <= forgotten:
        reason = "step from before a restart"
    else:
        if rules.forgives(lane, now):
            lane = Lane(whole_at=lane.whole_at)
        # A step that was spent by one of two secrets isn't good by the other.
        spent = Spent(max(spent.step, step), max(spent.previous, step))
        return Ruling("accepted", "", lane, spent, step)
    # A code that was right when it was made is the peer's own, and no guess. It is compared at each
    # refusal, whatever the reason, so that all refusals take the same time.
    guessed = not was_expired(attempt, account, now, window) and reason == "wrong code"
    # A guess may match the code of either of two secrets.
    cost = secrets * rules.cost(peer.lanes) if guessed else 0.0
    return rules.refused(lane, spent, reason, now, cost)


def compared(
    account: Account | None, rules: Rules, lane: Lane, now: float, lanes: LaneClass
) -> tuple[Account | None, int]:
    """Return the account with the secrets that a code is compared with, and their number.

    Args:
        account: The peer's.
        rules: The limits.
        lane: In which the attempt counts, as ``Rules.seen``.
        now: The time by the ledger's clock, in Unix seconds.
        lanes: The class of the lane.
    """
    if account is None or account.previous is None:
        return account, 1
    if rules.wait(2, lane, now, lanes) <= 0:
        return account, 2
    return account._replace(previous=None), 1


def find_steps(
    attempt: Attempt, account: Account | None, unfit: str, steps: range, ahead: str | None
) -> Found:
    """Compare the code with each secret in each step.

    Args:
        attempt: The attempt.
        account: The peer's.
        unfit: Why no code is accepted; empty where one may be.
        steps: The steps.
        ahead: The column ``spent_ahead`` of the row of what is spent.
    """
    if account is None or account.previous is None:
        found = Found(unfit, attempt.matches(account, steps))
    else:
        present = attempt.matches(account._replace(previous=None), steps)
        before = account._replace(secret=account.previous, previous=None)
        found = Found(unfit, present, attempt.matches(before, steps))
    if ahead and not unfit and spent_ahead(ahead).intersection((*found.steps, *found.previous)):
        return found._replace(unfit="replay")
    return found


def was_expired(attempt: Attempt, account: Account | None, now: float, window: int) -> bool:
    """Return whether the code was right a few minutes ago.

    Each refusal pays for this comparison, so that the time taken doesn't tell them apart.
    """
    return bool(attempt.matches(account, expired(now, window)))


def last_step(moment: float, window: int) -> int:
    """Return the last step in which a code is good at a moment."""
    return int(moment) // PERIOD + window


def spent_ahead(ahead: str) -> set[int]:
    """Return the steps of a text of ``as_ranges``."""
    return {
        step
        for first, last in (map(int, each.split("-")) for each in ahead.split())
        for step in range(first, last + 1)
    }


def as_ranges(steps: set[int]) -> str:
    """Return steps as text, for example ``60-62 70-70``."""
    ranges: list[list[int]] = []
    for step in sorted(steps):
        if ranges and step == ranges[-1][1] + 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    return " ".join(f"{first}-{last}" for first, last in ranges)
