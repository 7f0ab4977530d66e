"""Output, errors and prompts of all commands."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NoReturn, ParamSpec, TypeVar

import typer

from pipelit_agents._discretion import discreet
from pipelit_agents._words import has_code_form, is_wordy
from pipelit_agents.errors import MalformedCode, PipelitError
from pipelit_agents.exact import visible
from pipelit_agents.protocol.usernames import is_username

__all__ = [
    "AsJson",
    "Yes",
    "at_a_terminal",
    "beside_others",
    "confirm",
    "duration",
    "encodable",
    "hand_over",
    "has_colours",
    "is_blank",
    "may_be_typed_secret",
    "moment",
    "plain",
    "print_once",
    "print_wrapped",
    "read_secret",
    "read_secrets",
    "reporting",
    "safe",
    "show",
    "typed_words",
    "unsaid",
    "worded",
]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# The arguments of the command that is running.
typed_words: ContextVar[tuple[str, ...]] = ContextVar("typed_words", default=())
# Characters; shorter words are never masked.
_MIN_SECRET_LENGTH: Final = 4
# Characters at the beginning of a word that are enough to mask it in a message.
_PREFIX_LENGTH: Final = 8
# Each space after another.
_MORE_SPACES: Final = re.compile(r"(?<= ) ")
# The id of a question to people. It permits nothing, so messages may repeat it.
_QUESTION_ID: Final = re.compile(r"apr_[0-9a-f]{32}")
# The name of an argument in Python, at the beginning of a message about its value.
_FIRST_NAME: Final = re.compile(r"([a-z_]+)(?=:| must | has to | …| '| is | isn't )")
# Methods that messages of the library name, and the commands for them.
_COMMANDS: Final[Mapping[str, str]] = {
    "list_api_keys": "pipelit-agents users keys list USERNAME",
    "users.create": "pipelit-agents users create",
    "users.create_agent": "pipelit-agents agents create",
    "users.issue_peering": "pipelit-agents agents peering",
    "users.lanes": "pipelit-agents users lanes",
}
_COMMAND_IN_TEXT: Final = re.compile(r"pipelit-agents [^;,`)]+?(?=[;,`)]|\. |$)")
# A method that a message names beside the command for it.
_OR_COMMAND: Final = re.compile(r"with [\w.()]+ or(?: with the command|:) (?=pipelit-agents )")
_METHOD: Final = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, _COMMANDS))})(?![\w.])")
P = ParamSpec("P")
R = TypeVar("R")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Don't ask for confirmation; required without a terminal."),
]
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


def reporting(command: Callable[P, R]) -> Callable[P, R]:
    """Report an error of the library as one line, or one JSON document, with exit code 1."""
    # Commands read secrets, and an unexpected error may reach an error tracker.
    command = discreet(command)

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (OverflowError, PipelitError, ValueError, typer.Abort) as error:
            message = str(error) or "stopped at the prompt; nothing was done"
            message = _OR_COMMAND.sub("with: ", message)
            message = _METHOD.sub(lambda found: _COMMANDS[found[1]], message)
            message = _in_options(message, command) + _hint(error, kwargs)
            _fail(error, message, as_json=bool(kwargs.get("as_json")))

    # Typer keeps the line breaks of a docstring, so paragraphs would be broken where ours are.
    wrapped.__doc__ = "\n\n".join(
        " ".join(each.split()) for each in (command.__doc__ or "").split("\n\n")
    )
    return wrapped


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
        said = safe(f"  {label_of(key)}: {worded(key, value)}")
        if key in once:
            # One line of plain text, however long: a wrapped key can't be copied.
            typer.echo(said)
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
    """Whether whoever runs the command wants colours in a terminal that has them."""
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


def read_secret(name: str) -> str:
    """Read a secret from a hidden prompt, or from all of standard input without a terminal."""
    return read_secrets([name])[name]


def read_code(missing: str) -> str:
    """Read a code that may be asked for again.

    Args:
        missing: What to say if nothing is typed.

    Raises:
        MalformedCode: Nothing was typed, so the caller can ask again as for a wrong code.
        ValueError: Without a terminal, the input is empty. The caller would ask without end.
    """
    try:
        return read_secret("Code")
    except ValueError:
        if not at_a_terminal():
            raise
        raise MalformedCode(missing) from None


def read_secrets(names: Sequence[str]) -> dict[str, str]:
    """Read secrets from hidden prompts, or from standard input without a terminal.

    A single secret is all of standard input without the final line break, so a key of several
    lines stays complete. Of several secrets, each is one line.

    Args:
        names: The prompts.

    Raises:
        ValueError: A secret is missing or empty, there are too many lines, or the input isn't
            UTF-8. The message contains none of the input.
    """
    values = [_ask(name) for name in names] if at_a_terminal() else _piped(names)
    label = _prompt_label(names)
    if not all(values):
        raise ValueError(f"{label}: the input is empty; type it at the prompt or pipe it in")
    if len(values) != len(names):
        raise ValueError(
            f"{label}: {len(names)} lines are needed on standard input, one for each value, "
            f"but there were {len(values)}"
        )
    return dict(zip(names, values, strict=True))


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation of an action that can't be undone.

    Raises:
        ValueError: There is no terminal for the question, and ``--yes`` isn't set.
    """
    if yes:
        return
    if not at_a_terminal():
        raise ValueError(f"{question} There is no terminal to ask at: add --yes to confirm")
    try:
        agreed = typer.confirm(safe(question), err=True)
    except typer.Abort:
        typer.echo(err=True)
        raise
    if not agreed:
        raise typer.Abort


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


def moment(value: datetime | None) -> str:
    """Return a time as the commands print it: ISO 8601 in UTC, to the second."""
    if value is None:
        return ""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _ask(name: str) -> str:
    # Not typer.prompt: it shows the prompt before it turns the echo off, so text that is typed or
    # pasted immediately is displayed and lost.
    from getpass import getpass

    try:
        return getpass(f"{name}: ")
    except (EOFError, KeyboardInterrupt):
        # The prompt is still on the line.
        typer.echo(err=True)
        raise typer.Abort from None


def _prompt_label(names: Sequence[str]) -> str:
    # A prompt may contain input, which the message must not repeat.
    return names[0].partition(" ")[0] if len(names) == 1 else "Values"


def _piped(names: Sequence[str]) -> list[str]:
    try:
        text = sys.stdin.buffer.read().decode() if sys.stdin else ""
    except UnicodeDecodeError:
        raise ValueError(
            f"{_prompt_label(names)}: standard input isn't UTF-8 text; encode it first, for "
            "example with base64"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    return [text] if len(names) == 1 else [line.removesuffix("\r") for line in text.split("\n")]


def at_a_terminal() -> bool:
    """Whether standard input is a terminal."""
    # It is None if the shell closed it: pipelit-agents … <&-
    return sys.stdin is not None and sys.stdin.isatty()


def _in_options(message: str, command: Callable[..., object]) -> str:
    """Name the option or argument as it is typed, if a message begins with its name in Python."""
    found = _FIRST_NAME.match(message)
    if found is None or found[1] not in inspect.signature(command).parameters:
        return message
    from typing import get_type_hints

    hints = get_type_hints(inspect.unwrap(command), include_extras=True)
    told = getattr(hints[found[1]], "__metadata__", (None,))[0]
    declared = [each for each in getattr(told, "param_decls", None) or () if each.startswith("--")]
    is_argument = type(told).__name__ == "ArgumentInfo"
    typed = getattr(told, "metavar", None) if is_argument else (declared or [None])[0]
    named = typed or f"--{found[1].replace('_', '-')}"
    return f"{named}{message[found.end(1) :]}"


def _hint(error: Exception, kwargs: Mapping[str, object]) -> str:
    """Return the command that helps, for errors whose own message names a method or nothing."""
    username, peer = kwargs.get("username"), kwargs.get("peer")
    match type(error).__name__:
        case "CodeRejected" if peer:
            verifier = kwargs.get("verifier")
            kind = "" if kwargs.get("plain") else f" --audience {verifier}"
            return (
                f". A new code: pipelit-agents code {peer}{kind}. The true reason: pipelit-agents "
                f"audit --subject {peer} --outcome refused"
            )
        case "PeerLocked" | "RateLimited" if peer:
            return f". What was counted: pipelit-agents agents lanes {peer}"
        case "UserExists":
            return f". To see it: pipelit-agents users show {username}"
    return ""


def _fail(error: Exception, message: str, *, as_json: bool) -> NoReturn:
    message = unsaid(message, unfit=isinstance(error, ValueError))
    if as_json:
        typer.echo(json.dumps({"error": {"type": type(error).__name__, "message": message}}))
    else:
        print_wrapped(f"error: {safe(message)}", err=True)
    raise typer.Exit(1)


def plain(value: object) -> object:
    """Return a value as JSON has it."""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, tuple):
        return list(value)
    return value


def is_blank(value: object) -> bool:
    """Whether a value says nothing by itself. ``False`` and 0 do."""
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


def unsaid(message: str, *, unfit: bool = False) -> str:
    """Mask the words of the command line in a message that may be a secret or a code.

    People sometimes type a secret in the position of a name, and the program that ran the command
    may log its output.

    Args:
        message: The message.
        unfit: Whether a word was refused for its form. It may then be anything, such as a
            password, so all quoted words are masked. Otherwise valid names are kept.
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


def may_be_typed_secret(word: str) -> bool:
    """Return whether a word of the command line may be a secret or a code."""
    return not _QUESTION_ID.fullmatch(word) and (has_code_form(word) or not is_wordy(word))


def _typed() -> Iterator[str]:
    for word in typed_words.get():
        # Its parts too, because a message may contain the word as part of a path or an address.
        for piece in (word, *word.split("=", 1), *re.split(r"[/?&=:,;@\s]", word)):
            if len(piece) >= _MIN_SECRET_LENGTH and may_be_typed_secret(piece):
                yield piece


def _cut(message: str, form: str) -> str:
    # The message may contain only the beginning of the word.
    start, at = form[:_PREFIX_LENGTH], 0
    while (at := message.find(start, at)) >= 0:
        end = at + len(start)
        while end < len(message) and message[end : end + 1] == form[end - at : end - at + 1]:
            end += 1
        message = f"{message[:at]}…{message[end:]}"
        at += 1
    return message
