"""Delete sealed entries, so that the rest of the trail can still be verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, and_, case, delete, func, select, update

from pipelit_agents.audit.seal_rows import (
    SealRow,
    all_seals,
    is_formed,
    is_pruned,
    is_signed,
    next_seal,
    sign,
    tampered,
)
from pipelit_agents.audit.sealed_entries import (
    CLOCK_TOLERANCE,
    START,
    conditions,
    covered_elsewhere,
    read_sealed,
)
from pipelit_agents.database.engine import Database
from pipelit_agents.database.key_row import check_fitting, fitting_keyring
from pipelit_agents.database.models import AuditRow, AuditSealRow
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["prune"]


def prune(
    database: Database,
    keyring: Keyring,
    clock: Callable[[], float],
    before: float,
    record: Callable[[Connection, int], None],
) -> int:
    """Delete sealed entries in whole batches; see ``AuditTrail.prune``.

    Args:
        database: The database of the trail.
        keyring: The keys of the seals.
        clock: Returns Unix seconds.
        before: The time, in Unix seconds.
        record: Records how many entries will be deleted, in the transaction that deletes the first
            batch. So there is a record also if a later batch was changed, or the process is killed.
    """
    total = 0
    with database.reading() as connection:
        check_fitting(connection, keyring)
        seals = all_seals(connection)
        upto, broken = _last_older(connection, seals, before, clock())
    # Entries that arrive late from now on belong to gaps that are already recorded.
    elsewhere, _ = covered_elsewhere(seals)
    planned = sum(each.entries for each in seals if each.number <= upto and not each.pruned)
    first, digest, number = 0, START, 0
    while number < upto:
        with database.writing(durable=True) as connection:
            database.lock(connection, "audit:seal")
            seal = next_seal(connection, number)
            if seal is None:
                return total
            if not is_formed(seal) or not is_signed(keyring, seal):
                raise tampered(seal)
            found = read_sealed(connection, seal, digest, first, elsewhere)
            if seal.pruned:
                if found.entries or not is_pruned(keyring, seal):
                    raise tampered(seal)
            elif (found.entries, found.digest) != (seal.entries, seal.digest):
                raise tampered(seal)
            else:
                if seal.entries and not total:
                    record(connection, planned)
                for some in conditions(found.numbers):
                    connection.execute(delete(AuditRow).where(some))
                tag = sign(fitting_keyring(connection, keyring), seal, pruned=True)
                connection.execute(
                    update(AuditSealRow)
                    .where(AuditSealRow.number == seal.number)
                    .values(pruned=tag)
                )
                total += seal.entries
        first, digest, number = seal.last_id, seal.digest, seal.number
    if broken is not None:
        raise tampered(broken)
    return total


def _last_older(
    connection: Connection, seals: Sequence[SealRow], before: float, now: float
) -> tuple[int, SealRow | None]:
    """Return the last seal whose entries, and all entries before, are older than a given time.

    The order of the entries is certain, but their times depend on clocks. A time in the future
    is ignored: its batch is as old as the next batch with a usable time. If only some entries
    are later than their seal, their clock was ahead, and the seal's time counts. The seal's
    time also counts if all entries are dated before the previous batch, because then their
    clock was behind.

    Returns:
        The seal's number, or 0; and the next seal if it is malformed, or None.
    """
    found, first, newest = 0, 0, float("-inf")
    # Keep the newest batch, so that no new entry gets the number of a deleted one.
    for seal in seals[:-1]:
        if not is_formed(seal):
            return found, seal
        within = and_(AuditRow.id > first, AuditRow.id <= seal.last_id)
        at, sealed_at = AuditRow.at, float(seal.sealed_at)
        by_seal, by_now, ahead = connection.execute(
            select(
                func.max(case((at <= sealed_at, at))),
                func.max(case((at <= now, at))),
                func.count(case((at > sealed_at, 1))),
            ).where(within)
        ).one()
        is_plausible = newest <= sealed_at <= now
        if by_now is not None and by_now < newest - CLOCK_TOLERANCE:
            # All entries are dated before the entries that precede them.
            dated = sealed_at if is_plausible else None
        elif ahead and by_seal is not None and is_plausible:
            dated = sealed_at
        else:
            dated = by_now
        if isinstance(dated, int | float):
            newest = max(newest, dated)
            if newest >= before:
                break
            found = seal.number
        first = seal.last_id
    return found, None
