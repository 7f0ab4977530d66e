"""How many requests of a kind may run at a time: of one account, and of all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipelit_agents.desk.problems import Problem

__all__ = ["AtOnce"]


class AtOnce:
    """Let a bounded number of requests of a kind run in this process, and refuse others with 429.

    Args:
        most: The maximum number of one account.
        in_all: The maximum number of all accounts together.
        what: What the requests are, for the refusal.
        retry_after: When to try again, in seconds.
    """

    def __init__(self, most: int, *, in_all: int, what: str, retry_after: float) -> None:
        self._most = most
        self._in_all = in_all
        self._what = what
        self._retry_after = retry_after
        self._lock = threading.Lock()
        # Only of accounts whose requests are running.
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """How many are running."""
        return self._running.total()

    @contextmanager
    def begin(self, account: str = "") -> Iterator[None]:
        """Run a request of an account in the block.

        Raises:
            Problem: 429, too many are running.
        """
        with self._lock:
            if self._running[account] >= self._most or self._running.total() >= self._in_all:
                if not self._running[account]:
                    del self._running[account]
                raise Problem(
                    429,
                    "busy",
                    f"too many {self._what} are running: try again when they have ended",
                    retry_after=self._retry_after,
                )
            self._running[account] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[account] -= 1
                if not self._running[account]:
                    del self._running[account]
