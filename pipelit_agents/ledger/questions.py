"""A bound on refused questions: one asker can neither probe for names nor fill the audit trail."""

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
    """Whether a question is looked at.

    Attributes:
        wait: Seconds until the asker may ask again; 0 where it may ask now.
        is_noted: Whether it is to be audited that the asker has to wait: once a minute.
    """

    wait: float
    is_noted: bool


@dataclass(slots=True)
class _Asker:
    refused: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_REFUSED))
    noted: float = float("-inf")


class QuestionLimit:
    """Counts the refused questions of each asker in this process, 20 a minute at the most.

    Each asker is counted by itself, so that nobody is slowed down by another. The count is kept in
    memory and bounded: it protects the audit trail and names, and no secret is guessed against it.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Count from the beginning; a forked child doesn't inherit a lock that may be held."""
        self._lock = threading.Lock()
        self._askers: OrderedDict[tuple[str, str], _Asker] = OrderedDict()

    def admit(self, asker: str, action: str, now: float) -> Admission:
        """Say whether a question is looked at.

        Args:
            asker: Who asks.
            action: What is asked; each action is counted by itself.
            now: Unix seconds.
        """
        with self._lock:
            asked = self._askers.get((asker, action))
            if asked is None:
                return Admission(0.0, is_noted=False)
            # A clock that was set back leaves moments in the future: they don't count.
            recent = [at for at in asked.refused if now - _SECONDS < at <= now]
            if len(recent) < MOST_REFUSED:
                return Admission(0.0, is_noted=False)
            is_noted = not now - _SECONDS < asked.noted <= now
            if is_noted:
                asked.noted = now
            return Admission(recent[0] + _SECONDS - now, is_noted)

    def count(self, asker: str, action: str, now: float) -> None:
        """Count a question that was refused; arguments as for :meth:`admit`."""
        with self._lock:
            asked = self._askers.setdefault((asker, action), _Asker())
            asked.refused.append(now)
            self._askers.move_to_end((asker, action))
            if len(self._askers) > _MOST_ASKERS:
                self._askers.popitem(last=False)
