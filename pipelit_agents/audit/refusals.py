"""Refusals of API keys in the audit: the first ones each, and of a flood how many there were."""

from __future__ import annotations

import atexit
import logging
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock, Timer
from typing import Any, Final
from weakref import WeakSet

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._run_context import RunContext
from pipelit_agents.audit.records import entry, write
from pipelit_agents.database.engine import Database
from pipelit_agents.errors import PipelitError

__all__ = ["Refusals"]

_LOG: Final = logging.getLogger(__name__)
_FIRST: Final = 20
_EVERY: Final = 60.0
_KINDS: Final = 1000
_NOWHERE: Final = RunContext("", "", "")


class _Kind:
    """Refusals of one account, or of nobody, for one reason."""

    __slots__ = ("allowed", "at", "counted")

    def __init__(self, at: float) -> None:
        self.allowed = float(_FIRST)
        self.at = at
        self.counted = 0


class Refusals:
    """Writes refusals to the audit, and counts those of a flood.

    Of each kind, the account and the reason, twenty are written one by one, and then one more each
    minute. The others are counted in memory. A minute after the first of them one entry says how
    many there were, and so does :meth:`flush`. A process that is killed loses at most the count of
    its last minute.

    Args:
        database: Where the audit is.
        clock: Unix seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.reset_after_fork()
        reset_in_forked_children(self)
        _ALIVE.add(self)

    def reset_after_fork(self) -> None:
        """Forget what was counted; in a forked child the parent writes it."""
        self._lock = Lock()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()
        self._timer: Timer | None = None

    def note(self, who: str, reason: str) -> None:
        """Write a refusal, or count it where there were many of its kind.

        Args:
            who: The account whose key it was, or an empty string.
            reason: Why it was refused.

        Raises:
            StorageError: It can't be written.
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
        """Count a refusal of nobody's that was decided without the database; it writes nothing."""
        with self._lock:
            self._add(self._kind("", reason, self._clock()), 1)

    def flush(self) -> None:
        """Write how many were counted.

        Raises:
            StorageError: It can't be written; what was counted is kept.
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
        """As :meth:`flush`, for those who can't do anything about a failure but log it."""
        try:
            self.flush()
        except PipelitError as error:
            _LOG.warning("refused API keys were counted and can't be written: %s", error)

    def _kind(self, who: str, reason: str, now: float) -> _Kind:
        # Under the lock.
        kind = self._kinds.setdefault((who, reason), _Kind(now))
        self._kinds.move_to_end((who, reason))
        if len(self._kinds) > _KINDS:
            # Only who has keys of a thousand accounts comes here.
            _, oldest = self._kinds.popitem(last=False)
            self._kinds.setdefault(
                ("", "of several accounts"), _Kind(now)
            ).counted += oldest.counted
        kind.allowed = min(_FIRST, kind.allowed + max(0.0, now - kind.at) / _EVERY)
        kind.at = now
        return kind

    def _add(self, kind: _Kind, number: int) -> None:
        # Under the lock.
        kind.counted += number
        if kind.counted and self._timer is None:
            self._timer = Timer(_EVERY, self.try_to_flush)
            # The process doesn't wait for it: when it ends, what was counted is written anyway.
            self._timer.daemon = True
            self._timer.start()

    def _summary(self, who: str, reason: str, counted: int, now: float) -> dict[str, Any]:
        return self._row(who, f"{reason}: and {counted} more", now, _NOWHERE)

    def _row(
        self, who: str, reason: str, now: float, context: RunContext | None = None
    ) -> dict[str, Any]:
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
