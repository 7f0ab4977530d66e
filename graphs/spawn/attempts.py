"""Run one attempt of a child within its timeout, and turn its exceptions into a result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from langgraph.config import get_config
from langgraph.errors import GraphDrained, GraphInterrupt
from langgraph.runtime import RunControl

from pipelit_agents._threads import aside

from .isolation import PARENT_ERRORS, UnanswerableInterrupt
from .link import Parent
from .results import SpawnResult
from .run import run_of
from .timeouts import ain_time, in_time

__all__ = ["acontained", "contained"]

T = TypeVar("T")


def contained(
    parent: Parent,
    work: Callable[[RunControl | None], T],
    verify_answer: Callable[[T], SpawnResult],
) -> SpawnResult:
    """Run a child's work, and turn its exceptions into a result."""
    reason: Exception
    try:
        answer = work(None) if parent.timeout is None else in_time(work, parent.timeout)
        return verify_answer(answer)
    except (GraphInterrupt, GraphDrained, *PARENT_ERRORS) as error:
        if not _is_unanswerable(error):
            raise
        reason = UnanswerableInterrupt()
    except Exception as error:
        reason = error
    return parent.refusal(reason)


async def acontained(
    parent: Parent,
    work: Callable[[], Coroutine[object, None, T]],
    verify_answer: Callable[[T], Awaitable[SpawnResult]],
) -> SpawnResult:
    """Async form of ``contained``."""
    reason: Exception
    try:
        # ain_time uses a new task: a GeneratorExit of the child would close the awaiting coroutine.
        answer = await ain_time(work, within=parent.timeout)
        return await verify_answer(answer)
    except (GraphInterrupt, GraphDrained, *PARENT_ERRORS) as error:
        if not _is_unanswerable(error):
            raise
        reason = UnanswerableInterrupt()
    except Exception as error:
        reason = error
    return await aside(parent.refusal, reason)


def _is_unanswerable(error: BaseException) -> bool:
    # Without a saver, the interrupt would be lost when the run ends.
    return issubclass(type(error), GraphInterrupt) and run_of(get_config()).alone
