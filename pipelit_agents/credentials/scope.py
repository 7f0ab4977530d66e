"""Where secrets may be read: in the running node or tool that they were opened for."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

from pipelit_agents.credentials.boundary import redact, refuse_leak
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError
from pipelit_agents.running import running

__all__ = [
    "Scope",
    "current_scope",
    "injecting",
    "opened_scope",
    "require_running",
]

_current: ContextVar[Scope | None] = ContextVar("pipelit_agents_scope", default=None)


class Scope:
    """Holds the secrets opened in one running node or tool, and makes them unreadable at its end.

    Attributes:
        parent: The scope that this one was opened in, if that was still open.
        closed: Whether its secrets are gone.
    """

    parent: Scope | None
    closed: bool

    def __init__(self) -> None:
        self.parent = current_scope()
        self.closed = False
        self._run = running()
        self._secrets: list[Secret] = []
        self._revealed: dict[str, str] = {}

    @property
    def revealed(self) -> Mapping[str, str]:
        """Credential names by plaintext, to search for where values leave the node.

        Secrets of inner scopes stay listed until this scope closes: a node can return what a
        `reveal` inside it showed.
        """
        return dict(self._revealed)

    def hold(self, secret: Secret) -> Secret:
        """Tie a secret to this scope and return it.

        Raises:
            CredentialScopeError: The scope has closed; the secret is closed too.
        """
        self._secrets.append(secret)
        # A cancelled node doesn't wait for the thread that opens its secrets: append first, look
        # then, so that either this call or close() sees the other.
        if self.closed:
            self.close()
        value = secret.get_secret_value()
        scope: Scope | None = self
        while scope is not None:
            scope._revealed[value] = secret.credential
            if scope.closed:
                scope.close()
            scope = scope.parent
        return secret

    def close(self) -> None:
        """Make every secret of this scope unreadable. Closing twice does nothing."""
        self.closed = True
        for secret in list(self._secrets):
            secret.close()
        self._revealed.clear()


def current_scope() -> Scope | None:
    """Return the innermost open scope, or None."""
    scope = _current.get()
    return None if scope is None or scope.closed else scope


@contextmanager
def opened_scope() -> Iterator[Scope]:
    """Open a scope inside the current one; it closes at the end of the block, also on errors."""
    outer = _current.get()
    scope = Scope()
    _current.set(scope)
    try:
        yield scope
    finally:
        # Not by token: a generator may end in another context than it began in.
        _current.set(outer)
        scope.close()


def require_running(credential: str) -> None:
    """Make sure that a node, a tool or an injected function is running here.

    It is so where a scope is open, or where LangChain's context holds the configuration of a
    running runnable: nodes and tools each run in a context with a callback manager of their own,
    and `langchain_core.runnables.ensure_config` shows it. At module level and in a new thread
    there is none. A context copied out of a node (`asyncio.create_task`, `copy_context`) still
    says it is inside after the node has ended, unless a scope was open when it was copied.

    Args:
        credential: The credential asked for, named in the error.

    Raises:
        CredentialScopeError: Nothing is running here.
    """
    scope = _current.get()
    if scope is not None and not scope.closed:
        return
    present = running()
    # A closed scope means that its node has ended, but not that another hasn't begun since, for
    # example in a background task that the first one started.
    if present is None or (scope is not None and scope._run == present):
        raise CredentialScopeError(
            f"credential {credential!r} opens only inside a running node or tool: reveal it "
            "there, or declare it with credentials.inject",
            credential=credential,
        )


class _Step:
    """Sets the scope for one step of a generator, and the consumer's again after it."""

    def __init__(self, scope: Scope) -> None:
        self.inside: Scope | None = scope

    def __enter__(self) -> None:
        self.outside = _current.get()
        _current.set(self.inside)

    def __exit__(self, *_: object) -> None:
        # The body may have opened a scope that it keeps across the yield.
        self.inside = _current.get()
        _current.set(self.outside)


@contextmanager
def _guarded(scope: Scope) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        redact(error, scope.revealed)
        raise


def injecting(
    function: Callable[..., Any],
    parameters: Mapping[str, str],
    open_secret: Callable[[str], Secret],
) -> Callable[..., Any]:
    """Wrap a node or tool function so that each call gets secrets of its own.

    The parameters vanish from the signature and the annotations, so that neither LangGraph nor
    a model asks for them. Each call opens a scope, opens the secrets in it, and closes it when
    the function ends. Async functions open theirs in a worker thread, in one hop.

    What the function returns or yields is searched for the secrets, and a hit is
    ``SecretLeakError``; what it raises loses them.

    Args:
        function: A function or method, sync or async, generator or not.
        parameters: Credential references by parameter name.
        open_secret: Opens one reference; it is called with the scope open.

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
            raise TypeError(f"{name}() has no parameter {parameter!r} to inject a secret into")
        if found.kind not in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY):
            raise TypeError(
                f"{name}() takes {parameter!r} as a {found.kind.description} parameter: to inject "
                "a secret into it, make it keyword-only"
            )
    visible = signature.replace(
        parameters=[p for p in signature.parameters.values() if p.name not in parameters]
    )

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        for parameter in parameters.keys() & kwargs.keys():
            raise CredentialScopeError(
                f"{name}() was passed a value for {parameter!r}, which only the credential "
                f"{parameters[parameter]!r} may fill",
                credential=parameters[parameter],
            )
        return dict(visible.bind(*args, **kwargs).arguments)

    def open_all(scope: Scope) -> dict[str, Any]:
        return {key: scope.hold(open_secret(value)) for key, value in parameters.items()}

    def call(arguments: dict[str, Any], secrets: dict[str, Any]) -> Any:
        # Bound to the full signature: positional arguments may stand on both sides of a secret.
        bound = inspect.BoundArguments(signature, arguments | secrets)
        return function(*bound.args, **bound.kwargs)

    # LangGraph and LangChain ask inspect what kind of function it is, hence four real ones.
    wrapped: Callable[..., Any]
    if inspect.isasyncgenfunction(function):

        @wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            arguments = bind(args, kwargs)
            with closing(Scope()) as scope, _guarded(scope):
                step = _Step(scope)
                with step:
                    body = call(arguments, await asyncio.to_thread(open_all, scope))
                resume = partial(body.asend, None)
                while True:
                    with step:
                        try:
                            item = await resume()
                        except StopAsyncIteration:
                            return
                    refuse_leak(item, scope.revealed)
                    try:
                        resume = partial(body.asend, (yield item))
                    except BaseException as error:
                        resume = partial(body.athrow, error)

    elif inspect.isgeneratorfunction(function):

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            arguments = bind(args, kwargs)
            with closing(Scope()) as scope, _guarded(scope):
                step = _Step(scope)
                with step:
                    body = call(arguments, open_all(scope))
                resume = partial(body.send, None)
                while True:
                    with step:
                        try:
                            item = resume()
                        except StopIteration as stop:
                            refuse_leak(stop.value, scope.revealed)
                            return stop.value
                    refuse_leak(item, scope.revealed)
                    try:
                        resume = partial(body.send, (yield item))
                    except BaseException as error:
                        resume = partial(body.throw, error)

    elif inspect.iscoroutinefunction(function):

        @wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            arguments = bind(args, kwargs)
            with opened_scope() as scope, _guarded(scope):
                result = await call(arguments, await asyncio.to_thread(open_all, scope))
                refuse_leak(result, scope.revealed)
                return result

    else:

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            arguments = bind(args, kwargs)
            with opened_scope() as scope, _guarded(scope):
                result = call(arguments, open_all(scope))
                refuse_leak(result, scope.revealed)
                return result

    wrapped.__annotations__ = {
        key: hint
        for key, hint in inspect.get_annotations(function).items()
        if key not in parameters
    }
    wrapped.__signature__ = visible  # type: ignore[attr-defined]
    return wrapped
