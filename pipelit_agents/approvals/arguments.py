"""Arguments of approvals: names and times, checked before anything is read or written."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pipelit_agents._bounds import require_span
from pipelit_agents.protocol.usernames import require_list, require_username

__all__ = ["WEEK", "require_approvers", "require_lifetime"]

WEEK: Final = timedelta(days=7)


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


def require_lifetime(expires_in: object) -> float:
    """Return the number of seconds for which a question is open.

    Raises:
        TypeError: It is neither a number of seconds nor a ``timedelta``.
        ValueError: It isn't more than 0, isn't finite, or is longer than 366 days.
    """
    return require_span(expires_in, "expires_in", most=timedelta(days=366))
