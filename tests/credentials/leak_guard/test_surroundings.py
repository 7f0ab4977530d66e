"""What outlives a node although it doesn't return it: environment, context, tags, traces."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from canary import KEY, Tracer, count
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.runtime import get_runtime
from langsmith import Client
from langsmith.run_helpers import get_current_run_tree
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode
from opentelemetry.trace.span import TraceState
from pydantic import BaseModel, ConfigDict, SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard.masking import MASK
from pipelit_agents.errors import SecretLeakError

NAME = "PIPELIT_TEST_API_KEY"
variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")


class State(TypedDict, total=False):
    x: Any
    y: Any


@dataclasses.dataclass
class Settings:
    extras: dict[str, Any]
    key: str = ""


@dataclasses.dataclass(slots=True)
class Slotted:
    key: str = ""


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    key: str = ""
    items: list[str] = []


class Plain:
    """A context of a class that is neither a dataclass nor a model."""

    key = ""


@pytest.fixture
def keyed(pipelit: Pipelit) -> Iterator[Pipelit]:
    """A credential is in the store, and the environment is as it was afterwards."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")
    yield pipelit
    os.environ.pop(NAME, None)


def run(pipelit: Pipelit, leave: Callable[[str], Any], **options: Any) -> dict[str, Any]:
    """Run a node that leaves its key somewhere, and one after it."""

    @pipelit.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        leave(key.get_secret_value())
        return {"x": 1}

    builder = StateGraph(State, context_schema=options.pop("schema", None))
    builder.add_node("node", node).add_node("after", options.pop("after", lambda state: {}))
    builder.add_edge(START, "node").add_edge("node", "after")
    graph = builder.compile(checkpointer=options.pop("saver", None))
    config = options.pop("config", {"configurable": {"thread_id": "1"}})
    found: dict[str, Any] = graph.invoke({"x": 0}, config, **options)
    return found


@pytest.mark.parametrize(
    "leave",
    [
        lambda key: os.environ.update({NAME: key}),
        lambda key: os.environ.update({NAME: f"Bearer {key}"}),
        lambda key: os.environ.update({NAME: key.encode().hex()}),
        lambda key: os.environ.__setitem__(key, "1"),
        lambda key: os.environ.setdefault(NAME, key),
    ],
)
def test_a_key_in_the_environment_is_refused_and_removed(
    keyed: Pipelit, leave: Callable[[str], Any]
) -> None:
    """A variable that a node set to its key is told, and isn't there after the node."""
    with pytest.raises(SecretLeakError, match=r"'service' was left in os\.environ") as caught:
        run(keyed, leave)
    assert not count(dict(os.environ), str(caught.value))


def test_the_environment_gets_its_own_value_back(keyed: Pipelit) -> None:
    """A variable that a node overwrote has its value from before."""
    os.environ[NAME] = "earlier"
    with pytest.raises(SecretLeakError):
        run(keyed, lambda key: os.environ.update({NAME: key}))
    assert os.environ[NAME] == "earlier"


def test_a_failing_node_leaves_nothing_in_the_environment(keyed: Pipelit) -> None:
    """The node's own error is told, and the environment is clean all the same."""

    def leave(key: str) -> None:
        os.environ[NAME] = key
        raise ConnectionError("no answer")

    with pytest.raises(ConnectionError, match="no answer"):
        run(keyed, leave)
    assert NAME not in os.environ


def test_a_key_that_was_in_the_environment_before_is_no_leak(keyed: Pipelit) -> None:
    """What the operator has put there isn't the node's doing, and stays."""
    os.environ[NAME] = KEY
    assert run(keyed, lambda key: os.environ.get(NAME))["x"] == 1
    assert os.environ[NAME] == KEY


def test_a_key_in_the_environment_for_a_moment_is_no_leak(keyed: Pipelit) -> None:
    """A node may set a variable and remove it, and may leave other values there."""

    def leave(key: str) -> None:
        os.environ[NAME] = key
        os.environ[NAME] = "harmless"

    assert run(keyed, leave)["x"] == 1
    assert os.environ[NAME] == "harmless"


async def test_async_nodes_and_blocks_are_watched_too(keyed: Pipelit) -> None:
    """The environment is compared at the end of async nodes and of `reveal`, too."""

    @keyed.credentials.inject(key="service")
    async def node(state: State, *, key: SecretStr) -> State:
        os.environ[NAME] = key.get_secret_value()
        return {"x": 1}

    async def reveals(state: State) -> State:
        async with keyed.credentials.areveal("service") as key:
            os.environ[NAME] = key.get_secret_value()
        return {"x": 1}

    for each in (node, keyed.credentials.guard(reveals)):
        graph = StateGraph(State).add_node("node", each).add_edge(START, "node").compile()
        with pytest.raises(SecretLeakError, match=r"os\.environ"):
            await graph.ainvoke({"x": 0})
        assert NAME not in os.environ


@pytest.mark.parametrize(
    ("schema", "context", "change"),
    [
        (Settings, Settings({}), lambda made, key: made.extras.update(k=key)),
        (Settings, Settings({}), lambda made, key: made.extras.update({key: 1})),
        (Settings, Settings({"a": [{"b": []}]}), lambda made, key: made.extras["a"].append(key)),
        (Settings, Settings({"a": (1, [])}), lambda made, key: made.extras["a"][1].append(key)),
        (Settings, Settings({"a": set()}), lambda made, key: made.extras["a"].add(key)),
        (Settings, Settings({"a": deque()}), lambda made, key: made.extras["a"].append(key)),
        (Settings, Settings({}), lambda made, key: setattr(made, "key", f"Bearer {key}")),
        (Settings, Settings({}), lambda made, key: setattr(made, "later", key)),
        (Settings, Settings({}), lambda made, key: made.extras.update(k=(key.encode(), 1))),
        (Slotted, Slotted(), lambda made, key: setattr(made, "key", key)),
        (Model, Model(), lambda made, key: setattr(made, "key", key)),
        (Model, Model(), lambda made, key: made.items.append(key)),
        (Model, Model(), lambda made, key: setattr(made, "extra", key)),
        (Plain, Plain(), lambda made, key: setattr(made, "key", key)),
        (Plain, SimpleNamespace(a={}), lambda made, key: made.a.update(k=key)),
        (dict, {"a": {}}, lambda made, key: made["a"].update(k=key)),
    ],
)
def test_a_key_in_the_runs_context_is_refused(
    keyed: Pipelit, schema: Any, context: Any, change: Callable[[Any, str], Any]
) -> None:
    """What a node writes into the run's context is told, and no later node or checkpoint has it."""
    saver = InMemorySaver()

    def after(state: State) -> State:
        return {"y": repr(get_runtime().context)}

    with pytest.raises(SecretLeakError, match=r"'service' was left in runtime\.context"):
        run(
            keyed,
            lambda key: change(get_runtime().context, key),
            schema=schema,
            context=context,
            saver=saver,
            after=after,
        )
    shown = vars(context) if hasattr(context, "__dict__") else context
    assert not count(shown, repr(context), dict(saver.storage), dict(saver.blobs))


def test_a_context_that_held_the_key_before_is_no_leak(keyed: Pipelit) -> None:
    """What the caller has given isn't the node's doing, and isn't changed."""
    context = Settings({"k": KEY}, key=f"Bearer {KEY}")

    def change(key: str) -> None:
        get_runtime(Settings).context.extras["calls"] = 1

    assert run(keyed, change, schema=Settings, context=context)["x"] == 1
    assert context == Settings({"k": KEY, "calls": 1}, key=f"Bearer {KEY}")


class InSlots:
    __slots__ = ("kept", "key")


class InFrozenSlots(InSlots):
    __slots__ = ("__own",)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError

    def take(self, key: str) -> None:
        object.__setattr__(self, "_InFrozenSlots__own", key)


@pytest.mark.parametrize(
    ("make", "change", "name"),
    [
        (InSlots, lambda made, key: setattr(made, "key", f"Bearer {key}"), "key"),
        (InSlots, lambda made, key: setattr(made, "kept", {"k": [key]}), "kept"),
        (InFrozenSlots, lambda made, key: made.take(key), "_InFrozenSlots__own"),
    ],
)
def test_a_key_in_a_slot_of_the_context_is_refused(
    keyed: Pipelit, make: Any, change: Callable[[Any, str], Any], name: str
) -> None:
    """A context of a class without a dictionary is data, too."""
    context = make()
    with pytest.raises(SecretLeakError, match=r"'service' was left in runtime\.context"):
        run(
            keyed,
            lambda key: change(get_runtime().context, key),
            schema=make,
            context=context,
        )
    assert MASK in repr(getattr(context, name))
    assert KEY not in repr(getattr(context, name))


def test_a_client_in_the_context_may_hold_its_key(keyed: Pipelit) -> None:
    """Only data is searched: an object that a node connects with its key is used by later nodes."""

    class Client:
        token = ""

    context = Settings({"client": Client()})

    def change(key: str) -> None:
        get_runtime(Settings).context.extras["client"].token = key

    assert run(keyed, change, schema=Settings, context=context)["x"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda config, key: config["tags"].append(key),
        lambda config, key: config["metadata"].update(k=key),
        lambda config, key: config["metadata"]["nested"].update(k=key),
        lambda config, key: config["configurable"]["nested"].update(k=key),
        lambda config, key: config.update(run_name=key),
        lambda config, key: config["callbacks"].add_tags([key]),
        lambda config, key: config["callbacks"].add_metadata({"k": key}),
    ],
)
def test_a_key_in_the_configuration_goes_nowhere(
    keyed: Pipelit, change: Callable[[Any, str], Any]
) -> None:
    """Tags, metadata and configurable of the graph's own run don't get what a node adds to them."""

    @keyed.credentials.inject(key="service")
    def node(state: State, config: RunnableConfig, *, key: SecretStr) -> State:
        change(config, key.get_secret_value())
        return {"x": 1}

    saver, tracer = InMemorySaver(), Tracer()
    builder = StateGraph(State).add_node("node", node).add_node("after", lambda state: {"y": 1})
    graph = builder.add_edge(START, "node").add_edge("node", "after").compile(checkpointer=saver)
    given: Any = {
        "tags": ["t"],
        "metadata": {"nested": {}},
        "configurable": {"thread_id": "1", "nested": {}},
        "callbacks": [tracer],
    }
    seen: list[Any] = []

    async def watch() -> None:
        seen.extend([each async for each in graph.astream_events({"x": 0}, given, version="v2")])

    with suppress(SecretLeakError):
        modes = ["values", "updates", "debug", "messages", "tasks", "checkpoints"]
        seen.extend(graph.stream({"x": 0}, given, stream_mode=modes))
        asyncio.run(watch())
    assert seen
    assert not count(seen, tracer.seen, given, dict(saver.storage), dict(saver.blobs))


@pytest.mark.parametrize("make", [str, lambda key: {"k": [key]}, lambda key: (key.encode(),)])
def test_a_key_in_a_context_variable_is_refused(keyed: Pipelit, make: Callable[[str], Any]) -> None:
    """Where no graph runs the function in a context of its own, a variable would keep the key."""
    variable.set("before")

    @keyed.credentials.inject(key="service")
    def work(*, key: SecretStr) -> None:
        variable.set(make(key.get_secret_value()))

    with pytest.raises(SecretLeakError, match="the context variable 'variable'"):
        work()
    assert variable.get() == "before"


@pytest.mark.parametrize(
    ("kept", "change"),
    [
        ({"user": "a"}, lambda kept, key: kept.update(token=key)),
        ({"user": {}}, lambda kept, key: kept["user"].update({key: 1})),
        ([["a"]], lambda kept, key: kept[0].append(f"Bearer {key}")),
        ({"a"}, lambda kept, key: kept.add(key)),
        (deque(["a"]), lambda kept, key: kept.appendleft(key)),
        ({"a": "b"}, lambda kept, key: (kept.update(a=key), variable.set("another"))),
        ({"a": "b"}, lambda kept, key: (kept.update(a=key), variable.set(dict(kept)))),
    ],
)
def test_what_a_context_variable_holds_is_not_changed_to_hold_a_key(
    keyed: Pipelit, kept: Any, change: Callable[[Any, str], Any]
) -> None:
    """A request's dictionary that the whole application refers to is changed in place."""
    variable.set(kept)

    @keyed.credentials.inject(key="service")
    def work(*, key: SecretStr) -> None:
        change(kept, key.get_secret_value())

    with pytest.raises(SecretLeakError, match="the context variable 'variable'"):
        work()
    assert KEY not in repr([kept, variable.get()])

    # What stood there before the node isn't its doing.
    variable.set(given := {"token": KEY})
    keyed.credentials.inject(key="service")(lambda *, key: given.update(calls=1))()
    assert variable.get() == {"token": KEY, "calls": 1}


def test_a_context_variable_without_a_value_before_is_masked(keyed: Pipelit) -> None:
    """It can't be unset again, so it gets what is masked."""
    fresh: contextvars.ContextVar[str] = contextvars.ContextVar("fresh")

    @keyed.credentials.inject(key="service")
    def work(*, key: SecretStr) -> None:
        fresh.set(f"Bearer {key.get_secret_value()}")

    with pytest.raises(SecretLeakError):
        work()
    assert fresh.get() == "Bearer ****"


def test_threads_and_tasks_are_not_named_after_a_key(keyed: Pipelit) -> None:
    """Logs show the names of threads and tasks."""
    thread = threading.current_thread()
    before = thread.name

    def rename(key: str) -> None:
        thread.name = f"calls with {key}"

    with pytest.raises(SecretLeakError, match="the name of a thread"):
        run(keyed, rename)
    assert thread.name == "calls with ****"
    thread.name = before

    @keyed.credentials.inject(key="service")
    async def work(*, key: SecretStr) -> None:
        asyncio.current_task().set_name(key.get_secret_value())  # type: ignore[union-attr]

    async def main() -> str:
        with pytest.raises(SecretLeakError, match="the name of an asyncio task"):
            await work()
        return asyncio.current_task().get_name()  # type: ignore[union-attr]

    assert asyncio.run(main()) == "****"


@pytest.mark.parametrize(
    "leave",
    [
        lambda span, key: span.set_attribute("header", key),
        lambda span, key: span.update_name(f"call {key}"),
        lambda span, key: span.set_attributes({"headers": ["a", key]}),
        lambda span, key: span.set_status(StatusCode.ERROR, f"401 for {key}"),
    ],
)
def test_a_span_that_goes_on_after_the_node_has_no_key(keyed: Pipelit, leave: Any) -> None:
    """A span of the caller's ends after the node, when no processor knows the secret any more."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("app").start_as_current_span(
        "request", record_exception=False
    ) as span:
        with pytest.raises(SecretLeakError, match="the current span"):
            run(keyed, lambda key: leave(span, key))
        span.set_attribute("honest", "yes")
    (ended,) = exporter.get_finished_spans()
    assert not count(ended.to_json())
    assert ended.attributes is not None
    assert ended.attributes["honest"] == "yes"


@pytest.mark.parametrize(
    "leave",
    [
        lambda span, key: span.add_event("call", {"header": key}),
        lambda span, key: span.add_event(key),
        lambda span, key: span.add_link(SpanContext(1, 2, is_remote=False), {"header": key}),
        lambda span, key: span.add_link(
            SpanContext(1, 2, is_remote=False, trace_state=TraceState([("app", key)]))
        ),
    ],
)
def test_what_cannot_be_taken_out_of_a_span_is_refused(keyed: Pipelit, leave: Any) -> None:
    """An event and a link of the caller's span stay, so the error is what the caller gets."""
    tracer = TracerProvider().get_tracer("app")
    with (
        tracer.start_as_current_span("request", record_exception=False) as span,
        pytest.raises(SecretLeakError, match="the current span"),
    ):
        run(keyed, lambda key: leave(span, key))


@pytest.mark.parametrize(
    "leave",
    [
        lambda tree, key: tree.add_metadata({"k": key}) or tree.add_tags([key]),
        lambda tree, key: tree.add_outputs({"k": key}),
        lambda tree, key: tree.add_inputs({"k": key}),
        lambda tree, key: tree.add_event({"name": key}),
        lambda tree, key: setattr(tree, "error", f"401 for {key}"),
    ],
    ids=["metadata", "outputs", "inputs", "event", "error"],
)
def test_langsmiths_run_of_the_node_has_no_key(keyed: Pipelit, leave: Any) -> None:
    """What a node adds to its own traced run is sent when it has ended."""
    sent: list[Any] = []

    class Recording(Client):
        def create_run(self, *args: Any, **kwargs: Any) -> None:
            sent.append(repr((args, kwargs)))

        def update_run(self, *args: Any, **kwargs: Any) -> None:
            sent.append(repr((args, kwargs)))

    client = Recording(api_url="http://127.0.0.1:9", api_key="test", auto_batch_tracing=False)

    def add(key: str) -> None:
        tree = get_current_run_tree()
        assert tree is not None
        leave(tree, key)

    tracer = LangChainTracer(client=client)
    with pytest.raises(SecretLeakError, match="LangSmith's run"):
        run(keyed, add, config={"configurable": {"thread_id": "1"}, "callbacks": [tracer]})
    tracer.wait_for_futures()
    assert sent
    assert not count(sent)


def test_state_updated_inside_a_node_is_refused_by_a_sealed_saver(keyed: Pipelit) -> None:
    """`update_state` saves past the node's guards; a sealed saver knows what is open."""
    other_saver = InMemorySaver()
    builder = StateGraph(State).add_node("n", lambda state: {}).add_edge(START, "n")
    other = builder.compile(checkpointer=keyed.sealed_saver(other_saver))
    where: Any = {"configurable": {"thread_id": "9"}}

    def update(key: str) -> None:
        other.update_state(where, {"x": f"Bearer {key}"})

    with pytest.raises(SecretLeakError, match="the state that the node saves"):
        run(keyed, update)
    assert run(keyed, lambda key: other.update_state(where, {"x": "honest"}))["x"] == 1
    assert other.get_state(where).values == {"x": "honest"}

    @keyed.credentials.inject(key="service")
    async def node(state: State, *, key: SecretStr) -> State:
        await other.aupdate_state(where, {"x": key.get_secret_value()})
        return {}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
    with pytest.raises(SecretLeakError, match="the state that the node saves"):
        asyncio.run(graph.ainvoke({"x": 0}))
