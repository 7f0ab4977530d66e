"""Keep a child's exceptions, exits and secrets in the child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from langgraph.errors import GraphBubbleUp, GraphDrained
from langgraph.runtime import get_runtime

from pipelit_agents.errors import (
    AccountError,
    ConfigurationError,
    CredentialError,
    RequestRefused,
    StorageError,
    UnsealError,
)

from ..interrupts import INTERRUPTS
from ..remote import ServerUnauthorized, Unreachable
from .containment import is_of_a_person

__all__ = [
    "AskedAPerson",
    "ChildFailed",
    "ChildTimeout",
    "MaskedChildErrors",
    "NoEnvelope",
    "Unaskable",
]


class ChildFailed(GraphBubbleUp):
    """Ends one child. LangGraph lets its siblings finish, and runs it again on resume."""


class Unaskable(Exception):
    """The child was interrupted with something that can't be shown."""


class NoEnvelope(Exception):
    """The child ended without an envelope; what it said is not kept."""


class AskedAPerson(Exception):
    """The child asked for a person's answer, and nothing here can wait for one."""


class ChildTimeout(Exception):
    """The child was given up; what it says from now on is heard by nobody."""


# Not the child's doing: the operator has to know, and a resume has to try again.
PARENT_FAILED: Final = (
    AccountError,
    ConfigurationError,
    CredentialError,
    StorageError,
    UnsealError,
)
# What a remote child of another class may say of its server.
AWAY: Final[frozenset[type[Exception]]] = frozenset({Unreachable, ServerUnauthorized})


class MaskedChildErrors:
    """Around a child's own code: of what it raises, only that it did is kept.

    LangGraph would write the words of an exception into the parent's namespace. What is raised is
    known by its exact type: `isinstance` believes what an exception says of its class, and a
    subclass is the child's own. Nothing of the exception is asked before its type is known.

    Args:
        interrupt: Makes the parent's own form of an interrupt; where it is missing, none is due.
        also: Types that may be raised too, with nothing in them.
    """

    __slots__ = ("_also", "_began_in", "_interrupt")

    def __init__(
        self,
        interrupt: Callable[[BaseException], BaseException] | None = None,
        also: frozenset[type[Exception]] = frozenset(),
    ) -> None:
        self._interrupt = interrupt
        self._also = also

    def __enter__(self) -> None:
        self._began_in = _task()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        said = self._said(error)
        try:
            raise said from None
        finally:
            # What is only not shown can still be walked to.
            said.__context__ = None

    def _said(self, error: BaseException) -> BaseException:
        kind = type(error)
        if kind is RequestRefused:
            return RequestRefused("the child refused the request")
        if kind in self._also:
            return kind()
        if kind in INTERRUPTS and self._interrupt is not None:
            try:
                return self._interrupt(error)
            except BaseException as raised:
                # By the child's own code in what it was interrupted with.
                error = raised
        return _masked_error(error, self._began_in)


def _masked_error(error: BaseException, began_in: asyncio.Task[Any] | None) -> BaseException:
    # What ends the task or the run from outside ends it, and says nothing of the child's. A child's
    # own SystemExit or KeyboardInterrupt ends only the child.
    kind = type(error)
    if kind is GraphDrained:
        runtime = get_runtime()
        if runtime.drain_requested:
            return GraphDrained(runtime.drain_reason or "shutdown")
    # A child may also raise these two by itself, with nobody having cancelled or closed anything.
    task = _task()
    if kind is asyncio.CancelledError and task is not None and task.cancelling():
        return asyncio.CancelledError()
    if kind is GeneratorExit and task is not began_in:
        return GeneratorExit()
    if is_of_a_person(error):
        return KeyboardInterrupt()
    return NoEnvelope()


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
