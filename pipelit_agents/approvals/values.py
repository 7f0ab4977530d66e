"""What the register of approvals takes and returns."""

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
    """What a person answered.

    Attributes:
        id: Of the question: ``apr_`` and 32 hexadecimal digits.
        digest: Of what was shown; see ``approval_digest``.
        decision: ``approved`` or ``denied``.
        actor: The person.
        factor: How it is known that it was this person: ``plain``, a code of the authenticator
            app; ``recovery``, a recovery code; ``vouched``, the application acted for the person
            (``pipelit.acting_for``); empty for a denial that nobody proved.
        at: When, UTC.
        expires_at: Until when the question was open and its approval can be used, UTC.
        approvers: Who was asked.
        asked_by: Who asked.
        thread: The LangGraph thread it was asked in, if there was one.
        reason: What the person gave as the reason of a denial.
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
        """Whether a code of the person was checked."""
        return self.factor in ("plain", "recovery")

    def _repr_html_(self) -> str:
        return html_of(self)


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A question to people: may this be done?

    Attributes:
        id: ``apr_`` and 32 hexadecimal digits.
        digest: Of what is shown; see ``approval_digest``.
        shown: What is to be approved; None where only its digest was given.
        approvers: Who may answer.
        asked_by: Who asked.
        thread: The LangGraph thread it was asked in, if there was one.
        created_at: When, UTC.
        expires_at: Until when it can be answered and its approval used, UTC.
        state: ``pending``, ``approved`` (and not used yet), ``denied``, ``used`` or ``expired``.
        decisions: What was answered, oldest first.
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
    """An answer that is about to be written down.

    Attributes:
        username: Whose.
        verdict: What.
        factor_kind: How it is known whose it is; as :class:`ApprovalDecision`.
        factor: What names the second factor that was on when the code was checked.
        reason: Of a denial.
    """

    username: str
    verdict: Verdict
    factor_kind: str
    factor: str = ""
    reason: str = ""

    @property
    def is_hers(self) -> bool:
        """Whether it is known that the person answered."""
        return self.factor_kind != ""

    @property
    def action(self) -> str:
        """How the audit names it."""
        if self.verdict == "approved":
            return "approve"
        return {"": "deny.unproven", "vouched": "deny.vouched"}.get(self.factor_kind, "deny")
