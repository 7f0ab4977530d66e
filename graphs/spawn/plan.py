"""The first node of a spawn graph, which sends each task to its child."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command, Send

from pipelit_agents import Agent
from pipelit_agents._threads import aside
from pipelit_agents.errors import DepthExceeded, SpawnError

from ..steps import Step
from .gates import TaskGates
from .possession import POSSESSION_PREFETCH_TIMEOUT
from .results import JOIN, PLAN, UNASSIGNED, AnswerUpdate, Order, SpawnState, Status, make_result
from .run import Run, depth_of, run_of
from .tasks import ReadTask, Terms, listed_problems, mark_of, with_index

__all__ = ["plan_node", "unassigned_node"]


def plan_node(
    lead: Agent,
    terms: Terms,
    max_depth: int,
    possession_checks: Mapping[str, Callable[[Run], asyncio.Future[None]]],
    gates: TaskGates,
) -> Step:
    """Return the node that reads the tasks and sends them.

    Args:
        lead: The agent that sends requests.
        terms: The options of the spawn.
        max_depth: How deep spawns may be nested.
        possession_checks: Starts to verify that a child holds its secret, by the child's name.
        gates: Ask people before tasks are sent.
    """

    def make_orders(state: SpawnState, config: RunnableConfig) -> list[Order]:
        run = run_of(config)
        # Raises if the lead's key, tables or account are unusable, which no child can cause.
        lead.require_active()
        depth = depth_of(config) + 1
        if depth > max_depth:
            raise DepthExceeded(
                f"spawns are nested {depth} deep, and max_depth is {max_depth}: end the recursion "
                "of a child that spawns itself, or raise max_depth",
                max_depth=max_depth,
            )
        if "tasks" not in state:
            # LangGraph silently drops keys that a state's schema doesn't declare.
            raise SpawnError(
                "the state has no 'tasks': declare it in the graph's state (tasks: "
                "list[SpawnTask]) and write it before this node, an empty list for nothing to do"
            )
        read, run.read = run.read, None
        if read is None:
            read = [] if run.repeats else terms.read(state["tasks"] or [])
        problems = [each.problem for each in read if each.problem is not None]
        if problems and terms.on_failure == "raise":
            raise SpawnError(listed_problems(problems))
        orders = [_make_order(index, each, depth, lead) for index, each in enumerate(read)]
        for order in orders:
            gate = None if "problem" in order else gates.of(order["agent"])
            if gate is not None:
                gate.prepare(order)
        for order in orders:
            run.emit("spawned", order)
        return orders

    def send(state: SpawnState, orders: list[Order]) -> Command[str]:
        update: dict[str, object] = {"requested": b"".join(map(mark_of, orders))}
        update |= terms.record_of_forms(order["agent"] for order in orders)
        if state.get("results"):
            # Results of an earlier run in this namespace must not remain if this run fails.
            update["results"] = []
        # Without tasks, go to the join: otherwise the parent keeps the results of an earlier turn.
        return Command(
            update=update,
            goto=[
                Send(UNASSIGNED if "problem" in order else order["agent"], order)
                for order in orders
            ]
            or JOIN,
        )

    def plan(state: SpawnState, config: RunnableConfig) -> Command[str]:
        return send(state, make_orders(state, config))

    async def aplan(state: SpawnState, config: RunnableConfig) -> Command[str]:
        orders = await aside(make_orders, state, config)
        called = {each["agent"] for each in orders if "problem" not in each}
        run = run_of(config)
        started = [possession_checks[each](run) for each in possession_checks.keys() & called]
        # Once the loop starts all the tasks, the threads of these checks get little CPU time. The
        # tasks check a child again that hasn't proven possession by then, and wait for it together.
        with suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.gather(*started, return_exceptions=True), POSSESSION_PREFETCH_TIMEOUT
            )
        return send(state, orders)

    return Step(plan, aplan, PLAN)


def unassigned_node() -> Step:
    """Return the node of tasks that can't be sent."""

    def unassigned(order: Order, config: RunnableConfig) -> AnswerUpdate:
        status: Status = "refused" if order.get("refused") else "failed"
        result = with_index(order, make_result(order["agent"], status, error=order.get("problem")))
        run_of(config).emit(status, order, error=result["error"])
        return {"answers": [{"index": order["index"], "result": result}]}

    return Step(unassigned, None, UNASSIGNED)


def _make_order(index: int, read: ReadTask, depth: int, lead: Agent) -> Order:
    order = Order(
        index=index,
        agent=read.agent,
        request=read.request or b"",
        seed=secrets.token_bytes(32),
        issued_at=lead.now(),
        depth=depth,
    )
    if read.credentials is not None:
        order["credentials"] = sorted(read.credentials)
    if read.problem is not None:
        order["problem"], order["refused"] = read.problem, read.refused
    return order
