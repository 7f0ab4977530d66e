"""For which person the running code acts, as an application or a server has authenticated her.

It decides in whose lane a person's codes are counted. Nothing that a model, a graph's state or a
caller's ``configurable`` says can change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from pipelit_agents.database.engine import Database
from pipelit_agents.names import require_username

__all__ = ["acting_for", "acting_person"]

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

    Args:
        database: Whose accounts; a person of another database is nobody here.
    """
    found = _PERSON.get()
    return found[1] if found is not None and found[0] is database else None
