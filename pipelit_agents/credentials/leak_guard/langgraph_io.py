"""Guard the exits of a running node other than its return value.

LangGraph passes a node the objects with which it streams, stores, saves checkpoints, starts tasks
and runs further graphs. Callbacks receive the inputs and outputs of runnables inside the node.
While secrets are open, each of these objects is replaced by one that searches every value and
refuses a value that contains a secret.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from copy import copy
from functools import partial, partialmethod, wraps
from typing import Any, Final, TypeGuard, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.prebuilt import ToolRuntime
from langgraph.pregel.protocol import StreamChunk, StreamProtocol
from langgraph.runtime import RunControl, Runtime
from langgraph.store.base import BaseStore, Op
from pydantic import BaseModel

from pipelit_agents._in_place import changed_in_place
from pipelit_agents.credentials.leak_guard.callbacks import (
    guarded_callbacks,
    searched_call,
    searched_stream,
)
from pipelit_agents.credentials.leak_guard.guard import Guard, redact_or_raise
from pipelit_agents.credentials.leak_guard.stored import Unsearched, state_of

__all__ = ["guarded_argument", "guarded_config", "guarded_writer", "inputs_in", "state_in"]

AnyRuntime = Runtime[Any] | ToolRuntime[Any, Any]
_CONFIG_KEYS: Final = frozenset({"callbacks", "configurable"})
_OF_REQUESTS: Final = ("state", "messages", "system_message", "tool_call")
# Types that are data. In _PLAIN_TYPES, those of most configuration values: checking them against
# every kind of exit would be slow.
_DATA_TYPES: Final = (str, bytes, dict, list, tuple, set, frozenset, BaseModel)
_PLAIN_TYPES: Final = frozenset({str, int, float, bool, bytes, type(None), dict, list, tuple})


def guarded_config(config: RunnableConfig | None, guard: Guard) -> RunnableConfig:
    """Return a runnable configuration with guarded exits, for code that runs inside the node.

    Args:
        config: The current configuration; it isn't changed.
        guard: Knows the open secrets.
    """
    made: RunnableConfig = {**config} if config else {}
    # Copies: the graph writes its own tags and metadata into streams and checkpoints.
    if isinstance(made.get("tags"), list):
        made["tags"] = list(made["tags"])
    if isinstance(made.get("metadata"), dict):
        made["metadata"] = dict(made["metadata"])
    if made.get("configurable"):
        made["configurable"] = {
            key: _guarded(value, guard, inside=key.startswith("__"))
            for key, value in made["configurable"].items()
        }
    made["callbacks"] = guarded_callbacks(made.get("callbacks"), guard)
    return made


def guarded_writer(
    writer: Callable[[object], None] | None, guard: Guard
) -> Callable[[object], None] | None:
    """Guard the writer for a tool's partial output; return None if there is no writer.

    Args:
        writer: The writer of the running tool.
        guard: Knows the open secrets.
    """
    return None if writer is None else searched_call(writer, guard, "the tool's stream")


def guarded_argument(name: str, value: object, guard: Guard) -> object:
    """Guard an argument that LangGraph or LangChain passes to a node or tool.

    Args:
        name: The name of the parameter.
        value: A configuration, a runtime, a store, a stream writer, or any other value.
        guard: Knows the open secrets.
    """
    if name == "writer" and callable(value):
        return searched_call(value, guard, "the node's stream")
    if _is_config(value, name):
        return guarded_config(value, guard)
    runtime = _runtime_of(value)
    if runtime is not None and dataclasses.is_dataclass(value) and not isinstance(value, type):
        config = getattr(runtime, "config", None)
        guarded = _guarded(runtime, guard)
        if isinstance(config, dict):
            # A middleware's handler calls the tool with the original configuration.
            change = partial(guarded_config, cast(RunnableConfig, config), guard)
            guard.on_exit(changed_in_place(config, change))
        return dataclasses.replace(value, runtime=guarded)
    return _guarded(value, guard)


def state_in(name: str, value: object) -> object:
    """Return the part of an argument that LangGraph stores: the state; None if it has none.

    A middleware's request refers to parts of the state, such as the message with a tool call.
    """
    if isinstance(value, ToolRuntime):
        return value.state
    if isinstance(value, Runtime | BaseStore) or inspect.isroutine(value):
        return None
    if _runtime_of(value) is not None:
        # The arguments of an MCP call are a copy, but lists and dictionaries in them are not.
        args = getattr(value, "args", None)
        inner = list(args.values()) if isinstance(args, dict) else args
        return {"args": inner, **{each: getattr(value, each, None) for each in _OF_REQUESTS}}
    return None if _is_config(value, name) else value


def inputs_in(name: str, value: object) -> list[object]:
    """Return the parts of an argument, other than the state, that are input of the node.

    Args:
        name: The name of the parameter.
        value: A configuration, a runtime, a middleware's request, or any other value.
    """
    if _is_config(value, name):
        return _inputs_in_a_config(value)
    if isinstance(value, dict):
        return []
    if isinstance(value, Runtime | ToolRuntime):
        found = [getattr(value, each, None) for each in ("context", "previous", "tool_call_id")]
        config = value.config if isinstance(value, ToolRuntime) else None
        return [*map(_data_in, found), *_inputs_in_a_config(config or RunnableConfig())]
    if (runtime := _runtime_of(value)) is not None:
        return inputs_in(name, runtime)
    return []


def _runtime_of(value: object) -> AnyRuntime | None:
    """Return the runtime in what a middleware of LangChain's is called with, or None."""
    runtime = getattr(value, "runtime", None)
    return runtime if isinstance(runtime, Runtime | ToolRuntime) else None


def _inputs_in_a_config(config: RunnableConfig) -> list[object]:
    found: list[object] = [config.get("tags"), config.get("metadata")]
    for key, value in (config.get("configurable") or {}).items():
        if not key.startswith("__"):
            found.append(_data_in(value))
        elif isinstance(value, Runtime):
            found += inputs_in(key, value)
        elif hasattr(value, "get_null_resume"):
            # The values that interrupt() returns. They have no public name.
            found += [list(value.resume), value.get_null_resume(False)]
    return found


def _data_in(value: object) -> object:
    """Return a value if it is data; of any other object, the attributes that are data."""
    if isinstance(value, _DATA_TYPES) or value is None:
        return value
    return [each for _, each in state_of(value) if isinstance(each, _DATA_TYPES)]


def _is_config(value: object, name: str) -> TypeGuard[RunnableConfig]:
    if not isinstance(value, dict):
        return False
    # LangChain passes a configuration to any parameter of that type, whatever its name.
    callbacks = value.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        return True
    # Other dictionaries may have tags and metadata too. LangChain's always have these keys.
    return (name == "config" and bool(value.keys() & _CONFIG_KEYS)) or (
        isinstance(callbacks, list)
        and any(isinstance(each, BaseCallbackHandler) for each in callbacks)
    )


def _guarded(value: object, guard: Guard, *, inside: bool = False) -> object:
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, Runtime | ToolRuntime):
        return dataclasses.replace(value, **_guarded_fields(value, guard))
    if isinstance(value, BaseStore):
        return _Store(value, guard)
    if isinstance(value, StreamProtocol):
        stream = searched_stream(cast(Callable[[StreamChunk], object], value), guard)
        return StreamProtocol(stream, value.modes)
    if isinstance(value, BaseCheckpointSaver):
        return _guarded_saver(value, guard)
    if inside and (inspect.isroutine(value) or isinstance(value, partial)):
        # The functions with which a node starts tasks and writes. Their keys have no public names.
        return _guarded_call(value, guard)
    return value


def _guarded_fields(runtime: AnyRuntime, guard: Guard) -> dict[str, Any]:
    made: dict[str, Any] = {
        "store": None if runtime.store is None else _Store(runtime.store, guard),
        "stream_writer": searched_call(runtime.stream_writer, guard, "the node's stream"),
    }
    if isinstance(runtime, ToolRuntime):
        made["config"] = guarded_config(runtime.config, guard)
    elif (control := getattr(runtime, "control", None)) is not None:
        # Only the newest LangGraph versions have it.
        made["control"] = _Control(control, guard)
    return made


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


def _guarded_call(call: Callable[..., object], guard: Guard) -> Callable[..., object]:
    def calling(*args: object, **kwargs: object) -> object:
        # A task's own function isn't stored anywhere, and may use a secret.
        task = args[0] if args and inspect.isroutine(args[0]) else None
        guard.search(args if task is None else args[1:], "the input of a task inside the node")
        if task is not None:
            args = (_searched_task(task, guard), *args[1:])
        return call(*args, **kwargs)

    return calling


def _searched_task(function: Callable[..., object], guard: Guard) -> Callable[..., object]:
    # A task writes its result before any callback receives it.
    where = "the result of a task inside the node"

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def acall(*args: object, **kwargs: object) -> object:
            try:
                result: object = await function(*args, **kwargs)
                guard.search(result, where)
            except BaseException as error:
                redact_or_raise(error, guard)
                raise
            return result

        return acall

    @wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        try:
            result: object = function(*args, **kwargs)
            guard.search(result, where)
        except BaseException as error:
            redact_or_raise(error, guard)
            raise
        return result

    return call


def _guarded_saver(saver: BaseCheckpointSaver[Any], guard: Guard) -> BaseCheckpointSaver[Any]:
    # A shallow copy, as the saver's with_allowlist makes it: the same connection and type.
    made = copy(saver)
    for name in ("put", "put_writes", "aput", "aput_writes"):
        setattr(made, name, _writing(getattr(saver, name), guard))
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


def _writing(write: Callable[..., object], guard: Guard) -> Callable[..., object]:
    # LangGraph inspects the signature to decide which arguments to pass.
    @wraps(write)
    def writing(config: RunnableConfig, *args: object, **kwargs: object) -> object:
        configurable = config.get("configurable") or {}
        visible = {key: value for key, value in configurable.items() if not key.startswith("__")}
        where = "the checkpoint of a graph inside the node"
        guard.search(
            [{"configurable": visible, "metadata": config.get("metadata")}, args, kwargs], where
        )
        return write(config, *args, **kwargs)

    return writing


def _reading(read: Callable[..., object], guard: Guard) -> Callable[..., object]:
    @wraps(read)
    def reading(*args: object, **kwargs: object) -> object:
        return _recorded(read(*args, **kwargs), guard)

    return reading


def _recorded(found: object, guard: Guard) -> object:
    """Record what was read as input: a node may return it. Return it unchanged."""
    if isinstance(found, AsyncIterator):
        return _record_each_async(found, guard)
    if isinstance(found, Iterator):
        return (_recorded(each, guard) for each in found)
    if inspect.isawaitable(found):
        return _record_awaited(found, guard)
    if isinstance(found, CheckpointTuple):
        # Without the configuration, which comes from the caller.
        guard.add_input([found.checkpoint, found.metadata, found.pending_writes])
    elif found is not None:
        guard.add_input(found)
    return found


async def _record_each_async(found: AsyncIterator[object], guard: Guard) -> AsyncIterator[object]:
    async for each in found:
        yield _recorded(each, guard)


async def _record_awaited(waited_for: Awaitable[object], guard: Guard) -> object:
    return _recorded(await waited_for, guard)


class _Store(BaseStore, Unsearched):
    def __init__(self, store: BaseStore, guard: Guard) -> None:
        self._store = store
        self._guard = guard
        self.supports_ttl = store.supports_ttl
        self.ttl_config = store.ttl_config

    def batch(self, ops: Iterable[Op]) -> Any:
        return self._ask("batch", list(ops))

    def abatch(self, ops: Iterable[Op]) -> Any:
        return self._ask("abatch", list(ops))

    def _ask(self, name: str, /, *args: object, **kwargs: object) -> object:
        # Search when the method is called, because its result may be awaited after the node has
        # ended. Call the store's own method, which may do more than the base class's.
        self._guard.search([args, kwargs], "a store operation of the node")
        return _recorded(getattr(self._store, name)(*args, **kwargs), self._guard)

    def __getattr__(self, name: str) -> Any:
        # While a copy is being made, _store isn't set yet. Any: a store may have other methods.
        if name == "_store":
            raise AttributeError(name)
        return getattr(self._store, name)


for _verb in ("get", "search", "put", "delete", "list_namespaces"):
    for _name in (_verb, f"a{_verb}"):
        setattr(_Store, _name, partialmethod(_Store._ask, _name))
