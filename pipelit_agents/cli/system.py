"""Commands about the whole installation: ``init``, ``check`` and ``backup``."""

from __future__ import annotations

import dataclasses
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Final

import typer

from pipelit_agents.cli._io import (
    AsJson,
    print_wrapped,
    reporting,
    show,
)

__all__ = ["backup", "check", "init"]
_MARKS: Final = {True: "ok  ", False: "FAIL", None: "-   "}
_COLOURS: Final = {"ok": "green", "FAIL": "red"}


@reporting
def init(*, as_json: AsJson = False) -> None:
    """Create the encryption key in .env if there is none, and create the database tables."""
    from pipelit_agents import Pipelit
    from pipelit_agents.settings import Settings, ensure_key

    has_key = Settings.read().has_key
    if has_key:
        # Before the database's folder is created, because an invalid key has to be corrected first.
        Settings.read().keyring()
    with Pipelit.from_env() as pipelit:
        pipelit.create_schema()
        where = pipelit.database_url
        if not has_key:
            # Before a key is created: a new one couldn't decrypt the existing data.
            pipelit.check_key()
    made = ensure_key(Path(".env"))
    with Pipelit.from_env() as pipelit:
        pipelit.check_key()
        counted = pipelit.check_ledger()
    fields = {
        "key": f"created, in {made}" if made else "already set; kept",
        "database": where,
        "attempts counted in": counted,
        "next": "pipelit-agents users create NAME",
    }
    if made:
        fields["keep"] = ".env out of version control, and a copy of the key in a safe place"
    if tracked := _not_ignored(Path()):
        fields["warning"] = (
            f"git may add {' and '.join(tracked)}: add a line for each to .gitignore"
        )
    show("Ready.", fields, as_json=as_json)


def _not_ignored(folder: Path) -> list[str]:
    listing = folder / ".gitignore"
    if not listing.is_file() and not (folder / ".git").exists():
        return []
    text = listing.read_text(encoding="utf-8", errors="replace") if listing.is_file() else ""
    patterns = [line.strip().strip("/") for line in text.splitlines()]
    ours = [name for name in (".env", ".pipelit") if (folder / name).exists()]
    return [name for name in ours if not any(fnmatch(name, each) for each in patterns)]


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
            print_wrapped(
                f"{_MARKS[each.ok]}  {each.name}: {each.found}",
                hang=len(_MARKS[None]) + 2,
                coloured=_COLOURS,
            )
            if each.ok is False:
                for label, text in (("why", each.why), ("fix", each.fix)):
                    if text:
                        print_wrapped(f"        {label}: {text}")
        if not deploy:
            typer.echo("For production: pipelit-agents check --deploy")
    if failed:
        raise typer.Exit(1)


@reporting
def backup(
    path: Annotated[Path, typer.Argument(help="A file that doesn't exist yet.", metavar="FILE")],
    *,
    as_json: AsJson = False,
) -> None:
    """Copy an SQLite database while it is in use. The copy doesn't contain the key."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        pipelit.backup(path)
    show("Copied.", {"file": str(path), "keep": "the key, somewhere else"}, as_json=as_json)
