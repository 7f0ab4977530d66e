"""Print results: fields and their values in words, and texts that fit the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import typer

from pipelit_agents.exact import visible

__all__ = [
    "beside_others",
    "encodable",
    "hand_over",
    "has_colours",
    "is_blank",
    "label_of",
    "moment",
    "plain",
    "print_once",
    "print_wrapped",
    "safe",
    "show",
    "worded",
]

_COMMAND_IN_TEXT: Final = re.compile(r"pipelit-agents [^;,`)]+?(?=[;,`)]|\. |$)")
# Each space after another.
_MORE_SPACES: Final = re.compile(r"(?<= ) ")
# What a field without a value means, where "none" would say too little.
_BLANK: Final[Mapping[str, str]] = {
    "allow": "anyone",
    "audience": "anyone",
    "created_by": "unknown",
    "expires_at": "never",
    "last_used_at": "never",
    "locked_until": "not locked",
    "owner": "nobody",
    "person": "nobody; it is shared",
    "purpose": "not set",
    "revoked_at": "never",
    "updated_by": "unknown",
}
_LABELS: Final[Mapping[str, str]] = {
    "allow": "who may open it",
    "api_key": "API key",
    "masked": "secret",
    "peering_uri": "peering URI",
    "provisioning_uri": "provisioning URI",
    "qr_code": "QR code",
    "set_up_token": "set-up token",
}


def show(
    title: str, fields: Mapping[str, object], *, as_json: bool, once: Sequence[str] = ()
) -> None:
    """Print the fields of one object.

    Args:
        title: The first line; not part of the JSON.
        fields: The fields.
        as_json: Print JSON.
        once: The names of fields that are secrets and are shown only once.
    """
    if as_json:
        typer.echo(json.dumps({key: plain(value) for key, value in fields.items()}, indent=2))
        return
    if title:
        typer.echo(safe(title))
    for key, value in fields.items():
        said = f"  {label_of(key)}: {worded(key, value)}"
        if key in once:
            # One line of plain text, however long: a wrapped key can't be copied.
            typer.echo(safe(said))
        else:
            print_wrapped(said)
    if once:
        print_once([label_of(key) for key in once])


def print_wrapped(
    text: str,
    *,
    err: bool = False,
    hang: int | None = None,
    coloured: Mapping[str, str] | None = None,
) -> None:
    """Print a line of text; a terminal gets it in lines that fit, broken between words.

    What can't be seen is escaped, as by ``safe``.

    Args:
        text: The text.
        err: Print it on standard error.
        hang: Blanks before each further line; by default two more than before a text that has a
            label.
        coloured: The colour of each beginning of a text; only for terminals.
    """
    stream = sys.stderr if err else sys.stdout
    text = encodable(safe(text), getattr(stream, "encoding", None))
    if not stream.isatty():
        typer.echo(text, err=err)
        return
    import shutil
    import textwrap

    if hang is None:
        margin = len(text) - len(text.lstrip())
        hang = margin + 2 if margin or re.match(r"[a-z]+: ", text) else 0
    # A command isn't broken, so that it can be copied.
    whole = _COMMAND_IN_TEXT.sub(lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        whole,
        shutil.get_terminal_size().columns,
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line.replace("\0", " ") for line in lines]
    for start, colour in (coloured or {}).items():
        if text.startswith(start) and has_colours():
            lines[0] = typer.style(start, fg=colour) + lines[0].removeprefix(start)
    for line in lines:
        typer.echo(line, err=err)


def has_colours() -> bool:
    """Return whether the terminal has colours, and its user wants them."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_once(labels: Sequence[str]) -> None:
    """Print that secrets won't be shown again."""
    if len(labels) == 1:
        print_wrapped(f"Store the {labels[0]} now: it isn't shown again.")
    else:
        both = f"{', '.join(labels[:-1])} and the {labels[-1]}"
        print_wrapped(f"Store the {both} now: they aren't shown again.")


def label_of(field: str) -> str:
    """Return the words for the name of a field."""
    return _LABELS.get(field, field.replace("_", " "))


def hand_over(title: str, fields: Mapping[str, object], secret: str, *, as_json: bool) -> None:
    """Show a secret once. A terminal gets all fields, a pipe only the secret.

    Args:
        title: The first line; not part of the JSON.
        fields: The secret and related fields.
        secret: The name of the field with the secret.
        as_json: Print JSON.
    """
    if not as_json and not sys.stdout.isatty():
        typer.echo(fields[secret])
        return
    show(title, fields, as_json=as_json, once=[secret])


def moment(value: datetime | None) -> str:
    """Return a time as the commands print it: ISO 8601 in UTC, to the second."""
    if value is None:
        return ""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def plain(value: object) -> object:
    """Return a value as JSON has it."""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, tuple):
        return list(value)
    return value


def is_blank(value: object) -> bool:
    """Return whether a value is None or empty. ``False`` and 0 are neither."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def worded(field: str, value: object) -> str:
    """Return a value in words. A field without a value says what that means."""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_blank(value):
        return _BLANK.get(field, "none")
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        found = [str(each) for each in value]
        return ("; " if any(" " in each for each in found) else ", ").join(found)
    return str(value)


def encodable(text: str, encoding: str | None) -> str:
    """Return a text as a stream can print it: with JSON's escapes of what it can't encode."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
    return text


def safe(text: str) -> str:
    """Return a text with its control characters, and characters that can't be seen, escaped."""
    # Stored text, such as a purpose, must not control the operator's terminal.
    return visible(text)


def beside_others(text: str) -> str:
    """Return a text for a line with other values, from which two spaces separate it."""
    # Otherwise a purpose could draw another field of its row.
    return _MORE_SPACES.sub("\\\\u0020", safe(text))
