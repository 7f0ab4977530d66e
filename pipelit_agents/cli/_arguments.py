"""Arguments that several commands share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from pipelit_agents.cli._io import (
    duration,
)

__all__ = ["example", "expiry"]

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
