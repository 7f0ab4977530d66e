"""Whose credentials are meant: the shared ones, or one person's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, Table

from pipelit_agents._words import may_be_secret, quoted, recordable
from pipelit_agents.database.fast_path import Open, Query
from pipelit_agents.database.models import CredentialRow, PersonCredentialRow
from pipelit_agents.errors import (
    CredentialNotFound,
    NoPersonalCredential,
    NotPermitted,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.identity.acting import standing_of
from pipelit_agents.protocol.usernames import is_username, require_username
from pipelit_agents.sealing.purposes import (
    credential_hint_purpose,
    credential_purpose,
    person_credential_hint_purpose,
    person_credential_purpose,
)

__all__ = ["SHARED", "SealedRow", "Whose", "not_found", "of_person"]


class SealedRow(NamedTuple):
    """The columns that are read to open a credential."""

    kind: str
    public: str
    allow: str | None
    sealed: str


_READ_SHARED: Final = Query(
    "SELECT kind, public, allow, sealed FROM pipelit_credentials WHERE name = :name", SealedRow
)
_READ_OWN: Final = Query(
    "SELECT kind, public, allow, sealed FROM pipelit_person_credentials "
    "WHERE person = :person AND name = :name",
    SealedRow,
)


class Whose(NamedTuple):
    """The shared credentials, or those of one person.

    Attributes:
        person: The person; None for the shared ones.
    """

    person: str | None

    @property
    def table(self) -> Table:
        """The table that has them."""
        model = CredentialRow if self.person is None else PersonCredentialRow
        return cast(Table, model.__table__)

    @property
    def key(self) -> Mapping[str, str]:
        """The part of a row's key that isn't the credential's name."""
        return {} if self.person is None else {"person": self.person}

    @property
    def rows(self) -> tuple[ColumnElement[bool], ...]:
        """The conditions for the rows in the table."""
        return tuple(self.table.c[name] == value for name, value in self.key.items())

    def purpose(self, name: str, kind: str, public: str, allow: str | None) -> str:
        """Return the purpose of a credential's secret fields."""
        if self.person is None:
            return credential_purpose(name, kind, public, allow)
        return person_credential_purpose(self.person, name, kind, public, allow)

    def hint_purpose(self, name: str, kind: str, public: str, allow: str | None) -> str:
        """Return the purpose of a credential's masked form."""
        if self.person is None:
            return credential_hint_purpose(name, kind, public, allow)
        return person_credential_hint_purpose(self.person, name, kind, public, allow)

    def lock(self, name: str) -> str:
        """Return the lock of a credential, for ``Database.lock``."""
        return ":".join(("credential", *self.key.values(), name))

    def called(self, name: str) -> str:
        """Return a credential in words, for messages."""
        return f"credential {name!r}" + ("" if self.person is None else f" of {self.person!r}")

    def sealed(self, connection: Open, name: str) -> SealedRow | None:
        """Return what is stored of a credential, or None."""
        query = _READ_SHARED if self.person is None else _READ_OWN
        found = query.fetch(connection, {**self.key, "name": name})
        return found[0] if found else None


SHARED: Final = Whose(None)


def of_person(connection: Connection, person: str | None, *, active: bool = False) -> Whose:
    """Return whose credentials are meant by the argument ``person`` of a method.

    Args:
        connection: A transaction.
        person: The person; None for the shared credentials.
        active: Whether the person must be active.

    Raises:
        InvalidUsername: The name isn't in its normal form.
        UserNotFound: No account has that name.
        NotPermitted: The account is an agent or a peer.
        UserInactive: The person was deactivated.
    """
    if person is None:
        return SHARED
    name = require_username(person)
    standing = standing_of(connection, name)
    if standing == "unknown":
        raise UserNotFound(
            f"person: there is no account {quoted(name)} (pipelit-agents users list)",
            username=recordable(name),
        )
    if standing == "no person":
        raise NotPermitted(
            f"person: {name!r} isn't a person of this database. Only persons have credentials of "
            "their own; name an agent in allow instead",
            username=name,
        )
    if active and standing == "inactive":
        raise UserInactive(f"person: {name!r} was deactivated", username=name)
    return Whose(name)


def not_found(
    name: str, whose: Whose = SHARED, *, opening: bool = False, own_of: str = ""
) -> CredentialNotFound:
    """Return the error for a name that no credential has.

    Args:
        name: The name.
        whose: Whose credential was looked for.
        opening: Whether it was to be opened, so that ``fallback`` would help.
        own_of: The person who acts and has an own credential of that name, if the shared one was
            looked for.
    """
    if not is_username(name):
        field = isinstance(name, str) and is_username(name.partition(":")[0])
        return CredentialNotFound(
            f"{quoted(name)} is not the name of a credential"
            + (
                ": open its fields with inject or reveal"
                if field
                else ": credentials.list returns all names"
            ),
            credential=recordable(name),
        )
    typed = "NAME" if may_be_secret(name) else name
    put = f"pipelit-agents credentials put {typed:.80} --kind … --created-by …"
    if whose.person is not None:
        return NoPersonalCredential(
            f"{whose.person!r} has no own credential {quoted(name)}: store it with "
            f"credentials.put(…, person={whose.person!r}) or with the command {put} "
            f"--person {whose.person}"
            + ('. To open the shared one instead, pass fallback="shared"' if opening else ""),
            credential=recordable(name),
            person=whose.person,
        )
    if own_of:
        return CredentialNotFound(
            f"there is no shared credential {quoted(name)}, but {own_of!r} has an own one: to open "
            f"it, pass per_person=True. To store a shared one: {put}",
            credential=recordable(name),
        )
    return CredentialNotFound(
        f"there is no credential {quoted(name)}: store it with credentials.put or with the command "
        f"{put}",
        credential=recordable(name),
    )
