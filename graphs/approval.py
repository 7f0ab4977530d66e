"""A node that a person has to approve, by a code of the person's own authenticator app.

Asking and checking are two steps of it: LangGraph runs an interrupted step again from its
beginning, and a code is to be checked once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.channels import EphemeralValue
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.errors import (
    AccountError,
    PipelitError,
    SecondFactorError,
    VerificationError,
)
from pipelit_agents.names import require_username
from pipelit_agents.payload import decode, encode

__all__ = ["Approval", "approval_digest", "approve_with_totp"]

QUESTION: Final = "pipelit.approval"
_MAX_SHOWN: Final = 2**20
_APPROVES: Final = frozenset({"username", "code"})
_DENIES: Final = frozenset({"username", "deny"})
_FORM: Final = (
    'the answer has to be {"username": …, "code": …}, or {"username": …, "deny": true} with or '
    "without a code"
)

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
    """

    outcome: Literal["approved", "denied"]
    by: str
    proven: bool
    at: str | None
    shown: Any
    digest: str


class _Asked(TypedDict):
    shown: Any
    digest: str


class _State(_Asked, total=False):
    # Read in the first step, and kept no longer.
    state: Annotated[Any, EphemeralValue(Any)]
    error: str
    answer: Any
    approval: Approval


class _Output(TypedDict):
    approval: Approval


def approval_digest(shown: Any) -> str:
    """The digest of what is shown: SHA-256 of its JSON, compact and with sorted keys.

    Compared with ``state["approval"]["digest"]`` where something is about to be done, it tells
    whether that is what was approved.

    Raises:
        PayloadError: It can't be carried as JSON.
    """
    plain = decode(encode(shown), limit=_MAX_SHOWN)
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def approve_with_totp(
    pipelit: Pipelit, *, approvers: Sequence[str], reason: Reason
) -> ApprovalGraph:
    """Makes a graph node that goes on when a named person has approved.

    It interrupts the graph with what is to be approved; whoever serves the graph shows that to a
    person and resumes with ``Command(resume={"username": …, "code": …})``. A code of a person who
    isn't named, a wrong or spent one: it interrupts again, with the error, under the limits that
    hold for all codes. ``{"username": …, "deny": True}`` denies, with a code or without.

    The node writes ``state["approval"]``, an :class:`Approval`; branch on its ``outcome``. What was
    shown, its digest and who approved are in the state, and in the audit. A plain code isn't bound
    to what was shown: it says that the person was there. So a person has to trust what shows the
    question.

    Whoever may send commands to a graph, or update its state, can go around any of its nodes. Where
    that isn't the operator alone, the node that acts asks the database in the place of the state:
    ``pipelit.mfa.require_approved(approval_digest(what), approvers=[…])``.

    The node raises ``SecondFactorError`` before it asks, when nobody of the approvers could.

    Args:
        pipelit: Whose people.
        approvers: Who may approve; each a person with a second factor (``pipelit.mfa``).
        reason: What is to be approved: text, or a function of the state that returns text or other
            JSON. It is computed once, before anybody is asked.

    Returns:
        A graph, to be added as a node. The graph around it needs a checkpointer, as any that is
        interrupted.

    Raises:
        TypeError: ``approvers`` is one name.
        ValueError: ``approvers`` is empty.
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
    if isinstance(approvers, str):
        raise TypeError("approvers is a list of names, not one name")
    names = tuple(require_username(name, argument="approvers") for name in approvers)
    if not names:
        raise ValueError("approvers is empty: name at least one person")

    def prepare(state: _State) -> _Asked:
        _require_somebody(pipelit, names)
        shown = reason(state["state"]) if callable(reason) else reason
        return _Asked(shown=shown, digest=approval_digest(shown))

    def ask(state: _State) -> dict[str, Any]:
        question = {
            "type": QUESTION,
            "shown": state["shown"],
            "digest": state["digest"],
            "approvers": list(names),
            "error": state.get("error"),
        }
        return {"answer": interrupt(question)}

    def check(state: _State) -> Command[Any]:
        digest = state["digest"]
        try:
            name, code, denies = _read(state["answer"], names)
            # Anybody may resume a graph in her name, so failures count in the lane of strangers,
            # unless the application or the server says that it acts for her.
            if denies:
                found = pipelit.mfa.deny(name, code, digest=digest, _own=False)
            else:
                found = pipelit.mfa.approve(name, code or "", digest=digest, _own=False)
        except (AccountError, VerificationError, _Unreadable) as error:
            return Command(goto="ask", update={"error": str(error)})
        approval = Approval(
            outcome="denied" if denies else "approved",
            by=name,
            proven=found is not None,
            at=None if found is None else found.verified_at.isoformat(),
            shown=state["shown"],
            digest=digest,
        )
        return Command(goto=END, update={"approval": approval})

    async def acheck(state: _State) -> Command[Any]:
        return await asyncio.to_thread(check, state)

    builder = StateGraph(_State, output_schema=_Output)
    builder.add_node("prepare", prepare)
    builder.add_node("ask", ask)
    builder.add_node(
        "check", RunnableLambda(check, acheck, name="check"), destinations=("ask", END)
    )
    builder.add_edge(START, "prepare")
    builder.add_edge("prepare", "ask")
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
        return super().stream(_whole(input), config, **options)

    def astream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002 - the name that LangGraph calls it by
        """As :meth:`stream`, for the event loop."""
        return super().astream(_whole(input), config, **options)


def _whole(given: Any) -> Any:
    return given if given is None or isinstance(given, Command) else {"state": given}


def _require_somebody(pipelit: Pipelit, approvers: Sequence[str]) -> None:
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


class _Unreadable(PipelitError):
    """The answer isn't one."""


def _read(answer: Any, approvers: Sequence[str]) -> tuple[str, str | None, bool]:
    fields = dict(answer) if isinstance(answer, Mapping) else {}
    denies = fields.get("deny") is True
    known = fields.keys() - {"code"} == _DENIES if denies else fields.keys() == _APPROVES
    name, code = fields.get("username"), fields.get("code")
    if not known or not isinstance(name, str) or not isinstance(code, str | None):
        raise _Unreadable(_FORM)
    if name not in approvers:
        raise _Unreadable(f"{name[:149]!r} is not asked here; asked are {', '.join(approvers)}")
    return name, code, denies
