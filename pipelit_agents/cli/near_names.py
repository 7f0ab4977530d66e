"""Suggest the name that somebody may have meant.

Anyone who can run a command can also list all names, so a suggestion reveals nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from pipelit_agents.errors import (
    CredentialNotFound,
    NoPersonalCredential,
    PipelitError,
    UserNotFound,
)
from pipelit_agents.protocol.usernames import is_username

if TYPE_CHECKING:
    from pipelit_agents import Pipelit

__all__ = ["did_you_mean", "either", "with_near_name"]

# Names that are compared: the first of all, and the first after the beginning of the typed name. In
# most databases, the first of all are all.
MAX_COMPARED: Final = 1_000
# The length of that beginning. Most typing errors are further back.
_PREFIX_LENGTH: Final = 2
_NEAR: Final = 0.75


def with_near_name(error: Exception, message: str) -> str:
    """Return the message of an error, with the name that was meant if one is like its name."""
    if isinstance(error, UserNotFound):
        name = error.username
    elif isinstance(error, CredentialNotFound) and not isinstance(error, NoPersonalCredential):
        name = error.credential
    else:
        return message
    if not is_username(name) or repr(name) not in message:
        return message
    from pipelit_agents import Pipelit

    try:
        with Pipelit.from_env() as pipelit:
            names = set(_names(pipelit, name, accounts=isinstance(error, UserNotFound)))
    except PipelitError:
        # The first error matters more.
        return message
    close = [] if name in names else get_close_matches(name, names, 1, _NEAR)
    return message.replace(repr(name), repr(name) + did_you_mean(close), 1)


def did_you_mean(names: Sequence[str]) -> str:
    """Return a hint with names, or an empty string if there are none."""
    return f" (did you mean {either(names)}?)" if names else ""


def either(names: Sequence[str]) -> str:
    """Return names as a list in words."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _names(pipelit: Pipelit, name: str, *, accounts: bool) -> Iterator[str]:
    for after in (None, name[:_PREFIX_LENGTH]):
        if accounts:
            people = pipelit.users.page(after=after, limit=MAX_COMPARED)
            yield from (each.username for each in people if each.active)
            more = people.next
        else:
            shared = pipelit.credentials.page(after=after, limit=MAX_COMPARED, unreadable=True)
            yield from (each.name for each in shared)
            more = shared.next
        if more is None:
            return
