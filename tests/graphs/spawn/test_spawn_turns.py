"""What a graph's state says of its spawns: turn after turn, and when the graph changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from spawning import LEADS, NAME, THREAD, Lead, Work, graph_of, parent_of, tasks, upper

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import RequestRefused, SpawnError
from pipelit_agents.graphs import (
    SpawnRequest,
    VerifiedChild,
    request_digest,
    spawn_and_await,
    verified_child,
)
from pipelit_agents.graphs.codec import state_to_bytes
from pipelit_agents.pipelit import home_of
from pipelit_agents.tools import SpawnAndAwait

BACKENDS = False
OTHER = "agent_second"


@pytest.fixture
def lead(lead: Agent, researcher: Agent, pipelit: Pipelit) -> Agent:
    """The parent's agent, with two children's agents beside it."""
    pipelit.users.create_agent(OTHER, owner="alice", purpose="works")
    return lead


@pytest.fixture
def runs() -> list[Any]:
    """The questions that the child worked on."""
    return []


@pytest.fixture
def child(lead: Agent, runs: list[Any]) -> VerifiedChild:
    """A child that counts, and fails where it is told to."""

    def work(state: Work) -> Work:
        runs.append(state["q"])
        if state["q"] == "fail":
            raise RuntimeError("broken")
        return upper(state)

    return verified_child(graph_of(work), home_of(lead).agent(NAME))


def answers(state: Any) -> list[Any]:
    """What was answered."""
    return [result["output"] and result["output"]["a"] for result in state["results"]]


# Turns


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("saver", ["memory", "sealed", "sqlite"])
def test_a_turn_that_writes_no_tasks_has_nothing_to_do(
    lead: Agent,
    child: VerifiedChild,
    runs: list[Any],
    tmp_path: Path,
    saver: str,
    durability: Any,
) -> None:
    """The tasks of an earlier turn, which the state still has, aren't done again."""
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as sqlite:
        savers = {"memory": InMemorySaver(), "sqlite": sqlite}
        kept = savers.get(saver) or home_of(lead).sealed_saver(InMemorySaver())
        graph = parent_of(lead, {NAME: child}, kept)
        for turn in range(3):
            state = graph.invoke({**tasks("a", "b"), "note": "x"}, THREAD, durability=durability)
            assert answers(state) == ["A", "B"]
            for _ in range(2):
                state = graph.invoke({"note": "no tasks"}, THREAD, durability=durability)
                assert state["results"] == []
                assert state["tasks"] == tasks("a", "b")["tasks"]
            assert sorted(runs) == sorted(["a", "b"] * (turn + 1))


async def test_also_on_the_event_loop(lead: Agent, child: VerifiedChild, runs: list[Any]) -> None:
    """The same, async."""
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    assert answers(await graph.ainvoke(tasks("a"), THREAD)) == ["A"]
    assert (await graph.ainvoke({"note": "x"}, THREAD))["results"] == []
    assert answers(await graph.ainvoke(tasks("a"), THREAD)) == ["A"]
    assert runs == ["a", "a"]


@pytest.mark.parametrize("schema", LEADS)
def test_whatever_form_the_state_has(
    lead: Agent, child: VerifiedChild, runs: list[Any], schema: Any
) -> None:
    """A turn without tasks has none in a dataclass and in a model."""
    builder = StateGraph(schema).add_node("delegate", spawn_and_await(lead, {NAME: child}))
    graph = builder.add_edge(START, "delegate").compile(checkpointer=InMemorySaver())
    assert answers(graph.invoke(tasks("a"), THREAD)) == ["A"]
    assert graph.invoke({"note": "x"}, THREAD)["results"] == []
    assert runs == ["a"]


def test_a_question_that_is_written_again_is_asked_again(
    lead: Agent, child: VerifiedChild, runs: list[Any]
) -> None:
    """Equal tasks of another turn are new ones, by input, by a node and by update_state."""
    builder = StateGraph(Lead)
    builder.add_node("plan", lambda state: tasks("a") if state.get("note") == "plan" else {})
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}))
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "delegate")
    graph = builder.compile(checkpointer=InMemorySaver())
    assert answers(graph.invoke(tasks("a"), THREAD)) == ["A"]
    assert answers(graph.invoke(tasks("a"), THREAD)) == ["A"]
    assert answers(graph.invoke({"note": "plan"}, THREAD)) == ["A"]
    graph.update_state(THREAD, tasks("a"))
    assert answers(graph.invoke({"note": ""}, THREAD)) == ["A"]
    assert len(runs) == 4
    assert graph.invoke({"note": ""}, THREAD)["results"] == []
    assert len(runs) == 4


def test_tasks_that_wait_for_a_later_turn_are_asked_then(
    lead: Agent, child: VerifiedChild, runs: list[Any]
) -> None:
    """A plan that a person confirms in the next turn is done in that turn, once."""
    builder = StateGraph(Lead)
    builder.add_node("plan", lambda state: {} if state["note"] == "yes" else tasks(state["note"]))
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges(
        "plan", lambda state: "delegate" if state["note"] == "yes" else END, ["delegate", END]
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    for question in ("a", "b"):
        graph.invoke({"note": question}, THREAD)
        assert answers(graph.invoke({"note": "yes"}, THREAD)) == [question.upper()]
    assert graph.invoke({"note": "yes"}, THREAD)["results"] == []
    assert runs == ["a", "b"]


def test_a_loop_within_a_turn_asks_again(lead: Agent) -> None:
    """A graph that goes back to the node, as to try again, has its tasks asked again."""
    runs: list[int] = []

    def work(state: Work) -> Work:
        runs.append(1)
        if len(runs) % 2:
            raise RuntimeError("the first time")
        return upper(state)

    child = verified_child(graph_of(work), home_of(lead).agent(NAME))
    builder = StateGraph(Lead)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}, on_failure="collect"))
    builder.add_edge(START, "delegate")
    builder.add_conditional_edges(
        "delegate",
        lambda s: END if all(r["status"] == "verified" for r in s["results"]) else "delegate",
        ["delegate", END],
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    for turn in (1, 2):
        assert answers(graph.invoke(tasks("a"), THREAD)) == ["A"]
        assert len(runs) == 2 * turn


def planned(state: Lead) -> Lead:
    """Writes tasks where the turn says what they are."""
    return tasks(state["note"]) if state["note"] else {}


@pytest.mark.parametrize("saver", ["memory", "sqlite"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_subgraph_does_nothing_in_a_turn_without_tasks(
    lead: Agent,
    child: VerifiedChild,
    runs: list[Any],
    tmp_path: Path,
    depth: int,
    saver: str,
) -> None:
    """A graph that is a node, and gets the old tasks as its input, doesn't do them again."""
    inner: Any = spawn_and_await(lead, {NAME: child})
    for _ in range(depth):
        inner = StateGraph(Lead).add_node("inner", inner).add_edge(START, "inner").compile()
    builder = StateGraph(Lead).add_node("plan", planned).add_node("sub", inner)
    builder.add_edge(START, "plan").add_edge("plan", "sub")
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as sqlite:
        kept: Any = sqlite if saver == "sqlite" else InMemorySaver()
        graph = builder.compile(checkpointer=kept)
        for _ in range(2):
            assert answers(graph.invoke({"note": "a"}, THREAD)) == ["A"]
            for _ in range(2):
                assert graph.invoke({"note": ""}, THREAD)["results"] == []
    assert runs == ["a", "a"]


def test_tasks_that_another_node_did_are_done(
    lead: Agent, child: VerifiedChild, runs: list[Any]
) -> None:
    """Of two spawns that read the same tasks, one in a later turn does only new ones."""
    delegate = spawn_and_await(lead, {NAME: child})
    builder = StateGraph(Lead).add_node("plan", planned)
    builder.add_node("first", delegate).add_node("second", delegate)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges(
        "plan", lambda s: "first" if s["note"] == "a" else "second", ["first", "second"]
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    assert answers(graph.invoke({"note": "a"}, THREAD)) == ["A"]
    assert graph.invoke({"note": ""}, THREAD)["results"] == []
    assert answers(graph.invoke({"note": "b"}, THREAD)) == ["B"]
    assert runs == ["a", "b"]


@pytest.mark.parametrize("broken_off", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_a_loop_in_a_later_turn(
    lead: Agent, child: VerifiedChild, runs: list[Any], waits: bool, broken_off: bool
) -> None:
    """It does tasks again that this turn began, and never those that an earlier turn did."""
    passes: list[str] = []

    def review(state: Lead) -> Lead:
        passes.append(state["note"])
        if broken_off and passes == [""]:
            interrupt("go on?")
        return {}

    builder = StateGraph(Lead).add_node("plan", planned).add_node("review", review)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges(
        "plan", lambda s: END if waits and s["note"] else "delegate", ["delegate", END]
    )
    builder.add_edge("delegate", "review")
    builder.add_conditional_edges(
        "review", lambda s: "delegate" if s["note"] == "" and len(passes) < 4 else END
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    graph.invoke({"note": "a"}, THREAD)
    runs.clear()
    passes.clear()
    state = graph.invoke({"note": ""}, THREAD)
    if broken_off:
        state = graph.invoke(Command(resume="yes"), THREAD)
    assert len(passes) == 4
    # The interrupted pass of the review counts once more.
    assert runs == ["a"] * ((3 if broken_off else 4) if waits else 0)
    assert answers(state) == (["A"] if waits else [])


# A turn that fails


def test_after_a_failure_the_old_results_answer_none_of_the_new_tasks(
    lead: Agent, child: VerifiedChild
) -> None:
    """LangGraph keeps the state as it was before the node: each result says what it answers."""
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    graph.invoke(tasks("a", "b"), THREAD)
    with pytest.raises(SpawnError) as caught:
        graph.invoke(tasks("b", "fail"), THREAD)
    kept = graph.get_state(THREAD)
    assert kept.next == ("delegate",)
    asked = kept.values["tasks"]
    assert asked == tasks("b", "fail")["tasks"]

    def fits(index: int, result: Any) -> bool:
        place, digest = result["index"], request_digest(asked[index]["input"])
        return bool(place == index and result["request"] == digest)

    assert not any(fits(index, each) for index, each in enumerate(kept.values["results"]))
    # The error has this turn's.
    assert [each["status"] for each in caught.value.results] == ["verified", "failed"]
    assert all(fits(index, each) for index, each in enumerate(caught.value.results))


def test_a_spawn_by_itself_clears_what_it_said_before(lead: Agent, child: VerifiedChild) -> None:
    """As the outermost graph, its state has no results of an earlier turn when this one fails."""
    delegate = spawn_and_await(lead, {NAME: child})
    delegate.checkpointer = InMemorySaver()
    assert answers(delegate.invoke(tasks("a"), THREAD)) == ["A"]
    with pytest.raises(SpawnError):
        delegate.invoke(tasks("fail"), THREAD)
    assert delegate.get_state(THREAD).values["results"] == []


def test_results_say_what_they_answer(lead: Agent, child: VerifiedChild) -> None:
    """Place and digest of the request: of what is verified, failed, refused and never sent."""
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    given: Any = [
        *tasks("a", "fail")["tasks"],
        {"agent": "agent_stranger", "input": {"q": "a"}},
        {"agent": NAME, "input": {"q": object()}},
        "text",
    ]
    results = graph.invoke({"tasks": given})["results"]
    assert [each["index"] for each in results] == [0, 1, 2, 3, 4]
    digests = [request_digest({"q": "a"}), request_digest({"q": "fail"})]
    assert [each["request"] for each in results] == [*digests, digests[0], None, None]
    assert [each["status"] for each in results] == ["verified", *["failed"] * 4]


# Alone


@pytest.mark.parametrize("on_failure", ["raise", "collect"])
async def test_a_spawn_by_itself_says_that_nobody_can_be_asked(
    lead: Agent, child: VerifiedChild, on_failure: Any
) -> None:
    """A child that asks a person, where no run can wait, is told of in words."""
    asks = verified_child(graph_of(lambda _: {"a": interrupt("?")}), home_of(lead).agent(OTHER))
    children = {NAME: child, OTHER: asks}
    delegate = spawn_and_await(lead, children, on_failure=on_failure)
    given: Any = {"tasks": [*tasks("a")["tasks"], *tasks("x", agent=OTHER)["tasks"]]}

    async def both() -> list[Any]:
        return [delegate.invoke(given)["results"], (await delegate.ainvoke(given))["results"]]

    if on_failure == "raise":
        with pytest.raises(SpawnError, match="waits for a person's answer"):
            await both()
        return
    for first, second in await both():
        assert first["status"] == "verified"
        assert second["status"] == "refused"
        assert "in a graph that has a checkpointer" in second["error"]


async def test_the_tool_by_itself_says_that_nobody_can_be_asked(lead: Agent) -> None:
    """The same in an agent loop of the user's own, and behind MCP: no KeyError."""
    asks = verified_child(graph_of(lambda _: {"a": interrupt("?")}), home_of(lead).agent(NAME))
    tool = SpawnAndAwait(agent=lead, children={NAME: asks})
    for said in (tool.invoke(dict(tasks("a"))), await tool.ainvoke(dict(tasks("a")))):
        assert "waits for a person's answer" in said


# What was given when the node was built


@pytest.mark.parametrize("on_failure", ["raise", "collect"])
def test_a_child_that_is_added_later_is_no_child(
    lead: Agent, child: VerifiedChild, on_failure: Any
) -> None:
    """The node has the children that it was built with: a task for another is told, not lost."""
    children: dict[str, Any] = {NAME: child}
    graph = parent_of(lead, children, InMemorySaver(), on_failure=on_failure)
    graph.invoke(tasks("of an earlier turn"), THREAD)
    children[OTHER] = verified_child(graph_of(), home_of(lead).agent(OTHER))
    given: Any = {"tasks": [*tasks("new", agent=OTHER)["tasks"], *tasks("old")["tasks"]]}
    if on_failure == "raise":
        with pytest.raises(SpawnError, match="'agent_second' isn't a child of this node"):
            graph.invoke(given, THREAD)
        return
    first, second = graph.invoke(given, THREAD)["results"]
    assert first["agent"] == OTHER
    assert "'agent_second' isn't a child of this node" in first["error"]
    assert second["output"]["a"] == "OLD"


class Shifty(Mapping[str, Any]):
    """Children that are others each time they are read."""

    def __init__(self, *shown: Any) -> None:
        self.shown = list(shown)

    def __getitem__(self, name: str) -> Any:
        return self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]

    def __iter__(self) -> Iterator[str]:
        return iter([NAME])

    def __len__(self) -> int:
        return 1


def test_the_child_that_is_looked_at_is_the_child_that_is_asked(
    lead: Agent, child: VerifiedChild, runs: list[Any]
) -> None:
    """Children are read once: none is exchanged between the check and the node."""
    other = verified_child(graph_of(lambda _: {"a": "other"}), home_of(lead).agent(NAME))
    assert answers(parent_of(lead, Shifty(child, other)).invoke(tasks("a"))) == ["A"]
    with pytest.raises(TypeError, match="verified_child"):
        spawn_and_await(lead, Shifty(graph_of(), child))
    assert runs == ["a"]


def test_a_child_that_is_taken_away_later_is_still_one(lead: Agent, child: VerifiedChild) -> None:
    """What is removed from the dict, or exchanged in it, was given all the same."""
    children: dict[str, Any] = {NAME: child}
    graph = parent_of(lead, children)
    children[NAME] = verified_child(graph_of(lambda _: {"a": "other"}), home_of(lead).agent(NAME))
    assert answers(graph.invoke(tasks("a"))) == ["A"]
    children.clear()
    assert answers(graph.invoke(tasks("a"))) == ["A"]


def test_the_tool_has_the_children_that_it_was_built_with(
    lead: Agent, child: VerifiedChild
) -> None:
    """A child that is added later is named as no child; a proof that is changed later isn't."""
    children: dict[str, Any] = {NAME: child}
    proof: dict[str, Any] = {}
    tool = SpawnAndAwait(agent=lead, children=children, proof=proof)
    children[OTHER] = verified_child(graph_of(), home_of(lead).agent(OTHER))
    proof[NAME] = "unbound-totp"
    assert f"there is no agent '{OTHER}'" in tool.invoke(dict(tasks("x", agent=OTHER)))
    assert '"verified"' in tool.invoke(dict(tasks("x")))


def test_a_list_of_whom_a_child_works_for_is_copied(lead: Agent) -> None:
    """A name that is added to the list later isn't accepted, nor is a text a list of names."""
    researcher = home_of(lead).agent(NAME)
    listed = [OTHER]
    made = verified_child(graph_of(), researcher, accept_from=listed)
    direct = VerifiedChild(graph=graph_of(), agent=researcher, accept_from=listed)
    text = VerifiedChild(graph=graph_of(), agent=researcher, accept_from="agent_lead and others")
    listed.append("agent_lead")
    payload = state_to_bytes({"q": "x"})
    proof = lead.prove_request(b"c" * 32, payload, verifier=NAME, depth=1)
    request = SpawnRequest("agent_lead", b"c" * 32, 1, payload, proof)
    for each in (made, direct, text):
        with pytest.raises(RequestRefused):
            each.check(request)


def test_answers_that_are_written_into_the_nodes_state_are_compared(
    lead: Agent, child: VerifiedChild
) -> None:
    """An answer to another task, in the place of one that is missing, is no answer."""
    asks = verified_child(graph_of(lambda _: {"a": interrupt("?")}), home_of(lead).agent(OTHER))
    graph = parent_of(lead, {NAME: child, OTHER: asks}, InMemorySaver(), on_failure="collect")
    (stolen,) = graph.invoke(tasks("a"), {"configurable": {"thread_id": "2"}})["results"]
    given: Any = {"tasks": tasks("pay", agent=OTHER)["tasks"]}
    graph.invoke(given, THREAD)
    inside = graph.get_state(THREAD, subgraphs=True).tasks[0].state.config
    forged = {"answers": [{"index": 0, "result": stolen}]}
    graph.update_state(inside, forged, as_node=OTHER)
    (result,) = graph.invoke(Command(resume="yes"), THREAD)["results"]
    assert result["agent"] == OTHER
    assert result["status"] == "failed"
    assert "doesn't answer it" in result["error"]
