from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import io
import json
import logging
import operator
import pickle
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import ormsgpack
import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import InjectedState, ToolRuntime
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Send, StreamWriter
from pydantic import BaseModel, SecretStr, TypeAdapter
from pydantic_core import PydanticSerializationError, to_json
from redis_server import until
from typing_extensions import TypedDict

from pipelit_agents._run_context import run_context
from pipelit_agents.credentials.inject import injecting
from pipelit_agents.credentials.scope import Scope, current_scope, opened_scope, require_running
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialScopeError

PLAINTEXT = "sk-proj-0123456789abcdef"


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[str], operator.add]


@dataclass
class Data:
    key: Any


class Model(BaseModel):
    key: SecretStr


def open_secret(reference: str) -> Secret:
    """Stand for the store: every reference opens to the same plaintext."""
    return Secret(PLAINTEXT, credential=reference)


def inject(**parameters: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate as credentials.inject does."""
    return lambda function: injecting(function, parameters, open_secret)


def graph_of(*nodes: Callable[..., Any], **compile_options: Any) -> Any:
    """Compile a graph whose nodes all run in the first superstep."""
    builder = StateGraph(State)
    for node in nodes:
        builder.add_node(node)
        builder.add_edge(START, node.__name__)
    return builder.compile(**compile_options)


def readable(secret: Any) -> bool:
    """Tell whether the plaintext can be read."""
    try:
        return bool(secret.get_secret_value() == PLAINTEXT)
    except CredentialScopeError:
        return False


def running() -> bool:
    """Tell whether require_running lets pass."""
    try:
        require_running("openai")
    except CredentialScopeError:
        return False
    return True


def begin(_: Any) -> bool:
    """Be a runnable."""
    return running()


# Secret


@pytest.fixture
def secret() -> Secret:
    """Return a secret that belongs to no scope yet."""
    return Secret(PLAINTEXT, credential="openai")


def test_reads_by_its_one_door(secret: Secret) -> None:
    """get_secret_value() returns the plaintext, and the credential's name is at hand."""
    assert isinstance(secret, SecretStr)
    assert secret.get_secret_value() == PLAINTEXT
    assert secret.credential == "openai"


@pytest.mark.parametrize(
    "attempt",
    [
        *(functools.partial(lambda n, s: pickle.dumps(s, n), n) for n in range(6)),
        copy.copy,
        copy.deepcopy,
        json.dumps,
        to_json,
        TypeAdapter(Any).dump_json,
        ormsgpack.packb,
        iter,
        list,
        lambda s: s.model_dump(),
        lambda s: s.model_dump_json(),
        lambda s: s.__getstate__(),
    ],
)
def test_refuses_to_be_carried_off(secret: Secret, attempt: Callable[[Any], Any]) -> None:
    """Pickle, copies, JSON, msgpack, model_dump and iteration raise, without the plaintext."""
    with pytest.raises((TypeError, PydanticSerializationError)) as caught:
        attempt(secret)
    assert PLAINTEXT not in str(caught.value)


def test_has_no_dictionary_to_write(secret: Secret) -> None:
    """An encoder that falls back on vars() finds nothing."""
    assert vars(secret) == {}


@pytest.mark.parametrize("pickle_fallback", [False, True])
@pytest.mark.parametrize("place", ["bare", "dict", "tuple", "dataclass", "pydantic"])
def test_langgraph_serializer_refuses(secret: Secret, place: str, pickle_fallback: bool) -> None:
    """LangGraph's serializer writes no byte of a state that holds a secret, wherever it stands."""
    values = {
        "bare": secret,
        "dict": {"a": [secret]},
        "tuple": (secret,),
        "dataclass": Data(secret),
        "pydantic": Model(key=secret),
    }
    with pytest.raises(TypeError):
        JsonPlusSerializer(pickle_fallback=pickle_fallback).dumps_typed(values[place])


@pytest.mark.parametrize(
    ("value", "mask"),
    [
        (PLAINTEXT, "****cdef"),
        ("0123456789ab", "****89ab"),
        ("0123456789a", "****"),
        ("", "****"),
    ],
)
def test_prints_as_a_mask(value: str, mask: str) -> None:
    """str, repr, print and logs show the last four of at least twelve characters, or none."""
    secret = Secret(value)
    assert str(secret) == f"{secret!s}" == "%s" % secret == mask  # noqa: UP031
    assert logging.makeLogRecord({"msg": "with %s", "args": (secret,)}).getMessage() == (
        f"with {mask}"
    )
    shown = io.StringIO()
    print(secret, [secret], file=shown)
    assert shown.getvalue() == f"{mask} [Secret({mask!r})]\n"
    assert f"{secret!r}" == repr(secret) == f"Secret({mask!r})"


@pytest.mark.parametrize(
    "put_into_text",
    [
        lambda secret: f"Bearer {secret}",
        lambda secret: f"{secret:>10}",
        lambda secret: "{}".format(secret),  # noqa: UP032
        lambda secret: "{key}".format_map({"key": secret}),
        lambda secret: format(secret),
        lambda secret: "Bearer " + secret,
        lambda secret: secret + "\n",
        lambda secret: ("user:" + secret).encode(),
    ],
)
def test_no_text_gets_the_mask_instead_of_the_secret(secret: Secret, put_into_text: Any) -> None:
    """A header with the mask in it would be sent: the error names what to write."""
    with pytest.raises(TypeError, match=r"'openai' was put into.*get_secret_value") as said:
        put_into_text(secret)
    assert PLAINTEXT not in str(said.value)
    secret.close()
    with pytest.raises(TypeError, match="get_secret_value"):
        put_into_text(secret)


def test_compares_by_value() -> None:
    """A secret equals a Secret, SecretStr or str of the same value, on either side."""
    secret = Secret("naïve-key")
    assert secret == Secret("naïve-key")
    assert secret == "naïve-key"
    assert "naïve-key" == secret  # noqa: SIM300
    assert secret == SecretStr("naïve-key")
    assert SecretStr("naïve-key") == secret
    assert secret != "other"
    assert secret != SecretStr("other")
    assert secret != 7


def test_hashes_by_identity(secret: Secret) -> None:
    """The hash says nothing of the value and outlives it."""
    assert hash(secret) != hash(PLAINTEXT)
    assert len({secret, Secret(PLAINTEXT)}) == 2
    before = hash(secret)
    secret.close()
    assert hash(secret) == before


def test_pydantic_fields_keep_the_instance(secret: Secret) -> None:
    """A field of type SecretStr or Secret holds the very secret, so that it dies with its scope."""

    class Client(BaseModel):
        api_key: SecretStr
        optional: SecretStr | None = None
        own: Secret | None = None

    client = Client(api_key=secret, optional=secret, own=secret)
    assert client.api_key is client.optional is client.own is secret
    assert PLAINTEXT not in client.model_dump_json()
    with pytest.raises(TypeError):
        client.model_copy(deep=True)


def test_a_closed_secret_has_no_plaintext(secret: Secret) -> None:
    """After closing, reading and comparing raise, and only mask, length and name remain."""
    secret.close()
    secret.close()
    with pytest.raises(CredentialScopeError) as caught:
        secret.get_secret_value()
    assert caught.value.credential == "openai"
    with pytest.raises(CredentialScopeError):
        secret == PLAINTEXT  # noqa: B015
    assert secret == secret
    assert str(secret) == "****cdef"
    assert secret
    assert len(secret) == len(PLAINTEXT)


# Scope


def test_scopes_nest(secret: Secret) -> None:
    """An inner scope closes first; the secrets of the outer one live on."""
    with opened_scope() as outer:
        outer.hold(secret)
        with opened_scope() as inner:
            assert inner.parent is outer
            mine = inner.hold(Secret("inner-value", credential="other"))
            assert current_scope() is inner
        assert current_scope() is outer
        assert not readable(mine)
        assert readable(secret)
        assert outer.revealed == {PLAINTEXT: "openai", "inner-value": "other"}
    assert current_scope() is None
    assert not readable(secret)
    assert outer.revealed == inner.revealed == {}


def test_a_closed_scope_holds_nothing(secret: Secret) -> None:
    """A secret that arrives late, from a thread that nobody waits for, is closed at once."""
    with opened_scope() as scope:
        pass
    with pytest.raises(CredentialScopeError):
        scope.hold(secret)
    assert not readable(secret)
    assert scope.revealed == {}


def test_an_error_closes_the_scope(secret: Secret) -> None:
    """The scope closes on exceptions too."""

    def fail() -> None:
        with opened_scope() as scope:
            scope.hold(secret)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not readable(secret)


# require_running and run_context


def test_nothing_runs_at_module_level() -> None:
    """Outside any node there is no scope to reveal in, and the error names the credential."""
    with pytest.raises(CredentialScopeError) as caught:
        require_running("openai")
    assert caught.value.credential == "openai"
    assert run_context() == ("", "", "")


def test_an_open_scope_runs(secret: Secret) -> None:
    """An injected function that is called by hand may reveal more."""
    with opened_scope():
        assert running()
    assert not running()


async def test_nodes_tools_and_runnables_run() -> None:
    """Nodes, routes, tools on their own and runnables are places to reveal, sync and async."""
    seen: dict[str, bool] = {}

    def node(state: State) -> State:
        seen["node"] = running()
        return {}

    async def anode(state: State) -> State:
        seen["anode"] = running()
        seen["to_thread"] = await asyncio.to_thread(running)
        return {}

    def route(state: State) -> str:
        seen["route"] = running()
        return END

    @tool
    def act(name: str) -> str:
        """Act."""
        seen[name] = running()
        return ""

    @tool
    async def aact(name: str) -> str:
        """Act."""
        seen[name] = running()
        return ""

    builder = StateGraph(State)
    builder.add_node(node)
    builder.add_node(anode)
    builder.add_edge(START, "node")
    builder.add_edge("node", "anode")
    builder.add_conditional_edges("anode", route)
    await builder.compile().ainvoke({"x": 1})
    act.invoke({"name": "tool"})
    await act.ainvoke({"name": "tool in a thread"})
    await aact.ainvoke({"name": "async tool"})
    seen["runnable"] = RunnableLambda(begin).invoke(0)
    assert seen == dict.fromkeys(seen, True)
    assert len(seen) == 8
    assert not running()


def test_the_consumer_of_a_stream_does_not_run() -> None:
    """Between two chunks of a graph's stream, the consumer is outside."""

    def node(state: State) -> State:
        return {"x": 2}

    assert [running() for _ in graph_of(node).stream({"x": 1})] == [False]


def test_a_new_thread_does_not_run() -> None:
    """A thread that a node starts has no context of its node."""
    seen: list[bool] = []

    def node(state: State) -> State:
        thread = threading.Thread(target=lambda: seen.append(running()))
        thread.start()
        thread.join()
        return {}

    graph_of(node).invoke({"x": 1})
    assert seen == [False]


def test_a_context_copied_from_an_ended_injected_node_does_not_run() -> None:
    """A context copied from an injected node is refused once it ended; what begins in it isn't."""
    kept: list[contextvars.Context] = []

    @inject(key="openai")
    def node(state: State, key: SecretStr) -> State:
        kept.append(contextvars.copy_context())
        return {}

    graph_of(node).invoke({"x": 1})
    assert not kept[0].run(running)
    assert kept[0].run(RunnableLambda(begin).invoke, 0)


def test_run_context_names_run_and_node() -> None:
    """The audit gets the id that the run was started with, the node's name and the thread."""
    seen: list[tuple[str, ...]] = []

    def node(state: State) -> State:
        seen.append(run_context())
        return {}

    run_id = uuid.uuid4()
    graph_of(node).invoke({"x": 1}, {"run_id": run_id, "configurable": {"thread_id": "t7"}})
    graph_of(node).invoke({"x": 1})
    assert seen[0] == (str(run_id), "node", "t7")
    assert uuid.UUID(seen[1][0]) != run_id
    assert seen[1][1] == "node"


def test_run_context_of_a_tool_on_its_own() -> None:
    """A tool outside a graph has the id of its own run and no node."""

    @tool
    def act() -> tuple[str, str, str]:
        """Act."""
        return run_context()

    run, node, thread = act.invoke({})
    assert uuid.UUID(run)
    assert node == thread == ""


# injecting


async def test_the_four_kinds_of_nodes() -> None:
    """Sync, async and generator functions get the plaintext, and it is gone when they end."""
    kept: list[Any] = []

    @inject(key="openai")
    def plain(state: State, *, key: SecretStr) -> State:
        kept.append(key)
        return {"log": [str(readable(key))]}

    @inject(key="openai")
    async def coroutine(state: State, *, key: SecretStr) -> State:
        kept.append(key)
        return {"log": [str(readable(key))]}

    @inject(key="openai")
    def generator(state: State, *, key: SecretStr) -> Iterator[State]:
        kept.append(key)
        yield {"log": [str(readable(key))]}

    @inject(key="openai")
    async def agenerator(state: State, *, key: SecretStr) -> AsyncIterator[State]:
        kept.append(key)
        yield {"log": [str(readable(key))]}

    saver = InMemorySaver()
    config = {"configurable": {"thread_id": "t"}}
    graph = graph_of(plain, coroutine, generator, agenerator, checkpointer=saver)
    result = await graph.ainvoke({"x": 1}, config)
    assert result["log"] == ["True"] * 4
    assert [readable(key) for key in kept] == [False] * 4
    assert graph_of(plain, generator).invoke({"x": 1})["log"] == ["True"] * 2


def test_node_parameters_of_langgraph_stay() -> None:
    """State schema, config, runtime, writer and store arrive, with annotations as strings."""
    seen: dict[str, Any] = {}

    @inject(key="openai")
    def node(
        state: State,
        key: SecretStr,
        config: RunnableConfig,
        *,
        runtime: Runtime,
        writer: StreamWriter,
        store: BaseStore,
    ) -> State:
        seen.update(state=state, thread=config["configurable"]["thread_id"], runtime=runtime)
        writer("written")
        store.put(("a",), "b", {"c": 1})
        return {"log": [key.credential]}  # type: ignore[attr-defined]

    graph = graph_of(node, store=InMemoryStore(), checkpointer=InMemorySaver())
    stream = graph.stream(
        {"x": 1, "log": []},
        {"configurable": {"thread_id": "t"}},
        stream_mode=["custom", "values"],
    )
    chunks = list(stream)
    assert ("custom", "written") in chunks
    assert chunks[-1] == ("values", {"x": 1, "log": ["openai"]})
    assert seen["state"] == {"x": 1, "log": []}
    assert seen["thread"] == "t"
    assert isinstance(seen["runtime"], Runtime)


class Payload(TypedDict):
    item: int


def test_the_state_schema_is_inferred_through_the_wrapper() -> None:
    """A node's own input schema is found in its string annotations."""
    seen: list[Any] = []

    @inject(key="openai")
    def worker(payload: Payload, *, key: SecretStr) -> State:
        seen.append(payload)
        return {}

    builder = StateGraph(State)
    builder.add_node(worker)
    builder.add_conditional_edges(START, lambda _: [Send("worker", {"item": 1})], ["worker"])
    builder.compile().invoke({"x": 1})
    assert builder.nodes["worker"].input_schema is Payload
    assert seen == [{"item": 1}]


class Owner:
    @inject(key="openai")
    def node(self, state: State, *, key: SecretStr) -> State:
        """Run as a decorated method."""
        return {"log": [f"{self.__class__.__name__} {readable(key)}"]}

    def plain(self, state: State, key: SecretStr) -> State:
        """Run as a bound method, wrapped later."""
        return {"log": [str(readable(key))]}


def test_methods() -> None:
    """Methods can be decorated in the class, and bound methods wrapped."""
    assert graph_of(Owner().node).invoke({"x": 1})["log"] == ["Owner True"]
    bound = injecting(Owner().plain, {"key": "openai"}, open_secret)
    assert graph_of(bound).invoke({"x": 1})["log"] == ["True"]


async def test_functional_api() -> None:
    """Tasks and entrypoints can be decorated."""

    @task
    @inject(key="openai")
    def step(x: int, *, key: SecretStr) -> bool:
        return readable(key)

    @entrypoint()
    @inject(key="openai")
    async def workflow(x: int, *, key: SecretStr) -> list[bool]:
        return [readable(key), await step(x)]

    assert await workflow.ainvoke(1) == [True, True]


@tool
@inject(api_key="openai")
def look_up(query: str, *, api_key: SecretStr, limit: int = 3) -> str:
    """Look it up."""
    return f"{query} {limit} {readable(api_key)}"


@tool
@inject(api_key="openai")
async def alook_up(
    api_key: SecretStr,
    query: str,
    state: Annotated[dict[str, Any], InjectedState],
    runtime: ToolRuntime,
    limit: int = 3,
) -> str:
    """Look it up."""
    return f"{query} {limit} {readable(api_key)}"


@pytest.mark.parametrize("made", [look_up, alook_up])
def test_a_model_does_not_see_the_parameter(made: Any) -> None:
    """The injected parameter is in no schema of the tool."""
    assert "api_key" not in made.args
    assert set(made.tool_call_schema.model_json_schema()["properties"]) == {"query", "limit"}
    assert "api_key" not in made.get_input_schema().model_fields


async def test_tools_get_their_secret() -> None:
    """A tool called on its own gets the secret; what a model sends for it changes nothing."""
    assert look_up.invoke({"query": "a"}) == "a 3 True"
    assert await look_up.ainvoke({"query": "a", "api_key": "sent", "limit": 1}) == "a 1 True"


async def test_a_sent_secret_is_refused() -> None:
    """A value for an injected parameter raises, with dict schemas too, and opens nothing."""
    opened: list[str] = []

    def opening(reference: str) -> Secret:
        opened.append(reference)
        return open_secret(reference)

    def plain(query: str, *, api_key: SecretStr) -> str:
        return ""

    async def coroutine(query: str, *, api_key: SecretStr, **more: Any) -> str:
        return ""

    wrapped = injecting(plain, {"api_key": "openai.token"}, opening)
    with pytest.raises(CredentialScopeError) as caught:
        wrapped("q", api_key="sent")
    assert caught.value.credential == "openai.token"
    with pytest.raises(CredentialScopeError):
        await injecting(coroutine, {"api_key": "openai"}, opening)("q", api_key="sent")
    with pytest.raises(TypeError):
        wrapped("q", "sent")
    schema = {
        "type": "object",
        "properties": {"query": {"type": "string"}},
    }
    made = StructuredTool.from_function(wrapped, name="t", description="d", args_schema=schema)
    with pytest.raises(CredentialScopeError):
        made.invoke({"query": "q", "api_key": "sent"})
    assert opened == []


def test_positional_arguments_keep_their_places() -> None:
    """Arguments may stand before and after an injected parameter."""

    @inject(key="openai", other="other")
    def function(
        a: int, key: SecretStr, b: int = 2, *rest: int, other: SecretStr, **more: int
    ) -> Any:
        return a, b, rest, more, readable(key), readable(other)

    assert function(1) == (1, 2, (), {}, True, True)
    assert function(1, 3, 4, 5, z=6) == (1, 3, (4, 5), {"z": 6}, True, True)
    assert function(b=3, a=1) == (1, 3, (), {}, True, True)
    with pytest.raises(TypeError):
        function()


def test_the_parameter_leaves_signature_and_annotations() -> None:
    """The wrapper hides the parameter, keeps the rest, and leaves the original as it was."""

    def original(a: int, key: SecretStr) -> int:
        """Say something."""
        return a

    wrapped = injecting(original, {"key": "openai"}, open_secret)
    assert get_type_hints(wrapped) == {"a": int, "return": int}
    assert str(inspect.signature(wrapped)) == "(a: 'int') -> 'int'"
    assert get_type_hints(original) == {"a": int, "key": SecretStr, "return": int}
    assert wrapped.__wrapped__ is original  # type: ignore[attr-defined]
    assert wrapped.__doc__ == "Say something."


def test_wrapping_twice() -> None:
    """Injections stack."""

    @inject(a="one")
    @inject(b="two")
    def function(a: SecretStr, b: SecretStr) -> list[bool]:
        return [readable(a), readable(b)]

    assert function() == [True, True]


def test_decoration_errors() -> None:
    """What can't be injected into is a TypeError at decoration that names it."""

    def function(state: State, positional: Any, /, key: Any, *args: Any, **kwargs: Any) -> None: ...

    for name in ("missing", "positional", "args", "kwargs"):
        with pytest.raises(TypeError, match=rf"function\(\) .*'{name}'"):
            injecting(function, {name: "openai"}, open_secret)
    others: list[Any] = [
        functools.partial(function, {}),
        staticmethod(function),
        Owner,
        look_up,
    ]
    for other in others:
        with pytest.raises(TypeError, match="inject first"):
            injecting(other, {"key": "openai"}, open_secret)


def test_an_unopened_secret_stops_the_call() -> None:
    """If opening fails, the function doesn't run, and what was opened before is closed."""
    opened: list[Secret] = []

    def opening(reference: str) -> Secret:
        if opened:
            raise LookupError(reference)
        opened.append(open_secret(reference))
        return opened[0]

    def function(a: SecretStr, b: SecretStr) -> None:
        pytest.fail("ran")

    with pytest.raises(LookupError):
        injecting(function, {"a": "one", "b": "two"}, opening)()
    assert not readable(opened[0])


async def test_async_functions_open_in_one_thread() -> None:
    """The event loop's thread opens nothing: one worker thread opens all, in scope and context."""
    seen: list[tuple[int, Scope | None, str]] = []

    def opening(reference: str) -> Secret:
        seen.append((threading.get_ident(), current_scope(), run_context()[1]))
        return open_secret(reference)

    async def node(state: State, a: SecretStr, b: SecretStr) -> State:
        assert seen[0][1] is current_scope()
        return {}

    await graph_of(injecting(node, {"a": "one", "b": "two"}, opening)).ainvoke({"x": 1})
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][0] != threading.get_ident()
    assert seen[0][2] == "node"


async def test_a_cancelled_open_leaves_nothing_open() -> None:
    """A secret opened for a node that was cancelled meanwhile is closed as it arrives."""
    began, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    opened: list[Secret] = []

    def opening(reference: str) -> Secret:
        opened.append(open_secret(reference))
        loop.call_soon_threadsafe(began.set)
        go.wait(30)
        return opened[0]

    async def function(a: SecretStr) -> None:
        pytest.fail("ran")

    call = asyncio.create_task(injecting(function, {"a": "one"}, opening)())
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert readable(opened[0])
    go.set()
    await asyncio.to_thread(until, lambda: not readable(opened[0]))


def test_an_exception_in_a_node_closes_its_scope() -> None:
    """A node that fails leaves no readable secret, though the exception holds its frames."""
    kept: list[Any] = []

    @inject(key="openai")
    def node(state: State, *, key: SecretStr) -> State:
        kept.append(key)
        raise LookupError

    with pytest.raises(LookupError):
        graph_of(node).invoke({"x": 1})
    assert not readable(kept[0])


def test_a_thread_that_outlives_its_node_cannot_read() -> None:
    """A secret kept in a thread or closure is unreadable once the node ended, readable before."""
    ended, seen = threading.Event(), []
    threads: list[threading.Thread] = []

    @inject(key="openai")
    def node(state: State, *, key: SecretStr) -> State:
        during = threading.Event()

        def work() -> None:
            seen.append(readable(key))
            during.set()
            ended.wait(30)
            seen.append(readable(key))

        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(work,)))
        threads[0].start()
        during.wait(30)
        return {}

    graph_of(node).invoke({"x": 1})
    ended.set()
    threads[0].join()
    assert seen == [True, False]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_parallel_nodes_have_scopes_of_their_own(mode: str) -> None:
    """Of two nodes in one superstep, each closes its own secret only."""
    kept: dict[str, Any] = {}
    if mode == "sync":
        both, first_ended = threading.Barrier(2, timeout=30), threading.Event()

        @inject(key="openai")
        def first(state: State, *, key: SecretStr) -> State:
            kept["first"] = (key, current_scope())
            both.wait()
            return {}

        @inject(key="openai")
        def second(state: State, *, key: SecretStr) -> State:
            kept["second"] = (key, current_scope())
            both.wait()
            first_ended.wait(30)
            return {"log": [str(readable(key)), str(readable(kept["first"][0]))]}

        graph = graph_of(first, second)
        for chunk in graph.stream({"x": 1}):
            if "first" in chunk:
                first_ended.set()
            else:
                assert chunk["second"]["log"] == ["True", "False"]
    else:
        started, first_done = asyncio.Event(), asyncio.Event()

        @inject(key="openai")
        async def first(state: State, *, key: SecretStr) -> State:
            kept["first"] = (key, current_scope())
            await started.wait()
            return {}

        @inject(key="openai")
        async def second(state: State, *, key: SecretStr) -> State:
            kept["second"] = (key, current_scope())
            started.set()
            await first_done.wait()
            return {"log": [str(readable(key)), str(readable(kept["first"][0]))]}

        async for chunk in graph_of(first, second).astream({"x": 1}):
            if "first" in chunk:
                first_done.set()
            else:
                assert chunk["second"]["log"] == ["True", "False"]
    assert kept["first"][1] is not kept["second"][1]
    assert not readable(kept["second"][0])


# Generators


def test_a_generator_keeps_its_scope_to_itself() -> None:
    """Each step of a generator runs in its scope, and the consumer never sees it."""
    kept: list[Any] = []

    @inject(key="openai")
    def generator(key: SecretStr) -> Iterator[bool]:
        scope = current_scope()
        kept.extend([scope, key])
        yield True
        with opened_scope() as inner:
            yield current_scope() is inner
            yield current_scope() is inner
        yield current_scope() is scope

    with opened_scope() as mine:
        steps = generator()
        next(steps)
        scope, key = kept
        assert scope.parent is mine
        for right in steps:
            assert right
            assert readable(key)
            assert current_scope() is mine
        assert not readable(key)


def test_a_generator_is_whole() -> None:
    """Sent values, thrown exceptions and the return value pass through."""

    @inject(key="openai")
    def generator(key: SecretStr) -> Any:
        got = yield "first"
        try:
            yield got
        except LookupError:
            yield "caught"
        return readable(key)

    def outer() -> Any:
        returned = yield from generator()
        yield returned

    steps = outer()
    assert next(steps) == "first"
    assert steps.send("sent") == "sent"
    assert steps.throw(LookupError()) == "caught"
    assert next(steps) is True


def test_a_generator_left_early_closes() -> None:
    """Closing a generator runs its clean-up with the secret readable, then closes the scope."""
    kept: list[Any] = []
    held: list[Any] = []

    @inject(key="openai")
    def generator(key: SecretStr) -> Iterator[Any]:
        held.append(key)
        try:
            yield "first"
        finally:
            kept.append((readable(key), current_scope() is not None))

    steps = generator()
    next(steps)
    steps.close()
    assert kept == [(True, True)]
    assert not readable(held[0])
    failing = generator()
    next(failing)
    with pytest.raises(LookupError):
        failing.throw(LookupError())
    assert not readable(held[1])


async def test_an_async_generator_keeps_its_scope_to_itself() -> None:
    """Each step of an async generator runs in its scope, sends and throws pass through."""
    kept: list[Any] = []

    @inject(key="openai")
    async def generator(key: SecretStr) -> Any:
        kept.append((key, current_scope()))
        got = yield "first"
        with opened_scope() as inner:
            await asyncio.to_thread(lambda: None)
            try:
                yield got
            except LookupError:
                yield current_scope() is inner and readable(key)

    with opened_scope() as mine:
        steps = generator()
        await anext(steps)
        key, scope = kept[0]
        assert scope.parent is mine
        assert current_scope() is mine
        assert await steps.asend("sent") == "sent"
        assert current_scope() is mine
        assert await steps.athrow(LookupError()) is True
        assert current_scope() is mine
        with pytest.raises(StopAsyncIteration):
            await anext(steps)
        assert not readable(key)
        steps = generator()
        await anext(steps)
        key, _ = kept[1]
        assert readable(key)
        await steps.aclose()
        assert not readable(key)
        assert current_scope() is mine


async def test_an_async_generator_may_change_tasks() -> None:
    """Every step may run in a task of its own, as LangChain runs them."""

    @inject(key="openai")
    async def generator(key: SecretStr) -> Any:
        with opened_scope() as inner:
            for _ in range(2):
                yield readable(key) and current_scope() is inner

    steps = generator()
    for _ in range(2):
        assert await asyncio.create_task(anext(steps)) is True
    await asyncio.create_task(steps.aclose())
    assert current_scope() is None
