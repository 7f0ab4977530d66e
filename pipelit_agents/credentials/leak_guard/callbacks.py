"""Guard the callback handlers of a running node, which receive what runnables inside it exchange.

A gate in front of the handlers refuses a value before any of them receives it. Handlers that
listen to streams are wrapped, so that they receive the pieces that the gate has cleared.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import suppress
from copy import copy, deepcopy
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, BaseCallbackManager
from langchain_core.outputs import LLMResult

# The writer behind ToolRuntime.emit_output_delta has no public name. A test fails if it changes.
from langgraph.pregel._tools import StreamToolCallHandler
from langgraph.pregel.protocol import StreamChunk
from tenacity import RetryCallState

from pipelit_agents.credentials.leak_guard.guard import Guard, redact_or_raise
from pipelit_agents.credentials.leak_guard.stored import Unsearched, by_type
from pipelit_agents.credentials.leak_guard.streamed_texts import current_source
from pipelit_agents.credentials.leak_guard.streams import Held, Pieces
from pipelit_agents.errors import SecretLeakError

__all__ = ["guarded_callbacks", "searched_call", "searched_stream"]

T = TypeVar("T")
Callbacks = list[BaseCallbackHandler] | BaseCallbackManager | None
# A callback event: the name of the handler's method, and its arguments.
_Event = tuple[str, tuple[object, ...], dict[str, object]]
_EVENTS: Final = ("on_llm_new_token", "on_stream_event", "on_custom_event")
_ENDS: Final = ("on_llm_end", "on_llm_error")
# The method of its handler with which LangGraph's push_message writes to the stream of messages.
_PUSH: Final = "_emit"
_OUTPUT: Final = "the output of a runnable inside the node"


def guarded_callbacks(callbacks: Callbacks, guard: Guard) -> Callbacks:
    """Return callbacks with a gate in front of the handlers; the given ones aren't changed."""
    manager = callbacks.copy() if isinstance(callbacks, BaseCallbackManager) else None
    handlers = list(callbacks or []) if manager is None else manager.handlers  # type: ignore[arg-type]
    tap = next((each for each in handlers if hasattr(each, "tap_output_aiter")), None)
    gate = _Gate(guard) if tap is None else _TappingGate(guard, tap)
    held = {id(each): _delayed(each, gate) for each in handlers}
    # First, so that it refuses a value before another handler receives it.
    first = [gate, *(held[id(each)] for each in handlers)]
    if manager is None:
        return first
    manager.handlers = first
    inherited = manager.inheritable_handlers
    manager.inheritable_handlers = [
        gate,
        *(held[id(each)] if id(each) in held else _delayed(each, gate) for each in inherited),
    ]
    return manager


def searched_stream(
    stream: Callable[[StreamChunk], object], guard: Guard
) -> Callable[[StreamChunk], None]:
    """Guard the stream of a graph inside the node."""
    where = "the stream of a graph inside the node"
    held = guard.delayed_call(stream, where)

    def checked(chunk: StreamChunk) -> None:
        held.search(chunk)
        # A model's tokens are held back in the callbacks. The other modes emit complete values.
        if chunk[1] == "custom" or (chunk[1] == "tools" and "delta" in chunk[2]):
            held(chunk[2:], (chunk,), {})
        else:
            stream(chunk)

    return checked


def searched_call(call: Callable[..., object], guard: Guard, where: str) -> Callable[..., Any]:
    """Guard a function that writes each of its calls to a stream."""
    held = guard.delayed_call(call, where)

    def checked(*args: object, **kwargs: object) -> object:
        held.search([args, kwargs])
        return held([args, kwargs], args, kwargs)

    return checked


class _Gate(BaseCallbackHandler, Unsearched):
    """The first callback handler: it refuses values before other handlers receive them.

    Its methods are named after LangChain's events in the table below the class.
    """

    raise_error = True
    run_inline = True

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        # By run, how many events of its stream may be passed on so far.
        self.safe: dict[Hashable, int] = {}
        # Runs whose streams contained a secret, so that the rest is withheld.
        self.leaked: set[Hashable] = set()
        self._streams: dict[Hashable, Pieces] = {}
        # A node may emit events from several threads.
        self._lock = threading.RLock()
        self._listeners: list[_Delayed] = []

    def flush_on_exit(self, handler: _Delayed) -> None:
        """When the node ends, pass a handler the events that were held back."""
        if not self._listeners:
            self.guard.on_exit(self._flush)
        self._listeners.append(handler)

    def _flush(self) -> None:
        for handler in self._listeners:
            for name, args, kwargs in _unreleased(handler):
                # Like LangChain, go on with the other handlers if one raises.
                with suppress(Exception):
                    result = getattr(handler._pipelit_handler, name)(*args, **kwargs)
                    if inspect.isawaitable(result):
                        # The node ends without waiting for the handler.
                        task = asyncio.get_running_loop().create_task(_finish(result))
                        _pending_tasks.add(task)
                        task.add_done_callback(_pending_tasks.discard)

    def _on_input(
        self, serialized: object, value: object = None, *args: object, **details: object
    ) -> None:
        found = {"input": value, "serialized": serialized, "more": args, **details}
        self.guard.search(found, "the input of a runnable inside the node")

    def _on_output(
        self, output: object = None, *args: object, run_id: Hashable = None, **details: object
    ) -> None:
        self._streams.pop(run_id, None)
        self.guard.search({"output": output}, _OUTPUT)

    def _on_error(
        self, error: BaseException, *, run_id: Hashable = None, **details: object
    ) -> None:
        self._streams.pop(run_id, None)
        partial = details.get("response")
        try:
            if isinstance(partial, LLMResult) and (run_id in self.leaked or self._leaks(partial)):
                # What a model said before the secret was complete, or what the provider answered:
                # LangChain adds the body and the headers of an answer with an error status.
                partial.generations.clear()
                partial.llm_output = None
            redact_or_raise(error, self.guard)
            self._on_message(details)
        finally:
            del error, partial, details

    def _leaks(self, value: object) -> bool:
        try:
            self.guard.search(value, _OUTPUT)
        except SecretLeakError:
            return True
        finally:
            del value
        return False

    def _on_message(self, *values: object, **details: object) -> None:
        self.guard.search([values, details], "an event of a runnable inside the node")

    def on_retry(self, retry_state: RetryCallState, **details: object) -> None:
        # Tracers record the error that caused the retry.
        outcome = retry_state.outcome
        if outcome is not None and (error := outcome.exception()) is not None:
            try:
                redact_or_raise(error, self.guard)
            finally:
                del error
        elif outcome is not None:
            self.guard.search(outcome.result(), _OUTPUT)

    def on_custom_event(self, name: str, data: object, **details: object) -> None:
        where = "a custom event of the node"
        with self._lock:
            found = {"name": name, "data": data, **details}
            # Events with the same name may carry one text in pieces.
            run_id = details.get("run_id"), name
            self._streamed(found, data, run_id, where, current_source())

    def _on_token(self, token: object, *, run_id: Hashable, **details: object) -> None:
        chunk = details.get("chunk")
        self._streamed({"token": token, "chunk": chunk}, token if chunk is None else chunk, run_id)

    def on_stream_event(self, event: object, *, run_id: Hashable = None, **details: object) -> None:
        self._streamed(event, event, run_id)

    def _streamed(
        self,
        whole: object,
        text: object,
        run_id: Hashable,
        where: str = "the stream of a model inside the node",
        source: int | None = None,
    ) -> None:
        stream = self._streams.setdefault(run_id, Pieces(self.guard, where))
        try:
            stream.search(whole)
            self.safe[run_id] = self.safe.get(run_id, 0) + stream.take(text, source)
        except SecretLeakError:
            self.leaked.add(run_id)
            for handler in self._listeners:
                if (run := handler._pipelit_runs.get(run_id)) is not None:
                    run.kept.clear()
            raise


for _method, _kinds in {
    _Gate._on_input: "chain_start tool_start retriever_start llm_start chat_model_start",
    _Gate._on_output: "chain_end tool_end retriever_end llm_end",
    _Gate._on_error: "chain_error tool_error retriever_error llm_error",
    _Gate._on_message: "text agent_action agent_finish",
    _Gate._on_token: "llm_new_token",
}.items():
    for _kind in _kinds.split():
        setattr(_Gate, f"on_{_kind}", _method)


class _TappingGate(_Gate):
    """A gate that also taps streams of chunks: LangChain lets only one handler do that."""

    def __init__(self, guard: Guard, tap: Any) -> None:
        super().__init__(guard)
        self._tap = tap

    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:
        """Search the chunks, then pass them to the handler that taps the stream."""
        held = Held[T](self.guard, "the stream of a runnable inside the node")

        def checked() -> Iterator[T]:
            try:
                for chunk in output:
                    held.search(chunk)
                    yield from held.add(chunk, chunk)
            except Exception:
                yield from held.rest()
                raise
            yield from held.rest()

        tapped: Iterator[T] = self._tap.tap_output_iter(run_id, checked())
        return tapped

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:
        """As ``tap_output_iter``."""
        held = Held[T](self.guard, "the stream of a runnable inside the node")

        async def checked() -> AsyncIterator[T]:
            try:
                async for chunk in output:
                    held.search(chunk)
                    for each in held.add(chunk, chunk):
                        yield each
            except Exception:
                for each in held.rest():
                    yield each
                raise
            for each in held.rest():
                yield each

        tapped: AsyncIterator[T] = self._tap.tap_output_aiter(run_id, checked())
        return tapped


def _delayed(handler: BaseCallbackHandler, gate: _Gate) -> BaseCallbackHandler:
    """Wrap a handler, so that it receives streamed pieces only after the gate has cleared them.

    Returns:
        A proxy of the handler, which ``isinstance`` accepts as the handler; or the handler itself,
        if it doesn't listen to streams.
    """
    if isinstance(handler, _Gate):
        return handler
    if isinstance(handler, StreamToolCallHandler):
        # This handler gives each starting tool its own writer. The copy shares its bookkeeping.
        made = copy(handler)
        made.stream = searched_stream(handler.stream, gate.guard)
        return made
    # Inspecting a handler may run its code, which may raise. Then it receives each piece at once,
    # except a piece that completes a secret.
    with suppress(Exception):
        if _listens(type(handler)):
            return cast(BaseCallbackHandler, _Delayed(handler, gate))
    return handler


@by_type
def _listens(kind: type) -> bool:
    bases = (BaseCallbackHandler, AsyncCallbackHandler)
    return issubclass(kind, _Delayed) or any(
        all(getattr(kind, name, None) is not getattr(base, name, None) for base in bases)
        for name in _EVENTS
    )


@dataclasses.dataclass
class _Run:
    """How many events of a stream a handler has received, and those that it has not."""

    passed: int = 0
    kept: deque[_Event] = dataclasses.field(default_factory=deque)


class _Delayed(Unsearched):
    """A proxy of a handler. A copy or subclass is no option: not every class supports that."""

    # Any: the handler may be of any class, and have any attributes.
    _pipelit_handler: Any
    _pipelit_gate: _Gate
    _pipelit_async: bool
    _pipelit_push: Callable[..., Any] | None
    _pipelit_runs: dict[Hashable, _Run]

    def __init__(self, handler: object, gate: _Gate) -> None:
        methods = [getattr(handler, name, None) for name in (*_EVENTS, *_ENDS)]
        own = object.__setattr__
        own(self, "_pipelit_handler", handler)
        own(self, "_pipelit_gate", gate)
        own(self, "_pipelit_async", any(map(inspect.iscoroutinefunction, methods)))
        own(self, "_pipelit_runs", {})
        push = getattr(handler, _PUSH) if hasattr(handler.__class__, _PUSH) else None
        where = "a message that the node pushes"
        own(self, "_pipelit_push", push and searched_call(push, gate.guard, where))
        gate.flush_on_exit(self)

    # LangChain finds handlers by their types.
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        kind: type = self._pipelit_handler.__class__
        return kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_pipelit_"):
            raise AttributeError(name)
        if name == _PUSH and self._pipelit_push is not None:
            return self._pipelit_push
        found = getattr(self._pipelit_handler, name)
        if name in _EVENTS or name in _ENDS:
            return (_async_call if self._pipelit_async else _sync_call)(self, name)
        return found

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._pipelit_handler, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._pipelit_handler, name)

    def __eq__(self, other: object) -> bool:
        return bool(_handler_of(self) == _handler_of(other))

    def __hash__(self) -> int:
        return hash(_handler_of(self))

    def __repr__(self) -> str:
        return repr(self._pipelit_handler)

    def __copy__(self) -> _Delayed:
        return _Delayed(copy(self._pipelit_handler), self._pipelit_gate)

    def __deepcopy__(self, memo: dict[int, object]) -> _Delayed:
        return _Delayed(deepcopy(self._pipelit_handler, memo), self._pipelit_gate)


def _handler_of(handler: Any) -> object:
    while issubclass(type(handler), _Delayed):
        handler = handler._pipelit_handler
    return handler


def _released(
    handler: _Delayed, name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> Iterator[_Event]:
    """Add an event, and yield the events that the handler may receive now, in order."""
    gate, runs = handler._pipelit_gate, handler._pipelit_runs
    run_id: Hashable = kwargs.get("run_id")
    if name == "on_custom_event":
        run_id = run_id, args[0] if args else kwargs.get("name")
    run = runs.setdefault(run_id, _Run())
    if name in _EVENTS:
        run.kept.append((name, args, kwargs))
        while run.kept and run.passed < gate.safe.get(run_id, 0):
            run.passed += 1
            yield run.kept.popleft()
        return
    del runs[run_id]
    if run_id not in gate.leaked:
        yield from run.kept
    yield name, args, kwargs


def _unreleased(handler: _Delayed) -> Iterator[_Event]:
    """Yield the custom events that were held back; no end event releases them."""
    for run_id, run in list(handler._pipelit_runs.items()):
        if isinstance(run_id, tuple) and run_id not in handler._pipelit_gate.leaked:
            while run.kept:
                yield run.kept.popleft()


def _sync_call(handler: _Delayed, name: str) -> Callable[..., None]:
    def call(*args: object, **kwargs: object) -> None:
        for each, event_args, event_kwargs in _released(handler, name, args, kwargs):
            getattr(handler._pipelit_handler, each)(*event_args, **event_kwargs)

    return call


def _async_call(handler: _Delayed, name: str) -> Callable[..., Awaitable[None]]:
    async def call(*args: object, **kwargs: object) -> None:
        for each, event_args, event_kwargs in _released(handler, name, args, kwargs):
            result = getattr(handler._pipelit_handler, each)(*event_args, **event_kwargs)
            if inspect.isawaitable(result):
                await result

    return call


async def _finish(waited_for: Awaitable[object]) -> None:
    with suppress(Exception):
        await waited_for


# Keeps a reference to each task, so that none is garbage-collected before it has run.
_pending_tasks: set[asyncio.Task[None]] = set()
