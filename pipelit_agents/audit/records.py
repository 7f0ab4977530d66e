"""The records of the audit trail: made, written, and read back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pipelit_agents._run_context import RunContext, run_context
from pipelit_agents.audit.numbering import highest_number_in_sqlite
from pipelit_agents.database.fast_path import Open, Statement
from pipelit_agents.display import html_of
from pipelit_agents.errors import StorageError

__all__ = ["AuditEntry", "entry", "entry_of", "write"]

# Seconds on both sides of 1970 that a datetime can show.
_FARTHEST: Final = 6e10
SHOWN_FIELDS: Final = ("at", "actor", "subject", "action", "outcome", "reason", "node")
# A day from where they end, so that they can be shown in every time zone.
_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)
_FIELDS: Final = "at, actor, subject, action, outcome, reason, run, node, thread"
_VALUES: Final = ":at, :actor, :subject, :action, :outcome, :reason, :run, :node, :thread"
# PostgreSQL's sequence gives the numbers. SQLite would go on behind whatever row is there, also one
# that somebody planted at the end of all numbers. NULL lets it choose where nothing else is left.
_HIGHEST: Final = highest_number_in_sqlite()
_NEXT: Final = (
    f"nullif(coalesce((SELECT id FROM pipelit_audit WHERE id BETWEEN 1 AND {_HIGHEST} "  # noqa: S608 - fixed words
    f"ORDER BY id DESC LIMIT 1), 0) + 1, {_HIGHEST} + 1)"
)
_SQLITE: Final = Statement(f"INSERT INTO pipelit_audit (id, {_FIELDS}) VALUES ({_NEXT}, {_VALUES})")  # noqa: S608 - fixed words
# Somebody who can write to the table may plant entries where the sequence hasn't been yet. The next
# number is taken then, instead of ending what is to be recorded.
_POSTGRES: Final = Statement(
    f"INSERT INTO pipelit_audit ({_FIELDS}) VALUES ({_VALUES}) ON CONFLICT (id) DO NOTHING"  # noqa: S608 - fixed words
)
_LAST: Final = Statement("SELECT currval(pg_get_serial_sequence('pipelit_audit', 'id')) AS number")
# So many planted entries one after another are stepped over at a time.
_MOST_PLANTED: Final = 100
_PLANTED: Final = "audit.planted"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision.

    Attributes:
        id: Its number; later ones are higher.
        at: When, UTC, by the clock of the machine that wrote it. ``id`` is in the order of writing,
            and stays so when a clock is wrong. A time that no calendar has becomes one at
            the beginning of the year 1, or at the end of 9999.
        actor: Who asked for it; ``operator`` for the library's own caller.
        subject: Whom or what it is about.
        action: What was asked, for example ``verify.audience``.
        outcome: ``ok`` or ``refused``.
        reason: The true reason, also where the caller was told less.
        run: The LangGraph run, if there was one.
        node: The LangGraph node, if there was one.
        thread: The LangGraph thread, if there was one.
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
) -> dict[str, Any]:
    """The row of one entry, for :func:`write`.

    Args:
        at: When, Unix seconds.
        actor: As :class:`AuditEntry`, and what follows too.
        subject: Whom or what it is about.
        action: What was asked.
        outcome: ``ok`` or ``refused``.
        reason: The true reason.
        context: Where it happened; by default where this is called.
    """
    where = run_context() if context is None else context
    return {
        "at": _storable_time(at),
        # What was refused as a name, and what a caller chose, may hold what no database takes.
        "actor": _storable(actor, 149),
        "subject": _storable(subject, 149),
        "action": _storable(action, 32),
        "outcome": _storable(outcome, 16),
        "reason": _storable(reason, 64),
        "run": _storable(where.run, 64),
        "node": _storable(where.node, 149),
        "thread": _storable(where.thread, 149),
    }


def write(connection: Open, *entries: dict[str, Any]) -> None:
    """Writes entries in the caller's transaction.

    On PostgreSQL an entry that was planted ahead of the numbering is stepped over, and an entry
    with the action ``audit.planted`` names its number.

    Raises:
        StorageError: So many entries were planted there that none of the next hundred numbers is
            free.
    """
    if not entries:
        return
    if connection.dialect.name == "sqlite":
        _SQLITE.write(connection, entries)
        return
    left = _POSTGRES.write_each(connection, entries)
    if left:
        number = _written_behind(connection, left)
        found = f"planted entries among the numbers up to {number}"
        planted = entries[0] | {
            "actor": "audit",
            "subject": "audit",
            "action": _PLANTED,
            "outcome": "refused",
            "reason": _storable(found, 64),
        }
        left = _POSTGRES.write_each(connection, [planted])
        if left:
            _written_behind(connection, left)


def _written_behind(connection: Open, left: Sequence[dict[str, Any]]) -> int:
    """Writes entries whose numbers were taken; the last number that was."""
    taken, number = 0, 0
    while left:
        # At least one of the numbers that were drawn last; which, the rows say.
        ((number,),) = _LAST.fetch(connection, {})
        taken += len(left)
        if taken > _MOST_PLANTED:
            raise StorageError(
                f"the numbers of the audit's entries up to {number} are taken: somebody planted "
                "rows in pipelit_audit ahead of its sequence. Nothing is decided while it can't be "
                f"recorded: look at the rows with id > {number - taken} (pipelit-agents audit "
                "verify names them), delete them, and ask again"
            )
        left = _POSTGRES.write_each(connection, left)
    return number


def entry_of(row: Any) -> AuditEntry:
    """An entry of its row."""
    return AuditEntry(**{**row._asdict(), "at": _shown_at(row.at)})


def _shown_at(at: Any) -> datetime:
    # One row with a time that no calendar has doesn't keep the others from being listed.
    try:
        return min(max(datetime.fromtimestamp(at, UTC), _EARLIEST), _LATEST)
    except (OSError, OverflowError, TypeError, ValueError):
        return _EARLIEST if isinstance(at, int | float) and at < 0 else _LATEST


def _storable(given: object, length: int) -> str:
    # Rows are written together, so none may be what the database refuses, or run code of its own.
    if type(given) is not str:
        # Decided by the class: isinstance believes what an object says of itself.
        is_text = issubclass(type(given), str)
        given = str.__str__(given) if is_text else f"<{_class_name(given)}>"
    name = given[:length]
    if name.isascii() and name.isprintable():
        return name
    plain = name.encode("ascii", "backslashreplace").decode()
    # Nor what would drive a terminal, or begin a line of its own.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)[:length]


def _class_name(given: object) -> str:
    # As Python has it; a metaclass may answer something else, or raise.
    return str(type.__dict__["__name__"].__get__(type(given)))


def _storable_time(at: object) -> float:
    number = type(at) is float or type(at) is int
    # The comparison is false for NaN, which SQLite takes for NULL.
    return float(at) if number and -_FARTHEST < at < _FARTHEST else time.time()  # type: ignore[operator, arg-type]
