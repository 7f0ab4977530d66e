"""What a deployment check answers, and the wording that the checks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = ["Finding", "NoDatabase", "NotApplicable", "listed", "passed", "with_notes"]

_MAX_LISTED_NAMES: Final = 5


class Finding(NamedTuple):
    """The answer of a check.

    Attributes:
        found: What was found.
        fix: The command or setting that fixes it; empty if the check passed.
    """

    found: str
    fix: str


class NotApplicable(Exception):
    """The check doesn't apply to this deployment."""


class NoDatabase(Exception):
    """The check needs the database, and there is none."""


def passed(found: str = "ok") -> Finding:
    """Return the answer of a check that passed."""
    return Finding(found, "")


def listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _MAX_LISTED_NAMES} more" if len(every) > _MAX_LISTED_NAMES else ""
    return ", ".join(every[:_MAX_LISTED_NAMES]) + more


def with_notes(notes: Sequence[str]) -> Finding:
    """Return a passed check, with notes on hosts whose location is unknown."""
    if not notes:
        return passed()
    return passed(
        f"{listed(notes)}: this is fine if the host is on this machine, or in a private network of "
        "containers"
    )
