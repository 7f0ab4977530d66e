"""Where secrets may be read: in the running node or tool that they were opened for."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import ref

from pipelit_agents._run_context import running
from pipelit_agents.credentials.leak_guard.given import Given
from pipelit_agents.credentials.leak_guard.masking import redact, scrub
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.search import holds, refuse_leak
from pipelit_agents.credentials.leak_guard.surroundings import Surroundings
from pipelit_agents.credentials.leak_guard.traversal import Unsearched
from pipelit_agents.credentials.leak_guard.written import Written, written
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError, SecretLeakError

if TYPE_CHECKING:
    from pipelit_agents.credentials.leak_guard.pieces import Held

__all__ = ["Scope", "current_scope", "open_patterns", "opened_scope", "require_running"]

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
        self._patterns: Patterns | None = None
        self._sought: Patterns | None = None

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
            scope._patterns = scope._sought = None
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
        self._patterns = self._sought = None
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
        every = self.patterns()
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

    def patterns(self) -> Patterns:
        """Return what the secrets of this scope, and of those inside it, look like."""
        found = self._patterns
        if found is None:
            found = self._patterns = Patterns(self.revealed)
        return found

    def sought(self) -> Patterns:
        """Return the same for what the node adds, without what stood in its input before."""
        found = self._sought
        if found is None:
            every = self.patterns()
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
            look(self.patterns(), self.sought)


# Those that hold secrets. Without a lock: the collector closes generators that nobody ended, at any
# moment and in any thread.
_scopes: dict[int, ref[Scope]] = {}


def open_patterns() -> list[Patterns]:
    """Return what to look for, of all that is revealed in this process right now."""
    scopes = [each() for each in _scopes.copy().values()]
    return [scope.patterns() for scope in scopes if scope is not None and not scope.closed]


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
        self._scope, self._step = entered_scope()
        self._step.__enter__()
        return self._scope

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self._step.__exit__()
        try:
            _leave(self._scope, error)
        finally:
            del error


def entered_scope() -> tuple[Scope, _Step]:
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


class left_open:  # noqa: N801 - used like a function
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
