"""Call the function that finds children. It is foreign code, so it may hang, or raise anything."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

from pipelit_agents._threads import Apart, Stuck

from .isolation import ChildTimeout, NoEnvelope
from .timeouts import ain_time

__all__ = ["FIND_TIMEOUT", "MAX_HUNG_EACH", "Asking", "UnfitChild"]

# How long the function may take for one name, in seconds, if the spawn has no timeout.
FIND_TIMEOUT: Final = 60.0
# How many calls for one name may hang at once, each on a separate thread, and for all names.
MAX_HUNG_EACH: Final = 4
_MAX_HUNG_IN_ALL: Final = 64
# Python and asyncio use these to end iterations and tasks, so they can't be passed on as errors:
# a future refuses a StopIteration, and whoever awaits the future waits forever.
_SIGNALS: Final = (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)


class UnfitChild(TypeError):
    """The function found something that can't be a child. Only the tasks for it are refused."""


class Asking:
    """Asks a function for the children of names, each call with a timeout.

    A synchronous function runs on a separate thread, with the caller's context. If it hangs, it
    doesn't occupy a thread that others need. While too many of its calls hang, it isn't called.

    Args:
        find: The function, sync or async.
        timeout: How long it may take for one name, in seconds; None for the default.

    Attributes:
        is_async: Whether the function has to be awaited.
        timeout: As above, never None.
    """

    def __init__(self, find: Callable[[str], Any], timeout: float | None) -> None:
        self._find = find
        self.timeout: float = FIND_TIMEOUT if timeout is None else timeout
        self._apart = Apart(MAX_HUNG_EACH, in_all=_MAX_HUNG_IN_ALL)
        self.is_async = inspect.iscoroutinefunction(find) or inspect.iscoroutinefunction(
            getattr(find, "__call__", None)  # noqa: B004 - an object with an async method
        )

    def ask(self, name: str) -> object:
        """Return what the function returns for a name, or raise what it raises.

        Raises:
            Stuck: It took longer than the timeout, or too many earlier calls hang.
            RuntimeError: It raised an exception that only ends iterations or tasks.
            TypeError: It is async, or returned something to await.
        """
        if self.is_async:
            _refuse_async()
        return _ready(self._apart.run(partial(self._call, name), within=self.timeout, of=name))

    async def aask(self, name: str) -> object:
        """Async form of ``ask``. An async function is awaited on the event loop."""
        if not self.is_async:
            call = partial(self._call, name)
            return _ready(await self._apart.arun(call, within=self.timeout, of=name))

        async def found() -> object:
            return await self._find(name)

        try:
            return await ain_time(found, within=self.timeout)
        except ChildTimeout:
            raise Stuck from None
        except NoEnvelope:
            raise _as_error(asyncio.CancelledError()) from None

    def _call(self, name: str) -> object:
        try:
            return self._find(name)
        except _SIGNALS as error:
            raise _as_error(error) from error


def _as_error(signal: BaseException) -> RuntimeError:
    return RuntimeError(
        f"the function that finds the children raised {type(signal).__name__}: return None, or "
        "raise UserNotFound, for a name without a child"
    )


def _ready(answer: object) -> object:
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        _refuse_async()
    return answer


def _refuse_async() -> NoReturn:
    raise TypeError(
        "children is async, so only ainvoke, astream and aget_state can ask it; a lambda "
        "that returns a coroutine must be an async def"
    )
