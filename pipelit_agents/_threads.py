"""Threads for calls that would block an event loop, and for calls that may hang.

The loop's default threads also run LangGraph's synchronous nodes and name lookups, which may take
long. Verifications would have to wait in the same queue.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, Generic, ParamSpec, TypeVar

from pipelit_agents._forks import reset_in_forked_children

__all__ = ["Apart", "Stuck", "aside", "handed_over", "to_its_end"]

P = ParamSpec("P")
R = TypeVar("R")

_MAX_THREADS: Final = 16


class _Threads:
    """A pool of threads that are started when needed and kept; a forked child has its own."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Create another pool, because the parent's threads don't exist in the child."""
        self.pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="pipelit")


_THREADS: Final = _Threads()


async def aside(work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run blocking code of this package in the pool, with the caller's context.

    Never run a child's or other foreign code here: if it hangs, it occupies a thread forever. Use
    ``Apart`` for it.
    """
    job = _Job(partial(copy_context().run, work, *args, **kwargs))
    # They may be secrets, and this frame is in the traceback of an error of `work`.
    del args, kwargs
    return await asyncio.get_running_loop().run_in_executor(_THREADS.pool, job)


async def handed_over(work: Callable[[], R], unused: Callable[[R], object]) -> R:
    """Run blocking code in the event loop's own threads, and return its result.

    A task that is cancelled doesn't wait for the thread, which goes on.

    Args:
        work: The code.
        unused: Takes the result, in a thread, if the caller was cancelled before it got it.
    """
    handover = _Handover(work, unused)
    try:
        return await asyncio.to_thread(handover.run)
    except BaseException:
        handover.leave()
        raise


async def to_its_end(work: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Run blocking code in the event loop's own threads, also if the caller is cancelled."""
    job = partial(copy_context().run, work, *args, **kwargs)
    # Otherwise code that waits for a free thread would be cancelled with its caller. The loop waits
    # for its threads when it ends.
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, job))


class _Handover(Generic[R]):
    """A result that a thread hands over to a task, unless the task has left."""

    def __init__(self, work: Callable[[], R], unused: Callable[[R], object]) -> None:
        self._work = work
        self._unused = unused
        self._results: list[R] = []
        self._left = False

    def run(self) -> R:
        """Do the work, in a thread."""
        result = self._work()
        # The result is appended before `_left` is read, and leave() does it the other way round, so
        # one of the two sees the other. If both do, one gets it.
        self._results.append(result)
        if self._left:
            self._take_back()
        return result

    def leave(self) -> None:
        """Note that the task has left. It may have left with the result on its way."""
        self._left = True
        if self._results:
            _THREADS.pool.submit(copy_context().run, self._take_back)

    def _take_back(self) -> None:
        with suppress(IndexError):
            self._unused(self._results.pop())


class _Job:
    """A call that is made once, with arguments that frames in tracebacks don't hold."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call

    def __call__(self) -> Any:
        call, self._call = self._call, None
        assert call is not None  # noqa: S101 - an executor calls it once
        try:
            return call()
        finally:
            del call


class Stuck(Exception):
    """Foreign code didn't return in time, and is still running on its thread."""


class Apart:
    """Run foreign code, each call on a new thread and with a timeout.

    A call that hangs doesn't occupy a thread that the package or the application needs, and the
    process doesn't wait for it at exit. A thread can't be stopped, so calls past their timeout are
    counted: while ``most`` of a name are running, no call of this name is started.

    Args:
        most: The maximum number of hung calls of one name.
        in_all: The maximum number of hung calls of all names together; None for no limit.
    """

    def __init__(self, most: int, *, in_all: int | None = None) -> None:
        self._most = most
        self._in_all = in_all
        # Only calls that are running, so nothing is kept of a name that isn't called.
        self._running: set[_Call] = set()

    def run(self, work: Callable[[], R], *, within: float, of: str = "") -> R:
        """Return the result of the code, or raise its exception.

        Args:
            work: The code.
            within: The timeout in seconds.
            of: The name that the call is counted for.

        Raises:
            Stuck: It took longer, or too many earlier calls are still running.
        """
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        call = self._begin(work, lambda: done.put(None), within, of)
        try:
            done.get(timeout=within)
        except queue.Empty:
            raise Stuck from None
        result: R = call.result()
        return result

    async def arun(self, work: Callable[[], R], *, within: float, of: str = "") -> R:
        """As ``run``, for the event loop."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def notify() -> None:
            # The loop may be closed; then no task waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        call = self._begin(work, notify, within, of)
        try:
            await asyncio.wait_for(done.wait(), within)
        except TimeoutError:
            raise Stuck from None
        result: R = call.result()
        return result

    def _begin(
        self, work: Callable[[], object], notify: Callable[[], None], within: float, of: str
    ) -> _Call:
        # Counted by age, not by who waits for them: a waiting task may have been cancelled.
        late = [each.of for each in list(self._running) if each.late]
        if late.count(of) >= self._most or (self._in_all is not None and len(late) >= self._in_all):
            raise Stuck
        call = _Call(work, notify, within, of, self._running.discard)
        self._running.add(call)
        try:
            call.begin()
        except BaseException:
            self._running.discard(call)
            raise
        return call


class _Call:
    """One call, on its thread.

    Attributes:
        of: The name that it is counted for.
    """

    def __init__(
        self,
        work: Callable[[], object],
        notify: Callable[[], None],
        within: float,
        of: str,
        forget: Callable[[_Call], None],
    ) -> None:
        self._work = work
        self._notify = notify
        self.of = of
        self._due = time.monotonic() + within
        self._forget = forget
        self._result: object = None
        self._error: BaseException | None = None
        run = partial(copy_context().run, self._run)
        self._thread = threading.Thread(target=run, name="pipelit-apart", daemon=True)

    def begin(self) -> None:
        """Start its thread."""
        self._thread.start()

    @property
    def late(self) -> bool:
        """Whether it runs past its timeout; a forked child has none of these threads."""
        return time.monotonic() >= self._due and self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        self._forget(self)
        self._notify()

    def result(self) -> Any:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result
