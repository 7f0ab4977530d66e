"""The one form of usernames and credential names. It is checked before any other use."""

from __future__ import annotations

import re
from typing import Final

from pipelit_agents._words import has_secret_form, quoted, recordable
from pipelit_agents.errors import InvalidUsername

__all__ = ["OPERATOR", "is_username", "require_new_username", "require_username"]

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
            f"{argument} must be text, a username, not {type(name).__name__}",
            username=type(name).__name__,
        )
    if not is_username(name):
        raise InvalidUsername(
            f"{argument} {quoted(name)} is not a username: 1 to 149 of the characters a-z 0-9 _ . "
            "- and the first a letter or digit (lower case only; nothing is converted)",
            username=recordable(name),
        )
    return name


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
