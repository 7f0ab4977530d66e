"""Questions to people: those that wait for the caller, one exactly, and the caller's answer."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Depends, Path
from pydantic import Field, JsonValue

from pipelit_agents.accounts.permissions import may
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest, State
from pipelit_agents.desk.callers import Caller, Home, PersonCaller, permitted
from pipelit_agents.desk.fields import Answer, Code, Moment, Request
from pipelit_agents.desk.paging import After, Limit, Page
from pipelit_agents.desk.problems import Problem, library_input
from pipelit_agents.desk.routes import DeskRoute, takes_long
from pipelit_agents.errors import ApprovalNotFound, NotPermitted
from pipelit_agents.exact import exact_json, exact_line, warnings
from pipelit_agents.paging import DEFAULT_LIMIT
from pipelit_agents.pipelit import Pipelit

__all__ = ["Question", "router"]

router: APIRouter = APIRouter(prefix="/approvals", tags=["approvals"], route_class=DeskRoute)

# Characters of a question in a list. All of it is in the question itself.
_MAX_BRIEF = 200
_MAX_REASON = 1000

Identifier: TypeAlias = Annotated[
    str,
    Path(
        alias="id",
        description="The question's id.",
        examples=["apr_0123456789abcdef0123456789abcdef"],
    ),
]
Digest: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{64}$",
        description="The digest of the question, as it was displayed: 64 hexadecimal digits.",
        examples=["0123456789abcdef" * 4],
    ),
]
RegisterReader = Annotated[Caller, Depends(permitted("approvals.register"))]
Answerer = Annotated[Caller, Depends(permitted("approvals.answer"))]


class Step(Answer):
    """The people who are asked in a part of a question's time."""

    approvers: list[str] = Field(description="The people who are asked.")
    at_least: int = Field(description="The number of them who must approve.")
    begins_at: Moment
    until: Moment


class Decision(Answer):
    """A person's answer to a question."""

    actor: str = Field(description="The person who answered.", examples=["alice"])
    decision: Literal["approved", "denied"] = Field(description="The answer.")
    factor: str = Field(
        description="How the person was authenticated: `plain` (a code of the authenticator app), "
        "`recovery`, `vouched` (an API key or the application), or empty (nobody was).",
        examples=["plain"],
    )
    proven: bool = Field(description="Whether a code of the person was verified.")
    at: Moment
    reason: str = Field(description="The person's reason for a denial.")


class QuestionBrief(Answer):
    """A question in a list. The whole of what is asked is in the question itself."""

    id: str = Field(
        description="The question's id.", examples=["apr_0123456789abcdef0123456789abcdef"]
    )
    state: State = Field(description="The state: waiting, or how the question ended.")
    digest: str = Field(description="The digest of the question.")
    brief: str = Field(
        description="The beginning of what is asked, in one line, with everything escaped that "
        "could mislead. Never enough to decide.",
        examples=['pay: {"amount": 90, "to": "bob"}'],
    )
    tool: str = Field(description="The tool's name, if this is a tool call; else empty.")
    asked_by: str = Field(
        description="The name of the requester; `operator` if the application itself asked.",
        examples=["agent_writer"],
    )
    agent: str = Field(description="The agent of a tool call, or empty.")
    thread: str = Field(description="The LangGraph thread of the request, or empty.")
    approvers: list[str] = Field(description="The people who may answer now.")
    at_least: int = Field(description="The number of them who must approve.")
    created_at: Moment
    expires_at: Moment
    unfinished: bool = Field(
        description="Whether a tool call was started and has no result: it is running, or its "
        "process ended before, and it isn't known whether it took effect."
    )


class Question(QuestionBrief):
    """The exact question, with its answers."""

    shown: JsonValue = Field(
        description="The question, as JSON; null if only its digest is known. Numbers can be "
        "longer than JavaScript's: `display` has each of their digits."
    )
    display: str = Field(
        description="The question as JSON, for display: characters that hide or reorder text are "
        "escaped. Display this value, and display it as plain text."
    )
    warnings: list[str] = Field(
        description="Warnings about misleading text in it: escaped characters, and letters "
        "and signs that look like others."
    )
    steps: list[Step] = Field(description="The people who are asked one after the other.")
    escalates_at: Moment | None = Field(
        description="The time from which others are asked; null if nobody else follows."
    )
    used_at: Moment | None = Field(
        description="The time at which the approval was used; null if it wasn't used."
    )
    has_result: bool = Field(description="Whether the result of the tool call is stored.")
    decisions: list[Decision] = Field(description="The answers, oldest first.")
    may_answer: bool = Field(
        description="Whether the caller is one of those who are asked now, also if the caller has "
        "approved it and others have to."
    )


class Approval(Request):
    """An approval of exactly what was displayed."""

    code: Code
    digest: Digest


class Denial(Request):
    """A denial. With a code it is proven to be the person's."""

    code: Code | None = Field(
        None, description="As for an approval. A denial without a code is recorded too."
    )
    digest: Digest
    reason: str = Field(
        "",
        max_length=_MAX_REASON,
        description="The reason, for the requester. An agent's model reads it.",
    )


class Answered(Answer):
    """An answer that was stored, and what became of the question."""

    id: str = Field(description="The question's id.")
    digest: str = Field(description="The digest of the question.")
    state: State = Field(description="The question's state after the answer.")
    decision: Decision = Field(description="The recorded answer.")


@router.get("", summary="List the questions for you")
@takes_long
def list_questions(
    home: Home, caller: PersonCaller, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[QuestionBrief]:
    """Return the questions that the caller may answer now, those that expire soonest first."""
    with library_input("query.after"):
        page = home.approvals.page(caller.user.username, after=after, limit=limit)
    return Page[QuestionBrief].of(page, _brief)


@router.get("/register", summary="List all questions")
@takes_long
def list_register(
    home: Home, caller: RegisterReader, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> Page[QuestionBrief]:
    """Return all questions in any state, newest first."""
    with library_input("query.after"):
        page = home.approvals.register.page(after=after, limit=limit)
    return Page[QuestionBrief].of(page, _brief)


@router.get("/{id}", summary="Get a question")
@takes_long
def get_question(home: Home, caller: PersonCaller, identifier: Identifier) -> Question:
    """Return the exact question.

    For the requester, the people who are asked, and operators.
    """
    return _exactly(_visible(home, caller, identifier), caller)


@router.post(
    "/{id}/approve",
    summary="Approve a question",
    responses={409: {}},
)
def approve(home: Home, caller: Answerer, identifier: Identifier, body: Approval) -> Answered:
    """Approve exactly what was displayed, with a code of the caller's second factor.

    The digest has to be that of the question, so nobody approves what somebody else displayed. The
    code is spent. If a question needs several people, it stays pending until enough have approved.
    """
    name = caller.user.username
    _require_answerable(home, caller, identifier, body.digest)
    with home.acting_for(name):
        decision = home.approvals.decide(identifier, name, body.code.get_secret_value())
    return _answered(home, decision)


@router.post("/{id}/deny", summary="Deny a question", responses={409: {}})
def deny(home: Home, caller: Answerer, identifier: Identifier, body: Denial) -> Answered:
    """Deny, with or without a code of the caller's second factor. A denial ends the question.

    An approval can be denied until it is used.
    """
    name = caller.user.username
    _require_answerable(home, caller, identifier, body.digest)
    code = None if body.code is None else body.code.get_secret_value()
    with home.acting_for(name), library_input("body.reason"):
        decision = home.approvals.deny(identifier, name, code, reason=body.reason)
    return _answered(home, decision)


def _visible(home: Pipelit, caller: Caller, identifier: str) -> ApprovalRequest:
    """Return a question that the caller may read; for any other the same words as for none."""
    try:
        question = home.approvals.get(identifier)
    except ApprovalNotFound:
        question = None
    if question is not None and (
        caller.user.username in {question.asked_by, *_everybody_asked(question)}
        or may(caller.user, "approvals.register")
    ):
        return question
    raise Problem(404, "not-found", "there is no such question here")


def _require_answerable(home: Pipelit, caller: Caller, identifier: str, digest: str) -> None:
    """Require that the caller is asked, and read what is asked, before a code is spent."""
    question = _visible(home, caller, identifier)
    if caller.user.username not in _everybody_asked(question):
        raise NotPermitted(
            f"{caller.user.username!r} is not an approver here", username=caller.user.username
        )
    if digest != question.digest:
        raise Problem(
            409,
            "other-digest",
            "digest: this isn't the digest of the question. Read the question again, and decide "
            "about what is displayed then",
        )


def _everybody_asked(question: ApprovalRequest) -> set[str]:
    later = (each for step in question.steps for each in step.approvers)
    return {*question.approvers, *later}


def _answered(home: Pipelit, decision: ApprovalDecision) -> Answered:
    return Answered(
        id=decision.id,
        digest=decision.digest,
        state=home.approvals.get(decision.id).state,
        decision=Decision.model_validate(decision),
    )


def _brief(question: ApprovalRequest) -> QuestionBrief:
    return QuestionBrief(**_brief_fields(question))


def _brief_fields(question: ApprovalRequest) -> dict[str, object]:
    return {
        "id": question.id,
        "state": question.state,
        "digest": question.digest,
        "brief": _first_words(question),
        "tool": question.tool,
        "asked_by": question.asked_by,
        "agent": question.agent,
        "thread": question.thread,
        "approvers": list(question.approvers),
        "at_least": question.at_least,
        "created_at": question.created_at,
        "expires_at": question.expires_at,
        "unfinished": bool(question.tool) and question.state == "used" and not question.has_result,
    }


def _first_words(question: ApprovalRequest) -> str:
    if question.shown is None:
        return question.digest
    what = question.summary if question.summary is not None else question.arguments
    tool = f"{exact_line(question.tool, _MAX_BRIEF)[1:-1]}: " if question.tool else ""
    line = tool + exact_line(what if question.tool else question.shown, _MAX_BRIEF)
    return line if len(line) <= _MAX_BRIEF else f"{line[: _MAX_BRIEF - 1]}…"


def _exactly(question: ApprovalRequest, caller: Caller) -> Question:
    return Question(
        **_brief_fields(question),
        shown=question.shown,
        display=exact_json(question.shown),
        warnings=warnings(question.shown),
        steps=[
            Step(
                approvers=list(each.approvers),
                at_least=each.at_least,
                begins_at=each.begins_at,
                until=each.until,
            )
            for each in question.steps
        ],
        escalates_at=question.escalates_at,
        used_at=question.used_at,
        has_result=question.has_result,
        decisions=[Decision.model_validate(each) for each in question.decisions],
        may_answer=question.state == "pending" and caller.user.username in question.approvers,
    )
