"""Threads of the package's own, for what would block an event loop, and for what may hang.

The loop's default threads also run LangGraph's synchronous nodes and look names up, for as long as
those like: whoever is to be verified would stand in one queue with them.
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
from typing import Any, Final, ParamSpec, TypeVar

from pipelit_agents._forks import reset_in_forked_children

__all__ = ["Apart", "Stuck", "aside"]

P = ParamSpec("P")
R = TypeVar("R")

_MOST: Final = 16


class _Threads:
    """Threads that come as they are needed, and stay; a forked child has its own."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Forgets the parent's threads, which aren't in the child."""
        self.pool = ThreadPoolExecutor(_MOST, thread_name_prefix="pipelit")


_THREADS: Final = _Threads()


async def aside(work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Does something of this package that blocks, off the event loop, in the caller's context.

    Never a child's code, or another's: what hangs would hold a thread for good. That runs
    :class:`Apart`.
    """
    job = _Job(partial(copy_context().run, work, *args, **kwargs))
    # They may be secrets, and this frame is in the traceback of what the work raises.
    del args, kwargs
    return await asyncio.get_running_loop().run_in_executor(_THREADS.pool, job)


class _Job:
    """A call that is made once, and shows its arguments to nobody who looks at frames."""

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
    """Another's code didn't come back in time, and goes on by itself."""


class Apart:
    """Runs another's code, each call on a thread of its own and for a limited time.

    What hangs there holds none of the threads that the package or the application needs, and no
    process waits for it at its end. A thread can't be ended, so those that are past their time are
    counted: while ``most`` of them are left, nothing more is begun.

    Args:
        most: How many hung calls are borne.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: set[_Call] = set()

    def run(self, work: Callable[[], R], *, within: float) -> R:
        """Return what the code returns, or raise what it raises.

        Args:
            work: The code.
            within: Seconds that it may take.

        Raises:
            Stuck: It took longer, or too many earlier calls haven't come back.
        """
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        call = self._begin(work, lambda: done.put(None), within)
        try:
            done.get(timeout=within)
        except queue.Empty:
            raise Stuck from None
        result: R = call.result()
        return result

    async def arun(self, work: Callable[[], R], *, within: float) -> R:
        """As :meth:`run`, for the event loop."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell() -> None:
            # The loop may be closed: nobody waits there any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        call = self._begin(work, tell, within)
        try:
            await asyncio.wait_for(done.wait(), within)
        except TimeoutError:
            raise Stuck from None
        result: R = call.result()
        return result

    def _begin(self, work: Callable[[], object], tell: Callable[[], None], within: float) -> _Call:
        # By their age, as nobody may wait for them any more: a task can be cancelled.
        if sum(each.late for each in list(self._running)) >= self._most:
            raise Stuck
        call = _Call(work, tell, within, self._running.discard)
        self._running.add(call)
        try:
            call.begin()
        except BaseException:
            self._running.discard(call)
            raise
        return call


class _Call:
    """One call, on its thread."""

    def __init__(
        self,
        work: Callable[[], object],
        tell: Callable[[], None],
        within: float,
        forget: Callable[[_Call], None],
    ) -> None:
        self._work = work
        self._tell = tell
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
        """Whether its time is over, and it isn't; a forked child has none of these threads."""
        return time.monotonic() >= self._due and self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        self._forget(self)
        self._tell()

    def result(self) -> Any:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result
