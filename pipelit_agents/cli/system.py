"""The commands ``check`` and ``backup``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Final

import typer

from pipelit_agents.cli._io import (
    AsJson,
    reporting,
    show,
)

__all__ = ["backup", "check"]
_MARKS: Final = {True: "ok  ", False: "FAIL", None: "-   "}


@reporting
def check(
    *,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Run the production checklist too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the deployment. Exit code 1 means that a check failed.

    Each failed check is shown with the reason why it matters and with its fix.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.check(deploy=deploy)
    failed = [each for each in found if each.ok is False]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        for each in found:
            typer.echo(f"{_MARKS[each.ok]}  {each.name}: {each.found}")
            if each.ok is False:
                typer.echo(f"        why:  {each.why}")
                typer.echo(f"        fix: {each.fix}")
        if not deploy:
            typer.echo("For production: pipelit-agents check --deploy")
    if failed:
        raise typer.Exit(1)


@reporting
def backup(
    path: Annotated[Path, typer.Argument(help="A file that doesn't exist yet.", metavar="file")],
    *,
    as_json: AsJson = False,
) -> None:
    """Copy an SQLite database while it is in use. The copy doesn't contain the key."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        pipelit.backup(path)
    show("Copied.", {"file": str(path), "keep": "the key, somewhere else"}, as_json=as_json)
