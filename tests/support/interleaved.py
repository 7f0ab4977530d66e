"""Two operations on one database, of which the second runs while the first is halted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import psycopg
from statements import before_each_statement

from pipelit_agents import Pipelit

_WAITING = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


class Halt:
    """One thread that stands still before a statement, until it is released."""

    def __init__(self) -> None:
        self.reached = Event()
        self._released = Event()

    def stand(self) -> None:
        """Stand still, once."""
        if not self.reached.is_set():
            self.reached.set()
            assert self._released.wait(60)

    def release(self) -> None:
        """Go on."""
        self._released.set()


@contextmanager
def halted_before(pipelit: Pipelit, words: str) -> Iterator[Halt]:
    """Halt the first statement of a Pipelit that has these words."""
    halt = Halt()

    def stand(statement: str) -> None:
        if words in statement:
            halt.stand()

    with before_each_statement(pipelit, stand):
        try:
            yield halt
        finally:
            halt.release()


def interleaved(
    url: str, pipelit: Pipelit, words: str, first: Callable[[], Any], second: Callable[[], Any]
) -> tuple[Any, Any]:
    """Run the second while the first is halted before a statement; return what came of them.

    The first goes on when the second has ended, or waits for a lock of the first.

    Args:
        url: The address of the database, a PostgreSQL server's.
        pipelit: The Pipelit of the first.
        words: Of the statement.
        first: An operation of this Pipelit.
        second: An operation of another one on the same database.
    """
    with (
        halted_before(pipelit, words) as halt,
        ThreadPoolExecutor(2) as threads,
        psycopg.connect(url, autocommit=True) as watching,
    ):
        one = threads.submit(first)
        one.add_done_callback(lambda _: halt.reached.set())
        assert halt.reached.wait(60)
        assert not one.done(), _came_of(one)
        other = threads.submit(second)
        while not other.done() and watching.execute(_WAITING).fetchone() == (0,):
            pass
        halt.release()
        return _came_of(one), _came_of(other)


def _came_of(future: Future[Any]) -> Any:
    return future.exception() or future.result()
