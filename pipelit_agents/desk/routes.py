"""The routes of endpoints: each is a plain function, and waits for the database in one thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi.routing import APIRoute

__all__ = ["DeskRoute", "takes_long"]

P = ParamSpec("P")
R = TypeVar("R")

# How many requests of an event loop work at a time, the short ones and the long ones. Most of the
# work needs Python's lock, so more threads would only take it from each other and from the loop.
_THREADS: Final = 4
_SHORT: Final[RunVar[CapacityLimiter]] = RunVar("pipelit_agents.desk.short")
_LONG: Final[RunVar[CapacityLimiter]] = RunVar("pipelit_agents.desk.long")
_LONG_ENDPOINTS: Final[set[Callable[..., Any]]] = set()


def takes_long(endpoint: Callable[P, R]) -> Callable[P, R]:
    """Let a plain endpoint that may take seconds wait for others of its kind only.

    Put it below the router's decorator.
    """
    _LONG_ENDPOINTS.add(endpoint)
    return endpoint


class DeskRoute(APIRoute):
    """A route whose plain function runs in a thread, and whose answer is validated without one.

    FastAPI hands the answer of a plain function to a second thread, which costs more than all of
    the validation.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            endpoint = _in_thread(endpoint)
        super().__init__(path, endpoint, **options)


def _in_thread(endpoint: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    kind = _LONG if endpoint in _LONG_ENDPOINTS else _SHORT

    @functools.wraps(endpoint)
    async def waiting(*args: Any, **kwargs: Any) -> Any:
        work = functools.partial(endpoint, *args, **kwargs)
        return await to_thread.run_sync(work, limiter=_limiter(kind))

    return waiting


def _limiter(kind: RunVar[CapacityLimiter]) -> CapacityLimiter:
    """Return the limiter of the running event loop."""
    try:
        return kind.get()
    except LookupError:
        made = CapacityLimiter(_THREADS)
        kind.set(made)
        return made
