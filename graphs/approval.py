"""A node that waits until a person approves with a code of an authenticator app.

The interrupt and the verification are separate steps: LangGraph runs an interrupted step again from
its start, but a code must be verified only once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.channels import EphemeralValue
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from pipelit_agents import ApprovalDecision, Pipelit
from pipelit_agents._words import quoted
from pipelit_agents.accounts.possible_approvers import no_possible_approver, without_second_factor
from pipelit_agents.approvals import approval_digest
from pipelit_agents.approvals.arguments import WEEK, require_approvers, require_lifetime
from pipelit_agents.approvals.questions import running_thread
from pipelit_agents.errors import (
    AccountError,
    ApprovalClosed,
    ApprovalNotFound,
    PipelitError,
    UserInactive,
    VerificationError,
)

from .types import AnyStateGraph

__all__ = ["Approval", "approval_digest", "approve_with_totp"]

QUESTION: Final = "pipelit.approval"
_APPROVAL_KEYS: Final = frozenset({"username", "code"})
_DENIAL_KEYS: Final = frozenset({"username", "deny"})
_ANSWER_FORM: Final = (
    'the answer must be {"username": …, "code": …}, or {"username": …, "deny": true} with or '
    'without a code; you can add "id", the id of the request that it answers'
)
_REJECTED: Final = "the code was not accepted; wait for the next one"

Reason: TypeAlias = str | Callable[[Any], object]


class Approval(TypedDict):
    """The value that the node writes to ``state["approval"]``.

    Attributes:
        outcome: ``approved`` or ``denied``.
        by: The person's username.
        proven: Whether the person's code was verified. A denial needs no code.
        at: The time of the answer, ISO 8601 in UTC; None for a denial without a code.
        shown: The value that was displayed to the person.
        digest: The SHA-256 of ``shown``, as in the audit.
        id: The id of the request, for ``pipelit.approvals``.
    """

    outcome: Literal["approved", "denied"]
    by: str
    proven: bool
    at: str | None
    shown: Any
    digest: str
    id: str


class _Displayed(TypedDict):
    shown: object
    digest: str


class _Requested(TypedDict):
    id: str
    expires_at: str


class _State(_Displayed, _Requested, total=False):
    # Only the first step reads it, so it isn't stored.
    state: Annotated[Any, EphemeralValue(Any)]
    error: str
    answer: object
    approval: Approval


class _Output(TypedDict):
    approval: Approval


def approve_with_totp(
    pipelit: Pipelit,
    *,
    approvers: Sequence[str],
    reason: Reason,
    expires_in: timedelta | float = WEEK,
) -> ApprovalGraph:
    """Create a graph node that waits until a named person approves.

    Use it for a step of a graph that no model calls. For a tool that a model calls, use
    ``ApprovalMiddleware`` or ``approved_tool``, and for a task of another agent
    ``spawn_and_await(…, approvers=…)``: there the answer doesn't pass through the graph, a rule can
    need several people, and no node has to call ``approvals.require``.

    The node interrupts the graph with the value to approve. Your application displays it to a
    person and resumes with ``Command(resume={"username": …, "code": …})``. If the person isn't an
    approver, or the code is wrong or used, the node interrupts again with the error. The rate
    limits of all codes apply. ``{"username": …, "deny": True}`` denies, with or without a code.

    Each request is stored in ``pipelit.approvals`` under an id, which the interrupt contains. An
    answer decides only that request. If the request is closed when the answer arrives (expired,
    answered elsewhere, or copied from another thread), the node creates a new request with another
    id. An answer with an ``id`` is accepted for that request only. A denial without a code closes
    this request and nothing else, because it doesn't prove the person's identity. If the resuming
    code acts for the person (``pipelit.acting_for``), the denial is attributed to that person.

    The node writes ``state["approval"]``, an ``Approval``; branch on its ``outcome``. The
    displayed value, its digest and the approver are in the state and in the audit. A plain code
    isn't bound to the displayed value: it only proves that the person was present. The person
    therefore has to trust the application that displays the request.

    A client that may send commands to a graph, or update its state, can bypass any node. If that
    isn't only the operator, the node that acts has to query the database instead of the state:
    ``pipelit.approvals.require(approval_digest(what), approvers=[…])``.

    Before it interrupts, the node raises ``SecondFactorError`` if none of the approvers could
    answer, and ``NotPermitted`` or ``UserNotFound`` if an approver isn't a person.

    Args:
        pipelit: The Pipelit with the approvers' accounts.
        approvers: The usernames of the approvers, each a person with a second factor
            (``pipelit.mfa``).
        reason: The value to approve: text, or a function of the state that returns text or other
            JSON. It is computed once, before the interrupt.
        expires_in: How long a request can be answered and its approval used, in seconds or as a
            timedelta; by default a week.

    Returns:
        A graph, to be added as a node. The enclosing graph needs a checkpointer, as for every
        interrupt.

    Raises:
        TypeError: ``approvers`` is one name instead of a list.
        ValueError: ``approvers`` is empty, or ``expires_in`` is out of range.
        InvalidUsername: An approver's name isn't a username.

    Example:
        ```python
        gate = approve_with_totp(
            pipelit,
            approvers=["alice"],
            reason=lambda state: {"pay": state["amount"], "to": state["payee"]},
        )
        builder.add_node("approve", gate)
        builder.add_conditional_edges(
            "approve",
            lambda state: state["approval"]["outcome"],
            {"approved": "pay", "denied": "cancel"},
        )
        ```
    """
    if not isinstance(pipelit, Pipelit):
        raise TypeError("pipelit must be the Pipelit with the approvers' accounts")
    names = require_approvers(approvers)
    require_lifetime(expires_in)
    steps = _Steps(pipelit, names, reason, expires_in)
    builder = StateGraph(_State, output_schema=_Output)
    builder.add_node("prepare", steps.prepare)
    builder.add_node("store", steps.store)
    builder.add_node("ask", steps.ask)
    builder.add_node(
        "check",
        RunnableLambda(steps.check, steps.acheck, name="check"),
        destinations=("store", "ask", END),
    )
    builder.add_edge(START, "prepare")
    builder.add_edge("prepare", "store")
    builder.add_edge("store", "ask")
    builder.add_edge("ask", "check")
    return ApprovalGraph(**vars(builder.compile(name="approve_with_totp")))


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of the graph; the arguments are those of ``approve_with_totp``."""

    pipelit: Pipelit
    approvers: Sequence[str]
    reason: Reason
    expires_in: timedelta | float

    def prepare(self, state: _State) -> _Displayed:
        """Compute the value to approve."""
        _require_possible_approver(self.pipelit, self.approvers)
        shown = self.reason(state["state"]) if callable(self.reason) else self.reason
        return _Displayed(shown=shown, digest=approval_digest(shown))

    def store(self, state: _State) -> _Requested:
        """Store the request under a new id."""
        request = self.pipelit.approvals.request(
            state["shown"], approvers=self.approvers, expires_in=self.expires_in
        )
        return _Requested(id=request.id, expires_at=request.expires_at.isoformat())

    def ask(self, state: _State) -> dict[str, object]:
        """Interrupt the graph until somebody answers."""
        question = {
            "type": QUESTION,
            "id": state.get("id"),
            "shown": state["shown"],
            "digest": state["digest"],
            "approvers": list(self.approvers),
            "expires_at": state.get("expires_at"),
            "error": state.get("error"),
        }
        return {"answer": interrupt(question)}

    def check(self, state: _State) -> Command[str]:
        """Verify the answer, and ask again if it decides nothing."""
        try:
            answer = _read(state["answer"], self.approvers, state.get("id", ""))
            _require_same_request(self.pipelit, state, self.approvers)
            found = answer.submit(self.pipelit)
        except (ApprovalClosed, ApprovalNotFound) as error:
            return Command(goto="store", update={"error": str(error)})
        except UserInactive:
            # The message for a wrong code, so that the caller learns nothing about the account.
            return Command(goto="ask", update={"error": _REJECTED})
        except (AccountError, VerificationError, _MalformedAnswer) as error:
            return Command(goto="ask", update={"error": str(error)})
        approval = Approval(
            outcome=found.decision,
            by=found.actor,
            proven=found.proven,
            at=found.at.isoformat() if found.proven else None,
            shown=state["shown"],
            digest=found.digest,
            id=found.id,
        )
        return Command(goto=END, update={"approval": approval})

    async def acheck(self, state: _State) -> Command[str]:
        """Async form of ``check``."""
        return await asyncio.to_thread(self.check, state)


class ApprovalGraph(AnyStateGraph):
    """The compiled node. Create one with ``approve_with_totp``.

    Args:
        state_graph: Arguments of LangGraph's ``CompiledStateGraph``.
    """

    def __init__(self, **state_graph: Any) -> None:
        state_graph.pop("_serde_allowlist", None)
        super().__init__(**state_graph)

    def stream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Stream as LangGraph does, and pass the whole input state to ``reason``."""
        return super().stream(_wrap_input(input), config, **options)

    def astream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Async form of ``stream``."""
        return super().astream(_wrap_input(input), config, **options)


def _wrap_input(state: object) -> object:
    return state if state is None or isinstance(state, Command) else {"state": state}


def _require_possible_approver(pipelit: Pipelit, approvers: Sequence[str]) -> None:
    # Otherwise the graph would wait for an approval that nobody can give.
    problems = []
    for name in approvers:
        try:
            if pipelit.mfa.status(name).on:
                return
            problems.append(without_second_factor(name))
        except AccountError as error:
            problems.append(str(error))
    raise no_possible_approver(problems)


class _MalformedAnswer(PipelitError):
    """The answer has another form, or isn't for this request."""


class _Answer(NamedTuple):
    id: str
    username: str
    code: str | None
    denies: bool

    def submit(self, pipelit: Pipelit) -> ApprovalDecision:
        if self.denies:
            return pipelit.approvals.deny(self.id, self.username, self.code, unproven=True)
        return pipelit.approvals.decide(self.id, self.username, self.code or "")


def _read(answer: object, approvers: Sequence[str], identifier: str) -> _Answer:
    fields = dict(answer) if isinstance(answer, Mapping) else {}
    denies = fields.get("deny") is True
    known = (
        fields.keys() - {"id", "code"} == _DENIAL_KEYS
        if denies
        else (fields.keys() - {"id"} == _APPROVAL_KEYS)
    )
    name, code = fields.get("username"), fields.get("code")
    if not known or not isinstance(name, str) or not isinstance(code, str | None):
        raise _MalformedAnswer(_ANSWER_FORM)
    if name not in approvers:
        raise _MalformedAnswer(
            f"{quoted(name)} isn't an approver here; the approvers are {', '.join(approvers)}"
        )
    if fields.get("id", identifier) != identifier:
        raise _MalformedAnswer(
            "this answers another request: display the present one, and answer it"
        )
    return _Answer(identifier, name, code, denies)


def _require_same_request(pipelit: Pipelit, state: _State, approvers: Sequence[str]) -> None:
    # A thread's state can be copied to another thread, or changed by a client that may update it.
    # While it waits, the graph can be replaced by one with other approvers.
    request = pipelit.approvals.get(state.get("id", ""))
    same = request.digest == approval_digest(state["shown"]) and request.thread == running_thread()
    if not same or set(request.approvers) != set(approvers):
        raise ApprovalNotFound(
            "the request belongs to another thread, or has another value or other approvers: "
            "answer the new request"
        )
