"""What stood in a node's input before it ran: it may be given back, and tells nobody anything."""

from __future__ import annotations

import base64
import json
import operator
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import pytest
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, StreamWriter, interrupt
from pydantic import BaseModel, SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard.node_input import NodeInput
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.written import Written, written
from pipelit_agents.errors import SecretLeakError

# Weak enough to be guessed, and of two parts.
SECRET = "summer 2026!"
GUESSES = [f"{season} {year}!" for season in ("spring", "summer") for year in range(1000, 4000)]


class State(TypedDict, total=False):
    x: Any
    y: Any
    messages: Annotated[list[Any], add_messages]
    list: Annotated[list[Any], operator.add]


@pytest.fixture
def keyed(pipelit: Pipelit) -> Pipelit:
    """A credential is in the store."""
    pipelit.credentials.put("service", SECRET, kind="api", created_by="alice")
    return pipelit


def graph_of(node: Any, **options: Any) -> Any:
    """A graph of this node alone."""
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile(**options)


class Form(BaseModel):
    """A state's part with a text."""

    text: str


HONEST: dict[str, Callable[[str], Any]] = {
    "itself": lambda x: x,
    "again and again": lambda x: [x, x + x, {x: x}],
    "with more": lambda x: f"You asked: {x}?",
    "a part": lambda x: x[:4000] + "…",
    "its lines": str.splitlines,
    "each line with more": lambda x: [f"'{each}'" for each in x.splitlines()],
    "a line with more": lambda x: f"Searching for {x.splitlines()[-1]}.",
    "a message": lambda x: AIMessage(f"I see: {x}"),
    "a model": lambda x: Form(text=x.strip()),
    "JSON": lambda x: json.dumps({"asked": x.splitlines()}),
    "its repr": lambda x: repr({"asked": [x]}),
    "a URL": lambda x: f"https://search.example/?q={quote(x.splitlines()[-1], safe='')}",
    "base64": lambda x: base64.b64encode(x.splitlines()[-1].encode()).decode(),
    "hexadecimal": lambda x: x.splitlines()[-1].encode().hex(),
    "bytes": lambda x: x.encode(),
    "a command": lambda x: Command(update={"y": x}),
}


@pytest.mark.parametrize("answer", HONEST)
def test_what_was_given_may_be_given_back(keyed: Pipelit, answer: str) -> None:
    """However an honest node uses its input, a right guess in it changes nothing."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        made = HONEST[answer](state["x"])
        return made if isinstance(made, Command) else {"y": made}

    for guesses in (["spring 2026!"], [SECRET], [*GUESSES, "autumn 2026!"], [*GUESSES, SECRET]):
        text = "\n".join(guesses)
        made = node({"x": text})
        expected = HONEST[answer](text)
        assert isinstance(made, Command) or made["y"] == expected


def test_sixty_thousand_guesses_tell_nothing(keyed: Pipelit) -> None:
    """Guesses in a thread, also of the whole secret, never end the run, and stay as they were."""

    @keyed.credentials.inject(key="service")
    def node(state: State, writer: StreamWriter, *, key: SecretStr) -> Any:
        writer(state["x"][-1])
        return {"y": state["x"][1:], "messages": [AIMessage(state["x"][-1])]}

    graph = graph_of(node, checkpointer=InMemorySaver())
    guesses = [f"guess {n}" for n in range(60_000)]
    given = {"x": [*guesses, SECRET], "messages": [HumanMessage(f"is it {SECRET}?", id="1")]}
    config: Any = {"configurable": {"thread_id": "1"}}
    chunks = list(graph.stream(given, config, stream_mode=["custom", "updates"]))
    assert chunks[0] == ("custom", SECRET)
    assert graph.invoke({"messages": ["go on"]}, config)["y"][-1] == SECRET
    assert given["messages"][0].content == f"is it {SECRET}?"
    assert given["x"][-1] == SECRET


LEAKS: dict[str, Callable[[str, Any], Any]] = {
    "the secret": lambda key, state: key,
    "in a list": lambda key, state: [*state["x"], key],
    "in a message": lambda key, state: [HumanMessage(state["x"][0]), AIMessage(key)],
    "as a name": lambda key, state: {key: 1},
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("known", [SECRET, f"is it {SECRET}?"])
def test_the_secret_itself_is_no_copy(keyed: Pipelit, leak: str, known: str) -> None:
    """A node that returns its secret is refused, also where the input has the same text."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        return {"y": LEAKS[leak](key.get_secret_value(), state)}

    with pytest.raises(SecretLeakError) as caught:
        node({"x": [known]})
    assert caught.value.path.startswith("y")


def test_what_is_known_is_one_part_of_a_secret(pipelit: Pipelit) -> None:
    """A word of a secret in a thread stops no node, and excuses nothing else of the secret."""
    secret = "postgresql://app:correct-horse@db.example/app"
    pipelit.credentials.put("db", secret, kind="sql", created_by="alice")
    pipelit.credentials.put("other", "another-secret", kind="sql", created_by="alice")

    @pipelit.credentials.inject(db="db", other="other")
    def node(state: State, *, db: SecretStr, other: SecretStr) -> Any:
        plain = {"db": db.get_secret_value(), "other": other.get_secret_value()}
        return {"y": f"said {state['x']}; {state['y'].format(**plain)}"}

    assert node({"x": "correct-horse", "y": ""})["y"] == "said correct-horse; "
    for leak in ("at {db}", "at {other}"):
        with pytest.raises(SecretLeakError):
            node({"x": "correct-horse", "y": leak})


def test_what_the_node_writes_into_the_state_was_not_given(keyed: Pipelit) -> None:
    """A change in place is found and masked; what stood beside it is the caller's, and stays."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        state["x"].append(f"Bearer {key.get_secret_value()}")
        state["messages"][0].additional_kwargs["k"] = key.get_secret_value()
        return {"y": state["x"]}

    said = HumanMessage("please reset my password: spring 2026!")
    given: Any = {"x": ["spring 2026!"], "messages": [said]}
    with pytest.raises(SecretLeakError, match="the node's input"):
        node(given)
    assert given["x"] == ["spring 2026!", "Bearer ****"]
    assert said.content == "please reset my password: spring 2026!"
    assert said.additional_kwargs == {"k": "****"}


def test_a_state_that_was_written_to_and_returned_is_masked(keyed: Pipelit) -> None:
    """Also where the node's own error, or another leak, ends it."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        state["x"].append(key.get_secret_value())
        if state["y"]:
            raise LookupError("elsewhere")
        return {"y": key.get_secret_value()}

    for fail, error in ((0, SecretLeakError), (1, LookupError)):
        given: Any = {"x": [], "y": fail}
        with pytest.raises(error):
            node(given)
        assert given["x"] == ["****"]


@pytest.mark.parametrize("text", ["spring 2026!", SECRET])
def test_an_exception_may_say_what_was_given(keyed: Pipelit, text: str) -> None:
    """A mask in an exception would tell that a guess is right."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        try:
            {}[state["x"]]
        except KeyError as error:
            raise ValueError(f"bad question {state['x']!r}", {"was": [state["x"]]}) from error

    with pytest.raises(ValueError, match="bad question") as caught:
        node({"x": text})
    assert caught.value.args == (f"bad question {text!r}", {"was": [text]})
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.args == (text,)


def test_an_exception_still_loses_what_was_not_given(keyed: Pipelit) -> None:
    """The input of one call excuses nothing in another."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        raise ConnectionError(f"401 for {key.get_secret_value()} and {state['x']}")

    for text in (SECRET, "spring 2026!"):
        with pytest.raises(ConnectionError) as caught:
            node({"x": text})
    assert str(caught.value) == "401 for **** and spring 2026!"


async def test_every_kind_of_function_may_give_back_what_it_was_given(keyed: Pipelit) -> None:
    """Generators, coroutines, and what is sent into a generator."""
    inject = keyed.credentials.inject(key="service")

    @inject
    def generator(state: State, *, key: SecretStr) -> Any:
        sent = yield {"y": state["x"]}
        yield {"y": f"sent {sent}"}
        return {"y": [state["x"]]}

    @inject
    async def coroutine(state: State, *, key: SecretStr) -> Any:
        return {"y": f"said {state['x']}"}

    @inject
    async def agenerator(state: State, *, key: SecretStr) -> Any:
        yield {"y": f"said {state['x']}"}

    steps = generator({"x": SECRET})
    assert next(steps) == {"y": SECRET}
    assert steps.send(SECRET) == {"y": f"sent {SECRET}"}
    assert next(iter(generator({"x": SECRET}))) == {"y": SECRET}
    steps = generator({"x": "nothing"})
    next(steps)
    assert steps.send(SECRET) == {"y": f"sent {SECRET}"}
    assert (await coroutine({"x": SECRET}))["y"] == f"said {SECRET}"
    assert [each async for each in agenerator({"x": SECRET})] == [{"y": f"said {SECRET}"}]


def test_what_runs_inside_is_given_it_too(keyed: Pipelit) -> None:
    """Runnables in the node, a reveal in it and a function with the same secret."""

    @keyed.credentials.inject(key="service")
    def helper(question: str, *, key: SecretStr) -> str:
        return f"helped with {question}"

    @keyed.credentials.guard
    def node(state: State, writer: StreamWriter, config: RunnableConfig) -> Any:
        with keyed.credentials.reveal("service"):
            writer(f"said {state['x']}")
            made = RunnableLambda(lambda text: f"ran with {text}").invoke(state["x"], config)
            return {"y": [made, helper(made)]}

    graph = graph_of(node)
    assert graph.invoke({"x": SECRET})["y"][1] == f"helped with ran with {SECRET}"


def test_tools_may_give_back_what_they_were_given(keyed: Pipelit) -> None:
    """Arguments of a model, the injected state, and the runtime's."""

    @tool
    @keyed.credentials.inject(key="service")
    def look(
        q: str,
        state: Annotated[dict[str, Any], InjectedState],
        runtime: ToolRuntime,
        *,
        key: SecretStr,
    ) -> str:
        """Looks."""
        return f"{q}, {state['x']}, {runtime.state['y']}"

    nodes = ToolNode([look], handle_tool_errors=False)
    for args, more in (
        (SECRET, {"x": "a", "y": "b"}),
        ("a", {"x": SECRET, "y": "b"}),
        ("a", {"x": "b", "y": SECRET}),
    ):
        call = {"name": "look", "args": {"q": args}, "id": "1", "type": "tool_call"}
        made = graph_of(nodes).invoke({"messages": [AIMessage("", tool_calls=[call])], **more})
        assert isinstance(made["messages"][-1], ToolMessage)
        assert SECRET in made["messages"][-1].content


def test_answers_and_stored_values_may_be_given_back(keyed: Pipelit) -> None:
    """What interrupt() returns, what a store holds, and the context of a run."""

    @keyed.credentials.inject(key="service")
    def node(
        state: State,
        store: BaseStore,
        runtime: Runtime[Any],
        config: RunnableConfig,
        *,
        key: SecretStr,
    ) -> Any:
        answers = [interrupt("first?"), interrupt("second?")]
        stored = store.get(("a",), "k")
        assert stored is not None
        store.put(("b",), "k", {"v": f"as stored: {stored.value['v']}"})
        found = [each.value["v"] for each in store.search(("a",))]
        tenant = config["configurable"]["tenant"]
        return {"y": f"{answers} {stored.value} {found} {runtime.context} {tenant}"}

    def run(*, store: str = "a", context: str = "b", tenant: str = "c", answer: str = "d") -> str:
        kept = InMemoryStore()
        kept.put(("a",), "k", {"v": store})
        graph = graph_of(node, store=kept, checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "1", "tenant": tenant}}
        graph.invoke({}, config, context={"c": context})
        graph.invoke(Command(resume=answer), config, context={"c": context})
        made: str = graph.invoke(Command(resume=answer), config, context={"c": context})["y"]
        return made

    for place in ("store", "context", "tenant", "answer"):
        assert SECRET in run(**{place: f"it is {SECRET}"})


async def test_a_store_that_is_awaited_gives_back_as_well(keyed: Pipelit) -> None:
    """The asynchronous methods of a store are the same way in."""

    @keyed.credentials.inject(key="service")
    async def node(state: State, store: BaseStore, *, key: SecretStr) -> Any:
        stored = await store.aget(("a",), "k")
        found = await store.asearch(("a",))
        assert stored is not None
        return {"y": [f"{stored.value}", f"{found[0].value}"]}

    store = InMemoryStore()
    store.put(("a",), "k", {"v": SECRET})
    assert SECRET in (await graph_of(node, store=store).ainvoke({}))["y"][0]


def conversation() -> Any:
    """A graph with a memory of its own, which a node calls."""
    graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": [("ai", "hello")]})
    return graph.add_edge(START, "say").compile(checkpointer=True)


@pytest.mark.parametrize("guess", [SECRET, "winter 2026!"])
async def test_a_thread_inside_a_node_may_hold_a_word_of_the_secret(
    keyed: Pipelit, guess: str
) -> None:
    """What a subgraph's memory held before the turn tells nothing, and stops no later turn."""
    inner = conversation()

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        return {"y": inner.invoke({"messages": [("user", state["x"])]})["messages"][-2].content}

    @keyed.credentials.inject(key="service")
    async def anode(state: State, *, key: SecretStr) -> Any:
        made = await inner.ainvoke({"messages": [("user", state["x"])]})
        return {"y": made["messages"][-2].content}

    config: Any = {"configurable": {"thread_id": "1"}}
    for each in (node, anode):
        graph = graph_of(each, checkpointer=InMemorySaver())
        for text in (f"it is {guess}", "hi", "hi again"):
            assert (await graph.ainvoke({"x": text}, config))["y"] == text


async def test_past_states_may_be_given_back(keyed: Pipelit) -> None:
    """A node may read the history of the thread that it runs in."""
    inner = conversation()
    config: Any = {"configurable": {"thread_id": "1"}}

    @keyed.credentials.inject(key="service")
    async def node(state: State, *, key: SecretStr) -> Any:
        saver = get_config()["configurable"]["__pregel_checkpointer"]
        past = [each.checkpoint async for each in saver.alist(config)]
        assert [each.checkpoint["id"] for each in saver.list(config)] == [e["id"] for e in past]
        return {"y": past}

    def first(state: State) -> Any:
        inner.invoke({"messages": [("user", f"it is {SECRET}")]})

    saver = InMemorySaver()
    graph_of(first, checkpointer=saver).invoke({"x": f"it is {SECRET}"}, config)
    made = await graph_of(node, checkpointer=saver).ainvoke({"x": "hi"}, config)
    assert SECRET in repr(made["y"])


def test_a_memory_inside_a_node_is_still_searched(keyed: Pipelit) -> None:
    """What a subgraph adds to a thread is refused, though another secret's word stands there."""
    keyed.credentials.put("other", "another-0123456789", kind="api", created_by="alice")
    inner = conversation()

    @keyed.credentials.inject(key="service", other="other")
    def node(state: State, *, key: SecretStr, other: SecretStr) -> Any:
        inner.invoke({"messages": [("user", other.get_secret_value() if state["y"] else SECRET)]})

    saver = InMemorySaver()
    graph, config = graph_of(node, checkpointer=saver), {"configurable": {"thread_id": "1"}}
    graph.invoke({"x": SECRET, "y": False}, config)
    with pytest.raises(SecretLeakError, match="'other'"):
        graph.invoke({"x": "", "y": True}, config)
    assert "another-0123456789" not in repr([saver.storage, saver.writes, saver.blobs])


def test_a_middleware_of_ones_own_may_give_back_what_it_was_called_with(keyed: Pipelit) -> None:
    """An injected function that wraps a model's call is given its messages."""

    class Request:
        def __init__(self, text: str) -> None:
            self.messages = [HumanMessage(text)]
            self.state = {"messages": self.messages}
            self.runtime = Runtime()

    @keyed.credentials.inject(key="service")
    def call(request: Any, handler: Any, *, key: SecretStr) -> Any:
        return AIMessage(f"You said {request.messages[0].content}")

    assert wrap_model_call(call) is not None
    assert SECRET in call(Request(SECRET), None).content


def test_a_large_input_is_compared_when_it_matters(
    keyed: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input that isn't searched always gives the same answers."""
    monkeypatch.setattr("pipelit_agents.credentials.leak_guard.node_input._MAX_ALWAYS_SEARCHED", 0)

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        if state.get("y"):
            return {"y": f"Bearer {key.get_secret_value()}"}
        return {"y": f"said {state['x']}"}

    assert node({"x": SECRET})["y"] == f"said {SECRET}"
    assert node({"x": "spring 2026!"})["y"] == "said spring 2026!"
    with pytest.raises(SecretLeakError):
        node({"x": "spring 2026!", "y": 1})


def test_a_right_guess_takes_no_other_work_than_a_wrong_one(keyed: Pipelit) -> None:
    """As many forms are searched for, in as much, whether or not one of them is known."""
    every = Patterns({SECRET: "service"})
    work = []
    for text in ("winter 2026!", SECRET):
        given = NodeInput()
        given.add({"x": text})
        assert given.is_small(every)
        sought = every.without(given.known(every))
        work.append(
            (
                len(sought._shortest) + len(sought._known),
                len(sought._shortest_texts) + len(sought._known_texts),
            )
        )
        assert written(text).holds_any(sought) is False
    assert work[0] == work[1]
    assert len(every.without(set())._known) == 0


@pytest.mark.parametrize("opened", ["injected", "revealed for each"])
def test_what_a_node_reads_is_searched_once(
    keyed: Pipelit, opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may read one item after the other, and report each."""
    searched: list[object] = []
    forms_in = Written.forms_in

    def counting(self: Written, forms: list[bytes]) -> set[bytes]:
        searched.append(self)
        return forms_in(self, forms)

    monkeypatch.setattr(Written, "forms_in", counting)
    store = InMemoryStore()
    for number in range(200):
        store.put(("notes",), str(number), {"text": f"a note with the number {number}"})

    def work(store: BaseStore, writer: Any) -> None:
        for number in range(200):
            store.get(("notes",), str(number))
            writer({"read": number})

    @keyed.credentials.inject(key="service")
    def injected(*, store: BaseStore, writer: Any, key: SecretStr) -> None:
        work(store, writer)

    @keyed.credentials.guard
    def revealing(*, store: BaseStore, writer: Any) -> None:
        for number in range(200):
            store.get(("notes",), str(number))
            with keyed.credentials.reveal("service"):
                RunnableLambda(str).invoke(number)

    (injected if opened == "injected" else revealing)(store=store, writer=lambda _: None)
    assert len(searched) < 200 * 4


def test_what_is_read_after_a_search_is_known_too(keyed: Pipelit) -> None:
    """Also what an inner block reads, and what was read before it."""
    store = InMemoryStore()
    store.put(("notes",), "a", {"text": SECRET})
    sent: list[object] = []

    @keyed.credentials.guard
    def node(*, store: BaseStore, writer: Any) -> Any:
        with keyed.credentials.reveal("service") as key:
            with pytest.raises(SecretLeakError):
                writer(key.get_secret_value() + "!")
            store.get(("notes",), "a")
            writer(f"it says {SECRET}")
        return f"it said {SECRET}"

    assert node(store=store, writer=sent.append) == f"it said {SECRET}"
    assert sent == [f"it says {SECRET}"]


def test_what_was_known_to_one_call_is_not_known_to_the_next(keyed: Pipelit) -> None:
    """Nothing of an input is kept when its node has ended."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        return {"y": f"Bearer {key.get_secret_value()}"}

    node({"x": SECRET})
    with pytest.raises(SecretLeakError):
        node({"x": "a"})


def test_reducers_may_give_back_a_whole_thread(keyed: Pipelit) -> None:
    """Old messages in a returned list are no leak, and a new one with the secret is."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        new = AIMessage(key.get_secret_value() if state.get("y") else "fine")
        return {"messages": [*state["messages"], new]}

    graph = graph_of(node)
    old = [HumanMessage(f"{SECRET} {n}", id=str(n)) for n in range(400)]
    assert graph.invoke({"messages": old})["messages"][-1].content == "fine"
    with pytest.raises(SecretLeakError):
        graph.invoke({"messages": [HumanMessage("hello")], "y": 1})
