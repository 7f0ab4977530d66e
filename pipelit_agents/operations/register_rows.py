"""Read the register of approvals from the database, whatever somebody has put there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    String,
    Table,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.exc import SQLAlchemyError

from pipelit_agents.approvals import tags
from pipelit_agents.approvals.digest import MAX_SHOWN
from pipelit_agents.approvals.rows import read_question
from pipelit_agents.database.models import (
    ApprovalAnswerRow,
    ApprovalRow,
    ApprovalUseRow,
    AuditRow,
    Base,
)
from pipelit_agents.database.planted import all_rows
from pipelit_agents.database.row_encryption import RowEncryptedString
from pipelit_agents.errors import PayloadError, UnsealError
from pipelit_agents.operations.register_records import (
    Answer,
    Audited,
    Known,
    Question,
    Record,
    Unreadable,
    Use,
    plain,
)
from pipelit_agents.protocol.payload import Json, decode
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import approval_purpose, reason_purpose

__all__ = ["AUDITED", "FORGOTTEN", "VOIDING", "newest_questions", "read_records"]

# The actions of the audit that have a row in the register.
AUDITED: Final = frozenset(
    {"approval.request", "approval.use", "approve", "deny", "deny.unproven", "deny.vouched"}
)
# The action of an operator who deleted questions whose key is lost.
FORGOTTEN: Final = "keys.forget"
# The actions that void the unused approvals of a person.
VOIDING: Final = frozenset({"mfa.disable", "mfa.reset", "user.deactivate"})
_PAGE: Final = 500
Stored: TypeAlias = dict[str, Json] | Unreadable


def read_records(
    connection: Connection, keyring: Keyring, *, open_values: bool
) -> Iterator[Record]:
    """Return the audit's entries about approvals, then each question, then what has no question.

    Args:
        connection: A transaction that reads one state.
        keyring: The keys of displayed values and reasons.
        open_values: Whether to decrypt those.
    """
    opening = keyring if open_values else None
    audit, questions = _Rows(connection, AuditRow), _Rows(connection, ApprovalRow)
    answers, uses = _Rows(connection, ApprovalAnswerRow), _Rows(connection, ApprovalUseRow)
    recorded = (
        audit.table.c.outcome == "ok",
        audit.table.c.action.in_([*AUDITED, *VOIDING, FORGOTTEN]),
    )
    for page in audit.pages(*recorded):
        yield from _made(page, Audited)
    for page in questions.pages(order=questions.table.c.created_at):
        yield from _questions(page, answers, uses, opening)
    # No question has these: it was deleted, or they were planted.
    asked = select(questions.table.c.id)
    for page in answers.pages(answers.table.c.approval_id.not_in(asked)):
        yield from _made(page, lambda row: _answer(row, opening))
    for page in uses.pages(uses.table.c.approval_id.not_in(asked)):
        yield from _made(page, _use)


def newest_questions(connection: Connection, person: str | None) -> Iterator[tags.QuestionRow]:
    """Return questions, the newest first; no tag of them is verified.

    Args:
        connection: A transaction that reads one state.
        person: Only those whose approvers may have this name.
    """
    query = select(ApprovalRow.id).order_by(ApprovalRow.created_at.desc(), ApprovalRow.id)
    if person is not None:
        query = query.where(ApprovalRow.approvers.contains(f'"{person}"', autoescape=True))
    for (identifier,) in all_rows(connection, query):
        row = read_question(connection, identifier)
        if row is not None:
            yield row


class _Rows:
    """Reads a table as it is stored.

    Args:
        connection: A transaction.
        model: The table's model.
    """

    def __init__(self, connection: Connection, model: type[Base]) -> None:
        self.table = model.metadata.tables[model.__tablename__]
        self._connection = connection
        self._on_sqlite = connection.dialect.name == "sqlite"
        # Each row of SQLite has this number, even if its key isn't what it should be.
        self._key: ColumnElement[Any] = (
            literal_column("rowid", Integer) if self._on_sqlite else _first_key(self.table)
        )
        # Ciphertexts as text: who planted one may have written anything.
        self._columns = [
            type_coerce(each, String).label(each.name)
            if isinstance(each.type, RowEncryptedString)
            else each
            for each in self.table.c
        ]

    def pages(
        self, *where: ColumnElement[bool], order: ColumnElement[Any] | None = None
    ) -> Iterator[list[Stored]]:
        """Return rows in pages."""
        keys = self._keys(where, order)
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            found = self._found(self._key.in_(page), page)
            yield [found[each] for each in page if each in found]

    def of(self, identifiers: Sequence[str]) -> list[Stored]:
        """Return the rows of a page of questions, in the order of writing."""
        wanted = self.table.c.approval_id.in_(identifiers)
        return list(self._found(wanted, None).values())

    def _keys(
        self, where: Sequence[ColumnElement[bool]], order: ColumnElement[Any] | None
    ) -> list[Any]:
        by = [self._key] if order is None else [order, self._key]
        found = select(self._key).select_from(self.table).where(*where).order_by(*by)
        return list(self._connection.scalars(found))

    def _found(self, where: ColumnElement[bool], keys: Sequence[Any] | None) -> dict[Any, Stored]:
        query = select(self._key.label("key of the row"), *self._columns).where(where)
        try:
            found = self._connection.execute(query.order_by(self._key)).all()
            return {key: self._row(values) for key, *values in found}
        except SQLAlchemyError:
            if not self._on_sqlite:
                # PostgreSQL stores only text that can be read, and ends the transaction.
                raise
        # One of the texts isn't UTF-8.
        return {
            key: self._one(key) for key in (self._keys([where], None) if keys is None else keys)
        }

    def _one(self, key: object) -> Stored:
        try:
            found = self._connection.execute(select(*self._columns).where(self._key == key))
            return self._row(found.one())
        except SQLAlchemyError:
            return Unreadable(self.table.name, plain(key))

    def _row(self, values: Iterable[object]) -> dict[str, Json]:
        return {column.name: plain(each) for column, each in zip(self.table.c, values, strict=True)}


def _first_key(table: Table) -> ColumnElement[Any]:
    return next(iter(table.primary_key))


def _made(page: Iterable[Stored], make: Callable[[dict[str, Json]], Record]) -> Iterator[Record]:
    for each in page:
        yield each if isinstance(each, Unreadable) else make(each)


def _questions(
    page: Sequence[Stored], answers: _Rows, uses: _Rows, keyring: Keyring | None
) -> Iterator[Record]:
    identifiers = [
        identifier
        for row in page
        if not isinstance(row, Unreadable) and isinstance(identifier := row["id"], str)
    ]
    answered, used = defaultdict[Json, list[Answer]](list), defaultdict[Json, list[Use]](list)
    for each in answers.of(identifiers):
        if isinstance(each, Unreadable):
            yield each
        else:
            answered[each["approval_id"]].append(_answer(each, keyring))
    for each in uses.of(identifiers):
        if isinstance(each, Unreadable):
            yield each
        else:
            used[each["approval_id"]].append(_use(each))
    for row in page:
        if isinstance(row, Unreadable):
            yield row
            continue
        identifier, token = row["id"], row.pop("shown")
        known = _opened(token, approval_purpose, (identifier, row["digest"]), keyring)
        shown = _value(known)
        mine = identifier if isinstance(identifier, str) else None
        yield Question(row, *shown, tuple(answered[mine]), tuple(used[mine]))


def _answer(row: dict[str, Json], keyring: Keyring | None) -> Answer:
    token = row.pop("reason")
    known = _opened(token, reason_purpose, (row["approval_id"], row["username"]), keyring)
    return Answer(row, *_text(known))


def _use(row: dict[str, Json]) -> Use:
    # What a tool returned is nobody's business but the agent's.
    return Use(row, "none" if row.pop("result") is None else "sealed")


def _opened(
    token: Json,
    purpose: Callable[[str, str], str],
    bound_to: tuple[Json, Json],
    keyring: Keyring | None,
) -> tuple[Known, bytes]:
    if token is None:
        return "none", b""
    if keyring is None:
        return "sealed", b""
    first, second = bound_to
    if not isinstance(token, str) or not isinstance(first, str) or not isinstance(second, str):
        return "unreadable", b""
    try:
        return "here", keyring.unseal(token, purpose(first, second))
    except UnsealError:
        return "unreadable", b""


def _value(found: tuple[Known, bytes]) -> tuple[Known, Json]:
    known, content = found
    try:
        return known, decode(content, limit=MAX_SHOWN) if known == "here" else None
    except PayloadError:
        return "unreadable", None


def _text(found: tuple[Known, bytes]) -> tuple[Known, Json]:
    known, content = found
    try:
        return known, content.decode() if known == "here" else None
    except UnicodeDecodeError:
        return "unreadable", None
