"""Which answer belongs to which call: spawns that nodes, tools and tasks call, and do again.

LangGraph runs a node again from its first line after an interrupt, a crash and a retry, and finds
the runs that it nests by the order in which they are called. Each test here changes that order.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import fresh
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, RetryPolicy, Send, interrupt
from paths import SUPPORT, TESTS
from spawning import THREAD
from test_tools import Scripted
from typing_extensions import TypedDict

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import SpawnError
from pipelit_agents.graphs import (
    SpawnResult,
    SpawnTask,
    VerifiedChild,
    keyed_by_input,
    request_digest,
    spawn_and_await,
    verified_child,
)
from pipelit_agents.graphs.spawn.graph import SpawnGraph
from pipelit_agents.tools import SpawnAndAwait

BACKENDS = False
ROLES = ("lead", "a", "b", "c")
NAMES = tuple(f"agent_{role}" for role in ROLES[1:])


class Question(TypedDict, total=False):
    """A child's state."""

    q: str
    a: str


class Parent(TypedDict, total=False):
    """A parent's state."""

    out: Any
    note: str
    tasks: list[SpawnTask]
    results: list[SpawnResult]


class Team:
    """A lead, its children, and how often they did what.

    A child echoes its name and its question. A question with a question mark is for a person.
    """

    def __init__(self, pipelit: Pipelit, agent_of: Callable[[str], Agent]) -> None:
        self.pipelit = pipelit
        self.lead, *_ = [agent_of(role) for role in ROLES]
        self.done: list[str] = []

    def child(self, name: str) -> VerifiedChild:
        """A child that echoes."""

        def work(state: Question) -> Question:
            q = state["q"]
            said = f"{name} {q}"
            if q.endswith("?"):
                said = f"{said} {interrupt(f'{name} {q}')}"
            self.done.append(f"{name} {q}")
            return {"a": said}

        graph = StateGraph(Question).add_node("work", work).add_edge(START, "work").compile()
        return verified_child(graph, self.pipelit.agent(name))

    def spawn(self, *names: str, **options: Any) -> SpawnGraph:
        """The spawn graph."""
        names = names or NAMES
        return spawn_and_await(self.lead, {name: self.child(name) for name in names}, **options)


@pytest.fixture
def copied(backend: str) -> tuple[str, ...]:
    """The whole team is in the test's database from the beginning."""
    return () if backend == "postgres" else ROLES


@pytest.fixture
def team(pipelit: Pipelit, agent_of: Callable[[str], Agent]) -> Team:
    """A lead with three children."""
    return Team(pipelit, agent_of)


def to(agent: str, q: str) -> SpawnTask:
    """One task."""
    return {"agent": f"agent_{agent}", "input": {"q": q}}


def told(tasks: list[SpawnTask], state: Any) -> list[str]:
    """What was answered, when each result has been compared with its task."""
    results = state["results"]
    assert len(results) == len(tasks)
    for index, (asked, result) in enumerate(zip(tasks, results, strict=True)):
        assert result["status"] == "verified", result["error"]
        assert result["bound"]
        assert result["index"] == index
        assert result["agent"] == asked["agent"]
        assert result["request"] == request_digest(asked["input"])
        assert result["output"]["q"] == asked["input"]["q"]
        assert result["output"]["a"].startswith(f"{asked['agent']} {asked['input']['q']}")
    return [result["output"]["a"] for result in results]


Ask = Callable[..., list[str]]


def asking(delegate: SpawnGraph) -> Ask:
    """Calls the spawn, and compares what comes back with what was asked."""

    def ask(*tasks: SpawnTask) -> list[str]:
        return told(list(tasks), delegate.invoke({"tasks": list(tasks)}))

    return ask


def one_node(work: Callable[..., Any], saver: Any = None, **options: Any) -> Any:
    """A graph of one node."""
    builder = StateGraph(Parent).add_node("node", work, **options).add_edge(START, "node")
    return builder.compile(checkpointer=InMemorySaver() if saver is None else saver)


def questions(state: Any) -> list[str]:
    """What a person is asked."""
    return [each.value for each in state.get("__interrupt__", ())]


# The savers


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each of LangGraph's savers."""
    with ExitStack() as stack:
        if request.param == "memory":
            yield InMemorySaver()
        elif request.param == "sqlite":
            path = str(tmp_path / "checkpoints.db")
            yield stack.enter_context(SqliteSaver.from_conn_string(path))
        else:
            url = request.getfixturevalue("postgres_url")
            made = stack.enter_context(PostgresSaver.from_conn_string(url))
            made.setup()
            yield made


@pytest.fixture(params=["sqlite", "postgres"])
async def asaver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Each of LangGraph's async savers."""
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            path = str(tmp_path / "checkpoints.db")
            yield await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
        else:
            url = request.getfixturevalue("postgres_url")
            made = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(url))
            await made.setup()
            yield made


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_what_is_skipped_on_resume_lends_its_answer_to_nobody(
    team: Team, saver: Any, sealed: bool, durability: Any
) -> None:
    """The second call finds its own question, on each saver, in each durability."""
    if sealed:
        saver = team.pipelit.sealed_saver(saver)
    ask, kept = asking(team.spawn()), {}

    def node(_: Parent) -> Parent:
        if "list" not in kept:
            kept["list"] = ask(to("a", "list"))
        return {"out": [kept["list"], ask(to("b", "pay 900?"), to("c", "note"))]}

    graph = one_node(node, saver)
    assert questions(graph.invoke({}, THREAD, durability=durability)) == ["agent_b pay 900?"]
    state = graph.invoke(Command(resume="yes"), THREAD, durability=durability)
    assert state["out"] == [["agent_a list"], ["agent_b pay 900? yes", "agent_c note"]]
    # What was done stays done.
    assert sorted(team.done) == ["agent_a list", "agent_b pay 900?", "agent_c note"]


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
async def test_on_the_event_loop_too(team: Team, asaver: Any, sealed: bool) -> None:
    """The same with async savers, and a gather whose order changes."""
    if sealed:
        asaver = team.pipelit.sealed_saver(asaver)
    delegate = team.spawn()
    orders = iter([[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1]])
    asked = [[to("a", "pay 1?")], [to("b", "list"), to("a", "more")], [to("c", "pay 2?")]]

    async def one(tasks: list[SpawnTask]) -> list[str]:
        return told(tasks, await delegate.ainvoke({"tasks": tasks}))

    async def node(_: Parent) -> Parent:
        order = next(orders)
        found = await asyncio.gather(*(one(asked[each]) for each in order), return_exceptions=True)
        if failed := [each for each in found if isinstance(each, BaseException)]:
            raise failed[0]
        return {"out": dict(zip(order, found, strict=True))}

    graph = one_node(node, asaver)
    state = await graph.ainvoke({}, THREAD)
    heard = []
    while waiting := questions(state):
        # One question is shown at a time, and the answer names it.
        heard.extend(waiting)
        state = await graph.ainvoke(Command(resume=f"yes to {waiting[0]}"), THREAD)
    assert sorted(heard) == ["agent_a pay 1?", "agent_c pay 2?"]
    assert state["out"] == {
        0: ["agent_a pay 1? yes to agent_a pay 1?"],
        1: ["agent_b list", "agent_a more"],
        2: ["agent_c pay 2? yes to agent_c pay 2?"],
    }


# How a spawn is called


def _in_a_node(program: Callable[[], Any]) -> Any:
    return one_node(lambda _: {"out": program()})


def _in_an_async_node(program: Callable[[], Any]) -> Any:
    async def node(_: Parent) -> Parent:
        return {"out": await asyncio.to_thread(program)}

    return one_node(node)


def _in_a_tool(program: Callable[[], Any]) -> Any:
    @tool
    def work() -> str:
        """Works."""
        return repr(program())

    call = {"name": "work", "args": {}, "id": "c1", "type": "tool_call"}
    model = Scripted(script=[AIMessage("", tool_calls=[call]), AIMessage("done")], told=[])
    return create_agent(model, [work], checkpointer=InMemorySaver())


def _in_a_task(program: Callable[[], Any]) -> Any:
    @task
    def work() -> Any:
        return program()

    @entrypoint(checkpointer=InMemorySaver())
    def flow(_: Any) -> Any:
        return {"out": work().result()}

    return flow


def _in_an_entrypoint(program: Callable[[], Any]) -> Any:
    @entrypoint(checkpointer=InMemorySaver())
    def flow(_: Any) -> Any:
        return {"out": program()}

    return flow


def _in_a_sub_graph(program: Callable[[], Any]) -> Any:
    inner = StateGraph(Parent).add_node("inner", lambda _: {"out": program()})
    return one_node(inner.add_edge(START, "inner").compile())


def _in_a_called_sub_graph(program: Callable[[], Any]) -> Any:
    inner = StateGraph(Parent).add_node("inner", lambda _: {"out": program()})
    graph = inner.add_edge(START, "inner").compile()
    return one_node(lambda _: {"out": graph.invoke({})["out"]})


def _in_a_sent_node(program: Callable[[], Any]) -> Any:
    builder = StateGraph(Parent)
    builder.add_node("node", lambda _: {"out": program()})
    builder.add_conditional_edges(START, lambda _: [Send("node", {"note": "mine"})], ["node"])
    return builder.compile(checkpointer=InMemorySaver())


def _in_a_sequence(program: Callable[[], Any]) -> Any:
    return one_node(RunnableLambda(lambda _: program()) | RunnableLambda(lambda a: {"out": a}))


FORMS = {
    "node": _in_a_node,
    "async node": _in_an_async_node,
    "tool": _in_a_tool,
    "task": _in_a_task,
    "entrypoint": _in_an_entrypoint,
    "sub-graph": _in_a_sub_graph,
    "called sub-graph": _in_a_called_sub_graph,
    "sent node": _in_a_sent_node,
    "sequence": _in_a_sequence,
}


async def _run(form: str, graph: Any, given: Any) -> Any:
    # Async nodes are called async; the others in a thread, as they block.
    if form == "async node":
        return await graph.ainvoke(given, THREAD)
    return await asyncio.to_thread(graph.invoke, given, THREAD)


def _out(state: Any) -> Any:
    if "messages" in state:
        (found,) = [each for each in state["messages"] if isinstance(each, ToolMessage)]
        return found.content
    return repr(state["out"])


@pytest.mark.parametrize("form", FORMS)
async def test_a_call_that_is_left_out_on_resume(team: Team, form: str) -> None:
    """However the spawn is called, a call that isn't made again lends its answer to nobody."""
    ask, kept = asking(team.spawn()), {}

    def program() -> Any:
        if "list" not in kept:
            kept["list"] = ask(to("a", "list"))
        return ask(to("b", "pay?")), ask(to("c", "note"))

    graph = FORMS[form](program)
    state = await _run(form, graph, {"messages": [("user", "go")]})
    assert questions(state) == ["agent_b pay?"]
    state = await _run(form, graph, Command(resume="yes"))
    assert _out(state) == repr((["agent_b pay? yes"], ["agent_c note"]))


@pytest.mark.parametrize("form", FORMS)
async def test_calls_in_another_order_on_resume(team: Team, form: str) -> None:
    """However the spawn is called, each call finds its own record in any order."""
    ask = asking(team.spawn())
    plans = iter(["acb", "cab"])
    asks = {"a": to("a", "list"), "b": to("b", "pay?"), "c": to("a", "more")}

    def program() -> Any:
        return {each: ask(asks[each]) for each in list(next(plans))}

    graph = FORMS[form](program)
    state = await _run(form, graph, {"messages": [("user", "go")]})
    assert questions(state) == ["agent_b pay?"]
    state = await _run(form, graph, Command(resume="yes"))
    answers = {"a": ["agent_a list"], "b": ["agent_b pay? yes"], "c": ["agent_a more"]}
    assert _out(state) == repr({each: answers[each] for each in "cab"})
    # Each found its record, and worked once.
    assert sorted(team.done) == ["agent_a list", "agent_a more", "agent_b pay?"]


@pytest.mark.parametrize("form", FORMS)
async def test_another_plan_after_a_crash(team: Team, form: str) -> None:
    """A model that plans anew after a crash gets answers to its new plan, each agent's own."""
    ask = asking(team.spawn())
    plans = iter([["a otters", "b holts"], ["b badgers", "a setts", "a owls"]])

    def program() -> Any:
        plan = next(plans)
        answers = ask(*(to(*each.split()) for each in plan))
        if "otters" in plan[0]:
            raise OSError("the network went away after the spawn")
        return answers

    graph = FORMS[form](program)
    with pytest.raises(OSError, match="went away"):
        await _run(form, graph, {"messages": [("user", "go")]})
    state = await _run(form, graph, None)
    assert _out(state) == repr(["agent_b badgers", "agent_a setts", "agent_a owls"])


@pytest.mark.parametrize("form", FORMS)
async def test_an_equal_task_gets_an_answer_of_its_own(team: Team, form: str) -> None:
    """The same question asked three times is answered three times, in order, also over a resume."""
    ask = asking(team.spawn())

    def program() -> Any:
        return [ask(to("a", "roll?")) for _ in range(3)]

    graph = FORMS[form](program)
    state = await _run(form, graph, {"messages": [("user", "go")]})
    for answer in ("one", "two", "three"):
        assert questions(state) == ["agent_a roll?"]
        state = await _run(form, graph, Command(resume=answer))
    assert _out(state) == repr([[f"agent_a roll? {answer}"] for answer in ("one", "two", "three")])
    assert len(team.done) == 3


# Tools


def _called(*calls: tuple[str, list[SpawnTask]]) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[
            {"name": "spawn_and_await", "args": {"tasks": tasks}, "id": key, "type": "tool_call"}
            for key, tasks in calls
        ],
    )


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_each_call_in_one_message_hears_its_own_answers(
    team: Team, asynchronous: bool
) -> None:
    """A ToolNode runs all calls of a message as one task: none hears another's children."""
    spawn = SpawnAndAwait(agent=team.lead, children={n: team.child(n) for n in NAMES})
    message = _called(
        ("1", [to("a", "list")]), ("2", [to("b", "pay 1?")]), ("3", [to("c", "more")]),
        ("4", [to("b", "list"), to("a", "pay 2?")]),
    )  # fmt: skip
    builder = StateGraph(MessagesState).add_node("tools", ToolNode([spawn]))
    graph = builder.add_edge(START, "tools").compile(checkpointer=InMemorySaver())

    async def run(given: Any) -> Any:
        if asynchronous:
            return await graph.ainvoke(given, THREAD)
        return await asyncio.to_thread(graph.invoke, given, THREAD)

    state = await run({"messages": [message]})
    while waiting := state.get("__interrupt__"):
        state = await run(Command(resume={each.id: f"yes to {each.value}" for each in waiting}))
    heard = {m.tool_call_id: m.artifact for m in state["messages"] if isinstance(m, ToolMessage)}
    assert set(heard) == {"1", "2", "3", "4"}
    for call in message.tool_calls:
        for answer in told(call["args"]["tasks"], {"results": heard[call["id"]]}):
            agent, _, rest = answer.partition(" ")
            # Each person's yes is to the question that it answers.
            assert "?" not in rest or answer == f"{agent} {rest.split('?')[0]}? yes to " + (
                f"{agent} {rest.split('?')[0]}?"
            )


def test_a_tool_that_spawns_twice(team: Team) -> None:
    """An own tool that keeps its first answer somewhere hears the second child's as the second."""
    delegate, kept = team.spawn(), {}

    @tool
    def pay(what: str, config: RunnableConfig) -> str:
        """Pays after a check."""
        if what not in kept:
            asked = [to("a", f"check {what}")]
            kept[what] = told(asked, delegate.invoke({"tasks": asked}, config))
        asked = [to("b", f"pay {what}?")]
        return told(asked, delegate.invoke({"tasks": asked}, config))[0]

    calls = [
        {"name": "pay", "args": {"what": what}, "id": what, "type": "tool_call"}
        for what in ("bob", "eve")
    ]
    model = Scripted(script=[AIMessage("", tool_calls=calls), AIMessage("done")], told=[])
    agent = create_agent(model, [pay], checkpointer=InMemorySaver())
    state = agent.invoke({"messages": [("user", "go")]}, THREAD)
    answers = {each.id: f"yes to {each.value}" for each in state["__interrupt__"]}
    assert len(answers) == 2
    state = agent.invoke(Command(resume=answers), THREAD)
    assert [m.content for m in state["messages"] if isinstance(m, ToolMessage)] == [
        "agent_b pay bob? yes to agent_b pay bob?",
        "agent_b pay eve? yes to agent_b pay eve?",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pool", "batch", "stream", "configured"])
def test_other_ways_to_call_it(team: Team, way: str) -> None:
    """From a thread with the node's config, in a batch, as a stream, and as a copy."""
    delegate, kept = team.spawn(), {}
    copy = delegate.with_config({"tags": ["mine"]})

    def ask(tasks: list[SpawnTask], config: RunnableConfig) -> list[str]:
        if way == "pool":
            with ThreadPoolExecutor(1) as pool:
                state = pool.submit(delegate.invoke, {"tasks": tasks}, config).result()
        elif way == "batch":
            (state,) = delegate.batch([{"tasks": tasks}], config)
        elif way == "stream":
            *_, state = delegate.stream({"tasks": tasks}, stream_mode="values")
        else:
            state = copy.invoke({"tasks": tasks})
        return told(tasks, state)

    def node(_: Parent, config: RunnableConfig) -> Parent:
        if "list" not in kept:
            kept["list"] = ask([to("a", "list")], config)
        return {"out": ask([to("b", "pay?"), to("c", "note")], config)}

    graph = one_node(node)
    assert questions(graph.invoke({}, THREAD)) == ["agent_b pay?"]
    assert graph.invoke(Command(resume="yes"), THREAD)["out"] == [
        "agent_b pay? yes",
        "agent_c note",
    ]
    assert sorted(team.done) == ["agent_a list", "agent_b pay?", "agent_c note"]


# A spawn that is a node by itself


def parent_of(delegate: SpawnGraph, saver: Any, schema: Any = Parent) -> Any:
    """A graph with the spawn as a node."""
    builder = StateGraph(schema).add_node("delegate", delegate).add_edge(START, "delegate")
    return builder.compile(checkpointer=saver)


def test_a_node_keeps_its_namespace_and_what_is_done(team: Team) -> None:
    """Its state is seen under the task, and a child that is done isn't asked again."""
    graph = parent_of(team.spawn(), InMemorySaver())
    tasks = [to("a", "list"), to("b", "pay?")]
    assert questions(graph.invoke({"tasks": tasks}, THREAD)) == ["agent_b pay?"]
    inside = graph.get_state(THREAD, subgraphs=True).tasks[0].state
    assert inside.values["tasks"] == tasks
    (waiting,) = [each for each in inside.tasks if each.interrupts]
    assert waiting.state.values["q"] == "pay?"
    state = graph.invoke(Command(resume="yes"), THREAD)
    assert told(tasks, state) == ["agent_a list", "agent_b pay? yes"]
    assert sorted(team.done) == ["agent_a list", "agent_b pay?"]


def test_a_spawn_inside_sub_graphs(team: Team) -> None:
    """As a node of a graph that is a node of a graph, it is seen and resumed."""
    inner = parent_of(team.spawn(), None)
    graph = parent_of(inner, InMemorySaver())
    tasks = [to("a", "list"), to("b", "pay?")]
    graph.invoke({"tasks": tasks}, THREAD)
    inside = graph.get_state(THREAD, subgraphs=True).tasks[0].state.tasks[0].state
    assert inside.values["tasks"] == tasks
    assert told(tasks, graph.invoke(Command(resume="yes"), THREAD))[1] == "agent_b pay? yes"


def test_a_child_that_is_a_spawn_itself(team: Team) -> None:
    """A spawn as the graph of a child is resumed, and the child's state is seen down to its own."""
    inner = team.spawn("agent_b", "agent_c")
    middle = verified_child(inner, team.pipelit.agent("agent_a"))
    graph = parent_of(spawn_and_await(team.lead, {"agent_a": middle}), InMemorySaver())
    tasks = [to("b", "pay?"), to("c", "note")]
    given: Any = {"tasks": [{"agent": "agent_a", "input": {"tasks": tasks}}] * 2}
    for thread in ("1", "2"):
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        waiting = graph.invoke(given, config)["__interrupt__"]
        assert [each.value for each in waiting] == ["agent_b pay?"] * 2
        outer = graph.get_state(config, subgraphs=True).tasks[0].state
        for each in outer.tasks:
            assert each.state.values["tasks"] == tasks
        answers = {each.id: f"yes {n}" for n, each in enumerate(waiting)}
        found = [
            told(tasks, result["output"])
            for result in graph.invoke(Command(resume=answers), config)["results"]
        ]
        assert sorted(found) == [[f"agent_b pay? yes {n}", "agent_c note"] for n in (0, 1)]


def test_a_child_that_calls_a_spawn(team: Team) -> None:
    """Inside a child the calls are told apart too."""
    ask, kept = asking(team.spawn("agent_b", "agent_c")), {}

    def work(state: Question) -> Question:
        if "list" not in kept:
            kept["list"] = ask(to("c", "list"))
        return {"a": f"agent_a {state['q']} " + ask(to("b", "pay?"))[0]}

    inner = StateGraph(Question).add_node("work", work).add_edge(START, "work").compile()
    middle = verified_child(inner, team.pipelit.agent("agent_a"))
    graph = parent_of(spawn_and_await(team.lead, {"agent_a": middle}), InMemorySaver())
    graph.invoke({"tasks": [to("a", "go")]}, THREAD)
    state = graph.invoke(Command(resume="yes"), THREAD)
    assert told([to("a", "go")], state) == ["agent_a go agent_b pay? yes"]


class Mapped(TypedDict, total=False):
    """A parent's state whose results come from several branches."""

    tasks: list[SpawnTask]
    results: Annotated[list[Any], operator.add]


def test_a_map_of_spawns(team: Team) -> None:
    """Sent several times at once, each node by itself answers its own tasks."""
    lists = [[to("a", "1"), to("b", "pay 2?")], [to("b", "3")], [to("c", "pay 4?"), to("a", "5")]]
    builder = StateGraph(Mapped).add_node("delegate", team.spawn())
    builder.add_conditional_edges(
        START, lambda _: [Send("delegate", {"tasks": each}) for each in lists], ["delegate"]
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    state = graph.invoke({}, THREAD)
    answers = {each.id: f"yes to {each.value}" for each in state["__interrupt__"]}
    results = graph.invoke(Command(resume=answers), THREAD)["results"]
    for each in lists:
        told(each, {"results": results[: len(each)]})
        results = results[len(each) :]
    assert not results


def test_parallel_branches(team: Team) -> None:
    """Two spawns at once, over the same tasks, each give all answers."""
    builder = StateGraph(Mapped)
    tasks = [to("a", "1"), to("b", "pay 2?")]
    for name in ("left", "right"):
        builder.add_node(name, team.spawn())
        builder.add_edge(START, name)
    graph = builder.compile(checkpointer=InMemorySaver())
    state = graph.invoke({"tasks": tasks}, THREAD)
    answers = {each.id: "yes" for each in state["__interrupt__"]}
    assert len(answers) == 2
    results = graph.invoke(Command(resume=answers), THREAD)["results"]
    told(tasks, {"results": results[:2]})
    told(tasks, {"results": results[2:]})


def test_a_loop_and_a_second_turn(team: Team) -> None:
    """Each round, and each turn, has answers to its own tasks."""
    ask = asking(team.spawn())

    class Rounds(TypedDict, total=False):
        turn: str
        out: Annotated[list[Any], operator.add]

    def node(state: Rounds) -> Any:
        number = len(state.get("out", [])) + 1
        done = ask(to("a", f"{state['turn']} {number}"), to("b", f"pay {number}?"))
        return Command(update={"out": [done]}, goto="node" if number % 2 else "__end__")

    builder = StateGraph(Rounds).add_node("node", node).add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    for turn in ("first", "second"):
        state = graph.invoke({"turn": turn}, THREAD)
        while questions(state):
            state = graph.invoke(Command(resume=f"yes in {turn}"), THREAD)
    assert state["out"] == [
        [f"agent_a {turn} {n}", f"agent_b pay {n}? yes in {turn}"]
        for turn, n in (("first", 1), ("first", 2), ("second", 3), ("second", 4))
    ]


# What changes between asking and resuming


def test_tasks_that_are_changed_with_the_answer_begin_again(team: Team) -> None:
    """``Command(resume=…, update=…)`` with other tasks: they are asked, and their questions too."""
    graph = parent_of(team.spawn(), InMemorySaver())
    graph.invoke({"tasks": [to("a", "pay 1?")]}, THREAD)
    other = [to("b", "pay 999?"), to("c", "list")]
    state = graph.invoke(Command(resume="yes", update={"tasks": other}), THREAD)
    # The yes was to another question.
    assert questions(state) == ["agent_b pay 999?"]
    state = graph.invoke(Command(resume="no"), THREAD)
    assert told(other, state) == ["agent_b pay 999? no", "agent_c list"]


@pytest.mark.parametrize("called", [False, True], ids=["node", "called"])
def test_a_changed_state_begins_again(team: Team, called: bool) -> None:
    """After update_state the new tasks are asked, and the answer to the old question isn't used."""
    delegate = team.spawn()
    graph = (
        one_node(lambda state: delegate.invoke({"tasks": state["tasks"]}))
        if called
        else parent_of(delegate, InMemorySaver())
    )
    old, new = [to("a", "pay 1?")], [to("b", "pay 2?"), to("a", "list")]
    assert questions(graph.invoke({"tasks": old}, THREAD)) == ["agent_a pay 1?"]
    graph.update_state(THREAD, {"tasks": new}, as_node=START)
    state = graph.invoke(Command(resume="yes"), THREAD)
    assert questions(state) == ["agent_b pay 2?"]
    state = graph.invoke(Command(resume="no"), THREAD)
    assert told(new, state) == ["agent_b pay 2? no", "agent_a list"]


@pytest.mark.parametrize("called", [False, True], ids=["node", "called"])
def test_time_travel(team: Team, called: bool) -> None:
    """A fork from an earlier checkpoint answers the tasks of that checkpoint, anew."""
    delegate = team.spawn()
    graph = (
        one_node(lambda state: delegate.invoke({"tasks": state["tasks"]}))
        if called
        else parent_of(delegate, InMemorySaver())
    )
    first, second = [to("a", "pay 1?")], [to("b", "pay 2?"), to("c", "list")]
    for tasks in (first, second):
        graph.invoke({"tasks": tasks}, THREAD)
        assert told(tasks, graph.invoke(Command(resume="yes"), THREAD))
    node = graph.get_state(THREAD).config
    history = [
        each for each in graph.get_state_history(THREAD) if each.next and each.next[0] != START
    ]
    assert [each.values["tasks"] for each in history] == [second, first]
    before = history[1].config
    # Run again from there: its question is asked again, and nobody's yes is taken for it.
    state = graph.invoke(None, before)
    assert questions(state) == ["agent_a pay 1?"]
    assert told(first, graph.invoke(Command(resume="no"), THREAD)) == ["agent_a pay 1? no"]
    # Changed there, and run.
    changed = graph.update_state(before, {"tasks": second}, as_node=START)
    state = graph.invoke(None, changed)
    assert questions(state) == ["agent_b pay 2?"]
    assert told(second, graph.invoke(Command(resume="maybe"), THREAD))[0] == "agent_b pay 2? maybe"
    # The end of the first branch is still as it was.
    assert told(second, graph.get_state(node).values)[0] == "agent_b pay 2? yes"


@pytest.mark.parametrize("on_failure", ["raise", "collect"])
@pytest.mark.parametrize("called", [False, True], ids=["node", "called"])
@pytest.mark.parametrize("alone", [False, True], ids=["with others", "alone"])
def test_a_child_that_a_new_version_lacks(
    team: Team, called: bool, alone: bool, on_failure: Literal["raise", "collect"]
) -> None:
    """A thread that waits for it says so, and goes on when the child is back."""
    saver = InMemorySaver()
    tasks = [to("b", "pay?")] if alone else [to("a", "list"), to("b", "pay?"), to("c", "more")]

    def deployed(*names: str) -> Any:
        delegate = team.spawn(*names, on_failure=on_failure)
        if called:
            return one_node(lambda state: delegate.invoke({"tasks": state["tasks"]}), saver)
        return parent_of(delegate, saver)

    graph = deployed(*NAMES)
    graph.invoke({"tasks": tasks, "results": []}, THREAD)
    without = deployed("agent_a", "agent_c")
    if on_failure == "raise":
        with pytest.raises(SpawnError, match=r"agent_b.* isn't a child of this node"):
            without.invoke(Command(resume="yes"), THREAD)
        state = deployed(*NAMES).invoke(Command(resume="yes"), THREAD)
        told(tasks, state)
        assert "agent_b pay? yes" in repr(state)
        # The others worked once.
        assert sorted(team.done) == sorted(
            each["agent"] + " " + each["input"]["q"] for each in tasks
        )
    else:
        results = without.invoke(Command(resume="yes"), THREAD)["results"]
        found = {each["agent"]: each["status"] for each in results}
        assert found.pop("agent_b") == "failed"
        assert set(found.values()) == (set() if alone else {"verified"})
        (lost,) = [each for each in results if each["agent"] == "agent_b"]
        assert "'agent_b' isn't a child of this node" in lost["error"]
        assert lost["request"] == request_digest({"q": "pay?"})


@pytest.mark.parametrize("called", [False, True], ids=["node", "called"])
def test_more_children_in_a_new_version(team: Team, called: bool) -> None:
    """A thread that waits goes on where it was; what is done isn't done again."""
    saver = InMemorySaver()
    tasks = [to("a", "list"), to("b", "pay?")]

    def deployed(*names: str) -> Any:
        delegate = team.spawn(*names, timeout=len(names) * 10.0)
        if called:
            return one_node(lambda state: delegate.invoke({"tasks": state["tasks"]}), saver)
        return parent_of(delegate, saver)

    deployed("agent_a", "agent_b").invoke({"tasks": tasks}, THREAD)
    state = deployed("agent_c", "agent_b", "agent_a").invoke(Command(resume="yes"), THREAD)
    assert told(tasks, state) == ["agent_a list", "agent_b pay? yes"]
    assert sorted(team.done) == ["agent_a list", "agent_b pay?"]


@pytest.mark.parametrize("called", [False, True], ids=["node", "called"])
def test_a_retry_asks_only_what_failed(team: Team, called: bool) -> None:
    """A retried node goes on with the children that are done, in any order."""
    broken = {"agent_b x"}

    def work(state: Question) -> Question:
        team.done.append(f"agent_b {state['q']}")
        if broken:
            broken.clear()
            raise RuntimeError("once")
        return {"a": f"agent_b {state['q']}"}

    graph_b = StateGraph(Question).add_node("work", work).add_edge(START, "work").compile()
    inner = verified_child(graph_b, team.pipelit.agent("agent_b"))
    delegate = spawn_and_await(team.lead, {"agent_a": team.child("agent_a"), "agent_b": inner})
    retry = RetryPolicy(max_attempts=3, initial_interval=0.001, jitter=False, retry_on=SpawnError)
    tasks, more = [to("a", "x"), to("b", "x")], [to("a", "y")]
    attempts = iter([True, False])

    def node(_: Parent) -> Any:
        if next(attempts):
            return {"results": told(more, delegate.invoke({"tasks": more})) and told_all()}
        found = told_all()
        return {"results": [found, told(more, delegate.invoke({"tasks": more}))]}

    def told_all() -> Any:
        return told(tasks, delegate.invoke({"tasks": tasks}))

    if called:
        graph = one_node(node, retry_policy=retry)
        found = graph.invoke({}, THREAD)["results"]
        assert found == [["agent_a x", "agent_b x"], ["agent_a y"]]
        assert sorted(team.done) == ["agent_a x", "agent_a y", "agent_b x", "agent_b x"]
    else:
        builder = StateGraph(Parent).add_node("delegate", delegate, retry_policy=retry)
        graph = builder.add_edge(START, "delegate").compile(checkpointer=InMemorySaver())
        assert told(tasks, graph.invoke({"tasks": tasks}, THREAD)) == ["agent_a x", "agent_b x"]
        assert sorted(team.done) == ["agent_a x", "agent_b x", "agent_b x"]


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
from test_spawn_calls import *
from pipelit_agents import Pipelit
first, saver_at = sys.argv[2] == "first", sys.argv[3]
team = Team.__new__(Team)
team.pipelit, team.done = Pipelit.from_env(), []
team.lead = team.pipelit.agent("agent_lead")
ask = asking(team.spawn())

def node(_):
    if first:
        ask(to("a", "list"), to("b", "more"))
        ask(to("c", "note"))
        os.kill(os.getpid(), signal.SIGKILL)
    # A fresh plan, that has one call in common with the first.
    return {"out": [ask(to("b", "list")), ask(to("c", "note")), ask(to("a", "more"))]}

with SqliteSaver.from_conn_string(saver_at) as saver:
    print(one_node(node, saver).invoke({} if first else None, THREAD, durability="sync")["out"])
    print(sorted(team.done))
"""


@pytest.mark.process
def test_another_plan_after_a_kill(team: Team, database_url: str, key: str, tmp_path: Path) -> None:
    """After kill -9, in another process: own answers, and what is asked again isn't done again."""
    environment = os.environ | {"FIELD_ENCRYPTION_KEY": key, "PIPELIT_DATABASE_URL": database_url}

    def start(which: str) -> subprocess.CompletedProcess[str]:
        here = os.pathsep.join(
            [str(TESTS), str(SUPPORT), str(TESTS / "tools"), str(TESTS / "graphs" / "spawn")]
        )
        saver = str(tmp_path / "checkpoints.db")
        return fresh.run(KILLED, environment, here, which, saver)

    assert start("first").returncode == -9
    second = start("second")
    assert second.stdout == (
        "[['agent_b list'], ['agent_c note'], ['agent_a more']]\n['agent_a more', 'agent_b list']\n"
    ), second.stderr[-2000:]


# Whose answer a person's answer is


def test_an_answer_is_to_the_question_that_was_shown(team: Team) -> None:
    """A plan that changes after the yes asks its own question, and doesn't take that yes."""
    ask = asking(team.spawn())
    plans = iter(["pay 9?", "pay 9000?", "pay 9000?"])
    graph = one_node(lambda _: {"out": ask(to("b", next(plans)))})
    assert questions(graph.invoke({}, THREAD)) == ["agent_b pay 9?"]
    assert questions(graph.invoke(Command(resume="yes"), THREAD)) == ["agent_b pay 9000?"]
    assert graph.invoke(Command(resume="no"), THREAD)["out"] == ["agent_b pay 9000? no"]


def test_a_child_that_asks_for_the_first_time_waits_for_its_own_answer(team: Team) -> None:
    """A child that failed and is run again doesn't take the answer to its sibling's question."""
    down = [True]

    def work(state: Question) -> Question:
        if down:
            down.clear()
            raise RuntimeError("away")
        return {"a": f"agent_c {state['q']} {interrupt('agent_c asks')}"}

    graph_c = StateGraph(Question).add_node("work", work).add_edge(START, "work").compile()
    children = {
        "agent_b": team.child("agent_b"),
        "agent_c": verified_child(graph_c, team.pipelit.agent("agent_c")),
    }
    graph = parent_of(spawn_and_await(team.lead, children), InMemorySaver())
    tasks = [to("c", "go"), to("b", "pay?")]
    shown: list[str] = []
    try:
        state = graph.invoke({"tasks": tasks}, THREAD)
        shown += questions(state)
    except SpawnError:
        # The failure was told before the question.
        state = graph.invoke(None, THREAD)
        shown += questions(state)
    while waiting := state.get("__interrupt__"):
        answers = {each.id: f"yes to {each.value}" for each in waiting}
        state = graph.invoke(
            Command(resume=answers if len(answers) > 1 else next(iter(answers.values()))), THREAD
        )
    assert told(tasks, state) == [
        "agent_c go yes to agent_c asks",
        "agent_b pay? yes to agent_b pay?",
    ]


# Graphs of one's own around a spawn


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_called_graph_with_a_spawn_inside(team: Team, asynchronous: bool) -> None:
    """Wrapped, it is found by its input: left out, moved and changed, it answers its own tasks."""
    inner = keyed_by_input(parent_of(team.spawn(), None))
    plans = iter(
        [
            [[to("a", "list")], [to("b", "pay 1?")]],
            [[to("b", "pay 9?")], [to("b", "pay 1?")], [to("a", "list")]],
            [[to("b", "pay 1?")], [to("c", "more")], [to("b", "pay 9?")], [to("a", "list")]],
        ]
    )
    last: list[Any] = []

    def plan() -> list[Any]:
        last[:] = next(plans, last)
        return list(last)

    def node(_: Parent) -> Parent:
        return {"out": [told(tasks, inner.invoke({"tasks": tasks})) for tasks in plan()]}

    async def anode(_: Parent) -> Parent:
        return {"out": [told(t, await inner.ainvoke({"tasks": t})) for t in plan()]}

    graph = one_node(anode if asynchronous else node)

    async def run(given: Any) -> Any:
        if asynchronous:
            return await graph.ainvoke(given, THREAD)
        return await asyncio.to_thread(graph.invoke, given, THREAD)

    state, heard = await run({}), []
    while waiting := questions(state):
        heard += waiting
        state = await run(Command(resume=f"yes to {waiting[0]}"))
    # A yes that nobody took is asked for again.
    assert heard == ["agent_b pay 1?", "agent_b pay 9?", "agent_b pay 1?", "agent_b pay 9?"]
    assert state["out"] == [
        ["agent_b pay 1? yes to agent_b pay 1?"],
        ["agent_c more"],
        ["agent_b pay 9? yes to agent_b pay 9?"],
        ["agent_a list"],
    ]
    assert team.done.count("agent_a list") == 1


def test_only_a_graph_is_keyed_by_its_input() -> None:
    """A builder that wasn't compiled is refused at once."""
    with pytest.raises(TypeError, match="compiled graph"):
        keyed_by_input(StateGraph(Parent))  # type: ignore[arg-type]


# Two spawns


def test_two_spawns_in_one_node(team: Team) -> None:
    """Two leads that ask the same in one node, in an order that changes, have their own answers."""
    pipelit = team.pipelit
    pipelit.users.create_agent("agent_second", owner="alice", purpose="leads too")
    second = spawn_and_await(
        pipelit.agent("agent_second"), {"agent_b": team.child("agent_b")}, on_failure="collect"
    )
    spawns = {"first": team.spawn(), "second": second, "third": team.spawn(name="third")}
    orders = itertools.cycle(itertools.permutations(spawns))
    tasks, asks = [to("b", "pay?")], [""]

    def node(_: Parent) -> Parent:
        found = {}
        for asks[0] in next(orders):
            found[asks[0]] = told(tasks, spawns[asks[0]].invoke({"tasks": tasks}))
        return {"out": found}

    graph = one_node(node)
    state, heard = graph.invoke({}, THREAD), 0
    while questions(state) and (heard := heard + 1) < 20:
        state = graph.invoke(Command(resume=f"yes to {asks[0]}"), THREAD)
    assert state["out"] == {name: [f"agent_b pay? yes to {name}"] for name in spawns}


def test_other_graphs_that_a_node_calls_keep_their_places(team: Team) -> None:
    """Another graph that the node calls isn't moved by a spawn that is left out on resume."""
    ask, kept = asking(team.spawn()), {}
    other = (
        StateGraph(Question)
        .add_node("work", lambda state: {"a": f"{state['q']} {interrupt('other?')}"})
        .add_edge(START, "work")
        .compile()
    )

    def node(_: Parent) -> Parent:
        if "list" not in kept:
            kept["list"] = ask(to("a", "list"))
        return {"out": [other.invoke({"q": "mine"})["a"], ask(to("b", "pay?"))]}

    graph = one_node(node)
    assert questions(graph.invoke({}, THREAD)) == ["other?"]
    assert questions(graph.invoke(Command(resume="one"), THREAD)) == ["agent_b pay?"]
    state = graph.invoke(Command(resume="two"), THREAD)
    assert state["out"] == ["mine one", ["agent_b pay? two"]]


def test_a_spawn_with_a_saver_of_its_own(team: Team) -> None:
    """As the outermost graph, told again with the id of a run, it compares what is asked."""
    delegate = team.spawn()
    delegate.checkpointer = InMemorySaver()
    again: Any = {**THREAD, "metadata": {"run_id": "r1"}}
    first, second = [to("a", "list"), to("b", "pay?")], [to("c", "other")]
    assert questions(delegate.invoke({"tasks": first}, again)) == ["agent_b pay?"]
    # Told again, it goes on; told something else, it begins again.
    assert questions(delegate.invoke({"tasks": first}, again)) == ["agent_b pay?"]
    assert team.done == ["agent_a list"]
    assert told(second, delegate.invoke({"tasks": second}, again)) == ["agent_c other"]
    delegate.invoke({"tasks": first}, THREAD)
    assert told(first, delegate.invoke(Command(resume="yes"), THREAD))[1] == "agent_b pay? yes"


# A plain answer


def asks_twice(team: Team, name: str) -> VerifiedChild:
    """A child that asks a person as often as its question has question marks."""

    def work(state: Question) -> Question:
        said = [interrupt(f"{name} #{nth}") for nth in range(state["q"].count("?"))]
        return {"a": " ".join([name, state["q"], *said])}

    graph = StateGraph(Question).add_node("work", work).add_edge(START, "work").compile()
    return verified_child(graph, team.pipelit.agent(name))


def asking_twice(team: Team) -> Ask:
    """A spawn of such children."""
    names = ("agent_a", "agent_b")
    return asking(spawn_and_await(team.lead, {each: asks_twice(team, each) for each in names}))


def by_id(state: Any) -> Command[Any]:
    """Answers every question by its id, with its own words."""
    return Command(resume={each.id: f"yes to {each.value}" for each in state["__interrupt__"]})


TWICE = ["agent_a 9? yes to agent_a #0", "agent_b ?? yes to agent_b #0 yes to agent_b #1"]


@pytest.mark.parametrize("place", ["node", "subgraph", "function", "keyed", "timeout"])
async def test_a_plain_answer_is_to_the_question_that_was_shown(team: Team, place: str) -> None:
    """A child's second question is shown, and doesn't take an earlier run's plain answer."""
    ask = asking_twice(team)

    def node(_: Parent) -> Parent:
        return {"out": [*ask(to("a", "9?")), *ask(to("b", "??"))]}

    inner = StateGraph(Parent).add_node("inner", node).add_edge(START, "inner").compile()
    keyed = keyed_by_input(inner)
    if place == "timeout":

        async def timed(_: Parent) -> Parent:
            return await asyncio.to_thread(node, _)

        graph = one_node(timed, timeout=60)
    else:
        works: dict[str, Any] = {
            "node": node,
            "subgraph": inner,
            "function": lambda state: {"out": inner.invoke(state)["out"]},
            "keyed": lambda state: {"out": keyed.invoke(state)["out"]},
        }
        graph = one_node(works[place])
    state = await graph.ainvoke({"note": "x"}, THREAD)
    state = await graph.ainvoke(Command(resume="yes to agent_a #0"), THREAD)
    for nth in range(2):
        assert questions(state) == [f"agent_b #{nth}"]
        state = await graph.ainvoke(by_id(state), THREAD)
    assert state["out"] == TWICE


@pytest.mark.parametrize("by", ["id", "plain"])
def test_a_plain_answer_ends_with_its_run(team: Team, by: str) -> None:
    """After a crash, and a run that is told nothing, questions are asked as if none had come."""
    ask, crashes = asking_twice(team), [1]

    def node(_: Parent) -> Parent:
        first = ask(to("a", "9?"))
        if crashes:
            crashes.clear()
            raise OSError("crash")
        return {"out": [*first, *ask(to("b", "??"))]}

    graph = one_node(node)
    graph.invoke({}, THREAD)
    with pytest.raises(OSError, match="crash"):
        graph.invoke(Command(resume="yes to agent_a #0"), THREAD)
    for nth in range(2):
        # The second time the question has been shown, and nobody answered.
        state = [graph.invoke(None, THREAD) for _ in range(2)][-1]
        assert questions(state) == [f"agent_b #{nth}"]
        answer = Command(resume=f"yes to agent_b #{nth}") if by == "plain" else by_id(state)
        state = graph.invoke(answer, THREAD)
    assert state["out"] == TWICE


def test_a_plain_answer_to_a_spawn_by_itself_ends_with_its_run(team: Team) -> None:
    """The same where the spawn is the outermost graph, and a child is interrupted twice."""
    children: dict[str, Any] = {"agent_b": asks_twice(team, "agent_b")}
    delegate = spawn_and_await(team.lead, children)
    delegate.checkpointer = InMemorySaver()
    given = [to("b", "??")]
    delegate.invoke({"tasks": given}, THREAD)
    state = delegate.invoke(Command(resume="yes to agent_b #0"), THREAD)
    assert questions(state) == ["agent_b #1"]
    assert questions(delegate.invoke(None, THREAD)) == ["agent_b #1"]
    assert told(given, delegate.invoke(by_id(state), THREAD)) == TWICE[1:]
