"""Serve concurrent requests in batches: one transaction and one hop to a thread for each batch.

No request waits for a batch to fill. Requests that arrive while a batch is served are in the next.

A signal handler, a finalizer (``__del__``), a weak reference's callback or a tracing function may
interrupt a thread while it serves a batch, and may make a request itself. Such a request is served
immediately and alone, so that the thread never waits for itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._threads import aside

__all__ = ["Batching"]

A = TypeVar("A")
R = TypeVar("R")

_UNSERVED: Final[Exception] = RuntimeError("the request is not served yet")
# Seconds that a thread waits for its turn. Then it serves itself: turns only improve speed, and
# the thread that has the turn may wait for this one, as in a signal handler that joins a thread.
_TURN_TIMEOUT: Final = 5.0
# The same, in seconds, if another thread is serving the request. Serving it twice would record it
# twice.
_CLAIMED_TURN_TIMEOUT: Final = 120.0


class _ThreadState(threading.local):
    """Whether this thread is serving a batch, of any instance."""

    serving = False

    def reset_after_fork(self) -> None:
        """Reset it: a forked child serves no batch of its parent."""
        self.serving = False


_THREAD: Final = _ThreadState()
reset_in_forked_children(_THREAD)


class Batching(Generic[A, R]):
    """Requests of many threads and tasks, and one function that answers a batch of them.

    Args:
        serve: Returns the answers in the order of the requests. An exception instead of an answer
            is raised to the caller who made that request. If ``serve`` itself raises an exception,
            each request is served alone, and only requests that still fail raise it.
        largest: The maximum size of a batch.
        usable: Raises an exception if no request can be served now, for example because a server
            is down. Then requests aren't served alone, because each would wait for the same.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[A]], Sequence[R | Exception]],
        *,
        largest: int = 200,
        usable: Callable[[], None] = lambda: None,
    ) -> None:
        self._serve = serve
        self._largest = largest
        self._usable = usable
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Reset the queues: no thread of the parent waits in a forked child."""
        # Held while requests of threads are served; the other threads wait for it. It is reentrant
        # for a thread that is interrupted just after acquiring it or just before releasing it.
        # Everything else here is one step of the interpreter and needs no lock.
        self._serving = threading.RLock()
        self._waiting: deque[_Request[A, R]] = deque()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop[A, R]] = WeakKeyDictionary()

    def ask(self, request: A) -> R:
        """Make a request from a thread, which serves a batch when its turn comes."""
        if _THREAD.serving:
            return _result(self._answers([request])[0])
        own = _Request[A, R](request)
        self._waiting.append(own)
        turn = self._serving
        try:
            # `with` has no timeout.
            acquired = turn.acquire(timeout=_TURN_TIMEOUT) or (
                not own.claim() and turn.acquire(timeout=_CLAIMED_TURN_TIMEOUT)
            )
            own.claim()
            if own.answer is _UNSERVED:
                self._serve_with(own, self._take_waiting() if acquired else [])
        except BaseException:
            # This thread no longer waits, so no other thread needs to serve the request.
            own.claim()
            raise
        finally:
            # Tried even if this thread may not hold the turn: an interrupt between acquiring it and
            # storing that in a variable would hold it forever.
            try:  # noqa: SIM105 - suppress is Python's own code, and can be interrupted too
                turn.release()
            except RuntimeError:
                pass
        return _result(own.answer)

    async def aask(self, request: A) -> R:
        """Make a request from a task."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops.setdefault(loop, _Loop(self._answers, self._largest))
        return _result(await found.ask(loop, request))

    def _take_waiting(self) -> list[_Request[A, R]]:
        # They are claimed first, so that code that interrupts this thread doesn't serve them too.
        # A request that an interrupt leaves unserved is served by its own thread in its turn.
        taken: list[_Request[A, R]] = []
        while len(taken) < self._largest - 1:
            try:
                each = self._waiting.popleft()
            except IndexError:
                break
            if each.claim():
                taken.append(each)
        return taken

    def _serve_with(self, own: _Request[A, R], others: list[_Request[A, R]]) -> None:
        batch = [own, *others]
        answers = self._answers([each.request for each in batch])
        for each, answer in zip(batch, answers, strict=True):
            each.answer = answer

    def _answers(self, requests: Sequence[A]) -> Sequence[R | Exception]:
        outer = _THREAD.serving
        try:
            _THREAD.serving = True
            try:
                return self._serve(requests)
            except Exception as error:
                if len(requests) == 1:
                    return [error]
                return self._serve_each(requests, error)
        finally:
            _THREAD.serving = outer

    def _serve_each(self, requests: Sequence[A], error: Exception) -> Sequence[R | Exception]:
        """Serve each request alone, so that a bad request fails alone."""
        answers: list[R | Exception] = []
        failed = True
        for each in requests:
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
        # Each request gets its own copy, because raising an exception changes it.
        return [*answers, *(_copy_of(error) for _ in requests[len(answers) :])]


def _result(answer: R | Exception) -> R:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _copy_of(error: Exception) -> Exception:
    try:
        made = copy(error)
    except Exception:
        return error
    made.__cause__, made.__suppress_context__ = error.__cause__, True
    return made


class _Request(Generic[A, R]):
    __slots__ = ("_free", "answer", "request")

    def __init__(self, request: A) -> None:
        self.request = request
        self.answer: R | Exception = _UNSERVED
        self._free = [True]

    def claim(self) -> bool:
        """Claim the request in one atomic step; return False if another thread has claimed it."""
        try:
            return self._free.pop()
        except IndexError:
            return False


class _Loop(Generic[A, R]):
    """The requests of one event loop; only that loop's thread uses this object."""

    def __init__(
        self, answers: Callable[[Sequence[A]], Sequence[R | Exception]], largest: int
    ) -> None:
        self._answers = answers
        self._largest = largest
        self._waiting: list[tuple[A, asyncio.Future[R | Exception]]] = []
        self._server: asyncio.Task[None] | None = None

    def ask(self, loop: asyncio.AbstractEventLoop, request: A) -> asyncio.Future[R | Exception]:
        answer: asyncio.Future[R | Exception] = loop.create_future()
        self._waiting.append((request, answer))
        # A finished task can still be here if the loop runs tasks eagerly.
        if self._server is None or self._server.done():
            self._server = loop.create_task(self._serve_all())
        return answer

    async def _serve_all(self) -> None:
        batch: list[tuple[A, asyncio.Future[R | Exception]]] = []
        try:
            while self._waiting:
                batch, self._waiting = (
                    self._waiting[: self._largest],
                    self._waiting[self._largest :],
                )
                answers = await aside(self._answers, [request for request, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
                batch = []
        finally:
            # The loop is closing and cancelled this task: cancel the waiting callers too.
            self._server = None
            for _, future in (*batch, *self._waiting):
                future.cancel()
            self._waiting = []
