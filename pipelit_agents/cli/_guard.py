"""The root of the command line: report usage errors without repeating input, and failing streams.

People sometimes type a secret in the wrong position, as an extra argument or as the value of an
unknown option. Typer's messages repeat it, so it would reach the logs of the program that ran the
command. The messages here contain only the command's own names.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TextIO, TypeGuard, get_args

import typer
from typer.core import TyperGroup

from pipelit_agents.cli.near_names import did_you_mean, either
from pipelit_agents.cli.output import print_wrapped, safe
from pipelit_agents.cli.typed_words import may_be_typed_secret, typed_words, unsaid

__all__ = ["Guarded"]

_USAGE: Final = 2
_FAILED: Final = 1
_MAX_SUGGESTIONS: Final = 3
# For options without a default.
_EXAMPLES: Final = {"--port": 8440, "--workers": 2}
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
_NEVER_TYPED: Final = (
    "No command takes a secret or a code as an argument: commands prompt for it, or read it from "
    "standard input. If you typed one, replace it, because the shell's history has it now"
)


# What other programs call a command of this one. The first that the group has is suggested.
_OTHER_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "accept": ("approve",),
    "add": ("create", "put", "issue", "enroll"),
    "cat": ("show",),
    "create": ("put", "issue", "enroll"),
    "decline": ("deny",),
    "delete": ("deactivate", "revoke", "disable"),
    "describe": ("show", "status"),
    "enable": ("enroll",),
    "get": ("show", "status"),
    "info": ("show", "status"),
    "list": ("status",),
    "ls": ("list", "status"),
    "new": ("create", "put", "issue", "enroll"),
    "refuse": ("deny",),
    "reject": ("deny",),
    "remove": ("delete", "deactivate", "revoke", "disable"),
    "rm": ("delete", "deactivate", "revoke", "disable"),
    "set": ("put",),
    "show": ("status",),
    "update": ("put",),
}
# Words for what `pipelit-agents audit` does without a command.
_TO_LIST: Final = frozenset({"cat", "get", "list", "ls", "show"})
# An option that somebody typed, if it is made of a few ordinary words.
_PLAIN_OPTION: Final = re.compile(r"--[a-z]{1,15}(?:-[a-z]{1,15}){0,2}")
_LETTER_OPTION: Final = re.compile(r"-[A-Za-z]")
_SECRET_OPTION: Final = re.compile(r"auth|code|cred|key|otp|pass|pin|pw|secret|seed|token|value")


class _Parameter(Protocol):
    """An option or argument of a command. Typer has no public name for it."""

    @property
    def name(self) -> str | None: ...
    @property
    def opts(self) -> Sequence[str]: ...
    @property
    def secondary_opts(self) -> Sequence[str]: ...
    @property
    def param_type_name(self) -> str: ...
    @property
    def nargs(self) -> int: ...


class _Command(Protocol):
    """A command or a group of commands."""

    @property
    def params(self) -> Sequence[_Parameter]: ...


class _Context(Protocol):
    """Where in the command line an error is."""

    def get_usage(self) -> str: ...


class _UsageError(Protocol):
    """The base class of usage errors. Typer has no public name for it."""

    @property
    def ctx(self) -> _Context | None: ...
    def format_message(self) -> str: ...


class Guarded(TyperGroup):
    """The root of the commands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command, and report in one line why it can't run."""
        words = list(sys.argv[1:] if args is None else args)
        run = partial(
            super().main, words, prog_name, complete_var, False, windows_expand_args, **extra
        )
        if not standalone_mode:
            return run()
        _open_missing_streams()
        typed_words.set(tuple(words))
        # python-dotenv warns of a line each time that a setting is read.
        unreadable = _UnreadableLine()
        logging.getLogger("dotenv.main").addFilter(unreadable)
        try:
            code = run()
            sys.stdout.flush()
        except typer.Abort:
            _end(_FAILED, "error: stopped; nothing was done")
        except BrokenPipeError:
            # The reader closed the pipe, as `| head -1` does. This isn't an error.
            _end(_FAILED)
        except OSError as error:
            _end(_FAILED, f"error: {_unwritable(error)}")
        except Exception as error:
            if not _is_usage(error):
                raise
            _end(_USAGE, *_usage(self, error, words))
        finally:
            logging.getLogger("dotenv.main").removeFilter(unreadable)
        sys.exit(code if isinstance(code, int) else 0)


class _UnreadableLine(logging.Filter):
    """Pass a warning about a line of ``.env`` once, and say that the line is ignored."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: set[object] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line wasn't warned of before."""
        if "could not parse" not in str(record.msg) or not record.args:
            return True
        if record.args in self._lines:
            return False
        self._lines.add(record.args)
        record.msg = (
            "warning: line %s of .env can't be read and is ignored: write NAME=VALUE, or begin the "
            "line with #"
        )
        return True


def _open_missing_streams() -> None:
    # After `>&-`, the next opened file would get descriptor 1, and a print would go into the
    # database.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))


def _end(code: int, *lines: str) -> NoReturn:
    try:
        for line in lines:
            # The text of help is drawn already.
            typer.echo(line, err=True) if "\n" in line else print_wrapped(line, err=True)
    except OSError:
        pass
    for stream in (sys.stdout, sys.stderr):
        _discard(stream)
    sys.exit(code)


def _discard(stream: TextIO) -> None:
    """Redirect a stream that can't be written, so that the interpreter doesn't flush it again."""
    try:
        stream.flush()
    except OSError:
        if stream not in (sys.__stdout__, sys.__stderr__):
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _unwritable(error: OSError) -> str:
    # Files that a command opens have a name, so an error without one is about standard output.
    if error.filename is None and error.errno in _FULL:
        return (
            f"standard output can't be written to ({error.strerror}). The command may have done "
            "its work, but its output is lost, including any secret that is only shown once"
        )
    named = f" ({error.filename})" if error.filename else ""
    return safe(unsaid(f"{error.strerror or type(error).__name__}{named}"))


def _is_usage(error: Exception) -> TypeGuard[_UsageError]:
    # The base class has no public name, but its subclass BadParameter has one.
    usage: type[BaseException] = typer.BadParameter.__mro__[1]
    return isinstance(error, usage)


def _usage(root: _Command, error: _UsageError, words: list[str]) -> list[str]:
    kind, context = type(error).__name__, error.ctx
    if kind == "NoArgsIsHelpError":
        # The message is the command's help text, without any input.
        return [error.format_message()]
    lines = [] if context is None else [context.get_usage()]
    command, path = _reached(root, words)
    rest = words[path.count(" ") :]
    said = _said(root, kind, error, command, words, rest)
    # A comment is copied with the command; only what comes before it was typed.
    typed = rest[: rest.index("#")] if "#" in rest else rest
    if _NEVER_TYPED not in said and _may_have_a_secret(command, typed):
        said = f"{said}. {_NEVER_TYPED}"
    return [*lines, f"error: {safe(said)}", f"See: {path} --help"]


def _reached(root: _Command, words: list[str]) -> tuple[_Command, str]:
    """Return the command that the words lead to, because not every error carries it."""
    command, path = root, ["pipelit-agents"]
    for word in words:
        inner = _commands_of(command)
        if word not in inner:
            break
        command = inner[word]
        path.append(word)
    return command, " ".join(path)


def _commands_of(command: _Command) -> Mapping[str, _Command]:
    """Return the commands of a group by name; none if it isn't one."""
    found: Mapping[str, _Command] = getattr(command, "commands", {})
    return found


def _said(
    root: _Command,
    kind: str,
    error: _UsageError,
    command: _Command,
    words: list[str],
    rest: list[str],
) -> str:
    parameter: _Parameter | None = getattr(error, "param", None)
    if kind == "MissingParameter":
        *others, last = _missing(command, rest, parameter)
        return f"{', '.join(others)} and {last} are missing" if others else f"{last} is missing"
    if kind == "BadParameter":
        return f"{_name(parameter)} isn't {_expected(parameter)}"
    options = {
        option: each
        for each in command.params
        for option in (*each.opts, *each.secondary_opts)
        if option.startswith("-")
    }
    option_name = str(getattr(error, "option_name", ""))
    if kind == "NoSuchOption":
        return _no_such_option(option_name, options, rest)
    if kind == "BadOptionUsage" and option_name in options:
        flag = getattr(options[option_name], "is_flag", False)
        return f"{option_name} {'takes no value' if flag else 'needs a value'}"
    if _commands_of(command):
        missing = all(word.startswith("-") for word in rest)
        what = "a command is missing" if missing else "there is no such command"
        close = "" if missing else _meant(root, command, words, rest)
        return f"{what}{close}; available commands: {', '.join(_shown(command))}"
    if kind == "UsageError" and "#" in rest:
        return "your shell doesn't take # as a comment: leave it out, and what follows it"
    if kind == "UsageError":
        return f"there are more arguments than the command takes. {_NEVER_TYPED}"
    return "the command line can't be read"


def _no_such_option(typed: str, options: Mapping[str, _Parameter], rest: list[str]) -> str:
    """Return what to say about an option that the command doesn't have.

    It is only named if it is an ordinary word, and is what was typed up to the ``=``.
    """
    if _LETTER_OPTION.fullmatch(typed) and typed in rest:
        # It is too short for a secret. A word after it may be one, as in `-p hunter2`.
        meant = _meant_by_letter(typed[1], [*options, "--help"])
        last = [] if rest[-1] == typed else [_NEVER_TYPED]
        return ". ".join([f"there is no option {typed}{did_you_mean(meant)}", *last])
    is_plain = _PLAIN_OPTION.fullmatch(typed) and not may_be_typed_secret(typed.lstrip("-"))
    if not is_plain or typed not in {word.partition("=")[0] for word in rest}:
        close = get_close_matches(typed, options, 1)
        return f"there is no such option{did_you_mean(close)}. {_NEVER_TYPED}"
    named = f"there is no option {typed}"
    if close := get_close_matches(typed, options, 1):
        said = f"{named}{did_you_mean(close)}"
    else:
        every = [each for each in options if each.startswith("--")]
        said = f"{named}; available options: {', '.join(every)}" if every else named
    return f"{said}. {_NEVER_TYPED}" if _SECRET_OPTION.search(typed) else said


def _meant_by_letter(letter: str, options: Sequence[str]) -> list[str]:
    """Return the options that begin with a letter, in upper or lower case."""
    found = [each for each in options if each.startswith(f"--{letter.lower()}")]
    return found if len(found) <= _MAX_SUGGESTIONS else []


def _missing(command: _Command, words: list[str], first: _Parameter | None) -> list[str]:
    """Return the names of the required arguments and options that weren't typed."""
    arguments, _ = _arguments_and_values(command, words)
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    missing = []
    for each in command.params:
        is_argument = each.param_type_name == "argument"
        if is_argument and arguments > 0:
            arguments -= 1
        elif getattr(each, "required", False) and (is_argument or options.isdisjoint(each.opts)):
            missing.append(_name(each))
    # What was typed may be read in another way, for example after "--".
    return missing if _name(first) in missing else [_name(first)]


def _may_have_a_secret(command: _Command, words: list[str]) -> bool:
    """Whether a command got too many arguments, or one that isn't an ordinary word."""
    arguments, values = _arguments_and_values(command, words)
    taken = [each for each in command.params if each.param_type_name == "argument"]
    # A word in the place of a command is one too many, and most often a typing error.
    unlimited = any(each.nargs < 0 for each in taken) or bool(_commands_of(command))
    return (arguments > len(taken) and not unlimited) or any(map(may_be_typed_secret, values))


def _arguments_and_values(command: _Command, words: list[str]) -> tuple[int, list[str]]:
    """Return how many arguments there are, and all words that aren't the names of options."""
    options = [each for each in command.params if each.param_type_name == "option"]
    takes_value = {
        option for each in options if not getattr(each, "is_flag", False) for option in each.opts
    }
    known = {option for each in options for option in (*each.opts, *each.secondary_opts)}
    arguments, values, last = 0, [], ""
    for word in words:
        if word.startswith("-"):
            values.append(word.partition("=")[2])
        else:
            values.append(word)
            # What follows an option that there isn't is its value.
            unknown = _PLAIN_OPTION.fullmatch(last) and last not in known
            arguments += not (last in takes_value or unknown)
        last = word
    return arguments, values


def _name(parameter: _Parameter | None) -> str:
    if parameter is None:
        return "an argument"
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(getattr(parameter, "metavar", None) or parameter.name).upper()


def _expected(parameter: _Parameter | None) -> str:
    """Return what a parameter takes, with an example."""
    # Which attributes hold the type and the bounds depends on the version of Typer.
    described = getattr(parameter, "type_descriptor", None)
    kind = getattr(parameter, "type", None)
    annotation = getattr(described, "annotation", None)
    if choices := get_args(annotation) or getattr(kind, "choices", ()):
        return either(list(map(str, choices)))
    bounds = getattr(described, "parameter_info", None) or kind
    least, most = getattr(bounds, "min", None), getattr(bounds, "max", None)
    if annotation is int or least is not None or "integer" in str(getattr(kind, "name", "")):
        usual = getattr(parameter, "default", None)
        example = usual if type(usual) is int else _EXAMPLES.get(_name(parameter), least or 1)
        lower = "" if least is None else f" of at least {least}"
        upper = "" if most is None else f", at most {most}"
        return f"a whole number{lower}{upper}, such as {example}"
    return "a valid value"


def _meant(root: _Command, group: _Command, words: list[str], rest: list[str]) -> str:
    """Return a hint with the command that was meant, or an empty string."""
    word = next(each for each in rest if not each.startswith("-"))
    inner = _commands_of(group)
    if word in _TO_LIST and getattr(group, "invoke_without_command", False) and group is not root:
        path = words[: len(words) - len(rest)]
        return f" (did you mean pipelit-agents {' '.join(path)}, without a command?)"
    same = [each for each in _OTHER_WORDS.get(word, ()) if each in inner][:1]
    if found := same or get_close_matches(word, _shown(group), 1):
        return did_you_mean(found)
    elsewhere = _elsewhere(root, word)
    # In a group, the commands of all others aren't what was meant: most have a `list`.
    return did_you_mean(elsewhere) if group is root or len(elsewhere) == 1 else ""


def _elsewhere(root: _Command, word: str) -> list[str]:
    """Return the commands of that name in all groups."""
    paths = list(_paths(root))
    close = get_close_matches(word, {path[-1] for path in paths}, 1)
    names = {*close, word, *_OTHER_WORDS.get(word, ())[:1]}
    return [" ".join(path) for path in paths if path[-1] in names][:_MAX_SUGGESTIONS]


def _paths(command: _Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, inner in _shown(command).items():
        yield (*path, name)
        yield from _paths(inner, (*path, name))


def _shown(command: _Command) -> Mapping[str, _Command]:
    """Return the commands of a group that its help lists."""
    inner = _commands_of(command)
    return {name: each for name, each in inner.items() if not getattr(each, "hidden", False)}
