"""Read secrets and confirmations, at a terminal or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from pipelit_agents.cli.output import safe
from pipelit_agents.errors import MalformedCode

__all__ = ["at_a_terminal", "confirm", "read_code", "read_secret", "read_secrets"]


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


def at_a_terminal() -> bool:
    """Return whether standard input is a terminal."""
    # It is None if the shell closed it: pipelit-agents … <&-
    return sys.stdin is not None and sys.stdin.isatty()


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
