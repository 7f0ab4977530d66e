"""Spawns that are stopped, resumed, overstayed, throttled and looked at from outside."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import fresh
import pytest
from conftest import Clock
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import RunControl, Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, interrupt
from paths import SUPPORT
from spawning import NAME, THREAD, Hostile, Lead, Work, graph_of, parent_of, tasks, upper

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import LedgerUnavailable, SpawnError, StorageError
from pipelit_agents.graphs import SpawnRequest, spawn_and_await, verified_child


def statuses(state: Any) -> list[str]:
    """How each task ended."""
    return [result["status"] for result in state["results"]]


def answers(state: Any) -> list[Any]:
    """What each child answered."""
    return [result["output"]["a"] for result in state["results"]]


# Stopped and resumed


def _two_steps(first: Any) -> Any:
    builder = StateGraph(Work)
    builder.add_node("first", first)
    builder.add_node("second", lambda state: {"a": state["a"] + "2"})
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    return builder.compile()


async def test_a_drained_run_goes_on_where_it_stopped(lead: Agent, researcher: Agent) -> None:
    """A run that is told to stop isn't a child's fault: nothing is refused, and a resume ends it.

    Sync and async.
    """
    control: list[RunControl] = []
    runs: list[str] = []

    def first(state: Work) -> Work:
        runs.append(state["q"])
        control[0].request_drain("redeploy")
        return {"a": "1"}

    child = verified_child(_two_steps(first), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), on_failure="collect")
    control[:] = [RunControl()]
    with pytest.raises(GraphDrained, match="redeploy"):
        graph.invoke(tasks("a"), THREAD, control=control[0])
    assert answers(graph.invoke(None, THREAD)) == ["12"]
    control[:] = [RunControl()]
    with pytest.raises(GraphDrained, match="redeploy"):
        await graph.ainvoke(tasks("b"), THREAD, control=control[0])
    assert answers(await graph.ainvoke(None, THREAD)) == ["12"]
    assert runs == ["a", "b"]


async def test_a_resume_that_fails_again_tells_every_result(lead: Agent, researcher: Agent) -> None:
    """SpawnError.results has what an earlier run verified too, in task order, sync and async."""

    def work(state: Work) -> Work:
        if state["q"] == "b":
            raise RuntimeError("broken")
        return upper(state)

    child = verified_child(graph_of(work), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    for attempt in range(2):
        with pytest.raises(SpawnError) as caught:
            graph.invoke(None if attempt else tasks("a", "b", "c"), THREAD)
        assert [r["status"] for r in caught.value.results] == ["verified", "failed", "verified"]
    with pytest.raises(SpawnError) as caught:
        await graph.ainvoke(None, THREAD)
    assert [r["status"] for r in caught.value.results] == ["verified", "failed", "verified"]


def test_a_failure_beside_an_interrupt_loses_neither(lead: Agent, researcher: Agent) -> None:
    """One child waits, one fails: the failure is raised, and both are run again, no third."""
    runs: list[str] = []
    broken = {"fail"}

    def work(state: Work) -> Work:
        runs.append(state["q"])
        if state["q"] in broken:
            raise RuntimeError("broken")
        return {"a": interrupt("?")} if state["q"] == "ask" else upper(state)

    child = verified_child(graph_of(work), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    with pytest.raises(SpawnError, match=r"tasks\[2\], agent_researcher: failed"):
        graph.invoke(tasks("x", "ask", "fail"), THREAD)
    broken.clear()
    state = graph.invoke(None, THREAD)
    assert [each.value for each in state["__interrupt__"]] == ["?"]
    assert answers(graph.invoke(Command(resume="this"), THREAD)) == ["X", "this", "FAIL"]
    assert runs.count("x") == 1
    assert runs.count("fail") == 2


@pytest.mark.parametrize("seconds", [None, 30])
def test_two_interrupted_children_are_answered_by_id(
    lead: Agent, researcher: Agent, seconds: float | None
) -> None:
    """Each of two waiting children gets its own answer, in two turns or one."""
    child = verified_child(graph_of(lambda state: {"a": interrupt(state["q"])}), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), timeout=seconds)
    asked = graph.invoke(tasks("one", "two"), THREAD)["__interrupt__"]
    ids = {each.value: each.id for each in asked}
    state = graph.invoke(Command(resume={ids["two"]: "2"}), THREAD)
    assert [each.value for each in state["__interrupt__"]] == ["one"]
    assert answers(graph.invoke(Command(resume={ids["one"]: "1"}), THREAD)) == ["1", "2"]


async def test_an_interrupt_under_a_timeout_is_resumed_on_the_event_loop(
    lead: Agent, researcher: Agent
) -> None:
    """A time-out of ours doesn't take an interrupt for a failure."""
    child = verified_child(graph_of(lambda _: {"a": interrupt("?")}), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), timeout=30)
    await graph.ainvoke(tasks("x"), THREAD)
    assert answers(await graph.ainvoke(Command(resume="y"), THREAD)) == ["y"]


ASKING = """
import sys
sys.path.insert(0, sys.argv[1])
from spawning import *
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command, interrupt
from pipelit_agents import Pipelit
from pipelit_agents.graphs import verified_child

pipelit = Pipelit.from_env()

def ask(state):
    sys.stdout.write(f"ran {state['q']}\\n")
    return {"a": interrupt(state["q"])} if state["q"] != "quick" else upper(state)

child = verified_child(graph_of(ask), pipelit.agent(NAME))
with SqliteSaver.from_conn_string(sys.argv[2]) as saver:
    graph = parent_of(pipelit.agent("agent_lead"), {NAME: child}, saver)
    if sys.argv[3] == "first":
        graph.invoke(tasks("one", "quick", "two"), THREAD)
    else:
        waiting = graph.get_state(THREAD).interrupts
        state = graph.invoke(Command(resume={each.id: each.value * 2 for each in waiting}), THREAD)
        print([result["output"]["a"] for result in state["results"]])
"""


@pytest.mark.process
def test_interrupts_outlive_the_process(
    lead: Agent, researcher: Agent, database_url: str, key: str, tmp_path: Path
) -> None:
    """Two children that wait are answered by another process; the third isn't run again."""
    environment = os.environ | {"FIELD_ENCRYPTION_KEY": key, "PIPELIT_DATABASE_URL": database_url}

    def start(which: str) -> list[str]:
        here, saver = str(SUPPORT), str(tmp_path / "checkpoints.db")
        done = fresh.run(ASKING, environment, here, saver, which)
        assert done.returncode == 0, done.stderr[-2000:]
        return sorted(done.stdout.splitlines())

    assert start("first") == ["ran one", "ran quick", "ran two"]
    assert start("second") == ["['oneone', 'QUICK', 'twotwo']", "ran one", "ran two"]


@pytest.mark.slow
def test_a_retried_node_asks_with_other_challenges(lead: Agent, researcher: Agent) -> None:
    """A retry of the whole node mints anew: what was answered before is worth nothing."""
    tape: list[Any] = []

    class Replaying(Hostile):
        def answer(self, request: SpawnRequest, *args: Any) -> Any:
            tape.append((request.challenge, super().answer(request, *args)))
            return tape[0][1] if len(tape) > 1 else {}

    builder = StateGraph(Lead)
    child = Replaying(graph=graph_of(), agent=researcher)
    retry = RetryPolicy(max_attempts=2, initial_interval=0.01, retry_on=SpawnError)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}), retry_policy=retry)
    builder.add_edge(START, "delegate")
    with pytest.raises(SpawnError, match="not proven"):
        builder.compile().invoke(tasks("x"))
    assert len({challenge for challenge, _ in tape}) == 2


# Time


def test_a_late_answer_is_neither_believed_nor_audited(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """What a child answers after its time is heard by nobody, also if it is well proven."""
    release, answered = threading.Event(), threading.Event()

    class Late(Hostile):
        def answer(self, request: SpawnRequest, *args: Any) -> Any:
            release.wait(30)
            try:
                return super().answer(request, *args)
            finally:
                answered.set()

    graph = parent_of(
        lead,
        {NAME: Late(graph=graph_of(), agent=researcher)},
        timeout=0.1,
        on_failure="collect",
    )
    before = set(threading.enumerate())
    assert statuses(graph.invoke(tasks("x"))) == ["timeout"]
    late = [each for each in threading.enumerate() if each not in before]
    release.set()
    assert answered.wait(30)
    for thread in late:
        thread.join(30)
    rows = [each for each in pipelit.audit.list() if each.action == "verify.proof"]
    assert [(each.outcome, each.reason) for each in rows] == [("refused", "no answer in time")]


@pytest.mark.slow
async def test_a_child_that_ignores_its_cancellation_is_left_behind(
    lead: Agent, researcher: Agent
) -> None:
    """A child that swallows its cancellation can't hold up its parent or its siblings."""
    release = asyncio.Event()

    class Stubborn(Hostile):
        async def aanswer(self, request: SpawnRequest, *args: Any) -> Any:
            if b"quick" in request.payload:
                return await super().aanswer(request, *args)
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return await super().aanswer(request, *args)

    child = Stubborn(graph=graph_of(), agent=researcher)
    graph = parent_of(lead, {NAME: child}, timeout=0.1, on_failure="collect")
    async with asyncio.timeout(20):
        state = await graph.ainvoke(tasks("slow", "quick"))
    release.set()
    assert statuses(state) == ["timeout", "verified"]


async def test_a_child_that_cancels_itself_is_refused(lead: Agent, researcher: Agent) -> None:
    """A child that cancels the task it runs in ends itself, not the run."""

    class Cancelling(Hostile):
        async def aanswer(self, request: SpawnRequest, *args: Any) -> Any:
            task = asyncio.current_task()
            if task and b"cancel" in request.payload:
                task.cancel("canary")
                await asyncio.Event().wait()
            return await super().aanswer(request, *args)

    child = Cancelling(graph=graph_of(), agent=researcher)
    graph = parent_of(lead, {NAME: child}, timeout=30, on_failure="collect")
    assert statuses(await graph.ainvoke(tasks("cancel", "x"))) == ["refused", "verified"]


@pytest.mark.parametrize("seconds", [None, 30])
async def test_who_cancels_the_run_cancels_the_children(
    lead: Agent, researcher: Agent, seconds: float | None
) -> None:
    """A cancelled run is cancelled, in the children too, and isn't taken for their failure."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(_: Work) -> Work:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    child = verified_child(graph_of(wait), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), timeout=seconds, on_failure="collect")
    run = asyncio.create_task(graph.ainvoke(tasks("x"), THREAD))
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    async with asyncio.timeout(20):
        await ended.wait()
    assert "results" not in graph.get_state(THREAD).values


# Number and depth


async def test_the_callers_max_concurrency_wins(lead: Agent, researcher: Agent) -> None:
    """What the caller's configuration says is more than what the node was made with."""
    now, most = 0, 0
    pairs = asyncio.Barrier(2)

    async def work(_: Work) -> Work:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await pairs.wait()
        now -= 1
        return {}

    child = verified_child(graph_of(work), researcher)
    graph = parent_of(lead, {NAME: child}, max_concurrency=8)
    async with asyncio.timeout(20):
        await graph.ainvoke(tasks(*"abcdef"), {"max_concurrency": 2})
    assert most == 2


@pytest.mark.parametrize("depth", ["deep", -1000, True, None, 10**5000], ids=lambda d: str(type(d)))
def test_a_depth_from_outside_does_not_deepen_anything(
    lead: Agent, researcher: Agent, depth: Any
) -> None:
    """A caller's own word for the depth neither breaks a spawn nor allows more nesting."""
    runs: list[int] = []

    def again(_: Work) -> Work:
        runs.append(1)
        graph.invoke(tasks("x"))
        return {}

    child = verified_child(graph_of(again), researcher)
    graph = parent_of(lead, {NAME: child}, max_depth=2)
    with pytest.raises(SpawnError, match="max_depth is 2"):
        graph.invoke(tasks("x"), {"configurable": {"__pipelit_depth": depth}})
    assert len(runs) <= 2


# Storage


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_broken_storage_is_not_the_childs_fault(
    pipelit: Pipelit, lead: Agent, researcher: Agent, tmp_path: Path, when: str
) -> None:
    """A database that can't be read ends the run with its error; nothing is accepted or refused."""

    def spoil() -> None:
        pipelit.close()
        for file in (tmp_path / "pipelit").iterdir():
            file.write_bytes(b"no database" * 1000)

    def work(state: Work) -> Work:
        spoil()
        return upper(state)

    child = verified_child(graph_of(work), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), on_failure="collect")
    if when == "before":
        spoil()
    with pytest.raises((StorageError, LedgerUnavailable)):
        graph.invoke(tasks("x"), THREAD)
    with pytest.raises((StorageError, LedgerUnavailable)):
        await graph.ainvoke(None, THREAD)
    assert "results" not in graph.get_state(THREAD).values


# Seen from outside


def test_context_and_store_reach_a_child(lead: Agent, researcher: Agent) -> None:
    """A local child has the caller's context and store."""
    seen: list[Any] = []

    def look(state: Work, runtime: Runtime[dict[str, str]]) -> Work:
        assert runtime.store is not None
        seen.append((runtime.context["tenant"], runtime.store.get(("n",), "k")))
        runtime.store.put(("n",), state["q"], {"v": 1})
        return upper(state)

    builder = StateGraph(Lead, context_schema=dict)
    child = verified_child(graph_of(look), researcher)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}))
    builder.add_edge(START, "delegate")
    store = InMemoryStore()
    graph = builder.compile(store=store)
    assert statuses(graph.invoke(tasks("x"), context={"tenant": "t1"})) == ["verified"]
    assert seen == [("t1", None)]
    assert store.get(("n",), "x") is not None


def test_a_node_in_a_loop_has_the_results_of_its_last_turn(lead: Agent, researcher: Agent) -> None:
    """A parent that goes round has only the newest results, under a saver and without."""

    def plan(state: Lead) -> Any:
        turn = len(state.get("note", ""))
        if turn == 3:
            return {"note": "done"}
        return {**tasks(*"abc"[turn:]), "note": "x" * (turn + 1)}

    for saver in (None, InMemorySaver()):
        builder = StateGraph(Lead)
        child = verified_child(graph_of(), researcher)
        builder.add_node("plan", plan)
        builder.add_node("delegate", spawn_and_await(lead, {NAME: child}))
        builder.add_edge(START, "plan")
        builder.add_conditional_edges(
            "plan", lambda state: END if state["note"] == "done" else "delegate"
        )
        builder.add_edge("delegate", "plan")
        state = builder.compile(checkpointer=saver).invoke({}, THREAD)
        assert answers(state) == ["C"]


def test_the_servers_way_of_copying_works(lead: Agent, researcher: Agent) -> None:
    """A graph made anew from class and attributes spawns and answers as the first."""
    child = verified_child(graph_of(), researcher)
    again = child.__class__(**vars(child))
    node = spawn_and_await(lead, {NAME: again}, max_concurrency=2)
    copied = node.__class__(**vars(node))
    assert copied.max_concurrency == 2
    assert statuses(copied.invoke(tasks("x", "y"))) == ["verified", "verified"]


@pytest.mark.parametrize("name", ["tasks", "results", "answers", "a.b-c_d", "0"])
def test_a_child_may_have_any_agents_name(pipelit: Pipelit, lead: Agent, name: str) -> None:
    """Names that the node's own state uses are no trouble."""
    pipelit.users.create_agent(name, owner="alice", purpose="x")
    child = verified_child(graph_of(), pipelit.agent(name))
    state = parent_of(lead, {name: child}).invoke(tasks("x", agent=name))
    assert statuses(state) == ["verified"]


@pytest.mark.parametrize("name", ["plan", "join", "unassigned", "agent_lead"])
def test_a_name_that_cannot_be_a_childs_is_refused(
    pipelit: Pipelit, lead: Agent, name: str
) -> None:
    """The node's own steps and the lead itself are no children; the message says which."""
    child = verified_child(graph_of(), pipelit.agent(name))
    with pytest.raises(ValueError, match=f"child '{name}'"):
        spawn_and_await(lead, {name: child})


def test_a_child_shares_nothing_with_its_siblings(lead: Agent, researcher: Agent) -> None:
    """Each child has a namespace of its own, though graph and identity are one."""
    seen: list[str] = []

    def look(state: Work) -> Work:
        seen.append(get_config()["configurable"]["checkpoint_ns"])
        return upper(state)

    graph = parent_of(lead, {NAME: verified_child(graph_of(look), researcher)}, InMemorySaver())
    graph.invoke(tasks(*"abcd"), THREAD)
    assert len(set(seen)) == 4


def test_a_verified_answer_is_of_its_own_time(lead: Agent, researcher: Agent, clock: Clock) -> None:
    """A child whose clock is ahead or behind by more than a step isn't believed."""
    skew = {"by": 0.0}

    class Skewed(Hostile):
        def seal(self, *args: Any) -> Any:
            clock.advance(skew["by"])
            try:
                return super().seal(*args)
            finally:
                clock.advance(-skew["by"])

    graph = parent_of(
        lead, {NAME: Skewed(graph=graph_of(), agent=researcher)}, on_failure="collect"
    )
    ended = []
    for skew["by"] in (-90, -30, 0, 30, 90):
        ended += statuses(graph.invoke(tasks("x")))
    assert ended == ["refused", "verified", "verified", "verified", "refused"]


def test_a_task_with_a_number_too_long_to_write_is_named(lead: Agent, researcher: Agent) -> None:
    """What Python itself refuses to write out is the task's problem, not a bare error."""
    graph = parent_of(lead, {NAME: verified_child(graph_of(), researcher)}, on_failure="collect")
    (result,) = graph.invoke(tasks(10**5000))["results"]
    assert (result["status"], result["error"][:15]) == ("failed", "tasks[0].input:")
