"""Keeps a child's own ``SystemExit`` and ``KeyboardInterrupt`` in the child, on the event loop.

A task that ends with one of the two raises it out of the event loop, which ends the whole run with
the child's words, whatever waits for the task. LangGraph runs each node of a graph in a task of its
own, so the exception has to be caught inside the coroutine of every task that a child begins.
"""

from __future__ import annotations

import asyncio
import dis
import signal
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, Token, copy_context
from types import TracebackType
from typing import Any, Final

__all__ = ["Containment", "is_of_a_person"]

_IN_CHILD: Final[ContextVar[bool]] = ContextVar("pipelit_agents_in_child", default=False)
# A signal raises between two instructions; a child's own exception comes from one of these.
_RAISE: Final = dis.opmap["RAISE_VARARGS"]


class _ChildExited(BaseException):
    """In a child's task, in the place of what would end the event loop."""


class Containment:
    """Around what a child does on the running event loop; without one it does nothing.

    Tasks that begin inside, also those of the child's own, know by their context that they are the
    child's. The loop's task factory puts a coroutine of ours around theirs. It calls the factory
    that was there before, and it stays, as a child that was given up may go on.
    """

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token: Token[bool] | None = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        factory: Any = loop.get_task_factory()
        if type(factory) is not _Factory:
            made: Any = _Factory(factory)
            loop.set_task_factory(made)
        self._token = _IN_CHILD.set(True)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _IN_CHILD.reset(self._token)


class _Factory:
    """A task factory, around the one that was there or the default."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make: Callable[..., Any] = make or _new_task

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> Any:
        context = options.get("context") or copy_context()
        if context.get(_IN_CHILD):
            coro = _contained(coro)
        return self._make(loop, coro, **options)


def _new_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)


async def _contained(coro: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as error:
        if is_of_a_person(error):
            raise
    raise _ChildExited


def is_of_a_person(error: BaseException) -> bool:
    """Return whether a signal (Ctrl-C) made an exception, and no statement of a child's code.

    Args:
        error: Any exception. Its type decides first, and nothing else is asked of another type.
    """
    if type(error) is not KeyboardInterrupt:
        return False
    if threading.current_thread() is not threading.main_thread():
        # Python runs the handlers of signals on the main thread.
        return False
    handler = _code_of(signal.getsignal(signal.SIGINT))
    trace: TracebackType | None = error.__traceback__
    raised = False
    while trace is not None:
        code = trace.tb_frame.f_code
        if code is handler:
            # A handler in Python raises by a statement of its own, as asyncio's at a second Ctrl-C.
            return True
        raised = code.co_code[trace.tb_lasti] == _RAISE
        trace = trace.tb_next
    return not raised


def _code_of(handler: Any) -> Any:
    while hasattr(handler, "func"):
        # A partial, as asyncio's.
        handler = handler.func
    return getattr(getattr(handler, "__func__", handler), "__code__", None)
