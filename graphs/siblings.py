"""Let the calls of one task end together, also when one of them interrupts the graph.

A ``ToolNode`` runs several calls in one task of an event loop. If one raises an exception,
LangGraph leaves the others behind, and ``asyncio.run`` cancels them: maybe while they pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["with_siblings"]


class _Group:
    """The calls of one task that are running."""

    def __init__(self) -> None:
        self.running = 0
        self.ended = asyncio.Event()


_GROUPS: Final[dict[Hashable, _Group]] = {}
# The tasks in whose calls this code runs: a tool may call another tool in the same task.
_INSIDE: ContextVar[frozenset[Hashable]] = ContextVar("pipelit_siblings", default=frozenset())


@asynccontextmanager
async def with_siblings(task: Hashable) -> AsyncIterator[None]:
    """Run one call of a task. If it raises an exception, wait first until the others have ended.

    A call that waits here has ended, so calls don't wait for each other. A call that another one
    makes waits for nothing: the outer one couldn't end.

    Args:
        task: Identifies the task.
    """
    key = (id(asyncio.get_running_loop()), task)
    if key in _INSIDE.get():
        yield
        return
    group = _GROUPS.setdefault(key, _Group())
    group.running += 1
    token = _INSIDE.set(_INSIDE.get() | {key})
    try:
        yield
    except Exception:
        _leave(key, group)
        await group.ended.wait()
        raise
    except BaseException:
        _leave(key, group)
        raise
    else:
        _leave(key, group)
    finally:
        _INSIDE.reset(token)


def _leave(key: Hashable, group: _Group) -> None:
    group.running -= 1
    if group.running == 0:
        group.ended.set()
        # A call that begins now finds no group whose calls have ended.
        _GROUPS.pop(key, None)
