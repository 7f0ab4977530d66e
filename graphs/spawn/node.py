"""The parent's side of a spawn: fan out to children, believe only what they prove.

LangGraph does the running: each child is a ``Send`` with its own task, namespace, stream and
cancellation. This module mints the challenges, and lets nothing of a child into the parent but what
was verified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Send, StateSnapshot

from pipelit_agents import Agent
from pipelit_agents._threads import aside
from pipelit_agents.display import SpawnResults
from pipelit_agents.errors import (
    DepthExceeded,
    SpawnError,
)

from ..child import Step, VerifiedChild
from ..codec import (
    DEFAULT_MESSAGES,
    Acceptance,
    required_kinds,
)
from ..remote import RemoteChild, from_remote_graph
from ..schemas import known_classes
from .bound import bound_node
from .calls import Call
from .isolation import ChildFailed
from .link import POSSESSION_PREFETCH_TIMEOUT, Parent
from .options import check_options
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
from .remote import remote_node
from .results import (
    JOIN,
    PLAN,
    UNASSIGNED,
    Child,
    Order,
    ProofKind,
    SpawnInput,
    SpawnOutput,
    SpawnResult,
    SpawnState,
    make_result,
)
from .run import RUN, Run, depth_of, run_of, spawn_error
from .unbound import unbound_node

__all__ = ["spawn_and_await"]

_DEFAULT_MAX_BYTES: Final = 8 * 2**20
T = TypeVar("T")


class SpawnGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """The compiled node; made by :func:`spawn_and_await`.

    Args:
        terms: What the node was built with.
        max_concurrency: How many children run at once.
        state_graph: LangGraph's own arguments.
    """

    def __init__(
        self, *, terms: Terms, max_concurrency: int | None = None, **state_graph: Any
    ) -> None:
        state_graph.pop("_serde_allowlist", None)
        super().__init__(**state_graph)
        self.terms = terms
        self.max_concurrency = max_concurrency

    def stream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002 - the name that LangGraph calls it by
        """As LangGraph's; a failed child ends it with ``SpawnError`` when its siblings are done."""
        call, run = self._begin(input, config)
        if call.resuming:
            saved = self.get_state(call.recorded())
            self._look_back(call, run, input, saved, call.parent())
        configured = self._configured(call, run, config)
        try:
            yield from super().stream(input, configured, **options)
        except ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.learn(self.get_state(call.recorded()))
        raise spawn_error(run)

    async def astream(
        self,
        input: Any,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Any:
        """As :meth:`stream`, for the event loop."""
        call, run = self._begin(input, config)
        if call.resuming:
            saved = await self.aget_state(call.recorded())
            self._look_back(call, run, input, saved, await call.aparent())
        configured = self._configured(call, run, config)
        try:
            async for chunk in super().astream(input, configured, **options):
                yield chunk
        except ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.learn(await self.aget_state(call.recorded()))
        raise spawn_error(run)

    def _begin(self, given: Any, config: RunnableConfig | None) -> tuple[Call, Run]:
        # Nothing is awaited before a call has its place: equal ones are told apart by their order.
        try:
            # Here it is still the parent's writer; inside, a nested one that may write nowhere.
            write: Callable[[Any], None] | None = get_stream_writer()
        except (KeyError, RuntimeError):
            # In no graph at all, or in a runnable that isn't one.
            write = None
        call, run = Call(self, config), Run(write)
        run.alone = not call.nested and call.saver is None
        run.repeats = call.is_repeat()

        def question() -> bytes:
            run.read = self.terms.read(tasks_of(given) or [])
            return self.terms.question(self.get_name(), run.read)

        def same(other: Any) -> bool:
            # Of one question; so they ask the same agents.
            mine, code = self.terms.code, other.terms.code
            return all(mine.get(each.agent) == code.get(each.agent) for each in run.read or ())

        call.take_place(question, same)
        return call, run

    def _configured(self, call: Call, run: Run, config: RunnableConfig | None) -> RunnableConfig:
        configured = cast(
            RunnableConfig, {**(config or {}), "configurable": {**call.configurable, RUN: run}}
        )
        if self.max_concurrency is not None and configured.get("max_concurrency") is None:
            configured["max_concurrency"] = self.max_concurrency
        return configured

    def _look_back(
        self,
        call: Call,
        run: Run,
        given: Any,
        saved: StateSnapshot,
        parent: CheckpointTuple | None,
    ) -> None:
        """Compares what would be resumed with what is asked; what doesn't fit begins again.

        Raises:
            SpawnError: A child of the tasks isn't among the children any more.
        """
        if "tasks" not in saved.values:
            # Ended before it took its input.
            return
        tasks = tasks_of(given)
        if tasks is not None:
            if run.repeats:
                run.read = []
            elif run.read is None:
                run.read = self.terms.read(tasks)
            marks = marks_of_all(run.read)
            recorded = saved.values.get("asked")
            if recorded != marks and marks_of_all(self.terms.read(saved.values["tasks"])) != marks:
                call.begin_again()
                return
            gone = [each.problem for each in run.read if each.problem is not None]
            if not saved.tasks:
                results = saved.values.get("results")
                if not all_answer(results, run.read):
                    if gone and self.terms.on_failure == "raise":
                        raise SpawnError(why_refused(gone))
                    call.begin_again()
                    return
            elif gone and self.terms.on_failure == "raise":
                raise SpawnError(why_refused(gone))
        run.waiting = call.waiting(given, saved, parent)


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
    """Makes a graph node that gives tasks to children and believes only what they prove.

    The graph's state has to declare both: LangGraph drops what isn't declared, and says nothing. It
    reads ``state["tasks"]``, a list of ``{"agent": …, "input": …}``, and writes
    ``state["results"]``, one :class:`SpawnResult` a task in the same order. On LangGraph's custom
    stream it tells ``{"type": "pipelit.spawn", "event": …, "agent": …, "index": …}`` with the event
    spawned, running, verified, refused or failed.

    Called in a node's function, a tool or a task, it is resumed by what it asks, in whatever order
    calls are made again. As a node, also of a sub-graph that is one, it does only tasks that were
    written since a spawn node last did any, or that a loop within the turn brings back: a later
    turn without new tasks has no results. A function that calls it, and ``Send``, bring their own.
    When it fails, LangGraph keeps the state as it was before the node, also ``results`` of an
    earlier turn; each result says what it answers.

    Args:
        lead: As whom the parent asks and verifies.
        children: The children by the name of their agent: each a ``verified_child``, a
            ``remote_child`` or ``RemoteGraph`` that is one on its server, or any compiled graph
            where ``proof`` says ``unbound-totp``.
        timeout: Seconds that one child may take, at most 30 days; None for no limit. A child that
            overstays is stopped at its next step.
        max_concurrency: How many children run at once; what the caller's config says wins.
        max_depth: How deep spawns may be nested.
        on_failure: ``raise`` ends with ``SpawnError`` when all siblings have finished; a resume,
            or a retry by LangGraph's ``RetryPolicy``, runs only the failed children again, where
            there is a checkpointer. ``collect`` puts failures in the results.
        proof: Per child, ``bound`` (the default) or ``unbound-totp``: a graph whose output is
            exactly ``{"code": …, "output": …}``, with the plain code of its authenticator. That
            says who is there, and nothing about the output.
        max_answer_bytes: How large an answer may be, and what a child's interrupts hold together.
        name: What the graph is called, in traces and where one node calls several. Two that have
            the same lead and are asked the same are told apart by their children's graphs: by the
            names of graphs, nodes and functions. Give those that one function of yours makes names
            of their own. Equal calls of one graph in a node are told apart by their order only:
            where the first is left out when the node runs again, the second gets its record.
        accept_messages: The types of messages that answers may hold: ``ai``, ``human``, ``tool``,
            ``system``, ``function``, ``chat``, ``remove``. Others are left out, and the result says
            so. A proof says who sent a message, not what it does to the state that it is put into.
        tool_calls: Whether messages in answers may call tools. Where they may not, the calls are
            taken out, and with them the content that calls a tool at a provider.
        answer_types: Classes (enums, pydantic models, dataclasses, named tuples) that values in
            answers may become again. Those in the output schema of a local child are known without
            it. A value of another class arrives as its JSON form.

    Returns:
        A compiled graph, to be added as a node. Run, it raises ``SpawnError`` also where the state
        has no ``tasks``.

    Raises:
        TypeError: A child isn't verified, and nothing says that it needn't be; or an option is of
            another type.
        ValueError: A child's name isn't its agent's, it doesn't say whom it works for, or an
            option is out of range.

    Example:
        ```python
        child = verified_child(research_graph, pipelit.agent("agent_researcher"))
        builder.add_node("delegate", spawn_and_await(lead, {"agent_researcher": child}))
        ```
    """
    if not isinstance(lead, Agent):
        raise TypeError('lead has to be a handle: pipelit.agent("agent_lead")')
    # Copied: the nodes below are those of this moment, and a child that is added later has none.
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
    known = known_classes(answer_types)

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
    seeing: dict[str, Callable[[Run], asyncio.Future[None]]] = {}
    for agent, given in children.items():
        kind = terms.kinds[agent]
        child = from_remote_graph(agent, given) if isinstance(given, RemoteGraph) else given
        parent = Parent(
            lead,
            agent,
            timeout,
            max_depth,
            on_failure,
            max_answer_bytes,
            max_concurrency,
            child,
            kind,
            accept,
            known,
        )
        node: Step
        if isinstance(child, RemoteChild):
            node = remote_node(parent, child)
        elif kind == "unbound-totp":
            node = unbound_node(parent, child)
        else:
            node = bound_node(parent, cast(VerifiedChild, child))
            seeing[agent] = partial(parent.begin_to_see, child=cast(VerifiedChild, child))
        builder.add_node(agent, node, input_schema=Order)
        builder.add_edge(agent, JOIN)

    def order_all(state: SpawnState, config: RunnableConfig) -> list[Order]:
        run = run_of(config)
        # No key, no tables, no account of the lead's: none of it is a child's doing.
        lead.require_active()
        depth = depth_of(config) + 1
        if depth > max_depth:
            raise DepthExceeded(
                f"spawns are nested {depth} deep, and max_depth is {max_depth}: a child that "
                "spawns itself has to end somewhere",
                max_depth=max_depth,
            )
        if "tasks" not in state:
            # LangGraph drops what a state's schema doesn't declare, and says nothing.
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
            run.tell("spawned", order)
        return orders

    def send(state: SpawnState, orders: list[Order]) -> Command[Any]:
        update: dict[str, Any] = {"asked": b"".join(map(mark_of, orders))}
        if state.get("results"):
            # Of an earlier run in this namespace; what follows may fail.
            update["results"] = []
        # Without a task straight on: the parent would keep the results of an earlier turn.
        return Command(
            update=update,
            goto=[
                Send(UNASSIGNED if "problem" in order else order["agent"], order)
                for order in orders
            ]
            or JOIN,
        )

    def plan(state: SpawnState, config: RunnableConfig) -> Command[Any]:
        return send(state, order_all(state, config))

    async def aplan(state: SpawnState, config: RunnableConfig) -> Command[Any]:
        orders = await aside(order_all, state, config)
        called = {each["agent"] for each in orders if "problem" not in each}
        run = run_of(config)
        asked = [seeing[each](run) for each in seeing.keys() & called]
        # Later on their threads would have few turns beside a loop that begins all the tasks. Who
        # shows nothing now is asked again by the tasks, which wait for it together.
        with suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.gather(*asked, return_exceptions=True), POSSESSION_PREFETCH_TIMEOUT
            )
        return send(state, orders)

    def unassigned(order: Order, config: RunnableConfig) -> dict[str, Any]:
        result = with_index(
            order, make_result(order["agent"], "failed", error=order.get("problem"))
        )
        run_of(config).tell("failed", order, error=result["error"])
        return {"answers": [{"index": order["index"], "result": result}]}

    def join(state: SpawnState, config: RunnableConfig) -> dict[str, Any]:
        tasks = state["tasks"] or []
        asked = state.get("asked")
        found: dict[Any, list[SpawnResult]] = {}
        for answer in state.get("answers") or []:
            found.setdefault(answer["index"], []).append(answer["result"])
        if asked is None:
            # Begun by a version that kept no marks, and whose results didn't say what they answer.
            read = terms.read(tasks)
            asked = marks_of_all(read)
            for index, each in enumerate(read):
                placed = {"index": index, "request": each.digest}
                found[index] = [cast(SpawnResult, placed | one) for one in found.get(index, [])]
        results = SpawnResults()
        for index, mark in enumerate(split_marks(asked)):
            given = found.pop(index, [])
            if len(given) == 1 and answers(given[0], index, mark):
                results.append(given[0])
            else:
                results.append(unanswered_result(index, tasks[index], given, terms))
        if found:
            raise SpawnError(f"there are answers to no task: {listed_problems(map(str, found))}")
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
