"""Record refused API keys in the audit: the first ones individually, and floods as counts."""

from __future__ import annotations

import atexit
import logging
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock, Timer
from typing import Final
from weakref import WeakSet

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._run_context import NOWHERE, RunContext
from pipelit_agents.audit.records import EntryValues, entry, write
from pipelit_agents.database.engine import Database
from pipelit_agents.errors import PipelitError

__all__ = ["Refusals"]

_LOG: Final = logging.getLogger(__name__)
# Refusals of one kind that are written individually.
_BURST: Final = 20
# Seconds until one more is, and until the count of the others is written.
_INTERVAL: Final = 60.0
_MAX_KINDS: Final = 1000


class _Kind:
    """Refusals of one account, or of no account, for one reason."""

    __slots__ = ("allowed", "at", "counted")

    def __init__(self, at: float) -> None:
        self.allowed = float(_BURST)
        self.at = at
        self.counted = 0


class Refusals:
    """Write refusals to the audit, and count them during a flood.

    Of each kind (account and reason), twenty refusals are written individually, and then one more
    each minute. The others are counted in memory. A minute after the first of these, one entry
    records their number; ``flush`` writes it too. A killed process loses at most the count of
    its last minute.

    Args:
        database: The database of the audit.
        clock: Returns Unix seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.reset_after_fork()
        reset_in_forked_children(self)
        _ALIVE.add(self)

    def reset_after_fork(self) -> None:
        """Reset the counts in a forked child. The parent writes them."""
        self._lock = Lock()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()
        self._timer: Timer | None = None

    def note(self, who: str, reason: str) -> None:
        """Write a refusal, or count it if there were many of its kind.

        Args:
            who: The key's account, or an empty string.
            reason: Why the key was refused.

        Raises:
            StorageError: The refusal can't be written.
        """
        now = self._clock()
        with self._lock:
            kind = self._kind(who, reason, now)
            if kind.allowed < 1:
                self._add(kind, 1)
                return
            kind.allowed -= 1
            counted, kind.counted = kind.counted, 0
        rows = [self._summary(who, reason, counted, now)] if counted else []
        try:
            with self._database.writing() as connection:
                write(connection, *rows, self._row(who, reason, now))
        except BaseException:
            with self._lock:
                self._add(self._kind(who, reason, now), counted)
            raise

    def count(self, reason: str) -> None:
        """Count a refusal of an unknown key, without using the database."""
        with self._lock:
            self._add(self._kind("", reason, self._clock()), 1)

    def flush(self) -> None:
        """Write the counts.

        Raises:
            StorageError: The counts can't be written. They are kept in memory.
        """
        with self._lock:
            timer, self._timer = self._timer, None
            counted = [(key, kind.counted) for key, kind in self._kinds.items() if kind.counted]
            for key, _ in counted:
                self._kinds[key].counted = 0
        if timer is not None:
            timer.cancel()
        if not counted:
            return
        now = self._clock()
        try:
            with self._database.writing(durable=True) as connection:
                write(connection, *(self._summary(*key, number, now) for key, number in counted))
        except BaseException:
            with self._lock:
                for key, number in counted:
                    self._add(self._kind(*key, now), number)
            raise

    def try_to_flush(self) -> None:
        """Call ``flush``, and log an error instead of raising it."""
        try:
            self.flush()
        except PipelitError as error:
            _LOG.warning("the count of refused API keys can't be written: %s", error)

    def _kind(self, who: str, reason: str, now: float) -> _Kind:
        # The caller holds the lock.
        kind = self._kinds.setdefault((who, reason), _Kind(now))
        self._kinds.move_to_end((who, reason))
        if len(self._kinds) > _MAX_KINDS:
            # Only a caller with keys of a thousand accounts can cause this.
            _, oldest = self._kinds.popitem(last=False)
            self._kinds.setdefault(
                ("", "of several accounts"), _Kind(now)
            ).counted += oldest.counted
        kind.allowed = min(_BURST, kind.allowed + max(0.0, now - kind.at) / _INTERVAL)
        kind.at = now
        return kind

    def _add(self, kind: _Kind, number: int) -> None:
        # The caller holds the lock.
        kind.counted += number
        if kind.counted and self._timer is None:
            self._timer = Timer(_INTERVAL, self.try_to_flush)
            # The process needn't wait for the timer, because the exit handler writes the counts.
            self._timer.daemon = True
            self._timer.start()

    def _summary(self, who: str, reason: str, counted: int, now: float) -> EntryValues:
        return self._row(who, f"{reason}: and {counted} more", now, NOWHERE)

    def _row(
        self, who: str, reason: str, now: float, context: RunContext | None = None
    ) -> EntryValues:
        return entry(
            at=now,
            actor=who,
            subject=who,
            action="authenticate",
            outcome="refused",
            reason=reason,
            context=context,
        )


_ALIVE: Final[WeakSet[Refusals]] = WeakSet()


@atexit.register
def _write_what_was_counted() -> None:
    for each in list(_ALIVE):
        each.try_to_flush()
