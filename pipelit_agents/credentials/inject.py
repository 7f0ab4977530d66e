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
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

from pipelit_agents._threads import aside
from pipelit_agents._words import quoted, recordable
from pipelit_agents.credentials.scope import Scope, entered_scope, left_open, opened_scope
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError, SecretLeakError

__all__ = ["injecting", "searching_input"]

R = TypeVar("R")


def injecting(
    function: Callable[..., R],
    parameters: Mapping[str, str],
    open_secret: Callable[[str], object],
    refuse: Callable[[str], None] = lambda reference: None,
    *,
    returned: str = "the node's return value",
) -> Callable[..., R]:
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
        returned: What the function's return value is called in messages.

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

    injection = _Injection(function, signature, visible, parameters, open_secret, refuse, returned)
    # LangGraph and LangChain inspect the kind of a function, so there is one wrapper for each kind.
    if inspect.isasyncgenfunction(function):
        wrapped = _async_generator(injection)
    elif inspect.isgeneratorfunction(function):
        wrapped = _generator(injection)
    elif inspect.iscoroutinefunction(function):
        wrapped = _async_call(injection)
    else:
        wrapped = _call(injection)
    wrapped.__annotations__ = {
        key: hint
        for key, hint in inspect.get_annotations(function).items()
        if key not in parameters
    }
    wrapped.__signature__ = visible  # type: ignore[attr-defined]
    return wrapped


@dataclass(frozen=True, eq=False, slots=True)
class _Injection:
    """A wrapped function, and what it is called with.

    Attributes:
        function: The function.
        signature: Its signature.
        visible: Its signature without the secrets.
        parameters: Credential references by parameter name.
        open_secret: Opens one reference.
        refuse: Called with the reference if a caller passes a value for its parameter.
        returned: What its return value is called in messages.
    """

    function: Callable[..., Any]
    signature: inspect.Signature
    visible: inspect.Signature
    parameters: Mapping[str, str]
    open_secret: Callable[[str], object]
    refuse: Callable[[str], None]
    returned: str

    def refuse_passed(self, kwargs: Mapping[str, object]) -> None:
        """Refuse values that a caller passes for a secret's parameter."""
        for parameter in self.parameters.keys() & kwargs.keys():
            reference = self.parameters[parameter]
            self.refuse(reference)
            raise CredentialScopeError(
                f"{self.function.__qualname__}() was passed a value for {parameter!r}, which only "
                f"the credential {quoted(reference)} may fill",
                credential=recordable(reference),
            )

    async def arefuse_passed(self, kwargs: Mapping[str, object]) -> None:
        """As ``refuse_passed``, off the event loop, which records the refusal."""
        if kwargs:
            await aside(self.refuse_passed, kwargs)

    def bound(
        self, scope: Scope, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[_Arguments, list[object]]:
        """Return the arguments with guarded exits, and those that LangGraph stores: the state."""
        from pipelit_agents.credentials.leak_guard.langgraph_io import (
            guarded_argument,
            inputs_in,
            state_in,
        )

        bound = self.visible.bind(*args, **kwargs).arguments
        scope.add_input([inputs_in(key, value) for key, value in bound.items()])
        states = [
            state_in(key, value) for key, value in bound.items() if key not in ("self", "cls")
        ]
        guarded = {key: guarded_argument(key, value, scope) for key, value in bound.items()}
        return _Arguments(guarded), states

    def open_all(self, scope: Scope) -> dict[str, object]:
        """Open the secrets in a scope."""
        opened = {}
        for key, reference in self.parameters.items():
            value = self.open_secret(reference)
            opened[key] = scope.hold(value) if isinstance(value, Secret) else value
        return opened

    def ready(self, scope: Scope) -> dict[str, object]:
        """Open the secrets in a scope, and wait until codes among them are valid."""
        opened = self.open_all(scope)
        scope.settle()
        return opened

    async def aready(self, scope: Scope) -> dict[str, object]:
        """As ``ready``, off the event loop."""
        opened = await aside(self.open_all, scope)
        await scope.asettle()
        return opened

    def call(self, arguments: _Arguments, secrets: dict[str, object]) -> Any:
        """Call the function; for an async one or a generator, this doesn't run it yet."""
        # Bind to the full signature: positional arguments may come before and after a secret.
        bound = inspect.BoundArguments(self.signature, arguments.values | secrets)
        return self.function(*bound.args, **bound.kwargs)

    def finished(self, scope: Scope, result: object, state: _StateSearch) -> object:
        """Search what the function returned, and its input, and return the result."""
        try:
            _refuse_deferred(self.function.__qualname__, result)
            state.search()
            scope.search(result, self.returned, already_searched=state.parts())
            return result
        finally:
            # Error trackers display the local variables of this frame with the leak error.
            del result


class _Arguments:
    """The arguments of a function, in an object that hides them from displays of frames."""

    def __init__(self, values: dict[str, object]) -> None:
        self.values = values


def _call(injection: _Injection) -> Callable[..., Any]:
    @wraps(injection.function)
    def wrapped(*args: object, **kwargs: object) -> object:
        with opened_scope() as scope:
            injection.refuse_passed(kwargs)
            arguments, states = injection.bound(scope, args, kwargs)
            with searching_input(scope, states) as state:
                # No variable may hold the result: frames of a leak error are displayed.
                return injection.finished(
                    scope, injection.call(arguments, injection.ready(scope)), state
                )

    return wrapped


def _async_call(injection: _Injection) -> Callable[..., Any]:
    @wraps(injection.function)
    async def wrapped(*args: object, **kwargs: object) -> object:
        with opened_scope() as scope:
            await injection.arefuse_passed(kwargs)
            arguments, states = injection.bound(scope, args, kwargs)
            with searching_input(scope, states) as state:
                secrets = await injection.aready(scope)
                return injection.finished(scope, await injection.call(arguments, secrets), state)

    return wrapped


def _generator(injection: _Injection) -> Callable[..., Any]:
    @wraps(injection.function)
    def wrapped(*args: object, **kwargs: object) -> Generator[object, object, object]:
        scope, step = entered_scope()
        with left_open(scope):
            injection.refuse_passed(kwargs)
            arguments, states = injection.bound(scope, args, kwargs)
            with searching_input(scope, states) as state:
                with step:
                    body = injection.call(arguments, injection.ready(scope))
                resume = partial(body.send, None)
                while True:
                    with step:
                        try:
                            item = resume()
                        except StopIteration as stop:
                            return injection.finished(scope, stop.value, state)
                    try:
                        scope.search(item, injection.returned)
                    except BaseException:
                        del item
                        raise
                    try:
                        resume = partial(body.send, _sent(scope, (yield item)))
                    except GeneratorExit:
                        step.close(body)
                        raise
                    except BaseException as error:
                        resume = partial(body.throw, error)

    return wrapped


def _async_generator(injection: _Injection) -> Callable[..., Any]:
    @wraps(injection.function)
    async def wrapped(*args: object, **kwargs: object) -> AsyncGenerator[object, object]:
        scope, step = entered_scope()
        with left_open(scope):
            await injection.arefuse_passed(kwargs)
            arguments, states = injection.bound(scope, args, kwargs)
            with searching_input(scope, states):
                with step:
                    body = injection.call(arguments, await injection.aready(scope))
                resume = partial(body.asend, None)
                while True:
                    with step:
                        try:
                            item = await resume()
                        except StopAsyncIteration:
                            return
                    try:
                        scope.search(item, injection.returned)
                    except BaseException:
                        del item
                        raise
                    try:
                        resume = partial(body.asend, _sent(scope, (yield item)))
                    except BaseException as error:
                        resume = partial(body.athrow, error)

    return wrapped


class _StateSearch:
    """The state arguments of a function, and a snapshot of them from before the call."""

    def __init__(self, scope: Scope, states: Sequence[object]) -> None:
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

    def parts(self) -> list[object]:
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
    def __init__(self, scope: Scope, states: Sequence[object]) -> None:
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


def _sent(scope: Scope, value: object) -> object:
    if value is not None:
        scope.add_input(value)
    return value


def _refuse_deferred(name: str, result: object) -> None:
    from langchain_core.runnables import Runnable

    if isinstance(result, Runnable | Awaitable | Iterator):
        if inspect.iscoroutine(result):
            result.close()
        raise CredentialScopeError(
            f"{name}() returns {type(result).__name__}, which would run after its secrets are "
            "closed: run it inside the function, and return its result"
        )
