"""Children that a function finds when the spawn runs: what is asked, admitted, refused, resumed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from spawning import THREAD, Lead, Work, graph_of, parent_of
from typing_extensions import TypedDict

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import (
    ConfigurationError,
    DepthExceeded,
    NotPermitted,
    SpawnError,
    StorageError,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.graphs import (
    RemoteChild,
    SpawnTask,
    VerifiedChild,
    remote_child,
    request_digest,
    spawn_and_await,
    verified_child,
)
from pipelit_agents.graphs.spawn import found_graph

BACKENDS = False
NAMES = ("agent_a", "agent_b")
WORDS = "isn't an agent that this node can ask: check its name"


class Registry:
    """A developer's function: it has children by name, and notes what it is asked.

    A child echoes its name and its question. A question with a question mark is for a person.
    """

    def __init__(self, pipelit: Pipelit) -> None:
        self.pipelit = pipelit
        self.asked: list[str] = []
        self.done: list[str] = []
        self.has: dict[str, Any] = {}
        for name in NAMES:
            pipelit.users.create_agent(name, owner="alice", purpose="works")
            self.has[name] = self.child(name)

    def child(self, name: str, graph: str = "echo") -> VerifiedChild:
        """A child that echoes."""

        def work(state: Work) -> Work:
            said = f"{name} {state['q']}"
            if state["q"].endswith("?"):
                said = f"{said} {interrupt(said)}"
            self.done.append(f"{name} {state['q']}")
            return {"a": said}

        built = StateGraph(Work).add_node("work", work).add_edge(START, "work").compile(name=graph)
        return verified_child(built, self.pipelit.agent(name))

    def __call__(self, name: str) -> Any:
        """Find a child, or raise the error that stands in its place."""
        self.asked.append(name)
        found = self.has.get(name)
        if isinstance(found, Exception):
            raise found
        return found

    async def later(self, name: str) -> Any:
        """Find it asynchronously."""
        await asyncio.sleep(0)
        return self(name)


@pytest.fixture
def found(pipelit: Pipelit, lead: Agent) -> Registry:
    """A function that has two children; the lead is there before them."""
    return Registry(pipelit)


def to(name: str, q: Any = "x") -> SpawnTask:
    """One task."""
    return {"agent": name, "input": {"q": q}}


def given(*tasks: SpawnTask) -> Any:
    """A parent's input."""
    return {"tasks": list(tasks)}


def outcome(state: Any) -> list[tuple[str, str]]:
    """How each task ended: its status, and its answer or what went wrong."""
    return [
        (each["status"], each["output"]["a"] if each["output"] else each["error"])
        for each in state["results"]
    ]


class Root(TypedDict, total=False):
    """The state of a parent whose function calls the spawn."""

    tasks: list[SpawnTask]
    results: Any


def calling(spawn: Any, saver: Any = None, **options: Any) -> Any:
    """A parent whose function calls the spawn."""

    def node(state: Root) -> Root:
        return {"results": spawn.invoke({"tasks": state["tasks"]})["results"]}

    builder = StateGraph(Root).add_node("node", node, **options).add_edge(START, "node")
    return builder.compile(checkpointer=saver)


def deployed(where: str, lead: Agent, find: Any, saver: Any, **options: Any) -> Any:
    """A parent with the spawn as its node, or with a function that calls it."""
    if where == "node":
        return parent_of(lead, find, saver, **options)
    return calling(spawn_and_await(lead, find, **options), saver)


# What is asked and admitted


def test_children_are_found_by_the_names_in_tasks(lead: Agent, found: Registry) -> None:
    """Verified and bound, in task order; the function is asked once for each name in a run."""
    graph = parent_of(lead, found)
    state = graph.invoke(given(to("agent_b", "1"), to("agent_a", "2"), to("agent_b", "3")))
    assert outcome(state) == [
        ("verified", "agent_b 1"),
        ("verified", "agent_a 2"),
        ("verified", "agent_b 3"),
    ]
    assert all(each["bound"] for each in state["results"])
    assert [each["request"] for each in state["results"]] == [
        request_digest({"q": q}) for q in "123"
    ]
    assert found.asked == ["agent_b", "agent_a"]
    graph.invoke(given(to("agent_a")))
    assert found.asked == ["agent_b", "agent_a", "agent_a"]


async def test_an_async_function_is_awaited(lead: Agent, found: Registry) -> None:
    """Where the parent is awaited; a synchronous parent can't, and says what to do."""
    graph = parent_of(lead, found.later, on_failure="collect")
    state = await graph.ainvoke(given(to("agent_a"), to("agent_nobody"), to("agent_lead")))
    assert [each[0] for each in outcome(state)] == ["verified", "refused", "refused"]
    for sync in (graph, parent_of(lead, lambda name: found.later(name))):
        with pytest.raises(TypeError, match="only ainvoke, astream and aget_state can ask it"):
            sync.invoke(given(to("agent_a")))


async def test_a_function_that_reads_the_database_is_asked_off_the_loop(
    lead: Agent, found: Registry
) -> None:
    """A synchronous function in a run on the event loop may block: it has a thread."""

    def find(name: str) -> Any:
        return found(found.pipelit.users.get(name).username)

    state = await parent_of(lead, find).ainvoke(given(to("agent_a"), to("agent_b")))
    assert [each[0] for each in outcome(state)] == ["verified"] * 2


def test_a_name_without_a_child_is_refused_in_the_same_words(lead: Agent, found: Registry) -> None:
    """Nothing tells which names exist; a name that can't be a child's isn't even asked for."""
    found.has |= {
        "agent_gone": UserInactive("'agent_gone' was deactivated", username="agent_gone"),
        "agent_theirs": NotPermitted("it is bob's", username="agent_theirs"),
        "agent_none": UserNotFound("there is no account", username="agent_none"),
        "agent_lead": verified_child(graph_of(), lead),
    }
    never = ("Agent_A", "agent_a ", "", "agent_a\n", "agent_lead", "x" * 200)
    asked = ("agent_gone", "agent_theirs", "agent_none", "agent_nobody")
    tasks = [to(name) for name in (*never, *asked, "agent_a")]
    state = parent_of(lead, found, on_failure="collect").invoke(given(*tasks))
    *refused, admitted = outcome(state)
    assert {status for status, _ in refused} == {"refused"}
    assert all(words.endswith(f" {WORDS}") for _, words in refused)
    assert admitted == ("verified", "agent_a x")
    assert found.asked == [*asked, "agent_a"]
    assert found.done == ["agent_a x"]
    with pytest.raises(SpawnError, match=r"tasks\[0\]\.agent 'agent_gone' isn't an agent that"):
        parent_of(lead, found).invoke(given(to("agent_gone"), to("agent_a")))
    assert found.done == ["agent_a x"]


def test_a_name_that_isnt_text_is_refused(lead: Agent, found: Registry) -> None:
    """Of a class of its own that calls itself text, too."""

    class Odd(str):
        __slots__ = ()

    graph = spawn_and_await(lead, found, on_failure="collect")
    state = graph.invoke(given(*(to(each) for each in (7, None, ["agent_a"], Odd("agent_a")))))  # type: ignore[arg-type]
    assert {status for status, _ in outcome(state)} == {"refused"}
    assert found.asked == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda found: graph_of(), "can't prove its answers"),
        (lambda found: "agent_new", "can't prove its answers"),
        (lambda found: found.has["agent_b"], "answers as 'agent_b'"),
        (
            lambda found: remote_child("agent_b", url="https://b.test", credential=None),
            "answers as 'agent_b'",
        ),
    ],
    ids=["plain graph", "text", "another agent's", "another remote agent's"],
)
def test_a_child_that_doesnt_fit_is_refused_and_never_run(
    lead: Agent, found: Registry, make: Callable[[Registry], Any], words: str
) -> None:
    """For its task alone, and in words that say what to change."""
    found.pipelit.users.create_agent("agent_new", owner="alice", purpose="works")
    found.has["agent_new"] = make(found)
    graph = parent_of(lead, found, on_failure="collect")
    refused, admitted = outcome(graph.invoke(given(to("agent_new"), to("agent_a"))))
    assert refused[0] == "refused"
    assert "tasks[0].agent 'agent_new' can't be asked: child 'agent_new' " in refused[1]
    assert words in refused[1]
    assert admitted[0] == "verified"
    assert found.done == ["agent_a x"]


def test_a_child_of_another_database_needs_accept_from(
    lead: Agent, found: Registry, database_url: str, key: str
) -> None:
    """As in a dict."""
    with Pipelit(database_url=database_url, encryption_keys=[key]) as other:
        found.has["agent_a"] = verified_child(graph_of(), other.agent("agent_a"))
        (refused,) = outcome(
            parent_of(lead, found, on_failure="collect").invoke(given(to("agent_a")))
        )
    assert refused[0] == "refused"
    assert "needs accept_from" in refused[1]


def test_an_agent_with_the_name_of_a_step_is_refused(lead: Agent, found: Registry) -> None:
    """`plan` and `join` are usernames too; the graph's own steps stay what they are."""
    for name in ("plan", "join", "unassigned"):
        found.pipelit.users.create_agent(name, owner="alice", purpose="works")
        found.has[name] = found.child(name)
    graph = parent_of(lead, found, on_failure="collect")
    said = outcome(graph.invoke(given(to("plan"), to("join"), to("unassigned"), to("agent_a"))))
    assert [status for status, _ in said] == ["refused"] * 3 + ["verified"]
    assert all("for one of its own steps" in words for _, words in said[:3])
    assert found.done == ["agent_a x"]


@pytest.mark.parametrize("error", [StorageError("it is gone"), ZeroDivisionError("a bug")])
def test_another_error_of_the_function_ends_the_run(
    lead: Agent, found: Registry, error: Exception
) -> None:
    """A mistake or a dead database isn't "no such child": the developer sees it."""
    found.has["agent_b"] = error
    with pytest.raises(type(error), match=str(error)):
        parent_of(lead, found, on_failure="collect").invoke(given(to("agent_a"), to("agent_b")))
    assert found.done == []


def test_a_child_without_its_secret_is_refused(lead: Agent, found: Registry) -> None:
    """What a function finds has to show possession before it gets a task, as any child."""
    found.pipelit.users.deactivate("agent_a")
    state = parent_of(lead, found, on_failure="collect").invoke(given(to("agent_a")))
    assert outcome(state)[0][0] == "refused"
    assert found.done == []


def test_each_refusal_is_on_record_with_its_reason(
    lead: Agent, found: Registry, pipelit: Pipelit
) -> None:
    """The audit has the reason that the words withhold, and not more than 20 a minute."""
    found.has |= {
        "agent_gone": UserInactive("", username="agent_gone"),
        "agent_theirs": NotPermitted("", username="agent_theirs"),
        "agent_b": graph_of(),
    }
    graph = parent_of(lead, found, on_failure="collect")
    names = ("agent_gone", "agent_theirs", "agent_b", "agent_nobody", "agent_lead", "A B", "A B")
    graph.invoke(given(*map(to, names)))
    noted = {
        entry.subject: entry.reason
        for entry in pipelit.audit.list()
        if entry.outcome == "refused" and entry.actor == "agent_lead"
    }
    assert noted == {
        "agent_gone": "child inactive",
        "agent_theirs": "child of another owner",
        "agent_b": "child doesn't fit",
        "agent_nobody": "child unknown",
        "agent_lead": "the lead itself",
        "A B": "malformed name",
    }
    for _ in range(2):
        graph.invoke(given(*(to(f"agent_{n}") for n in range(30))))
    refused = [each for each in pipelit.audit.list(limit=1000) if each.outcome == "refused"]
    assert len(refused) == 21
    assert refused[-1].reason == "too many refused; more are not recorded"
    # What is refused doesn't keep out what is admitted.
    assert outcome(graph.invoke(given(to("agent_a")))) == [("verified", "agent_a x")]


# Options


def test_options_that_dont_fit_a_function(lead: Agent, found: Registry) -> None:
    """Its children always prove their answers; something that isn't a function is named."""
    with pytest.raises(ValueError, match="always prove their answers"):
        spawn_and_await(lead, found, proof={"agent_a": "unbound-totp"})
    for wrong in (None, ["agent_a"], verified_child(graph_of(), lead)):
        with pytest.raises(TypeError, match="or a function from a name to a child"):
            spawn_and_await(lead, wrong)  # type: ignore[arg-type]


def test_spawns_nest_no_deeper_than_max_depth(lead: Agent, found: Registry) -> None:
    """A child that spawns itself by its name ends where a child in a dict does."""
    agent = found.pipelit.agent("agent_a")

    def spawn_again(state: Work) -> Work:
        inner = spawn_and_await(lead, found, max_depth=2)
        return {"a": inner.invoke(given(to("agent_a")))["results"]}

    found.has["agent_a"] = verified_child(graph_of(spawn_again), agent)
    with pytest.raises(SpawnError, match="SpawnError: not every child") as caught:
        parent_of(lead, found, max_depth=2).invoke(given(to("agent_a")))
    assert "DepthExceeded" in str(caught.value)
    assert DepthExceeded.__name__ in caught.value.results[0]["error"]


def test_a_child_has_its_time_and_no_more(lead: Agent, found: Registry) -> None:
    """The timeout of the spawn holds for it."""
    gate = threading.Event()
    slow = verified_child(graph_of(lambda _: gate.wait()), found.pipelit.agent("agent_a"))
    found.has["agent_a"] = slow
    graph = parent_of(lead, found, on_failure="collect", timeout=0.1)
    try:
        assert outcome(graph.invoke(given(to("agent_a"))))[0][0] == "timeout"
    finally:
        gate.set()


def test_hung_calls_are_counted_over_all_runs(
    lead: Agent, found: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the function makes a new child each time: one call hangs, and no other begins."""
    gate, began = threading.Event(), []

    class Hanging(VerifiedChild):
        def prove_possession(self, challenge: Any) -> Any:
            began.append(self)
            gate.wait()
            return super().prove_possession(challenge)

    monkeypatch.setattr(found_graph, "MAX_HUNG_CALLS", 1)

    def find(name: str) -> Any:
        return Hanging(graph=graph_of(), agent=found.pipelit.agent(name))

    graph = parent_of(lead, find, on_failure="collect", timeout=0.02)
    try:
        for _ in range(3):
            (result,) = graph.invoke(given(to("agent_a")))["results"]
            assert result["status"] == "timeout"
        assert len(began) == 1
    finally:
        gate.set()


def test_a_remote_child_may_be_found(lead: Agent, found: Registry) -> None:
    """It gets a request with a proof, and its answer is verified as any other."""

    class Here(RemoteChild):
        async def answer(self, request: Any, lead: Any, *, limit: int) -> Any:
            return await served.aanswer(request, {})

    served = verified_child(graph_of(), found.pipelit.agent("agent_a"), accept_from=["agent_lead"])
    found.has["agent_a"] = Here(
        "agent_a", url="https://a.test", graph="a", credential=None, headers={}, patience=1.0
    )
    assert outcome(parent_of(lead, found).invoke(given(to("agent_a", "x")))) == [("verified", "X")]


# Resumed


@pytest.mark.parametrize("where", ["node", "called"])
def test_the_function_is_asked_again_on_resume(lead: Agent, found: Registry, where: str) -> None:
    """The person's answer goes to the child that asked, and what was done isn't done again."""
    graph = deployed(where, lead, found, InMemorySaver())
    state = graph.invoke(given(to("agent_b", "list"), to("agent_a", "pay?")), THREAD)
    assert [each.value for each in state["__interrupt__"]] == ["agent_a pay?"]
    found.asked.clear()
    state = graph.invoke(Command(resume="yes"), THREAD)
    assert [answer for _, answer in outcome(state)] == ["agent_b list", "agent_a pay? yes"]
    assert sorted(set(found.asked)) == ["agent_a", "agent_b"]
    assert sorted(found.done) == ["agent_a pay?", "agent_b list"]


@pytest.mark.parametrize("on_failure", ["raise", "collect"])
@pytest.mark.parametrize("where", ["node", "called"])
def test_a_child_that_is_gone_on_resume_is_refused(
    lead: Agent, found: Registry, where: str, on_failure: Literal["raise", "collect"]
) -> None:
    """It isn't run; the others' answers are still good, and they don't work twice."""
    graph = deployed(where, lead, found, InMemorySaver(), on_failure=on_failure)
    graph.invoke(given(to("agent_b", "list"), to("agent_a", "pay?")), THREAD)
    del found.has["agent_a"]
    if on_failure == "raise":
        with pytest.raises(SpawnError, match="waits for agents that can't be asked: tasks") as gone:
            graph.invoke(Command(resume="yes"), THREAD)
        assert WORDS in str(gone.value)
        found.has["agent_a"] = found.child("agent_a")
        state = graph.invoke(Command(resume="yes"), THREAD)
        assert outcome(state)[1] == ("verified", "agent_a pay? yes")
        assert sorted(found.done) == ["agent_a pay?", "agent_b list"]
    else:
        kept, gone = outcome(graph.invoke(Command(resume="yes"), THREAD))
        assert kept == ("verified", "agent_b list")
        assert gone[0] == "refused"
        assert WORDS in gone[1]
        assert found.done == ["agent_b list"]


def test_an_answer_of_a_child_that_is_gone_isnt_used(lead: Agent, found: Registry) -> None:
    """It had answered, but the spawn wasn't over: its answer isn't among the results."""
    graph = parent_of(lead, found, InMemorySaver(), on_failure="collect")
    graph.invoke(given(to("agent_b", "list"), to("agent_a", "pay?")), THREAD)
    del found.has["agent_b"]
    gone, kept = outcome(graph.invoke(Command(resume="yes"), THREAD))
    assert gone[0] == "refused"
    assert kept == ("verified", "agent_a pay? yes")
    assert found.done == ["agent_b list", "agent_a pay?"]


@pytest.mark.parametrize("where", ["node", "called"])
def test_a_deactivated_child_is_refused_on_resume(lead: Agent, found: Registry, where: str) -> None:
    """Also where the function still has it: it can't show possession, nor prove an answer."""
    graph = deployed(where, lead, found, InMemorySaver(), on_failure="collect")
    graph.invoke(given(to("agent_a", "pay?")), THREAD)
    found.pipelit.users.deactivate("agent_a")
    (result,) = outcome(graph.invoke(Command(resume="yes"), THREAD))
    assert result[0] == "refused"
    assert found.done == []


def test_a_child_with_another_graph_begins_again(lead: Agent, found: Registry) -> None:
    """A record isn't continued by a graph that didn't write it; its question is asked again."""
    graph = calling(spawn_and_await(lead, found), InMemorySaver())
    graph.invoke(given(to("agent_b", "list"), to("agent_a", "pay?")), THREAD)
    found.has["agent_a"] = found.child("agent_a", graph="another")
    (asked,) = graph.invoke(Command(resume="yes"), THREAD)["__interrupt__"]
    assert asked.value == "agent_a pay?"
    state = graph.invoke(Command(resume={asked.id: "yes"}), THREAD)
    assert outcome(state)[1] == ("verified", "agent_a pay? yes")


def test_a_refusal_stays_one_when_the_child_comes_later(lead: Agent, found: Registry) -> None:
    """What was answered in this call isn't asked again, so the others' answers keep."""
    late = found.has.pop("agent_b")
    graph = calling(spawn_and_await(lead, found, on_failure="collect"), InMemorySaver())
    graph.invoke(given(to("agent_b", "list"), to("agent_a", "pay?")), THREAD)
    found.has["agent_b"] = late
    refused, admitted = outcome(graph.invoke(Command(resume="yes"), THREAD))
    assert refused[0] == "refused"
    assert admitted == ("verified", "agent_a pay? yes")


def test_a_retry_asks_again(lead: Agent, found: Registry) -> None:
    """A failed child is looked up anew; the verified ones aren't asked again."""
    fails = [True]

    def unsteady(state: Work) -> Work:
        if fails.pop():
            fails.append(False)
            raise RuntimeError("not yet")
        return {"a": "now"}

    found.has["agent_b"] = verified_child(graph_of(unsteady), found.pipelit.agent("agent_b"))
    builder = StateGraph(Lead)
    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=2, retry_on=SpawnError)
    builder.add_node("delegate", spawn_and_await(lead, found), retry_policy=policy)
    builder.add_edge(START, "delegate")
    graph = builder.compile(checkpointer=InMemorySaver())
    state = graph.invoke(given(to("agent_a"), to("agent_b")), THREAD)
    assert [answer for _, answer in outcome(state)] == ["agent_a x", "now"]
    assert found.asked.count("agent_b") == 2
    assert found.done == ["agent_a x"]


def test_a_turn_without_tasks_asks_for_nobody(lead: Agent, found: Registry) -> None:
    """Tasks of an earlier turn aren't done again, and their names aren't asked for."""
    graph = parent_of(lead, found, InMemorySaver())
    graph.invoke(given(to("agent_a")), THREAD)
    found.asked.clear()
    assert graph.invoke({"note": "more"}, THREAD)["results"] == []
    assert found.asked == []


async def test_calls_in_another_order_find_their_own_records(lead: Agent, found: Registry) -> None:
    """Calls at once on the event loop are told apart by what they ask."""
    spawn = spawn_and_await(lead, found.later)

    async def ask(q: str) -> str:
        return (await spawn.ainvoke(given(to("agent_a", q))))["results"][0]["output"]["a"]

    order = ["one?", "two"]

    async def node(state: Root) -> Root:
        return {"results": sorted(await asyncio.gather(*map(ask, order)))}

    builder = StateGraph(Root).add_node("node", node).add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    await graph.ainvoke({}, THREAD)
    order.reverse()
    state = await graph.ainvoke(Command(resume="yes"), THREAD)
    assert state["results"] == ["agent_a one? yes", "agent_a two"]


@pytest.mark.parametrize("differ", ["in nothing", "in their functions' names", "in their names"])
def test_two_functions_in_one_node_are_told_apart(
    lead: Agent, found: Registry, differ: str
) -> None:
    """By the functions' names or their own; else equal calls of two spawns end in words."""

    def other(name: str) -> Any:
        return found.child(name, graph="other")

    if differ != "in their functions' names":
        other.__qualname__ = type(found).__qualname__
    options = {"name": "second"} if differ == "in their names" else {}
    one, two = spawn_and_await(lead, found), spawn_and_await(lead, other, **options)
    ask = given(to("agent_a", "pay?"))
    calls = [one, two]

    def node(_: Root) -> Root:
        return {"results": [each.invoke(ask)["results"][0] for each in calls]}

    builder = StateGraph(Root).add_node("node", node).add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    graph.invoke({}, THREAD)
    if differ == "in nothing":
        with pytest.raises(ConfigurationError, match="a different name"):
            graph.invoke(Command(resume="yes"), THREAD)
        return
    graph.invoke(Command(resume="one"), THREAD)
    # The first isn't called again: the second has its own record, and waits for its own answer.
    del calls[0]
    state = graph.invoke(Command(resume="two"), THREAD)
    assert outcome(state) == [("verified", "agent_a pay? two")]


# What is shown


async def test_the_state_of_a_waiting_child_is_shown(lead: Agent, found: Registry) -> None:
    """`get_state(subgraphs=True)` has each child's state under its agent's name, sync and async."""
    graph = parent_of(lead, found, InMemorySaver())
    graph.invoke(given(to("agent_a", "pay?")), THREAD)
    apart = parent_of(lead, found.later, graph.checkpointer)
    for shown in (
        graph.get_state(THREAD, subgraphs=True),
        await graph.aget_state(THREAD, subgraphs=True),
        await apart.aget_state(THREAD, subgraphs=True),
    ):
        (task,) = shown.tasks[0].state.tasks
        assert task.name == "agent_a"
        assert task.state.values == {"q": "pay?"}
    # Level by level, by the configuration that each level shows for the next.
    (spawn,) = graph.get_state(THREAD).tasks
    (child,) = (await graph.aget_state(spawn.state)).tasks
    for shown in (graph.get_state(child.state), await graph.aget_state(child.state)):
        assert (shown.values, shown.next) == ({"q": "pay?"}, ("work",))
    del found.has["agent_a"]
    assert graph.get_state(THREAD, subgraphs=True).tasks[0].state.tasks == ()


def test_streams_name_the_child(lead: Agent, found: Registry) -> None:
    """Namespaces, updates and progress are those of a child in a dict."""
    graph = parent_of(lead, found, on_failure="collect")
    events, spaces = [], set()
    stream = graph.stream(
        given(to("agent_a"), to("agent_b"), to("agent_no")),
        stream_mode=["custom", "updates"],
        subgraphs=True,
    )
    for space, mode, chunk in stream:
        spaces |= {part.split(":")[0] for part in space}
        if mode == "custom":
            events.append((chunk["agent"], chunk["event"]))
    assert spaces == {"delegate", "agent_a", "agent_b"}
    assert sorted(events) == [
        ("agent_a", "running"),
        ("agent_a", "spawned"),
        ("agent_a", "verified"),
        ("agent_b", "running"),
        ("agent_b", "spawned"),
        ("agent_b", "verified"),
        ("agent_no", "refused"),
        ("agent_no", "spawned"),
    ]


def test_a_copy_of_the_graph_has_the_function(lead: Agent, found: Registry) -> None:
    """A server copies graphs and gives them its saver; such a root run is resumed by a command."""
    spawn = spawn_and_await(lead, found).with_config({"tags": ["copied"]})
    root = spawn.copy(update={"checkpointer": InMemorySaver(), "name": "copied"})
    config: RunnableConfig = {**THREAD, "run_name": "root"}
    (asked,) = root.invoke(given(to("agent_a", "pay?")), config)["__interrupt__"]
    assert asked.value == "agent_a pay?"
    assert root.get_state(THREAD).next == ("agent_a",)
    assert outcome(root.invoke(Command(resume="yes"), config)) == [("verified", "agent_a pay? yes")]
    assert root.get_name() == "copied"
