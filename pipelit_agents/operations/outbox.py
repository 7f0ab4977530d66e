"""Which notice may be sent now, and by whom: one row for each step of a question.

The question itself is the notice that waits: it is stored in one transaction, and a row here begins
with the first attempt. So no notice is lost between the two. An attempt is claimed by a conditional
write, so of several processes one sends. Its claim ends by itself, in case the process is killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, select, text, update

from pipelit_agents._core import Core
from pipelit_agents.database.models import ApprovalNoticeRow, ApprovalRow
from pipelit_agents.database.planted import all_rows, as_stored
from pipelit_agents.operations.webhooks import Delivery
from pipelit_agents.protocol.usernames import OPERATOR

__all__ = ["Claim", "Waiting", "claim", "settle", "waiting"]

# Seconds until the next attempt, after the first, the second, … The last one is repeated.
DELAYS: Final = (5, 15, 60, 300, 900, 1_800, 3_600)
# Seconds, beyond the time that the attempt may take.
LEASE: Final = 60.0
# Seconds. A row that is due later was written by a clock that was wrong.
_LATEST: Final = 2 * 86_400.0
# Attempts; at one a day, no notice has as many.
_MOST: Final = 1_000_000
_ACTION: Final = "approval.notify"
_CLAIM_FIRST: Final = text(
    "INSERT INTO pipelit_approval_notices (approval_id, step, attempts, due_at) "
    "VALUES (:approval_id, :step, 1, :due_at) ON CONFLICT (approval_id, step) DO NOTHING"
)


class Claim(NamedTuple):
    """The right to make one attempt.

    Attributes:
        approval_id: The question.
        step: Which of its steps, from 1.
        attempt: The number of the attempt, from 1.
        at: The time of the claim, Unix seconds.
        address: The fingerprint of the receiver's address; empty for a function.
    """

    approval_id: str
    step: int
    attempt: int
    at: float
    address: str


class Waiting(NamedTuple):
    """The notice of a question that wasn't delivered.

    Attributes:
        approval_id: The question.
        attempts: The number of earlier attempts.
        is_due: Whether the next attempt may be made now.
    """

    approval_id: str
    attempts: int
    is_due: bool


class _Row(NamedTuple):
    """A row as it is stored. It has no tag, so on SQLite its values may be of any type."""

    attempts: object
    due_at: object
    delivered_at: object
    gone: object

    @property
    def attempt(self) -> int:
        """The number of the last attempt; 0 if it is none that we wrote."""
        found = self.attempts
        return found if type(found) is int and 0 < found < _MOST else 0

    def is_due(self, now: float, address: str) -> bool:
        if self.delivered_at is not None or (address and self.gone == address):
            return False
        # A time that is none was planted, and keeps nobody waiting.
        due_at = self.due_at if isinstance(self.due_at, int | float) else 0.0
        return not now < due_at <= now + _LATEST


_ROW: Final = select(*(ApprovalNoticeRow.__table__.c[name] for name in _Row._fields))


def claim(core: Core, approval_id: str, step: int, address: str, within: float) -> Claim | None:
    """Claim the next attempt; return None if it isn't due, or another process has claimed it.

    Args:
        core: The database and the clock that all processes share.
        approval_id: The question, which is pending.
        step: Its present step.
        address: As of a `Claim`.
        within: The longest time that the attempt takes, in seconds.
    """
    with core.database.reading() as connection:
        row = _read(connection, approval_id, step)
        # Most calls end here: a gate asks each time its graph is woken.
        if row is not None and not row.is_due(core.shared_now(connection), address):
            return None
    with core.database.writing() as connection:
        now = core.shared_now(connection)
        until = now + within + LEASE
        if row is None:
            _prune(core, connection, now)
            values = {"approval_id": approval_id, "step": step, "due_at": until}
            done = connection.execute(_CLAIM_FIRST, values).rowcount
            attempt = 1
        else:
            attempt = row.attempt + 1
            done = connection.execute(
                update(ApprovalNoticeRow)
                .where(*_of(approval_id, step), *_unchanged(row))
                .values(attempts=attempt, due_at=until)
            ).rowcount
    return Claim(approval_id, step, attempt, now, address) if done == 1 else None


def settle(core: Core, claimed: Claim, delivery: Delivery) -> float | None:
    """Record what became of an attempt; return when the next one is due, or None for never."""
    delay = max(float(DELAYS[min(claimed.attempt, len(DELAYS)) - 1]), delivery.retry_after)
    with core.database.writing() as connection:
        now = core.shared_now(connection)
        where = [*_of(claimed.approval_id, claimed.step), ApprovalNoticeRow.delivered_at.is_(None)]
        if delivery.delivered:
            values: dict[str, object] = {"delivered_at": now}
        else:
            # If another process has claimed it meanwhile, that attempt counts.
            where.append(ApprovalNoticeRow.attempts == claimed.attempt)
            values = {"due_at": now + delay}
            if delivery.gone:
                values["gone"] = claimed.address
        connection.execute(update(ApprovalNoticeRow).where(*where).values(**values))
        core.record(
            connection,
            OPERATOR,
            claimed.approval_id,
            _ACTION,
            ", ".join(filter(None, (f"step {claimed.step}", delivery.reason))),
            outcome="ok" if delivery.delivered else "refused",
            at=now,
        )
    return None if delivery.delivered or delivery.gone else now + delay


def waiting(
    connection: Connection, steps: Iterable[tuple[str, int]], now: float, address: str
) -> list[Waiting]:
    """Return the notices that weren't delivered, in the order of their questions.

    Args:
        connection: A transaction.
        steps: Questions, each with its present step.
        now: The time, Unix seconds.
        address: As of a `Claim`.
    """
    columns = ApprovalNoticeRow.__table__.c
    rows = all_rows(
        connection,
        select(columns.approval_id, columns.step, *(columns[name] for name in _Row._fields)),
    )
    known = {(identifier, step): _Row(*rest) for identifier, step, *rest in rows}
    found = []
    for each in steps:
        row = known.get(each)
        if row is None:
            found.append(Waiting(each[0], 0, is_due=True))
        elif row.delivered_at is None:
            found.append(Waiting(each[0], row.attempt, row.is_due(now, address)))
    return found


def _read(connection: Connection, approval_id: str, step: int) -> _Row | None:
    found = all_rows(connection, _ROW.where(*_of(approval_id, step)))
    return _Row(*found[0]) if found else None


def _of(approval_id: str, step: int) -> list[ColumnElement[bool]]:
    return [ApprovalNoticeRow.approval_id == approval_id, ApprovalNoticeRow.step == step]


def _unchanged(row: _Row) -> list[ColumnElement[bool]]:
    return [
        ApprovalNoticeRow.attempts == as_stored(row.attempts),
        ApprovalNoticeRow.due_at == as_stored(row.due_at),
        ApprovalNoticeRow.delivered_at.is_(None),
    ]


def _prune(core: Core, connection: Connection, now: float) -> None:
    """Delete the rows of questions that nobody can answer any more."""
    # Two processes that delete the same rows in another order would wait for each other.
    core.database.lock(connection, "notices:prune")
    is_open = (ApprovalRow.state == "pending") & (ApprovalRow.expires_at > now)
    connection.execute(
        delete(ApprovalNoticeRow).where(
            ApprovalNoticeRow.approval_id.not_in(select(ApprovalRow.id).where(is_open))
        )
    )
