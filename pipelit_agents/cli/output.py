"""What every command shares: one way to print, one way to fail, one way to ask."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import typer

from pipelit_agents.errors import PipelitError

__all__ = ["AsJson", "Yes", "confirm", "read_secret", "reporting", "show", "show_table"]

P = ParamSpec("P")
R = TypeVar("R")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask; needed without a terminal.")]
ONCE: Final = "Shown once; it can't be shown again."


def reporting(command: Callable[P, R]) -> Callable[P, R]:
    """Turns an error of the library into one line, or one JSON document, and exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (PipelitError, ValueError) as error:
            _fail(error, as_json=bool(kwargs.get("as_json")))

    return wrapped


def show(title: str, fields: Mapping[str, Any], *, as_json: bool, once: Sequence[str] = ()) -> None:
    """Prints one thing.

    Args:
        title: What it is; not part of the JSON.
        fields: Its fields.
        as_json: Print JSON.
        once: Which of the fields are secrets that are shown now and never again.
    """
    if as_json:
        typer.echo(json.dumps({key: _plain(value) for key, value in fields.items()}, indent=2))
        return
    if title:
        typer.echo(_safe(title))
    for key, value in fields.items():
        # Plain text in one line, however long: a key that is wrapped can't be copied.
        note = f"   ({ONCE})" if key in once else ""
        typer.echo(f"  {key.replace('_', ' ')}: {_safe(_text(value))}{note}")


def show_table(rows: Sequence[Any], columns: Sequence[str], *, as_json: bool) -> None:
    """Prints things of one kind, dataclasses or mappings.

    Args:
        rows: The things.
        columns: Which fields a person is shown; JSON has them all.
        as_json: Print JSON.
    """
    found = [row if isinstance(row, Mapping) else dataclasses.asdict(row) for row in rows]
    if as_json:
        every = [{key: _plain(value) for key, value in row.items()} for row in found]
        typer.echo(json.dumps(every, indent=2))
        return
    if not found:
        typer.echo("There are none.")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        # Names are typed again and times compared, so these are never cut.
        whole = column in ("username", "name", "id") or column.endswith("_at")
        table.add_column(column.replace("_", " "), no_wrap=whole, overflow="fold")
    for row in found:
        table.add_row(*(escape(_safe(_text(row[column]))) for column in columns))
    Console().print(table)


def read_secret(name: str) -> str:
    """Reads a secret from a hidden prompt, or from standard input where there is no terminal."""
    if sys.stdin.isatty():
        value = typer.prompt(name, hide_input=True, err=True)
    else:
        value = sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise ValueError(f"{name}: nothing was given; type it at the prompt or pipe it in")
    return str(value)


def confirm(question: str, *, yes: bool) -> None:
    """Asks before what can't be undone.

    Raises:
        ValueError: There is no terminal to ask at, and ``--yes`` isn't given.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValueError(f"{question} There is no terminal to ask at: add --yes to mean it")
    typer.confirm(question, abort=True, err=True)


def moment(value: datetime | None) -> str:
    """A time as the commands print it: ISO 8601 in UTC, to the second."""
    if value is None:
        return ""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _fail(error: Exception, *, as_json: bool) -> NoReturn:
    if as_json:
        told = {"type": type(error).__name__, "message": str(error)}
        typer.echo(json.dumps({"error": told}))
    else:
        typer.echo(f"error: {_safe(str(error))}", err=True)
    raise typer.Exit(1)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, tuple):
        return list(value)
    return value


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return json.dumps(value) if value else ""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _safe(text: str) -> str:
    # What somebody put into a purpose must not drive the operator's terminal.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
