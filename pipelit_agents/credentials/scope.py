"""Limit open secrets to the running node or tool that they were opened for."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from contextlib import nullcontext, suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import ref

from pipelit_agents._run_context import running
from pipelit_agents._words import quoted, recordable
from pipelit_agents.credentials.issued_codes import Code
from pipelit_agents.credentials.leak_guard.masking import redact, scrub
from pipelit_agents.credentials.leak_guard.node_input import NodeInput
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.search import holds, refuse_leak
from pipelit_agents.credentials.leak_guard.stored import Unsearched
from pipelit_agents.credentials.leak_guard.surroundings import Surroundings
from pipelit_agents.credentials.leak_guard.written import Written, written
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError, SecretLeakError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from pipelit_agents.credentials.leak_guard.streams import DelayedCall

__all__ = ["Scope", "current_scope", "open_patterns", "opened_scope", "require_running"]

# Called with the partial output of a tool.
_Writer: TypeAlias = Callable[[Any], None]
_NO_PLAINTEXTS: Final[Mapping[int, str]] = {}

_current: ContextVar[Scope | None] = ContextVar("pipelit_agents_scope", default=None)


class Scope(Unsearched):
    """Hold the secrets opened in one running node or tool, and make them unreadable when it ends.

    Attributes:
        parent: The scope that this one was opened in, if that was still open.
        closed: Whether the secrets have been dropped.
        run: Identifies the run that this scope belongs to.
    """

    parent: Scope | None
    closed: bool

    def __init__(self) -> None:
        self.parent = current_scope()
        self.closed = False
        self.run: object | None = None
        self.surroundings: Surroundings | None = None
        self._delayed_calls: dict[int, tuple[Callable[..., Any], DelayedCall]] = {}
        self._on_exit: list[Callable[[], object]] = []
        outer: Scope | None = self.parent
        self.input: NodeInput = NodeInput(outer.input if outer is not None else None)
        self._secrets: list[Secret] = []
        self._revealed: dict[str, str] = {}
        # By id, the text objects of opened secrets: these come from a secret, never from the input.
        self._plain: dict[int, tuple[str, str]] = {}
        self._patterns: Patterns | None = None
        self._sought: Patterns | None = None

    @property
    def revealed(self) -> Mapping[str, str]:
        """Credential names by plaintext, to search for in values that leave the node.

        Secrets of inner scopes stay listed until this scope closes: a node can return a secret
        that it has read in an inner `reveal`.
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
        # A cancelled node doesn't wait for the thread that opens its secrets. The secret is
        # appended before `closed` is read, so either this call or close() sees the other.
        if self.closed:
            self.close()
        value = secret.get_secret_value()
        scope: Scope | None = self
        while scope is not None:
            if scope._revealed.get(value) != secret.credential:
                scope._revealed[value] = secret.credential
                scope._patterns = scope._sought = None
            scope._plain[id(value)] = value, secret.credential
            if scope.closed:
                scope.close()
            scope = scope.parent
        return secret

    @property
    def codes(self) -> list[Code]:
        """The codes of other services among its secrets."""
        return [each for each in self._secrets if isinstance(each, Code)]

    def settle(self) -> None:
        """Wait until the codes among its secrets are valid; call it before they are used."""
        for each in self.codes:
            each.settle()

    async def asettle(self) -> None:
        """As ``settle``; the event loop goes on meanwhile."""
        for each in self.codes:
            await each.asettle()

    def close(self) -> None:
        """Make every secret of this scope unreadable. Closing twice does nothing."""
        self.closed = True
        for secret in list(self._secrets):
            secret.close()
        self._revealed.clear()
        self._plain.clear()
        self._patterns = self._sought = None
        self.input = NodeInput()
        _scopes.pop(id(self), None)

    def add_input(self, value: object) -> Written:
        """Record a value as input of the node, which the node may return."""
        found = self.input.add(value)
        self._sought = None
        return found

    def search(
        self,
        value: object,
        where: str = "the node's return value",
        *,
        already_searched: Sequence[object] = (),
    ) -> None:
        """Raise an error if a value that leaves the node contains a secret that the node added.

        Args:
            value: Any value.
            where: What the value is, for the error message.
            already_searched: Objects that were searched before and are skipped.

        Raises:
            SecretLeakError: The value contains a secret, or can't be searched.
        """
        try:
            if self._revealed:
                self._search_value(value, where, already_searched)
        finally:
            del value, already_searched

    def _search_value(self, value: object, where: str, already_searched: Sequence[object]) -> None:
        # A large input is searched only if the value contains a secret that may come from it.
        every = self.patterns()
        wait = self._sought is None and not self.input.is_small(every)
        try:
            if not wait or holds(value, every, already_searched=already_searched):
                plain = {number: name for number, (_, name) in self._plain.items()}
                self._refuse_leak(value, where, already_searched, plain)
        finally:
            del value, already_searched

    def _refuse_leak(
        self,
        value: object,
        where: str,
        already_searched: Sequence[object] = (),
        plain: Mapping[int, str] = _NO_PLAINTEXTS,
    ) -> None:
        leak: SecretLeakError | None = None
        try:
            refuse_leak(
                value,
                self.sought(),
                where,
                already_searched=already_searched,
                plain=plain,
                excused=self.input.unsearchable(),
            )
        except SecretLeakError as error:
            # The frames hold the searched value, and error trackers display them.
            leak = error.with_traceback(None)
        finally:
            del value, already_searched
        if leak is not None:
            raise leak

    def search_input(self, inputs: Sequence[object], before: Written) -> None:
        """Raise an error if the node wrote a secret into its input, which LangGraph would store.

        Args:
            inputs: The input in its current state.
            before: The texts and bytes of the input before the node ran.

        Raises:
            SecretLeakError: The input contains a secret, which is masked there. Text that was
                there before is unchanged.
        """
        if not self._revealed or (after := written(inputs)) == before:
            return
        # Only plaintext counts here: a Secret may be passed to a function that injects others.
        if after.holds_any(self.sought()):
            try:
                for each in inputs:
                    self._refuse_leak(each, "the node's input")
            finally:
                scrub(inputs, self.sought())

    def redact(self, error: BaseException) -> BaseException:
        """Remove the secrets from an exception and its chain, and return the exception to raise."""
        return redact(error, self.sought())

    def patterns(self) -> Patterns:
        """Return the patterns of the secrets of this scope and of its inner scopes."""
        found = self._patterns
        if found is None:
            outer = self.parent
            # A node may open one secret again and again. With the same object for all of these
            # blocks, its input is searched only once.
            same = outer is not None and outer._revealed == self._revealed
            found = outer.patterns() if outer is not None and same else Patterns(self.revealed)
            self._patterns = found
        return found

    def sought(self) -> Patterns:
        """Return the patterns to search for: all of them without secrets from the node's input."""
        found = self._sought
        if found is None:
            every = self.patterns()
            found = self._sought = every.without(self.input.known(every))
        return found

    def is_from_input(self, text: str) -> bool:
        """Return whether the node's input contains a text."""
        return self.input.contains(text)

    def delayed_call(self, call: Callable[..., Any], where: str) -> DelayedCall:
        """Wrap a stream's writer, so that it holds back the beginnings of secrets.

        Args:
            call: The writer. The same writer always gets the same wrapper.
            where: What the stream is, for error messages.
        """
        # Imported late: `import pipelit_agents` must not import LangChain.
        from pipelit_agents.credentials.leak_guard.streams import DelayedCall

        # Keep the writer too, so that its id isn't reused.
        return self._delayed_calls.setdefault(id(call), (call, DelayedCall(call, self, where)))[1]

    def on_exit(self, call: Callable[[], object]) -> None:
        """Call a function after the node has run; the function must not raise."""
        self._on_exit.append(call)

    def leave(self, *, failed: bool) -> None:
        """Pass on what streams held back; search the node's surroundings and remove secrets.

        Call this before the scope is closed.

        Args:
            failed: Whether the node raised an error. Then that error is raised and no other.

        Raises:
            SecretLeakError: The node left a secret in its surroundings.
        """
        leak = None
        try:
            for _, held in list(self._delayed_calls.values()):
                # The node's own error takes precedence.
                with suppress(Exception) if failed else nullcontext():
                    held.flush()
        finally:
            # Also if the consumer of a stream has failed.
            for call in self._on_exit:
                call()
            self._on_exit.clear()
            if self._revealed and self.surroundings is not None:
                leak = self.surroundings.clean(self.patterns(), self.sought)
        if leak is not None and not failed:
            raise leak


# The scopes that hold secrets. No lock: the garbage collector may close an unfinished generator at
# any moment and in any thread.
_scopes: dict[int, ref[Scope]] = {}


def open_patterns() -> list[Patterns]:
    """Return the patterns of all secrets that are open in this process right now."""
    scopes = [each() for each in _scopes.copy().values()]
    return [scope.patterns() for scope in scopes if scope is not None and not scope.closed]


def current_scope() -> Scope | None:
    """Return the innermost open scope, or None."""
    scope = _current.get()
    return None if scope is None or scope.closed else scope


class opened_scope:  # noqa: N801 - used like a function
    """Open a scope inside the current one, and close it at the end of the block, also on errors.

    While the scope is open, every exit of the node is searched for its secrets: callbacks, streams,
    stores and checkpoints of code that runs inside. Exceptions lose the secrets.
    """

    # Not a generator: contextlib's frames would keep an error that had to be replaced.
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
    """Return a new scope, and the step that makes it the current one for a block."""
    # Imported late: `import pipelit_agents` must not import LangGraph.
    from langchain_core.runnables.config import var_child_runnable_config

    # The writer behind ToolRuntime.emit_output_delta has no public name.
    from langgraph.pregel._tools import _tool_call_writer

    from pipelit_agents.credentials.leak_guard.langgraph_io import (
        guarded_config,
        guarded_writer,
        inputs_in,
    )

    scope = Scope()
    present = var_child_runnable_config.get()
    scope.add_input(inputs_in("config", present))
    config = guarded_config(present, scope)
    step = _Step(scope, config, guarded_writer(_tool_call_writer.get(), scope))
    scope.surroundings = Surroundings(config)
    with step:
        scope.run = running()
    return scope, step


def require_running(credential: str) -> None:
    """Raise an error if no node, tool or injected function is running here.

    One is running if a scope is open, or if LangChain's context holds the configuration of a
    running runnable: each node and tool runs in a context with its own callback manager, which
    `langchain_core.runnables.ensure_config` returns. At module level and in a new thread there is
    none. A context copied inside a node (`asyncio.create_task`, `copy_context`) still counts as
    running after the node has ended, unless a scope was open when it was copied.

    Args:
        credential: The requested credential, for the error message.

    Raises:
        CredentialScopeError: Nothing is running here.
    """
    scope = _current.get()
    if scope is not None and not scope.closed:
        return
    present = running()
    # If the scope is closed, its node has ended. But another one may have begun since, for example
    # in a background task that the first one started.
    if present is None or (scope is not None and scope.run == present):
        raise CredentialScopeError(
            f"credential {quoted(credential)} can be opened only inside a running node or tool: "
            "reveal it there, or declare it with credentials.inject",
            credential=recordable(credential),
        )


# What context variables hold while a node runs: scope, LangChain's configuration, and writer.
# A plain tuple, because the collector may run while it is made, and close other generators there:
# Python 3.11 can't stand that while it begins to call a named tuple's constructor.
_Current: TypeAlias = "tuple[Scope | None, RunnableConfig | None, _Writer | None]"


class _Step:
    """Set the scope and its guarded exits for a block, and restore the outer ones after it.

    A generator enters the block once for each of its steps. Its consumer runs between the steps.
    """

    def __init__(self, scope: Scope, config: RunnableConfig, writer: _Writer | None) -> None:
        self._inside: _Current = (scope, config, writer)
        self._outside: _Current = (None, None, None)

    def __enter__(self) -> None:
        self._outside = self._exchange(self._inside)

    def __exit__(self, *_: object) -> None:
        # Not with a token: a generator may be resumed in a different context, and its body may
        # keep a scope open across the yield.
        self._inside = self._exchange(self._outside)

    def close(self, pieces: object) -> None:
        """Close a generator, or another iterator that can be closed, in the block.

        The collector may do this at any moment, also while the running code sets a context
        variable. Before Python 3.12 a second one that is set then corrupts the context, so this
        happens in a copy of it.
        """
        close = getattr(pieces, "close", None)
        if close is not None:
            copy_context().run(self._call, close)

    def _call(self, close: Callable[[], object]) -> None:
        with self:
            close()

    @staticmethod
    def _exchange(new: _Current) -> _Current:
        from langchain_core.runnables.config import var_child_runnable_config as config
        from langgraph.pregel._tools import _tool_call_writer as writer

        old = (_current.get(), config.get(), writer.get())
        scope, configuration, emitting = new
        _current.set(scope)
        config.set(configuration)
        writer.set(emitting)
        return old


class left_open:  # noqa: N801 - used like a function
    """Close a scope at the end of the block, also on errors."""

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
    """Close a scope, and remove its secrets from the exception and from the surroundings.

    Raises:
        SecretLeakError: The node left a secret in its surroundings.
        BaseException: The replacement for an error that could not be changed.
    """
    from pipelit_agents.credentials.leak_guard.guard import redact_or_raise

    try:
        scope.leave(failed=error is not None)
        if error is not None:
            redact_or_raise(error, scope)
    finally:
        del error
        scope.close()
