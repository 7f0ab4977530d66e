"""The parent's link to one child: challenge it, send requests, and verify its answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, Final, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.pregel import Pregel
from langgraph.runtime import get_runtime

from pipelit_agents import Agent, Verification
from pipelit_agents._threads import Apart, Stuck, aside
from pipelit_agents.errors import (
    AccountError,
    PayloadError,
    ProofRejected,
    RequestRefused,
    UserNotFound,
    VerificationError,
)
from pipelit_agents.identity.agent import home_of
from pipelit_agents.protocol.binding import PERIOD, Challenge, Proof, derive_challenge

from ..child import ANYONE, DEPTH, UNLIMITED, VerifiedChild
from ..codec import Read, read_state, sent_messages
from ..envelope import Envelope, SpawnRequest
from ..interrupts import child_answers, rebuilt_interrupt
from ..messages import Acceptance
from ..objects import Known
from ..remote import RemoteChild, ServerUnauthorized, UnexpectedStatus, Unreachable
from ..schemas import known_outputs
from .isolation import (
    PARENT_ERRORS,
    ChildFailed,
    ChildTimeout,
    MaskedChildErrors,
    NoEnvelope,
    UnanswerableInterrupt,
    UndisplayableInterrupt,
)
from .plan import with_index
from .results import AnswerUpdate, Order, ProofKind, SpawnResult, Status, error_text, make_result
from .resume_values import without_resume_value
from .run import RUN, Run, run_of
from .timeouts import forget_result

__all__ = ["Parent"]

# How long a challenge is valid if the child has no timeout, in seconds: one day.
MAX_CHALLENGE_LIFETIME: Final = 86_400.0
# How long one proof of possession is reused within a run, in seconds. Each answer still needs its
# own proof.
POSSESSION_TTL: Final = 1.0
# How long the plan waits for proofs of possession before the tasks start, in seconds.
POSSESSION_PREFETCH_TIMEOUT: Final = 0.1
# How long a child may take to prove possession, in seconds, unless its timeout is shorter.
POSSESSION_TIMEOUT: Final = 10.0
# How many calls of a child may hang at once, each on a separate thread.
MAX_HUNG_CALLS: Final = 32
# An answer of at least so many bytes is read off the event loop.
LARGE_ANSWER: Final = 2**16


class Parent:
    """The parent's link to one child: create challenges, send requests, verify answers."""

    def __init__(
        self,
        lead: Agent,
        name: str,
        timeout: float | None,
        max_depth: int,
        on_failure: Literal["raise", "collect"],
        max_bytes: int,
        max_concurrency: int | None,
        child: Pregel[Any, Any, Any, Any] | RemoteChild,
        kind: ProofKind,
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
        # Read only here, because the child's own code can change its attributes later.
        listed = child.accept_from if isinstance(child, VerifiedChild) else None
        self.proves = listed is not None and listed is not ANYONE
        # A subclass may lose the context, for example by starting a thread.
        self.preset = type(child) is not VerifiedChild or bool(child.graph.config)
        self._apart = Apart(MAX_HUNG_CALLS)
        self._possession_timeout = (
            POSSESSION_TIMEOUT if timeout is None else min(timeout, POSSESSION_TIMEOUT)
        )
        self.action = "verify.plain" if kind == "unbound-totp" else "verify.proof"
        self.accept = accept
        graph = child.graph if isinstance(child, VerifiedChild) else child
        self.known = known if isinstance(graph, RemoteChild) else {**known_outputs(graph), **known}

    def config(self, order: Order, config: RunnableConfig) -> RunnableConfig:
        """Return the configuration of a local child: the caller's, one level deeper.

        The child gets everything else from the context, as any graph does that a node calls.
        Passing it explicitly would merge it again for each child. If the child has a bound config,
        which takes precedence over the context, or may lose the context, everything but callbacks,
        tags and metadata is passed explicitly.
        """
        inherited_keys = config.get("configurable", {})
        configurable: dict[str, Any] = {
            **(inherited_keys if self.preset else {}),
            **child_answers(inherited_keys, order["seed"]),
            RUN: None,
            DEPTH: order["depth"],
        }
        info = get_runtime().execution_info
        if info is None or info.task_id not in run_of(config).waiting:
            # This task wasn't interrupted before, so the resume value answers another interrupt.
            configurable |= without_resume_value(config)
        inherited = RunnableConfig(configurable=configurable)
        if self.preset and "recursion_limit" in config:
            inherited["recursion_limit"] = config["recursion_limit"]
        if self.max_concurrency is not None:
            # Our limit applies to the children, not to the nodes they run. None can't unset it.
            inherited["max_concurrency"] = UNLIMITED
        elif self.preset and "max_concurrency" in config:
            inherited["max_concurrency"] = config["max_concurrency"]
        return inherited

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
        if not self._is_possession_proven(run):
            self.verify_possession(run, child)
        proof = None
        if self.proves:
            proof = self.lead.prove_request(
                challenge.value, order["request"], verifier=self.name, depth=order["depth"]
            )
        return self._new_request(order, challenge, proof)

    async def amake_request(
        self, run: Run, child: VerifiedChild, order: Order, challenge: Challenge
    ) -> SpawnRequest:
        """Async form of :meth:`make_request`."""
        if not self._is_possession_proven(run):
            await self._ajoin_possession_check(run, child)
        proof = None
        if self.proves:
            proof = await self.lead.aprove_request(
                challenge.value, order["request"], verifier=self.name, depth=order["depth"]
            )
        return self._new_request(order, challenge, proof)

    def verify_possession(self, run: Run, child: VerifiedChild) -> None:
        """Verify that the child holds its secret.

        The child's code runs on a separate thread, where it can't block anything else.

        Raises:
            PipelitError: The child doesn't hold its secret.
            Stuck: The child didn't answer within the timeout.
        """
        possession = self.lead.challenge(self.name)
        proof = self._apart.run(
            partial(self._prove_possession, child, possession), within=self._possession_timeout
        )
        self.lead.verify_possession(proof, challenge=possession)
        run.possession_proven[self.name] = self.lead.now()

    async def _ajoin_possession_check(self, run: Run, child: VerifiedChild) -> None:
        # Many tasks of a child start at the same moment, so they share one check. If the proof is
        # wrong, each task runs its own check and is refused by itself. If the child hangs, no
        # further check is started.
        check = run.proving_possession.get(self.name)
        first = check is None or check.done()
        if check is None or check.done():
            check = self.start_possession_check(run, child)
        try:
            # Shielded: the cancellation of one task must not cancel the others' check.
            await asyncio.shield(check)
        except (Stuck, *PARENT_ERRORS):
            raise
        except Exception:
            if first:
                raise
            if not self._is_possession_proven(run):
                await self._averify_possession(run, child)

    def start_possession_check(self, run: Run, child: VerifiedChild) -> asyncio.Future[None]:
        """Start a check on the event loop that all tasks of the child share."""

        def forget(task: asyncio.Task[None]) -> None:
            if run.proving_possession.get(self.name) is task:
                del run.proving_possession[self.name]
            forget_result(task)

        check = asyncio.create_task(self._averify_possession(run, child))
        run.proving_possession[self.name] = check
        check.add_done_callback(forget)
        return check

    async def _averify_possession(self, run: Run, child: VerifiedChild) -> None:
        possession = self.lead.challenge(self.name)
        prove = partial(self._prove_possession, child, possession)
        proof = await self._apart.arun(prove, within=self._possession_timeout)
        await self.lead.averify_possession(proof, challenge=possession)
        run.possession_proven[self.name] = self.lead.now()

    def _prove_possession(self, child: VerifiedChild, possession: Challenge) -> Proof:
        with MaskedChildErrors():
            # Read the fields here: the answer may be any object, and run code when it is read.
            proof = child.prove_possession(possession)
            if type(proof) is not Proof or type(proof.step) is not int:
                raise NoEnvelope
            value = proof.value
            if type(value) is not str:
                raise NoEnvelope
            return Proof(self.name, self.lead.username, proof.step, value)

    def _is_possession_proven(self, run: Run) -> bool:
        return (
            0
            <= self.lead.now() - run.possession_proven.get(self.name, -POSSESSION_TTL)
            < POSSESSION_TTL
        )

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

    def verify_answer(self, order: Order, challenge: Challenge, answer: Any) -> SpawnResult:
        """Verify an answer, and only then read its payload.

        Raises:
            PipelitError: The answer isn't proven, or its payload can't be read.
        """
        envelope, proof = self._parse_answer(answer)
        verification = self.lead.verify_proof(
            proof, challenge=challenge, **_proven_fields(order, envelope)
        )
        return self._read(order, envelope, verification)

    async def averify_answer(self, order: Order, challenge: Challenge, answer: Any) -> SpawnResult:
        """Async form of :meth:`verify_answer`."""
        envelope, proof = self._parse_answer(answer)
        verification = await self.lead.averify_proof(
            proof, challenge=challenge, **_proven_fields(order, envelope)
        )
        if len(envelope.payload) < LARGE_ANSWER:
            return self._read(order, envelope, verification)
        return await aside(self._read, order, envelope, verification)

    def _parse_answer(self, answer: Any) -> tuple[Envelope, Proof]:
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
            payload, limit=self.max_bytes, known=self.known, accept=self._acceptance(order)
        )

    def _acceptance(self, order: Order) -> Acceptance:
        sent = cache(lambda: sent_messages(order["request"]))
        return replace(self.accept, seed=order["seed"], sent=sent)

    def interrupt(self, order: Order, error: BaseException) -> BaseException:
        """Return a child's interrupts in the parent's form."""
        try:
            return rebuilt_interrupt(
                error,
                agent=self.name,
                seed=order["seed"],
                limit=self.max_bytes,
                known=self.known,
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
        status: Status = "refused"
        if isinstance(error, VerificationError):
            # The verifier already wrote the reason to the audit.
            words, reason = "the answer is not proven to be this child's answer to this request", ""
        elif isinstance(error, ChildTimeout):
            status, words = "timeout", f"no answer within {self.timeout:g} seconds (timeout=)"
            reason = "no answer in time"
        elif isinstance(error, UndisplayableInterrupt):
            words = (
                "the child's interrupt can't be displayed: its value can't be carried, or is "
                "larger than max_answer_bytes"
            )
            reason = "interrupt can't be carried"
        elif isinstance(error, Stuck):
            status = "timeout"
            words = (
                f"the child didn't prove within {self._possession_timeout:g} seconds that it holds "
                "its secret, so the task wasn't sent"
            )
            reason = "no possession in time"
        elif isinstance(error, Unreachable):
            status, reason = "unreachable", "unreachable"
            words = (
                "the child's server is unavailable, or lost the run: no answer was used, so you "
                "can send the task again"
            )
        elif isinstance(error, UnexpectedStatus):
            words = (
                f"the child's server answered {error.status}: check the url, and that the server "
                "has a graph of that name"
            )
            reason = f"answered {error.status}"
        elif isinstance(error, ServerUnauthorized):
            words = "the child's server doesn't accept the API key: check the child's credential"
            reason = "API key not accepted"
        elif isinstance(error, UnanswerableInterrupt):
            words = (
                "the child was interrupted and waits for a person's answer, but this spawn runs "
                "outside a graph: call it in a graph that has a checkpointer"
            )
            reason = "interrupted outside a graph"
        elif isinstance(error, RequestRefused):
            words = f"the child doesn't accept {self.lead.username!r}: check its accept_from"
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
            # A lead that was deactivated meanwhile can't write to the audit. Its child is refused
            # regardless.
            with suppress(AccountError):
                self.lead.note_refusal(self.name, self.action, reason)
        return make_result(self.name, status, error=words)

    def _account_problem(self) -> tuple[str, str] | None:
        try:
            account = home_of(self.lead).users.get(self.name)
        except UserNotFound:
            return (
                f"there is no account {self.name!r} in the lead's database; create it with: "
                f"pipelit-agents agents create {self.name} --owner … --purpose …"
            ), "peer unknown"
        if not account.active:
            return f"{self.name!r} was deactivated in the lead's database", "peer inactive"
        if account.kind == "human":
            return f"{self.name!r} is a person: a child must be an agent", "peer is a person"
        return None

    def finish(self, order: Order, run: Run, result: SpawnResult) -> AnswerUpdate:
        """Emit the outcome, and return it to the join or end the child's task."""
        result = with_index(order, result)
        run.results[order["index"]] = result
        event = "failed" if result["status"] in ("timeout", "unreachable") else result["status"]
        run.emit(event, order, error=result["error"])
        if result["status"] != "verified" and self.on_failure == "raise":
            raise ChildFailed
        return {"answers": [{"index": order["index"], "result": result}]}


def _proven_fields(order: Order, envelope: Envelope) -> dict[str, Any]:
    # The fields that the proof of an answer covers, besides the challenge.
    return {
        "payload": envelope.payload,
        "request": order["request"],
        "kind": envelope.kind,
        "depth": order["depth"],
    }
