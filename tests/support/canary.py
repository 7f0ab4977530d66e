"""Every ordinary mistake with a key, and every place where the key may turn up afterwards.

Each mistake is one node. It runs once with ``credentials.inject`` and once as it would be written
without pipelit-agents, and then everything that the run left behind is searched for the key, in
clear and encoded. ``python canary.py`` prints what was found, both beside each other.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import functools
import hmac
import json
import logging
import os
import pickle
import sqlite3
import sys
import tempfile
import threading
import traceback
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from langchain_core.callbacks import dispatch_custom_event
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.config import get_store, get_stream_writer
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Overwrite, Send, StreamWriter, interrupt
from pydantic import BaseModel, SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.otp import hotp
from pipelit_agents.redaction import RedactingFilter
from pipelit_agents.testing import Clock

KEY = "sk-Canary/+8wZq_0123456789-end"
_PLAIN = KEY.encode()
FORMS = {
    _PLAIN,
    *(base64.b64encode(b"x" * shift + _PLAIN)[4:-4] for shift in range(3)),
    *(base64.urlsafe_b64encode(b"x" * shift + _PLAIN)[4:-4] for shift in range(3)),
    base64.b32encode(_PLAIN).rstrip(b"="),
    _PLAIN.hex().encode(),
    quote(KEY, safe="").encode(),
    json.dumps(KEY)[1:-1].encode(),
}
MODES = ["values", "updates", "custom", "messages", "debug", "tasks", "checkpoints"]
CHANNELS = ["checkpoint", "store", "trace", "stream", "events", "log", "exception", "pickle"]
CHANNELS += ["process"]
logger = logging.getLogger("canary")

Protect = Callable[[Callable[..., Any]], Callable[..., Any]]
MISTAKES: dict[str, Callable[[Protect, dict[str, Any]], Callable[..., Any]]] = {}


class State(TypedDict, total=False):
    """What the graphs pass on."""

    x: Any
    y: Any


@dataclass
class Thing:
    """A dataclass in the state."""

    text: str


class Settings(BaseModel):
    """A pydantic model, in the state or failing."""

    api_key: str
    timeout: int


def mistake(make: Callable[[Protect, dict[str, Any]], Callable[..., Any]]) -> Any:
    """Adds a mistake, under its name in words."""
    MISTAKES[make.__name__.strip("_").replace("_", " ")] = make
    return make


HONEST = "honest node"


def _honest(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": hmac.digest(key.get_secret_value().encode(), b"request", "sha256")}

    return protect(node)


MISTAKES[HONEST] = _honest


def _returning(name: str, leave: Callable[[Any], Any]) -> None:
    def make(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
        def node(state: State, *, key: SecretStr) -> Any:
            return leave(key)

        return protect(node)

    MISTAKES[name] = make


for _name, _leave in {
    "returns it": lambda key: {"x": key.get_secret_value()},
    "returns it in text": lambda key: {"x": f"Bearer {key.get_secret_value()}"},
    "returns the SecretStr": lambda key: {"x": [key]},
    "returns bytes": lambda key: {"x": {"raw": key.get_secret_value().encode()}},
    "returns base64": lambda key: {
        "x": base64.b64encode(b"user:" + key.get_secret_value().encode()).decode()
    },
    "returns a URL": lambda key: {"x": f"https://x/?k={quote(key.get_secret_value(), safe='')}"},
    "returns JSON": lambda key: {"x": json.dumps({"k": [key.get_secret_value()]})},
    "returns a dataclass": lambda key: {"x": Thing(key.get_secret_value())},
    "returns a model": lambda key: {"x": Settings(api_key=key.get_secret_value(), timeout=1)},
    "returns a message": lambda key: {"x": AIMessage(f"I used {key.get_secret_value()}")},
    "returns an artifact": lambda key: {
        "x": ToolMessage("ok", tool_call_id="1", artifact={"k": key.get_secret_value()})
    },
    "returns Overwrite": lambda key: {"x": Overwrite(key.get_secret_value())},
    "returns Command": lambda key: Command(update={"x": key.get_secret_value()}),
    "returns Send": lambda key: Command(goto=[Send("after", {"x": key.get_secret_value()})]),
    "returns a tool call": lambda key: {
        "x": AIMessage(
            "", tool_calls=[{"name": "t", "args": {"k": key.get_secret_value()}, "id": "1"}]
        )
    },
    "returns response metadata": lambda key: {
        "x": AIMessage("ok", response_metadata={"headers": {"k": key.get_secret_value()}})
    },
    "returns a message's name": lambda key: {"x": AIMessage("ok", name=key.get_secret_value())},
    "returns a message's id": lambda key: {"x": AIMessage("ok", id=key.get_secret_value())},
    "returns a document": lambda key: {
        "x": Document("page", metadata={"source": f"https://x/?k={key.get_secret_value()}"})
    },
    "returns an exception": lambda key: {"x": ValueError(key.get_secret_value())},
    "returns it as a key": lambda key: {"x": {key.get_secret_value(): 1}},
    "returns a set": lambda key: {"x": {key.get_secret_value()}},
    "returns a deque": lambda key: {"x": deque([key.get_secret_value()])},
    "returns a path": lambda key: {"x": PurePosixPath("/keys") / key.get_secret_value()},
    "returns hexadecimal": lambda key: {"x": key.get_secret_value().encode().hex()},
    "goes to a node of its name": lambda key: Command(goto=key.get_secret_value()),
}.items():
    _returning(_name, _leave)


@mistake
def returns_a_persons_own(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": key.get_secret_value()}

    vars(node)["is_own"] = True
    return protect(node)


@mistake
def async_node_returns_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    async def node(state: State, *, key: SecretStr) -> State:
        return {"x": key.get_secret_value()}

    return protect(node)


@mistake
def generator_yields_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> Iterator[State]:
        yield {"x": key.get_secret_value()}

    return protect(node)


@mistake
def async_generator_yields_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    async def node(state: State, *, key: SecretStr) -> AsyncIterator[State]:
        yield {"x": key.get_secret_value()}

    return protect(node)


@mistake
def raises_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        raise ConnectionError(f"401: bad key {key.get_secret_value()}", key.get_secret_value())

    return protect(node)


@mistake
def raises_it_in_a_chain(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        try:
            raise KeyError(key.get_secret_value())
        except KeyError as first:
            first.add_note(f"tried with {key.get_secret_value()}")
            second = RuntimeError("failed")
            second.request = {"k": key.get_secret_value()}  # type: ignore[attr-defined]
            raise second from first

    return protect(node)


@mistake
def fails_to_build_a_model(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": Settings(api_key=key.get_secret_value()).timeout}  # type: ignore[call-arg]

    return protect(node)


@mistake
def changes_its_input(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        state["x"].append(key.get_secret_value())
        return {}

    return protect(node)


@mistake
def interrupts_with_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": interrupt({"may I use": key.get_secret_value()})}

    return protect(node)


@mistake
def writes_it_to_the_stream(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
        writer({"using": key.get_secret_value()})
        return {}

    return protect(node)


@mistake
def get_stream_writer_(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        get_stream_writer()(f"using {key.get_secret_value()}")
        return {}

    return protect(node)


@mistake
def runtime_stream_writer(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, runtime: Runtime[Any], *, key: SecretStr) -> State:
        runtime.stream_writer(key.get_secret_value())
        return {}

    return protect(node)


@mistake
def dispatches_an_event(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        dispatch_custom_event("used", {"k": key.get_secret_value()})
        return {}

    return protect(node)


@mistake
def puts_it_into_the_store(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, store: BaseStore, *, key: SecretStr) -> State:
        store.put(("keys",), "k", {"k": key.get_secret_value()})
        return {}

    return protect(node)


@mistake
def get_store_and_batch(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    async def node(state: State, *, key: SecretStr) -> State:
        await get_store().aput(("keys", key.get_secret_value()), "k", {"k": 1})
        return {}

    return protect(node)


@mistake
def runnable_is_given_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, config: RunnableConfig, *, key: SecretStr) -> State:
        RunnableLambda(len).invoke(key.get_secret_value(), config)
        return {}

    return protect(node)


@mistake
def runnable_returns_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        RunnableLambda(lambda _: key.get_secret_value()).invoke(1)
        return {}

    return protect(node)


@mistake
def runnable_raises_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        def fail(_: Any) -> None:
            raise ValueError(key.get_secret_value())

        with suppress(ValueError):
            RunnableLambda(fail).invoke(1)
        return {}

    return protect(node)


@mistake
def runnable_streams_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        def chunks(_: Any) -> Iterator[str]:
            yield "using "
            yield key.get_secret_value()

        list(RunnableLambda(chunks).stream(1))
        return {}

    return protect(node)


@mistake
def puts_it_into_metadata(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        inner = RunnableLambda(lambda x: x).with_config(metadata={"k": key.get_secret_value()})
        inner.invoke(1)
        return {}

    return protect(node)


def _inner(node: Callable[..., Any], then: Callable[[State], Any] | None = None) -> Any:
    builder = StateGraph(State)
    builder.add_node("inner", node)
    builder.add_node("other", lambda state: {"y": 1})
    builder.add_edge(START, "inner")
    if then is not None:
        builder.add_conditional_edges("inner", then, ["other"])
    return builder.compile()


@mistake
def subgraph_is_given_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        _inner(lambda state: {"y": 1}).invoke({"x": key.get_secret_value()})
        return {}

    return protect(node)


@mistake
def subgraph_node_returns_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        _inner(lambda state: {"y": key.get_secret_value()}).invoke({"x": 1})
        return {}

    return protect(node)


@mistake
def subgraph_node_raises_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        def fail(state: State) -> State:
            raise ValueError(key.get_secret_value())

        with suppress(ValueError):
            _inner(fail).invoke({"x": 1})
        return {}

    return protect(node)


@mistake
def subgraph_interrupts_with_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        _inner(lambda state: {"y": interrupt(key.get_secret_value())}).invoke({"x": 1})
        return {}

    return protect(node)


@mistake
def subgraph_sends_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        secret = key.get_secret_value()
        _inner(lambda state: {"y": 1}, lambda state: [Send("other", {"x": secret})]).invoke({})
        return {}

    return protect(node)


@mistake
def subgraph_configurable(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        _inner(lambda state: {"y": 1}).invoke(
            {"x": 1}, {"configurable": {"api_key": key.get_secret_value()}}
        )
        return {}

    return protect(node)


@mistake
def subgraph_with_other_callbacks(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        _inner(lambda state: {"y": key.get_secret_value()}).invoke({"x": 1}, {"callbacks": []})
        return {}

    return protect(node)


@mistake
def task_is_given_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        @task
        def call(secret: str) -> int:
            return len(secret)

        return {"x": call(key.get_secret_value()).result()}

    return protect(node)


@mistake
def task_returns_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        @task
        def call() -> str:
            return key.get_secret_value()

        call().result()
        return {}

    return protect(node)


@mistake
def prompts_a_model_with_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        model = GenericFakeChatModel(messages=iter([AIMessage("ok")]))
        model.invoke(f"say {key.get_secret_value()}")
        return {}

    return protect(node)


@mistake
def model_streams_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        model = GenericFakeChatModel(
            messages=iter([AIMessage(f"it is {key.get_secret_value()} so")])
        )
        model.invoke("which?")
        return {}

    return protect(node)


@mistake
def tool_is_given_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        @tool
        def fetch(k: str) -> str:
            """Fetches."""
            return "ok"

        fetch.invoke({"k": key.get_secret_value()})
        return {}

    return protect(node)


@mistake
def tool_returns_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def fetch(q: str, *, key: SecretStr) -> str:
        """Fetches."""
        return f"fetched with {key.get_secret_value()}"

    if isinstance(found := protect(fetch), functools.partial):

        def bare(q: str) -> Any:
            """Fetches."""
            return found(q)

        made = tool(bare)
    else:
        made = tool(found)
    return lambda state: {"x": made.invoke({"q": "x"})}


@mistake
def logs_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        logger.warning("calling with %s", key.get_secret_value())
        logger.warning("calling", extra={"header": {"k": [key.get_secret_value()]}})
        return {}

    return protect(node)


@mistake
def logs_an_exception(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        try:
            raise ConnectionError(f"bad key {key.get_secret_value()}")
        except ConnectionError as error:
            logger.exception("failed: %r", error)
        return {}

    return protect(node)


@mistake
def pickles_it(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        for dump in (pickle.dumps, copy.deepcopy, lambda each: json.dumps(each, default=vars)):
            with suppress(TypeError):
                kept["dumped"] = repr([kept.get("dumped"), dump(key)])
                if isinstance(found := dump(key), SecretStr):
                    kept["copied"] = found.get_secret_value()
        return {}

    return protect(node)


@mistake
def keeps_it_for_later(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        kept["secret"] = key
        kept["reader"] = key.get_secret_value
        return {}

    return protect(node)


def _keeping(name: str, keep: Callable[[str, Any], Any]) -> None:
    """A node that leaves it somewhere, given the key and the run's configuration."""

    def make(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
        def node(state: State, config: RunnableConfig, *, key: SecretStr) -> State:
            keep(key.get_secret_value(), config)
            return {}

        return protect(node)

    MISTAKES[name] = make


def _fails_after(leave: Callable[[str], Any]) -> Callable[[str, Any], Any]:
    def keep(key: str, config: Any) -> None:
        leave(key)
        raise ConnectionError("no answer")

    return keep


LEFT = "CANARY_API_KEY"

for _called, _keep in {
    "sets a variable of the environment": lambda key, config: os.environ.update({LEFT: key}),
    "sets a header in the environment": lambda key, config: os.environ.update(
        {LEFT: f"Bearer {key}"}
    ),
    "sets the environment and fails": _fails_after(lambda key: os.environ.update({LEFT: key})),
    "changes the context": lambda key, config: get_runtime().context["extras"].update(k=key),
    "appends to the context": lambda key, config: get_runtime().context["log"].append([key]),
    "changes the context and fails": _fails_after(
        lambda key: get_runtime().context["extras"].update(k=key)
    ),
    "adds a tag and goes on": lambda key, config: (
        config["tags"].append(key),
        RunnableLambda(len).invoke("x", config),
    ),
    "adds metadata and goes on": lambda key, config: (
        config["metadata"].update(k=key),
        RunnableLambda(len).invoke("x", config),
    ),
    "names a run after it": lambda key, config: RunnableLambda(len).invoke(
        "x", {**config, "run_name": key}
    ),
    "adds to metadata": lambda key, config: config["metadata"]["nested"].update(k=key),
    "adds to configurable": lambda key, config: config["configurable"]["nested"].update(k=key),
    "names its thread and logs": lambda key, config: (
        setattr(threading.current_thread(), "name", key),
        logger.warning("named"),
    ),
}.items():
    _keeping(_called, _keep)


class Says(BaseChatModel):
    """Streams what it is given."""

    chunks: list[AIMessageChunk]

    @property
    def _llm_type(self) -> str:
        return "says"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("unused"))])

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for each in self.chunks:
            yield ChatGenerationChunk(message=each.model_copy(deep=True))


def _pieces(text: str) -> list[str]:
    return [text[i : i + 4] for i in range(0, len(text), 4)]


def _call(text: str, index: int) -> AIMessageChunk:
    piece: Any = {"name": None, "args": text, "id": None, "index": index}
    return AIMessageChunk(content="", tool_call_chunks=[piece])


def _streaming(name: str, chunk: Callable[[str], list[AIMessageChunk]]) -> None:
    """A model that spells the key out in a node, and one that does so asynchronously."""

    def make(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
        def node(state: State, *, key: SecretStr) -> State:
            pieces = _pieces(f"it is {key.get_secret_value()}")
            chunks = [each for piece in pieces for each in chunk(piece)]
            for _ in Says(chunks=chunks).stream("which?"):
                pass
            return {}

        return protect(node)

    MISTAKES[name] = make


for _called, _chunk in {
    "streams tokens": lambda piece: [AIMessageChunk(piece)],
    "streams blocks": lambda piece: [AIMessageChunk([{"type": "text", "text": piece, "index": 0}])],
    "streams blocks without index": lambda piece: [
        AIMessageChunk([{"type": "text", "text": piece}])
    ],
    "streams reasoning": lambda piece: [
        AIMessageChunk([{"type": "reasoning", "reasoning": piece, "index": 0}])
    ],
    "streams arguments": lambda piece: [_call(piece, 0)],
    "streams two calls' arguments": lambda piece: [_call(piece, 0), _call("abcd", 1)],
    "streams additional_kwargs": lambda piece: [
        AIMessageChunk("", additional_kwargs={"reasoning_content": piece})
    ],
}.items():
    _streaming(_called, _chunk)


@mistake
def writes_pieces_to_the_stream(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
        for piece in _pieces(key.get_secret_value()):
            writer(piece)
        return {}

    return protect(node)


@mistake
def writes_pieces_in_fields(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        for number, piece in enumerate(_pieces(key.get_secret_value())):
            get_stream_writer()({"index": number, "text": piece})
        return {}

    return protect(node)


@mistake
def subgraph_writes_pieces(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        secret = key.get_secret_value()

        def inner(state: State, writer: StreamWriter) -> State:
            for piece in _pieces(secret):
                writer(piece)
            return {}

        _inner(inner).invoke({"x": 1})
        return {}

    return protect(node)


@mistake
def runnable_streams_pieces(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        def chunks(_: Any) -> Iterator[str]:
            yield from _pieces(key.get_secret_value())

        list(RunnableLambda(chunks).stream(1))
        return {}

    return protect(node)


def _request(header: str) -> None:
    client = {"headers": {"Authorization": header}}
    raise ConnectionError("no answer" if client else "")


@mistake
def logs_local_variables(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        try:
            _request(f"Bearer {key.get_secret_value()}")
        except ConnectionError:
            logger.exception("failed")
        return {}

    return protect(node)


@mistake
def logs_local_variables_of_a_cause(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        try:
            try:
                _request(f"Bearer {key.get_secret_value()}")
            except ConnectionError as error:
                raise RuntimeError("gave up") from error
        except RuntimeError as error:
            logger.warning("failed", exc_info=error)
        return {}

    return protect(node)


@mistake
def logs_exc_info_as_an_extra(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        try:
            _request(f"Bearer {key.get_secret_value()}")
        except ConnectionError:
            logger.warning("failed", extra={"info": sys.exc_info()})
        return {}

    return protect(node)


@mistake
def fails_with_local_variables(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    def node(state: State, *, key: SecretStr) -> State:
        _request(f"Bearer {key.get_secret_value()}")
        return {}

    return protect(node)


@mistake
def logs_in_with_a_code(protect: Protect, kept: dict[str, Any]) -> Callable[..., Any]:
    """The key is the seed of an authenticator; without pipelit-agents, the node has to have it."""

    def log_in(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
        given = key.get_secret_value()
        code = given if given.isdigit() else hotp(given.encode(), 1, digits=6, algorithm="sha1")
        kept["dumped"] = repr(locals())
        # As text: the opened value itself is refused, and then the rest wouldn't be left.
        writer(f"sent {code}, made of {given}")
        logger.warning("logging in: %r", vars(key), extra={"all": locals()})
        return {"x": f"sent {code}, made of {given}"}

    return protect(log_in)


class Tracer(BaseTracer):
    """Keeps what any tracer is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self._keep(run)

    def _keep(self, run: Run) -> None:
        shown = {name: value for name, value in vars(run).items() if name != "child_runs"}
        self.seen.append(repr(shown))
        for child in run.child_runs:
            self._keep(child)


@dataclass
class Found:
    """How often the key stands in each channel, and how the run ended."""

    hits: dict[str, int] = field(default_factory=dict)
    ended: str = "ok"


def count(*left: Any) -> int:
    """How often the key stands in something, whichever way it is written."""
    total = 0
    for each in left:
        text = each if isinstance(each, bytes) else repr(each).encode("utf-8", "replace")
        total += sum(text.count(form) for form in FORMS)
    return total


def _with_variables(info: Any) -> str:
    """A traceback as error trackers show it, with local variables."""
    return "".join(traceback.TracebackException(*info, capture_locals=True).format())


def _formatted(record: logging.LogRecord) -> str:
    shown = logging.Formatter().format(record) + repr(vars(record))
    for each in (record.exc_info, *vars(record).values()):
        if isinstance(each, tuple) and len(each) == 3 and isinstance(each[1], BaseException):
            shown += _with_variables(each)
    return shown


def joined(chunks: list[Any]) -> list[str]:
    """What a consumer puts together of what comes in pieces: by block, call, or as it comes."""
    texts: dict[Any, str] = {}

    def add(place: Any, text: Any) -> None:
        texts[place] = texts.get(place, "") + text if isinstance(text, str) else ""

    for each in chunks:
        if isinstance(each, AIMessageChunk):
            blocks = each.content if isinstance(each.content, list) else [{"text": each.content}]
            for block in blocks:
                for name in ("text", "reasoning"):
                    add((name, block.get("index")), block.get(name, ""))
            add("kwargs", each.additional_kwargs.get("reasoning_content", ""))
            for call in each.tool_call_chunks:
                add(("args", call["index"]), call["args"] or "")
        elif isinstance(each, str):
            add("text", each)
        elif isinstance(each, dict) and isinstance(each.get("text"), str):
            add("field", each["text"])
    return list(texts.values())


def told(error: BaseException | None) -> str:
    """An exception as a log, a debugger or an error tracker shows it."""
    shown = ""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        shown += "".join(traceback.format_exception(error)) + repr((error.args, vars(error)))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            # This program holds the key by its nature.
            if frame.f_code.co_name not in ("run", "stream", "astream", "watch"):
                shown += repr(
                    {name: each for name, each in frame.f_locals.items() if name != "self"}
                )
        error = error.__cause__ or error.__context__
    return shown


class Place:
    """A saver, and how to read all that it has written for a thread."""

    def __init__(self, saver: BaseCheckpointSaver[Any], read: Callable[[str], Any]) -> None:
        self.saver = saver
        self.read = read


def in_memory(stack: ExitStack, folder: Path) -> Place:
    """InMemorySaver."""
    saver = InMemorySaver()
    return Place(saver, lambda thread: [dict(saver.storage), dict(saver.blobs), dict(saver.writes)])


def in_sqlite(stack: ExitStack, folder: Path) -> Place:
    """SqliteSaver."""
    path = folder / f"{uuid.uuid4()}.db"
    saver = stack.enter_context(SqliteSaver.from_conn_string(str(path)))

    def read(thread: str) -> Any:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA wal_checkpoint")
        return b"".join(each.read_bytes() for each in folder.glob(f"{path.name}*"))

    return Place(saver, read)


class AsyncFriendly:
    """Runs a saver's async methods by its sync ones, where it has none of its own."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        for name in ("get_tuple", "put", "put_writes"):
            real = getattr(saver, name)

            async def call(*args: Any, _real: Any = real, **kwargs: Any) -> Any:
                return _real(*args, **kwargs)

            setattr(saver, f"a{name}", call)


def in_postgres(url: str) -> Callable[[ExitStack, Path], Place]:
    """PostgresSaver."""

    def make(stack: ExitStack, folder: Path) -> Place:
        from langgraph.checkpoint.postgres import PostgresSaver
        from psycopg import Connection

        saver = stack.enter_context(PostgresSaver.from_conn_string(url))
        saver.setup()
        other = stack.enter_context(Connection.connect(url, autocommit=True))

        def read(thread: str) -> Any:
            rows: list[Any] = []
            for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
                query = f"SELECT * FROM {table} WHERE thread_id = %s"  # noqa: S608
                rows += other.execute(query, [thread]).fetchall()
            return rows

        return Place(saver, read)

    return make


def run(
    name: str,
    protect: Protect,
    place: Place,
    filters: list[logging.Filter],
    configurable: dict[str, Any] | None = None,
) -> Found:
    """One mistake, and what is left of it."""
    kept: dict[str, Any] = {}
    builder = StateGraph(State, context_schema=dict)
    builder.add_node("node", MISTAKES[name](protect, kept))
    builder.add_node("after", _after)
    builder.add_edge(START, "node")
    store = InMemoryStore()
    AsyncFriendly(place.saver)
    graph = builder.compile(checkpointer=place.saver, store=store)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(_formatted(record))  # type: ignore[method-assign]
    for each in filters:
        handler.addFilter(each)
    for each in (logger, logging.getLogger("langchain_core"), logging.getLogger("langgraph")):
        each.addHandler(handler)
    found, tracer = Found(), Tracer()
    streamed: list[str] = []
    thread, other = str(uuid.uuid4()), str(uuid.uuid4())
    configurable = {**(configurable or {}), "nested": {}}
    about: Any = {"tags": ["t"], "metadata": {"nested": {}}}
    config: Any = {
        "configurable": {**configurable, "thread_id": thread},
        "callbacks": [tracer],
        **about,
    }
    context: Any = {"extras": {}, "log": []}
    named, pieces = threading.current_thread().name, list[Any]()
    errors = ""

    def keep(chunk: Any) -> None:
        streamed.append(repr(chunk))
        _, mode, data = chunk
        pieces.extend([data[0]] if mode == "messages" else [data] if mode == "custom" else [])

    async def astream() -> None:
        async for chunk in graph.astream(
            {"x": []}, config, stream_mode=MODES, subgraphs=True, context=context
        ):
            keep(chunk)

    def stream() -> None:
        for chunk in graph.stream(
            {"x": []}, config, stream_mode=MODES, subgraphs=True, context=context
        ):
            keep(chunk)

    events: list[str] = []
    chunks: list[Any] = []

    async def watch() -> None:
        where: Any = {"configurable": {**configurable, "thread_id": other}, **about}
        async for event in graph.astream_events({"x": []}, where, version="v2", context=context):
            events.append(repr(event))
            chunks.append(event["data"].get("chunk"))

    only_async = name.startswith(("async", "get store"))
    for attempt in ((lambda: asyncio.run(astream())) if only_async else stream, watch):
        try:
            if attempt is watch:
                asyncio.run(watch())
            else:
                attempt()
        except Exception as error:
            found.ended = type(error).__name__ if attempt is not watch else found.ended
            errors += told(error)
    for each in (logger, logging.getLogger("langchain_core"), logging.getLogger("langgraph")):
        each.removeHandler(handler)
    later = []
    for each in (kept.get("reader"), getattr(kept.get("secret"), "get_secret_value", None)):
        with suppress(Exception):
            later.append(each() if each else None)
    found.hits = {
        "checkpoint": count(place.read(thread), place.read(other)),
        "store": count([item.dict() for item in store.search(())], store.list_namespaces()),
        "trace": count(tracer.seen),
        "stream": count(streamed, joined(pieces)),
        "events": count(events, joined(chunks)),
        "log": count(lines),
        "exception": count(errors),
        "pickle": count(kept.get("dumped"), kept.get("copied"), later),
        "process": count(dict(os.environ), context, config, threading.current_thread().name),
    }
    os.environ.pop(LEFT, None)
    threading.current_thread().name = named
    return found


def _after(state: State) -> State:
    # As a node that shows what it was given, such as one that answers "debug".
    context = get_runtime().context
    return {"y": repr(context)} if context != {"extras": {}, "log": []} else {}


def protecting(pipelit: Pipelit) -> Protect:
    """Store the key, shared, as alice's own and as the seed of codes; give a node one of these."""
    seed = base64.b32encode(_PLAIN).decode()
    for person in (None, "alice"):
        pipelit.credentials.put("service", KEY, kind="api", created_by="alice", person=person)
    pipelit.credentials.put("login", seed, kind="totp", created_by="alice")

    def protect(function: Callable[..., Any]) -> Callable[..., Any]:
        if not vars(function).get("is_own"):
            reference = "login:code" if function.__name__ == "log_in" else "service"
            return pipelit.credentials.inject(key=reference)(function)
        inner = pipelit.credentials.inject(key="service", per_person=True)(function)

        def node(state: State) -> Any:
            with pipelit.acting_for("alice"):
                return inner(state)

        return node

    return protect


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """As such a node is written without pipelit-agents: the key comes from somewhere."""
    return functools.partial(function, key=SecretStr(KEY))


def both(
    name: str,
    protect: Protect,
    make: Callable[[ExitStack, Path], Place],
    stack: ExitStack,
    folder: Path,
) -> tuple[Found, Found]:
    """A mistake with pipelit-agents, and without it.

    Without it an honest node's key comes in ``configurable``, as LangGraph's users do it.
    """
    passed = {"api_key": KEY} if name == HONEST else {}
    return (
        run(name, protect, make(stack, folder), [RedactingFilter()]),
        run(name, bare, make(stack, folder), [], passed),
    )


def table(rows: dict[str, tuple[Found, Found]]) -> str:
    """Mistake by channel: hits with pipelit-agents, and without it in brackets."""
    width = max(map(len, rows)) + 1
    lines = ["".ljust(width) + "".join(each.rjust(13) for each in CHANNELS) + "  ends with"]
    for name, (ours, theirs) in rows.items():
        cells = (f"{ours.hits[each]} ({theirs.hits[each]})".rjust(13) for each in CHANNELS)
        lines.append(name.ljust(width) + "".join(cells) + f"  {ours.ended} ({theirs.ended})")
    ours, theirs = (
        [sum(row[side].hits[each] for row in rows.values()) for each in CHANNELS] for side in (0, 1)
    )
    sums = (f"{a} ({b})".rjust(13) for a, b in zip(ours, theirs, strict=True))
    return "\n".join([*lines, "all".ljust(width) + "".join(sums)])


def main() -> None:
    """Prints the table of each saver."""
    from postgres import PostgresServer

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        postgres_folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(PostgresServer(postgres_folder))
        server.start()
        pipelit = stack.enter_context(
            Pipelit(
                database_url=f"sqlite:///{folder}/agents.db",
                encryption_keys=[Keyring.generate_key()],
                clock=Clock(),
            )
        )
        pipelit.create_schema()
        pipelit.users.create("alice")
        protect = protecting(pipelit)
        for make in (in_memory, in_sqlite, in_postgres(server.url())):
            rows = {}
            for name in MISTAKES:
                with ExitStack() as each:
                    rows[name] = both(name, protect, make, each, Path(folder))
            print(f"\n{make.__doc__ or 'PostgresSaver.'} Hits with pipelit-agents (without):\n")
            print(table(rows))


if __name__ == "__main__":
    main()
