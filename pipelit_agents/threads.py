"""Threads of the package's own, for what would block an event loop.

The loop's default threads also run LangGraph's synchronous nodes and look names up, for as long as
those like: whoever is to be verified would stand in one queue with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Final, ParamSpec, TypeVar

from pipelit_agents.forks import begin_anew_in_children

__all__ = ["aside"]

P = ParamSpec("P")
R = TypeVar("R")

_MOST: Final = 16


class _Threads:
    """Threads that come as they are needed, and stay; a forked child has its own."""

    def __init__(self) -> None:
        self.begin_here()
        begin_anew_in_children(self)

    def begin_here(self) -> None:
        """Forgets the parent's threads, which aren't in the child."""
        self.pool = ThreadPoolExecutor(_MOST, thread_name_prefix="pipelit")


_THREADS: Final = _Threads()


async def aside(work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Does something of this package that blocks, off the event loop, in the caller's context.

    Never a child's code, or another's: what hangs would hold a thread for good.
    """
    run = partial(copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS.pool, run)
