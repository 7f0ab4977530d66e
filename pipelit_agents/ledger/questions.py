"""Limit refused requests, so that a caller can neither probe for names nor fill the audit trail."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipelit_agents._forks import reset_in_forked_children

__all__ = ["Admission", "QuestionLimit"]

MOST_REFUSED: Final = 20
_SECONDS: Final = 60.0
_MOST_ASKERS: Final = 4096


class Admission(NamedTuple):
    """Whether a request is processed.

    Attributes:
        wait: Seconds until the caller's requests are processed again; 0 if they are processed now.
        is_noted: Whether to write to the audit that the caller has to wait. It is true once a
            minute.
    """

    wait: float
    is_noted: bool


@dataclass(slots=True)
class _Asker:
    refused: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_REFUSED))
    noted: float = float("-inf")


class QuestionLimit:
    """Limits the refused requests of each caller in this process to 20 a minute.

    Each caller is counted separately, so that no caller is slowed down by another. The counts are
    in memory, and their number is limited. They protect the audit trail and the names of accounts;
    no secret depends on them.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Start without counts in a forked child, with a lock that no thread holds."""
        self._lock = threading.Lock()
        self._askers: OrderedDict[tuple[str, str], _Asker] = OrderedDict()

    def admit(self, asker: str, action: str, now: float) -> Admission:
        """Return whether a request is processed.

        Args:
            asker: The caller.
            action: The requested action. Each action is counted separately.
            now: Unix seconds.
        """
        with self._lock:
            asked = self._askers.get((asker, action))
            if asked is None:
                return Admission(0.0, is_noted=False)
            # Ignore moments in the future, which are left when a clock is set back.
            recent = [at for at in asked.refused if now - _SECONDS < at <= now]
            if len(recent) < MOST_REFUSED:
                return Admission(0.0, is_noted=False)
            is_noted = not now - _SECONDS < asked.noted <= now
            if is_noted:
                asked.noted = now
            return Admission(recent[0] + _SECONDS - now, is_noted)

    def count(self, asker: str, action: str, now: float) -> None:
        """Count a refused request; the arguments are those of ``admit``."""
        with self._lock:
            asked = self._askers.setdefault((asker, action), _Asker())
            asked.refused.append(now)
            self._askers.move_to_end((asker, action))
            if len(self._askers) > _MOST_ASKERS:
                self._askers.popitem(last=False)
