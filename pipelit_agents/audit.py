"""The audit trail: what was decided, by and about whom, and why. Never a secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, select, text

from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import AuditRow
from pipelit_agents.running import run_context
from pipelit_agents.twins import off_the_loop

__all__ = ["AuditEntry", "AuditTrail", "record"]

_INSERT: Final = text(
    "INSERT INTO pipelit_audit (at, actor, subject, action, outcome, reason, run, node, thread) "
    "VALUES (:at, :actor, :subject, :action, :outcome, :reason, :run, :node, :thread)"
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision.

    Attributes:
        id: Its number; later ones are higher.
        at: When, UTC.
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


def record(
    connection: Connection,
    *,
    at: float,
    actor: str,
    subject: str,
    action: str,
    outcome: str,
    reason: str = "",
) -> None:
    """Writes one entry in the caller's transaction, and where it happened."""
    context = run_context()
    connection.execute(
        _INSERT,
        {
            "at": at,
            # What was refused as a name, and what a caller chose, may hold what no database takes.
            "actor": _storable(actor, 149),
            "subject": _storable(subject, 149),
            "action": _storable(action, 32),
            "outcome": outcome,
            "reason": _storable(reason, 64),
            "run": _storable(context.run, 64),
            "node": _storable(context.node, 149),
            "thread": _storable(context.thread, 149),
        },
    )


def _storable(name: str, length: int) -> str:
    plain = name[:length].encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
    return plain[:length]


class AuditTrail:
    """Reads the trail.

    Args:
        database: Where it stands.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self,
        *,
        limit: int = 100,
        subject: str | None = None,
        actor: str | None = None,
        after: int = 0,
    ) -> Sequence[AuditEntry]:
        """The newest entries, oldest of them first.

        Args:
            limit: How many at the most.
            subject: Only about this account or credential.
            actor: Only asked for by this account.
            after: Only entries with a higher number.
        """
        query = select(AuditRow.__table__).where(AuditRow.id > after)
        if subject is not None:
            query = query.where(AuditRow.subject == subject)
        if actor is not None:
            query = query.where(AuditRow.actor == actor)
        with self._database.reading() as connection:
            rows: Sequence[Any] = connection.execute(
                query.order_by(AuditRow.id.desc()).limit(limit)
            ).all()
        return [
            AuditEntry(
                **{**row._asdict(), "at": datetime.fromtimestamp(row.at, UTC)},
            )
            for row in reversed(rows)
        ]

    alist = off_the_loop(list)  # noqa: A003 - the method is meant
