"""Report the errors of the library, in the words of the command line."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn, ParamSpec, TypeVar

import typer

from pipelit_agents._discretion import discreet
from pipelit_agents.cli.near_names import with_near_name
from pipelit_agents.cli.output import print_wrapped
from pipelit_agents.cli.typed_words import unsaid
from pipelit_agents.errors import PipelitError

__all__ = ["reporting"]

P = ParamSpec("P")
R = TypeVar("R")
# The name of an argument in Python, at the beginning of a message about its value.
_FIRST_NAME: Final = re.compile(r"([a-z_]+)(?=:| must | has to | …| '| is | isn't )")
# Arguments of the library, and the parameters of commands that are passed as them.
_PASSED_AS: Final[Mapping[str, Sequence[str]]] = {
    "expires_at": ("expires_in",),
    "key_expires_at": ("expires_in",),
    "person": ("user",),
    "secret": ("credential",),
    "url": ("webhook",),
    "username": ("user", "owner"),
}
# Methods that messages of the library name, and the commands for them.
_COMMANDS: Final[Mapping[str, str]] = {
    "list_api_keys": "pipelit-agents users keys list USERNAME",
    "users.create": "pipelit-agents users create",
    "users.create_agent": "pipelit-agents agents create",
    "users.issue_peering": "pipelit-agents agents peering",
    "users.lanes": "pipelit-agents users lanes",
}
# A method that a message names beside the command for it.
_OR_COMMAND: Final = re.compile(r"with [\w.()]+ or(?: with the command|:) (?=pipelit-agents )")
_METHOD: Final = re.compile(
    rf"(?<![\w.-])({'|'.join(map(re.escape, _COMMANDS))})(?![\w.])(?:\(([^()]*)\))?"
)
_KEYWORD: Final = re.compile(r"([a-z_]+)=")


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
            message = _METHOD.sub(_as_command, message)
            message = with_near_name(error, message)
            message = _in_options(message, command) + _hint(error, kwargs)
            _fail(error, message, as_json=bool(kwargs.get("as_json")))

    # Typer keeps the line breaks of a docstring, so paragraphs would be broken where ours are.
    wrapped.__doc__ = "\n\n".join(
        " ".join(each.split()) for each in (command.__doc__ or "").split("\n\n")
    )
    return wrapped


def _as_command(method: re.Match[str]) -> str:
    """Return the command for a method, with the arguments of a call as they are typed."""
    words = (method[2] or "").replace('"', "").split(", ")
    named = (_KEYWORD.sub(lambda found: f"--{found[1].replace('_', '-')} ", each) for each in words)
    return " ".join((_COMMANDS[method[1]], *named)).strip()


def _in_options(message: str, command: Callable[..., object]) -> str:
    """Name the option or argument as it is typed, if a message begins with its name in Python."""
    found = _FIRST_NAME.match(message)
    if found is None:
        return message
    taken = inspect.signature(command).parameters
    name = next((each for each in (found[1], *_PASSED_AS.get(found[1], ())) if each in taken), None)
    if name is None:
        return message
    from typing import get_type_hints

    hints = get_type_hints(inspect.unwrap(command), include_extras=True)
    told = getattr(hints[name], "__metadata__", (None,))[0]
    declared = [each for each in getattr(told, "param_decls", None) or () if each.startswith("--")]
    is_argument = type(told).__name__ == "ArgumentInfo"
    typed = getattr(told, "metavar", None) if is_argument else (declared or [None])[0]
    named = typed or f"--{name.replace('_', '-')}"
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
        print_wrapped(f"error: {message}", err=True)
    raise typer.Exit(1)
