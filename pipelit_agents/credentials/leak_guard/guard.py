"""What the guarded forms of LangGraph's objects ask of a scope, and how they raise exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from langgraph.errors import GraphBubbleUp

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.errors import SecretLeakError

__all__ = ["Delayed", "Guard", "redact_or_raise"]


class Delayed(Protocol):
    """A stream writer that holds back the beginnings of secrets."""

    def search(self, value: object) -> None:
        """Raise SecretLeakError if a whole value of the stream contains an open secret."""

    def __call__(
        self, value: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        """Search a piece, and write it now or later."""


class Guard(Protocol):
    """An object that knows the open secrets of a running node, and its input: a scope."""

    def search(self, value: object, where: str) -> None:
        """Raise SecretLeakError if a value contains an open secret."""

    def sought(self) -> Patterns:
        """Return the patterns of the open secrets."""

    def is_from_input(self, text: str) -> bool:
        """Return whether the node's input contains a text."""

    def redact(self, error: BaseException) -> BaseException:
        """Remove the open secrets from an exception, and return the exception to raise."""

    def on_exit(self, call: Callable[[], object]) -> None:
        """Call a function after the node has run, before its surroundings are searched."""

    def delayed_call(self, call: Callable[..., object], where: str) -> Delayed:
        """Wrap a stream writer, so that it holds back the beginnings of secrets."""

    def add_input(self, value: object) -> object:
        """Record a value as input of the node, which the node may return."""


def redact_or_raise(error: BaseException, guard: Guard) -> None:
    """Remove the secrets from an exception that is being raised.

    Args:
        error: The exception; it is changed in place if possible.
        guard: Knows the open secrets.

    Raises:
        BaseException: The replacement, if the exception can't be changed. An interrupt or a
            command to a parent graph is an exception that carries state: it is replaced by a
            ``SecretLeakError``.
    """
    if (instead := _replacement_for(error, guard)) is not error:
        # Error trackers display the local variables of this frame.
        del error
        _raise(instead)


def _replacement_for(error: BaseException, guard: Guard) -> BaseException:
    """Return the exception to raise for an error; the same object if possible."""
    if not issubclass(type(error), GraphBubbleUp):
        return guard.redact(error)
    try:
        guard.search(error.args, "the node's interrupt or command")
        # Tracers also write out the errors in its context.
        guard.redact(error)
    except SecretLeakError as found:
        found.__context__ = None
        return found
    else:
        return error
    finally:
        # The traceback of the replacement contains this frame.
        del error


def _raise(instead: BaseException) -> NoReturn:
    # Python would set the replaced error as the context, which may still contain the secret.
    links = instead.__cause__, instead.__context__, instead.__suppress_context__
    try:
        raise instead  # noqa: TRY301 - raised here, so that its links can be set after it was
    except BaseException:
        instead.__cause__, instead.__context__, instead.__suppress_context__ = links
        raise
