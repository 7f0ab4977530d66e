"""Arguments of approvals: names and times, checked before anything is read or written."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final

from pipelit_agents.protocol.usernames import require_list, require_username

__all__ = [
    "WEEK",
    "require_approvers",
    "require_lifetime",
    "require_seconds",
]

WEEK: Final = timedelta(days=7)
_MAX_LIFETIME: Final = timedelta(days=366)


def require_approvers(approvers: object, *, argument: str = "approvers") -> tuple[str, ...]:
    """Return the names without duplicates.

    Raises:
        TypeError: It is one name, or isn't a list.
        ValueError: It is empty.
        InvalidUsername: A name is malformed.
    """
    listed = require_list(approvers, argument=argument)
    names = tuple(dict.fromkeys(require_username(name, argument=argument) for name in listed))
    if not names:
        raise ValueError(f"{argument} is empty: name at least one person")
    return names


def require_seconds(argument: str, value: object) -> float:
    """Return a duration in seconds from a number of seconds or a timedelta.

    Raises:
        TypeError: It is neither.
        ValueError: It isn't more than 0, or isn't finite.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise TypeError(f"{argument} must be seconds or a timedelta, not {type(value).__name__}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{argument} must be more than 0 seconds")
    return seconds


def require_lifetime(expires_in: object) -> float:
    """Return the number of seconds for which a question is open.

    Raises:
        TypeError: As ``require_seconds``.
        ValueError: As ``require_seconds``, or it is more than 366 days.
    """
    seconds = require_seconds("expires_in", expires_in)
    if seconds > _MAX_LIFETIME.total_seconds():
        raise ValueError("expires_in must be at most 366 days")
    return seconds
