"""Ways out of a node that are easily overlooked."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import json
import os
import uuid
from collections import UserString, deque
from collections.abc import Callable, Iterator
from copy import copy
from enum import Enum
from functools import partial
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import ormsgpack
import pandas as pd
import pytest
from canary import Tracer, count
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call, wrap_tool_call
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langchain_mcp_adapters.interceptors import MCPToolCallRequest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt
from pydantic import BaseModel, PrivateAttr, SecretStr
from redis_server import until
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.credentials.scope import open_patterns
from pipelit_agents.errors import CredentialScopeError, SecretLeakError
from pipelit_agents.testing import ScriptedModel, tool_call

KEY = "sk-Canary/+8wZq_0123456789-end"
LARGE = [{"n": n} for n in range(400)]


class State(TypedDict, total=False):
    x: Any
    y: Any


class Model(BaseModel):
    _kept: str = PrivateAttr(default="")


class Mangled:
    __slots__ = ("__hidden",)

    def __init__(self, text: str) -> None:
        self.__hidden = text


class Called:
    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> None: ...


class Labelled(dict[str, str]):
    pass


@pytest.fixture
def keyed(pipelit: Pipelit) -> Pipelit:
    """A credential is in the store."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")
    return pipelit


def model_with(text: str) -> Model:
    """A private attribute."""
    made = Model()
    made._kept = text
    return made


def labelled(text: str) -> Labelled:
    """A dictionary with an attribute."""
    made = Labelled()
    made.label = text  # type: ignore[attr-defined]
    return made


def caused(text: str) -> Exception:
    """An exception as a value."""
    error = ValueError("no")
    error.__cause__ = OSError(2, "no", text)
    return error


@pytest.mark.slow
@pytest.mark.parametrize(
    "carry",
    [
        lambda s: pd.DataFrame({"a": ["x", s]}),
        lambda s: pd.DataFrame({"a": [{"k": s}]}),
        lambda s: pd.DataFrame({s: [1]}),
        lambda s: pd.DataFrame({"n": [1]}, index=[s]),
        lambda s: pd.DataFrame({"n": [1]}, index=pd.Index([1], name=s)),
        lambda s: pd.Series([s]),
        np.array,
        lambda s: np.array([(1, s)], dtype=[("a", int), ("b", "U40")]),
        lambda s: np.array([(1, s)], dtype=[("a", int), ("b", object)])[0],
        lambda s: np.array([s], dtype=np.dtypes.StringDType()),
        lambda s: np.frombuffer(s.encode(), dtype=np.uint8),
        lambda s: np.frombuffer(s.encode().ljust(48), dtype=np.complex128),
        lambda s: np.frombuffer(s.encode().ljust(48), dtype="M8[s]"),
        lambda s: np.frombuffer(s.encode().ljust(48), dtype="m8[s]"),
        lambda s: np.ma.array([s, "b"], mask=[True, False]),
        lambda s: np.ma.array([s.encode(), b"b"], mask=[True, False]),
        lambda s: np.ma.array([s, 1], mask=[True, False], dtype=object),
        lambda s: np.ma.array(np.frombuffer(s.encode(), dtype=np.uint8), mask=True),
        lambda s: np.ma.array(["x" * 99], fill_value=s),
        lambda s: pd.Categorical(["a"], categories=["a", s]),
        lambda s: pd.CategoricalIndex(["a"], categories=["a", s]),
        lambda s: pd.DataFrame({"c": pd.Categorical(["a"], categories=["a", s])}),
        lambda s: list(s.encode()),
        lambda s: partial(print, s),
        lambda s: partial(print, end=s),
        Called,
        Mangled,
        model_with,
        labelled,
        caused,
        io.StringIO,
        lambda s: io.BytesIO(s.encode()),
        lambda s: PurePosixPath(f"/run/{s}"),
        UserString,
        lambda s: deque([s]),
        lambda s: SimpleNamespace(k=[s]),
        lambda s: memoryview(s.encode()),
    ],
)
def test_every_carrier_is_searched(carry: Callable[[str], Any]) -> None:
    """Tables, arrays, partials, private and hidden attributes, files in memory, paths."""
    with pytest.raises(SecretLeakError) as caught:
        refuse_leak({"x": carry(KEY)}, {KEY: "service"})
    assert caught.value.credential == "service"
    refuse_leak({"x": carry("nothing of the kind")}, {KEY: "service"})
    # A large state is searched by another way.
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": carry(KEY), "y": LARGE}, {KEY: "service"})


@pytest.mark.parametrize("among", [[], LARGE], ids=["small", "large"])
@pytest.mark.parametrize("form", ["hex", "text"])
def test_a_uuid_is_searched(form: str, among: list[Any]) -> None:
    """A secret that is a UUID is found as one, with hyphens or without."""
    held = uuid.uuid4()
    secret = held.hex if form == "hex" else str(held)
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": held, "y": among}, {secret: "service"})


@pytest.mark.parametrize("among", [[], LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "held",
    [
        Enum("Kind", {"PLAIN": KEY}).PLAIN,  # type: ignore[attr-defined]
        Enum("Kind", {KEY: 1})(1),
        ormsgpack.Ext(5, KEY.encode()),
        [*KEY.encode(), 4096],
        [4096, *KEY.encode()],
    ],
    ids=["an enum's value", "an enum's name", "an extension", "numbers", "numbers behind one"],
)
def test_what_is_small_in_c_is_searched_in_states_of_any_size(held: Any, among: list[Any]) -> None:
    """The two ways of searching agree."""
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": held, "y": among}, {KEY: "service"})


def test_a_range_is_not_written_out() -> None:
    """What would be made while it is looked at, and holds numbers only, isn't looked at."""
    refuse_leak({"x": range(10**15)}, {KEY: "service"})


def test_state_that_was_changed_in_place_is_refused_and_cleaned(
    keyed: Pipelit, tmp_path: Path
) -> None:
    """What a node writes into the lists and messages it was given would be stored like a result."""
    said = HumanMessage("hello")

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        state["x"].append(key.get_secret_value())
        state["y"]["message"].additional_kwargs["auth"] = f"Bearer {key.get_secret_value()}"
        return {}

    path = tmp_path / "checkpoints.db"
    tracer = Tracer()
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    given: Any = {"x": ["a"], "y": {"message": said}}
    chunks: list[Any] = []
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = builder.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [tracer]}
        with pytest.raises(SecretLeakError, match="the node's input"):
            chunks.extend(graph.stream(given, config, stream_mode=["values", "debug", "updates"]))
        graph.update_state(config, {"y": 1})
        chunks.append(graph.get_state(config))
    found = b"".join(each.read_bytes() for each in tmp_path.glob("checkpoints.db*"))
    assert count(found, tracer.seen, chunks, given, said) == 0
    assert given["x"] == ["a", "****"]


@dataclasses.dataclass(slots=True)
class Slotted:
    text: str


class Extra(BaseModel, extra="allow"):
    text: str = ""


class Color(Enum):
    RED = 1


def _added(place: Any, key: str) -> None:
    place["dict"][key] = 1
    place["dict"][key.encode().hex()] = 1
    place["nested"]["a"][0]["b"] = {"k": (1, key)}
    place["set"].add(key)
    place["deque"].append(key)
    place["bytearray"].extend(key.encode())
    place["numbers"].extend(key.encode())
    place["slotted"].text = key
    place["extra"].text = f"Bearer {key}"
    place["extra"].more = [key]
    place["message"].content = f"it is {key}"
    place["list"][0] = key.encode()


def test_whatever_was_changed_is_cleaned(keyed: Pipelit, tmp_path: Path) -> None:
    """Keys, sets, slots, extra fields and bytes lose it, beside what can't be changed."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        _added(state["x"], key.get_secret_value())
        return {}

    given: Any = {
        "color": Color.RED,
        "kind": Color,
        "client": httpx.Client(),
        "dict": {"a": 1},
        "nested": {"a": [{"b": None}]},
        "set": {1},
        "deque": deque([1]),
        "bytearray": bytearray(b"x"),
        "numbers": [0],
        "slotted": Slotted("a"),
        "extra": Extra(),
        "message": HumanMessage("hello"),
        "list": [None],
    }
    with pytest.raises(SecretLeakError, match="the node's input"):
        node({"x": given})
    assert count(given, vars(given["extra"]), given["extra"].model_extra) == 0
    assert bytes(given["numbers"][1:] if given["numbers"] != "****" else b"") != KEY.encode()
    assert given["dict"] == {"a": 1, "****": 1}
    assert given["slotted"] == Slotted("****")
    assert given["bytearray"] == b"x****"


def test_other_objects_in_the_state_are_not_changed(keyed: Pipelit) -> None:
    """A client that was given the key in the node is refused, and goes on working."""

    class Client:
        api_key = ""

    client = Client()

    @keyed.credentials.inject(key="service")
    def node(state: Any, *, key: SecretStr) -> State:
        state["client"].api_key = key.get_secret_value()
        return {}

    with pytest.raises(SecretLeakError):
        node({"client": client})
    assert client.api_key == KEY
    # Now it has had the key before, and so has whoever gave it to the node.
    node({"client": client})
    assert client.api_key == KEY


def test_a_state_may_have_a_field_named_runtime(keyed: Pipelit) -> None:
    """Only LangGraph's own runtime is no state."""

    @dataclasses.dataclass
    class Film:
        runtime: int = 0
        notes: list[str] = dataclasses.field(default_factory=list)

        def __call__(self) -> None: ...

    @keyed.credentials.inject(key="service")
    def node(state: Film, *, key: SecretStr) -> dict[str, Any]:
        state.notes.append(key.get_secret_value())
        return {}

    with pytest.raises(SecretLeakError):
        node(Film(90))


def test_an_interrupt_while_an_error_is_handled_leaves_no_trace_of_it(keyed: Pipelit) -> None:
    """A tracer writes out what was being handled when a node asked a person."""
    tracer = Tracer()

    def call(key: str) -> None:
        raise ConnectionError(f"401 for {key}")

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        try:
            call(key.get_secret_value())
        except ConnectionError:
            return {"x": interrupt("go on?")}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [tracer]}
    graph.invoke({}, config)
    assert "401 for ****" in "".join(tracer.seen)
    assert count(tracer.seen) == 0
    assert graph.invoke(Command(resume="yes"), config)["x"] == "yes"


@pytest.mark.slow
@pytest.mark.usefixtures("little_garbage")
def test_generators_that_nobody_ended_may_be_collected_at_any_moment(keyed: Pipelit) -> None:
    """The collector closes them wherever it runs, also where the open secrets are listed."""

    class Holder:
        held: Any = None

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Iterator[State]:
        yield {}
        yield {}

    before = gc.get_threshold()
    gc.set_threshold(5, 1, 1)
    try:
        for _ in range(200):
            holder = Holder()
            holder.held = (holder, generator := node({}))
            next(generator)
            del holder, generator
            open_patterns()
    finally:
        gc.set_threshold(*before)

    def none_is_open() -> bool:
        # This returns at once, with nothing collected, while another thread is collecting.
        gc.collect()
        return open_patterns() == []

    until(none_is_open)


class Tenants(InMemoryStore):
    """A store that keeps each tenant's things apart."""

    def put(self, namespace: Any, key: str, value: Any, *args: Any, **kwargs: Any) -> None:
        super().put(("tenant7", *namespace), key, value, *args, **kwargs)


def test_a_store_does_what_it_does_without_the_guard(keyed: Pipelit) -> None:
    """Methods that a store has of its own are the ones that are called."""

    @keyed.credentials.inject(key="service")
    def node(state: State, store: BaseStore, *, key: SecretStr) -> State:
        store.put(("a",), "k", {"v": 1})
        copy(store).put(("b",), "k", {"v": 2})
        return {"x": [item.value for item in store.search(("tenant7",))]}

    store = Tenants()
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    assert builder.compile(store=store).invoke({})["x"] == [{"v": 1}, {"v": 2}]
    assert {item.namespace for item in store.search(())} == {("tenant7", "a"), ("tenant7", "b")}


@pytest.mark.parametrize("given", [{"tags": ["v1"]}, {"metadata": {"name": "app"}, "spec": {}}])
def test_arguments_of_a_helper_are_passed_as_they_are(keyed: Pipelit, given: Any) -> None:
    """Somebody's dict with tags is no configuration of LangChain's, and a writer may return."""

    @keyed.credentials.inject(key="service")
    def helper(config: Any, writer: Any, *, key: SecretStr) -> str:
        return json.dumps([config, writer("a prompt")])

    made = helper(given, lambda text: f"text of {text}")
    assert json.loads(made) == [given, "text of a prompt"]


def test_a_dictionary_named_config_is_passed_as_it_is(keyed: Pipelit) -> None:
    """Not everything of that name is LangChain's."""

    @keyed.credentials.inject(key="service")
    def helper(config: dict[str, int], *, key: SecretStr) -> list[str]:
        return list(config)

    assert helper({"a": 1}) == ["a"]


def test_a_failing_node_leaves_no_key_in_the_state(keyed: Pipelit) -> None:
    """Its own error comes out, and what it had written before is masked."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        state["x"].append((key.get_secret_value(), 1))
        raise LookupError("elsewhere")

    given: State = {"x": []}
    with pytest.raises(LookupError, match="elsewhere"):
        node(given)
    assert given == {"x": [("****", 1)]}


async def test_generators_and_coroutines_that_change_the_state_are_refused(keyed: Pipelit) -> None:
    """All kinds of functions are searched for it."""
    inject = keyed.credentials.inject(key="service")

    @inject
    def generator(state: State, *, key: SecretStr) -> Iterator[State]:
        yield {}
        state["x"].append(key.get_secret_value())

    @inject
    async def coroutine(state: State, *, key: SecretStr) -> State:
        state["x"].append(key.get_secret_value())
        return {}

    @inject
    async def agenerator(state: State, *, key: SecretStr) -> Any:
        state["x"].append(key.get_secret_value())
        yield {}

    given: Any = [{"x": []} for _ in range(3)]
    with pytest.raises(SecretLeakError):
        list(generator(given[0]))
    with pytest.raises(SecretLeakError):
        await coroutine(given[1])
    with pytest.raises(SecretLeakError):
        [each async for each in agenerator(given[2])]
    assert given == [{"x": ["****"]}] * 3


async def _later(key: str) -> State:
    return {"x": key}


@pytest.mark.parametrize(
    "defer",
    [
        lambda key: RunnableLambda(lambda _: {"x": key}),
        _later,
        lambda key: (each for each in [key]),
        lambda key: map(str, [key]),
    ],
)
def test_what_would_run_after_the_node_is_refused(keyed: Pipelit, defer: Any) -> None:
    """A runnable, coroutine or iterator that a node returns would escape the search."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        return defer(key.get_secret_value())

    with pytest.raises(CredentialScopeError, match="would run after its secrets are closed"):
        node({})


async def test_a_store_is_searched_when_it_is_called(keyed: Pipelit) -> None:
    """A write that is awaited when the node has ended was refused when it was begun."""
    kept: dict[str, Any] = {}

    @keyed.credentials.inject(key="service")
    async def node(state: State, store: BaseStore, *, key: SecretStr) -> State:
        kept["task"] = asyncio.ensure_future(
            store.aput(("a",), "k", {"auth": key.get_secret_value()})
        )
        return {}

    store = InMemoryStore()
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    with pytest.raises(SecretLeakError):
        await builder.compile(store=store).ainvoke({})
    assert store.search(("a",)) == []


def test_a_configuration_is_guarded_whatever_it_is_called(keyed: Pipelit) -> None:
    """LangChain passes it to any parameter of that type."""
    tracer = Tracer()
    given: list[Any] = []

    class Listening(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
            given.append(inputs)

    @tool
    @keyed.credentials.inject(key="service")
    def fetch(q: str, settings: RunnableConfig, *, key: SecretStr) -> str:
        """Fetches."""
        RunnableLambda(len).invoke(key.get_secret_value(), settings)
        return "ok"

    with pytest.raises(SecretLeakError):
        fetch.invoke({"q": "x"}, {"callbacks": [tracer, Listening()]})
    assert count(tracer.seen, given) == 0


class Scripted(GenericFakeChatModel):
    """A model that says what it was told to."""

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return self


def scripted() -> Scripted:
    """Calls a tool, and is content."""
    call = {"name": "look", "args": {"q": "x"}, "id": "1"}
    return Scripted(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("done")]))


@tool
def look(q: str) -> str:
    """Looks."""
    return q


@pytest.mark.parametrize("wrap", [wrap_tool_call, wrap_model_call])
@pytest.mark.parametrize("door", ["store", "stream_writer"])
def test_doors_in_a_middlewares_request_are_guarded(keyed: Pipelit, wrap: Any, door: str) -> None:
    """Middleware gets its runtime inside the request, and may make the same mistakes."""

    @wrap
    @keyed.credentials.inject(key="service")
    def careless(request: Any, handler: Any, *, key: SecretStr) -> Any:
        if door == "store":
            request.runtime.store.put(("a",), "k", {"v": key.get_secret_value()})
        else:
            request.runtime.stream_writer(key.get_secret_value())
        return handler(request)

    store = InMemoryStore()
    agent = create_agent(scripted(), [look], middleware=[careless], store=store)
    chunks: list[Any] = []
    with pytest.raises(SecretLeakError):
        chunks.extend(agent.stream({"messages": [HumanMessage("x")]}, stream_mode=["custom"]))
    assert chunks == []
    assert store.search(("a",)) == []


def in_place(request: Any, plain: str) -> Any:
    """The model's own message with the call."""
    request.tool_call["args"]["q"] = plain
    return request


def another(request: Any, plain: str) -> Any:
    """As LangChain recommends it."""
    return request.override(tool_call={**request.tool_call, "args": {"q": plain}})


def in_the_state(request: Any, plain: str) -> Any:
    """A message that LangGraph stores again."""
    request.state["messages"][0].content = plain
    return request


def in_an_answer(request: Any, plain: str) -> Any:
    """A key that the tool itself returns, and that its trace has first."""
    call = {**request.tool_call, "args": {"q": plain[::-1]}}
    return request.override(tool_call=call)


@tool
def turn(q: str) -> str:
    """Turns a text."""
    return q[::-1]


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("change", [in_place, another, in_the_state, in_an_answer])
async def test_a_middleware_hands_no_key_to_a_tool(
    keyed: Pipelit, sync: bool, change: Callable[[Any, str], Any]
) -> None:
    """The handler calls the tool with LangGraph's own configuration, past the guarded one."""
    inject = keyed.credentials.inject(key="service")
    configs: list[Any] = []

    if sync:

        @inject
        def careless(request: Any, handler: Any, *, key: SecretStr) -> Any:
            configs.append(request.runtime.config)
            return handler(change(request, key.get_secret_value()))

    else:

        @inject
        async def careless(request: Any, handler: Any, *, key: SecretStr) -> Any:
            configs.append(request.runtime.config)
            return await handler(change(request, key.get_secret_value()))

    tracer, saver = Tracer(), InMemorySaver()
    model = ScriptedModel(tool_call("turn", q="x"), "done")
    middleware = [wrap_tool_call(careless)]
    agent = create_agent(model, [turn], middleware=middleware, checkpointer=saver)
    thread: Any = {"configurable": {"thread_id": "1"}, "callbacks": [tracer]}
    given: Any = {"messages": [HumanMessage("x")]}
    seen: list[Any] = []
    modes: Any = ["values", "messages", "tools"]

    async def consume() -> None:
        if sync:
            seen.extend(agent.stream(given, thread, stream_mode=modes))
        else:
            async for each in agent.astream(given, thread, stream_mode=modes):
                seen.append(each)

    with pytest.raises(SecretLeakError):
        await consume()
    assert configs
    left = [seen, saver.storage, saver.blobs, saver.writes, tracer.seen]
    assert repr(left).count(KEY) == 0


@pytest.mark.parametrize("kind", ["state", "messages"])
def test_a_models_request_is_searched_after_the_call(keyed: Pipelit, kind: str) -> None:
    """Its messages are those of the state, and what is written into one is stored."""

    @wrap_model_call
    @keyed.credentials.inject(key="service")
    def careless(request: Any, handler: Any, *, key: SecretStr) -> Any:
        answer = handler(request)
        messages = request.state["messages"] if kind == "state" else request.messages
        messages[0].content = key.get_secret_value()
        return answer

    saver = InMemorySaver()
    agent = create_agent(scripted(), [look], middleware=[careless], checkpointer=saver)
    thread: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(SecretLeakError, match=r"is in the node's input, at state\.messages"):
        agent.invoke({"messages": [HumanMessage("x")]}, thread)
    assert repr([saver.storage, saver.blobs, saver.writes]).count(KEY) == 0


@pytest.mark.parametrize("nested", [True, False])
async def test_what_an_mcp_interceptor_writes_into_a_call_is_searched(
    keyed: Pipelit, nested: bool
) -> None:
    """Lists and dictionaries in the arguments are the message's own; the arguments are a copy."""
    call: Any = {"name": "post", "args": {"options": {"q": "x"}}, "id": "1"}
    message = AIMessage("", tool_calls=[call])
    runtime = dataclasses.replace(runtime_with({}), state={"messages": [message]})

    @keyed.credentials.inject(key="service")
    async def signing(request: Any, handler: Any, *, key: SecretStr) -> Any:
        target = request.args["options"] if nested else request.args
        target["token"] = key.get_secret_value()
        return await handler(request)

    async def handler(request: Any) -> int:
        return len(str(request.args))

    args = dict(message.tool_calls[0]["args"])
    request = MCPToolCallRequest("post", args, server_name="server", runtime=runtime)
    if nested:
        with pytest.raises(SecretLeakError, match="is in the node's input"):
            await signing(request, handler)
    else:
        assert await signing(request, handler) > len(KEY)
    assert repr(message).count(KEY) == 0


def runtime_with(config: RunnableConfig, writer: Callable[[Any], None] = bool) -> Any:
    """A tool's runtime."""
    return ToolRuntime(
        state={}, context=None, config=config, stream_writer=writer, tool_call_id="1", store=None
    )


async def test_calls_that_share_a_configuration_are_guarded_until_each_ends(
    keyed: Pipelit,
) -> None:
    """The first that ends leaves the guard of the other, and the last one leaves none."""
    tracer = Tracer()
    config: RunnableConfig = {"callbacks": [tracer], "tags": ["a"]}
    before = dict(config)
    request = MCPToolCallRequest("turn", {}, server_name="s", runtime=runtime_with(config))
    begun, ended = asyncio.Event(), asyncio.Event()

    @keyed.credentials.inject(key="service")
    async def signing(request: Any, handler: Any, *, key: SecretStr) -> Any:
        return await handler(key.get_secret_value())

    async def wait(plain: str) -> None:
        await begun.wait()

    async def first() -> None:
        await signing(request, wait)
        ended.set()

    async def leak(plain: str) -> Any:
        begun.set()
        await ended.wait()
        return await turn.ainvoke({"q": plain}, config)

    done = await asyncio.gather(first(), signing(request, leak), return_exceptions=True)
    assert [type(each) for each in done] == [type(None), SecretLeakError]
    assert repr(tracer.seen).count(KEY) == 0
    assert config == before


def test_a_consumer_that_fails_at_the_end_leaves_no_key(
    keyed: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stream held back is written when the node ends, and the writer may raise."""
    monkeypatch.setenv("SERVICE_URL", "")
    config: RunnableConfig = {"tags": ["a"]}

    def write(piece: object) -> None:
        raise ConnectionError("the consumer is away")

    @keyed.credentials.inject(key="service")
    def careless(request: Any, *, key: SecretStr) -> None:
        os.environ["SERVICE_URL"] = key.get_secret_value()
        request.runtime.stream_writer(KEY[:14])

    runtime = runtime_with(config, write)
    with pytest.raises(ConnectionError):
        careless(MCPToolCallRequest("turn", {}, server_name="s", runtime=runtime))
    assert os.environ["SERVICE_URL"] == ""
    assert config == {"tags": ["a"]}


def test_a_tool_under_an_honest_middleware_runs_as_without_it(keyed: Pipelit) -> None:
    """It streams, fails, is retried and is traced, and the configuration is as before."""
    attempts: list[int] = []
    configs: list[dict[str, Any]] = []

    @tool
    def slow(q: str, runtime: ToolRuntime) -> str:
        """Answers at the second attempt."""
        attempts.append(len(attempts))
        runtime.emit_output_delta(f"attempt {len(attempts)}")
        if len(attempts) < 2:
            raise ValueError("no")
        return "yes"

    @wrap_tool_call
    def outer(request: Any, handler: Any) -> Any:
        before = dict(request.runtime.config)
        try:
            return handler(request)
        finally:
            configs.extend([before, dict(request.runtime.config)])

    @wrap_tool_call
    @keyed.credentials.inject(key="service")
    def signing(request: Any, handler: Any, *, key: SecretStr) -> Any:
        assert key.get_secret_value() == KEY
        try:
            return handler(request)
        except ValueError:
            return handler(request)

    model = ScriptedModel(tool_call("slow", q="x"), "done")
    agent = create_agent(model, [slow], middleware=[outer, signing])
    tracer = Tracer()
    seen = list(
        agent.stream(
            {"messages": [HumanMessage("x")]}, {"callbacks": [tracer]}, stream_mode=["tools"]
        )
    )
    deltas = [each["delta"] for _, each in seen if isinstance(each, dict) and "delta" in each]
    assert deltas == ["attempt 1", "attempt 2"]
    assert attempts == [0, 1]
    assert configs[0] == configs[1]


class Asked(BaseModel):
    q: str


def test_a_leak_of_a_tool_is_called_a_tools(keyed: Pipelit) -> None:
    """The error names what the developer wrote: a tool, not a node."""

    @keyed.credentials.tool(key="service")
    def fetch(*, key: SecretStr) -> str:
        """Fetches a page."""
        return key.get_secret_value()

    with pytest.raises(SecretLeakError, match="is in the tool's return value"):
        fetch.invoke({})


def test_a_tool_of_ours_refuses_what_the_model_makes_up(keyed: Pipelit) -> None:
    """A value for the secret's parameter is an error that the model reads, and runs nothing."""
    ran: list[str] = []

    @keyed.credentials.tool(key="service")
    def fetch(q: str, runtime: ToolRuntime, *, key: SecretStr) -> str:
        """Fetches a page."""
        ran.append(q)
        return f"{len(key.get_secret_value())} characters, {runtime.tool_call_id}"

    assert (fetch.name, fetch.description) == ("fetch", "Fetches a page.")
    assert set(fetch.tool_call_schema.model_json_schema()["properties"]) == {"q"}  # type: ignore[union-attr]
    node = StateGraph(State)
    node.add_node("tools", ToolNode([fetch], messages_key="x"))
    node.add_edge(START, "tools")
    graph = node.compile()

    def ask(args: dict[str, Any]) -> Any:
        call = {"name": "fetch", "args": args, "id": "7", "type": "tool_call"}
        return graph.invoke({"x": [AIMessage("", tool_calls=[call])]})["x"][-1]

    assert ask({"q": "a"}).content == f"{len(KEY)} characters, 7"
    refused = ask({"q": "b", "key": "mine"})
    assert refused.status == "error"
    assert "key" in refused.content
    assert ran == ["a"]


def test_a_public_field_is_passed_as_it_is(pipelit: Pipelit) -> None:
    """What is no secret may be injected beside it, and said."""
    pipelit.credentials.put(
        "database",
        {"password": KEY},
        kind="sql",
        created_by="alice",
        public={"user": "postgres", "port": 5432},
    )

    @pipelit.credentials.inject(
        user="database:user", port="database:port", password="database:password"
    )
    def node(state: State, *, user: str, port: int, password: SecretStr) -> State:
        assert password.get_secret_value() == KEY
        return {"x": f"docker run {user}:{port}"}

    assert node({}) == {"x": "docker run postgres:5432"}


@pytest.mark.parametrize(
    ("reference", "reason"), [("nowhere", "not found"), ("service:nothing", "no such field")]
)
def test_every_refusal_is_on_record(keyed: Pipelit, reference: str, reason: str) -> None:
    """A credential or field that isn't there was asked for, and that is written down."""

    @keyed.credentials.inject(key=reference)
    def node(state: State, *, key: SecretStr) -> State:
        return {}

    with pytest.raises(LookupError):
        node({})
    entry = keyed.audit.list(limit=1)[0]
    assert (entry.action, entry.outcome, entry.reason) == ("credential.reveal", "refused", reason)
    assert entry.subject == reference.partition(":")[0]


async def test_a_value_passed_for_a_secret_is_on_record(keyed: Pipelit) -> None:
    """Whoever passes one is refused, from functions of both kinds."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        return {}

    @keyed.credentials.inject(key="service")
    async def anode(state: State, *, key: SecretStr) -> State:
        return {}

    for number in range(2):
        with pytest.raises(CredentialScopeError):
            await anode({}, key="mine") if number else node({}, key="mine")
        entry = keyed.audit.list(limit=1)[0]
        assert (entry.subject, entry.outcome, entry.reason) == (
            "service",
            "refused",
            "value passed",
        )


def test_without_a_key_a_refusal_is_on_record(keyed: Pipelit, database_url: str) -> None:
    """That there was nothing to open it with is written down as well."""
    with Pipelit(database_url=database_url, encryption_keys=[]) as other:

        @other.credentials.inject(key="service")
        def node(state: State, *, key: SecretStr) -> State:
            return {}

        with pytest.raises(Exception, match="FIELD_ENCRYPTION_KEY"):
            node({})
    assert keyed.audit.list(limit=1)[0].reason == "no key"
