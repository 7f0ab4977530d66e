"""Questions, answers and decisions, as callers see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pipelit_agents.display import html_of

__all__ = ["ApprovalDecision", "ApprovalRequest", "State", "Verdict", "Vote"]

Verdict = Literal["approved", "denied"]
State = Literal["pending", "approved", "denied", "used", "expired"]


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """A person's answer to a question.

    Attributes:
        id: The question's id: ``apr_`` and 32 hexadecimal digits.
        digest: The digest of the displayed value; see ``approval_digest``.
        decision: ``approved`` or ``denied``.
        actor: The person who answered.
        factor: How the person was authenticated: ``plain``, a code of the authenticator app;
            ``recovery``, a recovery code; ``vouched``, the application acted for the person
            (``pipelit.acting_for``); empty for an unproven denial.
        at: The time of the answer, UTC.
        expires_at: The end of the time in which the question can be answered and its approval
            used, UTC.
        approvers: The people who could answer.
        asked_by: The name of the requester.
        thread: The LangGraph thread of the request, or an empty string.
        reason: The person's reason for a denial.
    """

    id: str
    digest: str
    decision: Verdict
    actor: str
    factor: str
    at: datetime
    expires_at: datetime
    approvers: tuple[str, ...]
    asked_by: str
    thread: str
    reason: str = ""

    @property
    def proven(self) -> bool:
        """Whether a code of the person was verified."""
        return self.factor in ("plain", "recovery")

    def _repr_html_(self) -> str:
        return html_of(self)


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A question to people: may this be done?

    Attributes:
        id: ``apr_`` and 32 hexadecimal digits.
        digest: The digest of the displayed value; see ``approval_digest``.
        shown: The value to be approved; None if only its digest is known.
        approvers: The people who may answer.
        asked_by: The name of the requester.
        thread: The LangGraph thread of the request, or an empty string.
        created_at: The time of the request, UTC.
        expires_at: The end of the time in which the question can be answered and its approval
            used, UTC.
        state: ``pending``, ``approved`` (and not used yet), ``denied``, ``used`` or ``expired``.
        decisions: The answers, oldest first.
    """

    id: str
    digest: str
    shown: Any
    approvers: tuple[str, ...]
    asked_by: str
    thread: str
    created_at: datetime
    expires_at: datetime
    state: State
    decisions: tuple[ApprovalDecision, ...] = ()

    def _repr_html_(self) -> str:
        return html_of(self)


class Vote(NamedTuple):
    """An answer to be stored.

    Attributes:
        username: The person.
        verdict: ``approved`` or ``denied``.
        factor_kind: How the person was authenticated; ``factor`` of :class:`ApprovalDecision`.
        factor: The id of the second factor that was on when the code was verified.
        reason: The reason for a denial.
    """

    username: str
    verdict: Verdict
    factor_kind: str
    factor: str = ""
    reason: str = ""

    @property
    def is_authenticated(self) -> bool:
        """Whether the person was authenticated."""
        return self.factor_kind != ""

    @property
    def action(self) -> str:
        """The action, as the audit records it."""
        if self.verdict == "approved":
            return "approve"
        return {"": "deny.unproven", "vouched": "deny.vouched"}.get(self.factor_kind, "deny")
