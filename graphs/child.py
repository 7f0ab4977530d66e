"""The child's side of a spawn: a graph that proves its answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, cast

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.graph import Graph
from langgraph.channels import EphemeralValue, LastValue
from langgraph.errors import GraphBubbleUp
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.runtime import RunControl, get_runtime
from langgraph.types import StateUpdate
from typing_extensions import TypedDict

from pipelit_agents import Agent
from pipelit_agents._threads import aside
from pipelit_agents.errors import (
    AccountError,
    PayloadError,
    ProofRejected,
    RequestRefused,
    UserNotFound,
)
from pipelit_agents.identity.agent import home_of
from pipelit_agents.protocol.binding import PERIOD, Challenge, Proof
from pipelit_agents.protocol.usernames import require_username

from .codec import MESSAGE_PARTS, state_from_bytes, state_to_bytes
from .envelope import Envelope, SpawnRequest
from .interrupts import INTERRUPTS, interrupts_to_bytes
from .schemas import known_inputs, uncarried_outputs

__all__ = ["ANYONE", "VerifiedChild", "verified_child"]

MAX_REQUEST_BYTES: Final = 64 * 2**20
# In characters.
MAX_ERROR_TEXT: Final = 2000
# How long a request is valid, in seconds.
REQUEST_LIFETIME: Final = 60.0
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


class Anyone:
    """The type of :data:`ANYONE`."""

    def __repr__(self) -> str:
        return "ANYONE"


ANYONE: Final = Anyone()
"""For ``accept_from``: the child accepts requests from every caller."""

AcceptFrom = Sequence[str] | Anyone | None


class Step(RunnableLambda[Any, Any]):
    """A node's function, run directly as the node.

    ``RunnableLambda`` would add another run to traces and callbacks at each call.

    Args:
        run: The function.
        arun: Its async form. None for a function that doesn't block: it is called on the event
            loop, where LangGraph would use a thread.
        name: The name of the step.
    """

    def __init__(self, run: Callable[..., Any], arun: Callable[..., Any] | None, name: str) -> None:
        super().__init__(run, afunc=arun, name=name)
        self._run, self._arun = run, arun

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Any:  # noqa: A002 - the name that LangChain calls it by
        """Call the function."""
        return self._run(input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Any:  # noqa: A002 - the name that LangChain calls it by
        """Call the async form."""
        return self._run(input, config) if self._arun is None else await self._arun(input, config)


class GraphStep(Step):
    """A step that runs a graph, and exposes it to LangGraph for state and drawing.

    By default LangGraph would use the first graph in the function's closure, which is the enclosing
    child.

    Args:
        run: The function.
        arun: Its async form.
        graph: The graph that both of them run.
    """

    def __init__(
        self, run: Callable[..., Any], arun: Callable[..., Any], graph: Pregel[Any, Any, Any, Any]
    ) -> None:
        super().__init__(run, arun, graph.name)
        self._graph = graph

    @property
    def deps(self) -> list[Runnable[Any, Any]]:
        """The graph that the step runs."""
        return [self._graph]


class ChildInput(TypedDict):
    """The input of a served child."""

    request: dict[str, Any]


class ChildOutput(TypedDict):
    """The output of a served child."""

    envelope: dict[str, Any]


class VerifiedChild(Pregel[Any, Any, Any, Any]):
    """A graph that answers spawn requests, each with a proof by its agent.

    It is itself a graph that reads ``request`` and writes ``envelope``. Create one with
    :func:`verified_child`. ``spawn_and_await`` calls :meth:`answer` directly.

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
        graph: Pregel[Any, Any, Any, Any],
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

    def prove_possession(self, challenge: Challenge) -> Proof:
        """Prove, before any work, that this child holds its agent's secret."""
        return self.agent.prove(
            challenge.value, b"", verifier=challenge.verifier, kind="possession"
        )

    def answer(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> dict[str, Any]:
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

    async def aanswer(self, request: SpawnRequest, config: RunnableConfig) -> dict[str, Any]:
        """Async form of :meth:`answer`."""
        await self.acheck(request)
        return await self.awork(request, config)

    def work(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> dict[str, Any]:
        """Answer a request that was already checked."""
        kind: Literal["result", "error"] = "result"
        try:
            payload = self._payload_of(
                self.graph.invoke(self._graph_input(request), config, control=control)
            )
        except GraphBubbleUp as error:
            kind, payload = "error", _interrupt_failure(error)
        except Exception as error:
            kind, payload = "error", _failure(error)
        return self.seal(request, kind, payload)

    async def awork(self, request: SpawnRequest, config: RunnableConfig) -> dict[str, Any]:
        """Async form of :meth:`work`."""
        kind: Literal["result", "error"] = "result"
        try:
            payload = await self._arun(self._graph_input(request), config)
        except GraphBubbleUp as error:
            kind, payload = "error", _interrupt_failure(error)
        except Exception as error:
            kind, payload = "error", _failure(error)
        return await self.aseal(request, kind, payload)

    def _graph_input(self, request: SpawnRequest) -> Any:
        known = known_inputs(self.graph)
        return state_from_bytes(request.payload, limit=MAX_REQUEST_BYTES, known=known)

    async def _arun(self, graph_input: Any, config: RunnableConfig) -> bytes:
        """Run the graph and return the payload of its output.

        This does the work of ``ainvoke`` without the updates that it also streams at each step.
        """
        graph = self.graph
        if type(graph).ainvoke is not Pregel.ainvoke:
            return self._payload_of(await graph.ainvoke(graph_input, config))
        output, interrupted = None, False
        values = graph.astream(
            graph_input, config, stream_mode="values", output_keys=graph.output_channels
        )
        async for output in values:
            interrupted = interrupted or _is_interrupted(output)
        return self._payload_of(output, interrupted=interrupted)

    def _payload_of(self, output: Any, *, interrupted: bool = False) -> bytes:
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
            RequestRefused: As :meth:`check`. Also if the request was used before, if another
                account than the proven parent sent it, or if it names a peering that isn't its
                parent's.
        """
        self.check(request)
        if not self._may_name_relation(request):
            self.agent.note_refusal(request.parent, "verify.request", "relation of another domain")
            raise self._refusal()
        if isinstance(self.accept_from, Anyone):
            return
        if identity is not None and identity != request.parent:
            reason = "sent by another account" if identity else "the server requires no API key"
            self._note_refusal(request, reason)
        elif self.agent.spend_request(request.parent, request.challenge):
            return
        raise self._refusal()

    def _may_name_relation(self, request: SpawnRequest) -> bool:
        """Return whether the peering that a request names belongs to its parent.

        Otherwise a domain could obtain answers that are proven under the secret of another domain,
        or of this one, and replay them there.
        """
        peer = self.agent.relation_to(request.parent)
        if peer is not None:
            return request.relation == (peer.ours or "")
        if not request.relation:
            return True
        if not isinstance(self.accept_from, Anyone):
            return False
        # A child that accepts anyone needs no account of a remote parent. Local parents have one.
        try:
            home_of(self.agent).users.get(request.parent)
        except UserNotFound:
            return True
        return False

    def check(self, request: SpawnRequest) -> None:
        """Check the caller before any node of the graph runs.

        Raises:
            RequestRefused: The child doesn't accept the caller, or the request isn't proven.
        """
        if self.accept_from is None or isinstance(self.accept_from, Anyone):
            return
        if request.parent not in self.accept_from or request.proof is None:
            self._note_refusal(request, "not in accept_from")
            raise self._refusal()
        try:
            self.agent.verify_request(request.proof, **self._proven_fields(request))
        except ProofRejected:
            raise self._refusal() from None

    async def acheck(self, request: SpawnRequest) -> None:
        """Async form of :meth:`check`."""
        if self.accept_from is None or isinstance(self.accept_from, Anyone):
            return
        if request.parent not in self.accept_from or request.proof is None:
            # Not self.check: a subclass may override it and block the package's shared threads.
            await aside(
                self.agent.note_refusal, request.parent, "verify.request", "not in accept_from"
            )
            raise self._refusal()
        try:
            await self.agent.averify_request(request.proof, **self._proven_fields(request))
        except ProofRejected:
            raise self._refusal() from None

    def _proven_fields(self, request: SpawnRequest) -> dict[str, Any]:
        now = self.agent.now()
        challenge = Challenge(
            request.challenge,
            prover=request.parent,
            verifier=self.agent.username,
            issued_at=now - REQUEST_LIFETIME + PERIOD,
            expires_at=now + REQUEST_LIFETIME,
        )
        return {
            "challenge": challenge,
            "request": request.payload,
            "depth": request.depth,
            "answer_relation": request.relation or "",
        }

    def _note_refusal(self, request: SpawnRequest, reason: str) -> None:
        # A deactivated agent can't write to the audit. The caller is refused regardless.
        with suppress(AccountError):
            self.agent.note_refusal(request.parent, "verify.request", reason)

    def _refusal(self) -> RequestRefused:
        return RequestRefused(
            f"{self.agent.username!r} doesn't accept this caller: accept_from doesn't name it, "
            "or the request isn't proven, or it was used before"
        )

    def seal(
        self, request: SpawnRequest, kind: Literal["result", "error"], payload: bytes
    ) -> dict[str, Any]:
        """Prove an answer to a request, and return an envelope with answer and proof."""
        proof = self.agent.prove(request.challenge, payload, **_binding(request, kind))
        return Envelope(payload, kind, proof.step, proof.value).to_dict()

    async def aseal(
        self, request: SpawnRequest, kind: Literal["result", "error"], payload: bytes
    ) -> dict[str, Any]:
        """Async form of :meth:`seal`."""
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
        """Async form of :meth:`bulk_update_state`."""
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
        """Async form of :meth:`get_graph`."""
        return await self.graph.aget_graph(config, xray=xray)

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """Return the input schema of the graph that does the work, which tasks have to match."""
        return self.graph.get_input_jsonschema(config)

    def get_output_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """Return the output schema of the graph that does the work, which results match."""
        return self.graph.get_output_jsonschema(config)


def verified_child(
    graph: Pregel[Any, Any, Any, Any],
    agent: Agent,
    *,
    accept_from: AcceptFrom = None,
    leave_out: Collection[Literal["artifact", "response_metadata"]] = (),
) -> VerifiedChild:
    """Create a child that proves a graph's answers as an agent.

    Args:
        graph: A compiled graph. Its output may hold JSON, messages, dates and times, UUIDs,
            decimals, bytes, sets, tuples, paths and IP addresses, and enums, pydantic models,
            dataclasses and named tuples of them. ``docs/guide.md`` describes how each arrives.
        agent: The agent that proves the answers.
        accept_from: The agents whose requests the child accepts, or :data:`ANYONE`. You can omit it
            if parent and child share a ``Pipelit``. A served graph requires it.
        leave_out: Parts of messages that don't leave the child: ``artifact`` and
            ``response_metadata``. Values in these two and in ``additional_kwargs`` that can't be
            carried are always left out, and the parent's result lists them.

    Returns:
        A child for ``spawn_and_await``.

    Raises:
        TypeError: ``graph`` isn't a compiled graph, its output schema has a type that can't be
            carried, or ``agent`` isn't an ``Agent``.
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
    if isinstance(accept_from, str):
        raise TypeError("accept_from is a list of names, not one name")
    names: AcceptFrom = accept_from
    if accept_from is not None and not isinstance(accept_from, Anyone):
        names = tuple(require_username(name, argument="accept_from") for name in accept_from)
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
    def read(value: Any) -> SpawnRequest:
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

    def answer(value: Any, config: RunnableConfig) -> dict[str, Any]:
        request = read(value)
        child.admit(request, _caller_identity())
        return _to_wire(child.work(request, _graph_config(config, request, child.graph)))

    async def aanswer(value: Any, config: RunnableConfig) -> dict[str, Any]:
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


def _graph_config(
    config: RunnableConfig, request: SpawnRequest, graph: Pregel[Any, Any, Any, Any]
) -> RunnableConfig:
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


def _binding(request: SpawnRequest, kind: Literal["result", "error"]) -> dict[str, Any]:
    # The fields that an answer is bound to, besides challenge and payload.
    return {
        "verifier": request.parent,
        "request": request.payload,
        "kind": kind,
        "depth": request.depth,
        "relation": request.relation,
    }


def _is_interrupted(output: Any) -> bool:
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


def _to_wire(envelope: dict[str, Any]) -> dict[str, Any]:
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
