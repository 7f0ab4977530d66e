"""Tasks that people approve, sent by the tool of a model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Clock
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from paying import People, Run, arun, asked, calling, model, node_of, run, told
from spawning import NAME, Work, graph_of
from test_tools import Scripted

from pipelit_agents import Agent, Approvers, Pipelit
from pipelit_agents.graphs import VerifiedChild, verified_agent, verified_child
from pipelit_agents.middleware import ApprovalMiddleware, SpawnMiddleware
from pipelit_agents.tools import SpawnAndAwait

BACKENDS = False
BOTH = pytest.mark.parametrize("go", [run, arun], ids=["sync", "async"])
ALICE = Approvers(["alice"])
GO: Any = {"messages": [("user", "go")]}


@pytest.fixture
def people(pipelit: Pipelit, clock: Clock) -> People:
    """Alice, who can approve."""
    made = People(pipelit, clock)
    made.enrol("alice")
    return made


@pytest.fixture
def got() -> list[Any]:
    """What the child was asked."""
    return []


@pytest.fixture
def child(researcher: Agent, got: list[Any]) -> VerifiedChild:
    """A child that notes what it is asked."""

    def work(state: Work) -> Work:
        got.append(state["q"])
        return {"a": state["q"].upper()}

    return verified_child(graph_of(work), researcher)


def spawning(*questions: str) -> AIMessage:
    """A message of a model that sends tasks."""
    tasks = [{"agent": NAME, "input": {"q": each}} for each in questions]
    return calling({"tasks": tasks}, name="spawn_and_await")


@BOTH
def test_each_task_of_a_call_is_a_question(
    people: People, lead: Agent, child: VerifiedChild, got: list[Any], go: Run
) -> None:
    """What was denied is in the tool's answer, beside what was answered."""
    spawn = SpawnMiddleware(agent=lead, children={NAME: child}, approvers={NAME: ALICE})
    agent: Any = create_agent(
        model(spawning("one", "two")), [], middleware=[spawn], checkpointer=InMemorySaver()
    )
    assert len(asked(go(agent, GO))) == 2
    people.approve(input={"q": "one"})
    assert len(asked(go(agent, None))) == 1
    people.deny(input={"q": "two"}, reason="too late")
    (words,) = told(go(agent, None))
    assert '"ONE"' in words
    assert "the task wasn't sent, because alice denied it: too late" in words
    assert got == ["one"]


@BOTH
def test_the_call_and_its_tasks_are_two_questions(
    people: People, lead: Agent, child: VerifiedChild, got: list[Any], go: Run
) -> None:
    """With ``ApprovalMiddleware`` for the tool, people are asked about the call first."""
    spawn = SpawnAndAwait(agent=lead, children={NAME: child}, approvers=ALICE)
    asking = ApprovalMiddleware(people.pipelit, {"spawn_and_await": ALICE})
    agent: Any = create_agent(
        model(spawning("one", "two")), [spawn], middleware=[asking], checkpointer=InMemorySaver()
    )
    (question,) = asked(go(agent, GO))
    assert question["arguments"]["tasks"][0]["agent"] == NAME
    people.approve()
    state = go(agent, Command(resume=True))
    assert [each["arguments"]["agent"] for each in asked(state)] == [NAME, NAME]
    people.approve(input={"q": "two"})
    assert len(asked(go(agent, None))) == 1
    assert got == ["two"]
    people.approve(input={"q": "one"})
    (words,) = told(go(agent, None))
    assert '"ONE"' in words
    assert '"TWO"' in words
    assert got == ["two", "one"]


def test_two_calls_with_the_same_task_need_two_approvals(
    people: People, lead: Agent, child: VerifiedChild, got: list[Any]
) -> None:
    """In one message of a model."""
    tasks = {"tasks": [{"agent": NAME, "input": {"q": "pay"}}]}
    spawn = SpawnAndAwait(agent=lead, children={NAME: child}, approvers=ALICE)
    script = calling(tasks, tasks, name="spawn_and_await")
    agent: Any = create_agent(model(script), [spawn], checkpointer=InMemorySaver())
    assert len(asked(run(agent, GO))) == 2
    one, other = people.open()
    people.pipelit.approvals.decide(one.id, "alice", people.code("alice"))
    assert len(asked(run(agent, None))) == 1
    assert got == ["pay"]
    people.pipelit.approvals.deny(other.id, "alice", people.code("alice"))
    run(agent, None)
    assert got == ["pay"]


def test_an_agent_as_a_tool_asks(people: People, lead: Agent, researcher: Agent) -> None:
    """The model reads who denied its question."""
    child = verified_child(create_agent(Scripted(script=[], told=[]), []), researcher)
    made = verified_agent(lead, child, on_failure="collect", approvers=ALICE)
    agent: Any = create_agent(
        model(calling({"message": "pay 90"}, name=NAME)),
        [made.as_tool()],
        checkpointer=InMemorySaver(),
    )
    (question,) = asked(run(agent, GO))
    assert question["arguments"]["agent"] == NAME
    people.deny(reason="too late")
    (words,) = told(run(agent, None))
    assert "the task wasn't sent, because alice denied it: too late" in words


def test_a_call_that_waits_leaves_no_other_call_behind(
    people: People, lead: Agent, researcher: Agent, got: list[Any]
) -> None:
    """A plain node of tools runs all calls in one task, and the graph is interrupted afterwards."""

    async def work(state: Work) -> Work:
        for _ in range(50):
            await asyncio.to_thread(int)
        got.append(state["q"])
        return {"a": state["q"].upper()}

    child = verified_child(graph_of(work), researcher)
    graph = node_of(SpawnAndAwait(agent=lead, children={NAME: child}, approvers=ALICE))
    tasks = [{"tasks": [{"agent": NAME, "input": {"q": each}}]} for each in ("one", "two")]
    arun(graph, {"messages": [calling(*tasks, name="spawn_and_await")]})
    people.approve(input={"q": "two"})
    assert len(asked(arun(graph, None))) == 1
    assert got == ["two"]
    people.approve(input={"q": "one"})
    assert ['"ONE"' in each for each in told(arun(graph, None))] == [True, False]
    assert got == ["two", "one"]
