"""The parent's side of a spawn: fan out to children, believe only what they prove.

LangGraph does the running: each child is a ``Send`` with its own task, namespace, stream and
cancellation. This module mints the challenges, and lets nothing of a child into the parent but what
was verified.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import queue
import secrets
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from typing import Annotated, Any, Final, Literal, NamedTuple, NotRequired, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels import Topic
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.config import get_config, get_stream_writer
from langgraph.errors import GraphBubbleUp, GraphDrained, GraphInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.runtime import RunControl, get_runtime
from langgraph.types import Command, Send, StateSnapshot
from typing_extensions import TypedDict

from pipelit_agents import Agent, Verification
from pipelit_agents._bounds import LONGEST_WAIT, require_count, require_seconds
from pipelit_agents._threads import Apart, Stuck, aside
from pipelit_agents.display import SpawnResults
from pipelit_agents.errors import (
    AccountError,
    ConfigurationError,
    CredentialError,
    DepthExceeded,
    PayloadError,
    ProofRejected,
    RequestRefused,
    SpawnError,
    StorageError,
    UnsealError,
    UserNotFound,
    VerificationError,
)
from pipelit_agents.protocol.binding import PERIOD, Challenge, Proof, derive_challenge
from pipelit_agents.protocol.usernames import require_username

from ..child import ANYONE, DEPTH, MAX_ERROR_TEXT, UNLIMITED, ShowingStep, Step, VerifiedChild
from ..codec import (
    DEFAULT_MESSAGES,
    Acceptance,
    Read,
    read_state,
    required_kinds,
    sent_messages,
    state_from_bytes,
    state_to_bytes,
)
from ..envelope import Envelope, SpawnRequest
from ..interrupts import INTERRUPTS, child_answers, rebuilt_interrupt
from ..remote import NotLetIn, RemoteChild, Unfit, Unreachable, from_remote_graph
from ..schemas import known_classes, known_inputs, known_outputs
from ..values import Known
from .calls import Call, without_an_answer
from .containment import Containment, is_of_a_person
from .forms import code_of, form_of

__all__ = ["SpawnResult", "SpawnTask", "request_digest", "spawn_and_await"]

JOIN: Final = "join"
PLAN: Final = "plan"
UNASSIGNED: Final = "unassigned"
EVENT: Final = "pipelit.spawn"
_RUN: Final = "__pipelit_run"
_DEEPEST: Final = 1_000_000
_DEFAULT_MAX_BYTES: Final = 8 * 2**20
# A challenge that nobody limits still ends: a day is longer than any child should take.
_LONGEST: Final = 86_400.0
# Seconds that a cancelled child has to clean up.
_GRACE: Final = 1.0
# For so many seconds the tasks of one run begin on the strength of one proof of possession. What
# they answer is proven and checked one by one.
_SHOWN_FOR: Final = 1.0
# Seconds that all tasks wait for children to show it; then each asks its own child.
_HEAD_START: Final = 0.1
# Seconds in which a child has to show it, where its time limit isn't shorter: it makes one proof.
_SHOW_WITHIN: Final = 10.0
# How many calls of a child that don't come back are borne, each on a thread of its own.
_MOST_HUNG: Final = 32
# How many failures an error tells; a thousand would fill a log with the same words.
_TOLD: Final = 10
# Bytes from which an answer is read off the event loop.
_LARGE: Final = 2**16

ProofKind = Literal["bound", "unbound-totp"]
Status = Literal["verified", "failed", "refused", "timeout", "unreachable"]
Child = Pregel[Any, Any, Any, Any] | RemoteGraph | RemoteChild
T = TypeVar("T")


class SpawnTask(TypedDict):
    """One task: which child, and the input of its graph."""

    agent: str
    input: Any


class SpawnResult(TypedDict):
    """What is known of one task.

    Attributes:
        index: The place of the task in ``tasks``, from 0.
        request: What was asked: the SHA-256 of the request's bytes, 64 hexadecimal digits, as
            :func:`request_digest` gives it for the task's ``input``. The child's proof covers
            these bytes. None where the task couldn't be sent.
        agent: The child.
        status: ``verified``; ``failed`` (the child proved that its graph failed); ``refused``
            (nothing that came back was proven); ``timeout``; ``unreachable`` (a remote child's
            server was away: it may be asked again).
        output: The output of the child's graph; None unless verified.
        error: What went wrong, or None. Of an unproven answer never its own words.
        bound: Whether the proof is bound to request and answer; False for ``unbound-totp``.
        proved_at: The time of the proof, ISO 8601 in UTC, or None.
        omitted: What of the child's answer isn't in ``output``, by path: messages and calls of
            tools that this parent doesn't accept, and what can't be carried of a message's
            artifact and metadata. Not there where nothing was left out.
    """

    index: int
    request: str | None
    agent: str
    status: Status
    output: Any
    error: str | None
    bound: bool
    proved_at: str | None
    omitted: NotRequired[list[str]]


class SpawnInput(TypedDict):
    """What the node reads of the parent's state."""

    tasks: list[SpawnTask]


class SpawnOutput(TypedDict):
    """What the node writes to the parent's state."""

    results: list[SpawnResult]


class _Answer(TypedDict):
    index: int
    result: SpawnResult


class _State(TypedDict):
    tasks: list[SpawnTask]
    results: list[SpawnResult]
    # A mark for each task, one after another; what is answered is compared with them.
    asked: bytes
    answers: Annotated[list[_Answer], Topic(dict)]


class _Order(TypedDict):
    index: int
    agent: str
    request: bytes
    seed: bytes
    issued_at: float
    depth: int
    problem: NotRequired[str]


class _Read(NamedTuple):
    """A task as it is sent, or why it can't be."""

    agent: str
    request: bytes | None
    problem: str | None

    @property
    def digest(self) -> str | None:
        """What results say of it."""
        return None if self.request is None else _sha256(self.request)


class _ChildFailed(GraphBubbleUp):
    """Ends one child. LangGraph lets its siblings finish, and runs it again on resume."""


class _Unaskable(Exception):
    """The child was interrupted with something that can't be shown."""


class _BrokeOff(Exception):
    """The child ended without an envelope; what it said is not kept."""


class _AskedAPerson(Exception):
    """The child asked for a person's answer, and nothing here can wait for one."""


class _Overstayed(Exception):
    """The child was given up; what it says from now on is heard by nobody."""


class _Run:
    """What one run of the node shares with its children, outside any state."""

    def __init__(self, write: Callable[[Any], None] | None) -> None:
        self.write = write
        self.results: dict[int, SpawnResult] = {}
        # The tasks, where they had to be read before the run begins.
        self.read: list[_Read] | None = None
        # These tasks were answered in an earlier turn, and nobody wrote any since.
        self.repeats = False
        # In no graph, and without a saver: nobody can be asked.
        self.alone = False
        # The tasks of the spawn that wait for a person's answer, and whose question was shown.
        self.waiting: frozenset[str] = frozenset()
        # When a child last showed that it holds its secret, by the lead's clock.
        self.shown: dict[str, float] = {}
        # The children that are being asked to, on the event loop.
        self.showing: dict[str, asyncio.Future[None]] = {}

    def tell(self, event: str, order: _Order, **more: Any) -> None:
        # Without a parent around it the node's own stream is the caller's.
        write = self.write or get_stream_writer()
        write(
            {"type": EVENT, "event": event, "agent": order["agent"], "index": order["index"]} | more
        )

    def learn(self, saved: StateSnapshot) -> None:
        # A resume runs only what failed; the others were verified by an earlier run.
        for task in saved.tasks:
            for answer in (task.result or {}).get("answers", []):
                self.results.setdefault(answer["index"], answer["result"])


class _Terms:
    """What a spawn node was built with, as far as it concerns its tasks.

    Args:
        lead: The lead's name.
        kinds: How each child proves its answers.
        remote: The children on other machines.
        on_failure: As for :func:`spawn_and_await`.
        accept: What answers may hold.
        children: The children.
    """

    def __init__(
        self,
        lead: str,
        kinds: Mapping[str, str],
        remote: Collection[str],
        on_failure: str,
        accept: Acceptance,
        children: Mapping[str, Any],
    ) -> None:
        self.lead = lead
        self.kinds = kinds
        self.remote = remote
        self.on_failure = on_failure
        self.accepted = f"{sorted(accept.kinds)} {accept.tool_calls:d}"
        self.forms = {name: form_of(child).hex() for name, child in children.items()}
        self.code = {name: code_of(child) for name, child in children.items()}

    def read(self, tasks: Any) -> list[_Read]:
        """Reads the tasks of a state.

        Raises:
            SpawnError: They are no list.
        """
        if not isinstance(tasks, list | tuple):
            raise SpawnError("tasks has to be a list of {'agent': …, 'input': …}")
        return [_read(index, task, self) for index, task in enumerate(tasks)]

    def question(self, name: str, read: list[_Read]) -> bytes:
        """A digest of what a call asks, of whom, and as whom, and what it accepts.

        Timeouts and limits are left out, and children that aren't asked: a new version of the graph
        may change them, and goes on.
        """
        fields = [name, self.lead, self.on_failure, self.accepted]
        for each in read:
            kind, form = self.kinds.get(each.agent, "bound"), self.forms.get(each.agent, "")
            fields += [each.agent, kind, form, each.digest or each.problem or ""]
        digest = hashlib.sha256(b"pipelit-agents/spawn-call/v1\0")
        for field in fields:
            data = field.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()


class SpawnGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """The compiled node; made by :func:`spawn_and_await`.

    Args:
        terms: What the node was built with.
        max_concurrency: How many children run at once.
        state_graph: LangGraph's own arguments.
    """

    def __init__(
        self, *, terms: _Terms, max_concurrency: int | None = None, **state_graph: Any
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
        except _ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.learn(self.get_state(call.recorded()))
        raise _spawn_error(run)

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
        except _ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.learn(await self.aget_state(call.recorded()))
        raise _spawn_error(run)

    def _begin(self, given: Any, config: RunnableConfig | None) -> tuple[Call, _Run]:
        # Nothing is awaited before a call has its place: equal ones are told apart by their order.
        try:
            # Here it is still the parent's writer; inside, a nested one that may write nowhere.
            write: Callable[[Any], None] | None = get_stream_writer()
        except (KeyError, RuntimeError):
            # In no graph at all, or in a runnable that isn't one.
            write = None
        call, run = Call(self, config), _Run(write)
        run.alone = not call.nested and call.saver is None
        run.repeats = call.is_repeat()

        def question() -> bytes:
            run.read = self.terms.read(_tasks_of(given) or [])
            return self.terms.question(self.get_name(), run.read)

        def same(other: Any) -> bool:
            # Of one question; so they ask the same agents.
            mine, code = self.terms.code, other.terms.code
            return all(mine.get(each.agent) == code.get(each.agent) for each in run.read or ())

        call.take_place(question, same)
        return call, run

    def _configured(self, call: Call, run: _Run, config: RunnableConfig | None) -> RunnableConfig:
        configured = cast(
            RunnableConfig, {**(config or {}), "configurable": {**call.configurable, _RUN: run}}
        )
        if self.max_concurrency is not None and configured.get("max_concurrency") is None:
            configured["max_concurrency"] = self.max_concurrency
        return configured

    def _look_back(
        self,
        call: Call,
        run: _Run,
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
        tasks = _tasks_of(given)
        if tasks is not None:
            if run.repeats:
                run.read = []
            elif run.read is None:
                run.read = self.terms.read(tasks)
            marks = _marks(run.read)
            recorded = saved.values.get("asked")
            if recorded != marks and _marks(self.terms.read(saved.values["tasks"])) != marks:
                call.begin_again()
                return
            gone = [each.problem for each in run.read if each.problem is not None]
            if not saved.tasks:
                results = saved.values.get("results")
                if not _fit(results, run.read):
                    if gone and self.terms.on_failure == "raise":
                        raise SpawnError(_gone(gone))
                    call.begin_again()
                    return
            elif gone and self.terms.on_failure == "raise":
                raise SpawnError(_gone(gone))
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
    _check_options(lead, children, kinds, timeout, counts, on_failure)
    accept = Acceptance(required_kinds(accept_messages), tool_calls)
    known = known_classes(answer_types)

    terms = _Terms(
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
    builder = StateGraph(_State, input_schema=SpawnInput, output_schema=SpawnOutput)
    seeing: dict[str, Callable[[_Run], asyncio.Future[None]]] = {}
    for agent, given in children.items():
        kind = terms.kinds[agent]
        child = from_remote_graph(agent, given) if isinstance(given, RemoteGraph) else given
        parent = _Parent(
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
            node = _remote_node(parent, child)
        elif kind == "unbound-totp":
            node = _unbound_node(parent, child)
        else:
            node = _bound_node(parent, cast(VerifiedChild, child))
            seeing[agent] = partial(parent.begin_to_see, child=cast(VerifiedChild, child))
        builder.add_node(agent, node, input_schema=_Order)
        builder.add_edge(agent, JOIN)

    def order_all(state: _State, config: RunnableConfig) -> list[_Order]:
        run = _run_of(config)
        # No key, no tables, no account of the lead's: none of it is a child's doing.
        lead.require_active()
        depth = _depth_of(config) + 1
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
            raise SpawnError(_told_of(problems))
        orders = [_order(index, each, depth, lead) for index, each in enumerate(read)]
        for order in orders:
            run.tell("spawned", order)
        return orders

    def send(state: _State, orders: list[_Order]) -> Command[Any]:
        update: dict[str, Any] = {"asked": b"".join(map(_mark_of, orders))}
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

    def plan(state: _State, config: RunnableConfig) -> Command[Any]:
        return send(state, order_all(state, config))

    async def aplan(state: _State, config: RunnableConfig) -> Command[Any]:
        orders = await aside(order_all, state, config)
        called = {each["agent"] for each in orders if "problem" not in each}
        run = _run_of(config)
        asked = [seeing[each](run) for each in seeing.keys() & called]
        # Later on their threads would have few turns beside a loop that begins all the tasks. Who
        # shows nothing now is asked again by the tasks, which wait for it together.
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), _HEAD_START)
        return send(state, orders)

    def unassigned(order: _Order, config: RunnableConfig) -> dict[str, Any]:
        result = _placed(order, _result(order["agent"], "failed", error=order.get("problem")))
        _run_of(config).tell("failed", order, error=result["error"])
        return {"answers": [{"index": order["index"], "result": result}]}

    def join(state: _State, config: RunnableConfig) -> dict[str, Any]:
        tasks = state["tasks"] or []
        asked = state.get("asked")
        found: dict[Any, list[SpawnResult]] = {}
        for answer in state.get("answers") or []:
            found.setdefault(answer["index"], []).append(answer["result"])
        if asked is None:
            # Begun by a version that kept no marks, and whose results didn't say what they answer.
            read = terms.read(tasks)
            asked = _marks(read)
            for index, each in enumerate(read):
                placed = {"index": index, "request": each.digest}
                found[index] = [cast(SpawnResult, placed | one) for one in found.get(index, [])]
        results = SpawnResults()
        for index, mark in enumerate(_split(asked)):
            given = found.pop(index, [])
            if len(given) == 1 and _fits(given[0], index, mark):
                results.append(given[0])
            else:
                results.append(_unanswered(index, tasks[index], given, terms))
        if found:
            raise SpawnError(f"there are answers to no task: {_told_of(map(str, found))}")
        if on_failure == "raise" and any(each["status"] != "verified" for each in results):
            run = _run_of(config)
            run.results = dict(enumerate(results))
            raise _spawn_error(run)
        return {"results": results}

    destinations = [*children, JOIN]
    if on_failure == "collect":
        builder.add_node(UNASSIGNED, Step(unassigned, None, UNASSIGNED), input_schema=_Order)
        builder.add_edge(UNASSIGNED, JOIN)
        destinations.append(UNASSIGNED)
    builder.add_node(PLAN, Step(plan, aplan, PLAN), destinations=tuple(destinations))
    builder.add_node(JOIN, Step(join, None, JOIN), input_schema=_State)
    builder.add_edge(START, PLAN)
    builder.add_edge(JOIN, END)
    compiled = builder.compile(name=name)
    return SpawnGraph(terms=terms, max_concurrency=max_concurrency, **vars(compiled))


class _Parent:
    """One child as its parent sees it: mints, asks, and believes or not."""

    def __init__(
        self,
        lead: Agent,
        name: str,
        timeout: float | None,
        max_depth: int,
        on_failure: str,
        max_bytes: int,
        max_concurrency: int | None,
        child: Pregel[Any, Any, Any, Any] | RemoteChild,
        kind: str,
        accept: Acceptance,
        known: Known,
    ) -> None:
        self.lead = lead
        self.name = name
        self.timeout = timeout
        self.max_depth = max_depth
        self.on_failure = on_failure
        self.max_bytes = max_bytes
        self.max_concurrency = max_concurrency
        # Asked once, here: later on a child's attributes are what the child makes of them.
        listed = child.accept_from if isinstance(child, VerifiedChild) else None
        self.proves = listed is not None and listed is not ANYONE
        # A class of another's may leave the context behind, as by a thread of its own.
        self.preset = type(child) is not VerifiedChild or bool(child.graph.config)
        self._apart = Apart(_MOST_HUNG)
        self._show_within = _SHOW_WITHIN if timeout is None else min(timeout, _SHOW_WITHIN)
        self.action = "verify.plain" if kind == "unbound-totp" else "verify.proof"
        self.accept = accept
        graph = child.graph if isinstance(child, VerifiedChild) else child
        self.known = known if isinstance(graph, RemoteChild) else {**known_outputs(graph), **known}

    def config(self, order: _Order, config: RunnableConfig) -> RunnableConfig:
        """What a local child is told by name: the caller's configuration, one level deeper.

        The rest comes to it by the context, as to any graph that a node calls; said once more it
        would be merged once more, for each child. Where something is bound to the child, which
        would win over the context, or where a context may be missing, all is said but callbacks,
        tags and metadata.
        """
        given = config.get("configurable", {})
        configurable: dict[str, Any] = {
            **(given if self.preset else {}),
            **child_answers(given, order["seed"]),
            _RUN: None,
            DEPTH: order["depth"],
        }
        info = get_runtime().execution_info
        if info is None or info.task_id not in _run_of(config).waiting:
            # It asks for the first time: the answer that came is to another question.
            configurable |= without_an_answer(config)
        inherited = RunnableConfig(configurable=configurable)
        if self.preset and "recursion_limit" in config:
            inherited["recursion_limit"] = config["recursion_limit"]
        if self.max_concurrency is not None:
            # Ours was meant for the children, not for what they run; None can't unset it.
            inherited["max_concurrency"] = UNLIMITED
        elif self.preset and "max_concurrency" in config:
            inherited["max_concurrency"] = config["max_concurrency"]
        return inherited

    def challenge(self, order: _Order) -> Challenge:
        """The challenge of this attempt."""
        info = get_runtime().execution_info
        attempt = info.node_attempt if info is not None else 1
        now = self.lead.now()
        return Challenge(
            derive_challenge(order["seed"], attempt),
            prover=self.name,
            verifier=self.lead.username,
            issued_at=order["issued_at"],
            expires_at=now + (_LONGEST if self.timeout is None else self.timeout + PERIOD),
        )

    def ask(
        self, run: _Run, child: VerifiedChild, order: _Order, challenge: Challenge
    ) -> SpawnRequest:
        """Makes sure that the child holds its secret, and says what is asked of it.

        Raises:
            PipelitError: The child doesn't hold it.
        """
        if not self._was_shown(run):
            self.see_possession(run, child)
        proof = None
        if self.proves:
            proof = self.lead.prove_request(
                challenge.value, order["request"], verifier=self.name, depth=order["depth"]
            )
        return self._request(order, challenge, proof)

    async def aask(
        self, run: _Run, child: VerifiedChild, order: _Order, challenge: Challenge
    ) -> SpawnRequest:
        """As :meth:`ask`, for the event loop."""
        if not self._was_shown(run):
            await self._asee_possession(run, child)
        proof = None
        if self.proves:
            proof = await self.lead.aprove_request(
                challenge.value, order["request"], verifier=self.name, depth=order["depth"]
            )
        return self._request(order, challenge, proof)

    def see_possession(self, run: _Run, child: VerifiedChild) -> None:
        """Asks the child to show that it holds its secret.

        Raises:
            PipelitError: It doesn't.
            Stuck: It doesn't come back. It is a child's code, and runs where it can hold up nobody.
        """
        possession = self.lead.challenge(self.name)
        shown = self._apart.run(partial(self._shown, child, possession), within=self._show_within)
        self.lead.verify_possession(shown, challenge=possession)
        run.shown[self.name] = self.lead.now()

    async def _asee_possession(self, run: _Run, child: VerifiedChild) -> None:
        # Many tasks of a child begin at one moment: one asks, and the others go on together with
        # it. Where what it showed isn't right, each is refused by itself; where it hangs, nobody
        # has it hang once more.
        asked = run.showing.get(self.name)
        first = asked is None or asked.done()
        if asked is None or asked.done():
            asked = self.begin_to_see(run, child)
        try:
            # One task's end isn't that of the others.
            await asyncio.shield(asked)
        except (Stuck, *_PARENT_FAILED):
            raise
        except Exception:
            if first:
                raise
            if not self._was_shown(run):
                await self._see_possession(run, child)

    def begin_to_see(self, run: _Run, child: VerifiedChild) -> asyncio.Future[None]:
        """Asks on the event loop, for all tasks that begin meanwhile."""

        def forget(task: asyncio.Task[None]) -> None:
            if run.showing.get(self.name) is task:
                del run.showing[self.name]
            _forget(task)

        asked = asyncio.create_task(self._see_possession(run, child))
        run.showing[self.name] = asked
        asked.add_done_callback(forget)
        return asked

    async def _see_possession(self, run: _Run, child: VerifiedChild) -> None:
        possession = self.lead.challenge(self.name)
        show = partial(self._shown, child, possession)
        shown = await self._apart.arun(show, within=self._show_within)
        await self.lead.averify_possession(shown, challenge=possession)
        run.shown[self.name] = self.lead.now()

    def _shown(self, child: VerifiedChild, possession: Challenge) -> Proof:
        with _Exits():
            # Read here, where it may be anything and do anything when it is read.
            shown = child.prove_possession(possession)
            if type(shown) is not Proof or type(shown.step) is not int:
                raise _BrokeOff
            value = shown.value
            if type(value) is not str:
                raise _BrokeOff
            return Proof(self.name, self.lead.username, shown.step, value)

    def _was_shown(self, run: _Run) -> bool:
        return 0 <= self.lead.now() - run.shown.get(self.name, -_SHOWN_FOR) < _SHOWN_FOR

    def _request(self, order: _Order, challenge: Challenge, proof: Proof | None) -> SpawnRequest:
        return SpawnRequest(
            self.lead.username, challenge.value, order["depth"], order["request"], proof
        )

    def fresh_challenge(self) -> Challenge:
        """A challenge that no run before had: a child far away works on each once."""
        within = _LONGEST if self.timeout is None else self.timeout + PERIOD
        return self.lead.challenge(self.name, lifetime=within)

    def ask_remote(self, order: _Order, challenge: Challenge) -> SpawnRequest:
        """What is asked of a child on another machine, proven wherever that can be checked.

        Raises:
            PipelitError: There is no such peer or account, or none of the lead's.
        """
        self.lead.domain.users.get(self.name)
        relation = self.lead.relation_to(self.name)
        theirs = "" if relation is None else relation.theirs
        proof = None
        # A peer that was given nothing to check the lead by may still work for anyone.
        if relation is None or relation.ours is not None:
            proof = self.lead.prove_request(
                challenge.value,
                order["request"],
                verifier=self.name,
                depth=order["depth"],
                answer_relation=theirs,
            )
        return SpawnRequest(
            self.lead.username,
            challenge.value,
            order["depth"],
            order["request"],
            proof,
            theirs,
        )

    def believe(self, order: _Order, challenge: Challenge, answer: Any) -> SpawnResult:
        """Verifies what came back, and only then reads it.

        Raises:
            PipelitError: It isn't proven, or isn't a payload.
        """
        envelope, proof = self._opened(answer)
        verification = self.lead.verify_proof(
            proof, challenge=challenge, **_answered(order, envelope)
        )
        return self._read(order, envelope, verification)

    async def abelieve(self, order: _Order, challenge: Challenge, answer: Any) -> SpawnResult:
        """As :meth:`believe`, for the event loop."""
        envelope, proof = self._opened(answer)
        verification = await self.lead.averify_proof(
            proof, challenge=challenge, **_answered(order, envelope)
        )
        if len(envelope.payload) < _LARGE:
            return self._read(order, envelope, verification)
        return await aside(self._read, order, envelope, verification)

    def _opened(self, answer: Any) -> tuple[Envelope, Proof]:
        try:
            envelope = Envelope.parse(answer)
            proof = Proof(self.name, self.lead.username, envelope.step, envelope.proof)
        except ProofRejected:
            raise _BrokeOff from None
        if len(envelope.payload) > self.max_bytes:
            raise PayloadError("the answer is larger than max_answer_bytes")
        return envelope, proof

    def _read(self, order: _Order, envelope: Envelope, verification: Verification) -> SpawnResult:
        read = self._readable(order, envelope.payload)
        if envelope.kind == "result":
            return _result(self.name, "verified", read=read, proof=verification)
        return _result(self.name, "failed", error=_error_text(read.value), proof=verification)

    def _readable(self, order: _Order, payload: bytes) -> Read:
        return read_state(
            payload, limit=self.max_bytes, known=self.known, accept=self._accepted(order)
        )

    def _accepted(self, order: _Order) -> Acceptance:
        sent = cache(lambda: sent_messages(order["request"]))
        return replace(self.accept, seed=order["seed"], sent=sent)

    def interrupt(self, order: _Order, error: BaseException) -> BaseException:
        """A child's interrupts as the parent's own."""
        try:
            return rebuilt_interrupt(
                error,
                agent=self.name,
                seed=order["seed"],
                limit=self.max_bytes,
                known=self.known,
                accept=self._accepted(order),
            )
        except PayloadError:
            return _Unaskable()

    def believe_code(self, order: _Order, answer: tuple[str, bytes]) -> SpawnResult:
        """Verifies a plain code that came with an output that nothing binds.

        Raises:
            PipelitError: The code isn't good, or the output is no payload.
        """
        code, payload = answer
        read = self._readable(order, payload)
        verification = self.lead.verify_peer(self.name, code, kind="plain")
        return _result(self.name, "verified", read=read, proof=verification)

    def refusal(self, error: Exception) -> SpawnResult:
        """What the parent says of a failure, in words of its own; why is in the audit.

        Raises:
            PipelitError: It is the parent's own database or key that failed.
        """
        status: Status = "refused"
        if isinstance(error, VerificationError):
            # Whoever raised it has written down why.
            words, reason = "the answer is not proven to be this child's answer to this request", ""
        elif isinstance(error, _Overstayed):
            status, words = "timeout", f"no answer within {self.timeout:g} seconds (timeout=)"
            reason = "no answer in time"
        elif isinstance(error, _Unaskable):
            words = (
                "the child's interrupt can't be shown: its value can't be carried, or is larger "
                "than max_answer_bytes"
            )
            reason = "interrupt can't be carried"
        elif isinstance(error, Stuck):
            status = "timeout"
            words = (
                f"it didn't show within {self._show_within:g} seconds that it holds its secret, and"
                " was asked for nothing"
            )
            reason = "no possession in time"
        elif isinstance(error, Unreachable):
            status, reason = "unreachable", "unreachable"
            words = "the child's server is away, or lost the run: nothing was used, ask it again"
        elif isinstance(error, Unfit):
            words = (
                f"the child's server answered {error.status}: see the url, and the graph that it "
                "has to serve under that name"
            )
            reason = f"answered {error.status}"
        elif isinstance(error, NotLetIn):
            words = "the child's server doesn't accept the API key: see the child's credential"
            reason = "not let in"
        elif isinstance(error, _AskedAPerson):
            words = (
                "the child asks for a person's answer (interrupt), and nobody can give one: this "
                "spawn runs by itself. Call it in a graph that has a checkpointer"
            )
            reason = "asked for a person"
        elif isinstance(error, RequestRefused):
            words = f"the child doesn't work for {self.lead.username!r}: see its accept_from"
            reason = "the child refused the request"
        elif isinstance(error, PayloadError):
            words = "the answer can't be read as a payload, or is larger than max_answer_bytes"
            reason = "no payload, or too large"
        else:
            words, reason = self._account_problem() or (
                "the child ended without a proven answer: its graph left around its output (as by "
                "Command.PARENT), it refused the request (accept_from), or its own account, "
                "database or key can't be used where it runs; its log says more",
                "no envelope",
            )
        if reason:
            # A lead that was deactivated meanwhile writes nothing down; its child is refused all
            # the same.
            with suppress(AccountError):
                self.lead.note_refusal(self.name, self.action, reason)
        return _result(self.name, status, error=words)

    def _account_problem(self) -> tuple[str, str] | None:
        try:
            account = self.lead.domain.users.get(self.name)
        except UserNotFound:
            return (
                f"there is no account {self.name!r} in the lead's database; make it with: "
                f"pipelit-agents agents create {self.name} --owner … --purpose …"
            ), "peer unknown"
        if not account.active:
            return f"{self.name!r} was deactivated in the lead's database", "peer inactive"
        if account.kind == "human":
            return f"{self.name!r} is a person: a child is an agent's", "peer is a person"
        return None

    def finish(self, order: _Order, run: _Run, result: SpawnResult) -> dict[str, Any]:
        """Tells the outcome, and hands it to the join or ends the child's task."""
        result = _placed(order, result)
        run.results[order["index"]] = result
        event = "failed" if result["status"] in ("timeout", "unreachable") else result["status"]
        run.tell(event, order, error=result["error"])
        if result["status"] != "verified" and self.on_failure == "raise":
            raise _ChildFailed
        return {"answers": [{"index": order["index"], "result": result}]}


def _answered(order: _Order, envelope: Envelope) -> dict[str, Any]:
    # What an answer has to be proven over, beside the challenge.
    return {
        "payload": envelope.payload,
        "request": order["request"],
        "kind": envelope.kind,
        "depth": order["depth"],
    }


def _bound_node(parent: _Parent, child: VerifiedChild) -> Step:
    def run(order: _Order, config: RunnableConfig) -> dict[str, Any]:
        spawn = _run_of(config)
        spawn.tell("running", order)
        inherited, challenge = parent.config(order, config), parent.challenge(order)

        def work(control: RunControl | None) -> Any:
            request = parent.ask(spawn, child, order, challenge)
            with _Exits(partial(parent.interrupt, order)):
                return child.answer(request, inherited, control)

        def believe(answer: Any) -> SpawnResult:
            return parent.believe(order, challenge, answer)

        return parent.finish(order, spawn, _guarded(parent, work, believe))

    async def arun(order: _Order, config: RunnableConfig) -> dict[str, Any]:
        spawn = _run_of(config)
        spawn.tell("running", order)
        inherited, challenge = parent.config(order, config), parent.challenge(order)

        async def work() -> Any:
            request = await parent.aask(spawn, child, order, challenge)
            with _Exits(partial(parent.interrupt, order)), Containment():
                return await child.aanswer(request, inherited)

        async def believe(answer: Any) -> SpawnResult:
            return await parent.abelieve(order, challenge, answer)

        return parent.finish(order, spawn, await _aguarded(parent, work, believe))

    return ShowingStep(run, arun, child.graph)


def _remote_node(parent: _Parent, child: RemoteChild) -> Step:
    async def arun(order: _Order, config: RunnableConfig) -> dict[str, Any]:
        _run_of(config).tell("running", order)
        challenge = parent.fresh_challenge()

        async def work() -> Any:
            request = await aside(parent.ask_remote, order, challenge)
            # A class of another's is a child's own code, as a local child's is.
            trusted = type(child) is RemoteChild
            with (
                nullcontext() if trusted else _Exits(also=_AWAY),
                nullcontext() if trusted else Containment(),
            ):
                try:
                    return await child.answer(request, parent.lead, limit=parent.max_bytes)
                except ProofRejected:
                    raise _BrokeOff from None

        async def believe(answer: Any) -> SpawnResult:
            return await aside(parent.believe, order, challenge, answer)

        result = await _aguarded(parent, work, believe)
        return parent.finish(order, _run_of(config), result)

    def run(order: _Order, config: RunnableConfig) -> dict[str, Any]:
        return _on_another_loop(lambda: arun(order, config))

    return Step(run, arun, child.name)


def _on_another_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    # The calling thread may have a loop of its own, as in a notebook.
    began: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]]
    began, done = queue.SimpleQueue(), Future[T]()

    async def tell_and_work() -> None:
        began.put((asyncio.get_running_loop(), cast(asyncio.Task[Any], asyncio.current_task())))
        try:
            done.set_result(await work())
        except BaseException as error:
            # Told here: closing the loop may wait for a name to be looked up, and nobody else does.
            done.set_exception(error)

    def run() -> None:
        asyncio.run(tell_and_work())

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        return done.result()
    except BaseException:
        if not done.done():
            # Interrupted here: the run over there ends too.
            loop, task = began.get()
            loop.call_soon_threadsafe(task.cancel)
            thread.join(_GRACE)
        raise


def _unbound_node(parent: _Parent, child: Pregel[Any, Any, Any, Any]) -> Step:
    graph = child

    def given(order: _Order) -> Any:
        known = known_inputs(graph)
        return state_from_bytes(order["request"], limit=len(order["request"]), known=known)

    def run(order: _Order, config: RunnableConfig) -> dict[str, Any]:
        _run_of(config).tell("running", order)
        inherited = parent.config(order, config)

        def work(control: RunControl | None) -> tuple[str, bytes]:
            with _Exits(partial(parent.interrupt, order)):
                return _code_and_output(graph.invoke(given(order), inherited, control=control))

        believe = partial(parent.believe_code, order)
        return parent.finish(order, _run_of(config), _guarded(parent, work, believe))

    async def arun(order: _Order, config: RunnableConfig) -> dict[str, Any]:
        _run_of(config).tell("running", order)
        inherited = parent.config(order, config)

        async def work() -> tuple[str, bytes]:
            with _Exits(partial(parent.interrupt, order)), Containment():
                return _code_and_output(await graph.ainvoke(given(order), inherited))

        async def believe(answer: tuple[str, bytes]) -> SpawnResult:
            return await aside(parent.believe_code, order, answer)

        return parent.finish(order, _run_of(config), await _aguarded(parent, work, believe))

    return ShowingStep(run, arun, graph)


def _code_and_output(answer: Any) -> tuple[str, bytes]:
    fields = dict(answer)
    if fields.keys() != {"code", "output"} or type(fields["code"]) is not str:
        raise PayloadError("an unbound child answers with exactly code and output")
    return fields["code"], state_to_bytes(fields["output"])


# What a remote child of another class may say of its server.
_AWAY: Final[frozenset[type[Exception]]] = frozenset({Unreachable, NotLetIn})


class _Exits:
    """Around a child's own code: of what it raises, only that it did is kept.

    LangGraph would write the words of an exception into the parent's namespace. What is raised is
    known by its exact type: `isinstance` believes what an exception says of its class, and a
    subclass is the child's own. Nothing of the exception is asked before its type is known.

    Args:
        interrupt: Makes the parent's own form of an interrupt; where it is missing, none is due.
        also: Types that may be raised too, with nothing in them.
    """

    __slots__ = ("_also", "_began_in", "_interrupt")

    def __init__(
        self,
        interrupt: Callable[[BaseException], BaseException] | None = None,
        also: frozenset[type[Exception]] = frozenset(),
    ) -> None:
        self._interrupt = interrupt
        self._also = also

    def __enter__(self) -> None:
        self._began_in = _task()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        said = self._said(error)
        try:
            raise said from None
        finally:
            # What is only not shown can still be walked to.
            said.__context__ = None

    def _said(self, error: BaseException) -> BaseException:
        kind = type(error)
        if kind is RequestRefused:
            return RequestRefused("the child refused the request")
        if kind in self._also:
            return kind()
        if kind in INTERRUPTS and self._interrupt is not None:
            try:
                return self._interrupt(error)
            except BaseException as raised:
                # By the child's own code in what it was interrupted with.
                error = raised
        return _wordless(error, self._began_in)


def _wordless(error: BaseException, began_in: asyncio.Task[Any] | None) -> BaseException:
    # What ends the task or the run from outside ends it, and says nothing of the child's. A child's
    # own SystemExit or KeyboardInterrupt ends only the child.
    kind = type(error)
    if kind is GraphDrained:
        runtime = get_runtime()
        if runtime.drain_requested:
            return GraphDrained(runtime.drain_reason or "shutdown")
    # A child may also raise these two by itself, with nobody having cancelled or closed anything.
    task = _task()
    if kind is asyncio.CancelledError and task is not None and task.cancelling():
        return asyncio.CancelledError()
    if kind is GeneratorExit and task is not began_in:
        return GeneratorExit()
    if is_of_a_person(error):
        return KeyboardInterrupt()
    return _BrokeOff()


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _guarded(
    parent: _Parent, work: Callable[[RunControl | None], T], believe: Callable[[T], SpawnResult]
) -> SpawnResult:
    reason: Exception
    try:
        answer = work(None) if parent.timeout is None else _in_time(work, parent.timeout)
        return believe(answer)
    except (GraphInterrupt, GraphDrained, *_PARENT_FAILED) as error:
        if not _is_unheard(error):
            raise
        reason = _AskedAPerson()
    except Exception as error:
        reason = error
    return parent.refusal(reason)


async def _aguarded(
    parent: _Parent,
    work: Callable[[], Coroutine[Any, Any, T]],
    believe: Callable[[T], Coroutine[Any, Any, SpawnResult]],
) -> SpawnResult:
    reason: Exception
    try:
        # In a task of its own: a GeneratorExit of the child's would close what waits for it.
        answer = await _ain_time(work, within=parent.timeout)
        return await believe(answer)
    except (GraphInterrupt, GraphDrained, *_PARENT_FAILED) as error:
        if not _is_unheard(error):
            raise
        reason = _AskedAPerson()
    except Exception as error:
        reason = error
    return await aside(parent.refusal, reason)


def _is_unheard(error: BaseException) -> bool:
    # A question that would end with the run, as nothing keeps it.
    return issubclass(type(error), GraphInterrupt) and _run_of(get_config()).alone


# Not the child's doing: the operator has to know, and a resume has to try again.
_PARENT_FAILED: Final = (
    AccountError,
    ConfigurationError,
    CredentialError,
    StorageError,
    UnsealError,
)


def _in_time(work: Callable[[RunControl | None], T], timeout: float) -> T:
    # A thread can't be killed: it is told to stop at its next step, and what it says after that
    # is heard by nobody.
    control = RunControl()
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work_and_tell() -> None:
        try:
            done.put((work(control), None))
        except BaseException as error:
            done.put((None, error))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work_and_tell,), daemon=True).start()
    try:
        result, error = done.get(timeout=timeout)
    except queue.Empty:
        raise _Overstayed from None
    finally:
        # Nobody listens any more; a child that is done doesn't notice.
        control.request_drain(f"no answer within {timeout:g} seconds")
    if error is not None:
        raise error
    return cast(T, result)


async def _ain_time(work: Callable[[], Coroutine[Any, Any, T]], *, within: float | None) -> T:
    # asyncio.wait_for would wait as long as a cancelled child likes to go on.
    task = asyncio.create_task(work())
    try:
        await asyncio.wait({task}, timeout=within)
        if not task.done():
            raise _Overstayed
    finally:
        if not task.done():
            task.cancel()
            # Without a time limit a child has all the time to clean up.
            await asyncio.wait({task}, timeout=None if within is None else _GRACE)
        task.add_done_callback(_forget)
    if task.cancelled():
        raise _BrokeOff
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    # Otherwise the loop logs an exception that nobody asked for.
    if not task.cancelled():
        task.exception()


def _check_options(
    lead: Agent,
    children: Mapping[str, Child],
    kinds: Mapping[str, str],
    timeout: float | None,
    counts: Mapping[str, int | None],
    on_failure: str,
) -> None:
    if not isinstance(children, Mapping):
        raise TypeError('children has to be a dict: {"agent_researcher": verified_child(…)}')
    if not children:
        raise ValueError("children is empty: name at least one child")
    if on_failure not in ("raise", "collect"):
        raise ValueError(f"on_failure is 'raise' or 'collect', not {on_failure!r}")
    if timeout is not None:
        require_seconds(timeout, "timeout", most=LONGEST_WAIT, or_="None")
    for option, value in counts.items():
        if value is not None or option != "max_concurrency":
            require_count(value, option, or_="None" if option == "max_concurrency" else "")
    for name in kinds.keys() - children.keys():
        raise ValueError(
            f"proof names {name!r}, which is no child; the children are "
            f"{', '.join(sorted(children))}"
        )
    for name, child in children.items():
        _check_child(lead, name, child, kinds.get(name, "bound"))


def _check_child(lead: Agent, name: str, child: Any, kind: str) -> None:
    require_username(name, argument="child")
    if name in (PLAN, JOIN, UNASSIGNED):
        raise ValueError(f"child {name!r}: the name is taken by a step of the node itself")
    if name == lead.username:
        raise ValueError(f"child {name!r} is the lead: give the child an agent of its own")
    if kind not in ("bound", "unbound-totp"):
        raise ValueError(f"proof of {name!r} is 'bound' or 'unbound-totp', not {kind!r}")
    if kind == "unbound-totp":
        if not isinstance(child, Pregel):
            raise TypeError(f"child {name!r} has to be a compiled graph: builder.compile()")
        return
    if isinstance(child, RemoteGraph):
        from_remote_graph(name, child)
        return
    if isinstance(child, RemoteChild):
        if child.name != name:
            raise ValueError(f"child {name!r} answers as {child.name!r}: use one name")
        return
    if not isinstance(child, VerifiedChild):
        raise TypeError(
            f"child {name!r} can't prove its answers: wrap its graph with "
            f'verified_child(graph, pipelit.agent("{name}")), or accept a plain code for it with '
            f'proof={{"{name}": "unbound-totp"}}'
        )
    if child.agent.username != name:
        raise ValueError(f"child {name!r} answers as {child.agent.username!r}: use one name")
    if child.accept_from is None and child.agent.domain is not lead.domain:
        raise ValueError(
            f"child {name!r} is of another Pipelit than {lead.username!r}, so it has to say whom "
            f'it works for: verified_child(…, accept_from=["{lead.username}"]) or ANYONE'
        )


def request_digest(
    input: Any,  # noqa: A002 - the task's key that it is of
    *,
    remote: bool = False,
) -> str:
    """The SHA-256 of a task's input as it is sent to a child, 64 hexadecimal digits.

    Compare it with ``request`` of a :class:`SpawnResult`, to see whether a result answers a task.

    Args:
        input: What a task has as ``input``.
        remote: Whether the child is on another machine. It is sent a form without the names of
            classes.

    Raises:
        PayloadError: It can't be sent.
    """
    return _sha256(state_to_bytes(input, portable=remote))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tasks_of(given: Any) -> Any:
    # LangGraph takes a state in any of its forms. None: the run is only resumed, or told nothing.
    if given is None or isinstance(given, Command):
        return None
    tasks = given.get("tasks") if isinstance(given, Mapping) else getattr(given, "tasks", None)
    has = "tasks" in given if isinstance(given, Mapping) else hasattr(given, "tasks")
    return (tasks or []) if has else None


def _read(index: int, task: Any, terms: _Terms) -> _Read:
    if not isinstance(task, Mapping) or set(task) != {"agent", "input"}:
        if isinstance(task, Mapping):
            there = f", and has {', '.join(map(str, task)) or 'nothing'}"[:80]
        else:
            there = f", and is a {type(task).__name__}"[:80]
        return _Read("", None, f"tasks[{index}] has to be {{'agent': …, 'input': …}}{there}")
    agent = str(task["agent"])[:149]
    problem: str | None = None
    request: bytes | None = None
    try:
        request = state_to_bytes(task["input"], portable=agent in terms.remote)
    except PayloadError as error:
        problem = f"tasks[{index}].input: {error}"
    if not isinstance(task["agent"], str) or task["agent"] not in terms.kinds:
        problem = (
            f"tasks[{index}].agent {str(task['agent'])!r:.80} is no child here; "
            f"the children are {', '.join(sorted(terms.kinds))}"
        )
    return _Read(agent, request, problem)


def _order(index: int, read: _Read, depth: int, lead: Agent) -> _Order:
    order = _Order(
        index=index,
        agent=read.agent,
        request=read.request or b"",
        seed=secrets.token_bytes(32),
        issued_at=lead.now(),
        depth=depth,
    )
    if read.problem is not None:
        order["problem"] = read.problem
    return order


def _told_of(problems: Iterable[str]) -> str:
    told = list(problems)
    if len(told) > _TOLD:
        told[_TOLD:] = [f"and {len(told) - _TOLD} more"]
    return "; ".join(told)


def _gone(problems: list[str]) -> str:
    return (
        "this spawn waits for children that aren't among them any more, and goes on when they are: "
        + _told_of(problems)
    )


_MARK_SIZE: Final = 32


def _mark(agent: str, request: str | None) -> bytes:
    # Of a task, and of a result: whom was asked, and what.
    return hashlib.sha256(f"{agent}\0{request or ''}".encode("utf-8", "surrogatepass")).digest()


def _marks(read: list[_Read]) -> bytes:
    return b"".join(_mark(each.agent, each.digest) for each in read)


def _mark_of(order: _Order) -> bytes:
    return _mark(order["agent"], _digest_of(order))


def _digest_of(order: _Order) -> str | None:
    # An order of nothing isn't sent; JSON of nothing has at least two bytes.
    return _sha256(order["request"]) if order["request"] else None


def _split(marks: bytes) -> list[bytes]:
    return [marks[at : at + _MARK_SIZE] for at in range(0, len(marks), _MARK_SIZE)]


def _fits(result: Any, index: int, mark: bytes) -> bool:
    """Whether a result answers the task at this place."""
    try:
        return bool(result["index"] == index and _mark(result["agent"], result["request"]) == mark)
    except (KeyError, TypeError, AttributeError):
        return False


def _fit(results: Any, read: list[_Read]) -> bool:
    if not isinstance(results, list | tuple) or len(results) != len(read):
        return False
    marks = _split(_marks(read))
    return all(_fits(each, index, marks[index]) for index, each in enumerate(results))


def _placed(order: _Order, result: SpawnResult) -> SpawnResult:
    return SpawnResult({**result, "index": order["index"], "request": _digest_of(order)})


def _unanswered(index: int, task: Any, given: list[SpawnResult], terms: _Terms) -> SpawnResult:
    """What is said of a task that has no answer of its own when all children are done."""
    read = _read(index, task, terms)
    if given:
        error = f"what is recorded for tasks[{index}] doesn't answer it; nothing of it is used"
    else:
        error = f"tasks[{index}] was given to a child, and has no answer"
    if read.problem is not None:
        error = f"{error}: {read.problem}"
    result = _result(read.agent, "failed", error=error)
    return SpawnResult({**result, "index": index, "request": read.digest})


def _result(
    agent: str,
    status: Status,
    *,
    read: Read | None = None,
    error: str | None = None,
    proof: Verification | None = None,
) -> SpawnResult:
    proved_at = None if proof is None else _moment(proof.step)
    # Where it belongs is known where it is placed.
    result = SpawnResult(
        index=-1,
        request=None,
        agent=agent,
        status=status,
        output=None if read is None else read.value,
        error=error,
        bound=proof is not None and proof.kind == "proof",
        proved_at=proved_at,
    )
    if read is not None and read.omitted:
        result["omitted"] = read.omitted
    return result


@lru_cache(maxsize=8)
def _moment(step: int) -> str:
    return datetime.fromtimestamp(step * PERIOD, UTC).isoformat()


def _error_text(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"type", "message"}:
        return f"{value['type']}: {value['message']}"[: 2 * MAX_ERROR_TEXT]
    return "the child failed"


def _spawn_error(run: _Run) -> SpawnError:
    results = [run.results[index] for index in sorted(run.results)]
    failed = [index for index in sorted(run.results) if run.results[index]["status"] != "verified"]
    told = [
        f"tasks[{index}], {run.results[index]['agent']}: {run.results[index]['status']} "
        f"({run.results[index]['error']})"
        for index in failed[:_TOLD]
    ]
    if len(failed) > _TOLD:
        told.append(f"and {len(failed) - _TOLD} more, in the error's results")
    return SpawnError("not every child gave a verified answer: " + "; ".join(told), results=results)


def _depth_of(config: RunnableConfig) -> int:
    # Only ours counts: whoever calls a served graph can say anything here.
    depth = config.get("configurable", {}).get(DEPTH, 0)
    return min(max(depth, 0), _DEEPEST) if type(depth) is int else 0


def _run_of(config: RunnableConfig) -> _Run:
    run = config.get("configurable", {}).get(_RUN)
    return run if isinstance(run, _Run) else _Run(None)
