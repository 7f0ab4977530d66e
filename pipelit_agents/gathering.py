"""Serves together what is asked at once: one transaction, and one hop to a thread, for all of it.

Nothing waits for company. Whoever comes while others are being served is served with the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from pipelit_agents.forks import begin_anew_in_children
from pipelit_agents.threads import aside

__all__ = ["Gathering"]

A = TypeVar("A")
R = TypeVar("R")

_UNSERVED: Final = object()


class Gathering(Generic[A, R]):
    """Questions of many threads and tasks, and one function that answers many at once.

    Args:
        serve: Answers questions, in order. An exception in the place of an answer is raised where
            its question was asked; one that is raised, wherever one was.
        largest: How many are served at once.
    """

    def __init__(
        self, serve: Callable[[Sequence[A]], Sequence[R | Exception]], *, largest: int = 500
    ) -> None:
        self._serve = serve
        self._largest = largest
        self.begin_here()
        begin_anew_in_children(self)

    def begin_here(self) -> None:
        """Forgets who waits; in a forked child nobody of the parent's does."""
        # Held while questions of threads are served; the others wait for it as in a queue.
        self._serving = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[_Question[A]] = []
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop[A, R]] = WeakKeyDictionary()

    def ask(self, asked: A) -> R:
        """Asks from a thread, which serves whoever waits when its turn comes."""
        question = _Question(asked)
        with self._lock:
            self._waiting.append(question)
        try:
            with self._serving:
                while question.answer is _UNSERVED:
                    self._serve_waiting()
        except BaseException:
            # Nobody waits for it any more.
            with self._lock:
                self._waiting = [each for each in self._waiting if each is not question]
            raise
        answer: R = _given(question.answer)
        return answer

    async def aask(self, asked: A) -> R:
        """Asks from a task."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            with self._lock:
                found = self._loops[loop] = _Loop(self._serve, self._largest)
        answer: R = _given(await found.ask(loop, asked))
        return answer

    def _serve_waiting(self) -> None:
        with self._lock:
            batch = self._waiting[: self._largest]
        # They stay in the queue until they are served: whoever is interrupted in the middle leaves
        # them there, and the next thread serves them.
        try:
            answers = _answers(self._serve, [each.asked for each in batch])
            for each, answer in zip(batch, answers, strict=True):
                each.answer = answer
        finally:
            with self._lock:
                self._waiting = [each for each in self._waiting if each.answer is _UNSERVED]


def _answers(serve: Callable[[Sequence[A]], Sequence[Any]], asked: Sequence[A]) -> Sequence[Any]:
    try:
        return serve(asked)
    except Exception as error:
        # Each gets one of its own: what is raised is changed by whoever it passes.
        return [_like(error) for _ in asked]


def _like(error: Exception) -> Exception:
    try:
        made = copy(error)
    except Exception:
        return error
    made.__cause__, made.__suppress_context__ = error.__cause__, True
    return made


class _Question(Generic[A]):
    __slots__ = ("answer", "asked")

    def __init__(self, asked: A) -> None:
        self.asked = asked
        self.answer: Any = _UNSERVED


class _Loop(Generic[A, R]):
    """The questions of one event loop; only that loop's thread touches them."""

    def __init__(
        self, serve: Callable[[Sequence[A]], Sequence[R | Exception]], largest: int
    ) -> None:
        self._serve = serve
        self._largest = largest
        self._waiting: list[tuple[A, asyncio.Future[Any]]] = []
        self._server: asyncio.Task[None] | None = None

    def ask(self, loop: asyncio.AbstractEventLoop, asked: A) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((asked, answer))
        if self._server is None:
            self._server = loop.create_task(self._serve_all())
        return answer

    async def _serve_all(self) -> None:
        batch: list[tuple[A, asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                batch, self._waiting = (
                    self._waiting[: self._largest],
                    self._waiting[self._largest :],
                )
                answers = await aside(_answers, self._serve, [asked for asked, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
                batch = []
        finally:
            # The loop is closing, and cancelled this task: whoever waits for it is told.
            self._server = None
            for _, future in (*batch, *self._waiting):
                future.cancel()
            self._waiting = []


def _given(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer
