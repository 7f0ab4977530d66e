"""One child as its parent sees it: challenge it, ask it, and verify what it answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, Final

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
from ..codec import (
    Acceptance,
    Read,
    read_state,
    sent_messages,
)
from ..envelope import Envelope, SpawnRequest
from ..interrupts import child_answers, rebuilt_interrupt
from ..remote import RemoteChild, ServerUnauthorized, UnexpectedStatus, Unreachable
from ..schemas import known_outputs
from ..values import Known
from .calls import without_an_answer
from .isolation import (
    PARENT_FAILED,
    AskedAPerson,
    ChildFailed,
    ChildTimeout,
    MaskedChildErrors,
    NoEnvelope,
    Unaskable,
)
from .plan import with_index
from .results import Order, SpawnResult, Status, error_text, make_result
from .run import RUN, Run, run_of
from .timeouts import forget_result

__all__ = ["Parent"]

# A challenge that nobody limits still ends: a day is longer than any child should take.
_LONGEST: Final = 86_400.0
# For so many seconds the tasks of one run begin on the strength of one proof of possession. What
# they answer is proven and checked one by one.
_SHOWN_FOR: Final = 1.0
# Seconds that all tasks wait for children to show it; then each asks its own child.
POSSESSION_PREFETCH_TIMEOUT: Final = 0.1
# Seconds in which a child has to show it, where its time limit isn't shorter: it makes one proof.
_SHOW_WITHIN: Final = 10.0
# How many calls of a child that don't come back are borne, each on a thread of its own.
_MOST_HUNG: Final = 32
# Bytes from which an answer is read off the event loop.
_LARGE: Final = 2**16


class Parent:
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

    def config(self, order: Order, config: RunnableConfig) -> RunnableConfig:
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
            RUN: None,
            DEPTH: order["depth"],
        }
        info = get_runtime().execution_info
        if info is None or info.task_id not in run_of(config).waiting:
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

    def challenge(self, order: Order) -> Challenge:
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
        self, run: Run, child: VerifiedChild, order: Order, challenge: Challenge
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
        self, run: Run, child: VerifiedChild, order: Order, challenge: Challenge
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

    def see_possession(self, run: Run, child: VerifiedChild) -> None:
        """Asks the child to show that it holds its secret.

        Raises:
            PipelitError: It doesn't.
            Stuck: It doesn't come back. It is a child's code, and runs where it can hold up nobody.
        """
        possession = self.lead.challenge(self.name)
        shown = self._apart.run(partial(self._shown, child, possession), within=self._show_within)
        self.lead.verify_possession(shown, challenge=possession)
        run.shown[self.name] = self.lead.now()

    async def _asee_possession(self, run: Run, child: VerifiedChild) -> None:
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
        except (Stuck, *PARENT_FAILED):
            raise
        except Exception:
            if first:
                raise
            if not self._was_shown(run):
                await self._see_possession(run, child)

    def begin_to_see(self, run: Run, child: VerifiedChild) -> asyncio.Future[None]:
        """Asks on the event loop, for all tasks that begin meanwhile."""

        def forget(task: asyncio.Task[None]) -> None:
            if run.showing.get(self.name) is task:
                del run.showing[self.name]
            forget_result(task)

        asked = asyncio.create_task(self._see_possession(run, child))
        run.showing[self.name] = asked
        asked.add_done_callback(forget)
        return asked

    async def _see_possession(self, run: Run, child: VerifiedChild) -> None:
        possession = self.lead.challenge(self.name)
        show = partial(self._shown, child, possession)
        shown = await self._apart.arun(show, within=self._show_within)
        await self.lead.averify_possession(shown, challenge=possession)
        run.shown[self.name] = self.lead.now()

    def _shown(self, child: VerifiedChild, possession: Challenge) -> Proof:
        with MaskedChildErrors():
            # Read here, where it may be anything and do anything when it is read.
            shown = child.prove_possession(possession)
            if type(shown) is not Proof or type(shown.step) is not int:
                raise NoEnvelope
            value = shown.value
            if type(value) is not str:
                raise NoEnvelope
            return Proof(self.name, self.lead.username, shown.step, value)

    def _was_shown(self, run: Run) -> bool:
        return 0 <= self.lead.now() - run.shown.get(self.name, -_SHOWN_FOR) < _SHOWN_FOR

    def _request(self, order: Order, challenge: Challenge, proof: Proof | None) -> SpawnRequest:
        return SpawnRequest(
            self.lead.username, challenge.value, order["depth"], order["request"], proof
        )

    def fresh_challenge(self) -> Challenge:
        """A challenge that no run before had: a child far away works on each once."""
        within = _LONGEST if self.timeout is None else self.timeout + PERIOD
        return self.lead.challenge(self.name, lifetime=within)

    def ask_remote(self, order: Order, challenge: Challenge) -> SpawnRequest:
        """What is asked of a child on another machine, proven wherever that can be checked.

        Raises:
            PipelitError: There is no such peer or account, or none of the lead's.
        """
        home_of(self.lead).users.get(self.name)
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

    def believe(self, order: Order, challenge: Challenge, answer: Any) -> SpawnResult:
        """Verifies what came back, and only then reads it.

        Raises:
            PipelitError: It isn't proven, or isn't a payload.
        """
        envelope, proof = self._opened(answer)
        verification = self.lead.verify_proof(
            proof, challenge=challenge, **_answered(order, envelope)
        )
        return self._read(order, envelope, verification)

    async def abelieve(self, order: Order, challenge: Challenge, answer: Any) -> SpawnResult:
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
            raise NoEnvelope from None
        if len(envelope.payload) > self.max_bytes:
            raise PayloadError("the answer is larger than max_answer_bytes")
        return envelope, proof

    def _read(self, order: Order, envelope: Envelope, verification: Verification) -> SpawnResult:
        read = self._readable(order, envelope.payload)
        if envelope.kind == "result":
            return make_result(self.name, "verified", read=read, proof=verification)
        return make_result(self.name, "failed", error=error_text(read.value), proof=verification)

    def _readable(self, order: Order, payload: bytes) -> Read:
        return read_state(
            payload, limit=self.max_bytes, known=self.known, accept=self._accepted(order)
        )

    def _accepted(self, order: Order) -> Acceptance:
        sent = cache(lambda: sent_messages(order["request"]))
        return replace(self.accept, seed=order["seed"], sent=sent)

    def interrupt(self, order: Order, error: BaseException) -> BaseException:
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
            return Unaskable()

    def believe_code(self, order: Order, answer: tuple[str, bytes]) -> SpawnResult:
        """Verifies a plain code that came with an output that nothing binds.

        Raises:
            PipelitError: The code isn't good, or the output is no payload.
        """
        code, payload = answer
        read = self._readable(order, payload)
        verification = self.lead.verify_peer(self.name, code, kind="plain")
        return make_result(self.name, "verified", read=read, proof=verification)

    def refusal(self, error: Exception) -> SpawnResult:
        """What the parent says of a failure, in words of its own; why is in the audit.

        Raises:
            PipelitError: It is the parent's own database or key that failed.
        """
        status: Status = "refused"
        if isinstance(error, VerificationError):
            # Whoever raised it has written down why.
            words, reason = "the answer is not proven to be this child's answer to this request", ""
        elif isinstance(error, ChildTimeout):
            status, words = "timeout", f"no answer within {self.timeout:g} seconds (timeout=)"
            reason = "no answer in time"
        elif isinstance(error, Unaskable):
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
        elif isinstance(error, UnexpectedStatus):
            words = (
                f"the child's server answered {error.status}: see the url, and the graph that it "
                "has to serve under that name"
            )
            reason = f"answered {error.status}"
        elif isinstance(error, ServerUnauthorized):
            words = "the child's server doesn't accept the API key: see the child's credential"
            reason = "not let in"
        elif isinstance(error, AskedAPerson):
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
        return make_result(self.name, status, error=words)

    def _account_problem(self) -> tuple[str, str] | None:
        try:
            account = home_of(self.lead).users.get(self.name)
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

    def finish(self, order: Order, run: Run, result: SpawnResult) -> dict[str, Any]:
        """Tells the outcome, and hands it to the join or ends the child's task."""
        result = with_index(order, result)
        run.results[order["index"]] = result
        event = "failed" if result["status"] in ("timeout", "unreachable") else result["status"]
        run.tell(event, order, error=result["error"])
        if result["status"] != "verified" and self.on_failure == "raise":
            raise ChildFailed
        return {"answers": [{"index": order["index"], "result": result}]}


def _answered(order: Order, envelope: Envelope) -> dict[str, Any]:
    # What an answer has to be proven over, beside the challenge.
    return {
        "payload": envelope.payload,
        "request": order["request"],
        "kind": envelope.kind,
        "depth": order["depth"],
    }
