"""The ways out of a running node besides its return value, each with a search in front of it.

LangGraph hands a node what it needs to stream, store, save, start tasks and run further graphs; the
callbacks see what runnables inside it are given and return. While secrets are open, each of these
is replaced by one that refuses a value that holds one of them.
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
from typing import Any, NoReturn, Protocol, cast

from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    BaseCallbackManager,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt import ToolRuntime

# What ToolRuntime.emit_output_delta writes with has no public name; a test says when it changes.
from langgraph.pregel._tools import StreamToolCallHandler
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import RunControl, Runtime
from langgraph.store.base import BaseStore, Op, Result
from pydantic import BaseModel

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.pieces import Held, Pieces, here
from pipelit_agents.credentials.leak_guard.traversal import Unsearched, state_of
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

_OF_A_CONFIG = frozenset({"callbacks", "configurable"})
# Most of what a configuration holds, and asked of each kind of door it is slow to say no.
_DATA = (str, bytes, dict, list, tuple, set, frozenset, BaseModel)
_NO_DOORS = frozenset({str, int, float, bool, bytes, type(None), dict, list, tuple})


class Guard(Protocol):
    """What knows the open secrets."""

    def check(self, value: Any, where: str) -> None:
        """Raises SecretLeakError for a value that holds one of them."""

    def redact(self, error: BaseException) -> BaseException:
        """Takes them out of an exception; what is to be raised for it."""

    def sought(self) -> Patterns:
        """What they look like."""

    def was_given(self, text: str) -> bool:
        """Whether a text stood in what the node was given."""

    def at_the_end(self, call: Callable[[], Any]) -> None:
        """Calls a function when the node has run, and before it is searched once more."""

    def holding(self, call: Callable[..., Any], where: str) -> Held:
        """What keeps back the beginnings of secrets until the node ends; one for each call."""

    def note(self, value: Any) -> object:
        """Takes a value as something that the node was given, and may give back."""


def guarded_config(config: Mapping[str, Any] | None, guard: Guard) -> RunnableConfig:
    """A runnable configuration whose doors are guarded, for what runs inside the node.

    Args:
        config: The one that is in force; it isn't changed.
        guard: Knows the open secrets.
    """
    made: Any = dict(config or {})
    # What the node adds to these would be in the graph's own: they go into streams and checkpoints.
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
        # First, so that it refuses before another handler has seen anything.
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
    """What a tool's runtime writes its partial output with, guarded; None where nobody listens.

    Args:
        writer: The one of the tool that runs.
        guard: Knows the open secrets.
    """
    return None if writer is None else _checked(writer, guard, "what the tool streams")


def guarded_argument(name: str, value: Any, guard: Guard) -> Any:
    """The same for what LangGraph and LangChain pass to a node or tool as an argument.

    Args:
        name: The parameter.
        value: A configuration, a runtime, a store, a stream writer, or anything else.
        guard: Knows the open secrets.
    """
    if name == "writer" and callable(value):
        return _checked(value, guard, "what the node streams")
    if isinstance(value, dict) and _is_config(name, value):
        return guarded_config(value, guard)
    runtime = getattr(value, "runtime", None)
    if isinstance(runtime, Runtime | ToolRuntime) and dataclasses.is_dataclass(value):
        # What a middleware of LangChain's is called with.
        return dataclasses.replace(value, runtime=_guarded(runtime, guard))  # type: ignore[type-var]
    return _guarded(value, guard)


def state_in(name: str, value: Any) -> Any:
    """What LangGraph keeps of an argument: the state itself, or the one in a tool's runtime."""
    if isinstance(value, ToolRuntime):
        return value.state
    if isinstance(value, Runtime | BaseStore) or inspect.isroutine(value):
        return None
    if isinstance(getattr(value, "runtime", None), Runtime | ToolRuntime):
        return None
    return None if isinstance(value, dict) and _is_config(name, value) else value


def inputs_in(name: str, value: Any) -> list[Any]:
    """What of an argument came from outside besides the state: a node may give it back.

    Args:
        name: The parameter.
        value: A configuration, a runtime, a request of a middleware, or anything else.
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
            # The answers that interrupt() returns. They have no public name.
            found += [list(value.resume), value.get_null_resume(False)]
    return found


def _data_in(value: Any) -> Any:
    """A value if it is data; of an object the attributes that are: others may be the program."""
    if isinstance(value, _DATA) or value is None:
        return value
    return [each for _, each in state_of(value) if isinstance(each, _DATA)]


def redact_or_raise(error: BaseException, guard: Guard) -> None:
    """Takes the secrets out of an error that is under way.

    Args:
        error: Stays the same object where it can.
        guard: Knows the open secrets.

    Raises:
        BaseException: What takes its place where it can't: an interrupt, or a command to a parent
            graph, travels as an exception, but is state, and becomes a ``SecretLeakError``.
    """
    if (instead := _passing(error, guard)) is not error:
        # Frames are shown too, by what keeps local variables.
        del error
        _raise(instead)


def _passing(error: BaseException, guard: Guard) -> BaseException:
    """What is raised for an error; the same object if it can be."""
    if not issubclass(type(error), GraphBubbleUp):
        return guard.redact(error)
    try:
        guard.check(error.args, "what the node interrupts or commands with")
        # It may have been raised where another error was handled, which tracers write out.
        guard.redact(error)
    except SecretLeakError as found:
        found.__context__ = None
        return found
    else:
        return error
    finally:
        # What is returned in its place has this frame in its traceback.
        del error


def _raise(instead: BaseException) -> NoReturn:
    # What it stands for would become its context, and may still show the secret.
    links = instead.__cause__, instead.__context__, instead.__suppress_context__
    try:
        raise instead  # noqa: TRY301 - raised here, so that its links can be set after it was
    except BaseException:
        instead.__cause__, instead.__context__, instead.__suppress_context__ = links
        raise


def _is_config(name: str, value: dict[Any, Any]) -> bool:
    # LangChain passes it to any parameter of that type.
    callbacks = value.get("callbacks")
    handlers = callbacks if isinstance(callbacks, list) else []
    by_callbacks = isinstance(callbacks, BaseCallbackManager) or any(
        isinstance(each, BaseCallbackHandler) for each in handlers
    )
    # Others have tags and metadata, too; LangChain's always has these.
    return by_callbacks or (name == "config" and bool(value.keys() & _OF_A_CONFIG))


def _guarded(value: Any, guard: Guard, *, inside: bool = False) -> Any:
    if type(value) in _NO_DOORS:
        return value
    if isinstance(value, Runtime):
        return dataclasses.replace(value, **_runtime(value, guard))
    if isinstance(value, ToolRuntime):
        return dataclasses.replace(
            value, config=guarded_config(value.config, guard), **_runtime(value, guard)
        )
    if isinstance(value, BaseStore):
        return _Store(value, guard)
    if isinstance(value, StreamProtocol):
        return StreamProtocol(_streaming(value, guard), value.modes)
    if isinstance(value, BaseCheckpointSaver):
        return _saver(value, guard)
    if inside and (inspect.isroutine(value) or isinstance(value, partial)):
        # How a node starts tasks and writes, under keys that no public name stands for.
        return _calling(value, guard)
    return value


def _runtime(runtime: Any, guard: Guard) -> dict[str, Any]:
    control = getattr(runtime, "control", None)
    return {
        **({} if control is None else {"control": _Control(control, guard)}),
        "store": None if runtime.store is None else _Store(runtime.store, guard),
        "stream_writer": _checked(runtime.stream_writer, guard, "what the node streams"),
    }


class _Control(RunControl, Unsearched):
    """Asks the run to stop; the reason is told to whoever started it."""

    def __init__(self, control: RunControl, guard: Guard) -> None:
        self._control = control
        self._guard = guard

    def request_drain(self, reason: str = "shutdown") -> None:
        self._guard.check(reason, "why the node asks the run to stop")
        self._control.request_drain(reason)

    @property
    def drain_requested(self) -> bool:
        return self._control.drain_requested

    @property
    def drain_reason(self) -> str | None:
        return self._control.drain_reason


def _checked(call: Callable[..., Any], guard: Guard, where: str) -> Callable[..., Any]:
    held = guard.holding(call, where)

    def checked(*args: Any, **kwargs: Any) -> Any:
        guard.check([args, kwargs], where)
        return held([args, kwargs], args, kwargs)

    return checked


def _streaming(stream: Any, guard: Guard) -> Callable[[Any], None]:
    where = "what a graph in the node streams"
    held = guard.holding(stream, where)

    def checked(chunk: Any) -> None:
        guard.check(chunk, where)
        # The tokens of models are held back where callbacks hear of them; other modes tell of whole
        # values.
        if chunk[1] == "custom" or (chunk[1] == "tools" and "delta" in chunk[2]):
            held(chunk[2:], (chunk,), {})
        else:
            stream(chunk)

    return checked


def _calling(call: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    def calling(*args: Any, **kwargs: Any) -> Any:
        if args and inspect.isroutine(args[0]):
            # The task's own function isn't written anywhere, and may use a secret.
            guard.check(args[1:], "what a task in the node is given")
            args = (_task(args[0], guard), *args[1:])
        else:
            guard.check(args, "what a task in the node is given")
        return call(*args, **kwargs)

    return calling


def _task(function: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    # A task writes its result before any callback hears of it.
    where = "what a task in the node returns"

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            with _redacting(guard):
                result = await function(*args, **kwargs)
                guard.check(result, where)
                return result

        return acall

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _redacting(guard):
            result = function(*args, **kwargs)
            guard.check(result, where)
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


def _saver(saver: BaseCheckpointSaver[Any], guard: Guard) -> BaseCheckpointSaver[Any]:
    # A shallow copy, as the saver's own with_allowlist makes: the same connection and type.
    made = copy(saver)
    for name in ("put", "put_writes", "aput", "aput_writes"):
        real = getattr(saver, name)

        def checked(config: Any, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            shown = {key: config.get(key) for key in ("configurable", "metadata")}
            shown["configurable"] = {
                key: value
                for key, value in (shown["configurable"] or {}).items()
                if not key.startswith("__")
            }
            guard.check([shown, args, kwargs], "what a graph in the node saves")
            return _real(config, *args, **kwargs)

        # By its signature LangGraph knows what it may pass.
        checked.__wrapped__ = real  # type: ignore[attr-defined]
        setattr(made, name, checked)
    # What a thread held before is input: a subgraph saves the whole of it again with each step.
    for name in _READS:
        if (real := getattr(saver, name, None)) is not None:
            setattr(made, name, _reading(real, guard))
    return made


# The newest versions also read the writes of single channels.
_READS = tuple(
    f"{prefix}{verb}"
    for verb in ("get", "get_tuple", "list", "get_delta_channel_history")
    for prefix in ("", "a")
)


def _reading(read: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    @wraps(read)
    def reading(*args: Any, **kwargs: Any) -> Any:
        found = read(*args, **kwargs)
        if isinstance(found, AsyncIterator):
            return _noting_each_async(found, guard)
        if isinstance(found, Iterator):
            return _noting_each(found, guard)
        if inspect.isawaitable(found):
            return _noting_read(found, guard)
        return _noted(found, guard)

    return reading


def _noting_each(found: Iterator[Any], guard: Guard) -> Iterator[Any]:
    for each in found:
        yield _noted(each, guard)


async def _noting_each_async(found: AsyncIterator[Any], guard: Guard) -> AsyncIterator[Any]:
    async for each in found:
        yield _noted(each, guard)


async def _noting_read(waited_for: Awaitable[Any], guard: Guard) -> Any:
    return _noted(await waited_for, guard)


def _noted(found: Any, guard: Guard) -> Any:
    if isinstance(found, CheckpointTuple):
        # Not its configuration: that is the caller's own.
        guard.note([found.checkpoint, found.metadata, found.pending_writes])
    elif found is not None:
        guard.note(found)
    return found


class _Store(BaseStore, Unsearched):
    def __init__(self, store: BaseStore, guard: Guard) -> None:
        self._store = store
        self._guard = guard
        self.supports_ttl = store.supports_ttl
        self.ttl_config = store.ttl_config

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        self._guard.check(ops, "what the node stores")
        found = self._store.batch(ops)
        self._guard.note(found)
        return found

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        self._guard.check(ops, "what the node stores")
        found = await self._store.abatch(ops)
        self._guard.note(found)
        return found

    def __getattr__(self, name: str) -> Any:
        # Where nothing is set yet, as in a copy that is being made, there is nobody to ask.
        if name == "_store":
            raise AttributeError(name)
        return getattr(self._store, name)


def _asking(name: str) -> Any:
    # Searched when it is called: what it returns may be awaited when the node has ended. And by
    # the store's own method, which may do more than the base class's.
    def ask(self: _Store, *args: Any, **kwargs: Any) -> Any:
        self._guard.check([args, kwargs], "what the node stores")
        found = getattr(self._store, name)(*args, **kwargs)
        if inspect.isawaitable(found):
            return _noting(found, self._guard)
        # What others stored may be given back.
        self._guard.note(found)
        return found

    return ask


async def _noting(waited_for: Awaitable[Any], guard: Guard) -> Any:
    found = await waited_for
    guard.note(found)
    return found


for _verb in ("get", "search", "put", "delete", "list_namespaces"):
    for _name in (_verb, f"a{_verb}"):
        setattr(_Store, _name, _asking(_name))


def _gate(guard: Guard, handlers: list[BaseCallbackHandler]) -> _Gate:
    tap = next((each for each in handlers if hasattr(each, "tap_output_aiter")), None)
    return _Gate(guard) if tap is None else _TappingGate(guard, tap)


class _Gate(BaseCallbackHandler, Unsearched):
    """Stands before all other handlers."""

    raise_error = True
    run_inline = True

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._streams: dict[Any, Pieces] = {}
        self._safe: dict[Any, int] = {}
        self._leaked: set[Any] = set()
        # A node may tell of events from several threads.
        self._lock = threading.RLock()
        self._told: list[Any] = []

    def tell_at_the_end(self, handler: Any) -> None:
        """Tell a handler of what it wasn't told, when the node ends."""
        if not self._told:
            self._guard.at_the_end(self._tell)
        self._told.append(handler)

    def _tell(self) -> None:
        for handler in self._told:
            for name, args, kwargs in _left_over(handler):
                # LangChain tells others too where one handler raises.
                with suppress(Exception):
                    result = getattr(handler._pipelit_handler, name)(*args, **kwargs)
                    if inspect.isawaitable(result):
                        # The node ends without waiting for it.
                        task = asyncio.get_running_loop().create_task(_told_later(result))
                        _telling.add(task)
                        task.add_done_callback(_telling.discard)

    def safe(self, run_id: Any) -> int:
        """How many events of a model's stream may be told so far."""
        return self._safe.get(run_id, 0)

    def leaked(self, run_id: Any) -> bool:
        """Whether what a model streamed held a secret, so that no more of it is told."""
        return run_id in self._leaked

    def _given(self, serialized: Any, given: Any = None, *args: Any, **details: Any) -> None:
        found = {"input": given, "serialized": serialized, "more": args, **details}
        self._guard.check(found, "what something inside the node is given")

    def _made(self, output: Any = None, *args: Any, run_id: Any = None, **details: Any) -> None:
        self._streams.pop(run_id, None)
        self._guard.check({"output": output}, "what something inside the node returns")

    def _failed(self, error: BaseException, *, run_id: Any = None, **details: Any) -> None:
        self._streams.pop(run_id, None)
        try:
            redact_or_raise(error, self._guard)
        finally:
            del error

    # Any: the base class types each of them apart.
    on_chain_start: Any = _given
    on_tool_start: Any = _given
    on_retriever_start: Any = _given
    on_llm_start: Any = _given
    on_chat_model_start: Any = _given
    on_chain_end: Any = _made
    on_tool_end: Any = _made
    on_retriever_end: Any = _made
    on_llm_end: Any = _made
    on_chain_error: Any = _failed
    on_tool_error: Any = _failed
    on_retriever_error: Any = _failed
    on_llm_error: Any = _failed

    def on_text(self, text: Any, **details: Any) -> None:
        self._guard.check({"text": text, **details}, "what something inside the node tells")

    def on_agent_action(self, action: Any, **details: Any) -> None:
        self._guard.check({"action": action, **details}, "what an agent inside the node does")

    def on_agent_finish(self, finish: Any, **details: Any) -> None:
        self._guard.check({"finish": finish, **details}, "what an agent inside the node returns")

    def on_retry(self, retry_state: Any, **details: Any) -> None:
        # Tracers write the error down for which something is tried again.
        outcome = retry_state.outcome
        if outcome is not None and (error := outcome.exception()) is not None:
            try:
                redact_or_raise(error, self._guard)
            finally:
                del error
        elif outcome is not None:
            self._guard.check(outcome.result(), "what something inside the node returns")

    def on_custom_event(self, name: str, data: Any, **details: Any) -> None:
        where = "an event of the node"
        with self._lock:
            found = {"name": name, "data": data, **details}
            # By the name, what belongs together.
            self._streamed(found, (here(), data), (details.get("run_id"), name), where)

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
        where: str = "what a model in the node streams",
    ) -> None:
        try:
            self._guard.check(whole, where)
            stream = self._streams.setdefault(run_id, Pieces(self._guard, where))
            self._safe[run_id] = self._safe.get(run_id, 0) + stream.take(text)
        except SecretLeakError:
            self._leaked.add(run_id)
            raise


class _TappingGate(_Gate):
    """The same where a stream is tapped for its chunks: LangChain asks one handler only."""

    def __init__(self, guard: Guard, tap: Any) -> None:
        super().__init__(guard)
        self._tap = tap

    def tap_output_iter(self, run_id: Any, output: Iterator[Any]) -> Iterator[Any]:
        """Searches the chunks, then hands them to the handler that asked for them."""
        stream, kept = self._stream()

        def checked() -> Iterator[Any]:
            try:
                for chunk in output:
                    for _ in range(self._taken(stream, kept, chunk)):
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
                    for _ in range(self._taken(stream, kept, chunk)):
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
        return Pieces(self._guard, "what something inside the node streams"), deque()

    def _taken(self, stream: Pieces, kept: deque[Any], chunk: Any) -> int:
        try:
            self._made(chunk)
        except SecretLeakError:
            stream.leaked = True
            raise
        kept.append(chunk)
        return stream.take(chunk)


_EVENTS = ("on_llm_new_token", "on_stream_event", "on_custom_event")
_ENDS = ("on_llm_end", "on_llm_error")


def delayed(handler: Any, gate: _Gate) -> Any:
    """A handler that hears of what is streamed when the gate says that it is no secret's.

    Args:
        handler: Somebody's; it isn't changed.
        gate: Stands before it.

    Returns:
        An object that passes on to the handler whatever it is asked for, and that ``isinstance``
        takes for the handler; or the handler itself, where it doesn't listen to what is streamed.
    """
    if isinstance(handler, _Gate):
        return handler
    if isinstance(handler, StreamToolCallHandler):
        # It hands each tool that begins a writer of its own. What it keeps of them is shared.
        made = copy(handler)
        made.stream = _streaming(handler.stream, gate._guard)
        return made
    # A handler's own code may answer, and raise: then it hears of each piece at once, and of none
    # that makes a secret whole.
    with suppress(Exception):
        kind: Any = type(handler)
        if _listens(kind):
            waits = any(
                inspect.iscoroutinefunction(getattr(handler, name, None))
                for name in (*_EVENTS, *_ENDS)
            )
            return _Delayed(handler, gate, waits=waits)
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
    """Stands for a handler: no copy and no subclass of it, which its class may not be made for."""

    __slots__ = (
        "_pipelit_gate",
        "_pipelit_handler",
        "_pipelit_runs",
        "_pipelit_waits",
    )

    def __init__(self, handler: Any, gate: _Gate, *, waits: bool) -> None:
        own = object.__setattr__
        own(self, "_pipelit_handler", handler)
        own(self, "_pipelit_gate", gate)
        own(self, "_pipelit_waits", waits)
        own(self, "_pipelit_runs", {})
        gate.tell_at_the_end(self)

    # LangChain looks for handlers by their types.
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._pipelit_handler.__class__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_pipelit_"):
            raise AttributeError(name)
        found = getattr(self._pipelit_handler, name)
        if name in _EVENTS or name in _ENDS:
            call = _awaited if self._pipelit_waits else _at_once
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
        return _Delayed(copy(self._pipelit_handler), self._pipelit_gate, waits=self._pipelit_waits)

    def __deepcopy__(self, memo: Any) -> Any:
        handler = deepcopy(self._pipelit_handler, memo)
        return _Delayed(handler, self._pipelit_gate, waits=self._pipelit_waits)


def _is_delayed(handler: Any) -> bool:
    return issubclass(type(handler), _Delayed)


def _handler_of(handler: Any) -> Any:
    while _is_delayed(handler):
        handler = handler._pipelit_handler
    return handler


def _due(handler: Any, name: str, args: Any, kwargs: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a handler may hear now: of what it was told before, then of what it is told now."""
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


def _left_over(handler: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a handler wasn't told yet of the node's own events, which no end follows."""
    for run_id, (_, kept) in list(handler._pipelit_runs.items()):
        if isinstance(run_id, tuple) and not handler._pipelit_gate.leaked(run_id):
            while kept:
                yield kept.popleft()


def _at_once(handler: Any, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> None:
        for each, given, more in _due(handler, name, args, kwargs):
            getattr(handler._pipelit_handler, each)(*given, **more)

    return call


def _awaited(handler: Any, name: str) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> None:
        for each, given, more in _due(handler, name, args, kwargs):
            result = getattr(handler._pipelit_handler, each)(*given, **more)
            if inspect.isawaitable(result):
                await result

    return call


async def _told_later(waited_for: Awaitable[Any]) -> None:
    with suppress(Exception):
        await waited_for


# So that none is collected before it has run.
_telling: set[Any] = set()
