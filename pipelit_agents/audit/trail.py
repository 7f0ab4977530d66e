"""The audit trail: each decision with its actor, its subject and its reason, and never a secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy.orm import aliased

from pipelit_agents._bounds import require_count, require_moment
from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted
from pipelit_agents.audit import pruning, verifying
from pipelit_agents.audit.records import SHOWN_FIELDS, AuditEntry, entry, entry_of, write
from pipelit_agents.audit.seals import AuditHead, Seals
from pipelit_agents.audit.verifying import AuditReport
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import AuditRow
from pipelit_agents.display import Rows
from pipelit_agents.paging import DEFAULT_LIMIT, Page, not_a_cursor, require_limit
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["AuditTrail"]

# How many entries a page looks at, if it has filters.
_MOST_LOOKED_AT: Final = 5000
_MINUTE: Final = "%Y-%m-%d %H:%M"
_NUMBER: Final = re.compile(r"-?\d{1,19}", re.ASCII)


class AuditTrail:
    """Read, seal and verify the audit trail of one database; ``pipelit.audit``.

    Args:
        database: The database of the trail.
        keyring: Returns the keyring for the seals' tags; called when it is needed.
        clock: Returns Unix seconds.
    """

    def __init__(
        self, database: Database, keyring: Callable[[], Keyring], clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self.seals: Seals = Seals(database, keyring, clock)

    def list(
        self,
        *,
        limit: int = 100,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        outcome: str | None = None,
        person: str | None = None,
        since: datetime | None = None,
        after: int | None = None,
    ) -> Sequence[AuditEntry]:
        """Return the newest entries, in the order in which they were written.

        Args:
            limit: The maximum number of entries.
            subject: Only entries about this account or credential.
            actor: Only requests of this account.
            action: Only this action, for example ``verify.audience``, or a group of actions that
                ends with a dot, ``verify.``.
            outcome: Only ``ok`` or only ``refused``.
            person: Only entries about credentials that were opened for this person, or that are
                this person's own.
            since: Only entries from this time on, by the time in each entry; needs a time zone.
                Don't use it for paging: after one entry from a clock that was ahead, later entries
                don't seem newer.
            after: Only entries with a higher number than this one. By default all entries, even
                those with numbers outside the numbering.

        Raises:
            TypeError: ``limit`` or ``after`` isn't a whole number, or ``since`` isn't a
                ``datetime``.
            ValueError: ``since`` has no time zone, ``outcome`` is another word, or ``limit`` is
                less than 1 or more than 2**31 - 1.
        """
        require_count(limit, "limit")
        if after is not None:
            require_count(after, "after", least=-(2**63), most=2**63 - 1)
        where = _conditions(subject, actor, action, outcome, person)
        if after is not None:
            where.append(AuditRow.id > after)
        if since is not None:
            where.append(AuditRow.at >= _moment("since", since))
        query = select(AuditRow.__table__).where(*where)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(AuditRow.id.desc()).limit(limit))
            rows = found.mappings().all()
        return Rows([entry_of(row) for row in reversed(rows)], SHOWN_FIELDS)

    alist: Final = off_the_loop(list)  # noqa: A003 - the method is meant

    def page(
        self,
        *,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        outcome: str | None = None,
        person: str | None = None,
        since: datetime | None = None,
        oldest_first: bool = False,
    ) -> Page[AuditEntry]:
        """Return one page of the entries, the newest first.

        A page looks at a bounded number of entries, so with filters it may have few items, or none,
        although others follow.

        Args:
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of entries, 1 to 1,000.
            subject: As for ``list``.
            actor: As for ``list``.
            action: As for ``list``.
            outcome: As for ``list``.
            person: As for ``list``.
            since: As for ``list``.
            oldest_first: Whether the oldest entries come first, as for an export.

        Raises:
            TypeError: ``limit`` isn't a whole number, or ``since`` isn't a ``datetime``.
            ValueError: As for ``list``, or ``after`` isn't the ``next`` of a page.
        """
        require_limit(limit)
        moment = None if since is None else _moment("since", since)
        order = AuditRow.id.asc() if oldest_first else AuditRow.id.desc()
        # The subject has an index of its own. For all others, a number of entries is looked at.
        filtered = any(each is not None for each in (actor, action, outcome, person, since))
        most = _MOST_LOOKED_AT if filtered else limit + 1
        looked_at = select(AuditRow.__table__)
        if subject is not None:
            looked_at = looked_at.where(AuditRow.subject == subject)
        if after is not None:
            last = _read_number(after)
            looked_at = looked_at.where(AuditRow.id > last if oldest_first else AuditRow.id < last)
        some = looked_at.order_by(order).limit(most).subquery()
        entry_row = aliased(AuditRow, some)
        wanted = select(some).where(
            *_conditions(subject, actor, action, outcome, person, entry_row)
        )
        if moment is not None:
            wanted = wanted.where(some.c.at >= moment)
        with self._database.reading() as connection:
            found = connection.execute(
                wanted.order_by(some.c.id.asc() if oldest_first else some.c.id.desc()).limit(
                    limit + 1
                )
            )
            rows = found.mappings().all()
            items = [entry_of(row) for row in rows[:limit]]
            if len(rows) > limit:
                return Page(items, str(items[-1].id))
            ends = select(
                func.count(), func.min(some.c.id), func.max(some.c.id), func.max(some.c.at)
            )
            count, lowest, highest, newest = connection.execute(ends).one()
        if count < most:
            return Page(items)
        if moment is not None and not oldest_first and newest < moment:
            # So many earlier entries in a row aren't from one wrong clock: nothing newer follows.
            return Page(items)
        return Page(items, str(highest if oldest_first else lowest))

    apage: Final = off_the_loop(page)

    def seal(self, *, batch: int = 1000) -> int:
        """Seal the new entries, so that changes to them can be detected.

        Call it from a timer, and before you export a head. Several processes can call it at the
        same time; each entry is sealed once. It blocks no verification or other transaction, and
        it waits for none: an entry of an open transaction is sealed after the transaction has
        ended, even if later entries are already sealed.

        Args:
            batch: The maximum number of new entries under one seal.

        Returns:
            The number of entries that were sealed.

        Raises:
            AuditTampered: The newest seal isn't valid, so no seal can follow it.
            ConfigurationError: There is no key, or the newest one isn't this database's.
        """
        return self.seals.seal(require_count(batch, "batch"))

    aseal: Final = off_the_loop(seal)

    def head(self) -> AuditHead:
        """Return the chain head: the newest seal.

        Deletion of the newest seals can only be detected if you keep a copy of the chain head.
        Store it where the database's users can't write.
        """
        return self.seals.head()

    ahead: Final = off_the_loop(head)

    def verify(self, heads: AuditHead | Sequence[AuditHead] = ()) -> AuditReport:
        """Verify the whole trail against its seals.

        Args:
            heads: Heads that you kept. The trail must contain their seals. Without a head, deletion
                of the newest seals with their entries isn't detected.

        Returns:
            The findings. Entries that aren't sealed yet are counted but can't be verified.

        Raises:
            ConfigurationError: There is no key.
            TypeError: ``heads`` is something else, such as the line of a head.
        """
        return verifying.verify(self._database, self._keyring(), self._clock, _kept(heads))

    averify: Final = off_the_loop(verify)

    def prune(self, before: datetime, *, by: str = "operator") -> int:
        """Delete sealed entries from before a given time, in whole batches. The seals are kept.

        The remaining trail can still be verified, and the fact that entries were pruned is
        protected by the key too. The newest sealed batch is kept, however old it is.

        A batch is as old as its newest entry. If its times can't be right, because they are later
        than its seal or earlier than the batch before it, it is as old as its seal. An entry with a
        time in the future doesn't prevent pruning: its batch is deleted when the next one is old
        enough. ``verify`` lists such entries in its notes.

        Args:
            before: The time, with a time zone.
            by: The account that requested it, for the record.

        Returns:
            The number of deleted entries.

        Raises:
            ValueError: ``before`` has no time zone, or isn't between the years 1970 and 9998.
            AuditTampered: A batch was changed after it was sealed. It and later batches are kept.
            ConfigurationError: There is no key, or the newest one isn't this database's.
        """
        moment = require_moment(before, "before")

        def record(connection: Connection, planned: int) -> None:
            reason = f"{planned} before {before.astimezone(UTC):{_MINUTE}}"
            self._record_in(connection, by, "audit.prune", reason)

        return pruning.prune(self._database, self._keyring(), self._clock, moment, record)

    aprune: Final = off_the_loop(prune)

    def record_export(self, *, by: str, filters: Sequence[str] = ()) -> None:
        """Record that somebody gets the entries, all or many of them, to keep them elsewhere.

        The desk calls this before its export. Call it where your own code hands the trail out.

        Args:
            by: The account that requested it.
            filters: The names of the filters that select the entries, not what they select.

        Example:
            ```python
            pipelit.audit.record_export(by="alice")
            page = pipelit.audit.page(limit=1000, oldest_first=True)
            ```
        """
        self._record(by, "audit.export", f"by {', '.join(filters)}" if filters else "all entries")

    arecord_export: Final = off_the_loop(record_export)

    def _record(self, by: str, action: str, reason: str) -> None:
        with self._database.writing(durable=True) as connection:
            self._record_in(connection, by, action, reason)

    def _record_in(self, connection: Connection, by: str, action: str, reason: str) -> None:
        at = self._clock()
        write(
            connection,
            entry(at=at, actor=by, subject="audit", action=action, outcome="ok", reason=reason),
        )


def _kept(heads: object) -> Sequence[AuditHead]:
    """Return the heads that somebody kept, as a list."""
    if isinstance(heads, AuditHead):
        return [heads]
    # A text isn't a list of heads, and that of an empty file would be an empty list.
    if isinstance(heads, Iterable) and not isinstance(heads, str | bytes):
        listed = list(heads)
        if all(isinstance(each, AuditHead) for each in listed):
            return listed
    raise TypeError("heads must be AuditHead or a list of them: AuditHead.from_json(line)")


def _conditions(
    subject: str | None,
    actor: str | None,
    action: str | None,
    outcome: str | None,
    person: str | None,
    row: type[AuditRow] = AuditRow,
) -> list[ColumnElement[bool]]:
    if outcome not in (None, "ok", "refused"):
        raise ValueError(f"outcome must be 'ok' or 'refused', not {quoted(outcome)}")
    filters = {"subject": subject, "actor": actor, "action": action, "person": person}
    for argument, wanted in filters.items():
        if not isinstance(wanted, str | None):
            raise TypeError(f"{argument} must be text, not {type(wanted).__name__}")
    where: list[ColumnElement[bool]] = [
        column == wanted
        for column, wanted in (
            (row.subject, subject), (row.actor, actor), (row.outcome, outcome),
            (row.person, person),
        )
        if wanted is not None
    ]  # fmt: skip
    if action is not None:
        group = action.endswith(".")
        where.append(
            row.action.startswith(action, autoescape=True) if group else row.action == action
        )
    return where


def _read_number(after: object) -> int:
    """Return the number of an entry in a cursor."""
    if not isinstance(after, str) or not _NUMBER.fullmatch(after):
        raise not_a_cursor(after)
    number = int(after)
    if not -(2**63) <= number < 2**63:
        raise not_a_cursor(after)
    return number


def _moment(argument: str, at: datetime) -> float:
    if not isinstance(at, datetime):
        raise TypeError(
            f"{argument} must be a datetime, for example datetime.now(UTC) - timedelta(hours=2)"
        )
    if at.tzinfo is None:
        raise ValueError(f"{argument} needs a time zone, for example datetime.now(UTC)")
    return at.timestamp()
