"""Run one attempt of a child within its time, and turn what it raises into a result."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from langgraph.config import get_config
from langgraph.errors import GraphDrained, GraphInterrupt
from langgraph.runtime import RunControl

from pipelit_agents._threads import aside

from .isolation import PARENT_FAILED, AskedAPerson
from .link import Parent
from .results import SpawnResult
from .run import run_of
from .timeouts import ain_time, in_time

__all__ = ["acontained", "contained"]

T = TypeVar("T")


def contained(
    parent: Parent, work: Callable[[RunControl | None], T], believe: Callable[[T], SpawnResult]
) -> SpawnResult:
    """Run a child's work, and turn whatever it raises into a result."""
    reason: Exception
    try:
        answer = work(None) if parent.timeout is None else in_time(work, parent.timeout)
        return believe(answer)
    except (GraphInterrupt, GraphDrained, *PARENT_FAILED) as error:
        if not _is_unheard(error):
            raise
        reason = AskedAPerson()
    except Exception as error:
        reason = error
    return parent.refusal(reason)


async def acontained(
    parent: Parent,
    work: Callable[[], Coroutine[Any, Any, T]],
    believe: Callable[[T], Coroutine[Any, Any, SpawnResult]],
) -> SpawnResult:
    """As :func:`contained`, on the event loop."""
    reason: Exception
    try:
        # In a task of its own: a GeneratorExit of the child's would close what waits for it.
        answer = await ain_time(work, within=parent.timeout)
        return await believe(answer)
    except (GraphInterrupt, GraphDrained, *PARENT_FAILED) as error:
        if not _is_unheard(error):
            raise
        reason = AskedAPerson()
    except Exception as error:
        reason = error
    return await aside(parent.refusal, reason)


def _is_unheard(error: BaseException) -> bool:
    # A question that would end with the run, as nothing keeps it.
    return issubclass(type(error), GraphInterrupt) and run_of(get_config()).alone
