"""The child's side of a spawn: a graph that proves its answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Any, Final, Literal, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.graph import Graph
from langgraph.channels import EphemeralValue, LastValue
from langgraph.errors import GraphBubbleUp
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.runtime import RunControl, get_runtime
from langgraph.types import Command, StateUpdate
from typing_extensions import TypedDict

from pipelit_agents import Agent
from pipelit_agents._threads import aside
from pipelit_agents.errors import PayloadError, RequestRefused
from pipelit_agents.protocol.binding import Challenge, Proof
from pipelit_agents.protocol.usernames import require_list, require_username

from . import admission
from .admission import ANYONE, AcceptFrom, Anyone
from .codec import MESSAGE_PARTS, state_from_bytes, state_to_bytes
from .envelope import Envelope, EnvelopeDict, Kind, SpawnRequest
from .interrupts import INTERRUPTS, interrupts_to_bytes
from .schemas import known_inputs, uncarried_outputs
from .steps import GraphStep, Step
from .types import AnyGraph, Json

__all__ = ["ANYONE", "VerifiedChild", "verified_child"]

MAX_REQUEST_BYTES: Final = 64 * 2**20
# In characters.
MAX_ERROR_TEXT: Final = 2000
# LangGraph keeps keys of `configurable` with two leading underscores out of checkpoint metadata.
DEPTH: Final = "__pipelit_depth"
# The keys of LangGraph and its server. All others are the caller's, and no proof covers them.
_LANGGRAPH_PREFIXES: Final = ("__pregel_", "checkpoint_", "langgraph_auth_")
# LangGraph's default, which has no public name.
_RECURSION_LIMIT: Final = int(os.environ.get("LANGGRAPH_DEFAULT_RECURSION_LIMIT", "10007"))
UNLIMITED: Final = 1_000_000
# The key of interrupts in a graph's output. It has no public name either.
_INTERRUPT: Final = "__interrupt__"
_LANGGRAPH_KEYS: Final = frozenset({"thread_id", "run_id", "assistant_id", "graph_id"})


class _Binding(TypedDict):
    """The fields that an answer is bound to, besides challenge and payload."""

    verifier: str
    request: bytes
    kind: Kind
    depth: int
    relation: str | None


class VerifiedChild(AnyGraph):
    """A graph that answers spawn requests, each with a proof by its agent.

    It is itself a graph that reads ``request`` and writes ``envelope``. Create one with
    ``verified_child``. ``spawn_and_await`` calls ``answer`` directly.

    Args:
        graph: The graph that does the work.
        agent: The agent that proves the answers.
        accept_from: The parents whose requests it accepts.
        leave_out: Parts of messages that its answers leave out.
        pregel: LangGraph's arguments, when it copies the graph.
    """

    def __init__(
        self,
        *,
        graph: AnyGraph,
        agent: Agent,
        accept_from: AcceptFrom = None,
        leave_out: Collection[str] = (),
        **pregel: Any,
    ) -> None:
        self.graph = graph
        self.agent = agent
        if accept_from is not None and not isinstance(accept_from, Anyone):
            # Copied, so that later changes of the caller's list have no effect.
            accept_from = tuple(accept_from)
        self.accept_from = accept_from
        self.leave_out = leave_out
        if "nodes" not in pregel:
            pregel = {
                "nodes": {
                    "answer": NodeBuilder()
                    .subscribe_only("request")
                    .do(_serving_step(self))
                    .write_to("envelope")
                },
                "channels": {
                    "request": EphemeralValue(dict),
                    "envelope": LastValue(dict),
                },
                "input_channels": ["request"],
                "output_channels": ["envelope"],
                "stream_channels": ["envelope"],
                "context_schema": graph.context_schema,
                "name": agent.username,
                **pregel,
            }
        pregel.pop("_serde_allowlist", None)
        super().__init__(**pregel)

    def stream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Stream as LangGraph does.

        Raises:
            TypeError: The input is a state, not a request.
            RequestRefused: The child doesn't accept the caller, or the request isn't proven.
        """
        self._require_request(input)
        yield from super().stream(input, config, **options)

    async def astream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Async form of ``stream``."""
        self._require_request(input)
        async for chunk in super().astream(input, config, **options):
            yield chunk

    def _require_request(self, given: object) -> None:
        # None and a Command resume a run.
        if given is None or isinstance(given, Command):
            return
        if not isinstance(given, dict) or "request" not in given:
            name = self.agent.username
            raise TypeError(
                "a verified child answers requests, not a state: ask it with "
                f'spawn_and_await(lead, {{"{name}": child}}), or pass verified_agent(lead, child) '
                "where an agent is expected"
            )

    def prove_possession(self, challenge: Challenge) -> Proof:
        """Prove, before any work, that this child holds its agent's secret."""
        return self.agent.prove(
            challenge.value, b"", verifier=challenge.verifier, kind="possession"
        )

    def answer(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> EnvelopeDict:
        """Run the graph on a request and prove its answer.

        Args:
            request: The parent's request.
            config: The configuration of the parent's node.
            control: Stops the graph at its next step.

        Returns:
            An envelope as a dict.

        Raises:
            RequestRefused: The child doesn't accept the caller, or the request isn't proven.
            GraphBubbleUp: The graph was interrupted or stopped.
        """
        self.check(request)
        return self.work(request, config, control)

    async def aanswer(self, request: SpawnRequest, config: RunnableConfig) -> EnvelopeDict:
        """Async form of ``answer``."""
        await self.acheck(request)
        return await self.awork(request, config)

    def work(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> EnvelopeDict:
        """Answer a request that was already checked."""
        kind: Kind = "result"
        try:
            payload = self._payload_of(
                self.graph.invoke(self._graph_input(request), config, control=control)
            )
        except GraphBubbleUp as error:
            kind, payload = "error", _interrupt_failure(error)
        except Exception as error:
            kind, payload = "error", _failure(error)
        return self.seal(request, kind, payload)

    async def awork(self, request: SpawnRequest, config: RunnableConfig) -> EnvelopeDict:
        """Async form of ``work``."""
        kind: Kind = "result"
        try:
            payload = await self._arun(self._graph_input(request), config)
        except GraphBubbleUp as error:
            kind, payload = "error", _interrupt_failure(error)
        except Exception as error:
            kind, payload = "error", _failure(error)
        return await self.aseal(request, kind, payload)

    def _graph_input(self, request: SpawnRequest) -> object:
        known = known_inputs(self.graph)
        return state_from_bytes(request.payload, limit=MAX_REQUEST_BYTES, known=known)

    async def _arun(self, graph_input: object, config: RunnableConfig) -> bytes:
        """Run the graph and return the payload of its output.

        This does the work of ``ainvoke`` without the updates that it also streams at each step.
        """
        graph = self.graph
        if type(graph).ainvoke is not Pregel.ainvoke:
            return self._payload_of(await graph.ainvoke(graph_input, config))
        output: object = None
        interrupted = False
        values = graph.astream(
            graph_input, config, stream_mode="values", output_keys=graph.output_channels
        )
        async for output in values:
            interrupted = interrupted or _is_interrupted(output)
        return self._payload_of(output, interrupted=interrupted)

    def _payload_of(self, output: object, *, interrupted: bool = False) -> bytes:
        if interrupted or _is_interrupted(output):
            # A graph on a separate thread doesn't raise its interrupt, and its output is no answer.
            raise RuntimeError(
                "the graph was interrupted on a separate thread, where it can't be resumed: "
                "leave thread_id out of its configuration"
            )
        return state_to_bytes(output, leave_out=self.leave_out)

    def admit(self, request: SpawnRequest, identity: str | None) -> None:
        """Admit a request from outside, and mark it as used: a child works on it only once.

        Args:
            request: The request.
            identity: The caller's identity on this server. Empty if the server doesn't
                authenticate callers, None if there is no server.

        Raises:
            RequestRefused: As ``check``. Also if another account than the proven parent sent
                the request, or if it names a peering that isn't its parent's.
            RequestStale: The request is too old, or was used before.
        """
        self.check(request)
        admission.admit(self.agent, self.accept_from, request, identity)

    def check(self, request: SpawnRequest) -> None:
        """Check the caller before any node of the graph runs.

        Raises:
            RequestRefused: The child doesn't accept the caller, or the request isn't proven.
        """
        admission.check(self.agent, self.accept_from, request)

    async def acheck(self, request: SpawnRequest) -> None:
        """Async form of ``check``."""
        # Not self.check in a thread: a subclass may override it and block the shared threads.
        await admission.acheck(self.agent, self.accept_from, request)

    def seal(self, request: SpawnRequest, kind: Kind, payload: bytes) -> EnvelopeDict:
        """Prove an answer to a request, and return an envelope with answer and proof."""
        proof = self.agent.prove(request.challenge, payload, **_binding(request, kind))
        return Envelope(payload, kind, proof.step, proof.value).to_dict()

    async def aseal(self, request: SpawnRequest, kind: Kind, payload: bytes) -> EnvelopeDict:
        """Async form of ``seal``."""
        proof = await self.agent.aprove(request.challenge, payload, **_binding(request, kind))
        return Envelope(payload, kind, proof.step, proof.value).to_dict()

    def bulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """Refuse to write the state: the child would prove answers to unproven input.

        Raises:
            RequestRefused: Always.
        """
        raise self._state_refusal()

    async def abulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """Async form of ``bulk_update_state``."""
        raise self._state_refusal()

    def _state_refusal(self) -> RequestRefused:
        return RequestRefused(
            f"the state of {self.agent.username!r} can't be written: it accepts only requests"
        )

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Return the drawing of the graph that does the work."""
        return self.graph.get_graph(config, xray=xray)

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False
    ) -> Graph:
        """Async form of ``get_graph``."""
        return await self.graph.aget_graph(config, xray=xray)

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, object]:
        """Return the input schema of the graph that does the work, which tasks have to match."""
        return self.graph.get_input_jsonschema(config)

    def get_output_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, object]:
        """Return the output schema of the graph that does the work, which results match."""
        return self.graph.get_output_jsonschema(config)


def verified_child(
    graph: AnyGraph,
    agent: Agent,
    *,
    accept_from: AcceptFrom = None,
    leave_out: Collection[Literal["artifact", "response_metadata"]] = (),
) -> VerifiedChild:
    """Create a child that proves a graph's answers as an agent.

    Args:
        graph: A compiled graph. Its output may hold JSON, messages, dates and times, UUIDs,
            decimals, bytes, sets, tuples, paths and IP addresses, and enums, pydantic models,
            dataclasses and named tuples of them. ``docs/answers.md`` describes how each arrives.
        agent: The agent that proves the answers.
        accept_from: The agents whose requests the child accepts, or ``ANYONE``. You can omit it
            if parent and child share a ``Pipelit``. A served graph requires it.
        leave_out: Parts of messages that don't leave the child: ``artifact`` and
            ``response_metadata``. Values in these two and in ``additional_kwargs`` that can't be
            carried are always left out, and the parent's result lists them.

    Returns:
        A child for ``spawn_and_await``.

    Raises:
        TypeError: ``graph`` isn't a compiled graph, its output schema has a type that can't be
            carried, ``agent`` isn't an ``Agent``, or ``accept_from`` isn't a list.
        ValueError: ``leave_out`` names another part.
        InvalidUsername: A name in ``accept_from`` isn't a username.
    """
    if isinstance(graph, VerifiedChild):
        raise TypeError("graph is already a verified child")
    if not isinstance(graph, Pregel):
        raise TypeError(
            f"graph must be a compiled graph, not {type(graph).__name__}; "
            "for a builder: builder.compile()"
        )
    if not isinstance(agent, Agent):
        raise TypeError('agent must be a handle: pipelit.agent("agent_researcher")')
    names: AcceptFrom = accept_from
    if accept_from is not None and not isinstance(accept_from, Anyone):
        listed = require_list(accept_from, argument="accept_from")
        names = tuple(require_username(name, argument="accept_from") for name in listed)
    if isinstance(leave_out, str):
        raise TypeError("leave_out must be a list of parts, not one part: ['artifact']")
    left_out = tuple(leave_out)
    if wrong := set(left_out) - MESSAGE_PARTS:
        raise ValueError(
            f"leave_out: {sorted(map(str, wrong))[0]!r} can't be left out; "
            f"{' and '.join(sorted(MESSAGE_PARTS))} can"
        )
    if problems := uncarried_outputs(graph):
        raise TypeError(
            f"graph: its output can't be carried to a parent: {'; '.join(problems[:10])}. Leave it "
            "out of the output: StateGraph(…, output_schema=…)"
        )
    return VerifiedChild(graph=graph, agent=agent, accept_from=names, leave_out=left_out)


def _serving_step(child: VerifiedChild) -> Step:
    def read(value: object) -> SpawnRequest:
        if child.accept_from is None:
            raise RequestRefused(
                f"{child.agent.username!r} is called from outside, and needs accept_from: "
                "verified_child(…, accept_from=[…]) or accept_from=ANYONE"
            )
        if child.graph.checkpointer:
            # The creator of the thread could influence the proven answer.
            raise RequestRefused(
                f"the graph of {child.agent.username!r} is served, and must not have a "
                "checkpointer: compile it without one"
            )
        return SpawnRequest.parse(value, child.agent.username)

    def answer(value: object, config: RunnableConfig) -> dict[str, Json]:
        request = read(value)
        child.admit(request, _caller_identity())
        return _to_wire(child.work(request, _graph_config(config, request, child.graph)))

    async def aanswer(value: object, config: RunnableConfig) -> dict[str, Json]:
        request = read(value)
        await aside(child.admit, request, _caller_identity())
        return _to_wire(await child.awork(request, _graph_config(config, request, child.graph)))

    return GraphStep(answer, aanswer, child.graph)


def _caller_identity() -> str | None:
    server = get_runtime().server_info
    if server is None:
        return None
    # A server without authentication has no user. The empty identity matches no parent.
    return "" if server.user is None else server.user.identity


def _graph_config(config: RunnableConfig, request: SpawnRequest, graph: AnyGraph) -> RunnableConfig:
    configurable = {
        key: value
        for key, value in config.get("configurable", {}).items()
        if key in _LANGGRAPH_KEYS or key.startswith(_LANGGRAPH_PREFIXES)
    }
    # Set explicitly: otherwise LangGraph uses the caller's limit from the context, and a server in
    # between could make the child prove a failure.
    limit = (graph.config or {}).get("recursion_limit", _RECURSION_LIMIT)
    graph_config = {
        **config,
        "configurable": {**configurable, DEPTH: request.depth},
        "recursion_limit": limit,
        "max_concurrency": UNLIMITED,
    }
    return cast(RunnableConfig, graph_config)


def _binding(request: SpawnRequest, kind: Kind) -> _Binding:
    return {
        "verifier": request.parent,
        "request": request.payload,
        "kind": kind,
        "depth": request.depth,
        "relation": request.relation,
    }


def _is_interrupted(output: object) -> bool:
    return isinstance(output, dict) and _INTERRUPT in output


def _interrupt_failure(error: GraphBubbleUp) -> bytes:
    """Return the payload that explains why an interrupt can't be carried.

    Raises:
        GraphBubbleUp: It isn't an interrupt, or its values can be carried.
    """
    # Compare the exact type: `isinstance` can be deceived by `__class__`.
    if type(error) not in INTERRUPTS:
        raise error
    try:
        interrupts_to_bytes(error)
    except PayloadError as problem:
        return _failure(problem)
    raise error


def _to_wire(envelope: EnvelopeDict) -> dict[str, Json]:
    return Envelope.parse(envelope).to_wire()


def _failure(error: Exception) -> bytes:
    try:
        text = str(error)[:MAX_ERROR_TEXT].encode("utf-8", "replace").decode("utf-8")
    except Exception:
        # An exception whose text can't be read is still a failure.
        text = ""
    try:
        return state_to_bytes({"type": type(error).__name__, "message": text})
    except PayloadError:
        return state_to_bytes({"type": "Exception", "message": ""})
