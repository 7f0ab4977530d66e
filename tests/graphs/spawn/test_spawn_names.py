"""Two spawn graphs of one name in one node: each finds its own record, or the node says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from spawning import THREAD
from test_spawn_calls import Parent, Question, Team, one_node, questions, team, to

from pipelit_agents.errors import ConfigurationError, PayloadError
from pipelit_agents.graphs import ANYONE, remote_child, spawn_and_await, verified_child
from pipelit_agents.graphs.spawn import tasks
from pipelit_agents.graphs.spawn.forms import form_of

__all__ = ["team"]
BACKENDS = False

Node = Callable[[Question], Question]


def first(_: Question) -> Question:
    """The first spawn's child."""
    return {"a": "first"}


def second(_: Question) -> Question:
    """The second one's, which asks a person."""
    return {"a": f"second {interrupt('pay?')}"}


def graph_of(work: Node, *, node: str = "work", name: str | None = None) -> Any:
    """A graph of one node."""
    return StateGraph(Question).add_node(node, work).add_edge(START, node).compile(name=name)


def redefined(number: int) -> Node:
    """Two functions of one name in one place."""
    if number == 1:

        def work(_: Question) -> Question:
            return {"a": "first"}
    else:

        def work(_: Question) -> Question:
            return {"a": f"second {interrupt('pay?')}"}

    return work


GRAPHS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "other functions": lambda: (graph_of(first), graph_of(second)),
    "lambdas": lambda: (
        graph_of(lambda _: {"a": "first"}),
        graph_of(lambda _: {"a": f"second {interrupt('pay?')}"}),
    ),
    "other names": lambda: (
        graph_of(redefined(1), name="one"),
        graph_of(redefined(2), name="two"),
    ),
    "other nodes": lambda: (graph_of(redefined(1), node="a_node"), graph_of(redefined(2))),
    "graphs inside": lambda: tuple(
        StateGraph(Question).add_node("x", graph_of(each)).add_edge(START, "x").compile()  # type: ignore[return-value]
        for each in (first, second)
    ),
}


@pytest.mark.parametrize("graphs", GRAPHS)
def test_a_spawn_that_is_left_out_on_resume_lends_its_record_to_no_other(
    team: Team, graphs: str
) -> None:
    """The same lead, the same agent and the same task; what tells them apart is what they run."""
    agent, kept = team.pipelit.agent("agent_b"), {}
    one, two = (
        spawn_and_await(team.lead, {"agent_b": verified_child(each, agent)})
        for each in GRAPHS[graphs]()
    )
    asked: Any = {"tasks": [to("b", "which?")]}

    def node(_: Parent) -> Parent:
        if not kept:
            kept["one"] = one.invoke(asked)["results"][0]["output"]["a"]
        return {"out": [kept["one"], two.invoke(asked)["results"][0]["output"]["a"]]}

    graph = one_node(node)
    assert questions(graph.invoke({}, THREAD)) == ["pay?"]
    # A new process builds them again, and goes on.
    one, two = (
        spawn_and_await(team.lead, {"agent_b": verified_child(each, agent)}, timeout=30)
        for each in GRAPHS[graphs]()
    )
    assert graph.invoke(Command(resume="yes"), THREAD)["out"] == ["first", "second yes"]


def test_what_only_the_order_of_calls_tells_apart_is_refused(team: Team) -> None:
    """In words that name the fix, which works."""
    agent, kept = team.pipelit.agent("agent_b"), {}
    asked: Any = {"tasks": [to("b", "which?")]}

    def spawns(**names: Any) -> list[Any]:
        return [
            spawn_and_await(
                team.lead,
                {"agent_b": verified_child(graph_of(redefined(number)), agent)},
                name=names.get(f"n{number}", "spawn_and_await"),
            )
            for number in (1, 2)
        ]

    one, two = spawns()

    def node(_: Parent) -> Parent:
        if not kept:
            kept["one"] = one.invoke(asked)["results"][0]["output"]["a"]
        return {"out": [kept["one"], two.invoke(asked)["results"][0]["output"]["a"]]}

    with pytest.raises(ConfigurationError, match=r"give each graph a different name.*name="):
        one_node(node).invoke({}, THREAD)
    kept.clear()
    one, two = spawns(n1="one", n2="two")
    graph = one_node(node)
    assert questions(graph.invoke({}, THREAD)) == ["pay?"]
    assert graph.invoke(Command(resume="yes"), THREAD)["out"] == ["first", "second yes"]


def test_a_spawn_that_a_node_makes_for_each_call_goes_on(team: Team) -> None:
    """Made anew from the same functions it is the same, also where it is asked the same again."""
    agent = team.pipelit.agent("agent_b")

    def node(_: Parent) -> Parent:
        found = []
        for _number in range(2):
            child = verified_child(graph_of(second), agent)
            made = spawn_and_await(team.lead, {"agent_b": child})
            found += made.invoke({"tasks": [to("b", "which?")]})["results"]
        return {"out": [each["output"]["a"] for each in found]}

    graph = one_node(node)
    graph.invoke({}, THREAD)
    graph.invoke(Command(resume="yes"), THREAD)
    assert graph.invoke(Command(resume="no"), THREAD)["out"] == ["second yes", "second no"]


def test_what_else_is_part_of_the_question(team: Team) -> None:
    """What answers may hold, and another server; not limits, nor children that aren't asked."""
    agent = team.pipelit.agent("agent_b")

    def question(**options: Any) -> bytes:
        children: Any = {"agent_b": verified_child(graph_of(first), agent)}
        children |= options.pop("more", {})
        terms = spawn_and_await(team.lead, children, **options).terms
        return terms.call_digest("x", terms.read([to("b", "x")]))

    assert question() == question(timeout=5, max_depth=2, max_answer_bytes=9)
    assert question() == question(more={"agent_c": team.child("agent_c")})
    assert question() != question(tool_calls=True)
    assert question() != question(accept_messages=["ai", "system"])
    here, there = (
        remote_child("agent_b", url=f"http://localhost:{port}", graph="research", credential="key")
        for port in (1, 2)
    )
    assert form_of(here) != form_of(there)
    assert form_of(verified_child(graph_of(first), agent)) == form_of(
        verified_child(graph_of(first), agent, accept_from=ANYONE)
    )


MALFORMED: list[Any] = [
    {"agent": "agent_b"},
    "not a task",
    {"agent": "agent_b", "input": float("nan")},
    {"agent": "agent_b", "input": object()},
]


@pytest.mark.parametrize("task", MALFORMED, ids=["no input", "text", "a number", "an object"])
def test_a_reworded_message_is_no_other_call(
    team: Team, monkeypatch: pytest.MonkeyPatch, task: Any
) -> None:
    """A task that can't be sent is known by its value, so a resumed run survives an upgrade."""
    terms = spawn_and_await(team.lead, {"agent_b": team.child("agent_b")}).terms
    (read,) = terms.read([task])
    digest = terms.call_digest("x", [read])
    assert read.problem
    assert terms.call_digest("x", [read._replace(problem="tasks[0]: other words")]) == digest

    def reworded(value: Any, **_: Any) -> bytes:
        raise PayloadError("the reason in other words")

    if isinstance(task, dict) and "input" in task:
        monkeypatch.setattr(tasks, "state_to_bytes", reworded)
        (later,) = terms.read([task])
        assert later.problem != read.problem
        assert terms.call_digest("x", [later]) == digest


def test_two_malformed_tasks_are_two_calls(team: Team) -> None:
    """Each finds the record of its own value."""
    terms = spawn_and_await(team.lead, {"agent_b": team.child("agent_b")}).terms
    made = {terms.call_digest("x", terms.read([each])) for each in MALFORMED[:2]}
    assert len(made) == 2
