"""The person for whom the running code acts, as authenticated by an application or a server.

This decides in which lane a person's codes are counted. A model, a graph's state or a caller's
``configurable`` can't change it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Query
from pipelit_agents.protocol.usernames import is_username, require_username

__all__ = ["acting_for", "acting_person", "acts_for"]


class _Person(NamedTuple):
    username: str


_IS_PERSON: Final = Query(
    "SELECT username FROM pipelit_users "
    "WHERE username = :username AND kind = 'human' AND domain = '' AND active",
    _Person,
)
# Studio's own authentication proves no person's API key.
_STUDIO: Final = "langgraph-studio-user"
_PERSON: Final[ContextVar[tuple[Database, str] | None]] = ContextVar("pipelit_person", default=None)


@contextmanager
def acting_for(database: Database, username: str) -> Iterator[None]:
    """Set the person for whom the block acts; see :meth:`Pipelit.acting_for`."""
    token = _PERSON.set((database, require_username(username)))
    try:
        yield
    finally:
        _PERSON.reset(token)


def acting_person(database: Database) -> str | None:
    """Return the username of the person for whom the running code acts, or None.

    :func:`acting_for` takes precedence. Otherwise, in a run of a LangGraph Server, it is the user
    that the server has authenticated, if that is an active person of this database. Nothing else
    that a caller sends is trusted. An application may pass a client's ``configurable`` on to a
    graph, but a client can write only JSON into it. So a user that is a mapping or a string is
    ignored; the server's user is an object. (The server itself refuses that key from clients.)

    On a server this reads the database, so call it where blocking is allowed.

    Args:
        database: The database of the accounts; a person of another database is ignored.
    """
    found = _PERSON.get()
    if found is not None and found[0] is database:
        return found[1]
    identity = _server_user()
    if identity is None or not database.fetch(_IS_PERSON, {"username": identity}):
        return None
    return identity


def acts_for(database: Database, username: str) -> bool:
    """Return whether the running code acts for the account of that name.

    This reads no database, so the caller has to make sure that the account is an active person's.

    Args:
        database: The database of the accounts.
        username: The account.
    """
    found = _PERSON.get()
    if found is not None and found[0] is database:
        return found[1] == username
    return _server_user() == username


def _server_user() -> str | None:
    if "langgraph.runtime" not in sys.modules:
        # A run has imported it already; outside of a run the import would only cost time.
        return None
    from langgraph.runtime import get_runtime

    try:
        runtime = get_runtime()
    except (KeyError, RuntimeError):
        # There is no run.
        return None
    user = getattr(getattr(runtime, "server_info", None), "user", None)
    if user is None or isinstance(user, dict | list | str | int | float):
        return None
    identity = getattr(user, "identity", None)
    if not isinstance(identity, str) or not is_username(identity) or identity == _STUDIO:
        return None
    # A run that a scheduler started for this person doesn't count as the person.
    return identity if getattr(user, "is_authenticated", False) is True else None
