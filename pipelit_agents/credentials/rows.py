"""Read and write the rows of credentials, and describe them without their secrets."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from pipelit_agents._core import Core
from pipelit_agents.credentials.authenticator import Stored, seed_of
from pipelit_agents.credentials.described import DEFAULT_FIELD, Described
from pipelit_agents.credentials.issued_codes import take_back_far_steps
from pipelit_agents.credentials.rules import Fields
from pipelit_agents.credentials.secret import shown_end
from pipelit_agents.credentials.whose import SHARED, Whose, not_found
from pipelit_agents.database.models import PersonCredentialRow
from pipelit_agents.display import html_of
from pipelit_agents.errors import CredentialExists, UnsealError
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = [
    "CredentialInfo",
    "StoredCredential",
    "count_credentials",
    "count_owners",
    "delete_credential",
    "delete_credentials",
    "is_stored",
    "read_credential",
    "read_credentials",
    "store",
]

# How many parts of a secret are named.
_MAX_NAMED_PARTS: Final = 100
# Instead of the secret's last characters.
_UNREADABLE: Final = "can't be decrypted"


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """The displayable description of a credential, without its secret.

    Attributes:
        name: The name.
        kind: What it is for, for example ``llm``.
        masked: The secret field, masked except for its last four characters; if there are several,
            each of them.
        public: The fields that are not secret.
        created_by: The account that stored it first. This is not an owner: by default, any account
            may open it.
        allow: The only accounts that may open it, or None if any account may.
        created_at: When it was created, UTC.
        updated_at: When it was last changed, UTC.
        searched: The names of the parts that are searched for in values that leave a node:
            ``value`` or the names of the fields for a whole value, and ``password`` or
            ``db.password`` for a part of a connection string or a document.
        unsearched: The names of the parts that are not searched for: too short, too common, or not
            known to be secrets. Both are empty for a credential that an earlier version stored.
            Of many parts, the first hundred are named, and how many more there are.
        person: Whose own credential it is; None for the shared one.
        readable: Whether a key decrypts it. If none does, ``masked`` says so, nothing is known of
            ``public`` and of the parts, and nobody may open it. It can be replaced and deleted.
        updated_by: The account that stored it last, at ``updated_at``. It is None for a credential
            that an earlier version stored, and for one that no key decrypts.
    """

    name: str
    kind: str
    masked: str
    public: Mapping[str, Any] = field(hash=False)
    created_by: str
    allow: tuple[str, ...] | None
    created_at: datetime
    updated_at: datetime
    searched: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()
    person: str | None = None
    readable: bool = True
    updated_by: str | None = None

    def _repr_html_(self) -> str:
        return html_of(self)


class StoredCredential(NamedTuple):
    """A credential as it is stored, without its secrets."""

    name: str
    kind: str
    public: str
    allow: str | None
    hint: Sealed
    created_by: str
    created_at: float
    updated_at: float
    whose: Whose = SHARED

    def info(self, keyring: Keyring, *, unreadable: bool = False) -> CredentialInfo:
        """Return the displayable description.

        Args:
            keyring: The keys.
            unreadable: Whether to describe it also if no key decrypts it.

        Raises:
            UnsealError: It can't be decrypted with this keyring.
        """
        # The hint is bound to the public fields like the secret, so that a base_url that was
        # changed in the database is never displayed.
        purpose = self.whose.hint_purpose(self.name, self.kind, self.public, self.allow)
        try:
            hint = _Hint.read(keyring.unseal(self.hint.token, purpose).decode())
        except UnsealError:
            if unreadable:
                return self._unreadable()
            raise UnsealError(what=self.whose.called(self.name)) from None
        return CredentialInfo(
            self.name,
            self.kind,
            hint.masked,
            json.loads(self.public),
            self.created_by,
            None if self.allow is None else tuple(json.loads(self.allow)),
            datetime.fromtimestamp(self.created_at, UTC),
            datetime.fromtimestamp(self.updated_at, UTC),
            hint.searched,
            hint.unsearched,
            self.whose.person,
            updated_by=hint.updated_by,
        )

    def _unreadable(self) -> CredentialInfo:
        return CredentialInfo(
            self.name,
            self.kind,
            _UNREADABLE,
            {},
            self.created_by,
            (),
            datetime.fromtimestamp(self.created_at, UTC),
            datetime.fromtimestamp(self.updated_at, UTC),
            person=self.whose.person,
            readable=False,
        )


# What is read of a row: all fields except for the last one, which isn't a column.
_COLUMNS: Final = StoredCredential._fields[:-1]


def store(
    core: Core,
    connection: Connection,
    fields: Fields,
    secrets: Stored,
    found: Described,
    created_by: str,
    whose: Whose = SHARED,
    *,
    replace: bool = True,
) -> StoredCredential:
    """Encrypt and store a credential, and record that.

    Args:
        core: The database, and the encryption keys.
        connection: The transaction.
        fields: The fields that the secrets are bound to.
        secrets: The secrets by name.
        found: The names of the secrets' parts, which are displayed.
        created_by: The account that stores it.
        whose: Whose credential it is.
        replace: Whether one of the same name is replaced.

    Raises:
        CredentialExists: There is one of the same name, and it shouldn't be replaced.
    """
    now = core.clock()
    keyring = core.fitting_keyring(connection)
    purpose, hint_purpose = whose.purpose(*fields), whose.hint_purpose(*fields)
    table = whose.table
    values = {
        "kind": fields.kind,
        "public": fields.public,
        "allow": fields.allow,
        "sealed": Sealed(keyring.seal(json.dumps(secrets), purpose), purpose),
        "hint": Sealed(keyring.seal(_hint(secrets, found, created_by), hint_purpose), hint_purpose),
        "updated_at": now,
    }
    core.database.lock(connection, whose.lock(fields.name))
    mine = (*whose.rows, table.c.name == fields.name)
    if not replace and connection.execute(select(table.c.name).where(*mine)).first() is not None:
        raise CredentialExists(
            f"there is a {whose.called(fields.name)} already", credential=fields.name
        )
    for seed in filter(None, map(seed_of, secrets.values())):
        take_back_far_steps(core, connection, seed)
    changed = connection.execute(update(table).where(*mine).values(values))
    if not changed.rowcount:
        first = {"name": fields.name, "created_at": now, "created_by": created_by, **whose.key}
        connection.execute(insert(table).values({**values, **first}))
    core.record(connection, created_by, fields.name, "credential.put", person=whose.person or "")
    return read_credential(connection, fields.name, whose)


def delete_credential(core: Core, connection: Connection, name: str, whose: Whose, by: str) -> None:
    """Delete a stored credential, and record that.

    Raises:
        CredentialNotFound: No credential has that name.
    """
    read_credential(connection, name, whose)
    connection.execute(delete(whose.table).where(*whose.rows, whose.table.c.name == name))
    core.record(connection, by, name, "credential.delete", person=whose.person or "")


def delete_credentials(core: Core, connection: Connection, whose: Whose, by: str) -> int:
    """Delete all credentials of one person, record each, and return how many there were."""
    found = read_credentials(connection, None, whose)
    for each in found:
        delete_credential(core, connection, each.name, whose, by)
    return len(found)


def is_stored(
    core: Core,
    connection: Connection,
    fields: Fields,
    secrets: Stored,
    whose: Whose = SHARED,
) -> bool:
    """Return whether a credential is stored with exactly these fields and secrets."""
    columns = whose.table.c
    sealed = connection.scalar(
        select(columns.sealed).where(
            *whose.rows,
            columns.name == fields.name,
            columns.kind == fields.kind,
            columns.public == fields.public,
            columns.allow.is_not_distinct_from(fields.allow),
        )
    )
    if sealed is None:
        return False
    try:
        stored = core.keyring().unseal(sealed.token, whose.purpose(*fields))
    except UnsealError:
        return False
    return hmac.compare_digest(_canonical(json.loads(stored)), _canonical(secrets))


def _canonical(secrets: Stored) -> bytes:
    return json.dumps(secrets, sort_keys=True).encode()


def read_credential(connection: Connection, name: str, whose: Whose = SHARED) -> StoredCredential:
    """Return a stored credential.

    Raises:
        CredentialNotFound: No credential has that name.
    """
    row = connection.execute(_reading(whose).where(whose.table.c.name == name)).one_or_none()
    if row is None:
        raise not_found(name, whose)
    return StoredCredential(*row)._replace(whose=whose)


def read_credentials(
    connection: Connection,
    kind: str | None,
    whose: Whose = SHARED,
    *,
    after: str | None = None,
    limit: int | None = None,
) -> list[StoredCredential]:
    """Return all stored credentials, or those of one kind, ordered by name.

    Args:
        connection: A transaction.
        kind: The kind; None for all.
        whose: Whose credentials.
        after: Only those after this name.
        limit: The maximum number.
    """
    query = _reading(whose).order_by(whose.table.c.name)
    if kind is not None:
        query = query.where(whose.table.c.kind == kind)
    if after is not None:
        query = query.where(whose.table.c.name > after)
    query = query.limit(limit)
    return [StoredCredential(*row)._replace(whose=whose) for row in connection.execute(query)]


def count_credentials(connection: Connection, whose: Whose) -> int:
    """Return how many there are, also of those that no key decrypts."""
    query = select(func.count()).select_from(whose.table).where(*whose.rows)
    return connection.scalar(query) or 0


def count_owners(connection: Connection) -> int:
    """Return how many people have own credentials."""
    return connection.scalar(select(func.count(PersonCredentialRow.person.distinct()))) or 0


def _reading(whose: Whose) -> Select[*tuple[Any, ...]]:
    return select(*(whose.table.c[each] for each in _COLUMNS)).where(*whose.rows)


class _Hint(NamedTuple):
    """What is displayed of a credential's secrets and its last change, encrypted beside them."""

    masked: str
    searched: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()
    updated_by: str | None = None

    @classmethod
    def read(cls, text: str) -> _Hint:
        # The first versions stored only the mask, which is not JSON. Later ones added the names of
        # the parts, but not yet updated_by.
        try:
            masked, searched, unsearched, *by = json.loads(text)
        except ValueError:
            return cls(text)
        return cls(masked, tuple(searched), tuple(unsearched), *by)


def _hint(secrets: Stored, found: Described, updated_by: str) -> str:
    # Of a seed nothing is shown: nobody compares it, and its end is a part of every code.
    masks = {
        key: "…" + (shown_end(each) if isinstance(each, str) else "")
        for key, each in secrets.items()
    }
    masked = ", ".join(f"{key}={mask}" for key, mask in masks.items())
    if list(masks) == [DEFAULT_FIELD]:
        masked = masks[DEFAULT_FIELD]
    unsearched = (*found.short, *found.common, *found.public)
    return json.dumps(_Hint(masked, _first(found.searched), _first(unsearched), updated_by))


def _first(paths: Sequence[str]) -> tuple[str, ...]:
    # A secret can have a part in each line, and a list has all that a page's secrets have.
    more = len(paths) - _MAX_NAMED_PARTS
    return (*paths[:_MAX_NAMED_PARTS], *([f"… and {more} more"] if more > 0 else []))
