"""Guard the exits of a running node other than its return value.

LangGraph passes a node the objects with which it streams, stores, saves checkpoints, starts tasks
and runs further graphs. Callbacks receive the inputs and outputs of runnables inside the node.
While secrets are open, each of these objects is replaced by one that searches every value and
refuses a value that contains a secret.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from copy import copy, deepcopy
from functools import lru_cache, partial, wraps
from typing import Any, Final, NoReturn, Protocol, cast

from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    BaseCallbackManager,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt import ToolRuntime

# The writer behind ToolRuntime.emit_output_delta has no public name. A test fails if it changes.
from langgraph.pregel._tools import StreamToolCallHandler
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import RunControl, Runtime
from langgraph.store.base import BaseStore, Op, Result
from pydantic import BaseModel

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.pieces import DelayedCall, Pieces, current_source
from pipelit_agents.credentials.leak_guard.stored import Unsearched, state_of
from pipelit_agents.errors import SecretLeakError

__all__ = [
    "delayed",
    "guarded_argument",
    "guarded_config",
    "guarded_writer",
    "inputs_in",
    "redact_or_raise",
    "state_in",
]

_CONFIG_KEYS: Final = frozenset({"callbacks", "configurable"})
# Types that are data. In _PLAIN_TYPES, those of most configuration values: checking them against
# every kind of exit would be slow.
_DATA_TYPES: Final = (str, bytes, dict, list, tuple, set, frozenset, BaseModel)
_PLAIN_TYPES: Final = frozenset({str, int, float, bool, bytes, type(None), dict, list, tuple})

# A callback event: the name of the handler's method, and its arguments.
_Event = tuple[str, tuple[Any, ...], dict[str, Any]]


class Guard(Protocol):
    """An object that knows the open secrets."""

    def search(self, value: Any, where: str) -> None:
        """Raise SecretLeakError if a value contains an open secret."""

    def redact(self, error: BaseException) -> BaseException:
        """Remove the open secrets from an exception, and return the exception to raise."""

    def sought(self) -> Patterns:
        """Return the patterns of the open secrets."""

    def is_from_input(self, text: str) -> bool:
        """Return whether the node's input contains a text."""

    def on_exit(self, call: Callable[[], Any]) -> None:
        """Call a function after the node has run, before its surroundings are searched."""

    def delayed_call(self, call: Callable[..., Any], where: str) -> DelayedCall:
        """Wrap a stream writer, so that it holds back the beginnings of secrets."""

    def add_input(self, value: Any) -> object:
        """Record a value as input of the node, which the node may return."""


def guarded_config(config: Mapping[str, Any] | None, guard: Guard) -> RunnableConfig:
    """Return a runnable configuration with guarded exits, for code that runs inside the node.

    Args:
        config: The current configuration; it isn't changed.
        guard: Knows the open secrets.
    """
    made: Any = dict(config or {})
    # Copies: the graph writes its own tags and metadata into streams and checkpoints.
    if isinstance(made.get("tags"), list):
        made["tags"] = list(made["tags"])
    if isinstance(made.get("metadata"), dict):
        made["metadata"] = dict(made["metadata"])
    configurable = made.get("configurable")
    if configurable:
        made["configurable"] = {
            key: _guarded(value, guard, inside=key.startswith("__"))
            for key, value in configurable.items()
        }
    callbacks = made.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        gate = _gate(guard, callbacks.handlers)
        held = {id(each): delayed(each, gate) for each in callbacks.handlers}
        # First, so that it refuses a value before another handler receives it.
        callbacks.handlers = [gate, *held.values()]
        callbacks.inheritable_handlers = [
            gate,
            *(held.get(id(each)) or delayed(each, gate) for each in callbacks.inheritable_handlers),
        ]
        made["callbacks"] = callbacks
    else:
        handlers = list(callbacks or [])
        gate = _gate(guard, handlers)
        made["callbacks"] = [gate, *(delayed(each, gate) for each in handlers)]
    return cast(RunnableConfig, made)


def guarded_writer(writer: Callable[[Any], Any] | None, guard: Guard) -> Any:
    """Guard the writer for a tool's partial output; return None if there is no writer.

    Args:
        writer: The writer of the running tool.
        guard: Knows the open secrets.
    """
    return None if writer is None else _searched_call(writer, guard, "the tool's stream")


def guarded_argument(name: str, value: Any, guard: Guard) -> Any:
    """Guard an argument that LangGraph or LangChain passes to a node or tool.

    Args:
        name: The name of the parameter.
        value: A configuration, a runtime, a store, a stream writer, or any other value.
        guard: Knows the open secrets.
    """
    if name == "writer" and callable(value):
        return _searched_call(value, guard, "the node's stream")
    if isinstance(value, dict) and _is_config(name, value):
        return guarded_config(value, guard)
    runtime = getattr(value, "runtime", None)
    if isinstance(runtime, Runtime | ToolRuntime) and dataclasses.is_dataclass(value):
        # What a middleware of LangChain's is called with.
        return dataclasses.replace(value, runtime=_guarded(runtime, guard))  # type: ignore[type-var]
    return _guarded(value, guard)


def state_in(name: str, value: Any) -> Any:
    """Return the part of an argument that LangGraph stores: the state; None if it has none."""
    if isinstance(value, ToolRuntime):
        return value.state
    if isinstance(value, Runtime | BaseStore) or inspect.isroutine(value):
        return None
    if isinstance(getattr(value, "runtime", None), Runtime | ToolRuntime):
        return None
    return None if isinstance(value, dict) and _is_config(name, value) else value


def inputs_in(name: str, value: Any) -> list[Any]:
    """Return the parts of an argument, other than the state, that are input of the node.

    Args:
        name: The name of the parameter.
        value: A configuration, a runtime, a middleware's request, or any other value.
    """
    if isinstance(value, dict):
        return _inputs_in_a_config(value) if _is_config(name, value) else []
    if isinstance(value, Runtime | ToolRuntime):
        config = getattr(value, "config", None) or {}
        found = [getattr(value, each, None) for each in ("context", "previous", "tool_call_id")]
        return [*map(_data_in, found), *_inputs_in_a_config(config)]
    runtime = getattr(value, "runtime", None)
    if isinstance(runtime, Runtime | ToolRuntime):
        # What a middleware of LangChain's is called with.
        names = ("state", "messages", "system_message", "tool_call")
        return [*inputs_in(name, runtime), *(getattr(value, each, None) for each in names)]
    return []


def _inputs_in_a_config(config: Mapping[str, Any]) -> list[Any]:
    configurable = config.get("configurable") or {}
    found = [config.get("tags"), config.get("metadata")]
    for key, value in configurable.items():
        if not key.startswith("__"):
            found.append(_data_in(value))
        elif isinstance(value, Runtime):
            found += inputs_in(key, value)
        elif hasattr(value, "get_null_resume"):
            # The values that interrupt() returns. They have no public name.
            found += [list(value.resume), value.get_null_resume(False)]
    return found


def _data_in(value: Any) -> Any:
    """Return a value if it is data; of any other object, the attributes that are data."""
    if isinstance(value, _DATA_TYPES) or value is None:
        return value
    return [each for _, each in state_of(value) if isinstance(each, _DATA_TYPES)]


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


def _is_config(name: str, value: dict[Any, Any]) -> bool:
    # LangChain passes a configuration to any parameter of that type, whatever its name.
    callbacks = value.get("callbacks")
    handlers = callbacks if isinstance(callbacks, list) else []
    by_callbacks = isinstance(callbacks, BaseCallbackManager) or any(
        isinstance(each, BaseCallbackHandler) for each in handlers
    )
    # Other dictionaries may have tags and metadata too. LangChain's always have these keys.
    return by_callbacks or (name == "config" and bool(value.keys() & _CONFIG_KEYS))


def _guarded(value: Any, guard: Guard, *, inside: bool = False) -> Any:
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, Runtime):
        return dataclasses.replace(value, **_guarded_runtime_fields(value, guard))
    if isinstance(value, ToolRuntime):
        return dataclasses.replace(
            value,
            config=guarded_config(value.config, guard),
            **_guarded_runtime_fields(value, guard),
        )
    if isinstance(value, BaseStore):
        return _Store(value, guard)
    if isinstance(value, StreamProtocol):
        return StreamProtocol(_searched_stream(value, guard), value.modes)
    if isinstance(value, BaseCheckpointSaver):
        return _guarded_saver(value, guard)
    if inside and (inspect.isroutine(value) or isinstance(value, partial)):
        # The functions with which a node starts tasks and writes. Their keys have no public names.
        return _guarded_call(value, guard)
    return value


def _guarded_runtime_fields(runtime: Any, guard: Guard) -> dict[str, Any]:
    control = getattr(runtime, "control", None)
    return {
        **({} if control is None else {"control": _Control(control, guard)}),
        "store": None if runtime.store is None else _Store(runtime.store, guard),
        "stream_writer": _searched_call(runtime.stream_writer, guard, "the node's stream"),
    }


class _Control(RunControl, Unsearched):
    """Request that the run stops. The caller of the run receives the reason, so it is searched."""

    def __init__(self, control: RunControl, guard: Guard) -> None:
        self._control = control
        self._guard = guard

    def request_drain(self, reason: str = "shutdown") -> None:
        self._guard.search(reason, "the reason for stopping the run")
        self._control.request_drain(reason)

    @property
    def drain_requested(self) -> bool:
        return self._control.drain_requested

    @property
    def drain_reason(self) -> str | None:
        return self._control.drain_reason


def _searched_call(call: Callable[..., Any], guard: Guard, where: str) -> Callable[..., Any]:
    held = guard.delayed_call(call, where)

    def checked(*args: Any, **kwargs: Any) -> Any:
        guard.search([args, kwargs], where)
        return held([args, kwargs], args, kwargs)

    return checked


def _searched_stream(stream: Any, guard: Guard) -> Callable[[Any], None]:
    where = "the stream of a graph inside the node"
    held = guard.delayed_call(stream, where)

    def checked(chunk: Any) -> None:
        guard.search(chunk, where)
        # A model's tokens are held back in the callbacks. The other modes emit complete values.
        if chunk[1] == "custom" or (chunk[1] == "tools" and "delta" in chunk[2]):
            held(chunk[2:], (chunk,), {})
        else:
            stream(chunk)

    return checked


def _guarded_call(call: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    def calling(*args: Any, **kwargs: Any) -> Any:
        if args and inspect.isroutine(args[0]):
            # The task's own function isn't stored anywhere, and may use a secret.
            guard.search(args[1:], "the input of a task inside the node")
            args = (_searched_task(args[0], guard), *args[1:])
        else:
            guard.search(args, "the input of a task inside the node")
        return call(*args, **kwargs)

    return calling


def _searched_task(function: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    # A task writes its result before any callback receives it.
    where = "the result of a task inside the node"

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            with _redacting(guard):
                result = await function(*args, **kwargs)
                guard.search(result, where)
                return result

        return acall

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _redacting(guard):
            result = function(*args, **kwargs)
            guard.search(result, where)
            return result

    return call


class _redacting:  # noqa: N801 - used like a function
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        try:
            if error is not None:
                redact_or_raise(error, self._guard)
        finally:
            del error


def _guarded_saver(saver: BaseCheckpointSaver[Any], guard: Guard) -> BaseCheckpointSaver[Any]:
    # A shallow copy, as the saver's with_allowlist makes it: the same connection and type.
    made = copy(saver)
    for name in ("put", "put_writes", "aput", "aput_writes"):
        real = getattr(saver, name)

        def checked(config: Any, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            visible = {key: config.get(key) for key in ("configurable", "metadata")}
            visible["configurable"] = {
                key: value
                for key, value in (visible["configurable"] or {}).items()
                if not key.startswith("__")
            }
            guard.search([visible, args, kwargs], "the checkpoint of a graph inside the node")
            return _real(config, *args, **kwargs)

        # LangGraph inspects the signature to decide which arguments to pass.
        checked.__wrapped__ = real  # type: ignore[attr-defined]
        setattr(made, name, checked)
    # What a thread held before is input: a subgraph saves all of it again with each step.
    for name in _READS:
        if (real := getattr(saver, name, None)) is not None:
            setattr(made, name, _reading(real, guard))
    return made


# Only the newest LangGraph versions have get_delta_channel_history.
_READS: Final = tuple(
    f"{prefix}{verb}"
    for verb in ("get", "get_tuple", "list", "get_delta_channel_history")
    for prefix in ("", "a")
)


def _reading(read: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    @wraps(read)
    def reading(*args: Any, **kwargs: Any) -> Any:
        found = read(*args, **kwargs)
        if isinstance(found, AsyncIterator):
            return _record_each_async(found, guard)
        if isinstance(found, Iterator):
            return _record_each(found, guard)
        if inspect.isawaitable(found):
            return _record_awaited(found, guard)
        return _recorded(found, guard)

    return reading


def _record_each(found: Iterator[Any], guard: Guard) -> Iterator[Any]:
    for each in found:
        yield _recorded(each, guard)


async def _record_each_async(found: AsyncIterator[Any], guard: Guard) -> AsyncIterator[Any]:
    async for each in found:
        yield _recorded(each, guard)


async def _record_awaited(waited_for: Awaitable[Any], guard: Guard) -> Any:
    return _recorded(await waited_for, guard)


def _recorded(found: Any, guard: Guard) -> Any:
    if isinstance(found, CheckpointTuple):
        # Without the configuration, which comes from the caller.
        guard.add_input([found.checkpoint, found.metadata, found.pending_writes])
    elif found is not None:
        guard.add_input(found)
    return found


class _Store(BaseStore, Unsearched):
    def __init__(self, store: BaseStore, guard: Guard) -> None:
        self._store = store
        self._guard = guard
        self.supports_ttl = store.supports_ttl
        self.ttl_config = store.ttl_config

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        self._guard.search(ops, "a store operation of the node")
        found = self._store.batch(ops)
        self._guard.add_input(found)
        return found

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        self._guard.search(ops, "a store operation of the node")
        found = await self._store.abatch(ops)
        self._guard.add_input(found)
        return found

    def __getattr__(self, name: str) -> Any:
        # While a copy is being made, _store isn't set yet.
        if name == "_store":
            raise AttributeError(name)
        return getattr(self._store, name)


def _store_method(name: str) -> Any:
    # Search when the method is called, because its result may be awaited after the node has ended.
    # Call the store's own method, which may do more than the base class's.
    def ask(self: _Store, *args: Any, **kwargs: Any) -> Any:
        self._guard.search([args, kwargs], "a store operation of the node")
        found = getattr(self._store, name)(*args, **kwargs)
        if inspect.isawaitable(found):
            return _record_store_answer(found, self._guard)
        # A node may return what others have stored.
        self._guard.add_input(found)
        return found

    return ask


async def _record_store_answer(waited_for: Awaitable[Any], guard: Guard) -> Any:
    found = await waited_for
    guard.add_input(found)
    return found


for _verb in ("get", "search", "put", "delete", "list_namespaces"):
    for _name in (_verb, f"a{_verb}"):
        setattr(_Store, _name, _store_method(_name))


def _gate(guard: Guard, handlers: list[BaseCallbackHandler]) -> _Gate:
    tap = next((each for each in handlers if hasattr(each, "tap_output_aiter")), None)
    return _Gate(guard) if tap is None else _TappingGate(guard, tap)


class _Gate(BaseCallbackHandler, Unsearched):
    """The first callback handler: it refuses values before other handlers receive them."""

    raise_error = True
    run_inline = True

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._streams: dict[Any, Pieces] = {}
        self._safe: dict[Any, int] = {}
        self._leaked: set[Any] = set()
        # A node may emit events from several threads.
        self._lock = threading.RLock()
        self._listeners: list[_Delayed] = []

    def flush_on_exit(self, handler: _Delayed) -> None:
        """When the node ends, pass a handler the events that were held back."""
        if not self._listeners:
            self._guard.on_exit(self._flush)
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

    def safe(self, run_id: Any) -> int:
        """Return how many events of a model's stream may be passed on so far."""
        return self._safe.get(run_id, 0)

    def leaked(self, run_id: Any) -> bool:
        """Return whether a model's stream contained a secret, so that the rest is withheld."""
        return run_id in self._leaked

    def _on_input(
        self, serialized: Any, input_value: Any = None, *args: Any, **details: Any
    ) -> None:
        found = {"input": input_value, "serialized": serialized, "more": args, **details}
        self._guard.search(found, "the input of a runnable inside the node")

    def _on_output(
        self, output: Any = None, *args: Any, run_id: Any = None, **details: Any
    ) -> None:
        self._streams.pop(run_id, None)
        self._guard.search({"output": output}, "the output of a runnable inside the node")

    def _on_error(self, error: BaseException, *, run_id: Any = None, **details: Any) -> None:
        self._streams.pop(run_id, None)
        try:
            redact_or_raise(error, self._guard)
        finally:
            del error

    # Any: the base class declares a different type for each.
    on_chain_start: Any = _on_input
    on_tool_start: Any = _on_input
    on_retriever_start: Any = _on_input
    on_llm_start: Any = _on_input
    on_chat_model_start: Any = _on_input
    on_chain_end: Any = _on_output
    on_tool_end: Any = _on_output
    on_retriever_end: Any = _on_output
    on_llm_end: Any = _on_output
    on_chain_error: Any = _on_error
    on_tool_error: Any = _on_error
    on_retriever_error: Any = _on_error
    on_llm_error: Any = _on_error

    def on_text(self, text: Any, **details: Any) -> None:
        self._guard.search({"text": text, **details}, "a text event inside the node")

    def on_agent_action(self, action: Any, **details: Any) -> None:
        self._guard.search({"action": action, **details}, "the action of an agent inside the node")

    def on_agent_finish(self, finish: Any, **details: Any) -> None:
        self._guard.search({"finish": finish, **details}, "the result of an agent inside the node")

    def on_retry(self, retry_state: Any, **details: Any) -> None:
        # Tracers record the error that caused the retry.
        outcome = retry_state.outcome
        if outcome is not None and (error := outcome.exception()) is not None:
            try:
                redact_or_raise(error, self._guard)
            finally:
                del error
        elif outcome is not None:
            self._guard.search(outcome.result(), "the output of a runnable inside the node")

    def on_custom_event(self, name: str, data: Any, **details: Any) -> None:
        where = "a custom event of the node"
        with self._lock:
            found = {"name": name, "data": data, **details}
            # Events with the same name may carry one text in pieces.
            self._streamed(found, (current_source(), data), (details.get("run_id"), name), where)

    def on_llm_new_token(self, token: Any, *, run_id: Any, **details: Any) -> None:
        chunk = details.get("chunk")
        self._streamed({"token": token, "chunk": chunk}, token if chunk is None else chunk, run_id)

    def on_stream_event(self, event: Any, *, run_id: Any = None, **details: Any) -> None:
        self._streamed(event, event, run_id)

    def _streamed(
        self,
        whole: Any,
        text: Any,
        run_id: Any,
        where: str = "the stream of a model inside the node",
    ) -> None:
        try:
            self._guard.search(whole, where)
            stream = self._streams.setdefault(run_id, Pieces(self._guard, where))
            self._safe[run_id] = self._safe.get(run_id, 0) + stream.take(text)
        except SecretLeakError:
            self._leaked.add(run_id)
            raise


class _TappingGate(_Gate):
    """A gate that also taps streams of chunks: LangChain lets only one handler do that."""

    def __init__(self, guard: Guard, tap: Any) -> None:
        super().__init__(guard)
        self._tap = tap

    def tap_output_iter(self, run_id: Any, output: Iterator[Any]) -> Iterator[Any]:
        """Search the chunks, then pass them to the handler that taps the stream."""
        stream, kept = self._stream()

        def checked() -> Iterator[Any]:
            try:
                for chunk in output:
                    for _ in range(self._released_by(stream, kept, chunk)):
                        yield kept.popleft()
            except Exception:
                if not stream.leaked:
                    yield from kept
                raise
            yield from kept

        tapped: Iterator[Any] = self._tap.tap_output_iter(run_id, checked())
        return tapped

    def tap_output_aiter(self, run_id: Any, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """As :meth:`tap_output_iter`."""
        stream, kept = self._stream()

        async def checked() -> AsyncIterator[Any]:
            try:
                async for chunk in output:
                    for _ in range(self._released_by(stream, kept, chunk)):
                        yield kept.popleft()
            except Exception:
                if not stream.leaked:
                    for each in kept:
                        yield each
                raise
            for each in kept:
                yield each

        tapped: AsyncIterator[Any] = self._tap.tap_output_aiter(run_id, checked())
        return tapped

    def _stream(self) -> tuple[Pieces, deque[Any]]:
        return Pieces(self._guard, "the stream of a runnable inside the node"), deque()

    def _released_by(self, stream: Pieces, kept: deque[Any], chunk: Any) -> int:
        try:
            self._on_output(chunk)
        except SecretLeakError:
            stream.leaked = True
            raise
        kept.append(chunk)
        return stream.take(chunk)


_EVENTS: Final = ("on_llm_new_token", "on_stream_event", "on_custom_event")
_ENDS: Final = ("on_llm_end", "on_llm_error")


def delayed(handler: Any, gate: _Gate) -> Any:
    """Wrap a handler, so that it receives streamed pieces only after the gate has cleared them.

    Args:
        handler: The application's handler; it isn't changed.
        gate: The gate in front of the handler.

    Returns:
        A proxy of the handler, which ``isinstance`` accepts as the handler; or the handler itself,
        if it doesn't listen to streams.
    """
    if isinstance(handler, _Gate):
        return handler
    if isinstance(handler, StreamToolCallHandler):
        # This handler gives each starting tool its own writer. The copy shares its bookkeeping.
        made = copy(handler)
        made.stream = _searched_stream(handler.stream, gate._guard)
        return made
    # Inspecting a handler may run its code, which may raise. Then it receives each piece at once,
    # except a piece that completes a secret.
    with suppress(Exception):
        kind: Any = type(handler)
        if _listens(kind):
            is_async = any(
                inspect.iscoroutinefunction(getattr(handler, name, None))
                for name in (*_EVENTS, *_ENDS)
            )
            return _Delayed(handler, gate, is_async=is_async)
    return handler


@lru_cache(maxsize=256)
def _listens(kind: Any) -> bool:
    if issubclass(kind, _Delayed):
        return True
    bases = (BaseCallbackHandler, AsyncCallbackHandler)
    return any(
        all(getattr(kind, name, None) is not getattr(base, name, None) for base in bases)
        for name in _EVENTS
    )


class _Delayed(Unsearched):
    """A proxy of a handler. A copy or subclass is no option: not every class supports that."""

    __slots__ = (
        "_pipelit_async",
        "_pipelit_gate",
        "_pipelit_handler",
        "_pipelit_runs",
    )

    def __init__(self, handler: Any, gate: _Gate, *, is_async: bool) -> None:
        own = object.__setattr__
        own(self, "_pipelit_handler", handler)
        own(self, "_pipelit_gate", gate)
        own(self, "_pipelit_async", is_async)
        own(self, "_pipelit_runs", {})
        gate.flush_on_exit(self)

    # LangChain finds handlers by their types.
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._pipelit_handler.__class__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_pipelit_"):
            raise AttributeError(name)
        found = getattr(self._pipelit_handler, name)
        if name in _EVENTS or name in _ENDS:
            call = _async_call if self._pipelit_async else _sync_call
            return call(self, name)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._pipelit_handler, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._pipelit_handler, name)

    def __eq__(self, other: object) -> bool:
        return bool(_handler_of(self) == _handler_of(other))

    def __hash__(self) -> int:
        return hash(_handler_of(self))

    def __repr__(self) -> str:
        return repr(self._pipelit_handler)

    def __copy__(self) -> Any:
        return _Delayed(
            copy(self._pipelit_handler), self._pipelit_gate, is_async=self._pipelit_async
        )

    def __deepcopy__(self, memo: Any) -> Any:
        handler = deepcopy(self._pipelit_handler, memo)
        return _Delayed(handler, self._pipelit_gate, is_async=self._pipelit_async)


def _is_delayed(handler: Any) -> bool:
    return issubclass(type(handler), _Delayed)


def _handler_of(handler: Any) -> Any:
    while _is_delayed(handler):
        handler = handler._pipelit_handler
    return handler


def _released(
    handler: _Delayed, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[_Event]:
    """Add an event, and yield the events that the handler may receive now, in order."""
    gate, runs, run_id = handler._pipelit_gate, handler._pipelit_runs, kwargs.get("run_id")
    if name == "on_custom_event":
        run_id = run_id, args[0] if args else kwargs.get("name")
    _, kept = runs.setdefault(run_id, [0, deque()])
    if name in _EVENTS:
        kept.append((name, args, kwargs))
        while kept and runs[run_id][0] < gate.safe(run_id):
            runs[run_id][0] += 1
            yield kept.popleft()
        return
    del runs[run_id]
    if not gate.leaked(run_id):
        yield from kept
    yield name, args, kwargs


def _unreleased(handler: _Delayed) -> Iterator[_Event]:
    """Yield the custom events that were held back; no end event releases them."""
    for run_id, (_, kept) in list(handler._pipelit_runs.items()):
        if isinstance(run_id, tuple) and not handler._pipelit_gate.leaked(run_id):
            while kept:
                yield kept.popleft()


def _sync_call(handler: _Delayed, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> None:
        for each, event_args, event_kwargs in _released(handler, name, args, kwargs):
            getattr(handler._pipelit_handler, each)(*event_args, **event_kwargs)

    return call


def _async_call(handler: _Delayed, name: str) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> None:
        for each, event_args, event_kwargs in _released(handler, name, args, kwargs):
            result = getattr(handler._pipelit_handler, each)(*event_args, **event_kwargs)
            if inspect.isawaitable(result):
                await result

    return call


async def _finish(waited_for: Awaitable[Any]) -> None:
    with suppress(Exception):
        await waited_for


# Keeps a reference to each task, so that none is garbage-collected before it has run.
_pending_tasks: set[asyncio.Task[None]] = set()
