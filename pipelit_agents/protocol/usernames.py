"""Usernames and credential names have one form, checked before anything else looks at them."""

from __future__ import annotations

import re
from typing import Final

from pipelit_agents.errors import InvalidUsername

__all__ = ["OPERATOR", "is_username", "require_username"]

# The actor of what the library's own caller does. No account has this name, and no handle acts
# under it.
OPERATOR: Final = "operator"
_USERNAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,148}\Z")


def is_username(name: object) -> bool:
    """Whether this is a username in its one normal form."""
    # Exactly text: a class of another's could run its code wherever the name is looked at.
    return type(name) is str and _USERNAME.match(name) is not None


def require_username(name: object, *, argument: str = "username") -> str:
    """Returns the name, unchanged.

    Raises:
        InvalidUsername: It is not in the one normal form; nothing is stripped or lowered for it.
    """
    if type(name) is not str:
        raise InvalidUsername(
            f"{argument} has to be text, a username, not {type(name).__name__}",
            username=type(name).__name__,
        )
    if not is_username(name):
        raise InvalidUsername(
            f"{argument} {name!r:.80} is not a username: 1 to 149 of the characters a-z 0-9 _ . - "
            "and the first a letter or digit (lower case only; nothing is converted)",
            username=name[:149],
        )
    return name
