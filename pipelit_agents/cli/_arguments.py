"""Arguments that several commands share."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

__all__ = ["AsJson", "ExpiresIn", "Name", "Yes", "duration", "example", "expiry"]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Don't ask for confirmation; required without a terminal."),
]

Name = Annotated[str, typer.Argument(help="The account's exact name.", metavar="USERNAME")]
ExpiresIn = Annotated[
    str | None,
    typer.Option(
        help="The period of validity of its API key, such as 90d. By default, it doesn't expire."
    ),
]


def example(words: str) -> str:
    """Return the end of a command's help: an example in a line that can be copied."""
    return f"Example:\n\npipelit-agents {words}"


def expiry(expires_in: str | None) -> datetime | None:
    """Return the time that ``--expires-in`` names, in UTC, or None for no expiry."""
    if expires_in is None:
        return None
    return datetime.now(UTC) + duration("--expires-in", expires_in)


def duration(
    option: str, value: str, *, least: timedelta = timedelta(0), most: timedelta | None = None
) -> timedelta:
    """Parse a duration such as ``90d``.

    Args:
        option: The option, for the error message.
        value: The text.
        least: The minimum, in whole seconds.
        most: The maximum, in whole days.

    Raises:
        ValueError: The text isn't a duration, or is out of range. The message names the option.
    """
    found = re.fullmatch(r"([0-9]{1,5})([smhd])", value)
    if not found:
        raise ValueError(f"{option} {value!r} is not a duration; for example 30s, 10m, 2h or 90d")
    read = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if read < least:
        raise ValueError(f"{option} must be at least {least.total_seconds():.0f}s")
    if most is not None and read > most:
        raise ValueError(f"{option} must be at most {most.days}d")
    return read
