"""What every command shares: one way to print, one way to fail, one way to ask."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import typer

from pipelit_agents._discretion import discreet
from pipelit_agents._words import has_code_form, is_wordy
from pipelit_agents.errors import PipelitError
from pipelit_agents.protocol.usernames import is_username

__all__ = [
    "AsJson",
    "Yes",
    "at_a_terminal",
    "confirm",
    "duration",
    "hand_over",
    "read_secret",
    "read_secrets",
    "reporting",
    "safe",
    "show",
    "show_table",
    "typed_words",
    "unsaid",
]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# The words of the command line that is run.
typed_words: ContextVar[tuple[str, ...]] = ContextVar("typed_words", default=())
_SHORTEST_SECRET: Final = 4
_TELLING: Final = 8
P = ParamSpec("P")
R = TypeVar("R")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask; needed without a terminal.")]
_FOLDED: Final = 12
ONCE: Final = "Shown once; it can't be shown again."


def reporting(command: Callable[P, R]) -> Callable[P, R]:
    """Turns an error of the library into one line, or one JSON document, and exit code 1."""
    # Commands read secrets, and an error that nobody expected may reach an error tracker.
    command = discreet(command)

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (OverflowError, PipelitError, ValueError, typer.Abort) as error:
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
        typer.echo(safe(title))
    for key, value in fields.items():
        # Plain text in one line, however long: a key that is wrapped can't be copied.
        note = f"   ({ONCE})" if key in once else ""
        typer.echo(f"  {key.replace('_', ' ')}: {safe(_text(value))}{note}")


def hand_over(title: str, fields: Mapping[str, Any], secret: str, *, as_json: bool) -> None:
    """Shows a secret once: a terminal with what belongs to it, a pipe the secret alone.

    Args:
        title: What happened; not part of the JSON.
        fields: The secret and what belongs to it.
        secret: Which of them it is.
        as_json: Print JSON.
    """
    if not as_json and not sys.stdout.isatty():
        typer.echo(fields[secret])
        return
    show(title, fields, as_json=as_json, once=[secret])


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
    from rich.cells import cell_len
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        # Names are typed again and times compared, so these are never cut; others are folded.
        whole = column in ("username", "name", "id", "at") or column.endswith("_at")
        title = column.replace("_", " ")
        longest = max(cell_len(title), *(cell_len(safe(_text(row[column]))) for row in found))
        least = longest if whole else min(longest, _FOLDED)
        table.add_column(title, no_wrap=whole, overflow="fold", min_width=least)
    for row in found:
        # As Text: of a string Rich would read the markup and the emoji codes.
        table.add_row(*(Text(safe(_text(row[column]))) for column in columns))
    console = Console()
    # A terminal that is too narrow wraps the lines; Rich would drop what doesn't fit.
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).minimum
    console.width = max(console.width, needed)
    console.print(table)


def read_secret(name: str) -> str:
    """Reads a secret from a hidden prompt, or all of standard input where there is no terminal."""
    return read_secrets([name])[name]


def read_secrets(names: Sequence[str]) -> dict[str, str]:
    """Reads secrets from hidden prompts, or from standard input where there is no terminal.

    A single secret is all that comes, without the last line's end, so that a key in several lines
    stays whole; of several secrets each is one line.

    Args:
        names: What to ask for.

    Raises:
        ValueError: Something is missing, left over, or no text. The message holds none of it.
    """
    values = [_ask(name) for name in names] if at_a_terminal() else _piped(names)
    asked = _asked(names)
    if not all(values):
        raise ValueError(f"{asked}: nothing was given; type it at the prompt or pipe it in")
    if len(values) != len(names):
        raise ValueError(
            f"{asked}: {len(names)} lines are needed on standard input, one for each, "
            f"and {len(values)} came"
        )
    return dict(zip(names, values, strict=True))


def confirm(question: str, *, yes: bool) -> None:
    """Asks before what can't be undone.

    Raises:
        ValueError: There is no terminal to ask at, and ``--yes`` isn't given.
    """
    if yes:
        return
    if not at_a_terminal():
        raise ValueError(f"{question} There is no terminal to ask at: add --yes to mean it")
    typer.confirm(safe(question), abort=True, err=True)


def duration(
    option: str, value: str, *, least: timedelta = timedelta(0), most: timedelta | None = None
) -> timedelta:
    """Reads a duration such as ``90d``.

    Args:
        option: What the message names.
        value: What was typed.
        least: The shortest duration that is accepted, in whole seconds.
        most: The longest duration that is accepted, in whole days.

    Raises:
        ValueError: It is none, or is out of range; the option is named.
    """
    found = re.fullmatch(r"([0-9]{1,5})([smhd])", value)
    if not found:
        raise ValueError(f"{option} {value!r} is not a duration; for example 30s, 10m, 2h or 90d")
    read = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if read < least:
        raise ValueError(f"{option} has to be at least {least.total_seconds():.0f}s")
    if most is not None and read > most:
        raise ValueError(f"{option} has to be at most {most.days}d")
    return read


def moment(value: datetime | None) -> str:
    """A time as the commands print it: ISO 8601 in UTC, to the second."""
    if value is None:
        return ""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _ask(name: str) -> str:
    # Not typer.prompt: it shows the question before it turns the echo off, so that what is typed
    # or pasted at once is shown, and lost.
    from getpass import getpass

    try:
        return getpass(f"{name}: ")
    except EOFError:
        raise typer.Abort from None


def _asked(names: Sequence[str]) -> str:
    # What a prompt shows may have been typed, and isn't repeated in a message.
    return names[0].partition(" ")[0] if len(names) == 1 else "Values"


def _piped(names: Sequence[str]) -> list[str]:
    try:
        text = sys.stdin.buffer.read().decode() if sys.stdin else ""
    except UnicodeDecodeError:
        raise ValueError(
            f"{_asked(names)}: standard input is no UTF-8 text; encode it first, for example "
            "with base64"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    return [text] if len(names) == 1 else [line.removesuffix("\r") for line in text.split("\n")]


def at_a_terminal() -> bool:
    """Whether there is somebody to ask."""
    # It is None where the shell closed it: pipelit-agents … <&-
    return sys.stdin is not None and sys.stdin.isatty()


def _fail(error: Exception, *, as_json: bool) -> NoReturn:
    message = str(error) or "stopped at the question; nothing was done"
    message = unsaid(message, unfit=isinstance(error, ValueError))
    if as_json:
        typer.echo(json.dumps({"error": {"type": type(error).__name__, "message": message}}))
    else:
        typer.echo(f"error: {safe(message)}", err=True)
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


def safe(text: str) -> str:
    """The text, with what would drive a terminal written out."""
    # What somebody put into a purpose must not drive the operator's terminal.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def unsaid(message: str, *, unfit: bool = False) -> str:
    """A message without the words of the command line that may be a secret or a code.

    A person may type one where a name belongs, and what ran the command keeps its output.

    Args:
        message: What would be shown.
        unfit: Whether a word was refused for its form. Then it may be anything, also a password,
            and none that the message quotes is kept; otherwise only names are.
    """
    kept = message
    for word in typed_words.get():
        for piece in {word, word.partition("=")[2]} - {""}:
            if unfit or not is_username(piece):
                message = _cut(message, repr(piece))
    for word in sorted(set(_typed()), key=len, reverse=True):
        for form in {word, repr(word)[1:-1], ascii(word)[1:-1], json.dumps(word)[1:-1]}:
            message = _cut(message, form)
    if message == kept:
        return message
    return f"{message} (… is what you typed, which may be a secret)"


def _typed() -> Iterator[str]:
    for word in typed_words.get():
        # Its parts too, as a message may have the word in another form: a path, an address.
        for piece in (word, *word.split("=", 1), *re.split(r"[/?&=:,;@\s]", word)):
            if len(piece) >= _SHORTEST_SECRET and (has_code_form(piece) or not is_wordy(piece)):
                yield piece


def _cut(message: str, form: str) -> str:
    # The message may have its beginning only.
    start, at = form[:_TELLING], 0
    while (at := message.find(start, at)) >= 0:
        end = at + len(start)
        while end < len(message) and message[end : end + 1] == form[end - at : end - at + 1]:
            end += 1
        message = f"{message[:at]}…{message[end:]}"
        at += 1
    return message
