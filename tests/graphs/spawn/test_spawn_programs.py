"""Programs that nobody wrote: nodes that call spawns in any order, stop, and begin again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from test_spawn_calls import Parent, Team, one_node, told

from pipelit_agents import Agent, Pipelit
from pipelit_agents.graphs import SpawnTask

BACKENDS = False

# Few, so that equal ones meet. Those with a question mark wait for a person.
QUESTIONS = st.sampled_from(["list", "pay?", "buy?"])
TASKS = st.lists(st.tuples(st.sampled_from(["agent_a", "agent_b"]), QUESTIONS), max_size=3)
# What one run of the node calls, and how the person answers: by the question's id, or plainly.
RUN = st.tuples(st.lists(TASKS, max_size=4), st.booleans())
PROGRAM = st.lists(RUN, min_size=2, max_size=5)


class Crash(Exception):
    """The node broke off."""


class Program:
    """One thread, in which each run of the node does something else.

    Args:
        team: Who asks, and who is asked.
        attempts: What the runs do. Each but the last breaks off at its end; the last is repeated.
    """

    def __init__(self, team: Team, attempts: list[Any]) -> None:
        self.attempts = attempts
        self.runs = 0
        self.delegate = team.spawn("agent_a", "agent_b", on_failure="collect")
        self.issued: dict[str, str] = {}
        # To each question, and each time that one run asked it: the number of the answer.
        self.heard: dict[tuple[Any, ...], str] = {}

    def plan(self) -> tuple[list[list[SpawnTask]], bool]:
        """What this run does."""
        last = len(self.attempts) - 1
        calls, _ = self.attempts[min(self.runs, last)]
        breaks = self.runs < last
        self.runs += 1
        made: Any = [[{"agent": a, "input": {"q": q}} for a, q in tasks] for tasks in calls]
        return made, breaks

    def check(self, calls: list[list[SpawnTask]], states: list[Any]) -> None:
        """Compares all results of one run with its tasks, and with those of earlier runs."""
        used: set[str] = set()
        times: dict[Any, int] = {}
        for tasks, state in zip(calls, states, strict=True):
            said = told(tasks, state)
            question = tuple((each["agent"], each["input"]["q"]) for each in tasks)
            nth = times[question] = times.get(question, 0) + 1
            for index, ((agent, q), answer) in enumerate(zip(question, said, strict=True)):
                if not q.endswith("?"):
                    assert answer == f"{agent} {q}"
                    continue
                number = answer.removeprefix(f"{agent} {q} ")
                # A person said this to this very question, and it is used once.
                assert self.issued[number] == f"{agent} {q}"
                assert number not in used
                used.add(number)
                # What was answered once stays answered so.
                assert self.heard.setdefault((question, nth, index), number) == number

    def answer(self, state: Any) -> Command[Any]:
        """What the person says next."""
        waiting = state["__interrupt__"]
        answers = {}
        for each in waiting:
            number = f"answer {len(self.issued)}"
            self.issued[number] = each.value
            answers[each.id] = number
        by_id = self.attempts[min(self.runs, len(self.attempts)) - 1][1]
        if by_id or len(answers) > 1:
            return Command(resume=answers)
        return Command(resume=next(iter(answers.values())))


def run(team: Team, attempts: list[Any], *, gather: bool) -> None:
    """Runs a program to its end."""
    program = Program(team, attempts)

    def node(_: Parent) -> Parent:
        calls, breaks = program.plan()
        states = [program.delegate.invoke({"tasks": tasks}) for tasks in calls]
        program.check(calls, states)
        if breaks:
            raise Crash
        return {"out": len(states)}

    async def anode(_: Parent) -> Parent:
        calls, breaks = program.plan()
        states = await asyncio.gather(
            *(program.delegate.ainvoke({"tasks": tasks}) for tasks in calls), return_exceptions=True
        )
        for each in states:
            if isinstance(each, BaseException):
                raise each
        program.check(calls, states)
        if breaks:
            raise Crash
        return {"out": len(states)}

    graph = one_node(anode if gather else node, InMemorySaver())
    config: Any = {"configurable": {"thread_id": uuid.uuid4().hex}}
    given: Any = {}
    for _ in range(60):
        try:
            if gather:
                state = asyncio.run(graph.ainvoke(given, config))
            else:
                state = graph.invoke(given, config)
        except Crash:
            given = None
            continue
        if "__interrupt__" not in state:
            assert state["out"] == len(attempts[-1][0])
            return
        given = program.answer(state)
    raise AssertionError("it doesn't end")


@pytest.fixture
def team(pipelit: Pipelit, agent_of: Callable[[str], Agent]) -> Team:
    """A lead with its children."""
    return Team(pipelit, agent_of)


@pytest.mark.slow
@pytest.mark.parametrize("gather", [False, True], ids=["in turn", "gather"])
def test_each_task_has_its_own_answer_in_any_program(team: Team, gather: bool) -> None:
    """Whatever a node asks, in whatever order it asks again: own answers, each used once."""

    @settings(
        max_examples=settings().max_examples // 3,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(PROGRAM)
    def always(attempts: list[Any]) -> None:
        run(team, attempts, gather=gather)

    always()
