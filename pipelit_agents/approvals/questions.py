"""Store questions to people, and return them with their answers."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from json import dumps
from typing import Any

from sqlalchemy import insert

from pipelit_agents._core import Core
from pipelit_agents._run_context import run_context
from pipelit_agents.approvals import counting, rows, tags
from pipelit_agents.approvals.digest import MAX_SHOWN, digest_of
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.refusals import Refusal, refused_by_time
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest, ApprovalStep, State
from pipelit_agents.audit.records import storable
from pipelit_agents.database.key_row import check_fitting
from pipelit_agents.database.models import ApprovalPersonRow, ApprovalRow
from pipelit_agents.errors import ApprovalNotFound
from pipelit_agents.identity.evidence import utc
from pipelit_agents.protocol.payload import decode
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import approval_purpose, reason_purpose

__all__ = ["add_question", "get", "new_request", "ours", "running_thread", "stored_request"]


def add_question(
    moment: Moment,
    steps: Sequence[tags.Step],
    *,
    ruled: bool,
    asked_by: str,
    thread: str,
    shown: str | None = None,
    digest: str = "",
    state: State = "pending",
    agent: str = "",
    call: str = "",
) -> tags.QuestionRow:
    """Store a question, and return its row; see ``Approvals.request`` and ``CallApprovals.ask``.

    Args:
        moment: The transaction.
        steps: The people who are asked, with times from 0.
        ruled: Whether the steps are those of a rule; otherwise the first answer decides.
        asked_by: The name of the requester.
        thread: The LangGraph thread of the request.
        shown: The canonical JSON of the value to be approved; None if only its digest is known.
        digest: The digest of a value that isn't shown.
        state: The state; another one than ``pending`` if the answer is known.
        agent: The agent of a tool call.
        call: The key of a tool call.
    """
    digest = digest if shown is None else digest_of(shown)
    # With another key, this process would store questions that no other process can read.
    keyring, now = moment.fitting_keyring, moment.now
    identifier = f"apr_{secrets.token_hex(16)}"
    purpose = approval_purpose(identifier, digest)
    timed = [s._replace(begins=now + s.begins, until=now + s.until) for s in steps]
    people = dict.fromkeys(name for step in steps for name in step.people)
    row = tags.QuestionRow(
        id=identifier,
        digest=digest,
        approvers=dumps(list(people)),
        asked_by=asked_by,
        thread=storable(thread, 149),
        created_at=now,
        expires_at=timed[-1].until,
        state=state,
        agent=agent,
        rule=tags.stored_steps(timed) if ruled else "",
        call=call,
        shown=None if shown is None else Sealed(keyring.seal(shown, purpose), purpose),
    )
    row = row._replace(mac=keyring.mac(tags.REQUEST, *tags.question_fields(row)))
    moment.connection.execute(insert(ApprovalRow).values(row._asdict()))
    if state == "pending":
        asked = [
            {"approval_id": identifier, "username": each, "expires_at": row.expires_at}
            for each in people
        ]
        moment.connection.execute(insert(ApprovalPersonRow), asked)
        moment.record(asked_by, identifier, "approval.request", digest)
    return row


def get(core: Core, identifier: str) -> ApprovalRequest:
    """Return a question; see ``Approvals.get``."""
    with core.database.reading() as connection:
        moment = Moment.of(core, connection)
        row = rows.find_question(moment, identifier)
        if isinstance(row, Refusal):
            raise ApprovalNotFound(f"{row.message}: ask again")
        return stored_request(moment, row)


def stored_request(moment: Moment, row: tags.QuestionRow) -> ApprovalRequest:
    """Return a question, whose tag was verified, with its answers."""
    answers = rows.read_answers(moment.connection, row.id)
    state = counting.state_of(moment, row)
    if state == "approved" and rows.was_used(moment.connection, row):
        state = "used"
    elif state in ("pending", "approved", "suspended") and refused_by_time(row, moment.now):
        state = "expired"
    decisions = tuple(
        rows.decision_of(row, answer, _reason(moment, answer))
        for answer in answers
        if tags.answer_is_ours(moment.keyring, row, answer)
    )
    use = rows.last_use(moment.connection, row.id) if state in ("used", "suspended") else None
    return _request_of(row, _shown(moment, row), state, moment.now, decisions, use)


def ours(moment: Moment, read: Iterable[tags.QuestionRow]) -> Iterator[tags.QuestionRow]:
    """Yield the questions that one of the keys has tagged.

    A forged question isn't displayed, and doesn't hide any other question.

    Raises:
        ConfigurationError: Some are left out, and the keys are those of another database.
    """
    keyring, foreign = moment.keyring, False
    for row in read:
        if tags.question_is_ours(keyring, row):
            yield row
        else:
            foreign = True
    if foreign:
        # With a wrong key all questions would be left out, and nobody would know that they wait.
        check_fitting(moment.connection, keyring)


def running_thread() -> str:
    """Return the running thread's id in the form that is stored."""
    return storable(run_context().thread, 149)


def _shown(moment: Moment, row: tags.QuestionRow) -> Any:
    if row.shown is None:
        return None
    # The purpose contains the digest, so only the value of this question can be decrypted.
    purpose = approval_purpose(row.id, row.digest)
    return decode(moment.keyring.unseal(row.shown.token, purpose), limit=MAX_SHOWN)


def _reason(moment: Moment, answer: tags.AnswerRow) -> str:
    if answer.reason is None:
        return ""
    purpose = reason_purpose(answer.approval_id, answer.username)
    return Sealed(answer.reason.token, purpose).unseal(moment.keyring)


def new_request(row: tags.QuestionRow, shown: str) -> ApprovalRequest:
    """Return the public form of a question that was just stored."""
    what = decode(shown.encode(), limit=MAX_SHOWN)
    return _request_of(row, what, "pending", row.created_at)


def _request_of(
    row: tags.QuestionRow,
    shown: Any,
    state: State,
    now: float,
    decisions: tuple[ApprovalDecision, ...] = (),
    use: tuple[datetime, bool] | None = None,
) -> ApprovalRequest:
    steps = tags.steps_of(row)
    present = tags.step_at(steps, now)
    call = shown if row.call else {}
    return ApprovalRequest(
        id=row.id,
        digest=row.digest,
        shown=shown,
        approvers=present.people,
        asked_by=row.asked_by,
        thread=row.thread,
        created_at=utc(row.created_at),
        expires_at=utc(row.expires_at),
        state=state,
        decisions=decisions,
        agent=row.agent,
        at_least=present.at_least,
        escalates_at=None if present is steps[-1] else utc(present.until),
        steps=tuple(ApprovalStep(s.people, s.at_least, utc(s.begins), utc(s.until)) for s in steps),
        tool=call.get("tool", ""),
        arguments=call.get("arguments", {}),
        summary=call.get("summary"),
        used_at=None if use is None else use[0],
        has_result=use is not None and use[1],
    )
