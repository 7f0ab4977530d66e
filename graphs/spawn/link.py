"""The parent's link to one child: challenge it, send requests, and verify its answers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Final, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import get_runtime

from pipelit_agents import Agent, Verification
from pipelit_agents._threads import Apart, aside
from pipelit_agents.credentials.limits import limited_to
from pipelit_agents.errors import AccountError, PayloadError, ProofRejected
from pipelit_agents.pipelit import home_of
from pipelit_agents.protocol.binding import PERIOD, Challenge, Proof, derive_challenge

from ..child import ANYONE, DEPTH, UNLIMITED, VerifiedChild
from ..codec import Read, read_state, sent_messages
from ..envelope import Envelope, Kind, SpawnRequest
from ..interrupts import child_answers, rebuilt_interrupt
from ..messages import Acceptance
from ..remote import RemoteChild
from ..schemas import known_outputs
from ..types import AnyGraph
from .isolation import ChildFailed, NoEnvelope, UndisplayableInterrupt
from .options import LinkOptions
from .possession import Possession
from .refusals import refusal_for
from .results import AnswerUpdate, Order, ProofKind, SpawnResult, error_text, make_result
from .resume_values import without_resume_value
from .run import RUN, Run, run_of
from .tasks import credentials_of, with_index

__all__ = ["Parent"]

# How long a challenge is valid if the child has no timeout, in seconds: one day.
MAX_CHALLENGE_LIFETIME: Final = 86_400.0
# An answer of at least so many bytes is read off the event loop.
LARGE_ANSWER: Final = 2**16


class _ProvenFields(TypedDict):
    """What the proof of an answer covers, besides the challenge."""

    payload: bytes
    request: bytes
    kind: Kind
    depth: int


class Parent:
    """The parent's link to one child: create challenges, send requests, verify answers.

    Args:
        lead: The agent that sends requests and verifies answers.
        name: The child's agent.
        child: The child.
        kind: How it proves its answers.
        options: The options of the spawn.
        apart: As for ``Possession``.
    """

    def __init__(
        self,
        lead: Agent,
        name: str,
        child: AnyGraph | RemoteChild,
        kind: ProofKind,
        options: LinkOptions,
        apart: Apart | None = None,
    ) -> None:
        self.lead = lead
        self.name = name
        self.timeout: float | None = options.timeout
        self.max_bytes: int = options.max_bytes
        limit = options.ceiling.of(name)
        self.possession: Possession = Possession(lead, name, options.timeout, apart, limit)
        self._options = options
        # Read only here, because the child's own code can change its attributes later.
        listed = child.accept_from if isinstance(child, VerifiedChild) else None
        self._proves = listed is not None and listed is not ANYONE
        # A subclass may lose the context, for example by starting a thread.
        self._preset = type(child) is not VerifiedChild or bool(child.graph.config)
        self._action = "verify.plain" if kind == "unbound-totp" else "verify.proof"
        graph = child.graph if isinstance(child, VerifiedChild) else child
        self._known = (
            options.known
            if isinstance(graph, RemoteChild)
            else {**known_outputs(graph), **options.known}
        )

    def config(self, order: Order, config: RunnableConfig) -> RunnableConfig:
        """Return the configuration of a local child: the caller's, one level deeper.

        The child gets everything else from the context, as any graph does that a node calls.
        Passing it explicitly would merge it again for each child. If the child has a bound config,
        which takes precedence over the context, or may lose the context, everything but callbacks,
        tags and metadata is passed explicitly.
        """
        inherited_keys = config.get("configurable", {})
        configurable: dict[str, object] = {
            **(inherited_keys if self._preset else {}),
            **child_answers(inherited_keys, order["seed"]),
            RUN: None,
            DEPTH: order["depth"],
        }
        info = get_runtime().execution_info
        if info is None or info.task_id not in run_of(config).waiting:
            # This task wasn't interrupted before, so the resume value answers another interrupt.
            configurable |= without_resume_value(inherited_keys)
        inherited = RunnableConfig(configurable=configurable)
        if self._preset and "recursion_limit" in config:
            inherited["recursion_limit"] = config["recursion_limit"]
        if self._options.max_concurrency is not None:
            # Our limit applies to the children, not to the nodes they run. None can't unset it.
            inherited["max_concurrency"] = UNLIMITED
        elif self._preset and "max_concurrency" in config:
            inherited["max_concurrency"] = config["max_concurrency"]
        return inherited

    def limited(self, order: Order) -> limited_to:
        """Return a block in which the child's code can open only what its task needs.

        It is computed at each attempt and resume, from the spawn and the order, inside the limit of
        the parent's own task.
        """
        return limited_to(self._options.ceiling.of(self.name), credentials_of(order))

    def challenge(self, order: Order) -> Challenge:
        """Return the challenge of this attempt."""
        info = get_runtime().execution_info
        attempt = info.node_attempt if info is not None else 1
        now = self.lead.now()
        return Challenge(
            derive_challenge(order["seed"], attempt),
            prover=self.name,
            verifier=self.lead.username,
            issued_at=order["issued_at"],
            expires_at=now
            + (MAX_CHALLENGE_LIFETIME if self.timeout is None else self.timeout + PERIOD),
        )

    def make_request(
        self, run: Run, child: VerifiedChild, order: Order, challenge: Challenge
    ) -> SpawnRequest:
        """Verify that the child holds its secret, and return its request.

        Raises:
            PipelitError: The child doesn't hold its secret.
        """
        self.possession.require(run, child)
        proof = None
        if self._proves:
            proof = self.lead.prove_request(
                challenge.value, order["request"], verifier=self.name, depth=order["depth"]
            )
        return self._new_request(order, challenge, proof)

    async def amake_request(
        self, run: Run, child: VerifiedChild, order: Order, challenge: Challenge
    ) -> SpawnRequest:
        """Async form of ``make_request``."""
        await self.possession.arequire(run, child)
        proof = None
        if self._proves:
            proof = await self.lead.aprove_request(
                challenge.value, order["request"], verifier=self.name, depth=order["depth"]
            )
        return self._new_request(order, challenge, proof)

    def _new_request(self, order: Order, challenge: Challenge, proof: Proof | None) -> SpawnRequest:
        return SpawnRequest(
            self.lead.username, challenge.value, order["depth"], order["request"], proof
        )

    def fresh_challenge(self) -> Challenge:
        """Return a new challenge: a remote child works on each challenge only once."""
        within = MAX_CHALLENGE_LIFETIME if self.timeout is None else self.timeout + PERIOD
        return self.lead.challenge(self.name, lifetime=within)

    def make_remote_request(self, order: Order, challenge: Challenge) -> SpawnRequest:
        """Return the request to a child on another machine, with a proof if it can be verified.

        Raises:
            PipelitError: The account of the child or of the lead doesn't exist.
        """
        home_of(self.lead).users.get(self.name)
        relation = self.lead.relation_to(self.name)
        theirs = "" if relation is None else relation.theirs
        proof = None
        # A peer that can't verify the lead may still accept anyone.
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

    def verify_answer(self, order: Order, challenge: Challenge, answer: object) -> SpawnResult:
        """Verify an answer, and only then read its payload.

        Raises:
            PipelitError: The answer isn't proven, or its payload can't be read.
        """
        envelope, proof = self._parse_answer(answer)
        verification = self.lead.verify_proof(
            proof, challenge=challenge, **_proven_fields(order, envelope)
        )
        return self._read(order, envelope, verification)

    async def averify_answer(
        self, order: Order, challenge: Challenge, answer: object
    ) -> SpawnResult:
        """Async form of ``verify_answer``."""
        envelope, proof = self._parse_answer(answer)
        verification = await self.lead.averify_proof(
            proof, challenge=challenge, **_proven_fields(order, envelope)
        )
        if len(envelope.payload) < LARGE_ANSWER:
            return self._read(order, envelope, verification)
        return await aside(self._read, order, envelope, verification)

    def _parse_answer(self, answer: object) -> tuple[Envelope, Proof]:
        try:
            envelope = Envelope.parse(answer)
            proof = Proof(self.name, self.lead.username, envelope.step, envelope.proof)
        except ProofRejected:
            raise NoEnvelope from None
        if len(envelope.payload) > self.max_bytes:
            raise PayloadError("the answer is larger than max_answer_bytes")
        return envelope, proof

    def _read(self, order: Order, envelope: Envelope, verification: Verification) -> SpawnResult:
        read = self._read_payload(order, envelope.payload)
        if envelope.kind == "result":
            return make_result(self.name, "verified", read=read, proof=verification)
        return make_result(self.name, "failed", error=error_text(read.value), proof=verification)

    def _read_payload(self, order: Order, payload: bytes) -> Read:
        return read_state(
            payload, limit=self.max_bytes, known=self._known, accept=self._acceptance(order)
        )

    def _acceptance(self, order: Order) -> Acceptance:
        sent = cache(lambda: sent_messages(order["request"]))
        return replace(self._options.accept, seed=order["seed"], sent=sent)

    def interrupt(self, order: Order, error: BaseException) -> BaseException:
        """Return a child's interrupts in the parent's form."""
        try:
            return rebuilt_interrupt(
                error,
                agent=self.name,
                seed=order["seed"],
                limit=self.max_bytes,
                known=self._known,
                accept=self._acceptance(order),
            )
        except PayloadError:
            return UndisplayableInterrupt()

    def verify_code(self, order: Order, answer: tuple[str, bytes]) -> SpawnResult:
        """Verify the plain code of an answer, which isn't bound to the output.

        Raises:
            PipelitError: The code is wrong, or the output can't be read.
        """
        code, payload = answer
        read = self._read_payload(order, payload)
        verification = self.lead.verify_peer(self.name, code, kind="plain")
        return make_result(self.name, "verified", read=read, proof=verification)

    def refusal(self, error: Exception) -> SpawnResult:
        """Return the result for a failure, with a message of the parent's. Audit the reason.

        Raises:
            PipelitError: The parent's own database or key failed.
        """
        words, reason, status = refusal_for(
            error,
            lead=self.lead,
            name=self.name,
            timeout=self.timeout,
            possession_timeout=self.possession.timeout,
        )
        if reason:
            # A lead that was deactivated meanwhile can't write to the audit. Its child is refused
            # regardless.
            with suppress(AccountError):
                self.lead.note_refusal(self.name, self._action, reason)
        return make_result(self.name, status, error=words)

    def finish(self, order: Order, run: Run, result: SpawnResult) -> AnswerUpdate:
        """Emit the outcome, and return it to the join or end the child's task."""
        result = with_index(order, result)
        run.results[order["index"]] = result
        event = "failed" if result["status"] in ("timeout", "unreachable") else result["status"]
        run.emit(event, order, error=result["error"])
        if result["status"] != "verified" and self._options.on_failure == "raise":
            raise ChildFailed
        return {"answers": [{"index": order["index"], "result": result}]}


def _proven_fields(order: Order, envelope: Envelope) -> _ProvenFields:
    return {
        "payload": envelope.payload,
        "request": order["request"],
        "kind": envelope.kind,
        "depth": order["depth"],
    }
