"""Writes docs/commands.md from the commands themselves: ``python tests/commands_page.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from pipelit_agents.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
HEAD = """# Commands

The command `pipelit-agents` sets up the database, manages accounts, credentials, keys and
approvals, and lists the audited decisions. It reads its [settings](reference/settings.md) from the
environment or from `.env`. `make commands` writes this page from the texts that
`pipelit-agents COMMAND --help` prints.

- **Secrets** are never arguments. A command asks for a secret at a hidden prompt, or reads it from
  standard input.
- **`--json`** prints one JSON document with complete values; `audit --json` prints a line for each
  entry. Without it, tables fit the terminal: times are short and in UTC, and names and ids are
  complete.
- **Exit codes**: 0 means success, 1 that something was refused or that a problem was found, and
  2 that the arguments are wrong. `credentials test` has a fourth.
- **Colours** are used in a terminal only. Set `NO_COLOR=1` to turn them off.

All commands:
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that reach it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


def groups() -> dict[str, list[tuple[tuple[str, ...], Any]]]:
    """The commands under the headings that the help has, too."""
    root: Any = typer.main.get_command(app)
    found: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
    for name, top in root.commands.items():
        if not top.hidden:
            listed = found.setdefault(top.rich_help_panel, [])
            listed += [each for each in commands(top, (name,)) if _is_run(each[1])]
    return found


def page() -> str:
    """The page as it must be."""
    found = groups()
    lines = [HEAD]
    for title, listed in found.items():
        lines.append(f"- [{title}](#{_anchor(*title.split())})")
        for path, _ in listed:
            lines.append(f"    - [{' '.join(path)}](#{_anchor(*path)})")
    lines.append("")
    for title, listed in found.items():
        lines += [f"## {title}", "", *(_section(path, command) for path, command in listed)]
    return "\n".join(lines)


def _anchor(*words: str) -> str:
    return "-".join(words).lower()


def _is_run(command: Any) -> bool:
    return not hasattr(command, "commands") or command.invoke_without_command


def _section(path: tuple[str, ...], command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    typed = ["pipelit-agents", *path, *(each.metavar for each in arguments)]
    typed += [f"{each.opts[0]} …" for each in options if each.required]
    lines = [f"### {' '.join(path)}", "", f"`{' '.join(typed)}`", "", command.help.strip(), ""]
    if command.epilog:
        lines += [f"Example: `{command.epilog.rpartition(chr(10))[2]}`", ""]
    if arguments or options:
        lines += [f"| {_heading(arguments, options)} | meaning |", "|---|---|"]
    lines += [f"| `{each.metavar}` | {each.help} |" for each in arguments]
    for each in options:
        shown = ", ".join(f"`{opt}`" for opt in [*each.opts, *each.secondary_opts])
        default = f" Default: {each.default}." if type(each.default) in (int, str) else ""
        needed = " Needed." if each.required else ""
        lines.append(f"| {shown} | {each.help}{needed}{default if each.default != '' else ''} |")
    return "\n".join([*lines, ""])


def _heading(arguments: list[Any], options: list[Any]) -> str:
    """What is in the first column of the table."""
    named = [*(["argument"] if arguments else []), *(["option"] if options else [])]
    return " or ".join(named)


if __name__ == "__main__":
    PAGE.write_text(page())
