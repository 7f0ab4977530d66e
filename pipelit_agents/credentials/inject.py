"""Wrap nodes and tools, so that secrets are open while they run."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from functools import partial, wraps
from typing import Any

from pipelit_agents._threads import aside
from pipelit_agents.credentials.scope import Scope, entered_scope, left_open, opened_scope
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError, SecretLeakError

__all__ = ["injecting", "searching_input"]


def injecting(
    function: Callable[..., Any],
    parameters: Mapping[str, str],
    open_secret: Callable[[str], Any],
    refuse: Callable[[str], None] = lambda reference: None,
) -> Callable[..., Any]:
    """Wrap a node or tool function, so that each call opens its own secrets.

    The parameters are removed from the signature and the annotations, so that neither LangGraph
    nor a model fills them. Each call opens a scope, opens the secrets in it, and closes it when
    the function ends. Async functions open their secrets in a worker thread.

    The values that the function returns or yields, and its input, are searched for the secrets. So
    are the exits that `opened_scope` guards, including those passed as arguments (writer, store,
    runtime, config). A secret in any of them raises ``SecretLeakError``. Exceptions lose the
    secrets.

    Args:
        function: A function or method, sync or async, generator or not.
        parameters: Credential references by parameter name.
        open_secret: Opens one reference; called while the scope is open.
        refuse: Called with the reference if a caller passes a value for its parameter.

    Returns:
        A function of the same kind.

    Raises:
        TypeError: The function can't be wrapped, or has no such parameter.
    """
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise TypeError(
            f"secrets can be injected into functions and methods, not into {function!r}: inject "
            "first, and apply partial, @tool, @staticmethod or @classmethod to the result"
        )
    name = function.__qualname__
    signature = inspect.signature(function)
    for parameter in parameters:
        found = signature.parameters.get(parameter)
        if found is None:
            raise TypeError(
                f"{name}() has no parameter {parameter!r} to inject a secret into: declare it "
                f"after a star, def {function.__name__}(state, *, {parameter})"
            )
        if found.kind not in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY):
            raise TypeError(
                f"{name}() takes {parameter!r} as a {found.kind.description} parameter: make it "
                "keyword-only to inject a secret into it"
            )
    visible = signature.replace(
        parameters=[p for p in signature.parameters.values() if p.name not in parameters]
    )

    def refuse_passed(kwargs: dict[str, Any]) -> None:
        for parameter in parameters.keys() & kwargs.keys():
            refuse(parameters[parameter])
            raise CredentialScopeError(
                f"{name}() was passed a value for {parameter!r}, which only the credential "
                f"{parameters[parameter]!r} may fill",
                credential=parameters[parameter],
            )

    def open_all(scope: Scope) -> dict[str, Any]:
        opened = {}
        for key, reference in parameters.items():
            value = open_secret(reference)
            opened[key] = scope.hold(value) if isinstance(value, Secret) else value
        return opened

    def call(arguments: _Arguments, secrets: dict[str, Any]) -> Any:
        # Bind to the full signature: positional arguments may come before and after a secret.
        bound = inspect.BoundArguments(signature, arguments.values | secrets)
        return function(*bound.args, **bound.kwargs)

    def finished(scope: Scope, result: Any, state: _StateSearch) -> Any:
        try:
            _refuse_deferred(name, result)
            state.search()
            scope.search(result, already_searched=state.parts())
            return result
        finally:
            # Error trackers display the local variables of this frame with the leak error.
            del result

    # LangGraph and LangChain inspect the kind of a function, so there is one wrapper for each kind.
    wrapped: Callable[..., Any]
    if inspect.isasyncgenfunction(function):

        @wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            scope, step = entered_scope()
            with left_open(scope):
                await _refuse_aside(refuse_passed, kwargs)
                arguments, states = _bound(visible, scope, args, kwargs)
                with searching_input(scope, states):
                    with step:
                        body = call(arguments, await aside(open_all, scope))
                    resume = partial(body.asend, None)
                    while True:
                        with step:
                            try:
                                item = await resume()
                            except StopAsyncIteration:
                                return
                        try:
                            scope.search(item)
                        except BaseException:
                            del item
                            raise
                        try:
                            resume = partial(body.asend, _sent(scope, (yield item)))
                        except BaseException as error:
                            resume = partial(body.athrow, error)

    elif inspect.isgeneratorfunction(function):

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            scope, step = entered_scope()
            with left_open(scope):
                refuse_passed(kwargs)
                arguments, states = _bound(visible, scope, args, kwargs)
                with searching_input(scope, states) as state:
                    with step:
                        body = call(arguments, open_all(scope))
                    resume = partial(body.send, None)
                    while True:
                        with step:
                            try:
                                item = resume()
                            except StopIteration as stop:
                                return finished(scope, stop.value, state)
                        try:
                            scope.search(item)
                        except BaseException:
                            del item
                            raise
                        try:
                            resume = partial(body.send, _sent(scope, (yield item)))
                        except BaseException as error:
                            resume = partial(body.throw, error)

    elif inspect.iscoroutinefunction(function):

        @wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            with opened_scope() as scope:
                await _refuse_aside(refuse_passed, kwargs)
                arguments, states = _bound(visible, scope, args, kwargs)
                with searching_input(scope, states) as state:
                    secrets = await aside(open_all, scope)
                    return finished(scope, await call(arguments, secrets), state)

    else:

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with opened_scope() as scope:
                refuse_passed(kwargs)
                arguments, states = _bound(visible, scope, args, kwargs)
                with searching_input(scope, states) as state:
                    return finished(scope, call(arguments, open_all(scope)), state)

    wrapped.__annotations__ = {
        key: hint
        for key, hint in inspect.get_annotations(function).items()
        if key not in parameters
    }
    wrapped.__signature__ = visible  # type: ignore[attr-defined]
    return wrapped


class _Arguments:
    """The arguments of a function, in an object that hides them from displays of frames."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


def _bound(
    visible: inspect.Signature, scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[_Arguments, list[Any]]:
    """Return the arguments with guarded exits, and those that LangGraph stores: the state."""
    from pipelit_agents.credentials.leak_guard.langgraph_io import (
        guarded_argument,
        inputs_in,
        state_in,
    )

    bound = visible.bind(*args, **kwargs).arguments
    scope.add_input([inputs_in(key, value) for key, value in bound.items()])
    states = [state_in(key, value) for key, value in bound.items() if key not in ("self", "cls")]
    guarded = {key: guarded_argument(key, value, scope) for key, value in bound.items()}
    return _Arguments(guarded), states


class _StateSearch:
    """The state arguments of a function, and a snapshot of them from before the call."""

    def __init__(self, scope: Scope, states: Sequence[Any]) -> None:
        self._scope = scope
        self._states = states
        self._before = scope.add_input(states)
        self._searched = False

    def search(self) -> None:
        """Search the state for secrets that were added to it; only the first call does anything.

        Raises:
            SecretLeakError: A secret was added. It is masked in the state.
        """
        if not self._searched:
            self._searched = True
            self._scope.search_input(self._states, self._before)

    def parts(self) -> list[Any]:
        """Return the values in the state, which are often returned unchanged and need no search."""
        if self._before.secret is not None:
            return []
        dicts = [each.values() for each in self._states if type(each) is dict]
        return [*self._states, *(each for values in dicts for each in values)]


class searching_input:  # noqa: N801 - used like a function
    """Search a function's state arguments after the call: LangGraph stores changes made to them.

    Args:
        scope: Knows the secrets.
        states: The arguments that LangGraph stores.

    Raises:
        SecretLeakError: A secret was written into the state. If the function itself failed, its
            own error is raised instead. The state is masked in both cases.
    """

    # Not a generator: contextlib sets the traceback of the exception, which may be frozen.
    def __init__(self, scope: Scope, states: Sequence[Any]) -> None:
        self._state = _StateSearch(scope, states)

    def __enter__(self) -> _StateSearch:
        return self._state

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is None:
            self._state.search()
            return
        with suppress(SecretLeakError):
            self._state.search()
        del error


def _sent(scope: Scope, value: Any) -> Any:
    if value is not None:
        scope.add_input(value)
    return value


async def _refuse_aside(refuse_passed: Callable[[dict[str, Any]], None], kwargs: Any) -> None:
    # The database is needed only to record a refusal.
    if kwargs:
        await aside(refuse_passed, kwargs)


def _refuse_deferred(name: str, result: Any) -> None:
    from langchain_core.runnables import Runnable

    if isinstance(result, Runnable | Awaitable | Iterator):
        if inspect.iscoroutine(result):
            result.close()
        raise CredentialScopeError(
            f"{name}() returns a {type(result).__name__}, which would run after its secrets are "
            "closed: run it inside the function, and return its result"
        )
