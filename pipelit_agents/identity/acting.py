"""For which person the running code acts, as an application or a server has authenticated her.

It decides in whose lane a person's codes are counted. Nothing that a model, a graph's state or a
caller's ``configurable`` says can change it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Statement
from pipelit_agents.protocol.usernames import is_username, require_username

__all__ = ["acting_for", "acting_person", "acts_for"]

_IS_PERSON: Final = Statement(
    "SELECT username FROM pipelit_users "
    "WHERE username = :username AND kind = 'human' AND domain = '' AND active"
)
# Whoever has Studio's scheme shows no key of a person.
_STUDIO: Final = "langgraph-studio-user"
_PERSON: Final[ContextVar[tuple[Database, str] | None]] = ContextVar("pipelit_person", default=None)


@contextmanager
def acting_for(database: Database, username: str) -> Iterator[None]:
    """Say for which person the block acts; see :meth:`Pipelit.acting_for`."""
    token = _PERSON.set((database, require_username(username)))
    try:
        yield
    finally:
        _PERSON.reset(token)


def acting_person(database: Database) -> str | None:
    """Return the username of the person for whom the running code acts, or None.

    :func:`acting_for` goes first. Otherwise, in a run of a LangGraph Server, it is the user that
    the server has authenticated, if that is an active person of this database. Nothing else that
    a caller can send counts: an application may pass a client's ``configurable`` on to a graph, and
    a client can write only JSON into it. So a user that is a mapping or a text is nobody; the
    server's is an object. (The server itself refuses that key from its clients.)

    On a server it reads the database, so call it where blocking is allowed.

    Args:
        database: Whose accounts; a person of another database is nobody here.
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

    It asks no database, so the caller has to make sure that the account is an active person's.

    Args:
        database: Whose accounts.
        username: The account.
    """
    found = _PERSON.get()
    if found is not None and found[0] is database:
        return found[1] == username
    return _server_user() == username


def _server_user() -> str | None:
    if "langgraph.runtime" not in sys.modules:
        # Whoever is in a run has imported it; others needn't wait for that.
        return None
    from langgraph.runtime import get_runtime

    try:
        runtime = get_runtime()
    except (KeyError, RuntimeError):
        # Outside of any run.
        return None
    user = getattr(getattr(runtime, "server_info", None), "user", None)
    if user is None or isinstance(user, dict | list | str | int | float):
        return None
    identity = getattr(user, "identity", None)
    if not isinstance(identity, str) or not is_username(identity) or identity == _STUDIO:
        return None
    # A run that a timer began for her isn't she.
    return identity if getattr(user, "is_authenticated", False) is True else None
