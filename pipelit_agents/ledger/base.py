"""What every ledger decides, and in which words; where it counts is its own affair."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from sqlalchemy import Connection, text

from pipelit_agents.audit.records import entry, write
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Open, Statement
from pipelit_agents.errors import LedgerUnavailable
from pipelit_agents.ledger.rules import (
    EARLIEST,
    Found,
    Lane,
    LaneKind,
    Rules,
    Verdict,
    class_of,
    expired,
    window_of,
)
from pipelit_agents.policy import LaneClass
from pipelit_agents.protocol.binding import PERIOD
from pipelit_agents.protocol.usernames import require_username

__all__ = [
    "Account",
    "Attempt",
    "CodeKind",
    "Decision",
    "Forgotten",
    "Ledger",
    "Life",
    "account_at",
    "account_of",
    "begin_secret",
    "charge_first_code",
    "clock_trouble",
    "compared",
    "find_steps",
    "is_person",
    "lane_name",
    "last_forgotten",
    "ledger_now",
    "lock_attempt",
    "read_lane_name",
    "record_decision",
    "unlock",
    "wait_for_first_code",
    "was_expired",
]

CodeKind = Literal["audience", "plain"]

_KNOWN: Final = text(
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, locked_until, "
    "spent_step) VALUES (:peer, :scope, :subject, 1, 0, '', 0, -1) ON CONFLICT DO NOTHING"
)
# Of a query with the verifier's account as v and the peer's as p.
# A person verifies nobody but herself: no handle acts as one.
VERIFIER_ACTIVE: Final = (
    "(v.active AND v.domain = '' AND (v.kind = 'agent' OR v.username = p.username))"
)
# What it tries is counted apart, so that it closes no lane of those who may verify. Who shows a
# person's code is the peer itself, also where there is no such account.
UNFIT_VERIFIER: Final = (
    f"(:verifier <> :peer AND CASE WHEN {VERIFIER_ACTIVE} THEN 0 ELSE 1 END = 1)"
)
# Peers of other domains have no family here, and a deactivated agent is counted as an unknown name.
IN_FAMILY: Final = "(p.kind = 'agent' AND p.active AND v.root_owner = p.root_owner)"
SHARED_LANE: Final = (
    "CASE WHEN :first THEN 'first' "
    "WHEN :own AND p.kind = 'human' AND p.domain = '' THEN 'self' "
    f"WHEN {IN_FAMILY} THEN 'family' ELSE 'others' END"
)
_OWN_LANES: Final = (
    "FROM pipelit_ledger l JOIN pipelit_users p ON p.username = l.peer "
    "LEFT JOIN pipelit_users v ON v.username = l.subject AND v.active "
    "WHERE l.peer = :peer AND l.scope = 'plain' AND "
)
# Counted and inserted in one transaction, in which attempts about one peer follow each other. The
# lane of a verifier that was deactivated is given to another with what was counted in it; otherwise
# new agents would be new guesses.
GIVE_OWN_LANE: Final = Statement(
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, recent, locked_until, spent_step, "
    "in_a_row, whole_at) SELECT CAST(:peer AS VARCHAR), 'plain', CAST(:verifier AS VARCHAR), 1, "
    f"'', 0, -1, (SELECT COALESCE(max(l.in_a_row), 0) {_OWN_LANES} v.username IS NULL), "
    f"(SELECT COALESCE(max(l.whole_at), 0) {_OWN_LANES} v.username IS NULL) "
    f"WHERE (SELECT count(*) {_OWN_LANES} v.username IS NOT NULL AND NOT {IN_FAMILY}) "
    "< :own_lanes ON CONFLICT DO NOTHING"
)
_EPOCH: Final = Statement(
    "UPDATE pipelit_epoch SET boot_id = :boot_id, changed_at = :at, clock_offset = :offset "
    "WHERE id = 1"
)
_NEWEST: Final = Statement(
    "SELECT (SELECT max(created_at) FROM pipelit_users) AS made, "
    "(SELECT max(spent_step) FROM pipelit_ledger) AS spent, "
    "(SELECT max(at) FROM (SELECT at FROM pipelit_audit ORDER BY id DESC LIMIT 1000) AS newest) "
    "AS audited"
)
_ONE_LANE: Final = " AND scope = :scope AND subject = :subject"
_COUNTED: Final = (
    "SELECT l.scope, l.subject, l.in_a_row, l.locked_until, l.whole_at, p.kind, p.domain "
    "FROM pipelit_ledger l LEFT JOIN pipelit_users p ON p.username = l.peer WHERE l.peer = :peer"
)
_COUNTED_IN_ALL: Final = text(_COUNTED)
_COUNTED_IN_ONE: Final = text(_COUNTED + _ONE_LANE)
_RECOUNT: Final = text(
    "UPDATE pipelit_ledger SET in_a_row = :in_a_row, recent = '', locked_until = :locked_until, "  # noqa: S608 - our words
    "whole_at = :whole_at, version = version + 1, "
    "unlocks = CASE WHEN unlocks < :at THEN :at ELSE unlocks + 1 END "
    f"WHERE peer = :peer{_ONE_LANE}"
)
_UNSPEND: Final = (
    "UPDATE pipelit_ledger SET "
    "spent_step = CASE WHEN spent_step > :last THEN :last ELSE spent_step END, "
    "spent_previous = CASE WHEN spent_previous > :last THEN :last ELSE spent_previous END "
    "WHERE peer = :peer"
)
_UNSPEND_ALL: Final = text(_UNSPEND)
_UNSPEND_ONE: Final = text(_UNSPEND + _ONE_LANE)
_AHEAD: Final = text(
    "SELECT scope, subject, spent_step, spent_previous, spent_ahead FROM pipelit_ledger "
    "WHERE peer = :peer AND (spent_step > :last OR spent_previous > :last)"
)
_SPENT_AT: Final = text(
    "SELECT at FROM pipelit_audit WHERE subject = :peer AND action = :action AND outcome = 'ok' "
    "AND (:actor = '' OR actor = :actor) AND at >= :begin AND at < :end ORDER BY id"
)
_KEEP_AHEAD: Final = text(
    "UPDATE pipelit_ledger SET spent_ahead = :ahead "
    "WHERE peer = :peer AND scope = :scope AND subject = :subject"
)
_NEW_SECRET: Final = text(
    "UPDATE pipelit_ledger SET spent_previous = spent_step, spent_step = -1 WHERE peer = :peer"
)
_FIRST_CODES: Final = Statement(
    "SELECT whole_at FROM pipelit_ledger WHERE peer = :peer AND scope = 'first' AND subject = ''"
)
_CHARGE_FIRST_CODE: Final = Statement(
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, locked_until, "
    "spent_step, whole_at) VALUES (:peer, 'first', '', 1, 0, '', 0, -1, :whole_at) "
    "ON CONFLICT (peer, scope, subject) DO UPDATE SET whole_at = excluded.whole_at"
)
_NEW_GENERATION: Final = text(
    "UPDATE pipelit_users SET totp_generation = CASE WHEN totp_generation < :at THEN :at "
    "ELSE totp_generation + 1 END WHERE username = :peer"
)
# A step of the clock by less can't make a code good that was spent before a restart: that takes
# longer.
_LARGEST_STEP: Final = 5.0
_LANES: Final[dict[str, LaneKind]] = {"audience": "pair", "plain": "plain", "nobody": "nobody"}
_SHARED: Final = ("self", "family", "others", "first")
_CLOCK: Final = "ledger.clock"
_BOOT: Final = "ledger.boot"
_TWO_KERNELS: Final = "two kernels use the file"
_BOOTS: Final = Statement(
    "SELECT reason FROM pipelit_audit WHERE subject = 'ledger' AND action = :action "
    "AND at > :since ORDER BY id DESC LIMIT 200"
)
_CHANGED: Final = re.compile(r"boot id (.{1,8}) after (.{1,8})\Z")
# Boot ids are random, so one that comes back within this time, in seconds, is another kernel's that
# runs beside this one. Longer ago, a volume may have been moved there and back.
_BOTH_WITHIN: Final = 3600.0
_LOCK: Final = "lane.lock"


class Account(NamedTuple):
    """What is needed of a peer to evaluate its code: its sealed secrets, and its peering."""

    username: str
    secret: str | None
    previous: str | None
    relation: str = ""


class Attempt(NamedTuple):
    """One attempt of a verifier to verify a peer; the names are in their normal form.

    Attributes:
        matches: Given the account (None if there is none) and a range of steps, those in which
            the code is right, in any order.
        own: Whether somebody who is authenticated as the peer asks. It counts for people only.
        first: Whether it spends a person's first code, which was found to be right. No lock of the
            other lanes holds it.
        named: The account that the caller named, where another name is counted in its place.
        unfit: Why no code of that account can be right; for the audit.
    """

    verifier: str
    peer: str
    kind: CodeKind
    matches: Callable[[Account | None, range], Sequence[int]]
    own: bool = False
    named: str = ""
    unfit: str = ""
    first: bool = False


class Decision(NamedTuple):
    """What the ledger decided; the true reason is in the audit only."""

    verdict: Verdict
    at: float
    step: int = 0
    retry_after: float | None = None


class Life(NamedTuple):
    """By what a ledger notices that commits may have been lost, or that the clock was set.

    Attributes:
        epoch: Names the life of the machine that keeps the database; empty where no commit that
            was confirmed can be lost.
        uptime: Seconds since that machine was started, which no clock setting changes; None where
            that isn't known.
    """

    epoch: Callable[[], str]
    uptime: Callable[[], float] | None


class Forgotten(NamedTuple):
    """What a ledger may have forgotten.

    Attributes:
        step: The last time step that may have been spent in commits that a power cut undid.
        unfit: Why no code is accepted at all; empty where one may be.
        kernels: The boot ids of two kernels that use the file at the same time, shortened; empty
            where there is one.
    """

    step: int
    unfit: str = ""
    kernels: tuple[str, ...] = ()

    def require_one_kernel(self, attempt: Attempt) -> None:
        """Refuse to decide where each kernel's checks undo what the other's have established.

        It doesn't depend on the peer or the code, so nobody learns anything from it.

        Raises:
            LedgerUnavailable: Two kernels use the file.
        """
        if self.kernels:
            raise LedgerUnavailable(
                f"nothing is accepted: {described(self.kernels)}: use the file from one of them "
                "only, or use PostgreSQL (setting: PIPELIT_DATABASE_URL)",
                peer=attempt.peer,
                verifier=attempt.verifier,
            )


def described(kernels: Sequence[str]) -> str:
    """Return in words that kernels use one file, by their boot ids."""
    return (
        f"two kernels use this SQLite file, with the boot ids {' and '.join(kernels)}, for example "
        "a virtual machine beside its host, or two nodes with one volume; SQLite's locks and log "
        "don't work between them"
    )


def kernels_at(connection: Open, now: float) -> tuple[str, ...]:
    """Return the boot ids of two kernels that used the file in the last hour, or nothing."""
    rows = _BOOTS.fetch(connection, {"action": _BOOT, "since": now - _BOTH_WITHIN})
    replaced: set[str] = set()
    for row in reversed(rows):
        found = _CHANGED.match(row.reason)
        if found is None:
            continue
        new, old = found.groups()
        if new in replaced:
            return new, old
        replaced.add(old)
    return ()


def _record_boot(connection: Open, verifier: str, new: str, old: str, now: float) -> None:
    written = entry(
        at=now,
        actor=verifier,
        subject="ledger",
        action=_BOOT,
        outcome="ok",
        reason=f"boot id {new[:8] or '-'} after {old[:8] or '-'}",
    )
    write(connection, written)


class Ledger(Protocol):
    """Counts attempts and spends codes, each in one atomic step."""

    def decide(self, attempt: Attempt) -> Decision:
        """Decides one attempt; it is durable, and audited, when this returns.

        Raises:
            LedgerUnavailable: Attempts can't be counted; nothing is accepted.
            UnsealError: The peer's secret doesn't open under this keyring.
        """

    def check(self) -> str:
        """Makes sure that it can count, and says where.

        Raises:
            LedgerUnavailable: It can't be reached, or refuses.
        """

    def close(self) -> None:
        """Closes connections of its own; the next use opens new ones."""


def account_at(now: float, peer: str, row: Any) -> Account | None:
    """What is needed of a peer whose row was read; None where it has no secret."""
    if row.totp_secret is None:
        return None
    previous = row.totp_previous if now < row.totp_previous_until else None
    return Account(peer, row.totp_secret, previous, row.relation)


def account_of(attempt: Attempt, row: Any, now: float) -> tuple[Account | None, str]:
    """The peer's account as a ledger read it, and why no code about it is accepted, or nothing."""
    account = account_at(now, attempt.peer, row)
    if not row.verifier_active:
        return account, "verifier unknown or inactive"
    if account is None:
        return None, "peer unknown"
    if not row.active:
        return account, "peer inactive"
    if attempt.kind == "audience" and is_person(row):
        # Her authenticator app makes plain codes only.
        return account, "people have no audience codes"
    return account, ""


def compared(
    account: Account | None, rules: Rules, lane: Lane, now: float, lanes: LaneClass
) -> tuple[Account | None, int]:
    """The account with the secrets that a code is compared with, and how many they are.

    Args:
        account: The peer's.
        rules: The limits.
        lane: In which the attempt counts, as :meth:`Rules.seen`.
        now: By the ledger's clock, Unix seconds.
        lanes: The class of the lane.
    """
    if account is None or account.previous is None:
        return account, 1
    if rules.bears(2, lane, now, lanes):
        return account, 2
    return account._replace(previous=None), 1


def is_person(row: Any) -> bool:
    """Whether the peer whose row was read is a person of this database."""
    return bool(row.kind == "human" and row.domain == "")


def find_steps(
    attempt: Attempt, account: Account | None, unfit: str, steps: range, ahead: str | None
) -> Found:
    """Compare the code with each secret in each step.

    Args:
        attempt: What is asked.
        account: The peer's.
        unfit: Why no code is accepted; empty where one may be.
        steps: The steps.
        ahead: The column ``spent_ahead`` of the row of what is spent.
    """
    if account is None or account.previous is None:
        found = Found(unfit, attempt.matches(account, steps))
    else:
        present = attempt.matches(account._replace(previous=None), steps)
        before = account._replace(secret=account.previous, previous=None)
        found = Found(unfit, present, attempt.matches(before, steps))
    if ahead and not unfit and _spent_ahead(ahead).intersection((*found.steps, *found.previous)):
        return found._replace(unfit="replay")
    return found


def was_expired(attempt: Attempt, account: Account | None, now: float, window: int) -> bool:
    """Whether the code was right a few minutes ago.

    Each refusal pays for this comparison, so that the time taken doesn't tell them apart.
    """
    return bool(attempt.matches(account, expired(now, window)))


def last_forgotten(
    connection: Open, row: Any, life: Life, verifier: str, now: float, window: int
) -> Forgotten:
    """Return what may have been spent in commits that a power cut undid.

    A change is written down: of the machine's life, of the distance between the wall clock and the
    time since the boot, and a moment of change that the clock hasn't reached. From each of them on
    every step that isn't younger is refused, which takes three periods. So it doesn't matter
    whether the clock was right when the machine was started.

    Where the time since the boot isn't known, a clock that is behind what the database has seen
    says nothing about the order of things. Then no code is accepted, and the change is written
    down when the clock is right again.

    Args:
        connection: In the transaction that decides.
        row: With ``boot_id``, ``changed_at`` and ``clock_offset`` as they are in the database.
        life: What tells one life of the machine from another.
        verifier: Who asked, for the record.
        now: By the ledger's clock, Unix seconds.
        window: How many steps a code may be ahead of the clock: so much of the future may have
            been spent too.
    """
    if now < EARLIEST:
        return Forgotten(_last_good(now, window), "the clock is behind")
    boot_id, changed_at = life.epoch(), row.changed_at
    offset = None if life.uptime is None else now - life.uptime()
    if changed_at is not None and row.boot_id == boot_id:
        known = row.clock_offset is not None or offset is None
        moved = 0.0 if offset is None or row.clock_offset is None else offset - row.clock_offset
        if abs(moved) <= _LARGEST_STEP and changed_at <= now + window * PERIOD:
            if not known:
                values = {"boot_id": boot_id, "at": changed_at, "offset": offset}
                _EPOCH.write(connection, values)
            return Forgotten(_last_good(changed_at, window))
        why = (
            f"the clock was set by {moved:+.0f} s"
            if abs(moved) > _LARGEST_STEP
            else "the epoch was ahead of the clock"
        )
        _record_clock(connection, verifier, why, now)
    elif offset is None and now < _newest_moment(connection, window):
        return Forgotten(_last_good(now, window), "the clock is behind")
    _EPOCH.write(connection, {"boot_id": boot_id, "at": now, "offset": offset})
    kernels: tuple[str, ...] = ()
    if row.boot_id is not None and row.boot_id != boot_id:
        _record_boot(connection, verifier, boot_id, row.boot_id, now)
        kernels = kernels_at(connection, now)
    return Forgotten(_last_good(now, window), _TWO_KERNELS if kernels else "", kernels)


def _last_good(moment: float, window: int) -> int:
    return int(moment) // PERIOD + window


def _newest_moment(connection: Open, window: int) -> float:
    ((made, spent, audited),) = _NEWEST.fetch(connection, {})
    # A code may have been ahead of the clock by the window.
    return max(made or 0.0, ((spent or 0) - window) * PERIOD, audited or 0.0)


def _record_clock(connection: Open, verifier: str, why: str, now: float) -> None:
    write(
        connection,
        entry(
            at=now,
            actor=verifier,
            subject="ledger",
            action=_CLOCK,
            outcome="refused",
            reason=why,
        ),
    )


def record_decision(
    connection: Open,
    attempt: Attempt,
    decision: Decision,
    reason: str,
    *,
    locked: LaneKind | None = None,
) -> None:
    """Writes the audit row of an attempt, in the transaction that decides.

    Args:
        connection: In that transaction.
        attempt: What was asked.
        decision: What was decided.
        reason: The true reason.
        locked: The lane that this failure locked for the first time. That is a row of its own,
            with the action ``lane.lock``, so that it can be watched for.
    """
    rows = [
        entry(
            at=decision.at,
            actor=attempt.named or attempt.verifier,
            subject=attempt.named or attempt.peer,
            action=f"verify.{attempt.kind}",
            outcome="ok" if decision.verdict == "accepted" else "refused",
            reason=attempt.unfit or reason,
        )
    ]
    if locked is not None:
        words = "audience" if locked == "pair" else locked
        rows.insert(0, rows[0] | {"action": _LOCK, "reason": f"locked lane: {words}"})
    write(connection, *rows)


def lock_attempt(database: Database, connection: Open, attempt: Attempt) -> None:
    """Makes attempts about one peer follow each other, and deactivations wait for them."""
    if connection.dialect.name == "sqlite":
        # Where every transaction that writes follows the other.
        return
    accounts = sorted({f"account:{attempt.peer}", f"account:{attempt.verifier}"})
    database.lock(connection, *accounts, shared=True)
    database.lock(connection, f"ledger:{attempt.peer}")


def lane_name(scope: str, subject: str) -> str:
    """Return how a lane is called.

    It is ``self``, ``family``, ``others``, ``first``, ``plain:NAME``, ``audience:NAME`` or
    ``nobody:NAME``.
    The row of spent plain codes is in no lane; it is called ``spent``.
    """
    for name, kind in _LANES.items():
        if kind == scope:
            return f"{name}:{subject}"
    return "spent" if scope == "peer" else scope


def read_lane_name(lane: object) -> tuple[str, str]:
    """Return scope and subject of a lane.

    Raises:
        ValueError: There is no lane of that name.
        InvalidUsername: The name in it has another form.
    """
    if lane in (*_SHARED, "spent"):
        return "peer" if lane == "spent" else str(lane), ""
    kind, colon, subject = lane.partition(":") if isinstance(lane, str) else ("", "", "")
    if not colon or kind not in _LANES:
        raise ValueError(
            "lane has to be 'self', 'family', 'others', 'first', 'plain:NAME', 'audience:NAME' or "
            f"'nobody:NAME', where NAME is the verifier, not {lane!r:.60}; users.lanes lists them"
        )
    return _LANES[kind], require_username(subject, argument="lane")


def ledger_now(
    database: Database, connection: Connection, clock: Callable[[], float] | None
) -> float:
    """Return the moment by the clock that decides, Unix seconds.

    Args:
        database: The database.
        connection: In a transaction on it.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
    """
    if clock is not None:
        return clock()
    now: float | None = connection.scalar(text(f"SELECT {database.server_clock}"))
    return time.time() if now is None else now


def clock_trouble(row: Any, rules: Rules, now: float, *, person: bool) -> str:
    """Return what a row of the ledger has from a time when the clock was ahead, in words.

    Args:
        row: The row.
        rules: The limits.
        now: By the ledger's clock, Unix seconds.
        person: Whether the row is about a person.
    """
    if max(row.spent_step, row.spent_previous) > _last_good(now, rules.policy.window):
        return "a spent time step is ahead of the clock"
    if row.locked_until > now + rules.lock_of(row.in_a_row):
        return "a lock ends later than any lock lasts"
    if any(float(at) > now + PERIOD for at in row.recent.split()):
        return "a failure is ahead of the clock"
    if row.whole_at > now + rules.longest_debt(class_of(row.scope, person=person)):
        return "the yearly allowance is ahead of the clock"
    return ""


def _spent_ahead(ahead: str) -> set[int]:
    return {
        step
        for first, last in (map(int, each.split("-")) for each in ahead.split())
        for step in range(first, last + 1)
    }


def _as_ranges(steps: set[int]) -> str:
    ranges: list[list[int]] = []
    for step in sorted(steps):
        if ranges and step == ranges[-1][1] + 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    return " ".join(f"{first}-{last}" for first, last in ranges)


def _keep_spent_ahead(connection: Connection, peer: str, last: int, window: int) -> None:
    """Write down which steps were spent after the last one that an unlock leaves spent."""
    for row in connection.execute(_AHEAD, {"peer": peer, "last": last}).all():
        highest = max(row.spent_step, row.spent_previous)
        pair = row.scope == "pair"
        values = {
            "peer": peer,
            "action": f"verify.{'audience' if pair else 'plain'}",
            "actor": row.subject if pair else "",
            "begin": (last + 1 - window) * PERIOD,
            "end": (highest + window + 1) * PERIOD,
        }
        # The last of them spent the highest step. Of those before, the audit tells the moment, and
        # the code was of a step in the window of it.
        *before, _ = connection.scalars(_SPENT_AT, values).all() or [None]
        steps = {step for at in before for step in window_of(at, window) if last < step < highest}
        ahead = _as_ranges(_spent_ahead(row.spent_ahead) | steps | {highest})
        values = {"peer": peer, "scope": row.scope, "subject": row.subject, "ahead": ahead}
        connection.execute(_KEEP_AHEAD, values)


def unlock(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    at: float,
    rules: Rules,
    clock: Callable[[], float] | None = None,
    lane: tuple[str, str] | None = None,
) -> None:
    """Ends the count of failures about a peer, in every ledger; what was spent stays spent.

    A lane that has used up its wrong guesses of the year keeps its count and its lock.

    A step that was spent while the clock was ahead would refuse every code until the clock gets
    there. It becomes the last step that could have been spent until now, so that codes are good
    again after three periods, and none that could have been spent is. The steps that were spent
    after it are written down and stay spent, so that no code is good twice when the clock gets
    there, nor where it was this clock that was wrong, and behind.

    A ledger outside this database learns of it by the number of the unlock, which is the moment of
    it, so that it grows also where the database is restored from a backup. What that ledger
    counted may not have been written here, so there is a row to say it in.

    Args:
        database: The database.
        connection: In a transaction that writes.
        peer: Whose lanes.
        at: The moment of the unlock, Unix seconds.
        rules: The limits.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
        lane: Scope and subject of the only lane to unlock; None for all.
    """
    database.lock(connection, f"ledger:{peer}")
    scope, subject = lane or ("peer", "")
    connection.execute(_KNOWN, {"peer": peer, "scope": scope, "subject": subject})
    now = ledger_now(database, connection, clock)
    # A clock that is behind can't tell what is ahead of it.
    window = rules.policy.window
    last = 2**62 if now < EARLIEST else _last_good(now, window)
    values: dict[str, Any] = {"peer": peer, "last": last}
    _keep_spent_ahead(connection, peer, last, window)
    _recount(connection, peer, at, now, rules, lane)
    if lane is None:
        connection.execute(_UNSPEND_ALL, values)
    else:
        connection.execute(_UNSPEND_ONE, values | {"scope": scope, "subject": subject})


def _recount(
    connection: Connection,
    peer: str,
    at: float,
    now: float,
    rules: Rules,
    lane: tuple[str, str] | None = None,
) -> None:
    names = {"peer": peer}
    if lane is None:
        rows = connection.execute(_COUNTED_IN_ALL, names).all()
    else:
        names |= {"scope": lane[0], "subject": lane[1]}
        rows = connection.execute(_COUNTED_IN_ONE, names).all()
    changed = []
    for row in rows:
        counted = Lane(row.in_a_row, (), row.locked_until, row.whole_at)
        left = rules.unlocked(counted, now, class_of(row.scope, person=is_person(row)))
        changed.append(
            {
                "peer": peer,
                "scope": row.scope,
                "subject": row.subject,
                "at": int(at),
                "in_a_row": left.in_a_row,
                "locked_until": left.locked_until,
                "whole_at": left.whole_at,
            }
        )
    if changed:
        connection.execute(_RECOUNT, changed)


def wait_for_first_code(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    rules: Rules,
    clock: Callable[[], float] | None = None,
) -> float:
    """Return the seconds until a first code of a person's enrolment may be evaluated; 0 for now.

    Args:
        database: The database.
        connection: In the transaction that evaluates it.
        peer: The person.
        rules: The limits.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
    """
    database.lock(connection, f"ledger:{peer}")
    now = ledger_now(database, connection, clock)
    return max(0.0, rules.wait(1, _first_codes(connection, peer, rules, now), now, "first"))


def charge_first_code(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    rules: Rules,
    clock: Callable[[], float] | None = None,
) -> None:
    """Count a wrong first code of a person's enrolment; the arguments are the same."""
    now = ledger_now(database, connection, clock)
    lane = _first_codes(connection, peer, rules, now)
    values = {"peer": peer, "whole_at": rules.charged(lane, now, "first")}
    _CHARGE_FIRST_CODE.write(connection, values)


def _first_codes(connection: Connection, peer: str, rules: Rules, now: float) -> Lane:
    rows = _FIRST_CODES.fetch(connection, {"peer": peer})
    lane = Lane(whole_at=rows[0].whole_at) if rows else Lane()
    return rules.seen(lane, now, "first")


def begin_secret(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    at: float,
    rules: Rules,
    clock: Callable[[], float] | None = None,
    spent: bool = False,
) -> None:
    """Prepare the ledger for a new secret of a peer, of which nothing is spent.

    What was spent of the secret before it stays spent, for as long as its codes are good. The lanes
    are treated as by :func:`unlock`: a guess hits a code of the new secret as often as one of the
    old, so a new secret brings no more guesses a year. Guesses about an account that had no secret
    cost nothing, so nobody is born with used-up lanes.

    Args:
        database: The database.
        connection: In the transaction that writes the new secret.
        peer: Whose secret.
        at: The moment, Unix seconds.
        rules: The limits.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
        spent: Whether the steps that were spent are spent of the new secret too, as it may be one
            of before.
    """
    database.lock(connection, f"ledger:{peer}")
    _recount(connection, peer, at, ledger_now(database, connection, clock), rules)
    if not spent:
        connection.execute(_NEW_SECRET, {"peer": peer})
    connection.execute(_NEW_GENERATION, {"peer": peer, "at": int(at)})
