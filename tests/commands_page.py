"""Writes docs/commands.md from the commands themselves: ``python tests/commands_page.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from pipelit_agents.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
HEAD = """# Commands

Written by `make commands` from the help texts of `pipelit-agents`, which reads its
[settings](index.md#settings) from the environment or from `.env`. Secrets are never arguments:
they are asked for at a hidden prompt, or read from standard input. Exit code 1 means that something
was refused or isn't well, 2 that a command was typed wrongly.
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that reach it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


def page() -> str:
    """The page as it must be."""
    found = [HEAD]
    for path, command in commands(typer.main.get_command(app)):
        if not path or (hasattr(command, "commands") and not command.invoke_without_command):
            continue
        found.append(_section(path, command))
    return "\n".join(found)


def _section(path: tuple[str, ...], command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    typed = ["pipelit-agents", *path, *(each.metavar for each in arguments)]
    typed += [f"{each.opts[0]} …" for each in options if each.required]
    lines = [f"## {' '.join(path)}", "", f"`{' '.join(typed)}`", "", command.help.strip(), ""]
    if arguments or options:
        lines += ["| | |", "|---|---|"]
    lines += [f"| `{each.metavar}` | {each.help} |" for each in arguments]
    for each in options:
        shown = ", ".join(f"`{opt}`" for opt in [*each.opts, *each.secondary_opts])
        default = f" Default: {each.default}." if type(each.default) in (int, str) else ""
        needed = " Needed." if each.required else ""
        lines.append(f"| {shown} | {each.help}{needed}{default if each.default != '' else ''} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
