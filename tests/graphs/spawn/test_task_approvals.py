"""Tasks that people approve before they are sent: one question a task, and one sending a yes."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Clock
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from paying import People, Run, arun, asked, run
from spawning import NAME, Lead, Work, graph_of, parent_of, tasks

from pipelit_agents import Agent, Approvers, Pipelit
from pipelit_agents.errors import ConfigurationError, InvalidUsername, SpawnError
from pipelit_agents.graphs import (
    RemoteChild,
    created_agents,
    spawn_and_await,
    verified_agent,
    verified_child,
)

BACKENDS = False
BOTH = pytest.mark.parametrize("go", [run, arun], ids=["sync", "async"])
ALICE = Approvers(["alice"])
OTHER = "agent_other"


@pytest.fixture
def people(pipelit: Pipelit, clock: Clock) -> People:
    """Alice and carol, who can approve."""
    made = People(pipelit, clock)
    made.enrol("alice", "carol")
    return made


class Child:
    """A child that notes what it is asked."""

    def __init__(self, agent: Agent, answer: Callable[[Work], Any] | None = None) -> None:
        self.got: list[Any] = []
        self._answer = answer
        self.child = verified_child(graph_of(self.work), agent)

    def work(self, state: Work) -> Work:
        """Answer in capitals, or as it is told."""
        self.got.append(state["q"])
        return {"a": state["q"].upper() if self._answer is None else self._answer(state)}


@pytest.fixture
def child(researcher: Agent) -> Child:
    """A child."""
    return Child(researcher)


@pytest.fixture
def other(pipelit: Pipelit) -> Child:
    """Another child."""
    pipelit.users.create_agent(OTHER, owner="alice", purpose="reads")
    return Child(pipelit.agent(OTHER))


def parent(lead: Agent, child: Child, **options: Any) -> Any:
    """A graph that waits for alice before it sends a task to the child."""
    options = {"approvers": ALICE, "on_failure": "collect", **options}
    return parent_of(lead, {NAME: child.child}, InMemorySaver(), **options)


def said(state: Any) -> list[Any]:
    """The answer of each task, or why it has none."""
    return [
        each["output"]["a"] if each["output"] else f"{each['status']}: {each['error']}"
        for each in state["results"]
    ]


@BOTH
def test_a_task_waits_for_a_yes_and_goes_out_once(
    people: People, lead: Agent, child: Child, go: Run
) -> None:
    """The question shows the child and the exact input; any resume wakes the graph."""
    graph = parent(lead, child)
    (question,) = asked(go(graph, tasks("pay 90")))
    assert question["tool"] == "spawn_and_await"
    assert question["arguments"] == {"agent": NAME, "input": {"q": "pay 90"}}
    assert question["agent"] == lead.username
    assert len(asked(go(graph, Command(resume=True)))) == 1
    assert child.got == []
    people.approve()
    assert said(go(graph, None)) == ["PAY 90"]
    assert child.got == ["pay 90"]


@BOTH
def test_tasks_are_answered_apart(people: People, lead: Agent, child: Child, go: Run) -> None:
    """What was approved runs, what was denied has a result, and nothing runs twice."""
    graph = parent(lead, child)
    state = go(graph, tasks("one", "two", "three"))
    ids = {each.value["arguments"]["input"]["q"]: each.id for each in state["__interrupt__"]}
    people.approve(input={"q": "two"})
    state = go(graph, Command(resume={ids["two"]: True}))
    assert len(asked(state)) == 2
    assert child.got == ["two"]
    people.deny(input={"q": "three"}, reason="too late")
    people.approve(input={"q": "one"})
    refused = "refused: the task wasn't sent, because alice denied it: too late"
    assert said(go(graph, None)) == ["ONE", "TWO", refused]
    assert child.got == ["two", "one"]


def test_a_rule_for_one_child_lets_others_run(
    people: People, lead: Agent, child: Child, other: Child
) -> None:
    """A sibling that needs no approval doesn't wait, and runs once."""
    children = {NAME: child.child, OTHER: other.child}
    graph = parent_of(lead, children, InMemorySaver(), approvers={NAME: ALICE})
    given: Any = {"tasks": tasks("a")["tasks"] + tasks("b", agent=OTHER)["tasks"]}
    run(graph, given)
    assert (child.got, other.got) == ([], ["b"])
    people.approve()
    assert said(run(graph, None)) == ["A", "B"]
    assert (child.got, other.got) == (["a"], ["b"])


def test_a_child_does_nothing_before_the_yes(people: People, lead: Agent, child: Child) -> None:
    """It isn't even asked to prove that it holds its secret, also on an event loop."""
    proved: list[int] = []

    class Proving(type(child.child)):  # type: ignore[misc]
        def prove_possession(self, challenge: Any) -> Any:
            proved.append(1)
            return super().prove_possession(challenge)

    child.child = Proving(graph=child.child.graph, agent=child.child.agent)
    graph = parent(lead, child)
    arun(graph, tasks("x"))
    assert proved == []
    people.approve()
    assert said(arun(graph, None)) == ["X"]
    assert proved == [1]


def test_the_time_of_waiting_isnt_the_childs(
    people: People, lead: Agent, child: Child, clock: Clock
) -> None:
    """A day of waiting doesn't end a task with a timeout, and its proof is still fresh."""
    graph = parent(lead, child, timeout=30)
    run(graph, tasks("x"))
    clock.advance(86_400 * 3)
    people.approve()
    assert said(run(graph, None)) == ["X"]


def test_an_expired_question_is_a_result(
    people: People, lead: Agent, child: Child, clock: Clock
) -> None:
    """It says until when people were asked."""
    graph = parent(lead, child, approvers=Approvers(["alice"], expires_in=60))
    run(graph, tasks("x"))
    clock.advance(61)
    (words,) = said(run(graph, None))
    assert words.startswith("refused: the task wasn't sent: not approved in time")
    assert child.got == []


def test_an_approver_who_was_deactivated_approved_nothing(
    people: People, lead: Agent, child: Child
) -> None:
    """What was approved is counted again when the task is sent."""
    graph = parent(lead, child, approvers=Approvers(["carol"]))
    run(graph, tasks("x"))
    people.approve("carol")
    people.pipelit.users.deactivate("carol")
    assert len(asked(run(graph, None))) == 1
    assert child.got == []


def test_twins_send_a_task_once(people: People, lead: Agent, child: Child) -> None:
    """Two processes that resume at the same moment use one approval up once."""
    graph = parent(lead, child)
    run(graph, tasks("x"))
    people.approve()
    with ThreadPoolExecutor() as pool:
        twins = list(pool.map(lambda _: said(run(graph, None)), range(2)))
    assert child.got == ["x"]
    assert ["X"] in twins
    others = [str(each) for each in twins if each != ["X"]]
    assert all("approved and sent before" in each for each in others)


class Dying(InMemorySaver):
    """A saver that saves no answer and nothing afterwards, as if the process was killed."""

    dead: bool | None = False

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        """Save what isn't an answer."""
        if self.dead is not None:
            self.dead = self.dead or any(channel == "answers" for channel, _ in writes)
        self._live()
        super().put_writes(config, writes, task_id, task_path)

    def put(self, *arguments: Any) -> Any:
        """Save a checkpoint."""
        self._live()
        return super().put(*arguments)

    def _live(self) -> None:
        if self.dead:
            raise OSError("killed")


def test_after_a_kill_a_task_isnt_sent_again(people: People, lead: Agent, child: Child) -> None:
    """It isn't known whether it took effect; sending it again needs another yes."""
    saver = Dying()
    graph = parent_of(lead, {NAME: child.child}, saver, approvers=ALICE)
    run(graph, tasks("x"))
    people.approve()
    with pytest.raises(OSError, match="killed"):
        run(graph, None)
    saver.dead = None
    with pytest.raises(SpawnError, match="it isn't known whether it took effect"):
        run(graph, None)
    (question,) = asked(run(graph, None))
    assert question["arguments"]["attempt"] == 2
    assert child.got == ["x"]


@BOTH
def test_a_retry_asks_again(people: People, lead: Agent, researcher: Agent, go: Run) -> None:
    """An approval is for one attempt; siblings that answered don't run again."""
    broken = ["x"]

    def answer(state: Work) -> str:
        if state["q"] in broken:
            broken.clear()
            raise RuntimeError("broken")
        return "done"

    child = Child(researcher, answer)
    builder = StateGraph(Lead)
    spawn = spawn_and_await(lead, {NAME: child.child}, approvers=ALICE)
    retried = RetryPolicy(initial_interval=0, jitter=False, retry_on=SpawnError)
    builder.add_node("delegate", spawn, retry_policy=retried)
    builder.add_edge(START, "delegate")
    graph = builder.compile(checkpointer=InMemorySaver())
    go(graph, tasks("x", "y"))
    for each in ("x", "y"):
        people.approve(input={"q": each})
    (question,) = asked(go(graph, None))
    assert question["arguments"] == {"agent": NAME, "input": {"q": "x"}, "attempt": 2}
    assert sorted(child.got) == ["x", "y"]
    people.approve()
    assert said(go(graph, None)) == ["done", "done"]
    assert sorted(child.got) == ["x", "x", "y"]


def test_a_denial_stays(people: People, lead: Agent, child: Child) -> None:
    """A resume doesn't ask again."""
    graph = parent(lead, child, on_failure="raise")
    run(graph, tasks("x"))
    people.deny()
    for _ in range(2):
        with pytest.raises(SpawnError, match="because alice denied it"):
            run(graph, None)
    assert people.open() == []


def test_an_expired_question_is_asked_again_by_a_resume(
    people: People, lead: Agent, child: Child, clock: Clock
) -> None:
    """After the failure was raised."""
    rule = Approvers(["alice"], expires_in=60)
    graph = parent(lead, child, approvers=rule, on_failure="raise")
    run(graph, tasks("x"))
    clock.advance(61)
    with pytest.raises(SpawnError, match="not approved in time"):
        run(graph, None)
    (question,) = asked(run(graph, None))
    assert question["arguments"]["attempt"] == 2
    people.approve()
    assert said(run(graph, None)) == ["X"]


@pytest.mark.parametrize("wake", [None, Command(resume=True)], ids=["none", "resume"])
@BOTH
def test_a_child_may_interrupt_by_itself(
    people: People, lead: Agent, researcher: Agent, go: Run, wake: Any
) -> None:
    """After the yes, as often as it likes; each answer arrives at its own question."""
    child = Child(researcher, lambda _: [interrupt("one?"), interrupt("two?")])
    graph = parent(lead, child, timeout=30)
    go(graph, tasks("x"))
    people.approve()
    state = go(graph, wake)
    assert asked(state) == ["one?"]
    state = go(graph, Command(resume={state["__interrupt__"][0].id: "1"}))
    assert asked(state) == ["two?"]
    assert said(go(graph, Command(resume="2"))) == [["1", "2"]]
    assert people.open() == []


@pytest.mark.parametrize("ending", ["deny", "deactivate"])
def test_a_task_that_stopped_at_its_question_was_sent(
    people: People, lead: Agent, researcher: Agent, ending: str
) -> None:
    """If its approval ends before it goes on, no words say that it wasn't sent."""
    child = Child(researcher, lambda _: interrupt("one?"))
    graph = parent(lead, child)
    run(graph, tasks("x"))
    (question,) = people.open()
    people.approve()
    run(graph, None)
    if ending == "deny":
        people.pipelit.approvals.deny(question.id, "alice", people.code("alice"))
    else:
        people.pipelit.users.deactivate("alice")
    (words,) = said(run(graph, Command(resume="1")))
    assert "approved and sent before, and stopped at a question of its own" in str(words)


@BOTH
def test_a_function_calls_it(people: People, lead: Agent, child: Child, go: Run) -> None:
    """Two calls in one function; the first isn't sent again when the second waits."""
    spawn = spawn_and_await(lead, {NAME: child.child}, approvers=ALICE)

    def work(_: Any) -> list[Any]:
        return [said(spawn.invoke(tasks(each))) for each in "ab"]

    async def awork(_: Any) -> list[Any]:
        return [said(await spawn.ainvoke(tasks(each))) for each in "ab"]

    graph = entrypoint(checkpointer=InMemorySaver())(work if go is run else awork)
    go(graph, 1)
    people.approve()
    go(graph, None)
    people.approve()
    assert go(graph, None) == [["A"], ["B"]]
    assert child.got == ["a", "b"]


def test_a_child_that_spawns_asks_too(people: People, lead: Agent, child: Child) -> None:
    """Both questions surface to the caller of the outer graph, one after the other."""
    people.pipelit.users.create_agent(OTHER, owner="alice", purpose="reads")
    other = people.pipelit.agent(OTHER)
    inner = spawn_and_await(other, {NAME: child.child}, approvers=ALICE)
    outer = Child(other, lambda state: said(inner.invoke(tasks(state["q"])))[0])
    graph = parent_of(lead, {OTHER: outer.child}, InMemorySaver(), approvers=ALICE)
    (question,) = asked(run(graph, tasks("x", agent=OTHER)))
    assert (question["agent"], question["arguments"]["agent"]) == (lead.username, OTHER)
    people.approve()
    (question,) = asked(run(graph, None))
    assert (question["agent"], question["arguments"]["agent"]) == (OTHER, NAME)
    people.approve()
    assert said(run(graph, Command(resume=True))) == ["X"]
    assert child.got == ["x"]


def test_a_verified_agent_asks(people: People, lead: Agent, researcher: Agent) -> None:
    """People see the messages in their written form."""
    builder: Any = StateGraph(MessagesState)
    builder.add_node("work", lambda _: {"messages": [AIMessage("done")]})
    builder.add_edge(START, "work")
    made = verified_agent(lead, verified_child(builder.compile(), researcher), approvers=ALICE)
    builder = StateGraph(MessagesState)
    builder.add_node("agent", made)
    builder.add_edge(START, "agent")
    graph = builder.compile(checkpointer=InMemorySaver())
    (question,) = asked(run(graph, {"messages": [("user", "pay 90")]}))
    (message,) = question["arguments"]["input"]["messages"]
    assert message["__pipelit_message__"]["type"] == "human"
    assert message["__pipelit_message__"]["data"]["content"] == "pay 90"
    people.approve()
    assert run(graph, None)["messages"][-1].content == "done"


def test_a_remote_child_gets_nothing_before_the_yes(
    people: People, lead: Agent, researcher: Agent
) -> None:
    """And then the request that was displayed."""

    class Here(RemoteChild):
        async def answer(self, request: Any, lead: Any, *, limit: int) -> Any:
            got.append(request.payload)
            return await served.aanswer(request, {})

    got: list[bytes] = []
    served = verified_child(graph_of(), researcher, accept_from=[lead.username])
    far = Here(NAME, url="https://a.test", graph="a", credential=None, headers={}, patience=1.0)
    graph = parent_of(lead, {NAME: far}, InMemorySaver(), approvers=ALICE)
    run(graph, tasks("x"))
    assert got == []
    people.approve()
    assert said(run(graph, None)) == ["X"]
    assert got == [b'{"q":"x"}']


def test_created_agents_are_asked_about(people: People, lead: Agent) -> None:
    """One rule counts for every agent that the function finds."""
    pipelit = people.pipelit
    name = pipelit.users.create_agent("agent_new", owner=lead.username, purpose="reads").username
    found: Any = created_agents(lead, build=lambda _: graph_of())
    graph = parent_of(lead, found, InMemorySaver(), approvers=ALICE)
    (question,) = asked(run(graph, tasks("x", agent=name)))
    assert question["arguments"]["agent"] == name
    people.approve()
    assert said(run(graph, None)) == ["X"]


def test_only_tasks_that_the_rule_names_are_asked(
    people: People, lead: Agent, child: Child
) -> None:
    """What ``when`` isn't true for goes out without a yes; it can't change what is asked."""
    rule: Any = Approvers(["alice"], when=lambda task: task.pop("input")["q"] != "small")
    graph = parent(lead, child, approvers=rule)
    (question,) = asked(run(graph, tasks("small", "large")))
    assert question["arguments"] == {"agent": NAME, "input": {"q": "large"}}
    assert child.got == ["small"]


@pytest.mark.parametrize(
    ("saver", "when", "error", "words"),
    [
        pytest.param(True, lambda task: task["input"]["amount"], KeyError, "amount", id="rule"),
        pytest.param(None, None, ConfigurationError, "with a checkpointer, with a", id="asked"),
        pytest.param(None, lambda _: False, ConfigurationError, "checkpointer", id="not-asked"),
    ],
)
def test_an_error_of_the_graphs_author_sends_nothing(
    people: People,
    lead: Agent,
    child: Child,
    other: Child,
    saver: Any,
    when: Any,
    error: Any,
    words: str,
) -> None:
    """A rule that fails, or a run that can't wait, ends before siblings are sent."""
    rule = Approvers(["alice"], when=when)
    children = {NAME: child.child, OTHER: other.child}
    graph = parent_of(lead, children, saver and InMemorySaver(), approvers={NAME: rule})
    given: Any = {"tasks": tasks("a", agent=OTHER)["tasks"] + tasks("b")["tasks"]}
    with pytest.raises(error, match=words):
        run(graph, given)
    assert (child.got, other.got, people.open()) == ([], [], [])


@pytest.mark.parametrize(
    "question", ["x" * 2**20, json.loads("[" * 63 + "]" * 63)], ids=["long", "deep"]
)
def test_an_input_that_cannot_be_displayed_is_refused(
    people: People, lead: Agent, child: Child, question: Any
) -> None:
    """It isn't sent, and its sibling is asked about."""
    graph = parent(lead, child)
    assert len(asked(run(graph, tasks(question, "x")))) == 1
    people.approve()
    words, answer = said(run(graph, None))
    assert words.startswith("refused: the task wasn't sent, because its input can't be displayed")
    assert (answer, child.got) == ("X", ["x"])


def test_a_task_cannot_switch_it_off(people: People, lead: Agent, child: Child) -> None:
    """Whatever a task says of approvers, it is no task then."""
    given: Any = {"tasks": [{"agent": NAME, "input": {"q": "x"}, "approvers": None}]}
    (words,) = said(run(parent(lead, child), given))
    assert words.startswith("failed: tasks[0] must be {'agent': …, 'input': …}")
    assert child.got == []


def test_another_input_needs_another_yes(people: People, lead: Agent, child: Child) -> None:
    """A client that writes other tasks to the thread sends nothing that nobody approved."""
    graph = parent(lead, child)
    run(graph, tasks("x"))
    people.approve()
    (question,) = asked(run(graph, tasks("y")))
    assert question["arguments"]["input"] == {"q": "y"}
    assert child.got == []


def test_the_credentials_of_a_task_are_approved_too(
    people: People, lead: Agent, child: Child
) -> None:
    """They say what the child may open for it."""
    given: Any = {"tasks": [{"agent": NAME, "input": {"q": "x"}, "credentials": ["github"]}]}
    (question,) = asked(run(parent(lead, child), given))
    assert question["arguments"]["credentials"] == ["github"]


@pytest.mark.parametrize(
    ("approvers", "error", "words"),
    [
        pytest.param({OTHER: ALICE}, ValueError, "'agent_other', which isn't a child", id="child"),
        pytest.param({}, ValueError, "approvers is empty", id="empty"),
        pytest.param(["alice"], TypeError, "approvers must be Approvers", id="list"),
        pytest.param({NAME: ["alice"]}, TypeError, r"approvers\['agent_researcher'\]", id="rule"),
        pytest.param({"A B": ALICE}, InvalidUsername, "approvers", id="name"),
        pytest.param(None, ValueError, "on_request belongs to approvers", id="notices"),
    ],
)
def test_a_wrong_argument_is_an_error(
    lead: Agent, child: Child, approvers: Any, error: type[Exception], words: str
) -> None:
    """At construction, in words that name it."""
    options: Any = {"approvers": approvers, "on_request": print}
    with pytest.raises(error, match=words):
        spawn_and_await(lead, {NAME: child.child}, **options)
