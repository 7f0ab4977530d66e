"""The rows of seals: how they are read, whether they have a valid form, and their tags."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, Select, select

from pipelit_agents.audit.numbering import Gaps
from pipelit_agents.database.models import AuditSealRow
from pipelit_agents.errors import AuditTampered
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import AUDIT_PRUNED, AUDIT_SEAL

__all__ = [
    "SealRow",
    "TagState",
    "all_seals",
    "is_formed",
    "is_pruned",
    "is_signed",
    "iso",
    "last_seal",
    "next_seal",
    "seal_at",
    "sign",
    "tag_state",
    "tampered",
]

TagState = Literal["newest", "older", "foreign"]


class SealRow(NamedTuple):
    """A row of ``pipelit_audit_seals``. In the table it may have anything: see ``is_formed``.

    Attributes:
        number: From 1.
        last_id: The last entry that the seal covers.
        entries: The number of entries under it.
        digest: Over the entries and the seal before it.
        mac: The tag over the other fields.
        sealed_at: Unix seconds.
        pruned: The second tag, if the entries were deleted.
        gaps: See ``Gaps``.
    """

    number: int
    last_id: int
    entries: int
    digest: str
    mac: str
    sealed_at: float
    pruned: str
    gaps: str


def _query() -> Select[*tuple[object, ...]]:
    return select(AuditSealRow.__table__).order_by(AuditSealRow.number)


def _found(connection: Connection, query: Select[*tuple[object, ...]]) -> list[SealRow]:
    return [SealRow(**row) for row in connection.execute(query).mappings()]


def _one(connection: Connection, query: Select[*tuple[object, ...]]) -> SealRow | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else SealRow(**row)


def all_seals(connection: Connection) -> list[SealRow]:
    """Return all seals, oldest first."""
    return _found(connection, _query())


def seal_at(connection: Connection, number: int) -> SealRow | None:
    """Return the seal with a number."""
    return _one(connection, _query().where(AuditSealRow.number == number))


def next_seal(connection: Connection, number: int) -> SealRow | None:
    """Return the first seal after a number."""
    return _one(connection, _query().where(AuditSealRow.number > number).limit(1))


def last_seal(connection: Connection) -> SealRow | None:
    """Return the newest seal."""
    newest = select(AuditSealRow.__table__).order_by(AuditSealRow.number.desc()).limit(1)
    return _one(connection, newest)


def is_formed(seal: SealRow) -> bool:
    """Return whether a row has the form that this package writes; use no other row."""
    numbers = all(
        type(each) is int and each >= 0 for each in (seal.number, seal.last_id, seal.entries)
    )
    texts = all(
        isinstance(each, str) and each.isascii()
        for each in (seal.digest, seal.mac, seal.pruned, seal.gaps)
    )
    if not (numbers and texts and isinstance(seal.sealed_at, int | float)):
        return False
    try:
        Gaps.from_json(seal.gaps)
    except ValueError:
        return False
    return True


def tampered(seal: SealRow) -> AuditTampered:
    """Return the error for a seal that isn't valid."""
    return AuditTampered(
        f"seal {seal.number!r:.20} doesn't match its entries, so no entries from there on are "
        "sealed or deleted; see: pipelit-agents audit verify"
    )


def _fields(seal: SealRow) -> list[bytes]:
    # Leave out empty gaps, so that tags from before the column existed stay valid.
    gaps = [seal.gaps] if seal.gaps else []
    signed = (seal.number, seal.last_id, seal.entries, seal.digest, float(seal.sealed_at), *gaps)
    return [str(value).encode() for value in signed]


def sign(keyring: Keyring, seal: SealRow, *, pruned: bool = False) -> str:
    """Return the tag of a seal, or the one that says that its entries were deleted."""
    return keyring.mac(AUDIT_PRUNED if pruned else AUDIT_SEAL, *_fields(seal))


def _is_tagged(keyring: Keyring, seal: SealRow, label: str, tag: str) -> bool:
    found = False
    for each in keyring.macs(label, *_fields(seal)):
        found |= hmac.compare_digest(each, tag)
    return found


def is_signed(keyring: Keyring, seal: SealRow) -> bool:
    """Return whether a key of the keyring has made the seal."""
    return _is_tagged(keyring, seal, AUDIT_SEAL, seal.mac)


def is_pruned(keyring: Keyring, seal: SealRow) -> bool:
    """Return whether a key of the keyring says that the seal's entries were deleted."""
    return _is_tagged(keyring, seal, AUDIT_PRUNED, seal.pruned)


def tag_state(keyring: Keyring, seal: SealRow | None) -> tuple[TagState, dict[str, str]]:
    """Return under which key the tags of a seal are, and its tags under the newest key."""
    if seal is None or not is_formed(seal):
        return "foreign", {}
    tags, present = {"mac": sign(keyring, seal)}, {"mac": seal.mac, "pruned": seal.pruned}
    if seal.pruned:
        tags["pruned"] = sign(keyring, seal, pruned=True)
    if all(hmac.compare_digest(present[name], tag) for name, tag in tags.items()):
        return "newest", tags
    whole = is_signed(keyring, seal) and (not seal.pruned or is_pruned(keyring, seal))
    return ("older" if whole else "foreign"), tags


def iso(at: float) -> str:
    """Return Unix seconds as text, also if they are outside the calendar."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat()
    except (OverflowError, ValueError):
        # The time is outside the calendar.
        return repr(float(at))
