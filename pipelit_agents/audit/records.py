"""Create, write and read the entries of the audit trail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypedDict

from sqlalchemy import RowMapping

from pipelit_agents._run_context import NOWHERE, RunContext, run_context
from pipelit_agents._words import WITHHELD, has_secret_form, recordable
from pipelit_agents.audit.numbering import highest_number_in_sqlite
from pipelit_agents.database.fast_path import Open, Query, Statement
from pipelit_agents.display import html_of
from pipelit_agents.errors import StorageError
from pipelit_agents.protocol.usernames import is_username

__all__ = ["AuditEntry", "entry", "entry_of", "recorded_name", "storable", "write"]

# Seconds before and after 1970 that a datetime can represent.
_MAX_SECONDS: Final = 6e10
SHOWN_FIELDS: Final = (
    "at", "actor", "person", "subject", "action", "outcome", "reason", "node",
)  # fmt: skip
# One day inside the limits of datetime, so that every time zone can display them.
_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)


class EntryValues(TypedDict):
    """The row of one entry, for ``write``."""

    at: float
    actor: str
    subject: str
    action: str
    outcome: str
    reason: str
    run: str
    node: str
    thread: str
    person: str


_FIELDS: Final = ", ".join(EntryValues.__annotations__)
_VALUES: Final = ", ".join(f":{each}" for each in EntryValues.__annotations__)
# PostgreSQL takes the numbers from a sequence. SQLite would continue after any row, even one that
# was planted at the highest number. NULL lets SQLite choose if no other number is left.
_HIGHEST: Final = highest_number_in_sqlite()
_NEXT: Final = (
    f"nullif(coalesce((SELECT id FROM pipelit_audit WHERE id BETWEEN 1 AND {_HIGHEST} "  # noqa: S608 - fixed words
    f"ORDER BY id DESC LIMIT 1), 0) + 1, {_HIGHEST} + 1)"
)
_SQLITE: Final = Statement(f"INSERT INTO pipelit_audit (id, {_FIELDS}) VALUES ({_NEXT}, {_VALUES})")  # noqa: S608 - fixed words
# Anyone who can write to the table can plant entries ahead of the sequence. In that case, take the
# next number instead of failing the operation that is recorded.
_POSTGRES: Final = Statement(
    f"INSERT INTO pipelit_audit ({_FIELDS}) VALUES ({_VALUES}) ON CONFLICT (id) DO NOTHING"  # noqa: S608 - fixed words
)


class _Drawn(NamedTuple):
    number: int


_LAST: Final = Query(
    "SELECT currval(pg_get_serial_sequence('pipelit_audit', 'id')) AS number", _Drawn
)
# The maximum number of consecutive planted entries to skip.
_MAX_SKIPPED: Final = 100
_PLANTED: Final = "audit.planted"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision.

    Attributes:
        id: The entry's number; later entries have higher numbers.
        at: The time in UTC, by the clock of the machine that wrote the entry. ``id`` is in the
            order of writing even if a clock was wrong. A time outside the calendar becomes one at
            the beginning of the year 1, or at the end of 9999.
        actor: The account that requested the action; ``operator`` for the library's own caller.
        subject: The account or credential that the entry is about.
        action: The requested action, for example ``verify.audience``.
        outcome: ``ok`` or ``refused``.
        reason: The true reason, even if the caller received a less specific one.
        run: The LangGraph run, if there was one.
        node: The LangGraph node, if there was one.
        thread: The LangGraph thread, if there was one.
        person: The person for whom a credential was opened, or whose own credential was changed.
            Empty for other entries, and if nobody was authenticated.
    """

    id: int
    at: datetime
    actor: str
    subject: str
    action: str
    outcome: str
    reason: str
    run: str
    node: str
    thread: str
    person: str = ""

    def _repr_html_(self) -> str:
        return html_of(self)


def entry(
    *,
    at: float,
    actor: str,
    subject: str,
    action: str,
    outcome: str,
    reason: str = "",
    context: RunContext | None = None,
    person: str = "",
) -> EntryValues:
    """Return the row of one entry.

    Args:
        at: The time, in Unix seconds.
        actor: See ``AuditEntry``, also for the following arguments.
        subject: The account or credential that the entry is about.
        action: The requested action.
        outcome: ``ok`` or ``refused``.
        reason: The true reason.
        context: The LangGraph run, node and thread; by default the current ones.
        person: See ``AuditEntry``.
    """
    where = run_context() if context is None else context
    run, node, thread = where
    if where is not NOWHERE:
        run, node, thread = storable(run, 64), storable(node, 149), storable(thread, 149)
    return {
        "at": _storable_time(at),
        # Refused names and values that a caller chose may contain text that no database accepts.
        "actor": _name(actor),
        "subject": _name(subject),
        "action": storable(action, 32),
        "outcome": storable(outcome, 16),
        "reason": storable(reason, 64),
        "run": run,
        "node": node,
        "thread": thread,
        "person": _name(person),
    }


def write(connection: Open, *entries: EntryValues) -> None:
    """Write entries in the caller's transaction.

    On PostgreSQL, the number of an entry that was planted ahead of the sequence is skipped, and an
    additional entry with the action ``audit.planted`` names that number.

    Raises:
        StorageError: None of the next hundred numbers is free, because entries were planted there.
    """
    if not entries:
        return
    if connection.dialect.name == "sqlite":
        _SQLITE.write(connection, *entries)
        return
    left = _POSTGRES.write_each(connection, entries)
    if left:
        number = _write_after(connection, left)
        found = f"planted entries among the numbers up to {number}"
        planted = entries[0] | {
            "actor": "audit",
            "subject": "audit",
            "action": _PLANTED,
            "outcome": "refused",
            "reason": storable(found, 64),
        }
        left = _POSTGRES.write_each(connection, [planted])
        if left:
            _write_after(connection, left)


def _write_after(connection: Open, left: Sequence[EntryValues]) -> int:
    """Write entries whose numbers were taken, and return the last taken number."""
    taken, number = 0, 0
    while left:
        # The last drawn number. At least one of the numbers that were drawn was taken.
        ((number,),) = _LAST.fetch(connection, {})
        taken += len(left)
        if taken > _MAX_SKIPPED:
            raise StorageError(
                f"the numbers of audit entries up to {number} are taken: somebody planted rows in "
                "pipelit_audit ahead of its sequence. Requests are refused while they can't be "
                f"recorded: look at the rows with id > {number - taken} (pipelit-agents audit "
                "verify names them), delete them, and try again"
            )
        left = _POSTGRES.write_each(connection, left)
    return number


def entry_of(row: RowMapping) -> AuditEntry:
    """Return the entry of a row."""
    return AuditEntry(**{**row, "at": _shown_at(row["at"])})


def _shown_at(at: object) -> datetime:
    # A row with a time outside the calendar must not prevent others from being listed.
    if not isinstance(at, int | float):
        return _LATEST
    try:
        return min(max(datetime.fromtimestamp(at, UTC), _EARLIEST), _LATEST)
    except (OSError, OverflowError, ValueError):
        return _EARLIEST if at < 0 else _LATEST


def storable(value: object, length: int) -> str:
    """Return a value as printable ASCII, cut to the size of its column."""
    # Rows are written together, so no value may be refused by the database, or run its own code.
    if type(value) is not str:
        # Not isinstance, because an object can lie about its __class__.
        is_text = issubclass(type(value), str)
        value = str.__str__(value) if is_text else f"<{_class_name(value)}>"
    name = value[:length]
    if name.isascii() and name.isprintable():
        return name
    plain = name.encode("ascii", "backslashreplace").decode()
    # Escape control characters too, which could control a terminal or begin a new line.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)[:length]


class _Account(NamedTuple):
    username: str


_READ_ACCOUNT: Final = Query("SELECT username FROM pipelit_users WHERE username = :name", _Account)


def recorded_name(connection: Open, name: str, known: Query[Any] = _READ_ACCOUNT) -> str:
    """Return a name for the audit; one that nothing has is left out if it may be secret.

    Whether ``known`` is read depends on the name alone, so the duration doesn't tell what exists.

    Args:
        connection: The transaction.
        name: The name; of an account by default.
        known: Reads the rows that have the name ``:name``.
    """
    recorded = recordable(name)
    if recorded == WITHHELD and is_username(name):
        return name if known.fetch(connection, {"name": name}) else recorded
    return recorded


def _name(name: object) -> str:
    # `by` and `created_by` may be anything. Names that nobody has are left out by their callers.
    text = storable(name, 149)
    return WITHHELD if has_secret_form(text) else text


def _class_name(value: object) -> str:
    # Read the name from type itself, because a metaclass may return another name, or raise.
    return str(type.__dict__["__name__"].__get__(type(value)))


def _storable_time(at: object) -> float:
    number = type(at) is float or type(at) is int
    # The comparison is false for NaN, which SQLite would store as NULL.
    return float(at) if number and -_MAX_SECONDS < at < _MAX_SECONDS else time.time()  # type: ignore[operator, arg-type]
