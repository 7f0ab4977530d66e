"""The parent's side of a spawn: run tasks on children and accept only proven answers.

LangGraph runs the children: each is a ``Send`` with its own task, namespace, stream and
cancellation. This module creates the challenges, and passes only verified answers to the parent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Send, StateSnapshot

from pipelit_agents import Agent
from pipelit_agents._threads import aside
from pipelit_agents.display import SpawnResults
from pipelit_agents.errors import (
    DepthExceeded,
    SpawnError,
)

from ..child import VerifiedChild
from ..messages import DEFAULT_MESSAGES, Acceptance, required_kinds
from ..remote import RemoteChild, from_remote_graph
from ..schemas import known_classes
from ..steps import Step
from ..types import AnyGraph, AnyStateGraph
from .bound import bound_node
from .calls import Call
from .isolation import ChildFailed
from .link import Parent
from .options import LinkOptions, check_options
from .plan import (
    Terms,
    all_answer,
    answers,
    listed_problems,
    make_order,
    mark_of,
    marks_of_all,
    split_marks,
    tasks_of,
    unanswered_result,
    why_refused,
    with_index,
)
from .possession import POSSESSION_PREFETCH_TIMEOUT
from .remote import remote_node
from .results import (
    JOIN,
    PLAN,
    UNASSIGNED,
    AnswerUpdate,
    Child,
    Order,
    ProofKind,
    SpawnInput,
    SpawnOutput,
    SpawnResult,
    SpawnState,
    make_result,
)
from .resume_values import waiting_tasks
from .run import RUN, Run, depth_of, run_of, spawn_error
from .turns import is_repeat
from .unbound import unbound_node

__all__ = ["spawn_and_await"]

_DEFAULT_MAX_BYTES: Final = 8 * 2**20
T = TypeVar("T")


class SpawnGraph(AnyStateGraph):
    """The compiled node. Create one with :func:`spawn_and_await`.

    Args:
        terms: The options of the node.
        max_concurrency: How many children run at once.
        state_graph: Arguments of LangGraph's ``CompiledStateGraph``.
    """

    def __init__(
        self, *, terms: Terms, max_concurrency: int | None = None, **state_graph: Any
    ) -> None:
        state_graph.pop("_serde_allowlist", None)
        super().__init__(**state_graph)
        self.terms = terms
        self.max_concurrency = max_concurrency

    def stream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Stream as LangGraph does.

        Raises:
            SpawnError: A child failed. The error is raised when its siblings have finished.
        """
        call, run = self._begin(input, config)
        if call.resuming:
            saved = self.get_state(call.record_config())
            self._compare_with_record(call, run, input, saved, call.parent())
        configured = self._configured(call, run, config)
        try:
            yield from super().stream(input, configured, **options)
        except ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.load_saved_results(self.get_state(call.record_config()))
        raise spawn_error(run)

    async def astream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Async form of :meth:`stream`."""
        call, run = self._begin(input, config)
        if call.resuming:
            saved = await self.aget_state(call.record_config())
            self._compare_with_record(call, run, input, saved, await call.aparent())
        configured = self._configured(call, run, config)
        try:
            async for chunk in super().astream(input, configured, **options):
                yield chunk
        except ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.load_saved_results(await self.aget_state(call.record_config()))
        raise spawn_error(run)

    def _begin(self, state: object, config: RunnableConfig | None) -> tuple[Call, Run]:
        # Nothing may be awaited before a call has its namespace: equal calls are distinguished by
        # their order.
        try:
            # Inside the node there would be a nested writer, which may have no destination.
            write: Callable[[object], None] | None = get_stream_writer()
        except (KeyError, RuntimeError):
            # The call is outside any graph, or in a runnable that isn't a graph.
            write = None
        call, run = Call(self, config), Run(write)
        run.alone = not call.nested and call.saver is None
        run.repeats = is_repeat(self, call.configurable)

        def digest() -> bytes:
            run.read = self.terms.read(tasks_of(state) or [])
            return self.terms.call_digest(self.get_name(), run.read)

        def same(other: AnyGraph) -> bool:
            # Both call the same agents, because the digests of their tasks are equal.
            if not isinstance(other, SpawnGraph):
                return False
            mine, code = self.terms.code, other.terms.code
            return all(mine.get(each.agent) == code.get(each.agent) for each in run.read or ())

        call.assign_namespace(digest, same)
        return call, run

    def _configured(self, call: Call, run: Run, config: RunnableConfig | None) -> RunnableConfig:
        configured = cast(
            RunnableConfig, {**(config or {}), "configurable": {**call.configurable, RUN: run}}
        )
        if self.max_concurrency is not None and configured.get("max_concurrency") is None:
            configured["max_concurrency"] = self.max_concurrency
        return configured

    def _compare_with_record(
        self,
        call: Call,
        run: Run,
        state: object,
        saved: StateSnapshot,
        parent: CheckpointTuple | None,
    ) -> None:
        """Compare the record with the input, and restart the run if they don't match.

        Raises:
            SpawnError: A task names a child that was removed.
        """
        if "tasks" not in saved.values:
            # The recorded run ended before it read its input.
            return
        tasks = tasks_of(state)
        if tasks is not None:
            if run.repeats:
                run.read = []
            elif run.read is None:
                run.read = self.terms.read(tasks)
            marks = marks_of_all(run.read)
            recorded = saved.values.get("requested")
            if recorded != marks and marks_of_all(self.terms.read(saved.values["tasks"])) != marks:
                call.restart()
                return
            gone = [each.problem for each in run.read if each.problem is not None]
            if not saved.tasks:
                results = saved.values.get("results")
                if not all_answer(results, run.read):
                    if gone and self.terms.on_failure == "raise":
                        raise SpawnError(why_refused(gone))
                    call.restart()
                    return
            elif gone and self.terms.on_failure == "raise":
                raise SpawnError(why_refused(gone))
        run.waiting = waiting_tasks(call.configurable, state, saved, parent)


def spawn_and_await(
    lead: Agent,
    children: Mapping[str, Child],
    *,
    timeout: float | None = None,
    max_concurrency: int | None = None,
    max_depth: int = 3,
    on_failure: Literal["raise", "collect"] = "raise",
    proof: Mapping[str, ProofKind] | None = None,
    max_answer_bytes: int = _DEFAULT_MAX_BYTES,
    name: str = "spawn_and_await",
    accept_messages: Collection[str] = DEFAULT_MESSAGES,
    tool_calls: bool = False,
    answer_types: Collection[type] = (),
) -> SpawnGraph:
    """Create a graph node that runs tasks on children and accepts only proven answers.

    The node reads ``state["tasks"]``, a list of ``{"agent": …, "input": …}``. It writes
    ``state["results"]``, one :class:`SpawnResult` a task in the same order. Declare both keys in
    the graph's state: LangGraph silently drops undeclared keys. The node emits
    ``{"type": "pipelit.spawn", "event": …, "agent": …, "index": …}`` on LangGraph's custom stream,
    with the event spawned, running, verified, refused or failed.

    When a node's function, a tool or a task calls the graph, the run is resumed by its input, in
    any order of calls. As a node, also of a sub-graph that is a node, it runs only tasks that were
    written after a spawn node last ran, or that a loop within the turn brings back. A later turn
    without new tasks has no results. A function that calls it, and ``Send``, supply their own
    tasks. When the node fails, LangGraph keeps the state from before the node, including
    ``results`` of an earlier turn. Each result names the request that it answers.

    Args:
        lead: The agent that sends requests and verifies answers.
        children: The children by the name of their agent. Each is a ``verified_child``; a
            ``remote_child`` or ``RemoteGraph`` that is a verified child on its server; or any
            compiled graph if ``proof`` is ``unbound-totp`` for it.
        timeout: How long one child may take, in seconds, at most 30 days; None for no limit. A
            child that takes longer is stopped at its next step.
        max_concurrency: How many children run at once. The caller's config takes precedence.
        max_depth: How deep spawns may be nested.
        on_failure: ``raise`` raises ``SpawnError`` when all siblings have finished. With a
            checkpointer, a resume or a retry by LangGraph's ``RetryPolicy`` runs only the failed
            children again. ``collect`` puts failures in the results.
        proof: For each child ``bound`` (the default) or ``unbound-totp``: a graph whose output is
            exactly ``{"code": …, "output": …}``, with the plain code of its authenticator. The code
            proves that the agent is present, and nothing about the output.
        max_answer_bytes: The maximum size of an answer, and of the interrupts of a child together.
        name: The graph's name, in traces and where one node calls several graphs. Two graphs with
            the same name, lead and tasks are distinguished by the names of their children's
            graphs, nodes and functions. If one function of yours creates several, pass different
            names. Equal calls of one graph in a node are distinguished by their order only: if the
            first is left out when the node runs again, the second gets its record.
        accept_messages: The types of messages that answers may hold: ``ai``, ``human``, ``tool``,
            ``system``, ``function``, ``chat``, ``remove``. Others are omitted, and the result lists
            them. A proof authenticates the sender of a message, but doesn't make the message
            harmless to the state that it is added to.
        tool_calls: Whether messages in answers may call tools. If not, the calls are removed, as is
            content that calls a provider's tool.
        answer_types: Classes (enums, pydantic models, dataclasses, named tuples) that values in
            answers may be rebuilt as. The classes in the output schema of a local child are always
            known. A value of another class arrives in its JSON form.

    Returns:
        A compiled graph, to be added as a node. When it runs, it also raises ``SpawnError`` if the
        state has no ``tasks``.

    Raises:
        TypeError: A child can't prove its answers, and ``proof`` doesn't allow that; or an option
            has the wrong type.
        ValueError: A child's name isn't its agent's, a child needs ``accept_from``, or an option is
            out of range.

    Example:
        ```python
        child = verified_child(research_graph, pipelit.agent("agent_researcher"))
        builder.add_node("delegate", spawn_and_await(lead, {"agent_researcher": child}))
        ```
    """
    if not isinstance(lead, Agent):
        raise TypeError('lead must be a handle: pipelit.agent("agent_lead")')
    # Copied, because a child that is added later has no node.
    if isinstance(children, Mapping):
        children = dict(children)
    kinds = dict(proof or {})
    counts = {
        "max_concurrency": max_concurrency,
        "max_depth": max_depth,
        "max_answer_bytes": max_answer_bytes,
    }
    check_options(lead, children, kinds, timeout, counts, on_failure)
    accept = Acceptance(required_kinds(accept_messages), tool_calls)
    options = LinkOptions(
        timeout,
        on_failure,
        max_answer_bytes,
        max_concurrency,
        accept,
        known_classes(answer_types),
    )

    terms = Terms(
        lead.username,
        {each: kinds.get(each, "bound") for each in children},
        {name for name, each in children.items() if isinstance(each, RemoteChild | RemoteGraph)},
        on_failure,
        accept,
        {
            name: from_remote_graph(name, each) if isinstance(each, RemoteGraph) else each
            for name, each in children.items()
        },
    )
    builder = StateGraph(SpawnState, input_schema=SpawnInput, output_schema=SpawnOutput)
    possession_checks: dict[str, Callable[[Run], asyncio.Future[None]]] = {}
    for agent, graph in children.items():
        kind = terms.kinds[agent]
        child = from_remote_graph(agent, graph) if isinstance(graph, RemoteGraph) else graph
        parent = Parent(lead, agent, child, kind, options)
        node: Step
        if isinstance(child, RemoteChild):
            node = remote_node(parent, child)
        elif kind == "unbound-totp":
            node = unbound_node(parent, child)
        else:
            node = bound_node(parent, cast(VerifiedChild, child))
            start = partial(parent.possession.start, child=cast(VerifiedChild, child))
            possession_checks[agent] = start
        builder.add_node(agent, node, input_schema=Order)
        builder.add_edge(agent, JOIN)

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
        if problems and on_failure == "raise":
            raise SpawnError(listed_problems(problems))
        orders = [make_order(index, each, depth, lead) for index, each in enumerate(read)]
        for order in orders:
            run.emit("spawned", order)
        return orders

    def send(state: SpawnState, orders: list[Order]) -> Command[str]:
        update: dict[str, object] = {"requested": b"".join(map(mark_of, orders))}
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

    def unassigned(order: Order, config: RunnableConfig) -> AnswerUpdate:
        result = with_index(
            order, make_result(order["agent"], "failed", error=order.get("problem"))
        )
        run_of(config).emit("failed", order, error=result["error"])
        return {"answers": [{"index": order["index"], "result": result}]}

    def join(state: SpawnState, config: RunnableConfig) -> SpawnOutput:
        tasks = state["tasks"] or []
        found: dict[int, list[SpawnResult]] = {}
        for answer in state.get("answers") or []:
            found.setdefault(answer["index"], []).append(answer["result"])
        results = SpawnResults()
        for index, mark in enumerate(split_marks(state["requested"])):
            recorded = found.pop(index, [])
            if len(recorded) == 1 and answers(recorded[0], index, mark):
                results.append(recorded[0])
            else:
                results.append(unanswered_result(index, tasks[index], recorded, terms))
        if found:
            raise SpawnError(
                "the record holds answers to tasks that don't exist, with index "
                f"{listed_problems(map(str, found))}"
            )
        if on_failure == "raise" and any(each["status"] != "verified" for each in results):
            run = run_of(config)
            run.results = dict(enumerate(results))
            raise spawn_error(run)
        return {"results": results}

    destinations = [*children, JOIN]
    if on_failure == "collect":
        builder.add_node(UNASSIGNED, Step(unassigned, None, UNASSIGNED), input_schema=Order)
        builder.add_edge(UNASSIGNED, JOIN)
        destinations.append(UNASSIGNED)
    builder.add_node(PLAN, Step(plan, aplan, PLAN), destinations=tuple(destinations))
    builder.add_node(JOIN, Step(join, None, JOIN), input_schema=SpawnState)
    builder.add_edge(START, PLAN)
    builder.add_edge(JOIN, END)
    compiled = builder.compile(name=name)
    return SpawnGraph(terms=terms, max_concurrency=max_concurrency, **vars(compiled))
