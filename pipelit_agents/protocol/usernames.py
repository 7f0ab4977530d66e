"""The one form of usernames and credential names. It is checked before any other use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pipelit_agents._words import has_secret_form, quoted, recordable
from pipelit_agents.errors import InvalidUsername

__all__ = [
    "OPERATOR",
    "is_handle",
    "is_username",
    "require_list",
    "require_new_username",
    "require_username",
    "type_of_name",
]

# The actor in the audit if the library's own caller acts. No account and no handle has this name.
OPERATOR: Final = "operator"
_USERNAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,148}\Z")


def is_username(name: object) -> bool:
    """Return whether this is a username in its one normal form."""
    # Exactly `str`: a subclass could run its own code wherever the name is used.
    return type(name) is str and _USERNAME.match(name) is not None


def require_username(name: object, *, argument: str = "username") -> str:
    """Return the name unchanged if it is a username.

    Raises:
        InvalidUsername: It is not in the one normal form. Nothing is stripped or lowered.
    """
    if type(name) is not str:
        raise InvalidUsername(
            f"{argument} must be a username, as text, not {type_of_name(name)}",
            username=type(name).__name__,
        )
    if not is_username(name):
        raise InvalidUsername(
            f"{argument} {quoted(name)} is not a username: a username has 1 to 149 lower-case "
            "letters a-z, digits and the characters _ . - and begins with a letter or digit",
            username=recordable(name),
        )
    return name


def is_handle(name: object) -> bool:
    """Return whether this is a handle or an account, passed where its username belongs."""
    if isinstance(name, str):
        return False
    try:
        return is_username(getattr(name, "username", None))
    except Exception:
        # An object whose attributes can't be read is neither.
        return False


def type_of_name(name: object) -> str:
    """Return the type of what isn't text, for a message, and how to get the name of a handle."""
    fix = ": pass its .username" if is_handle(name) else ""
    return f"{type(name).__name__}{fix}"


def require_list(names: object, *, argument: str) -> Iterable[object]:
    """Return a list of usernames unchanged; the names in it aren't checked.

    Raises:
        TypeError: It is one name, a handle, or anything else that isn't a list.
    """
    if not isinstance(names, Iterable) or isinstance(names, str | bytes):
        raise TypeError(
            f'{argument} must be a list of usernames: ["NAME"], not {type(names).__name__}'
        )
    return names


def require_new_username(name: object, *, argument: str = "username") -> str:
    """Return the name unchanged if a new account can have it.

    Raises:
        InvalidUsername: It isn't a username, or it has the form of a key or a recovery code.
    """
    username = require_username(name, argument=argument)
    if has_secret_form(username):
        raise InvalidUsername(
            f"{argument} has the form of a key or a code, and names are listed in clear: choose "
            "another name. It isn't repeated, because it may be a secret",
            username=recordable(username),
        )
    return username
