"""Store questions to people, and return them with their answers."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from json import dumps
from typing import Any

from sqlalchemy import Connection, insert

from pipelit_agents._core import Core
from pipelit_agents._run_context import run_context
from pipelit_agents.approvals import counting, rows, tags
from pipelit_agents.approvals.digest import MAX_SHOWN, approval_digest
from pipelit_agents.approvals.refusals import Refusal, refused_by_time
from pipelit_agents.approvals.values import (
    ApprovalDecision,
    ApprovalRequest,
    ApprovalStep,
    State,
)
from pipelit_agents.audit.records import storable
from pipelit_agents.database.key_row import check_fitting
from pipelit_agents.database.models import ApprovalPersonRow, ApprovalRow
from pipelit_agents.errors import ApprovalNotFound
from pipelit_agents.identity.evidence import utc
from pipelit_agents.protocol.payload import decode
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import approval_purpose, reason_purpose

__all__ = [
    "add_question",
    "ask",
    "get",
    "ours",
    "request_of",
    "running_thread",
    "stored_request",
]


def ask(
    core: Core,
    shown: str,
    approvers: Sequence[str],
    *,
    lifetime: float,
    asked_by: str,
    thread: str,
    steps: Sequence[tags.Step] = (),
) -> ApprovalRequest:
    """Store a question; see ``Approvals.request``.

    Args:
        core: The database, the keys and the clocks.
        shown: The canonical JSON of the value to be approved.
        approvers: The people who may answer.
        lifetime: Seconds until the question expires.
        asked_by: The name of the requester.
        thread: The LangGraph thread of the request.
        steps: The steps of the rule, with times from 0; none if the first answer decides.
    """
    what = decode(shown.encode(), limit=MAX_SHOWN)
    with core.database.writing(durable=True) as connection:
        row = add_question(
            core,
            connection,
            approval_digest(what),
            approvers,
            lifetime=lifetime,
            asked_by=asked_by,
            thread=thread,
            shown=shown,
            steps=steps,
        )
        core.record(connection, asked_by, row.id, "approval.request", row.digest, at=row.created_at)
    return request_of(row, what, "pending", row.created_at)


def add_question(
    core: Core,
    connection: Connection,
    digest: str,
    approvers: Sequence[str],
    *,
    lifetime: float,
    asked_by: str,
    thread: str,
    shown: str | None = None,
    state: State = "pending",
    steps: Sequence[tags.Step] = (),
    agent: str = "",
    call: str = "",
) -> tags.QuestionRow:
    """Store a question in a transaction, and return its row; arguments as for ``ask``."""
    # With another key, this process would store questions that no other process can read.
    keyring = core.fitting_keyring(connection)
    identifier, now = f"apr_{secrets.token_hex(16)}", core.shared_now(connection)
    purpose = approval_purpose(identifier, digest)
    timed = [s._replace(begins=now + s.begins, until=now + s.until) for s in steps]
    row = tags.QuestionRow(
        id=identifier,
        digest=digest,
        approvers=dumps(list(dict.fromkeys(approvers))),
        asked_by=asked_by,
        thread=storable(thread, 149),
        created_at=now,
        expires_at=timed[-1].until if timed else now + lifetime,
        state=state,
        agent=agent,
        rule=tags.stored_steps(timed) if timed else "",
        call=call,
        shown=None if shown is None else Sealed(keyring.seal(shown, purpose), purpose),
    )
    row = row._replace(mac=keyring.mac(tags.REQUEST, *tags.question_fields(row)))
    connection.execute(insert(ApprovalRow).values(row._asdict()))
    if state == "pending":
        asked = [
            {"approval_id": identifier, "username": each, "expires_at": row.expires_at}
            for each in dict.fromkeys(approvers)
        ]
        connection.execute(insert(ApprovalPersonRow), asked)
    return row


def get(core: Core, identifier: str) -> ApprovalRequest:
    """Return a question; see ``Approvals.get``."""
    with core.database.reading() as connection:
        row = rows.find_question(core, connection, identifier)
        if isinstance(row, Refusal):
            raise ApprovalNotFound(f"{row.message}: ask again")
        return stored_request(core, connection, row)


def stored_request(core: Core, connection: Connection, row: tags.QuestionRow) -> ApprovalRequest:
    """Return a question, whose tag was verified, with its answers."""
    now = core.shared_now(connection)
    answers = rows.read_answers(connection, row.id)
    state = counting.state_of(core, connection, row, now) if row.rule else row.state
    if state == "approved" and rows.was_used(connection, row):
        state = "used"
    elif state in ("pending", "approved", "suspended") and refused_by_time(row, now) is not None:
        state = "expired"
    decisions = tuple(
        rows.decision_of(row, answer, _reason(core, answer))
        for answer in answers
        if tags.answer_is_ours(core.keyring(), row, answer)
    )
    use = rows.last_use(connection, row.id) if state in ("used", "suspended") else None
    return request_of(row, _shown(core, row), state, now, decisions, use)


def ours(
    core: Core, connection: Connection, read: Iterable[tags.QuestionRow]
) -> Iterator[tags.QuestionRow]:
    """Yield the questions that one of the keys has tagged.

    A forged question isn't displayed, and doesn't hide any other question.

    Raises:
        ConfigurationError: Some are left out, and the keys are those of another database.
    """
    keyring, foreign = core.keyring(), False
    for row in read:
        if tags.question_is_ours(keyring, row):
            yield row
        else:
            foreign = True
    if foreign:
        # With a wrong key all questions would be left out, and nobody would know that they wait.
        check_fitting(connection, keyring)


def running_thread() -> str:
    """Return the running thread's id in the form that is stored."""
    return storable(run_context().thread, 149)


def _shown(core: Core, row: tags.QuestionRow) -> Any:
    if row.shown is None:
        return None
    # The purpose contains the digest, so only the value of this question can be decrypted.
    purpose = approval_purpose(row.id, row.digest)
    return decode(core.keyring().unseal(row.shown.token, purpose), limit=MAX_SHOWN)


def _reason(core: Core, answer: tags.AnswerRow) -> str:
    if answer.reason is None:
        return ""
    purpose = reason_purpose(answer.approval_id, answer.username)
    return Sealed(answer.reason.token, purpose).unseal(core.keyring())


def request_of(
    row: tags.QuestionRow,
    shown: Any,
    state: State,
    now: float,
    decisions: tuple[ApprovalDecision, ...] = (),
    use: tuple[datetime, bool] | None = None,
) -> ApprovalRequest:
    """Return the public form of a question, as it is at a time."""
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
