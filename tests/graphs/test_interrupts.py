"""A local child's interrupts: who asks, how they are answered, and what a child can't ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import GraphInterrupt, NodeInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Interrupt, interrupt
from pydantic import SecretStr
from spawning import (
    CANARY,
    NAME,
    THREAD,
    Lead,
    Work,
    graph_of,
    hostile,
    parent_of,
    parents_own,
    tasks,
)

from pipelit_agents import Agent, Pipelit
from pipelit_agents.graphs import asking_agent, spawn_and_await, verified_child

OTHER = "agent_other"


@pytest.fixture
def other(pipelit: Pipelit) -> Agent:
    """Another child's agent."""
    pipelit.users.create_agent(OTHER, owner="alice", purpose="looks other things up")
    return pipelit.agent(OTHER)


def _postgres(stack: ExitStack, request: pytest.FixtureRequest) -> Any:
    url = request.getfixturevalue("postgres_url").replace("postgresql+psycopg://", "postgresql://")
    made = stack.enter_context(PostgresSaver.from_conn_string(url))
    made.setup()
    return made


def _sqlite(stack: ExitStack, request: pytest.FixtureRequest) -> Any:
    path = request.getfixturevalue("tmp_path") / "checkpoints.db"
    return stack.enter_context(SqliteSaver.from_conn_string(str(path)))


SAVERS: dict[str, Callable[..., Any]] = {
    "memory": lambda *_: InMemorySaver(),
    "sqlite": _sqlite,
    "postgres": _postgres,
}


@pytest.fixture(params=SAVERS)
def saver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each kind of saver."""
    with ExitStack() as stack:
        yield SAVERS[request.param](stack, request)


def asking(question: Any) -> Any:
    """A child's graph that asks before it answers."""
    return graph_of(lambda _: {"a": interrupt(question)})


def ids(state: Any) -> dict[Any, str]:
    """The interrupts that wait: question and id."""
    return {each.value: each.id for each in state["__interrupt__"]}


def both(first: Any, second: Any) -> Any:
    """A task for each of two children."""
    given = ((NAME, first), (OTHER, second))
    return {"tasks": [{"agent": agent, "input": {"q": q}} for agent, q in given]}


# Asked and answered


def test_a_question_is_answered_by_its_id_and_by_value(
    lead: Agent, researcher: Agent, other: Agent, saver: Any
) -> None:
    """Two children of two agents: one is answered by id, the last one by a value alone."""
    children = {
        NAME: verified_child(asking("mine?"), researcher),
        OTHER: verified_child(asking("yours?"), other),
    }
    graph = parent_of(lead, children, saver)
    state = graph.invoke(both(1, 2), THREAD)
    asked = {each.value: asking_agent(each) for each in state["__interrupt__"]}
    assert asked == {"mine?": NAME, "yours?": OTHER}
    waiting = graph.get_state(THREAD).interrupts
    assert {each.value: asking_agent(each) for each in waiting} == asked
    state = graph.invoke(Command(resume={ids(state)["yours?"]: "B"}), THREAD)
    assert list(ids(state)) == ["mine?"]
    state = graph.invoke(Command(resume="A"), THREAD)
    assert [each["output"]["a"] for each in state["results"]] == ["A", "B"]
    assert [each["status"] for each in state["results"]] == ["verified", "verified"]


def _two_at_once() -> Any:
    builder = StateGraph(Work)
    builder.add_node("left", lambda _: {"q": interrupt("left?")})
    builder.add_node("right", lambda _: {"a": interrupt("right?")})
    builder.add_edge(START, "left")
    builder.add_edge(START, "right")
    return builder.compile()


def test_several_questions_of_one_child_are_told_apart(
    lead: Agent, researcher: Agent, saver: Any
) -> None:
    """At once in two of its nodes, in either order, and one after the other in one node."""
    graph = parent_of(lead, {NAME: verified_child(_two_at_once(), researcher)}, saver)
    asked = ids(graph.invoke(tasks("x"), THREAD))
    assert asked.keys() == {"left?", "right?"}
    state = graph.invoke(Command(resume={asked["right?"]: "R"}), THREAD)
    assert list(ids(state)) == ["left?"]
    state = graph.invoke(Command(resume={asked["left?"]: "L"}), THREAD)
    assert state["results"][0]["output"] == {"q": "L", "a": "R"}

    def twice(_: Work) -> Work:
        return {"a": [interrupt("first?"), interrupt("second?")]}

    other_thread: Any = {"configurable": {"thread_id": "2"}}
    graph = parent_of(lead, {NAME: verified_child(graph_of(twice), researcher)}, saver)
    state = graph.invoke(tasks("x"), other_thread)
    first = ids(state)["first?"]
    state = graph.invoke(Command(resume={first: "1"}), other_thread)
    second = ids(state)["second?"]
    assert second != first
    state = graph.invoke(Command(resume={second: "2"}), other_thread)
    assert state["results"][0]["output"]["a"] == ["1", "2"]


@pytest.mark.parametrize("seconds", [None, 30])
async def test_a_grandchilds_question_is_answered_through_its_parent(
    lead: Agent, researcher: Agent, other: Agent, seconds: float | None
) -> None:
    """The id is made again at each level, on the event loop too; the lead's own child asks."""

    class Middle(Lead, total=False):
        q: Any

    builder = StateGraph(Middle)
    inner = {OTHER: verified_child(graph_of(lambda s: {"a": interrupt(s["q"])}), other)}
    builder.add_node("spawn", spawn_and_await(researcher, inner, timeout=seconds))
    builder.add_node("plan", lambda _: tasks("x", "y", agent=OTHER))
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "spawn")
    builder.add_edge("spawn", END)
    child = verified_child(builder.compile(), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), timeout=seconds)
    for run, thread in ((_sync(graph), "1"), (graph.ainvoke, "2")):
        config: Any = {"configurable": {"thread_id": thread}}
        state = await run(tasks("z"), config)
        assert {asking_agent(each) for each in state["__interrupt__"]} == {NAME}
        asked = ids(state)
        state = await run(Command(resume={asked["y"]: "Y", asked["x"]: "X"}), config)
        inside = state["results"][0]["output"]["results"]
        assert [each["output"]["a"] for each in inside] == ["X", "Y"]


def _sync(graph: Any) -> Any:
    async def run(given: Any, config: Any) -> Any:
        return await asyncio.to_thread(graph.invoke, given, config)

    return run


def test_an_id_from_the_childs_own_namespace_is_an_answer_too(
    lead: Agent, researcher: Agent
) -> None:
    """Whoever looks at the child's own state sees LangGraph's own id, and may answer by it."""
    graph = parent_of(lead, {NAME: verified_child(asking("?"), researcher)}, InMemorySaver())
    state = graph.invoke(tasks("x"), THREAD)
    (task,) = graph.get_state(THREAD, subgraphs=True).tasks[0].state.tasks
    assert task.name == NAME
    (own,) = task.state.tasks[0].interrupts
    assert own.id != ids(state)["?"]
    state = graph.invoke(Command(resume={own.id: "A"}), THREAD)
    assert state["results"][0]["output"]["a"] == "A"


def test_an_unbound_childs_question_is_made_again_too(lead: Agent, researcher: Agent) -> None:
    """With an authenticator only, it asks under the same rules."""

    def ask(_: Any) -> Any:
        return {"a": interrupt("code?")}

    options: Any = {"proof": {NAME: "unbound-totp"}, "on_failure": "collect"}
    graph = parent_of(lead, {NAME: graph_of(ask)}, InMemorySaver(), **options)
    state = graph.invoke(tasks("x"), THREAD)
    assert [asking_agent(each) for each in state["__interrupt__"]] == [NAME]
    lock = parent_of(lead, {NAME: asking(threading.Lock())}, InMemorySaver(), **options)
    assert lock.invoke(tasks("x"), THREAD)["results"][0]["status"] == "refused"


def test_a_response_schema_stays_and_says_who_asks(lead: Agent, researcher: Agent) -> None:
    """What the child says of the answer's form is kept; the name isn't the child's to say."""

    def ask(_: Work) -> Work:
        schema = {"type": "string", "x-pipelit-agent": "agent_lead"}
        return {"a": interrupt("?", response_schema=schema)}

    graph = parent_of(lead, {NAME: verified_child(graph_of(ask), researcher)}, InMemorySaver())
    (asked,) = graph.invoke(tasks("x"), THREAD)["__interrupt__"]
    assert asked.response_schema == {"type": "string", "x-pipelit-agent": NAME}
    assert asking_agent(asked) == NAME


def test_an_interrupt_of_the_parents_own_is_nobodys(lead: Agent) -> None:
    """It has no child's name, with a schema and without."""
    assert asking_agent(Interrupt("?", id="0" * 32)) is None
    assert asking_agent(Interrupt("?", id="0" * 32, response_schema={"type": "string"})) is None


def test_a_breakpoint_in_a_child_waits(lead: Agent, researcher: Agent) -> None:
    """A static breakpoint interrupts with no question, and goes on without an answer."""
    builder = StateGraph(Work)
    builder.add_node("work", lambda _: {"a": "done"})
    builder.add_edge(START, "work")
    child = verified_child(builder.compile(interrupt_before=["work"]), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), on_failure="collect")
    assert "results" not in graph.invoke(tasks("x"), THREAD)
    assert graph.invoke(None, THREAD)["results"][0]["output"]["a"] == "done"


# What a child can't choose


def _approving(lead: Agent, child: Any, known: dict[str, str], read: threading.Event) -> Any:
    """A parent that asks for an approval beside a child."""

    class Approving(Lead, total=False):
        approved: Any

    def approve(_: Any) -> Any:
        try:
            return {"approved": interrupt("pay 100?")}
        except GraphInterrupt as error:
            known["id"] = error.args[0][0].id
            read.set()
            raise

    builder = StateGraph(Approving)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}, on_failure="collect"))
    builder.add_node("approve", approve)
    builder.add_edge(START, "delegate")
    builder.add_edge(START, "approve")
    return builder.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("kind", [GraphInterrupt, "node"])
def test_a_child_cannot_have_its_answer_given_to_another_node(
    lead: Agent, researcher: Agent, kind: Any
) -> None:
    """It asks something harmless under the approval's id: the approval isn't answered by that."""
    known: dict[str, str] = {}
    read = threading.Event()

    def forge(_: Work) -> Work:
        assert read.wait(30)
        if kind == "node":
            with pytest.warns(DeprecationWarning, match="NodeInterrupt"):
                error = NodeInterrupt("colour?", id=known["id"])
            raise error
        raise kind([Interrupt("colour?", id=known["id"])])

    graph = _approving(lead, verified_child(graph_of(forge), researcher), known, read)
    asked = ids(graph.invoke(tasks("x"), THREAD))
    assert asked["pay 100?"] == known["id"]
    assert asked["colour?"] != known["id"]
    state = graph.invoke(Command(resume={asked["colour?"]: "yes"}), THREAD)
    assert "approved" not in state
    assert "pay 100?" in ids(state)


@pytest.mark.parametrize("claimed", ["0" * 32, "placeholder-id", "x" * 10_000, "", None, 7])
def test_two_children_that_claim_one_id_are_still_two(
    lead: Agent, researcher: Agent, claimed: Any
) -> None:
    """A single value is no answer while two wait, whatever id they claim; each has its own."""

    def forge(state: Work) -> Work:
        raise GraphInterrupt((Interrupt(state["q"], id=claimed),))

    child = verified_child(graph_of(forge), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    state = graph.invoke(tasks("one", "two"), THREAD)
    shown = [each.id for each in state["__interrupt__"]]
    assert len(set(shown)) == 2
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in shown)
    assert claimed not in shown
    with pytest.raises(RuntimeError, match="multiple pending interrupts"):
        graph.invoke(Command(resume="yes"), THREAD)


# What can't be asked


class Hidden:
    """A value with code of its own."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt(CANARY)

    __str__ = __repr__ = __reduce__


UNASKABLE: dict[str, tuple[Any, str]] = {
    "a lock": (lambda: threading.Lock(), "failed"),
    "a secret": (lambda: {"key": SecretStr(CANARY)}, "failed"),
    "a number that is none": (lambda: {"cost": float("nan")}, "failed"),
    "half a character": (lambda: "\ud800", "failed"),
    "an object deep inside": (lambda: {"a": [{"b": Hidden()}]}, "failed"),
    "too much": (lambda: CANARY * 1000, "refused"),
    "too much in keys": (lambda: {CANARY * 1000: 1}, "refused"),
}


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("question", UNASKABLE)
async def test_what_cannot_be_asked_is_that_childs_failure(
    lead: Agent, researcher: Agent, tmp_path: Path, question: str, timeout: Any
) -> None:
    """Its sibling goes on, and nothing of the question is in the parent; sync and async."""
    make, status = UNASKABLE[question]

    def ask(state: Work) -> Work:
        return {"a": interrupt(make()) if state["q"] == "ask" else "fine"}

    options: Any = {"on_failure": "collect", "timeout": timeout, "max_answer_bytes": 5000}
    child = verified_child(graph_of(ask), researcher)
    path = tmp_path / "checkpoints.db"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = parent_of(lead, {NAME: child}, saver, **options)
        states = [graph.invoke(tasks("ask", "x"), THREAD)]
    memory = parent_of(lead, {NAME: child}, InMemorySaver(), **options)
    states.append(await memory.ainvoke(tasks("ask", "x"), THREAD))
    for state in states:
        assert [each["status"] for each in state["results"]] == [status, "verified"]
        assert "__interrupt__" not in state
        assert CANARY not in repr(state)
        if status == "failed":
            assert "interrupt" in state["results"][0]["error"]
    assert CANARY.encode() not in parents_own(path)


INTERRUPTS: dict[str, Callable[[], BaseException]] = {
    "a class of its own": lambda: type("Own", (GraphInterrupt,), {})((Interrupt(CANARY, id="1"),)),
    "no interrupts": lambda: GraphInterrupt([CANARY]),  # type: ignore[list-item]
    "a text": lambda: GraphInterrupt(CANARY),  # type: ignore[arg-type]
    "a number": lambda: GraphInterrupt(7),  # type: ignore[arg-type]
    "a generator": lambda: GraphInterrupt(Interrupt(CANARY, id=each) for each in "12"),  # type: ignore[arg-type]
    "a schema that is none": lambda: GraphInterrupt(
        (Interrupt("?", id="1", response_schema=int),)  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("raised", INTERRUPTS)
async def test_what_is_no_interrupt_of_langgraphs_is_refused(
    lead: Agent, researcher: Agent, raised: str
) -> None:
    """A child's class that answers by raising one gets no further than any other exception."""

    def raise_it(*_: Any) -> Any:
        raise INTERRUPTS[raised]()

    child = hostile(researcher, raise_it)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), on_failure="collect")
    for state in (graph.invoke(tasks("x"), THREAD), await graph.ainvoke(tasks("x"), THREAD)):
        assert [each["status"] for each in state["results"]] == ["refused"]
        assert CANARY not in repr(state)


def test_messages_in_a_question_are_judged_as_in_an_answer(lead: Agent, researcher: Agent) -> None:
    """What a person is asked may be put into a state as well."""
    call = {"name": "pay", "args": {}, "id": "1", "type": "tool_call"}
    question = {"messages": [RemoveMessage(id="1"), AIMessage("sure?", tool_calls=[call])]}
    graph = parent_of(lead, {NAME: verified_child(asking(question), researcher)}, InMemorySaver())
    (asked,) = graph.invoke(tasks("x"), THREAD)["__interrupt__"]
    assert asked.value == {"messages": [AIMessage("sure?")]}
