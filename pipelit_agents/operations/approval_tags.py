"""Tag questions and answers again under a newer key, and delete those of a lost key."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, delete, select, update

from pipelit_agents._core import Core
from pipelit_agents.approvals import rows, tags
from pipelit_agents.database.key_row import fitting_keyring
from pipelit_agents.database.models import ApprovalAnswerRow, ApprovalRow
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["forget_foreign", "retag"]


def retag(core: Core, keyring: Keyring, *, only_count: bool = False) -> tuple[int, int, int]:
    """Tag rows with the newest key if an older key tagged them.

    Returns:
        The numbers of rows that were tagged with the newest key, an older key, and no key.
    """
    counts = {"newest": 0, "older": 0, "foreign": 0}
    for identifier in _ids(core):
        with core.database.writing(durable=not only_count) as connection:
            question = _locked(core, connection, identifier)
            if question is None:
                continue
            if not only_count:
                fitting_keyring(connection, keyring)
            for row, label, fields in _tagged_rows(connection, question):
                state = tags.key_age(keyring, label, fields, row.mac)
                counts[state] += 1
                if state == "older" and not only_count:
                    change = (
                        update(ApprovalAnswerRow).where(ApprovalAnswerRow.seq == row.seq)
                        if isinstance(row, tags.AnswerRow)
                        else update(ApprovalRow).where(ApprovalRow.id == row.id)
                    )
                    connection.execute(change.values(mac=keyring.mac(label, *fields)))
    return counts["newest"], counts["older"], counts["foreign"]


def forget_foreign(core: Core, keyring: Keyring) -> list[str]:
    """Delete the questions that none of the keys has tagged, with their answers.

    Returns:
        Their ids.
    """
    gone = []
    for identifier in _ids(core):
        with core.database.writing(durable=True) as connection:
            row = _locked(core, connection, identifier)
            if row is None or tags.question_is_ours(keyring, row):
                continue
            connection.execute(
                delete(ApprovalAnswerRow).where(ApprovalAnswerRow.approval_id == identifier)
            )
            connection.execute(delete(ApprovalRow).where(ApprovalRow.id == identifier))
        gone.append(identifier)
    return gone


def _ids(core: Core, page: int = 500) -> Iterator[str]:
    last = ""
    while True:
        with core.database.reading() as connection:
            found = connection.scalars(
                select(ApprovalRow.id)
                .where(ApprovalRow.id > last)
                .order_by(ApprovalRow.id)
                .limit(page)
            ).all()
        if not found:
            return
        yield from found
        last = found[-1]


def _locked(core: Core, connection: Connection, identifier: str) -> tags.QuestionRow | None:
    row = rows.read_question(connection, identifier)
    if row is not None:
        core.database.lock(connection, f"approval:{row.digest}")
    return rows.read_question(connection, identifier)


def _tagged_rows(
    connection: Connection, question: tags.QuestionRow
) -> Iterator[tuple[tags.QuestionRow | tags.AnswerRow, str, list[bytes]]]:
    yield question, tags.REQUEST, tags.question_fields(question)
    for each in rows.read_answers(connection, question.id):
        # The answers of people who left have no tag any more, and must not get one again.
        if each.mac != "":
            yield each, tags.ANSWER, tags.answer_fields(question, each)
