"""No consumer of a stream gets a secret in pieces; all else comes whole and in order."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
from collections import Counter, UserString, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext, suppress
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from canary import KEY
from langchain.agents import create_agent
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    CallbackManager,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import StreamWriter
from pydantic import SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.readings import Readings
from pipelit_agents.credentials.leak_guard.streams import DelayedCall, Pieces
from pipelit_agents.errors import SecretLeakError

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol")

# So much of a secret may not be seen: "sk-", which everybody knows, and eight characters.
HARMLESS = KEY[:11]
Chunks = list[AIMessageChunk]


class State(TypedDict, total=False):
    x: Any


class Says(BaseChatModel):
    """Streams the chunks that it is given, and fails where one is an error."""

    chunks: list[Any]

    def __repr__(self) -> str:
        # LangChain writes a model out whenever it is asked: with all chunks, longer than they take.
        return "Says()"

    @property
    def _llm_type(self) -> str:
        return "says"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("unused"))])

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for each in self.chunks:
            if isinstance(each, Exception):
                raise each
            yield ChatGenerationChunk(message=each.model_copy(deep=True))


def cut(text: str, size: int = 5) -> list[str]:
    """A text in pieces of some characters."""
    return [text[i : i + size] for i in range(0, len(text), size)]


def as_text(text: str) -> Chunks:
    """Text."""
    return [AIMessageChunk(content=each) for each in cut(text)]


def by_characters(text: str) -> Chunks:
    """Text, one character a token."""
    return [AIMessageChunk(content=each) for each in text]


def as_blocks(text: str) -> Chunks:
    """Content blocks with an index, as Anthropic's and OpenAI's."""
    blocks = [[{"type": "text", "text": each, "index": 0}] for each in cut(text)]
    return [AIMessageChunk(content=each) for each in blocks]  # type: ignore[arg-type]


def as_blocks_without_index(text: str) -> Chunks:
    """Content blocks without an index."""
    return [AIMessageChunk(content=[{"type": "text", "text": each}]) for each in cut(text)]


def as_counted_blocks(text: str) -> Chunks:
    """Content blocks whose index counts the chunks."""
    return [
        AIMessageChunk(content=[{"type": "text", "text": each, "index": i}])
        for i, each in enumerate(cut(text))
    ]


def as_strings(text: str) -> Chunks:
    """Lists of strings."""
    return [AIMessageChunk(content=[each]) for each in cut(text)]


def as_reasoning(text: str) -> Chunks:
    """Blocks of reasoning."""
    return [
        AIMessageChunk(content=[{"type": "reasoning", "reasoning": each, "index": 0}])
        for each in cut(text)
    ]


def as_thinking(text: str) -> Chunks:
    """Reasoning in additional_kwargs, as DeepSeek's."""
    return [
        AIMessageChunk(content="", additional_kwargs={"reasoning_content": each})
        for each in cut(text)
    ]


def as_arguments(text: str) -> Chunks:
    """Arguments of a tool call."""
    return [
        AIMessageChunk(
            content="",
            tool_call_chunks=[
                {
                    "name": None if i else "send",
                    "args": each,
                    "id": None if i else "1",
                    "index": 0,
                    "type": "tool_call_chunk",
                }
            ],
        )
        for i, each in enumerate(cut(json.dumps({"text": text})))
    ]


def as_interleaved_arguments(text: str) -> Chunks:
    """Two tool calls in one message, by turns."""
    found: Chunks = []
    for i, each in enumerate(cut(json.dumps({"text": text}))):
        for index, args in ((0, each), (1, "abcde")):
            call: Any = {
                "name": None if i else "send",
                "args": args,
                "id": None if i else str(index),
                "index": index,
                "type": "tool_call_chunk",
            }
            found.append(AIMessageChunk(content="", tool_call_chunks=[call]))
    return found


def as_interleaved_blocks(text: str) -> Chunks:
    """Two content blocks by turns."""
    return [
        AIMessageChunk(content=[{"type": "text", "text": each, "index": index}])
        for piece in cut(text)
        for index, each in ((0, piece), (1, "abcde"))
    ]


FORMS: list[Callable[[str], Chunks]] = [
    as_text,
    by_characters,
    as_blocks,
    as_blocks_without_index,
    as_counted_blocks,
    as_strings,
    as_reasoning,
    as_thinking,
    as_arguments,
    as_interleaved_arguments,
    as_interleaved_blocks,
]


def told(seen: list[Any]) -> list[str]:
    """What a consumer makes of chunks: text, reasoning and arguments, each put together."""
    texts: dict[Any, str] = {}
    for each in seen:
        for key, text in _parts(each):
            texts[key] = texts.get(key, "") + text
            texts["all", key[0]] = texts.get(("all", key[0]), "") + text
    return list(texts.values())


def _parts(chunk: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(chunk, str):
        yield ("text", 0), chunk
    elif isinstance(chunk, dict):
        delta = chunk.get("delta") or chunk.get("content") or {}
        for name, text in delta.items():
            if isinstance(text, str):
                yield (name, chunk.get("index")), text
    elif isinstance(chunk, AIMessageChunk):
        blocks = chunk.content if isinstance(chunk.content, list) else [chunk.content]
        for block in blocks:
            found: Any = block if isinstance(block, dict) else {"text": block}
            for name in ("text", "reasoning"):
                yield (name, found.get("index")), found.get(name) or ""
        yield ("thinking", 0), chunk.additional_kwargs.get("reasoning_content", "")
        for call in chunk.tool_call_chunks:
            yield ("args", call["index"]), call["args"] or ""


class Listens(BaseCallbackHandler):
    """A handler of somebody's, which keeps what it is told in attributes of its own."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.text = ""
        self.ended = 0

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.seen.append(chunk.message)
        # Bound anew each time: the handler that is asked afterwards must be the same.
        self.text = self.text + str(chunk.message.text)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ended += 1


class ListensLater(AsyncCallbackHandler):
    """The same, for the event loop."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        self.seen.append(chunk.message)


async def by_messages(graph: Any, seen: list[Any]) -> None:
    """stream_mode="messages"."""
    for chunk, _ in graph.stream({"x": 1}, stream_mode="messages"):
        seen.append(chunk)


async def by_amessages(graph: Any, seen: list[Any]) -> None:
    """stream_mode="messages", async."""
    async for _, (chunk, _) in graph.astream({"x": 1}, stream_mode=["messages"]):
        seen.append(chunk)


async def by_parts(graph: Any, seen: list[Any]) -> None:
    """stream_mode="messages" in version 2 of the parts."""
    async for part in graph.astream({"x": 1}, stream_mode=["messages", "updates"], version="v2"):
        if part["type"] == "messages":
            seen.append(part["data"][0])


async def by_events(graph: Any, seen: list[Any]) -> None:
    """astream_events."""
    async for event in graph.astream_events({"x": 1}, version="v2"):
        if event["event"] == "on_chat_model_stream":
            seen.append(event["data"]["chunk"])


async def by_protocol(graph: Any, seen: list[Any]) -> None:
    """Version 3 of the events, by content blocks."""
    async for event in await graph.astream_events({"x": 1}, version="v3"):
        if event["method"] == "messages":
            data = event["params"]["data"]
            seen.extend(each for each in data if isinstance(each, dict) and "delta" in each)


async def by_handler(graph: Any, seen: list[Any]) -> None:
    """A callback handler of somebody's."""
    handler = Listens()
    try:
        graph.invoke({"x": 1}, {"callbacks": [handler]})
    finally:
        seen.extend(handler.seen)


async def by_async_handler(graph: Any, seen: list[Any]) -> None:
    """An async callback handler of somebody's."""
    handler = ListensLater()
    try:
        await graph.ainvoke({"x": 1}, {"callbacks": [handler]})
    finally:
        seen.extend(handler.seen)


CONSUMERS = [
    by_messages,
    by_amessages,
    by_parts,
    by_events,
    by_protocol,
    by_handler,
    by_async_handler,
]


@pytest.fixture
def keyed(pipelit: Pipelit) -> Pipelit:
    """A credential is in the store."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")
    return pipelit


def graph_of(node: Any) -> Any:
    """A graph of one node."""
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()


def asking(pipelit: Pipelit, chunks: Callable[[str], list[Any]], consume: Any) -> Any:
    """A graph whose node asks a model that streams these, as a consumer needs it."""
    # Events by content blocks are made of invoke only.
    sync, whole = consume in (by_messages, by_handler), consume is by_protocol
    inject = pipelit.credentials.inject(key="service")

    @inject
    def node(state: State, *, key: SecretStr) -> State:
        for _ in Says(chunks=chunks(key.get_secret_value())).stream("which?"):
            pass
        return {}

    @inject
    async def anode(state: State, *, key: SecretStr) -> State:
        if whole:
            await Says(chunks=chunks(key.get_secret_value())).ainvoke("which?")
            return {}
        async for _ in Says(chunks=chunks(key.get_secret_value())).astream("which?"):
            pass
        return {}

    return graph_of(node if sync else anode)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
async def test_no_consumer_gets_a_key_in_pieces(keyed: Pipelit, form: Any) -> None:
    """Whatever the pieces are and whoever takes them, at most the first characters are seen."""
    for consume in CONSUMERS:
        seen: list[Any] = []
        graph = asking(keyed, lambda key: form(f"the key is {key} so"), consume)
        with pytest.raises(SecretLeakError):
            await consume(graph, seen)
        shown = told(seen)
        assert any("the key" in each for each in shown), consume
        assert not [each for each in shown if HARMLESS in each], consume


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_no_key_comes_whole_and_in_order(keyed: Pipelit, form: Any) -> None:
    """A text that begins as a key does, twice, and ends so, is handed on, all of it."""
    text = f"{KEY[:-3]}! {KEY[:9]}, {KEY[:12]}{KEY[:12]} and {KEY[:15]}"
    expected = told(form(text))
    for consume in CONSUMERS:
        seen: list[Any] = []
        await consume(asking(keyed, lambda key: form(text), consume), seen)
        if consume is by_protocol:
            # It has rules of its own for what a block is, and escapes as JSON does.
            assert any(text in each for each in told(seen)), seen
        else:
            assert told(seen) == expected, consume


async def test_tokens_are_not_kept_longer_than_they_have_to_be(keyed: Pipelit) -> None:
    """Of an ordinary text each token is there before the model says the next one."""
    handler = Listens()
    counts: list[int] = []

    def chunks(key: str) -> list[Any]:
        return as_text("sk-and other words that are no secret")

    class Watched(Says):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            for each in super()._stream():
                counts.append(len(handler.seen))
                yield each

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        list(Watched(chunks=chunks("")).stream("which?"))
        return {}

    graph_of(node).invoke({"x": 1}, {"callbacks": [handler]})
    assert counts == list(range(len(counts)))
    assert handler.text == "sk-and other words that are no secret"
    assert handler.ended == 1


@pytest.mark.parametrize("key_first", [True, False])
async def test_what_was_kept_back_is_told_when_the_model_fails(
    keyed: Pipelit, key_first: bool
) -> None:
    """An error of the model's lets the beginning of a key out, and never a whole one."""
    seen: list[Any] = []

    def chunks(key: str) -> list[Any]:
        text = key if key_first else key[:12]
        return [*as_text(f"it is {text}"), ConnectionError("gone")]

    with pytest.raises(SecretLeakError if key_first else ConnectionError):
        await by_amessages(asking(keyed, chunks, by_amessages), seen)
    shown = "".join(str(each.text) for each in seen)
    assert shown == ("it is sk-Canary" if key_first else f"it is {KEY[:12]}")


async def test_a_stream_that_is_left_early_tells_what_it_kept(keyed: Pipelit) -> None:
    """A node that stops listening ends the model's run, and what was kept back is told."""
    handler = Listens()

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        stream = Says(chunks=as_text(f"it is {KEY[:12]} and more")).stream("which?")
        for _ in range(4):
            next(stream)
        stream.close()
        return {}

    graph_of(node).invoke({"x": 1}, {"callbacks": [handler]})
    assert handler.text == f"it is {KEY[:12]} and more"[:20]


async def test_models_that_talk_at_once_are_told_apart(keyed: Pipelit) -> None:
    """Two models in one node: the one that says the key is refused, between the other's tokens."""
    seen: list[Any] = []

    @keyed.credentials.inject(key="service")
    async def node(state: State, *, key: SecretStr) -> State:
        async def ask(text: str) -> None:
            async for _ in Says(chunks=as_text(text)).astream("which?"):
                await asyncio.sleep(0)

        await asyncio.gather(ask(f"it is {key.get_secret_value()}"), ask("abcde" * 9))
        return {}

    with pytest.raises(SecretLeakError):
        await by_amessages(graph_of(node), seen)
    by_id: dict[Any, str] = {}
    for each in seen:
        by_id[each.id] = by_id.get(each.id, "") + str(each.text)
    assert "it is sk-Canary" in by_id.values()
    assert not [each for each in by_id.values() if HARMLESS in each]


class Frozen(Listens):
    """A handler that can't be subclassed."""

    def __init_subclass__(cls) -> None:
        raise TypeError("this class is final")


class Registered(Listens):
    """A handler whose subclasses are registered, by names that have to differ."""

    names: set[str] = set()

    def __init_subclass__(cls) -> None:
        if cls.__name__ in Registered.names:
            raise ValueError(f"{cls.__name__} is registered already")
        Registered.names.add(cls.__name__)


class OnceRegistered(Registered):
    """One of them."""


class Closing(Listens):
    """A handler that closes what it writes to when it is dropped."""

    closed = False

    def __del__(self) -> None:
        self.closed = True


class Slots(Listens):
    """A handler with slots of its own."""

    __slots__ = ("kept",)

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.kept = token
        assert isinstance(self, Slots)
        super().on_llm_new_token(token, chunk=chunk, **kwargs)


class Itself(Listens):
    """A handler that knows itself."""

    def __init__(self) -> None:
        super().__init__()
        self.me = self

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        assert self.me is self
        super().on_llm_new_token(token, chunk=chunk, **kwargs)


@pytest.mark.parametrize("kind", [Frozen, OnceRegistered, Closing, Slots, Itself])
@pytest.mark.parametrize("leaks", [True, False])
@pytest.mark.usefixtures("little_garbage")
def test_a_handler_of_any_class_is_held_back(keyed: Pipelit, kind: Any, leaks: bool) -> None:
    """It hears of all that is no key, and of a key no more than everybody may; it stays usable."""
    handler = kind()
    text = f"it is {KEY if leaks else KEY[:13]} so"
    graph = asking(keyed, lambda key: as_text(text), by_handler)
    for _ in range(2):
        with pytest.raises(SecretLeakError) if leaks else nullcontext():
            graph.invoke({"x": 1}, {"callbacks": [handler]})
        gc.collect()
    assert handler.text == ("it is sk-Canary" if leaks else text) * 2
    assert handler.ended == (0 if leaks else 2)
    assert not getattr(handler, "closed", False)


def test_langchain_finds_a_delayed_handler_by_its_type(keyed: Pipelit) -> None:
    """What stands for a handler is equal to it, and of its type."""
    handler = Listens()
    found: list[Any] = []

    @keyed.credentials.inject(key="service")
    def node(state: State, config: RunnableConfig, *, key: SecretStr) -> State:
        found.extend(each for each in config["callbacks"].handlers if isinstance(each, Listens))
        manager = CallbackManager.configure(config["callbacks"], [handler])
        found.append(sum(each == handler for each in manager.handlers))
        return {}

    graph_of(node).invoke({"x": 1}, {"callbacks": [handler]})
    assert found[0] == handler
    assert hash(found[0]) == hash(handler)
    assert found[1] == 1


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("ends", [KEY, KEY[:13], KEY[:13] + " so"])
async def test_events_of_a_node_are_held_back(keyed: Pipelit, sync: bool, ends: str) -> None:
    """`dispatch_custom_event` tells no key in pieces, and all else whole, also the last of it."""
    heard: list[str] = []

    class Hears(BaseCallbackHandler):
        def on_custom_event(self, name: str, data: Any, **details: Any) -> None:
            heard.append(data["t"])

    pieces = cut(f"it is {ends}")

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        for each in pieces:
            dispatch_custom_event("token", {"t": each})
        return {}

    @keyed.credentials.inject(key="service")
    async def anode(state: State, *, key: SecretStr) -> State:
        for each in pieces:
            await adispatch_custom_event("token", {"t": each})
        return {}

    async def consume() -> None:
        if sync:
            graph_of(node).invoke({"x": 1}, {"callbacks": [Hears()]})
            return
        async for event in graph_of(anode).astream_events({"x": 1}, version="v2"):
            if event["event"] == "on_custom_event":
                heard.append(event["data"]["t"])

    with pytest.raises(SecretLeakError) if ends == KEY else nullcontext():
        await consume()
    assert heard == (cut("it is sk-Canary") if ends == KEY else pieces)


def test_handlers_are_the_same_objects_afterwards(keyed: Pipelit) -> None:
    """What a handler keeps in its attributes is there, also where scopes are nested."""
    handler = Listens()

    @keyed.credentials.inject(key="service")
    def inner(*, key: SecretStr) -> None:
        Says(chunks=as_text(f"inner {KEY[:9]}")).invoke("which?", stream=True)

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        inner()
        with keyed.credentials.reveal("service"):
            Says(chunks=as_text(f", revealed {KEY[:9]}")).invoke("which?", stream=True)
        Says(chunks=as_text(f", outer {KEY[:9]}")).invoke("which?", stream=True)
        return {}

    graph_of(node).invoke({"x": 1}, {"callbacks": [handler]})
    assert handler.text == f"inner {KEY[:9]}, revealed {KEY[:9]}, outer {KEY[:9]}"
    assert handler.ended == 3


def test_an_agents_tokens_are_held_back(keyed: Pipelit) -> None:
    """In `create_agent`, a tool that asks a model with its key streams none of it."""

    @keyed.credentials.tool(key="service")
    def ask(q: str, *, key: SecretStr) -> str:
        """Asks."""
        list(Says(chunks=as_blocks(f"it is {key.get_secret_value()} so")).stream(q))
        return "done"

    call = {"name": "ask", "args": {"q": "x"}, "id": "1"}

    class Calls(Says):
        def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
            return self

        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_calls=[call]))

    agent = create_agent(Calls(chunks=[]), [ask])
    seen: list[Any] = []
    stream = agent.stream({"messages": [("user", "x")]}, stream_mode="messages")
    with pytest.raises(SecretLeakError):
        seen.extend(chunk for chunk, _ in stream)
    shown = told(seen)
    assert any("it is" in each for each in shown)
    assert not [each for each in shown if HARMLESS in each]


# Writers and chunks of runnables


@dataclasses.dataclass(slots=True)
class Slotted:
    """Keeps it in a slot."""

    t: str


class Plain:
    """Keeps it in an attribute."""

    def __init__(self, t: str) -> None:
        self.t = t

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.t == self.t

    __hash__ = None  # type: ignore[assignment]


WRITES: dict[str, Callable[[str], Any]] = {
    "text": lambda piece: piece,
    "a field": lambda piece: {"token": piece},
    "nested": lambda piece: {"a": [{"b": {"c": piece}}]},
    "numbered": lambda piece: {"seq": len(piece), "index": id(piece), "token": piece},
    "a pair": lambda piece: ("token", piece),
    "bytes": lambda piece: piece.encode(),
    "a bytearray": lambda piece: bytearray(piece.encode()),
    "a view": lambda piece: memoryview(piece.encode()),
    "numbers": lambda piece: list(piece.encode()),
    "an object": Plain,
    "a slotted object": Slotted,
    "objects in objects": lambda piece: Plain(Slotted(piece)),  # type: ignore[arg-type]
    "a namespace": lambda piece: SimpleNamespace(t=piece),
    "a user's string": UserString,
    "a set": lambda piece: {piece},
    "a deque": lambda piece: deque([piece]),
    "a key": lambda piece: {piece: 1},
    "a proxy": lambda piece: MappingProxyType({"t": piece}),
    "a message": lambda piece: AIMessageChunk(content=piece),
    "blocks": lambda piece: AIMessageChunk(content=[{"type": "text", "text": piece, "index": 0}]),
}


def _writers(node_writer: StreamWriter, runtime: Runtime[Any]) -> list[Any]:
    return [node_writer, runtime.stream_writer, get_stream_writer()]


@pytest.mark.parametrize("form", WRITES)
def test_a_key_that_is_written_in_pieces_is_refused(keyed: Pipelit, form: str) -> None:
    """The stream's writer keeps back what may begin a secret, by whichever name it is called."""
    seen: list[Any] = []

    @keyed.credentials.inject(key="service")
    def node(state: State, writer: StreamWriter, runtime: Runtime, *, key: SecretStr) -> State:
        writers = _writers(writer, runtime)
        for i, piece in enumerate(cut(f"the key is {key.get_secret_value()} so")):
            writers[i % 3](WRITES[form](piece))
        return {}

    with pytest.raises(SecretLeakError):
        seen.extend(graph_of(node).stream({"x": 1}, stream_mode="custom"))
    assert (
        seen == [WRITES[form](each) for each in cut("the key is sk-Canary")] or form == "numbered"
    )
    assert len(seen) == 4


@pytest.mark.parametrize("form", WRITES)
def test_what_is_written_comes_whole_and_in_order(keyed: Pipelit, form: str) -> None:
    """What was kept back at the end of the node is written then, also when the node fails."""
    pieces = cut(f"{KEY[:-3]}! {KEY[:9]}, {KEY[:12]}{KEY[:12]} and {KEY[:15]}")
    written = [WRITES[form](piece) for piece in pieces]
    for fails in (False, True):
        seen: list[Any] = []

        @keyed.credentials.inject(key="service")
        def node(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
            for piece in written:
                writer(piece)
            if state["x"]:
                raise ConnectionError("gone")
            return {}

        try:
            for each in graph_of(node).stream({"x": fails}, stream_mode="custom"):
                seen.append(each)
        except ConnectionError:
            assert fails
        assert seen == written


async def test_tasks_that_write_by_turns_are_told_apart(keyed: Pipelit) -> None:
    """Pieces of a key between another task's are found."""
    seen: list[Any] = []

    @keyed.credentials.inject(key="service")
    async def node(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
        async def write(text: str) -> None:
            for piece in cut(text):
                writer(piece)
                await asyncio.sleep(0)

        await asyncio.gather(write(f"it is {key.get_secret_value()}"), write("abcde" * 9))
        return {}

    async def consume() -> None:
        async for each in graph_of(node).astream({"x": 1}, stream_mode="custom"):
            seen.append(each)

    with pytest.raises(SecretLeakError):
        await consume()
    assert not [each for each in seen if each in cut(f"it is {KEY}")[3:]]


def test_a_graph_in_the_node_writes_no_key_in_pieces(keyed: Pipelit) -> None:
    """What the nodes of an inner graph write is kept back too."""
    seen: list[Any] = []

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        secret = key.get_secret_value()

        def inner(state: State, writer: StreamWriter) -> State:
            for piece in cut(f"the key is {secret}"):
                writer(piece)
            return {}

        graph_of(inner).invoke({"x": 1})
        return {}

    with pytest.raises(SecretLeakError):
        seen.extend(graph_of(node).stream({"x": 1}, stream_mode="custom", subgraphs=True))
    assert [each[1] for each in seen] == cut("the key is sk-Canary")


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("leaks", [True, False])
async def test_chunks_of_a_runnable_are_held_back(keyed: Pipelit, sync: bool, leaks: bool) -> None:
    """`astream_events` and the node itself get what is no key, whole, and of a key nothing."""
    pieces = cut(f"it is {KEY if leaks else KEY[:-4]}")
    got: list[str] = []

    def chunks(_: Any) -> Iterator[str]:
        yield from pieces

    async def achunks(_: Any) -> AsyncIterator[str]:
        for each in pieces:
            yield each

    @keyed.credentials.inject(key="service")
    async def node(state: State, *, key: SecretStr) -> State:
        if sync:
            got.extend(RunnableLambda(chunks).stream(1))
        else:
            got.extend([each async for each in RunnableLambda(achunks).astream(1)])
        return {}

    seen: list[str] = []

    async def watch() -> None:
        async for event in graph_of(node).astream_events({"x": 1}, version="v2"):
            chunk = event["data"].get("chunk")
            seen.extend([chunk] if isinstance(chunk, str) else [])

    if leaks:
        with pytest.raises(SecretLeakError):
            await watch()
        assert seen == pieces[:3]
    else:
        await watch()
        assert got == pieces
        assert seen == pieces


# What is kept back tells nobody whether a guess is right


def echoing(keyed: Pipelit) -> Any:
    """A node that shows each line of the user's, and asks a model between them."""

    @keyed.credentials.inject(key="service")
    def node(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
        for line in state["x"].split("\n"):
            writer({"working on": line})
            list(Says(chunks=as_text(line) + as_text("ok")).stream("which?"))
        return {}

    return graph_of(node)


def events_of(graph: Any, text: str, guess: str) -> list[Any]:
    """What a consumer of several modes sees, with the guess left out."""
    seen: list[Any] = []
    modes = ["custom", "messages", "updates"]
    for mode, value in graph.stream({"x": text}, stream_mode=modes):
        told = value[0].content if mode == "messages" else value
        seen.append((mode, str(told).replace(guess, "GUESS")))
    return seen


@pytest.mark.slow
def test_the_order_of_events_does_not_tell_whether_a_guess_is_right(keyed: Pipelit) -> None:
    """Of each length, a right beginning of the key comes when a wrong one does."""
    graph = echoing(keyed)
    for length in (1, 3, 4, 5, 10, 11, 12, 13, 20, len(KEY) - 1, len(KEY)):
        right = KEY[:length]
        wrong = right[:-1] + "~"
        # In one piece each: how a text is cut into tokens isn't the guard's.
        shown = [
            [event[0] for event in events_of(graph, f"first\n{guess}\nlast", guess)]
            for guess in (right, wrong)
        ]
        assert shown[0] == shown[1], length


@pytest.mark.parametrize(
    ("secret", "public"),
    [
        ("sk-proj-a8Fk29dLq0ZxPw71mN4tYv", "sk-proj-"),
        ("ghp_a8Fk29dLq0ZxPw71mN4tYvB6cR3e", "ghp_"),
        ("postgresql://app:wZq7Kx93mmPfTT@db.example.com:5432/app", "postgresql://app:"),
        (
            "https://hooks.example.com/services/a8Fk29dLq0ZxPw71",
            "https://hooks.example.com/services/",
        ),
        ("Bearer a8Fk29dLq0ZxPw71mN4tYvB6cR3e", "Bearer "),
    ],
)
def test_nothing_is_kept_back_that_could_be_guessed(secret: str, public: str) -> None:
    """A public beginning and seven characters more are handed on at once; one more is kept."""
    for length in range(1, len(public) + 8):
        assert Pieces(Guard(secret), "a test").take(f"so {secret[:length]}") == 1, length
    assert Pieces(Guard(secret), "a test").take(f"so {secret[: len(public) + 8]}") == 0


@pytest.mark.parametrize("secret", ["hunter2pass", "Tr0ub4d0", "a8Fk29dLq0Zx"])
def test_half_of_a_short_secret_is_kept_back(secret: str) -> None:
    """Of a short secret no more is handed on than half."""
    half = max(4, len(secret) // 2 + 1)
    assert Pieces(Guard(secret), "a test").take(secret[:half]) == 0
    assert Pieces(Guard(secret), "a test").take(secret[:3]) == 1


@pytest.mark.parametrize("secret", ["Käse/+8wZ q_0123456789-end", KEY, "p4ss/W+rd==xY&z"])
def test_every_written_form_is_kept_back_as_the_secret_is(secret: str) -> None:
    """Of hexadecimal, base64 and escapes, as many characters of the secret must be right."""
    for form, least in Patterns({secret: "service"}).beginnings.items():
        assert 4 <= least < len(form)
        assert least >= len(form) * min(0.25, 8 / len(secret))


def test_progress_of_a_node_with_a_connection_string_is_not_delayed(keyed: Pipelit) -> None:
    """A text that ends as the document begins is there at once."""
    keyed.credentials.put(
        "db", "postgresql://app:wZq7Kx93mmPfTT@db.example.com:5432/app", kind="url", created_by="a"
    )

    def node(state: State, writer: StreamWriter, **secrets: Any) -> State:
        for each in ("connecting to postgresql", 10, "postgresql://app:"):
            writer({"status": each})
            list(Says(chunks=as_text("ok")).stream("which?"))
        return {}

    @keyed.credentials.inject(key="db")
    def guarded(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
        return node(state, writer)

    modes = ["custom", "messages"]
    bare, seen = (
        [mode for mode, _ in graph_of(each).stream({"x": 1}, stream_mode=modes)]
        for each in (lambda state, writer: node(state, writer), guarded)
    )
    assert seen == bare


# The search itself


class Guard:
    """Knows secrets, and finds them as a scope does."""

    def __init__(self, *secrets: str) -> None:
        self.patterns = Patterns(dict.fromkeys(secrets, "service"))

    def search(self, value: Any, where: str) -> None:
        if any(self.patterns.in_text(each) for each in value):
            raise SecretLeakError("found")

    def sought(self) -> Patterns:
        return self.patterns

    def is_from_input(self, text: str) -> bool:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 40])
@pytest.mark.parametrize(
    "secret", [KEY, "aaaaaaaaaab", "abababababac", "aXbXaXbXaXbXc", KEY * 20, "x" * 300 + "\n.*y"]
)
def test_pieces_of_any_size_are_found(secret: str, size: int) -> None:
    """Nothing beyond a secret's first characters is handed on, and nothing else is kept."""
    for before in ("", "text ", secret[:6], secret[:-1] + " "):
        handed: list[str] = []
        guard = Guard(secret)
        held = DelayedCall(handed.append, guard, "a test")
        leaked = False
        for piece in cut(before + secret + " after", size):
            try:
                held(piece, (piece,), {})
            except SecretLeakError:
                leaked = True
                break
        assert leaked
        held.flush()
        shown = "".join(handed)
        assert (before + secret).startswith(shown)
        assert len(shown) < len(before) + guard.patterns.beginnings[secret]


# What a node writes of a text that arrives in pieces: the piece, and the text so far.
READINGS: dict[str, Callable[[str, str, int], Any]] = {
    "so far": lambda new, whole, n: whole,
    "so far, in a field": lambda new, whole, n: {"type": "answer", "text": whole},
    "so far, with a cursor": lambda new, whole, n: whole + "\u258c",
    "so far, in JSON": lambda new, whole, n: json.dumps({"n": n, "text": whole}),
    "so far, in a page": lambda new, whole, n: f"<p>{whole}</p>",
    "so far, as bytes": lambda new, whole, n: whole.encode(),
    "so far, in a list": lambda new, whole, n: [*cut(whole, 3)],
    "so far, as a message": lambda new, whole, n: AIMessageChunk(content=whole, id="1"),
    "lines": lambda new, whole, n: f"{new}\n",
    "events": lambda new, whole, n: f"data: {new}\n\n",
    "events with a number": lambda new, whole, n: f"id: {n}\ndata: {json.dumps([new])}\n\n",
    "JSON": lambda new, whole, n: json.dumps({"delta": new}),
    "JSON with a number": lambda new, whole, n: json.dumps({"n": n, "delta": {"text": new}}),
    "JSON in a field": lambda new, whole, n: {"data": json.dumps({"n": n, "delta": new})},
    "tags": lambda new, whole, n: f"<token>{new}</token>",
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 4, 18])
@pytest.mark.parametrize("form", READINGS)
def test_a_key_is_found_however_the_pieces_are_put_together(form: str, size: int) -> None:
    """Text so far, and pieces within the same frame, are held back as pieces are."""
    guard = Guard(KEY)
    for before in ("", "Your key is ", "event"):
        new: list[str] = []
        whole = [""]

        def hand(piece: str, so_far: str, new: list[str] = new, whole: list[str] = whole) -> None:
            new.append(piece)
            whole.append(so_far)

        held = DelayedCall(hand, guard, "a test")
        pieces, leaked = cut(f"{before}{KEY} so", size), False
        for number, piece in enumerate(pieces):
            so_far = "".join(pieces[: number + 1])
            try:
                held(READINGS[form](piece, so_far, number), (piece, so_far), {})
            except SecretLeakError:
                leaked = True
                break
        held.flush()
        shown = whole[-1] if form.startswith("so far") else "".join(new)
        assert leaked
        assert len(shown) < len(before) + guard.patterns.beginnings[KEY]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["It is sk-something else. " * 3, "aaaaaaaaaaaaaa", KEY[::-1]])
@pytest.mark.parametrize("form", READINGS)
def test_what_is_no_key_is_not_delayed_in_any_form(form: str, text: str) -> None:
    """Every piece of an honest text is there at once."""
    for size in (1, 3, 40):
        taken = Pieces(Guard(KEY), "a test")
        pieces = cut(text, size)
        for number, piece in enumerate(pieces):
            assert taken.take(READINGS[form](piece, "".join(pieces[: number + 1]), number)) == 1


@pytest.mark.parametrize("form", READINGS)
def test_what_only_begins_as_a_key_comes_with_a_few_pieces_more(form: str) -> None:
    """A beginning that goes on in another way is handed on, with one piece of delay at most."""
    pieces = cut(f"not {KEY[:-4]}!? but some other text that is long enough", 3)
    taken = Pieces(Guard(KEY), "a test")
    safe = sum(
        taken.take(READINGS[form](piece, "".join(pieces[: number + 1]), number))
        for number, piece in enumerate(pieces)
    )
    assert safe >= len(pieces) - 1


def test_a_key_between_other_writes_is_held_back() -> None:
    """A line of a progress between two texts so far rules nothing out."""
    handed: list[Any] = []
    held = DelayedCall(handed.append, Guard(KEY), "a test")
    for end in range(1, len(KEY)):
        for text in (f"the key: {KEY[:end]}", ": ping\n\n"):
            held(text, (text,), {})
    with pytest.raises(SecretLeakError):
        held(KEY, (KEY,), {})
    held.flush()
    assert not any(KEY[: len(HARMLESS) + 1] in each for each in handed)


@pytest.mark.parametrize("whole", [True, False])
def test_a_refused_write_hands_on_nothing_that_was_held_back(keyed: Pipelit, whole: bool) -> None:
    """A node that goes on after the refusal sends what comes then, and no part of the key."""
    seen: list[Any] = []

    @keyed.credentials.inject(key="service")
    def node(state: State, writer: StreamWriter, *, key: SecretStr) -> State:
        plain = key.get_secret_value()
        for piece in [plain[:16], plain if whole else plain[16:]]:
            with suppress(SecretLeakError):
                writer(piece)
        writer("other text")
        writer("sorry")
        return {}

    for each in graph_of(node).stream({"x": 1}, stream_mode="custom"):
        seen.append(each)
    assert seen == ["other text", "sorry"]


def test_a_secret_that_is_opened_while_something_streams_is_found() -> None:
    """What was handed on before stays part of the text."""
    guard = Guard()
    pieces = Pieces(guard, "a test")
    assert pieces.take("it is " + KEY[:10]) == 1
    guard.patterns = Guard(KEY).patterns
    assert pieces.take(KEY[10:14]) == 0
    with pytest.raises(SecretLeakError):
        pieces.take(KEY[14:])


@pytest.mark.parametrize(
    "piece",
    [
        lambda number: {"id": number, "text": "read"},
        lambda number: {f"document {number}": "read"},
        lambda number: AIMessageChunk("read", id=str(number)),
        lambda number: ["read"] * (number % 9),
    ],
    ids=["ids", "keys", "messages", "lists"],
)
def test_each_piece_takes_as_long_as_the_first(
    piece: Callable[[int], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A progress with an id for each item makes a path for each, and asks none of the others."""
    asked: Counter[int] = Counter()
    held_from = Readings.held_from

    def counting(self: Readings, added: int) -> int:
        asked[added] += 1
        return held_from(self, added)

    monkeypatch.setattr(Readings, "held_from", counting)
    taken = Pieces(Guard(KEY), "a test")
    assert sum(taken.take(piece(number)) for number in range(500)) == 500
    assert max(asked.values()) < 40


def test_a_beginning_is_held_back_while_other_streams_go_on() -> None:
    """Pieces behind it wait, whichever stream they belong to, and come in order."""
    handed: list[Any] = []
    held = DelayedCall(handed.append, Guard(KEY), "a test")
    pieces = [{"id": "a", "text": KEY[:14]}, *({"id": n, "text": "read"} for n in range(20))]
    for piece in pieces:
        held(piece, (piece,), {})
    assert handed == []
    rest = {"id": "a", "text": KEY[14:]}
    with pytest.raises(SecretLeakError):
        held(rest, (rest,), {})
    held.flush()
    assert handed == []
