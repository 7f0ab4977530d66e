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
from typing import TYPE_CHECKING, Any

from pipelit_agents._threads import aside
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError, SecretLeakError

if TYPE_CHECKING:
    pass
from pipelit_agents.credentials.scope import Scope, entered_scope, left_open, opened_scope

__all__ = ["injecting", "searching_given"]


def injecting(
    function: Callable[..., Any],
    parameters: Mapping[str, str],
    open_secret: Callable[[str], Any],
    refuse: Callable[[str], None] = lambda reference: None,
) -> Callable[..., Any]:
    """Wrap a node or tool function so that each call gets secrets of its own.

    The parameters vanish from the signature and the annotations, so that neither LangGraph nor
    a model asks for them. Each call opens a scope, opens the secrets in it, and closes it when
    the function ends. Async functions open theirs in a worker thread, in one hop.

    What the function returns or yields, and what it was given, is searched for the secrets, and so
    are the ways out that `opened_scope` guards, also where they come as arguments (writer, store,
    runtime, config): a hit is ``SecretLeakError``; what it raises loses them.

    Args:
        function: A function or method, sync or async, generator or not.
        parameters: Credential references by parameter name.
        open_secret: Opens one reference; it is called with the scope open.
        refuse: Told which reference a caller passed a value for.

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
                f"{name}() takes {parameter!r} as a {found.kind.description} parameter: to inject "
                "a secret into it, make it keyword-only"
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
        # Bound to the full signature: positional arguments may stand on both sides of a secret.
        bound = inspect.BoundArguments(signature, arguments.values | secrets)
        return function(*bound.args, **bound.kwargs)

    def finished(scope: Scope, result: Any, state: _State) -> Any:
        try:
            _refuse_deferred(name, result)
            state.check()
            scope.check(result, besides=state.parts())
            return result
        finally:
            # A leak is shown with the local variables of this frame.
            del result

    # LangGraph and LangChain ask inspect what kind of function it is, hence four real ones.
    wrapped: Callable[..., Any]
    if inspect.isasyncgenfunction(function):

        @wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            scope, step = entered_scope()
            with left_open(scope):
                await _off_the_loop(refuse_passed, kwargs)
                arguments, given = _bound(visible, scope, args, kwargs)
                with searching_given(scope, given):
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
                            scope.check(item)
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
                arguments, given = _bound(visible, scope, args, kwargs)
                with searching_given(scope, given) as state:
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
                            scope.check(item)
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
                await _off_the_loop(refuse_passed, kwargs)
                arguments, given = _bound(visible, scope, args, kwargs)
                with searching_given(scope, given) as state:
                    secrets = await aside(open_all, scope)
                    return finished(scope, await call(arguments, secrets), state)

    else:

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with opened_scope() as scope:
                refuse_passed(kwargs)
                arguments, given = _bound(visible, scope, args, kwargs)
                with searching_given(scope, given) as state:
                    return finished(scope, call(arguments, open_all(scope)), state)

    wrapped.__annotations__ = {
        key: hint
        for key, hint in inspect.get_annotations(function).items()
        if key not in parameters
    }
    wrapped.__signature__ = visible  # type: ignore[attr-defined]
    return wrapped


class _Arguments:
    """What a function is called with, and may change: shown to nobody who looks at frames."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


def _bound(
    visible: inspect.Signature, scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[_Arguments, list[Any]]:
    """The arguments with guarded doors, and what of them LangGraph keeps: the state."""
    from pipelit_agents.credentials.leak_guard.langgraph_io import (
        guarded_argument,
        inputs_in,
        state_in,
    )

    bound = visible.bind(*args, **kwargs).arguments
    scope.note([inputs_in(key, value) for key, value in bound.items()])
    given = [state_in(key, value) for key, value in bound.items() if key not in ("self", "cls")]
    guarded = {key: guarded_argument(key, value, scope) for key, value in bound.items()}
    return _Arguments(guarded), given


class _State:
    """What a function was given and LangGraph keeps, and what it was like before."""

    def __init__(self, scope: Scope, given: Sequence[Any]) -> None:
        self._scope = scope
        self._given = given
        self._before = scope.note(given)
        self._checked = False

    def check(self) -> None:
        """Search what was added to it, once the function has run.

        Raises:
            SecretLeakError: A secret was; it is masked there.
        """
        if not self._checked:
            self._checked = True
            self._scope.check_given(self._given, self._before)

    def parts(self) -> list[Any]:
        """Return what stands in the state: that was searched, and is often returned as it is."""
        if self._before.secret is not None:
            return []
        dicts = [each.values() for each in self._given if type(each) is dict]
        return [*self._given, *(each for values in dicts for each in values)]


class searching_given:  # noqa: N801 - used like a function
    """Search what a function was given when it has run: LangGraph stores what it changed there.

    Args:
        scope: Knows the secrets.
        given: The state, and what else of the arguments is kept.

    Raises:
        SecretLeakError: One was written into it. Where the function failed by itself, its own error
            is the one to tell, and the state is masked.
    """

    # No generator: contextlib sets the traceback of what is raised, which may be frozen.
    def __init__(self, scope: Scope, given: Sequence[Any]) -> None:
        self._state = _State(scope, given)

    def __enter__(self) -> _State:
        return self._state

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is None:
            self._state.check()
            return
        with suppress(SecretLeakError):
            self._state.check()
        del error


def _sent(scope: Scope, value: Any) -> Any:
    if value is not None:
        scope.note(value)
    return value


async def _off_the_loop(refuse_passed: Callable[[dict[str, Any]], None], kwargs: Any) -> None:
    # Only a refusal is written down.
    if kwargs:
        await aside(refuse_passed, kwargs)


def _refuse_deferred(name: str, result: Any) -> None:
    from langchain_core.runnables import Runnable

    if isinstance(result, Runnable | Awaitable | Iterator):
        if inspect.iscoroutine(result):
            result.close()
        raise CredentialScopeError(
            f"{name}() returns a {type(result).__name__}, which would run when its secrets are "
            "gone: run it inside, and return what comes of it"
        )
