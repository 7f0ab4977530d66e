"""Find an account by its name, or raise the error that names the reason."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import (
    NotLocalAgent,
    UserInactive,
    UserNotFound,
)

__all__ = ["find_account", "find_agent"]


def find_account(connection: Connection, username: str) -> Row[Any]:
    """Return the row of an account of this database.

    Raises:
        UserNotFound: No account has that name.
    """
    row = connection.execute(
        select(UserRow.__table__).where(UserRow.username == username)
    ).one_or_none()
    if row is None:
        raise UserNotFound(
            f"there is no account {username!r}: users.create makes a person's, "
            "users.create_agent an agent's (pipelit-agents users list, agents list)",
            username=username,
        )
    return row


def find_agent(connection: Connection, username: str) -> Row[Any]:
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


def storable(words: str, argument: str) -> str:
    """Return text that every database can store: NUL characters are replaced.

    Raises:
        TypeError: It isn't text.
    """
    if not isinstance(words, str):
        raise TypeError(f"{argument} must be text, not {type(words).__name__}")
    # PostgreSQL accepts every character except this one.
    return words.replace("\0", "\ufffd")
