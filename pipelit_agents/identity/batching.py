"""Serves together what is asked at once: one transaction, and one hop to a thread, for all of it.

Nothing waits for company. Whoever comes while others are being served is served with the next.

A thread may be interrupted while it serves, by a signal handler, by a finalizer (``__del__``) or a
weak reference's callback, or by a tracing function, and those may ask too. They are served at once
and by themselves: the thread never waits for what it is itself in the middle of.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._threads import aside

__all__ = ["Batching"]

A = TypeVar("A")
R = TypeVar("R")

_UNSERVED: Final = object()
# Seconds that a thread waits for its turn. Then it serves itself: the turn is for speed alone, and
# the thread that has it may wait for this one, as in a signal handler that joins a thread.
_PATIENCE: Final = 5.0
# The same for a thread whose question another is answering: answered twice, it is recorded twice.
_LONG_PATIENCE: Final = 120.0


class _Here(threading.local):
    """What this thread is in the middle of, in any gathering."""

    serving = False

    def reset_after_fork(self) -> None:
        """Forget it; in a forked child it is the parent that serves."""
        self.serving = False


_HERE: Final = _Here()
reset_in_forked_children(_HERE)


class Batching(Generic[A, R]):
    """Questions of many threads and tasks, and one function that answers many at once.

    Args:
        serve: Answers questions, in order. An exception in the place of an answer is raised where
            its question was asked. Where it raises one itself, each question is served alone, and
            the exception is raised where it still is.
        largest: How many are served at once.
        usable: Raises where no question can be answered now, as where a server is away. Then
            nothing is tried alone: each question would wait for the same.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[A]], Sequence[R | Exception]],
        *,
        largest: int = 500,
        usable: Callable[[], None] = lambda: None,
    ) -> None:
        self._serve = serve
        self._largest = largest
        self._usable = usable
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Forgets who waits; in a forked child nobody of the parent's does."""
        # Held while questions of threads are served; the others wait for it as in a queue. A thread
        # that is interrupted just after it took it, or just before it gives it back, takes it once
        # more. Everything else here is one step of the interpreter, and needs no lock.
        self._serving = threading.RLock()
        self._waiting: deque[_Question[A]] = deque()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop[A, R]] = WeakKeyDictionary()

    def ask(self, asked: A) -> R:
        """Asks from a thread, which serves whoever waits when its turn comes."""
        if _HERE.serving:
            return self._given(self._answers([asked])[0])
        question = _Question(asked)
        self._waiting.append(question)
        turn = self._serving
        try:
            # Not by `with`, which has no limit.
            mine = turn.acquire(timeout=_PATIENCE) or (
                not question.claim() and turn.acquire(timeout=_LONG_PATIENCE)
            )
            question.claim()
            if question.answer is _UNSERVED:
                self._serve_with(question, self._company() if mine else [])
        except BaseException:
            # Nobody waits for it any more.
            question.claim()
            raise
        finally:
            # Tried, where the turn may not be this thread's: an interrupt between taking it and
            # remembering that in a variable would keep it for good.
            try:  # noqa: SIM105 - suppress is Python's own code, and can be interrupted too
                turn.release()
            except RuntimeError:
                pass
        return self._given(question.answer)

    async def aask(self, asked: A) -> R:
        """Asks from a task."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops.setdefault(loop, _Loop(self._answers, self._largest))
        return self._given(await found.ask(loop, asked))

    def _company(self) -> list[_Question[A]]:
        # Taken out at once, so that whoever interrupts this thread doesn't serve them too. One that
        # is left unserved by an interrupt serves itself when its turn comes.
        company: list[_Question[A]] = []
        while len(company) < self._largest - 1:
            try:
                each = self._waiting.popleft()
            except IndexError:
                break
            if each.claim():
                company.append(each)
        return company

    def _serve_with(self, question: _Question[A], company: list[_Question[A]]) -> None:
        batch = [question, *company]
        answers = self._answers([each.asked for each in batch])
        for each, answer in zip(batch, answers, strict=True):
            each.answer = answer

    def _answers(self, asked: Sequence[A]) -> Sequence[R | Exception]:
        outer = _HERE.serving
        try:
            _HERE.serving = True
            try:
                return self._serve(asked)
            except Exception as error:
                if len(asked) == 1:
                    return [error]
                return self._alone(asked, error)
        finally:
            _HERE.serving = outer

    def _alone(self, asked: Sequence[A], error: Exception) -> Sequence[R | Exception]:
        """Serves each by itself, so that whatever is in one of them fails that one alone."""
        answers: list[R | Exception] = []
        failed = True
        for each in asked:
            if failed:
                try:
                    self._usable()
                except Exception as unusable:
                    error = unusable
                    break
            try:
                (answer,) = self._serve([each])
            except Exception as own:
                answer = own
                failed = True
            else:
                failed = False
            answers.append(answer)
        # Each gets one of its own: what is raised is changed by whoever it passes.
        return [*answers, *(_like(error) for _ in asked[len(answers) :])]

    @staticmethod
    def _given(answer: Any) -> R:
        if isinstance(answer, Exception):
            raise answer
        given: R = answer
        return given


def _like(error: Exception) -> Exception:
    try:
        made = copy(error)
    except Exception:
        return error
    made.__cause__, made.__suppress_context__ = error.__cause__, True
    return made


class _Question(Generic[A]):
    __slots__ = ("_free", "answer", "asked")

    def __init__(self, asked: A) -> None:
        self.asked = asked
        self.answer: Any = _UNSERVED
        self._free = [True]

    def claim(self) -> bool:
        """Take it; False where another thread did. One step, whichever threads try."""
        try:
            return self._free.pop()
        except IndexError:
            return False


class _Loop(Generic[A, R]):
    """The questions of one event loop; only that loop's thread touches them."""

    def __init__(
        self, answers: Callable[[Sequence[A]], Sequence[R | Exception]], largest: int
    ) -> None:
        self._answers = answers
        self._largest = largest
        self._waiting: list[tuple[A, asyncio.Future[Any]]] = []
        self._server: asyncio.Task[None] | None = None

    def ask(self, loop: asyncio.AbstractEventLoop, asked: A) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((asked, answer))
        # One that is over can still be here, where a loop runs tasks when they are created.
        if self._server is None or self._server.done():
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
                answers = await aside(self._answers, [asked for asked, _ in batch])
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
