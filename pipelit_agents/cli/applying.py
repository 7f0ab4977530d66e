"""The command ``apply``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Final

import typer

from pipelit_agents.cli._arguments import AsJson
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import print_wrapped
from pipelit_agents.cli.tables import Column, columns_of, show_table

__all__ = ["apply"]
_COLUMNS: Final = columns_of(
    Column("action", head=True), Column("what", head=True), Column("name", "id"), "detail"
)


@reporting
def apply(
    path: Annotated[Path, typer.Argument(help="The YAML file.", metavar="FILE")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing, and show what would change.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Change nothing. Exit code 1 means that something would change, or an error, "
            "which is on standard error or the field error of the JSON.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the accounts, API keys and credentials that a YAML file declares.

    Entries that already agree with the file are left unchanged. New API keys are written to files
    that only you can read, in the folder that the file names, and are never printed.
    """
    from pipelit_agents import Pipelit
    from pipelit_agents.errors import (
        CommonSecretWarning,
        ShortSecretWarning,
        UnknownAccountWarning,
        WritableFileWarning,
    )

    shown = CommonSecretWarning, ShortSecretWarning, UnknownAccountWarning, WritableFileWarning
    with Pipelit.from_env() as pipelit, warnings.catch_warnings(record=True) as caught:
        for category in shown:
            warnings.simplefilter("always", category)
        changes = pipelit.apply(path, dry_run=dry_run or check)
    if not as_json:
        for each in caught:
            print_wrapped(f"warning: {each.message}", err=True)
    if changes or as_json:
        show_table(changes, _COLUMNS, as_json=as_json)
    else:
        typer.echo("Everything fits: there is nothing to do.")
    if changes and check:
        raise typer.Exit(1)
