"""Find an account by its name, or raise the error that names the reason."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from sqlalchemy import Connection, select

from pipelit_agents._words import WITHHELD, has_secret_form, may_be_secret, quoted, recordable
from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import (
    NotLocalAgent,
    NotPermitted,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.identity.code_verifier import NO_PERSON
from pipelit_agents.protocol.usernames import require_username
from pipelit_agents.sealing.keyring import Sealed

__all__ = [
    "AccountRow",
    "find_account",
    "find_active_person",
    "find_agent",
    "find_person",
    "no_account",
    "read_account",
    "require_active",
    "require_purpose",
    "storable",
    "why_no_code",
]


class AccountRow(NamedTuple):
    """An account as it is stored; a peer's kind is ``human``, and it has a domain."""

    username: str
    kind: Literal["human", "agent"]
    owner: str | None
    root_owner: str
    purpose: str
    active: bool
    may_create_agents: bool
    totp_secret: Sealed | None
    totp_previous: Sealed | None
    totp_previous_until: float
    created_at: float
    created_by: str
    domain: str
    relation: str
    totp_generation: int
    role: str


_READ: Final = select(*(UserRow.__table__.c[each] for each in AccountRow._fields))


def read_account(connection: Connection, username: str) -> AccountRow | None:
    """Return the row of an account of this database, or None."""
    row = connection.execute(_READ.where(UserRow.username == username)).one_or_none()
    return None if row is None else AccountRow(*row)


def find_account(connection: Connection, username: str) -> AccountRow:
    """Return the row of an account of this database.

    Raises:
        UserNotFound: No account has that name.
    """
    row = read_account(connection, username)
    if row is None:
        raise no_account(username)
    return row


def no_account(username: str) -> UserNotFound:
    """Return the error for a name that no account has, or that somebody may not know."""
    return UserNotFound(
        f"there is no account {quoted(username)}; see all with: pipelit-agents users list; create "
        "a person with users.create, an agent with users.create_agent",
        username=recordable(username),
    )


def find_agent(connection: Connection, username: str) -> AccountRow:
    """Return the row of an active agent of this database.

    Raises:
        UserNotFound: No account has that name.
        NotLocalAgent: The account isn't an agent.
        UserInactive: It was deactivated.
    """
    row = find_account(connection, username)
    if row.domain:
        raise NotLocalAgent(
            f"{username!r} is a peer of the domain {row.domain!r}: its secrets are managed there",
            username=username,
        )
    if row.kind != "agent":
        raise NotLocalAgent(
            f"{username!r} is a person, and an agent is needed (pipelit-agents agents list)",
            username=username,
        )
    if not row.active:
        raise UserInactive(
            f"{username!r} was deactivated, which is permanent: create another", username=username
        )
    return row


def find_person(connection: Connection, username: str) -> AccountRow:
    """Return the row of a person of this database.

    Raises:
        InvalidUsername: The username is malformed.
        UserNotFound: No account has that name.
        NotPermitted: It isn't a person's account.
    """
    name = require_username(username)
    row = read_account(connection, name)
    if row is None:
        typed = "NAME" if may_be_secret(name) else name
        raise UserNotFound(
            f"there is no account {quoted(name)}; create it with: pipelit-agents users create "
            f"{typed}",
            username=recordable(name),
        )
    if row.kind != "human" or row.domain:
        raise NotPermitted(
            f"{name!r} isn't a person: an agent's second factor is its own TOTP secret",
            username=name,
        )
    return row


def find_active_person(connection: Connection, username: str) -> AccountRow:
    """Return the row of an active person of this database.

    Raises:
        UserInactive: The account was deactivated.
        AccountError: As ``find_person``.
    """
    row = find_person(connection, username)
    require_active(row)
    return row


def require_active(row: AccountRow) -> None:
    """Require that an account is active.

    Raises:
        UserInactive: It was deactivated.
    """
    if not row.active:
        raise UserInactive(f"{row.username!r} was deactivated", username=row.username)


def why_no_code(row: AccountRow | None) -> str:
    """Return why no code of an account can be right; empty for an active person with a factor."""
    if row is None:
        return "unknown account"
    if row.kind != "human" or row.domain:
        return NO_PERSON
    if not row.active:
        return "inactive"
    return "" if row.totp_secret is not None else "no second factor"


def storable(words: str, argument: str) -> str:
    """Return text that may be stored in clear: without NUL characters, and without keys.

    Raises:
        TypeError: It isn't text.
    """
    if not isinstance(words, str):
        raise TypeError(f"{argument} must be text, not {type(words).__name__}")
    if any(map(has_secret_form, (words, *words.split()))):
        # The action goes on: a wrong label must not prevent that a key is revoked.
        words = WITHHELD
    # PostgreSQL accepts every character except this one.
    return words.replace("\0", "\ufffd")


def require_purpose(purpose: object) -> str:
    """Return an agent's purpose as it may be stored.

    Raises:
        TypeError: It isn't text.
        ValueError: It is empty or blank.
    """
    if not isinstance(purpose, str):
        raise TypeError(f"purpose must be text, not {type(purpose).__name__}")
    if not purpose.replace("\0", "").strip():
        raise ValueError("purpose must say what the agent is for")
    return purpose
