"""Questions, answers and decisions, as callers see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pipelit_agents.display import html_of
from pipelit_agents.protocol.payload import Json

__all__ = ["ApprovalDecision", "ApprovalRequest", "ApprovalStep", "State", "Verdict", "Vote"]

Verdict = Literal["approved", "denied"]
State = Literal["pending", "approved", "denied", "used", "suspended", "expired"]


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
        asked_by: The name of the requester; ``operator`` if the application itself asked.
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
        return html_of(self, exact=("reason",))


class ApprovalStep(NamedTuple):
    """The people who are asked in a part of a question's time.

    Attributes:
        approvers: The people.
        at_least: How many of them must approve.
        begins_at: The time from which they are asked, UTC.
        until: The time until which they are asked, UTC.
    """

    approvers: tuple[str, ...]
    at_least: int
    begins_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A question to people: may this be done?

    Attributes:
        id: ``apr_`` and 32 hexadecimal digits.
        digest: The digest of the displayed value; see ``approval_digest``.
        shown: The value to be approved; None if only its digest is known.
        approvers: The people who may answer: those of the present step.
        asked_by: The name of the requester; ``operator`` if the application itself asked.
        thread: The LangGraph thread of the request, or an empty string.
        created_at: The time of the request, UTC.
        expires_at: The end of the time in which the question can be answered and its approval
            used, UTC.
        state: ``pending``, ``approved`` (and not used yet), ``denied``, ``used``, ``suspended``
            (used by a call that interrupted itself and can start again) or ``expired``.
        decisions: The answers, oldest first.
        agent: The agent of a tool call, or an empty string.
        at_least: How many of ``approvers`` must approve.
        escalates_at: The time from which others are asked if there is no decision, UTC; None if
            nobody else follows.
        steps: The people who are asked one after the other, with the present ones.
        tool: The tool's name, if this is a tool call; else an empty string.
        arguments: The exact arguments of a tool call.
        summary: The summary that the rule's ``show`` made of the arguments, if it has one.
        used_at: The time at which the approval was used, and the tool started, UTC; None if it
            wasn't. The row of a use has no tag; the audit has the same time.
        has_result: Whether the result of the tool call is stored. If it isn't, the tool is still
            running, or its process ended before: then it isn't known whether it took effect.
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
    agent: str = ""
    at_least: int = 1
    escalates_at: datetime | None = None
    steps: tuple[ApprovalStep, ...] = ()
    tool: str = ""
    arguments: Mapping[str, Json] = field(default_factory=dict)
    summary: Json = None
    used_at: datetime | None = None
    has_result: bool = False

    def _repr_html_(self) -> str:
        return html_of(self, exact=("shown", "arguments", "summary"))


class Vote(NamedTuple):
    """An answer to be stored.

    Attributes:
        username: The person.
        verdict: ``approved`` or ``denied``.
        factor_kind: How the person was authenticated; ``factor`` of ``ApprovalDecision``.
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
