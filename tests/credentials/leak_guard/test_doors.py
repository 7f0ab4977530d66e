"""The ways out of a node: closed to its secrets, and open to all else."""

from __future__ import annotations

import array
import asyncio
import dataclasses
import gc
import threading
import traceback
from collections import UserList, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, get_args

import pytest
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.graph.message import push_message
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.pregel import _tools
from langgraph.runtime import RunControl, Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, StreamMode, StreamWriter, interrupt
from pydantic import SecretStr
from tenacity import RetryCallState, Retrying
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard.callbacks import _Gate
from pipelit_agents.credentials.leak_guard.masking import redact
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.errors import CredentialScopeError, SecretLeakError, UnguardedRevealWarning

KEY = "sk-Zq/+8w_Canary-0123456789"


class State(TypedDict, total=False):
    """A node's state."""

    x: Any


@pytest.fixture
def keyed(pipelit: Pipelit) -> Pipelit:
    """A credential is in the store."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")
    return pipelit


def graph_of(node: Any, **options: Any) -> Any:
    """A graph of one node."""
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(**options)


# What is honest goes through


@pytest.mark.slow
async def test_an_honest_node_runs_as_without_the_guard(keyed: Pipelit) -> None:
    """Streams, store, subgraph, tasks, tools and models inside a node give what they give bare."""

    @task
    def double(x: int) -> int:
        return 2 * x

    @task
    async def adouble(x: int) -> int:
        return 2 * x

    @tool
    def look(q: str) -> str:
        """Looks."""
        return f"{q}!"

    inner = graph_of(lambda state: {"x": state["x"] + 1})

    def work(state: State, config: RunnableConfig, writer: StreamWriter, store: BaseStore) -> State:
        writer({"begun": state["x"]})
        get_stream_writer()("again")
        store.put(("a", "b"), "k", {"v": state["x"]})
        found = store.get(("a", "b"), "k")
        listed = [item.key for item in store.search(("a",))], store.list_namespaces()
        model = GenericFakeChatModel(messages=iter([AIMessage("one two")]))
        made = [
            found.value if found else None,
            listed,
            double(state["x"]).result(),
            inner.invoke({"x": 5}, config)["x"],
            look.invoke({"q": "why"}),
            model.invoke("?").text,
            RunnableLambda(lambda x: x * 3).batch([1, 2]),
        ]
        store.delete(("a", "b"), "k")
        return {"x": made}

    def bare(state: State, config: RunnableConfig, writer: StreamWriter, store: BaseStore) -> State:
        return work(state, config, writer, store)

    @keyed.credentials.inject(key="service")
    def guarded(
        state: State, config: RunnableConfig, writer: StreamWriter, store: BaseStore, *, key: Any
    ) -> State:
        return work(state, config, writer, store)

    @keyed.credentials.inject(key="service")
    async def aguarded(state: State, *, key: Any) -> State:
        return {"x": [await adouble(state["x"]), (await inner.ainvoke({"x": 1}))["x"]]}

    def shown(node: Any) -> Any:
        graph = graph_of(node, store=InMemoryStore(), checkpointer=InMemorySaver())
        config = {"configurable": {"thread_id": "1"}}
        modes = ["values", "updates", "custom"]
        chunks = graph.stream({"x": 1}, config, stream_mode=modes, subgraphs=True)
        # Namespaces hold the tasks' ids.
        return [(len(space), mode, chunk) for space, mode, chunk in chunks]

    assert shown(guarded) == shown(bare)
    assert (await graph_of(aguarded).ainvoke({"x": 2}))["x"] == [4, 2]


async def test_tokens_and_events_of_an_honest_node_arrive(keyed: Pipelit) -> None:
    """A model inside an injected node streams its tokens, and a runnable its chunks."""

    @keyed.credentials.inject(key="service")
    async def node(state: State, *, key: SecretStr) -> State:
        async def chunks(_: Any) -> AsyncIterator[str]:
            for each in ("a", "b"):
                yield each

        model = GenericFakeChatModel(messages=iter([AIMessage("one two")]))
        said = await model.ainvoke("?")
        return {"x": [said.text, [each async for each in RunnableLambda(chunks).astream(1)]]}

    graph = graph_of(node)
    tokens = [chunk.content async for chunk, _ in graph.astream({}, stream_mode="messages")]
    assert [each for each in tokens if each] == ["one", " ", "two"]
    events = [event async for event in graph.astream_events({}, version="v2")]
    inside = [
        event["data"]["chunk"]
        for event in events
        if event["event"] == "on_chain_stream" and event["name"] == "chunks"
    ]
    assert inside == ["a", "b"]


def test_a_model_is_not_made_to_stream(keyed: Pipelit) -> None:
    """Where nobody listens for tokens, the guard doesn't ask for them."""
    asked: list[str] = []

    class Model(GenericFakeChatModel):
        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            asked.append("stream")
            return super()._stream(*args, **kwargs)

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": Model(messages=iter([AIMessage("hello")])).invoke("?").text}

    assert graph_of(node).invoke({})["x"] == "hello"
    assert asked == []


@pytest.mark.slow
def test_a_subgraph_in_a_node_can_be_interrupted_and_resumed(keyed: Pipelit) -> None:
    """An honest interrupt passes, and the resume finds the subgraph where it was."""
    inner = graph_of(lambda state: {"x": interrupt("how many?")})

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": inner.invoke({"x": 0})["x"]}

    graph = graph_of(node, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    first = graph.invoke({"x": 1}, config)
    assert first["__interrupt__"][0].value == "how many?"
    assert graph.invoke(Command(resume=7), config)["x"] == 7


def test_the_consumer_of_a_stream_is_not_guarded(keyed: Pipelit) -> None:
    """Between two steps of an injected generator, its consumer's context is its own."""
    seen: list[Any] = []

    class Watch(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            seen.append(inputs)

    @keyed.credentials.inject(key="service")
    def node(*, key: SecretStr) -> Iterator[int]:
        yield 1
        yield 2

    def outer(_: Any) -> list[int]:
        made = []
        for each in node():
            RunnableLambda(lambda x: x).invoke(KEY)
            made.append(each)
        return made

    assert RunnableLambda(outer).invoke(0, {"callbacks": [Watch()]}) == [1, 2]
    assert seen == [0, KEY, KEY]


# What isn't, doesn't


def test_a_key_in_several_tokens_is_refused(keyed: Pipelit) -> None:
    """A model that says the key piece by piece is stopped before the last of it."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        plain = key.get_secret_value()
        text = f"it is {plain[:9]} {plain[9:]}".replace(" ", " ")
        model = GenericFakeChatModel(messages=iter([AIMessage(text.replace(f" {plain[9:]}", ""))]))
        model.invoke("?")
        whole = GenericFakeChatModel(messages=iter([AIMessage(f"{plain}\n{plain}")]))
        whole.invoke("?")
        return {}

    seen: list[str] = []
    with pytest.raises(SecretLeakError):
        seen.extend(c.text for c, _ in graph_of(node).stream({}, stream_mode="messages"))
    assert KEY not in "".join(seen)


def test_an_inner_scope_guards_for_the_outer_one_too(keyed: Pipelit) -> None:
    """A tool with a key of its own, called by a node, can't leak the node's key either."""
    keyed.credentials.put("other", "another-secret-value", kind="api", created_by="alice")

    @tool
    @keyed.credentials.inject(other="other")
    def fetch(q: str, *, other: SecretStr) -> str:
        """Fetches."""
        return "ok"

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": fetch.invoke({"q": key.get_secret_value()})}

    with pytest.raises(SecretLeakError) as caught:
        graph_of(node).invoke({})
    assert caught.value.credential == "service"


@pytest.mark.slow
def test_a_tool_with_its_runtime_is_guarded(keyed: Pipelit) -> None:
    """ToolRuntime's writer, store and configuration are guarded as a node's are."""
    ways = {
        "writer": lambda runtime, plain: runtime.stream_writer(plain),
        "store": lambda runtime, plain: runtime.store.put(("a",), "k", {"v": plain}),
        "config": lambda runtime, plain: RunnableLambda(len).invoke(plain, runtime.config),
    }

    @tool
    @keyed.credentials.inject(key="service")
    def fetch(way: str, runtime: ToolRuntime, *, key: SecretStr) -> str:
        """Fetches."""
        ways[way](runtime, key.get_secret_value())
        return "ok"

    builder = StateGraph(State)
    for way in ways:
        call = {"name": "fetch", "args": {"way": way}, "id": "1", "type": "tool_call"}
        node = ToolNode([fetch], handle_tool_errors=False, messages_key="x")
        graph = graph_of(node, store=InMemoryStore())
        with pytest.raises(SecretLeakError):
            graph.invoke({"x": [AIMessage("", tool_calls=[call])]})
    assert builder


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("where", ["its own", "inside"])
@pytest.mark.parametrize("pieces", [True, False])
async def test_what_a_tool_streams_is_guarded(
    keyed: Pipelit, sync: bool, where: str, pieces: bool
) -> None:
    """`emit_output_delta` refuses a key, whole and in pieces, also in a tool that begins inside."""

    def emit(runtime: ToolRuntime, key: str) -> str:
        for each in [key[i : i + 4] for i in range(0, len(key), 4)] if pieces else [key]:
            runtime.emit_output_delta(each)
        return "ok"

    @tool
    def inner(key: Any, runtime: ToolRuntime) -> str:
        """Streams what a variable holds."""
        return emit(runtime, "".join(map(chr, reversed(key))))

    call: dict[str, Any] = {"name": "fetch", "args": {"q": "a"}, "id": "1", "type": "tool_call"}

    @tool
    @keyed.credentials.inject(key="service")
    def fetch(q: str, runtime: ToolRuntime, *, key: SecretStr) -> str:
        """Fetches."""
        plain = key.get_secret_value()
        runtime.emit_output_delta("connecting")
        if where == "its own":
            return emit(runtime, plain)
        args = {"key": list(map(ord, reversed(plain)))}
        return str(
            ToolNode([inner], handle_tool_errors=False, messages_key="x").invoke(
                {"x": [AIMessage("", tool_calls=[{**call, "name": "inner", "args": args}])]},
                runtime.config,
            )
        )

    graph = graph_of(ToolNode([fetch], handle_tool_errors=False, messages_key="x"))
    given = {"x": [AIMessage("", tool_calls=[call])]}
    seen: list[Any] = []

    async def consume() -> None:
        if sync:
            seen.extend(graph.stream(given, stream_mode=["tools", "custom"]))
        else:
            async for each in graph.astream(given, stream_mode=["tools", "custom"]):
                seen.append(each)

    with pytest.raises(SecretLeakError):
        await consume()
    told = [each["delta"] for _, each in seen if "delta" in each]
    assert told[0] == "connecting"
    assert len("".join(told[1:])) < 11


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("where", ["its own", "inside", "a task"])
@pytest.mark.parametrize("pieces", [True, False])
async def test_what_a_node_pushes_to_the_messages_is_guarded(
    keyed: Pipelit, sync: bool, where: str, pieces: bool
) -> None:
    """`push_message` asks LangGraph's handler to write, past the events of the callbacks."""

    def push(key: str) -> None:
        size = 4 if pieces else len(key)
        for start in range(0, len(key), size):
            message = AIMessageChunk(key[start : start + size], id="2")
            push_message(message, state_key=None)

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        plain = key.get_secret_value()
        push_message(AIMessage("connecting", id="1"), state_key=None)
        if where == "its own":
            push(plain)
        elif where == "inside":
            graph_of(lambda state: push(plain)).invoke({})
        else:
            task(lambda: push(plain))().result()
        return {}

    seen: list[Any] = []
    modes: list[StreamMode] = ["messages", "custom"]

    async def consume() -> None:
        if sync:
            seen.extend(graph_of(node).stream({}, stream_mode=modes, subgraphs=True))
        else:
            async for each in graph_of(node).astream({}, stream_mode=modes, subgraphs=True):
                seen.append(each)

    with pytest.raises(SecretLeakError):
        await consume()
    told = [message.text for _, _, (message, _) in seen]
    assert told[0] == "connecting"
    assert len("".join(told[1:])) < 11


def test_an_honest_message_is_pushed_whole_and_once(keyed: Pipelit) -> None:
    """Also one that ends as a key begins, to the stream and to the state."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        for text in ("it begins with ", KEY[:14]):
            push_message(AIMessageChunk(text, id="1"), state_key=None)
        push_message(AIMessage("done", id="2"), state_key="x")
        return {}

    seen = list(graph_of(node).stream({}, stream_mode=["messages", "values"]))
    told = [value[0].text for mode, value in seen if mode == "messages"]
    assert told == ["it begins with ", KEY[:14], "done"]
    assert seen[-1][1]["x"].text == "done"


def test_langgraph_has_no_writers_but_those_that_are_guarded() -> None:
    """A version that adds a stream mode, a door of a runtime or a callback fails here."""
    modes = {"values", "updates", "checkpoints", "tasks", "debug", "messages", "custom"}
    assert set(get_args(StreamMode)) == modes, "guard the new mode's writer in langgraph_io.py"
    # Written with a context variable that has no public name.
    assert _tools._tool_call_writer.get() is None
    holders = [name for name, each in vars(_tools).items() if isinstance(each, ContextVar)]
    assert holders == ["_tool_call_writer"]
    guarded = {"store", "stream_writer", "control", "config"}
    harmless = {"context", "heartbeat", "previous", "execution_info", "server_info", "state"}
    harmless |= {"tool_call_id", "tools"}
    fields = {each.name for kind in (Runtime, ToolRuntime) for each in dataclasses.fields(kind)}
    assert fields <= guarded | harmless, "guard the new way out in langgraph_io.py"
    events = {name for name in dir(BaseCallbackHandler) if name.startswith("on_")}
    assert events <= vars(_Gate).keys(), "search the new event in callbacks.py"


@pytest.mark.parametrize("honest", [True, False])
def test_the_reason_to_stop_a_run_is_searched(keyed: Pipelit, honest: bool) -> None:
    """`request_drain` refuses a key, and an honest reason stops the run as without the guard."""
    control = RunControl()

    @keyed.credentials.inject(key="service")
    def node(state: State, runtime: Runtime, *, key: SecretStr) -> State:
        assert runtime.control is not None
        assert not runtime.control.drain_requested
        runtime.control.request_drain("busy" if honest else key.get_secret_value())
        assert runtime.control.drain_reason == "busy"
        return {}

    with nullcontext() if honest else pytest.raises(SecretLeakError):
        graph_of(node).invoke({"x": 1}, control=control)
    assert control.drain_reason == ("busy" if honest else None)


@pytest.mark.parametrize(
    "tell",
    [
        lambda run, key: run.on_text(f"using {key}"),
        lambda run, key: run.on_agent_action(AgentAction("look", {"q": key}, "")),
        lambda run, key: run.on_agent_finish(AgentFinish({"output": key}, "")),
    ],
)
def test_what_a_run_tells_besides_is_searched(keyed: Pipelit, tell: Any) -> None:
    """Text, actions and ends of agents are refused before a handler hears of them."""
    heard: list[Any] = []

    class Hears(BaseCallbackHandler):
        def on_text(self, text: str, **details: Any) -> None:
            heard.append(text)

        def on_agent_action(self, action: Any, **details: Any) -> None:
            heard.append(action)

        def on_agent_finish(self, finish: Any, **details: Any) -> None:
            heard.append(finish)

    @keyed.credentials.inject(key="service")
    def node(state: State, config: RunnableConfig, *, key: SecretStr) -> State:
        manager = CallbackManager.configure(inheritable_callbacks=config["callbacks"])
        run = manager.on_tool_start({}, "x")
        chain = manager.on_chain_start({}, {})
        for each in ("nothing", key.get_secret_value()):
            tell(run if hasattr(run, "on_agent_action") else chain, each)
        return {}

    with pytest.raises(SecretLeakError):
        graph_of(node).invoke({"x": 1}, {"callbacks": [Hears()]})
    assert len(heard) == 1


def test_an_error_that_is_tried_again_loses_the_key(keyed: Pipelit) -> None:
    """What a tracer writes down of a retry shows none."""
    events: list[Any] = []

    class Traces(BaseCallbackHandler):
        def on_retry(self, retry_state: Any, **details: Any) -> None:
            events.append(repr(retry_state.outcome.exception()))

    @keyed.credentials.inject(key="service")
    def node(state: State, config: RunnableConfig, *, key: SecretStr) -> State:
        manager = CallbackManager.configure(inheritable_callbacks=config["callbacks"])
        run = manager.on_llm_start({}, ["x"])[0]
        retrying = RetryCallState(Retrying(), None, (), {})
        error = ValueError(f"401 for Bearer {key.get_secret_value()}")
        retrying.set_exception((ValueError, error, None))
        run.on_retry(retrying)
        return {}

    graph_of(node).invoke({"x": 1}, {"callbacks": [Traces()]})
    assert len(events) == 1
    assert "401 for Bearer" in events[0]
    assert KEY not in events[0]


@pytest.mark.slow
async def test_async_tasks_are_guarded(keyed: Pipelit) -> None:
    """What an async task is given, returns or raises is treated as a node's own."""

    @task
    async def given(x: str) -> int:
        return len(x)

    @task
    async def returns(n: int) -> str:
        return plain[0]

    @task
    async def raises(n: int) -> None:
        raise ValueError(plain[0])

    plain: list[str] = []

    @entrypoint()
    @keyed.credentials.inject(key="service")
    async def flow(way: str, *, key: SecretStr) -> Any:
        plain.append(key.get_secret_value())
        if way == "given":
            return await given(plain[0])
        return await (returns if way == "returns" else raises)(1)

    for way, kind in (
        ("given", SecretLeakError),
        ("returns", SecretLeakError),
        ("raises", ValueError),
    ):
        chunks: list[str] = []

        async def take(way: str = way, chunks: list[str] = chunks) -> None:
            async for chunk in flow.astream(way, stream_mode=["tasks", "debug", "updates"]):
                chunks.append(repr(chunk))

        with pytest.raises(kind) as caught:
            await take()
        assert KEY not in "".join(chunks) + str(caught.value)


def test_an_interrupt_leaves_no_key_in_the_error_that_replaces_it(keyed: Pipelit) -> None:
    """The SecretLeakError's chain, as any traceback shows it, doesn't hold what was interrupted."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": interrupt({"deep": [key.get_secret_value()]})}

    with pytest.raises(SecretLeakError) as caught:
        graph_of(node, checkpointer=InMemorySaver()).invoke(
            {}, {"configurable": {"thread_id": "1"}}
        )
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.path.endswith("value.deep[0]")


def test_a_command_to_the_parent_is_searched(keyed: Pipelit) -> None:
    """A command for a parent graph, which travels as an exception, is refused."""

    def inner(state: State) -> Any:
        return Command(graph=Command.PARENT, update={"x": plain[0]})

    plain: list[str] = []

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        plain.append(key.get_secret_value())
        return graph_of(inner).invoke({})

    with pytest.raises(SecretLeakError):
        graph_of(node).invoke({})


class Holder(Exception):
    """An exception with slots."""

    __slots__ = ("held",)

    def __init__(self, held: str) -> None:
        super().__init__("no")
        self.held = held


@pytest.mark.parametrize(
    "error",
    [
        OSError(13, KEY),
        OSError(13, "denied", KEY, None, f"/{KEY}"),
        ConnectionError("refused", KEY),
        UnicodeDecodeError("utf-8", KEY.encode(), 0, 4, f"in {KEY}"),
        SystemExit(KEY),
        ImportError("x", name=KEY, path=KEY),
        Holder(KEY),
        ExceptionGroup("both", [OSError(1, KEY)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_c_keeps_of_an_exception_is_masked(error: BaseException) -> None:
    """Fields outside ``args`` and ``__dict__`` lose the key, so that no text shows it."""
    redact(error, {KEY: "service"})
    kept = [getattr(error, name, None) for name in dir(error) if not name.startswith("__")]
    assert KEY not in "".join(traceback.format_exception(error)) + repr(error)
    assert KEY not in repr(kept)


def test_a_group_with_a_key_in_its_message_is_replaced(keyed: Pipelit) -> None:
    """Python keeps a group's message for ever: so another group is raised in its place."""
    part = ValueError(1)

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        raise ExceptionGroup(f"with {key.get_secret_value()}", [part])

    with pytest.raises(ExceptionGroup, match="with \\*\\*\\*\\*") as caught:
        graph_of(node).invoke({})
    assert caught.value.exceptions == (part,)
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "value",
    [
        deque([KEY]),
        UserList([KEY]),
        {"x": KEY}.values(),
        array.array("B", KEY.encode()),
        iter_holder := {"deep": deque([{"y": UserList([KEY])}])},
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_collection_is_searched(value: Any) -> None:
    """Deques, views, arrays and other collections are looked into."""
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": value}, {KEY: "service"})


def test_objects_that_point_at_each_other_are_searched_once() -> None:
    """Circles and shared objects, however many, cost one look each."""

    class Node:
        def __init__(self) -> None:
            self.others: list[Any] = []

    nodes = [Node() for _ in range(300)]
    for node in nodes:
        node.others = nodes
    refuse_leak({"x": nodes[0]}, {KEY: "service"})
    nodes[-1].others = [KEY]
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": nodes[0]}, {KEY: "service"})


# guard and reveal


@pytest.mark.filterwarnings("error::pipelit_agents.errors.UnguardedRevealWarning")
async def test_a_guarded_node_that_reveals_is_searched(keyed: Pipelit) -> None:
    """Under ``guard`` what a node returns is searched for what was revealed in it before."""

    @keyed.credentials.guard
    def node(state: State) -> State:
        with keyed.credentials.reveal("service") as key:
            plain = key.get_secret_value()
        return {"x": plain}

    @keyed.credentials.guard
    async def anode(state: State) -> State:
        async with keyed.credentials.areveal("service") as key:
            plain = key.get_secret_value()
        raise ValueError(plain)

    with pytest.raises(SecretLeakError):
        graph_of(node).invoke({})
    with pytest.raises(ValueError, match=r"\*\*\*\*"):
        await graph_of(anode).ainvoke({})


def test_a_reveal_without_the_guard_says_so(keyed: Pipelit) -> None:
    """A node without ``guard`` gets a warning that names the fix, at the line that reveals."""

    def node(state: State) -> State:
        with keyed.credentials.reveal("service"):
            return {}

    with pytest.warns(UnguardedRevealWarning, match=r"credentials\.guard") as caught:
        graph_of(node).invoke({})
    assert caught[0].filename == __file__


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pipelit_agents.errors.UnguardedRevealWarning")
def test_inside_the_block_a_bare_reveal_is_guarded_all_the_same(keyed: Pipelit) -> None:
    """Streams and exceptions within the ``with`` block are searched also without ``guard``."""

    def node(state: State) -> State:
        with keyed.credentials.reveal("service") as key:
            get_stream_writer()(key.get_secret_value())
        return {}

    def failing(state: State) -> State:
        with keyed.credentials.reveal("service") as key:
            raise OSError(1, key.get_secret_value())

    with pytest.raises(SecretLeakError):
        list(graph_of(node).stream({}, stream_mode="custom"))
    with pytest.raises(OSError, match=r"\*\*\*\*"):
        graph_of(failing).invoke({})


# The end


@pytest.mark.slow
def test_nothing_of_a_node_is_kept(keyed: Pipelit) -> None:
    """After the node, no object in the process that we made holds the plaintext."""
    unique = "sk-" + "unfindable"[::-1] + "-0987654321"
    keyed.credentials.put("once", unique, kind="api", created_by="alice")

    @keyed.credentials.inject(key="once")
    def node(state: State, *, key: SecretStr) -> State:
        RunnableLambda(lambda x: x).invoke(1)
        return {"x": len(key.get_secret_value())}

    graph_of(node, checkpointer=InMemorySaver()).invoke({}, {"configurable": {"thread_id": "1"}})
    gc.collect()
    holders = [
        type(each)
        for each in gc.get_objects()
        if type(each) is dict and any(key == unique for key in list(each) if type(key) is str)
    ]
    assert holders == []


async def test_a_cancelled_node_closes_its_doors(keyed: Pipelit) -> None:
    """A node that is cancelled while it waits leaves no open secret and no guarded context."""
    begun = asyncio.Event()
    kept: list[SecretStr] = []

    @keyed.credentials.inject(key="service")
    async def node(state: State, *, key: SecretStr) -> State:
        kept.append(key)
        begun.set()
        await asyncio.Event().wait()
        return {}

    running = asyncio.create_task(graph_of(node).ainvoke({}))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(CredentialScopeError):
        kept[0].get_secret_value()


@pytest.mark.slow
def test_threads_with_scopes_do_not_disturb_each_other(keyed: Pipelit) -> None:
    """Eight threads open and close scopes at once; each sees its own secret to the end."""

    @keyed.credentials.inject(key="service")
    def node(*, key: SecretStr) -> int:
        return RunnableLambda(lambda _: len(key.get_secret_value())).invoke(0)

    made: list[int] = []
    threads = [
        threading.Thread(target=lambda: made.extend(node() for _ in range(20))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert made == [len(KEY)] * 160
