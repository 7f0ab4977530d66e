"""The audit trail: what was decided, by and about whom, and why. Never a secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from pipelit_agents._bounds import require_count, require_moment
from pipelit_agents._twins import off_the_loop
from pipelit_agents.audit.records import SHOWN_FIELDS, AuditEntry, entry, entry_of, write
from pipelit_agents.audit.seals import AuditHead, AuditReport, Seals
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import AuditRow
from pipelit_agents.display import Rows
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["AuditTrail"]


class AuditTrail:
    """Reads, seals and checks the trail of one database; ``pipelit.audit``.

    Args:
        database: Where it stands.
        keyring: Tags its seals; called when one is needed.
        clock: Unix seconds.
    """

    def __init__(
        self, database: Database, keyring: Callable[[], Keyring], clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._clock = clock
        self.seals = Seals(database, keyring, clock)

    def list(
        self,
        *,
        limit: int = 100,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        outcome: str | None = None,
        since: datetime | None = None,
        after: int | None = None,
    ) -> Sequence[AuditEntry]:
        """The newest entries, oldest of them first, in the order in which they were written.

        Args:
            limit: How many at the most.
            subject: Only about this account or credential.
            actor: Only asked for by this account.
            action: Only of this action, for example ``verify.audience``, or of a group that ends
                with a dot, ``verify.``.
            outcome: ``ok`` or ``refused``.
            since: Only from this moment on, by the time that each entry carries; with a time zone.
                Don't page by it: after one entry from a clock that was ahead, nothing seems newer.
            after: Only entries with a higher number than this one. By default all, also those that
                have none of our numbers.

        Raises:
            TypeError: ``limit`` or ``after`` isn't a whole number, or ``since`` no ``datetime``.
            ValueError: ``since`` has no time zone, ``outcome`` is another word, or ``limit`` is
                less than 1 or more than 2**31 - 1.
        """
        require_count(limit, "limit")
        if after is not None:
            require_count(after, "after", least=-(2**63), most=2**63 - 1)
        if outcome not in (None, "ok", "refused"):
            raise ValueError(f"outcome is 'ok' or 'refused', not {outcome!r:.40}")
        query = select(AuditRow.__table__)
        if after is not None:
            query = query.where(AuditRow.id > after)
        for column, wanted in (
            (AuditRow.subject, subject), (AuditRow.actor, actor), (AuditRow.outcome, outcome)
        ):  # fmt: skip
            if wanted is not None:
                query = query.where(column == wanted)
        if action is not None:
            group = action.endswith(".")
            query = query.where(
                AuditRow.action.startswith(action, autoescape=True)
                if group
                else AuditRow.action == action
            )
        if since is not None:
            query = query.where(AuditRow.at >= _moment("since", since))
        with self._database.reading() as connection:
            rows: Sequence[Any] = connection.execute(
                query.order_by(AuditRow.id.desc()).limit(limit)
            ).all()
        return Rows([entry_of(row) for row in reversed(rows)], SHOWN_FIELDS)

    alist = off_the_loop(list)  # noqa: A003 - the method is meant

    def seal(self, *, batch: int = 1000) -> int:
        """Seals the entries that came since the last time, so that changing them shows.

        For a timer, and for who is about to export a head. However many do it at once, each entry
        is sealed once. Nobody waits for it: verifications and other transactions go on. Nor does
        it wait: an entry of a transaction that is still open is sealed after it has ended, also
        where later entries are sealed already.

        Args:
            batch: How many entries stand under one seal.

        Returns:
            How many were sealed.

        Raises:
            AuditTampered: The newest seal isn't one of ours: nothing is built on it.
            ConfigurationError: There is no key.
        """
        return self.seals.seal(require_count(batch, "batch"))

    aseal = off_the_loop(seal)

    def head(self) -> AuditHead:
        """The newest seal. Kept away from the database's writers, it shows a cut-off end."""
        return self.seals.head()

    ahead = off_the_loop(head)

    def verify(self, heads: AuditHead | Sequence[AuditHead] = ()) -> AuditReport:
        """Checks the whole trail against its seals.

        Args:
            heads: Those that were kept; what was sealed by then has to be there. Without any,
                deleting the newest seals with their entries doesn't show.

        Returns:
            What was found. Entries that aren't sealed yet are counted and can't be checked.

        Raises:
            ConfigurationError: There is no key.
        """
        return self.seals.verify([heads] if isinstance(heads, AuditHead) else heads)

    averify = off_the_loop(verify)

    def prune(self, before: datetime, *, by: str = "operator") -> int:
        """Deletes sealed entries from before a moment, in whole batches; the seals stay.

        What is left stays checkable, and that something was pruned is under the key too. The newest
        sealed batch stays, however old it is.

        A batch is as old as its newest entry. Where its times can't be right, because they are
        later than its seal or earlier than the batch before it, it is as old as its seal. An entry
        that is dated in the future keeps nothing: it goes with its batch, when the next one is old
        enough. Such entries are in the notes of :meth:`verify`.

        Args:
            before: With a time zone.
            by: Who asked for it, for the record.

        Returns:
            How many entries were deleted.

        Raises:
            ValueError: ``before`` has no time zone, or isn't from the year 1970 to 9998.
            AuditTampered: A batch isn't as it was sealed; it and what follows stays.
            ConfigurationError: There is no key.
        """
        deleted = self.seals.prune(require_moment(before, "before"))
        if deleted:
            with self._database.writing(durable=True) as connection:
                write(
                    connection,
                    entry(
                        at=self._clock(),
                        actor=by,
                        subject="audit",
                        action="audit.prune",
                        outcome="ok",
                        reason=f"{deleted} before {before.astimezone(UTC):%Y-%m-%d %H:%M}",
                    ),
                )
        return deleted

    aprune = off_the_loop(prune)


def _moment(argument: str, at: datetime) -> float:
    if not isinstance(at, datetime):
        raise TypeError(
            f"{argument} has to be a datetime, for example datetime.now(UTC) - timedelta(hours=2)"
        )
    if at.tzinfo is None:
        raise ValueError(f"{argument} needs a time zone, for example datetime.now(UTC)")
    return at.timestamp()
