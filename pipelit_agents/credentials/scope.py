"""Where secrets may be read: in the running node or tool that they were opened for."""

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
from contextvars import ContextVar
from functools import partial, wraps
from typing import TYPE_CHECKING, Any
from weakref import ref

from pipelit_agents._run_context import running
from pipelit_agents._threads import aside
from pipelit_agents.credentials.leak_guard.given import Given
from pipelit_agents.credentials.leak_guard.patterns import Needles
from pipelit_agents.credentials.leak_guard.search import holds, redact, refuse_leak, scrub
from pipelit_agents.credentials.leak_guard.surroundings import Surroundings
from pipelit_agents.credentials.leak_guard.traversal import Unsearched
from pipelit_agents.credentials.leak_guard.written import Written, written
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError, SecretLeakError

if TYPE_CHECKING:
    from pipelit_agents.credentials.leak_guard.pieces import Held

__all__ = [
    "Scope",
    "current_scope",
    "injecting",
    "open_needles",
    "opened_scope",
    "require_running",
    "searching_given",
]

_current: ContextVar[Scope | None] = ContextVar("pipelit_agents_scope", default=None)


class Scope(Unsearched):
    """Holds the secrets opened in one running node or tool, and makes them unreadable at its end.

    Attributes:
        parent: The scope that this one was opened in, if that was still open.
        closed: Whether its secrets are gone.
        run: What tells the run that it belongs to from others.
    """

    parent: Scope | None
    closed: bool

    def __init__(self) -> None:
        self.parent = current_scope()
        self.closed = False
        self.run: object | None = None
        self.surroundings: Surroundings | None = None
        self._held: dict[int, tuple[Any, Held]] = {}
        self._at_the_end: list[Callable[[], Any]] = []
        outer: Scope | None = self.parent
        self.given: Given = Given(outer.given if outer is not None else None)
        self._secrets: list[Secret] = []
        self._revealed: dict[str, str] = {}
        # Texts that are these very objects come from a secret, not from the input.
        self._plain: dict[int, tuple[str, str]] = {}
        self._needles: Needles | None = None
        self._sought: Needles | None = None

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
        key = id(self)
        _scopes[key] = ref(self, lambda _: _scopes.pop(key, None))
        # A cancelled node doesn't wait for the thread that opens its secrets: append first, look
        # then, so that either this call or close() sees the other.
        if self.closed:
            self.close()
        value = secret.get_secret_value()
        scope: Scope | None = self
        while scope is not None:
            scope._revealed[value] = secret.credential
            scope._plain[id(value)] = value, secret.credential
            scope._needles = scope._sought = None
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
        self._plain.clear()
        self._needles = self._sought = None
        self.given = Given()
        _scopes.pop(id(self), None)

    def note(self, value: Any) -> Written:
        """Take a value as something that the node was given, and may give back."""
        self._sought = None
        return self.given.add(value)

    def check(
        self, value: Any, where: str = "what the node returns", *, besides: Sequence[Any] = ()
    ) -> None:
        """Make sure that a value on its way out holds no secret that the node added.

        Args:
            value: Anything.
            where: Which way out it is, for the message.
            besides: Objects that were searched already.

        Raises:
            SecretLeakError: It holds one.
        """
        try:
            if self._revealed:
                self._search(value, where, [*besides, *self.given.unsearched()])
        finally:
            del value, besides

    def _search(self, value: Any, where: str, besides: Sequence[Any]) -> None:
        # A large input is searched only where there is something to compare it with.
        every = self.needles()
        wait = self._sought is None and not self.given.is_searched_always(every)
        try:
            if not wait or holds(value, every, besides=besides):
                plain = {number: name for number, (_, name) in self._plain.items()}
                self._refuse(value, where, besides=besides, plain=plain)
        finally:
            del value, besides

    def _refuse(self, value: Any, where: str, **how: Any) -> None:
        leak: SecretLeakError | None = None
        try:
            refuse_leak(value, self.sought(), where, **how)
        except SecretLeakError as error:
            # Its frames hold what was searched, and error trackers show them.
            leak = error.with_traceback(None)
        finally:
            del value, how
        if leak is not None:
            raise leak

    def check_given(self, given: Sequence[Any], before: Written) -> None:
        """Make sure that none was written into what the node was given: LangGraph would store it.

        Args:
            given: What the node was given, as it is now.
            before: What could be written of it before the node ran.

        Raises:
            SecretLeakError: One was; it is masked there. What stood there before stays as it was.
        """
        if not self._revealed or (after := written(given)) == before:
            return
        # A Secret is no plaintext, and may be handed to a function that has secrets of its own.
        if after.shows(self.sought()):
            try:
                for each in given:
                    self._refuse(each, "what the node was given")
            finally:
                scrub(given, self.sought())

    def redact(self, error: BaseException) -> BaseException:
        """Take the secrets out of an exception and its chain; what is to be raised for it."""
        return redact(error, self.sought())

    def needles(self) -> Needles:
        """Return what the secrets of this scope, and of those inside it, look like."""
        found = self._needles
        if found is None:
            found = self._needles = Needles(self.revealed)
        return found

    def sought(self) -> Needles:
        """Return the same for what the node adds, without what stood in its input before."""
        found = self._sought
        if found is None:
            every = self.needles()
            found = self._sought = every.without(self.given.known(every))
        return found

    def was_given(self, text: str) -> bool:
        """Whether a text stood in what the node was given."""
        return self.given.shows(text)

    def holding(self, call: Callable[..., Any], where: str) -> Held:
        """Return what calls a stream's writer, and keeps back what may begin a secret.

        Args:
            call: The writer; each has one.
            where: Which way out it is.
        """
        # Late: it imports LangChain, which `import pipelit_agents` doesn't.
        from pipelit_agents.credentials.leak_guard.pieces import Held

        # Kept with the writer, so that no other gets its id meanwhile.
        return self._held.setdefault(id(call), (call, Held(call, self, where)))[1]

    def at_the_end(self, call: Callable[[], Any]) -> None:
        """Call a function when the node has run; it raises nothing."""
        self._at_the_end.append(call)

    def leave(self, *, failed: bool) -> None:
        """Hand on what streams kept back; search what outlives the node, and clean it.

        Call it before the scope is closed.

        Args:
            failed: Whether an error is under way, which is then the one to tell.

        Raises:
            SecretLeakError: The node left a secret there.
        """
        for _, held in list(self._held.values()):
            if failed:
                # The node's own error is the one to tell.
                with suppress(Exception):
                    held.flush()
            else:
                held.flush()
        for call in self._at_the_end:
            call()
        self._at_the_end.clear()
        if self._revealed and self.surroundings is not None:
            look = self.surroundings.clean if failed else self.surroundings.check
            look(self.needles(), self.sought)


# Those that hold secrets. Without a lock: the collector closes generators that nobody ended, at any
# moment and in any thread.
_scopes: dict[int, ref[Scope]] = {}


def open_needles() -> list[Needles]:
    """Return what to look for, of all that is revealed in this process right now."""
    scopes = [each() for each in _scopes.copy().values()]
    return [scope.needles() for scope in scopes if scope is not None and not scope.closed]


def current_scope() -> Scope | None:
    """Return the innermost open scope, or None."""
    scope = _current.get()
    return None if scope is None or scope.closed else scope


class opened_scope:  # noqa: N801 - used like a function
    """Open a scope inside the current one; it closes at the end of the block, also on errors.

    While it is open, every way out of the node is searched for its secrets: callbacks, streams,
    stores and checkpoints of what runs inside. What is raised loses them.
    """

    # No generator: contextlib's frames would keep an error that had to be replaced.
    def __enter__(self) -> Scope:
        self._scope, self._step = _entered()
        self._step.__enter__()
        return self._scope

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self._step.__exit__()
        try:
            _leave(self._scope, error)
        finally:
            del error


def _entered() -> tuple[Scope, _Step]:
    # Late: these import LangGraph, which `import pipelit_agents` doesn't.
    from langchain_core.runnables.config import var_child_runnable_config

    # No public name: what ToolRuntime.emit_output_delta writes with.
    from langgraph.pregel._tools import _tool_call_writer

    from pipelit_agents.credentials.leak_guard.langgraph_io import (
        guarded_config,
        guarded_writer,
        inputs_in,
    )

    scope = Scope()
    present = var_child_runnable_config.get()
    scope.note(inputs_in("config", present))
    config = guarded_config(present, scope)
    step = _Step(scope, config, guarded_writer(_tool_call_writer.get(), scope))
    scope.surroundings = Surroundings(config)
    with step:
        scope.run = running()
    return scope, step


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
    if present is None or (scope is not None and scope.run == present):
        raise CredentialScopeError(
            f"credential {credential!r} opens only inside a running node or tool: reveal it "
            "there, or declare it with credentials.inject",
            credential=credential,
        )


class _Step:
    """Sets the scope and its guarded doors for a block, and the outer ones again after it.

    A generator enters once for each of its steps; between them its consumer runs.
    """

    def __init__(self, scope: Scope, config: Mapping[str, Any], writer: Any) -> None:
        self._inside: tuple[Scope | None, Any, Any] = (scope, config, writer)
        self._outside: tuple[Scope | None, Any, Any] = (None, None, None)

    def __enter__(self) -> None:
        self._outside = self._exchange(self._inside)

    def __exit__(self, *_: object) -> None:
        # Not by token: a generator may go on in another context than it began in. And its body
        # may have opened a scope that it keeps across the yield.
        self._inside = self._exchange(self._outside)

    @staticmethod
    def _exchange(new: tuple[Scope | None, Any, Any]) -> tuple[Scope | None, Any, Any]:
        from langchain_core.runnables.config import var_child_runnable_config as config
        from langgraph.pregel._tools import _tool_call_writer as writer

        old = _current.get(), config.get(), writer.get()
        _current.set(new[0])
        config.set(new[1])
        writer.set(new[2])
        return old


class _left:  # noqa: N801 - used like a function
    """Leave the scope at the end of the block."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        try:
            _leave(self._scope, error)
        finally:
            del error


def _leave(scope: Scope, error: BaseException | None) -> None:
    """Close the scope, and take its secrets out of what is raised and what outlives it.

    Raises:
        SecretLeakError: The node left a secret where it would outlive the node.
        BaseException: What stands for an error that could not be changed.
    """
    from pipelit_agents.credentials.leak_guard.langgraph_io import redact_or_raise

    try:
        scope.leave(failed=error is not None)
        if error is not None:
            redact_or_raise(error, scope)
    finally:
        del error
        scope.close()


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
            scope, step = _entered()
            with _left(scope):
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
            scope, step = _entered()
            with _left(scope):
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
