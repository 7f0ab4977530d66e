"""Stop waiting for a child when its timeout is over."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar, cast

from langgraph.runtime import RunControl

from .isolation import ChildTimeout, NoEnvelope

__all__ = ["ain_time", "forget_result", "in_time"]

T = TypeVar("T")

# How long a cancelled child may clean up, in seconds.
GRACE: Final = 1.0


def in_time(work: Callable[[RunControl | None], T], timeout: float) -> T:
    """Run work in a thread, and stop waiting for it after a timeout in seconds.

    Raises:
        ChildTimeout: The work took longer.
    """
    # A thread can't be killed. The graph stops at its next step, and its result is discarded.
    control = RunControl()
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work_and_report() -> None:
        try:
            done.put((work(control), None))
        except BaseException as error:
            done.put((None, error))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work_and_report,), daemon=True).start()
    try:
        result, error = done.get(timeout=timeout)
    except queue.Empty:
        raise ChildTimeout from None
    finally:
        # Stop a child that is still running. This has no effect on a finished one.
        control.request_drain(f"no answer within {timeout:g} seconds")
    if error is not None:
        raise error
    return cast(T, result)


async def ain_time(work: Callable[[], Coroutine[object, None, T]], *, within: float | None) -> T:
    """Await work, and stop waiting for it after a timeout in seconds.

    Raises:
        ChildTimeout: The work took longer.
    """
    # asyncio.wait_for would wait until a cancelled child ends.
    task = asyncio.create_task(work())
    try:
        await asyncio.wait({task}, timeout=within)
        if not task.done():
            raise ChildTimeout
    finally:
        if not task.done():
            task.cancel()
            # Without a timeout a child may take as long as it needs to clean up.
            await asyncio.wait({task}, timeout=None if within is None else GRACE)
        task.add_done_callback(forget_result)
    if task.cancelled():
        raise NoEnvelope
    return task.result()


def forget_result(task: asyncio.Task[object]) -> None:
    """Retrieve the exception of a task that is no longer awaited."""
    # Otherwise the loop logs "Task exception was never retrieved".
    if not task.cancelled():
        task.exception()
