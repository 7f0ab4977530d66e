"""Keep a child's exceptions, exits and secrets inside the child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from langgraph.errors import GraphBubbleUp, GraphDrained
from langgraph.runtime import get_runtime

from pipelit_agents.errors import (
    AccountError,
    ConfigurationError,
    CredentialError,
    RequestRefused,
    RequestStale,
    StorageError,
    UnsealError,
)

from ..interrupts import INTERRUPTS
from ..remote import RunLost, ServerUnauthorized, Unreachable
from .containment import is_from_signal

__all__ = [
    "ChildFailed",
    "ChildTimeout",
    "MaskedChildErrors",
    "NoEnvelope",
    "UnanswerableInterrupt",
    "UndisplayableInterrupt",
]


class ChildFailed(GraphBubbleUp):
    """End one child. LangGraph lets its siblings finish, and runs it again on resume."""


class UndisplayableInterrupt(Exception):
    """The child was interrupted with a value that can't be displayed."""


class NoEnvelope(Exception):
    """The child ended without an envelope. Its own message is discarded."""


class UnanswerableInterrupt(Exception):
    """The child was interrupted, but this run can't wait for an answer."""


class ChildTimeout(Exception):
    """The child took longer than its timeout. Its later answer is discarded."""


# The child didn't cause these: the operator has to see them, and a resume has to try again.
PARENT_ERRORS: Final = (
    AccountError,
    ConfigurationError,
    CredentialError,
    StorageError,
    UnsealError,
)
# Errors of its server that a subclass of RemoteChild may raise.
SERVER_ERRORS: Final[frozenset[type[Exception]]] = frozenset(
    {RunLost, Unreachable, ServerUnauthorized}
)


class MaskedChildErrors:
    """Replace the exceptions of a child's code with exceptions that hold none of its data.

    LangGraph would write an exception's message into the parent's namespace. Exceptions are
    compared by their exact type: `isinstance` can be deceived by ``__class__``, and a child may
    define a subclass. No attribute of the exception is read before its type is known.

    Args:
        interrupt: Makes the parent's form of an interrupt. Without it, no interrupt passes.
        also: Other types that may pass, without their arguments.
    """

    __slots__ = ("_also", "_interrupt", "_task_at_entry")

    def __init__(
        self,
        interrupt: Callable[[BaseException], BaseException] | None = None,
        also: frozenset[type[Exception]] = frozenset(),
    ) -> None:
        self._interrupt = interrupt
        self._also = also

    def __enter__(self) -> None:
        self._task_at_entry = _task()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        said = self._masked(error)
        try:
            raise said from None
        finally:
            # `from None` only hides the context: it would still be reachable.
            said.__context__ = None

    def _masked(self, error: BaseException) -> BaseException:
        kind = type(error)
        if kind in (RequestRefused, RequestStale):
            return RequestRefused("the child refused the request")
        if kind in self._also:
            return kind()
        if kind in INTERRUPTS and self._interrupt is not None:
            try:
                return self._interrupt(error)
            except BaseException as raised:
                # The child's own code raised this, in the interrupt's value.
                error = raised
        return _masked_error(error, self._task_at_entry)


def _masked_error(error: BaseException, began_in: asyncio.Task[object] | None) -> BaseException:
    # A cancellation, drain or signal from outside ends the task or the run, and holds no data of
    # the child. A child's own SystemExit or KeyboardInterrupt ends only the child.
    kind = type(error)
    if kind is GraphDrained:
        runtime = get_runtime()
        if runtime.drain_requested:
            return GraphDrained(runtime.drain_reason or "shutdown")
    # A child may also raise these two itself, although its task wasn't cancelled or closed.
    task = _task()
    if kind is asyncio.CancelledError and task is not None and task.cancelling():
        return asyncio.CancelledError()
    if kind is GeneratorExit and task is not began_in:
        return GeneratorExit()
    if is_from_signal(error):
        return KeyboardInterrupt()
    return NoEnvelope()


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
