"""A child's SystemExit and KeyboardInterrupt end the child; a person's Ctrl-C ends the run."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from spawning import CANARY, NAME, THREAD, Hostile, Work, graph_of, parent_of

from pipelit_agents import Agent, Pipelit
from pipelit_agents.graphs import verified_child

OTHER = "agent_other"
GIVEN: Any = {
    "tasks": [{"agent": NAME, "input": {"q": "x"}}, {"agent": OTHER, "input": {"q": "x"}}]
}
MODES = ["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]


class OwnExit(SystemExit):
    """A subclass, which asyncio treats alike."""


class Lying(KeyboardInterrupt):
    """One that says that it is something else."""

    @property
    def __class__(self) -> Any:
        return ValueError


EXITS: dict[str, Callable[[], BaseException]] = {
    "sys.exit": lambda: SystemExit(CANARY),
    "a subclass": lambda: OwnExit(CANARY),
    "an interrupt": lambda: KeyboardInterrupt(CANARY),
    "an interrupt without words": KeyboardInterrupt,
    "a lying one": lambda: Lying(CANARY),
}


@pytest.fixture
def other(pipelit: Pipelit) -> Any:
    """A sibling that does its work."""
    pipelit.users.create_agent(OTHER, owner="alice", purpose="looks other things up")

    async def slow(_: Work) -> Work:
        for _ in range(5):
            await asyncio.sleep(0)
        return {"a": "fine"}

    return verified_child(graph_of(slow), pipelit.agent(OTHER))


async def _of_the_node(error: BaseException) -> None:
    raise error


async def _of_a_task(error: BaseException) -> None:
    await asyncio.create_task(_of_the_node(error))


async def _of_several(error: BaseException) -> None:
    await asyncio.gather(asyncio.sleep(0), _of_a_task(error))


async def _of_a_group(error: BaseException) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_of_the_node(error))


async def _of_one_left_behind(error: BaseException) -> None:
    asyncio.create_task(_of_the_node(error))  # noqa: RUF006 - nobody waits for it
    for _ in range(3):
        await asyncio.sleep(0)
    raise RuntimeError(CANARY)


async def _of_a_graph_inside(error: BaseException) -> None:
    async def node(_: Work) -> None:
        await _of_the_node(error)

    await graph_of(node).ainvoke({"q": "x"})


async def _of_a_thread(error: BaseException) -> None:
    def work() -> None:
        raise error

    await asyncio.to_thread(work)


WHERE: dict[str, Callable[[BaseException], Any]] = {
    "its node": _of_the_node,
    "a task of its node": _of_a_task,
    "one of several": _of_several,
    "a task group": _of_a_group,
    "a task that is left behind": _of_one_left_behind,
    "a graph in its node": _of_a_graph_inside,
    "a thread of its node": _of_a_thread,
}


def run(parent: Any) -> tuple[list[str], str]:
    """How the tasks end, and all that is said; in an event loop as an application has it."""

    async def main() -> tuple[list[str], str]:
        said = [chunk async for chunk in parent.astream(GIVEN, THREAD, stream_mode=MODES)]
        # The loop goes on afterwards.
        await asyncio.sleep(0)
        state = await parent.aget_state(THREAD)
        return [each["status"] for each in state.values["results"]], repr((said, state))

    return asyncio.run(main())


def parent(lead: Agent, child: Any, other: Any, **options: Any) -> Any:
    """A graph that asks both, and keeps what it has."""
    children = {NAME: child, OTHER: other}
    return parent_of(lead, children, InMemorySaver(), on_failure="collect", **options)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("exits", EXITS)
def test_what_ends_a_process_ends_a_child(
    lead: Agent, researcher: Agent, other: Any, exits: str, where: str
) -> None:
    """On the event loop, wherever in the child: refused in our words, and the sibling is kept."""

    async def node(_: Work) -> Work:
        await WHERE[where](EXITS[exits]())
        return {"a": "not reached"}

    found, said = run(parent(lead, verified_child(graph_of(node), researcher), other))
    assert found[0] in ("refused", "failed")
    assert found[1] == "verified"
    # What a child proves, it says by itself.
    assert CANARY not in said or found[0] == "failed"


@pytest.mark.parametrize("timeout", [None, 30])
def test_also_of_a_child_with_code_of_its_own_and_of_one_without_proofs(
    lead: Agent, researcher: Agent, other: Any, timeout: Any
) -> None:
    """A subclass that exits in place of an answer, and a graph that shows a plain code."""

    class Own(Hostile):
        async def aanswer(self, *_: Any) -> Any:
            await _of_a_group(SystemExit(CANARY))

    async def node(_: Work) -> Work:
        sys.exit(CANARY)

    for child, proof in (
        (Own(graph=graph_of(), agent=researcher), {}),
        (graph_of(node), {NAME: "unbound-totp"}),
    ):
        made = parent(lead, child, other, timeout=timeout, proof=proof)
        found, said = run(made)
        assert found == ["refused", "verified"]
        assert CANARY not in said


def test_a_sub_graph_of_the_child_is_its_own(lead: Agent, researcher: Agent, other: Any) -> None:
    """A graph that is a node of the child's."""

    async def node(_: Work) -> Work:
        sys.exit(CANARY)

    builder = StateGraph(Work)
    builder.add_node("inner", graph_of(node))
    builder.add_edge(START, "inner")
    builder.add_edge("inner", END)
    found, said = run(parent(lead, verified_child(builder.compile(), researcher), other))
    assert found == ["refused", "verified"]
    assert CANARY not in said


def test_the_applications_own_task_factory_goes_on(
    lead: Agent, researcher: Agent, other: Any
) -> None:
    """It makes the tasks, also the child's, and an exit outside any child ends the loop."""
    made: list[str] = []

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **options)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        await parent(lead, verified_child(graph_of(), researcher), other).ainvoke(GIVEN, THREAD)
        assert len(made) > 3
        await _of_a_task(SystemExit("the application's"))

    with pytest.raises(SystemExit, match="the application's"):
        asyncio.run(main())


# LangGraph's own coroutines are left where the loop ended.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("kept", [True, False])
def test_a_persons_ctrl_c_ends_the_run_on_the_event_loop(
    lead: Agent, researcher: Agent, other: Any, kept: bool
) -> None:
    """In a child's node; with asyncio's own handler of the signal, and with Python's."""

    async def node(_: Work) -> Work:
        # Python may raise within a finalizer, which loses it; people press the keys again, too.
        for _ in range(100):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.05)
        return {"a": "not reached"}

    async def work() -> None:
        await parent(lead, verified_child(graph_of(node), researcher), other).ainvoke(GIVEN, THREAD)

    def run_by_hand() -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(work())
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()

    with pytest.raises(KeyboardInterrupt) as caught:
        asyncio.run(work()) if kept else run_by_hand()
    assert not caught.value.args
    del caught
    # Now, and not in another test, where it would be an error.
    gc.collect()


def test_a_persons_ctrl_c_ends_the_run_on_the_main_thread(lead: Agent, researcher: Agent) -> None:
    """A child that computes, and one that waits; what the child raises by itself doesn't."""
    assert threading.current_thread() is threading.main_thread()

    def computes() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10**6):
            pass

    def waits() -> None:
        signal.raise_signal(signal.SIGINT)

    def raises() -> None:
        raise KeyboardInterrupt(CANARY)

    def made(act: Callable[[], None]) -> Any:
        def node(_: Work) -> Work:
            act()
            return {"a": "x"}

        child = verified_child(graph_of(node), researcher)
        return parent_of(lead, {NAME: child}, on_failure="collect")

    one: Any = {"tasks": GIVEN["tasks"][:1]}
    for act in (computes, waits):
        with pytest.raises(KeyboardInterrupt) as caught:
            made(act).invoke(one)
        assert not caught.value.args
    (result,) = made(raises).invoke(one)["results"]
    assert result["status"] == "refused"
    assert CANARY not in repr(result)
