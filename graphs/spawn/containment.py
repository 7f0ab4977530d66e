"""Contain a child's ``SystemExit`` and ``KeyboardInterrupt`` on the event loop.

When a task ends with one of these exceptions, asyncio raises it out of the event loop. The whole
run then ends with the child's message. LangGraph runs each node in a separate task, so the
exception must be caught inside the coroutine of every task that a child starts.
"""

from __future__ import annotations

import asyncio
import dis
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar, Token, copy_context
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar, cast

__all__ = ["Containment", "is_from_signal"]

T = TypeVar("T")
# What asyncio passes to a task factory. Coroutines of generators are gone since Python 3.11.
_CoroutineLike: TypeAlias = Coroutine[Any, Any, T] | Generator[Any, None, T]

_IN_CHILD: Final[ContextVar[bool]] = ContextVar("pipelit_agents_in_child", default=False)
# A signal raises between two instructions. A child's own exception comes from a raise instruction.
_RAISE: Final = dis.opmap["RAISE_VARARGS"]


class _ChildExited(BaseException):
    """Replace an exception of a child's task that would end the event loop."""


class Containment:
    """Mark a block of code on the running event loop as a child's code.

    A context variable marks every task that starts inside the block. The loop's task factory wraps
    the coroutines of these tasks. It calls the previous factory. It stays installed, because a
    child that timed out may continue to run. Without a running event loop this does nothing.
    """

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token: Token[bool] | None = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        factory = loop.get_task_factory()
        if type(factory) is not _Factory:
            loop.set_task_factory(_Factory(factory))
        self._token = _IN_CHILD.set(True)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _IN_CHILD.reset(self._token)


class _Factory:
    """A task factory that wraps the previous task factory or the default one."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., asyncio.Future[Any]] | None) -> None:
        self._make = make or _new_task

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: _CoroutineLike[T], **options: Any
    ) -> asyncio.Future[T]:
        context = options.get("context") or copy_context()
        if context.get(_IN_CHILD):
            coro = _exits_caught(cast(Awaitable[T], coro))
        return self._make(loop, coro, **options)


def _new_task(
    loop: asyncio.AbstractEventLoop, coro: _CoroutineLike[T], **options: Any
) -> asyncio.Future[T]:
    return asyncio.Task(coro, loop=loop, **options)


async def _exits_caught(coro: Awaitable[T]) -> T:
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as error:
        if is_from_signal(error):
            raise
    raise _ChildExited


def is_from_signal(error: BaseException) -> bool:
    """Return whether a signal (Ctrl-C) raised an exception, and not a child's code.

    Args:
        error: Any exception. Nothing but its type is read unless it is a ``KeyboardInterrupt``.
    """
    if type(error) is not KeyboardInterrupt:
        return False
    if threading.current_thread() is not threading.main_thread():
        # Python runs signal handlers on the main thread.
        return False
    handler = _code_of(signal.getsignal(signal.SIGINT))
    trace: TracebackType | None = error.__traceback__
    raised = False
    while trace is not None:
        code = trace.tb_frame.f_code
        if code is handler:
            # A Python handler uses a raise statement, as asyncio's does at a second Ctrl-C.
            return True
        raised = code.co_code[trace.tb_lasti] == _RAISE
        trace = trace.tb_next
    return not raised


def _code_of(handler: object) -> object:
    while hasattr(handler, "func"):
        # asyncio's handler is a partial.
        handler = handler.func
    return getattr(getattr(handler, "__func__", handler), "__code__", None)
