"""A graph that proves its answers: the child's side of a spawn."""

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
MAX_ERROR_TEXT: Final = 2000
REQUEST_LIFETIME: Final = 60.0
# Beginning with two underscores keeps a key of `configurable` out of checkpoint metadata.
DEPTH: Final = "__pipelit_depth"
# What LangGraph and its server put there. The rest is the caller's, and no proof covers it.
_LANGGRAPH_PREFIXES: Final = ("__pregel_", "checkpoint_", "langgraph_auth_")
# LangGraph's own default, which it has under no public name.
_RECURSION_LIMIT: Final = int(os.environ.get("LANGGRAPH_DEFAULT_RECURSION_LIMIT", "10007"))
UNLIMITED: Final = 1_000_000
# Where LangGraph puts a question into what a graph returns; it has no public name either.
_INTERRUPT: Final = "__interrupt__"
_LANGGRAPH_KEYS: Final = frozenset({"thread_id", "run_id", "assistant_id", "graph_id"})


class Anyone:
    """The type of :data:`ANYONE`."""

    def __repr__(self) -> str:
        return "ANYONE"


ANYONE: Final = Anyone()
"""For ``accept_from``: the child works for whoever reaches it."""

AcceptFrom = Sequence[str] | Anyone | None


class Step(RunnableLambda[Any, Any]):
    """A node's function, run as the node itself.

    ``RunnableLambda`` would make one more run of it, in traces and for callbacks, at each call.

    Args:
        run: The function.
        arun: Its async form; None for a function that waits for nothing, and is called as it is,
            where LangGraph would give it a thread.
        name: What it is called.
    """

    def __init__(self, run: Callable[..., Any], arun: Callable[..., Any] | None, name: str) -> None:
        super().__init__(run, afunc=arun, name=name)
        self._run, self._arun = run, arun

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Any:  # noqa: A002 - the name that LangChain calls it by
        """Calls the function."""
        return self._run(input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Any:  # noqa: A002 - the name that LangChain calls it by
        """Calls its async form."""
        return self._run(input, config) if self._arun is None else await self._arun(input, config)


class GraphStep(Step):
    """A step that runs a graph, and shows it to LangGraph: for its state and its drawing.

    Left to itself LangGraph would take the first graph in the function's closure, which is the
    child around it.

    Args:
        run: The function.
        arun: Its async form.
        graph: The graph that they run.
    """

    def __init__(
        self, run: Callable[..., Any], arun: Callable[..., Any], graph: Pregel[Any, Any, Any, Any]
    ) -> None:
        super().__init__(run, arun, graph.name)
        self._graph = graph

    @property
    def deps(self) -> list[Runnable[Any, Any]]:
        """The graph inside."""
        return [self._graph]


class ChildInput(TypedDict):
    """What a served child reads."""

    request: dict[str, Any]


class ChildOutput(TypedDict):
    """What a served child writes."""

    envelope: dict[str, Any]


class VerifiedChild(Pregel[Any, Any, Any, Any]):
    """A graph that answers spawn requests, each with a proof by its agent.

    It is a graph itself: it reads ``request`` and writes ``envelope``. Make one with
    :func:`verified_child`; ``spawn_and_await`` asks it without that detour.

    Args:
        graph: The graph that does the work.
        agent: As whom it answers.
        accept_from: For whom it works.
        leave_out: Parts of messages that its answers leave out.
        pregel: LangGraph's own arguments, when it copies the graph.
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
            # Copied: whom it works for doesn't change with a list of the caller's.
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
        """Shows, before any work, that this child holds its agent's secret."""
        return self.agent.prove(
            challenge.value, b"", verifier=challenge.verifier, kind="possession"
        )

    def answer(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> dict[str, Any]:
        """Runs the graph on a request and proves what it answers.

        Args:
            request: What is asked.
            config: Of the node that asks.
            control: Stops the graph at its next step.

        Returns:
            An envelope as a dict.

        Raises:
            RequestRefused: The caller isn't accepted, or the request isn't proven.
            GraphBubbleUp: The graph was interrupted or stopped.
        """
        self.check(request)
        return self.work(request, config, control)

    async def aanswer(self, request: SpawnRequest, config: RunnableConfig) -> dict[str, Any]:
        """As :meth:`answer`, for the event loop."""
        await self.acheck(request)
        return await self.awork(request, config)

    def work(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> dict[str, Any]:
        """As :meth:`answer`, for a request that was checked."""
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
        """As :meth:`work`, for the event loop."""
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

    async def _arun(self, given: Any, config: RunnableConfig) -> bytes:
        """The payload of what the graph answers.

        As by ``ainvoke``, which streams the values too, and at each step its updates beside them.
        """
        graph = self.graph
        if type(graph).ainvoke is not Pregel.ainvoke:
            return self._payload_of(await graph.ainvoke(given, config))
        output, asked = None, False
        values = graph.astream(
            given, config, stream_mode="values", output_keys=graph.output_channels
        )
        async for output in values:
            asked = asked or _is_interrupted(output)
        return self._payload_of(output, asked=asked)

    def _payload_of(self, output: Any, *, asked: bool = False) -> bytes:
        if asked or _is_interrupted(output):
            # A graph with a thread of its own keeps its question to itself, and has answered
            # nothing.
            raise RuntimeError(
                "the graph waits for an answer in a thread of its own, where nobody gives one: "
                "leave thread_id out of its configuration"
            )
        return state_to_bytes(output, leave_out=self.leave_out)

    def admit(self, request: SpawnRequest, identity: str | None) -> None:
        """Checks a request from outside, and spends it: it is worked on once.

        Args:
            request: What came.
            identity: As whom the caller reached this server; empty where the server didn't ask,
                None where there is no server.

        Raises:
            RequestRefused: As :meth:`check`; also a request that came before, and one that
                another account sends than the parent that proves it, or that names a peering
                which isn't its parent's.
        """
        self.check(request)
        if not self._may_name_relation(request):
            self.agent.note_refusal(request.parent, "verify.request", "relation of another domain")
            raise self._refusal()
        if isinstance(self.accept_from, Anyone):
            return
        if identity is not None and identity != request.parent:
            reason = "sent by another account" if identity else "the server asks for no API key"
            self._note_refusal(request, reason)
        elif self.agent.spend_request(request.parent, request.challenge):
            return
        raise self._refusal()

    def _may_name_relation(self, request: SpawnRequest) -> bool:
        """Whether the peering that a request names for its answer is its parent's to name.

        Otherwise a domain could have answers proven to it under the secret of another, and bring
        them there; or of this domain's own.
        """
        peer = self.agent.relation_to(request.parent)
        if peer is not None:
            return request.relation == (peer.ours or "")
        if not request.relation:
            return True
        if not isinstance(self.accept_from, Anyone):
            return False
        # A child that works for anyone needn't know its parents; those of its own domain it does.
        try:
            home_of(self.agent).users.get(request.parent)
        except UserNotFound:
            return True
        return False

    def check(self, request: SpawnRequest) -> None:
        """Checks the caller before any node of the graph runs.

        Raises:
            RequestRefused: The caller isn't accepted, or the request isn't proven.
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
        """As :meth:`check`, for the event loop."""
        if self.accept_from is None or isinstance(self.accept_from, Anyone):
            return
        if request.parent not in self.accept_from or request.proof is None:
            # Not self.check, which may be another's: the package's threads are everybody's.
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
        # An agent that was deactivated writes nothing down; the caller is refused all the same.
        with suppress(AccountError):
            self.agent.note_refusal(request.parent, "verify.request", reason)

    def _refusal(self) -> RequestRefused:
        return RequestRefused(
            f"{self.agent.username!r} doesn't work for this caller: accept_from doesn't name it, "
            "or the request isn't proven, or it came before"
        )

    def seal(
        self, request: SpawnRequest, kind: Literal["result", "error"], payload: bytes
    ) -> dict[str, Any]:
        """Proves an answer to a request, and puts both in an envelope."""
        proof = self.agent.prove(request.challenge, payload, **_binding(request, kind))
        return Envelope(payload, kind, proof.step, proof.value).to_dict()

    async def aseal(
        self, request: SpawnRequest, kind: Literal["result", "error"], payload: bytes
    ) -> dict[str, Any]:
        """As :meth:`seal`, for the event loop."""
        proof = await self.agent.aprove(request.challenge, payload, **_binding(request, kind))
        return Envelope(payload, kind, proof.step, proof.value).to_dict()

    def bulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """Refused: a state that nobody proved would be worked on, and answered for.

        Raises:
            RequestRefused: Always.
        """
        raise self._state_refusal()

    async def abulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """As :meth:`bulk_update_state`."""
        raise self._state_refusal()

    def _state_refusal(self) -> RequestRefused:
        return RequestRefused(
            f"the state of {self.agent.username!r} can't be written: it works on requests alone"
        )

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """The drawing of the graph that does the work."""
        return self.graph.get_graph(config, xray=xray)

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False
    ) -> Graph:
        """As :meth:`get_graph`."""
        return await self.graph.aget_graph(config, xray=xray)

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The schema of the graph that does the work: what a caller's tasks hold."""
        return self.graph.get_input_jsonschema(config)

    def get_output_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The schema of the graph that does the work: what a verified result holds."""
        return self.graph.get_output_jsonschema(config)


def verified_child(
    graph: Pregel[Any, Any, Any, Any],
    agent: Agent,
    *,
    accept_from: AcceptFrom = None,
    leave_out: Collection[Literal["artifact", "response_metadata"]] = (),
) -> VerifiedChild:
    """Makes a graph prove its answers as an agent.

    Args:
        graph: A compiled graph. Its output may hold JSON, messages, dates and times, UUIDs,
            decimals, bytes, sets, tuples, paths and IP addresses, and enums, pydantic models,
            dataclasses and named tuples of them. ``docs/guide.md`` says how each arrives.
        agent: As whom it answers; whoever builds the child holds this handle.
        accept_from: The agents it works for, or :data:`ANYONE`. It may be left out where parent
            and child share a ``Pipelit``; a graph that is served has to say it.
        leave_out: Parts of messages that don't leave the child: ``artifact`` and
            ``response_metadata``. What can't be carried of these two and of
            ``additional_kwargs`` is left out anyway, and the parent's result says so.

    Returns:
        A child for ``spawn_and_await``.

    Raises:
        TypeError: ``graph`` isn't a compiled graph, its output schema has a type that can't be
            carried, or ``agent`` isn't an ``Agent``.
        ValueError: ``leave_out`` names something else.
        InvalidUsername: A name in ``accept_from`` has another form.
    """
    if isinstance(graph, VerifiedChild):
        raise TypeError("graph is a verified child already")
    if not isinstance(graph, Pregel):
        raise TypeError(
            f"graph has to be a compiled graph, not {type(graph).__name__}; "
            "for a builder: builder.compile()"
        )
    if not isinstance(agent, Agent):
        raise TypeError('agent has to be a handle: pipelit.agent("agent_researcher")')
    if isinstance(accept_from, str):
        raise TypeError("accept_from is a list of names, not one name")
    names: AcceptFrom = accept_from
    if accept_from is not None and not isinstance(accept_from, Anyone):
        names = tuple(require_username(name, argument="accept_from") for name in accept_from)
    if isinstance(leave_out, str):
        raise TypeError("leave_out is a list of parts, not one: ['artifact']")
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
                f"{child.agent.username!r} is reached from outside, and has to say whom it works "
                "for: verified_child(…, accept_from=[…]) or accept_from=ANYONE"
            )
        if child.graph.checkpointer:
            # Whoever made the thread would have a say in what is answered for.
            raise RequestRefused(
                f"the graph of {child.agent.username!r} is served, and has a checkpointer of its "
                "own: compile it without one"
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
    # A server that doesn't ask who calls has nobody to show, so nobody is the parent.
    return "" if server.user is None else server.user.identity


def _graph_config(
    config: RunnableConfig, request: SpawnRequest, graph: Pregel[Any, Any, Any, Any]
) -> RunnableConfig:
    configurable = {
        key: value
        for key, value in config.get("configurable", {}).items()
        if key in _LANGGRAPH_KEYS or key.startswith(_LANGGRAPH_PREFIXES)
    }
    # Set, not left out: LangGraph would take the caller's from its context, and whoever stands
    # between could have the child prove that it failed.
    limit = (graph.config or {}).get("recursion_limit", _RECURSION_LIMIT)
    inside = {
        **config,
        "configurable": {**configurable, DEPTH: request.depth},
        "recursion_limit": limit,
        "max_concurrency": UNLIMITED,
    }
    return cast(RunnableConfig, inside)


def _binding(request: SpawnRequest, kind: Literal["result", "error"]) -> dict[str, Any]:
    # What an answer is bound to, beside challenge and payload.
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
    """The payload that says why an interrupt can't be shown; any other leaves as it is."""
    # What was raised, not what says that it is one.
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
        # An exception that can't say what it is was still a failure.
        text = ""
    try:
        return state_to_bytes({"type": type(error).__name__, "message": text})
    except PayloadError:
        return state_to_bytes({"type": "Exception", "message": ""})
