"""Async variants of methods: run off the event loop and named with LangChain's ``a`` prefix."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from pipelit_agents._threads import aside

__all__ = ["off_the_loop"]

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


def off_the_loop(
    method: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return an async variant that runs a method on a worker thread with the caller's context.

    Args:
        method: The method; the variant has the same parameters and errors.
    """

    @wraps(method)
    async def twin(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        call = aside(method, self, *args, **kwargs)
        # They may be secrets, and this frame is in the traceback of an error of the method.
        del args, kwargs
        return await call

    twin.__name__ = f"a{method.__name__}"
    twin.__qualname__ = f"{method.__qualname__.rpartition('.')[0]}.{twin.__name__}"
    twin.__doc__ = f"As ``{method.__name__}``, off the event loop."
    return twin
