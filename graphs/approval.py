"""A node that a person has to approve, by a code of the person's own authenticator app.

Asking and checking are two steps of it: LangGraph runs an interrupted step again from its
beginning, and a code is to be checked once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.channels import EphemeralValue
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from pipelit_agents import ApprovalDecision, Pipelit
from pipelit_agents.approvals import approval_digest
from pipelit_agents.approvals.arguments import WEEK, require_approvers, require_lifetime
from pipelit_agents.approvals.register import running_thread
from pipelit_agents.errors import (
    AccountError,
    ApprovalClosed,
    ApprovalNotFound,
    PipelitError,
    SecondFactorError,
    UserInactive,
    VerificationError,
)

__all__ = ["Approval", "approval_digest", "approve_with_totp"]

QUESTION: Final = "pipelit.approval"
_APPROVAL_KEYS: Final = frozenset({"username", "code"})
_DENIAL_KEYS: Final = frozenset({"username", "deny"})
_ANSWER_FORM: Final = (
    'the answer has to be {"username": …, "code": …}, or {"username": …, "deny": true} with or '
    'without a code; "id", the question that is answered, can be added'
)
_REJECTED: Final = "the code was not accepted; wait for the next one"

Reason = str | Callable[[Any], Any]


class Approval(TypedDict):
    """What the node writes to ``state["approval"]``.

    Attributes:
        outcome: ``approved`` or ``denied``.
        by: The person.
        proven: Whether the person's code was checked; a denial may come without.
        at: When, ISO 8601 in UTC; None for a denial without a code.
        shown: What the person was shown.
        digest: SHA-256 of it, as in the audit.
        id: Of the question, for ``pipelit.approvals``.
    """

    outcome: Literal["approved", "denied"]
    by: str
    proven: bool
    at: str | None
    shown: Any
    digest: str
    id: str


class _Displayed(TypedDict):
    shown: Any
    digest: str


class _Requested(TypedDict):
    id: str
    expires_at: str


class _State(_Displayed, _Requested, total=False):
    # Read in the first step, and kept no longer.
    state: Annotated[Any, EphemeralValue(Any)]
    error: str
    answer: Any
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
    """Makes a graph node that goes on when a named person has approved.

    It interrupts the graph with what is to be approved; whoever serves the graph shows that to a
    person and resumes with ``Command(resume={"username": …, "code": …})``. A code of a person who
    isn't named, a wrong or spent one: it interrupts again, with the error, under the limits that
    hold for all codes. ``{"username": …, "deny": True}`` denies, with a code or without.

    Each question is stored in ``pipelit.approvals`` under an id, which is in the interrupt, and an
    answer decides that question only. Where the question is closed when the answer comes (expired,
    answered elsewhere, or copied from another thread), it is asked again under another id. An
    answer that carries an ``id`` is taken for that question alone. A denial without a code ends
    this question and nothing else, because nobody has proved who denies; where the code that
    resumes acts for the person (``pipelit.acting_for``), it is hers.

    The node writes ``state["approval"]``, an :class:`Approval`; branch on its ``outcome``. What was
    shown, its digest and who approved are in the state, and in the audit. A plain code isn't bound
    to what was shown: it says that the person was there. So a person has to trust what shows the
    question.

    Whoever may send commands to a graph, or update its state, can go around any of its nodes. Where
    that isn't the operator alone, the node that acts asks the database in the place of the state:
    ``pipelit.approvals.require(approval_digest(what), approvers=[…])``.

    Before it asks, the node raises ``SecondFactorError`` when none of the approvers could answer,
    and ``NotPermitted`` or ``UserNotFound`` when one of them is no person.

    Args:
        pipelit: Whose people.
        approvers: Who may approve; each a person with a second factor (``pipelit.mfa``).
        reason: What is to be approved: text, or a function of the state that returns text or other
            JSON. It is computed once, before anybody is asked.
        expires_in: For how long a question can be answered and its approval used, in seconds or
            as a timedelta; by default a week.

    Returns:
        A graph, to be added as a node. The graph around it needs a checkpointer, as any that is
        interrupted.

    Raises:
        TypeError: ``approvers`` is one name.
        ValueError: ``approvers`` is empty, or ``expires_in`` out of its range.
        InvalidUsername: A name has another form.

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
        raise TypeError("pipelit has to be the Pipelit whose people are asked")
    names = require_approvers(approvers)
    require_lifetime(expires_in)

    def prepare(state: _State) -> _Displayed:
        _require_possible_approver(pipelit, names)
        shown = reason(state["state"]) if callable(reason) else reason
        return _Displayed(shown=shown, digest=approval_digest(shown))

    def store(state: _State) -> _Requested:
        asked = pipelit.approvals.request(state["shown"], approvers=names, expires_in=expires_in)
        return _Requested(id=asked.id, expires_at=asked.expires_at.isoformat())

    def ask(state: _State) -> dict[str, Any]:
        question = {
            "type": QUESTION,
            "id": state.get("id"),
            "shown": state["shown"],
            "digest": state["digest"],
            "approvers": list(names),
            "expires_at": state.get("expires_at"),
            "error": state.get("error"),
        }
        return {"answer": interrupt(question)}

    def check(state: _State) -> Command[Any]:
        try:
            answer = _read(state["answer"], names, state.get("id", ""))
            _require_same_request(pipelit, state, names)
            found = answer.submit(pipelit)
        except (ApprovalClosed, ApprovalNotFound) as error:
            return Command(goto="store", update={"error": str(error)})
        except UserInactive:
            # In the words for a wrong code: who sends an answer learns nothing about the account.
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

    async def acheck(state: _State) -> Command[Any]:
        return await asyncio.to_thread(check, state)

    builder = StateGraph(_State, output_schema=_Output)
    builder.add_node("prepare", prepare)
    builder.add_node("store", store)
    builder.add_node("ask", ask)
    builder.add_node(
        "check", RunnableLambda(check, acheck, name="check"), destinations=("store", "ask", END)
    )
    builder.add_edge(START, "prepare")
    builder.add_edge("prepare", "store")
    builder.add_edge("store", "ask")
    builder.add_edge("ask", "check")
    return ApprovalGraph(**vars(builder.compile(name="approve_with_totp")))


class ApprovalGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """The compiled node; made by :func:`approve_with_totp`.

    Args:
        state_graph: LangGraph's own arguments.
    """

    def __init__(self, **state_graph: Any) -> None:
        state_graph.pop("_serde_allowlist", None)
        super().__init__(**state_graph)

    def stream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002 - the name that LangGraph calls it by
        """As LangGraph's; whatever the state around the node is, it is what the reason is of."""
        return super().stream(_wrap_input(input), config, **options)

    def astream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002 - the name that LangGraph calls it by
        """As :meth:`stream`, for the event loop."""
        return super().astream(_wrap_input(input), config, **options)


def _wrap_input(given: Any) -> Any:
    return given if given is None or isinstance(given, Command) else {"state": given}


def _require_possible_approver(pipelit: Pipelit, approvers: Sequence[str]) -> None:
    # Before anybody waits for an approval that can't come.
    problems = []
    for name in approvers:
        try:
            if pipelit.mfa.status(name).on:
                return
            problems.append(f"{name!r} has no second factor: pipelit-agents mfa enroll {name}")
        except AccountError as error:
            problems.append(str(error))
    raise SecondFactorError(f"nobody of the approvers can approve: {'; '.join(problems)}")


class _MalformedAnswer(PipelitError):
    """The answer isn't one."""


class _Answer(NamedTuple):
    id: str
    username: str
    code: str | None
    denies: bool

    def submit(self, pipelit: Pipelit) -> ApprovalDecision:
        if self.denies:
            return pipelit.approvals.deny(self.id, self.username, self.code, unproven=True)
        return pipelit.approvals.decide(self.id, self.username, self.code or "")


def _read(answer: Any, approvers: Sequence[str], identifier: str) -> _Answer:
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
            f"{name[:149]!r} is not asked here; asked are {', '.join(approvers)}"
        )
    if fields.get("id", identifier) != identifier:
        raise _MalformedAnswer(
            "this answers another question: look at what is asked now, and answer it"
        )
    return _Answer(identifier, name, code, denies)


def _require_same_request(pipelit: Pipelit, state: _State, approvers: Sequence[str]) -> None:
    # A thread's state can be copied to another one, or changed by anyone who may update it; and
    # while it waits, the graph can be replaced by one that asks other people.
    asked = pipelit.approvals.get(state.get("id", ""))
    same = asked.digest == approval_digest(state["shown"]) and asked.thread == running_thread()
    if not same or set(asked.approvers) != set(approvers):
        raise ApprovalNotFound("the question was asked elsewhere, or otherwise: ask again")
