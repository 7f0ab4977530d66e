"""Store questions to people, and return them with their answers."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from json import dumps
from typing import Any

from sqlalchemy import Connection, insert

from pipelit_agents._core import Core
from pipelit_agents._run_context import run_context
from pipelit_agents.approvals import rows, tags
from pipelit_agents.approvals.digest import MAX_SHOWN, approval_digest
from pipelit_agents.approvals.refusals import Refusal, refused_by_time
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest, State
from pipelit_agents.audit.records import storable
from pipelit_agents.database.models import ApprovalRow
from pipelit_agents.errors import ApprovalNotFound, UnsealError
from pipelit_agents.identity.evidence import utc
from pipelit_agents.protocol.payload import decode
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import approval_purpose, reason_purpose

__all__ = ["add_question", "ask", "get", "pending", "running_thread"]


def ask(
    core: Core,
    shown: str,
    approvers: Sequence[str],
    *,
    lifetime: float,
    asked_by: str,
    thread: str,
) -> ApprovalRequest:
    """Store a question; see :meth:`Approvals.request`.

    Args:
        core: The database, the keys and the clocks.
        shown: The canonical JSON of the value to be approved.
        approvers: The people who may answer.
        lifetime: Seconds until the question expires.
        asked_by: The name of the requester.
        thread: The LangGraph thread of the request.
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
        )
        core.record(connection, asked_by, row.id, "approval.request", row.digest, at=row.created_at)
    return _request_of(row, what, "pending")


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
) -> tags.QuestionRow:
    """Store a question in a transaction, and return its row; arguments as for :func:`ask`."""
    # With another key, this process would store questions that no other process can read.
    keyring = core.fitting_keyring(connection)
    identifier, now = f"apr_{secrets.token_hex(16)}", core.shared_now(connection)
    purpose = approval_purpose(identifier, digest)
    row = tags.QuestionRow(
        id=identifier,
        digest=digest,
        approvers=dumps(list(dict.fromkeys(approvers))),
        asked_by=asked_by,
        thread=storable(thread, 149),
        created_at=now,
        expires_at=now + lifetime,
        state=state,
        shown=None if shown is None else Sealed(keyring.seal(shown, purpose), purpose),
    )
    row = row._replace(mac=keyring.mac(tags.REQUEST, *tags.question_fields(row)))
    connection.execute(insert(ApprovalRow).values(row._asdict()))
    return row


def get(core: Core, identifier: str) -> ApprovalRequest:
    """Return a question; see :meth:`Approvals.get`."""
    with core.database.reading() as connection:
        row = rows.find_question(core, connection, identifier)
        if isinstance(row, Refusal):
            raise ApprovalNotFound(f"{row.message}: ask again")
        now = core.shared_now(connection)
        used = rows.was_used(connection, identifier)
        answers = rows.read_answers(connection, identifier)
    state = row.state
    if used and state == "approved":
        state = "used"
    elif state in ("pending", "approved") and refused_by_time(row, now) is not None:
        state = "expired"
    decisions = tuple(
        rows.decision_of(row, answer, _reason(core, answer))
        for answer in answers
        if tags.answer_is_ours(core.keyring(), row, answer)
    )
    return _request_of(row, _shown(core, row), state, decisions)


def pending(core: Core, person: str | None) -> list[ApprovalRequest]:
    """Return the open questions; see :meth:`Approvals.pending`."""
    found = []
    with core.database.reading() as connection:
        now = core.shared_now(connection)
        where = [ApprovalRow.state == "pending", ApprovalRow.expires_at > now]
        if person is not None:
            where.append(ApprovalRow.approvers.contains(f'"{person}"', autoescape=True))
        stored = rows.read_questions(connection, *where)
    for row in stored:
        # A forged question isn't displayed, and doesn't hide any other question.
        if not tags.question_is_ours(core.keyring(), row) or refused_by_time(row, now) is not None:
            continue
        if person is None or person in tags.approvers_of(row.approvers):
            with suppress(UnsealError):
                found.append(_request_of(row, _shown(core, row), "pending"))
    return found


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


def _request_of(
    row: tags.QuestionRow, shown: Any, state: State, decisions: tuple[ApprovalDecision, ...] = ()
) -> ApprovalRequest:
    return ApprovalRequest(
        id=row.id,
        digest=row.digest,
        shown=shown,
        approvers=tags.approvers_of(row.approvers),
        asked_by=row.asked_by,
        thread=row.thread,
        created_at=utc(row.created_at),
        expires_at=utc(row.expires_at),
        state=state,
        decisions=decisions,
    )
