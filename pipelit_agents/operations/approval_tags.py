"""Tag questions and answers again under a newer key, and delete those of a lost key."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, delete, select, update

from pipelit_agents._core import Core
from pipelit_agents.approvals import rows, tags
from pipelit_agents.database.key_row import fitting_keyring, require_known
from pipelit_agents.database.models import ApprovalAnswerRow, ApprovalPersonRow, ApprovalRow
from pipelit_agents.database.planted import all_rows, as_stored
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
                if not tags.is_id(identifier):
                    # Nobody but us writes ids, so this row was planted.
                    counts["foreign"] += 1
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


def forget_foreign(
    core: Core, keyring: Keyring, record: Callable[[Connection, str], None]
) -> list[str]:
    """Delete the questions that none of the keys has tagged, with their answers.

    Args:
        core: The database.
        keyring: The keys.
        record: Records the id of a question, in the transaction that deletes it.

    Returns:
        Their ids.
    """
    gone = []
    for identifier in _ids(core):
        with core.database.writing(durable=True) as connection:
            row = _locked(core, connection, identifier)
            require_known(connection, keyring)
            ours = row is not None and tags.question_is_ours(keyring, row)
            if ours or (row is None and tags.is_id(identifier)):
                continue
            stored = as_stored(identifier)
            connection.execute(
                delete(ApprovalAnswerRow).where(ApprovalAnswerRow.approval_id == stored)
            )
            connection.execute(
                delete(ApprovalPersonRow).where(ApprovalPersonRow.approval_id == stored)
            )
            connection.execute(delete(ApprovalRow).where(ApprovalRow.id == stored))
            record(connection, str(identifier))
        gone.append(str(identifier))
    return gone


def _ids(core: Core, page: int = 500) -> Iterator[str]:
    """Yield the ids of all questions; those of planted ones may be of another type."""
    wanted = select(ApprovalRow.id).order_by(ApprovalRow.id).limit(page)
    query = wanted
    while True:
        with core.database.reading() as connection:
            found = [identifier for (identifier,) in all_rows(connection, query)]
        if not found:
            return
        yield from found
        query = wanted.where(ApprovalRow.id > as_stored(found[-1]))


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
