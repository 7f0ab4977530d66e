"""Describe what a row of the ledger has from a time when the clock was ahead; for operators."""

from __future__ import annotations

from typing import Protocol

from pipelit_agents.ledger.rules import Rules, class_of, last_step
from pipelit_agents.protocol.binding import PERIOD

__all__ = ["LedgerRow", "clock_trouble"]


class LedgerRow(Protocol):
    """A row of the table ``pipelit_ledger``."""

    @property
    def scope(self) -> str:
        """The kind of its lane."""

    @property
    def spent_step(self) -> int:
        """As ``Spent.step``."""

    @property
    def spent_previous(self) -> int:
        """As ``Spent.previous``."""

    @property
    def locked_until(self) -> float:
        """As ``Lane.locked_until``."""

    @property
    def in_a_row(self) -> int:
        """As ``Lane.in_a_row``."""

    @property
    def recent(self) -> str:
        """As ``Lane.recent``, separated by spaces."""

    @property
    def whole_at(self) -> float:
        """As ``Lane.whole_at``."""


def clock_trouble(row: LedgerRow, rules: Rules, now: float, *, person: bool) -> str:
    """Return what a row of the ledger has from a time when the clock was ahead, in words.

    Args:
        row: The row.
        rules: The limits.
        now: The time by the ledger's clock, in Unix seconds.
        person: Whether the row is about a person.
    """
    if max(row.spent_step, row.spent_previous) > last_step(now, rules.policy.window):
        return "a spent time step is ahead of the clock"
    if row.locked_until > now + rules.lock_of(row.in_a_row):
        return "a lock ends later than any lock lasts"
    if any(float(at) > now + PERIOD for at in row.recent.split()):
        return "a failure is ahead of the clock"
    if row.whole_at > now + rules.longest_debt(class_of(row.scope, person=person)):
        return "the yearly allowance is ahead of the clock"
    return ""
