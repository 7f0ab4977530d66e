"""Commands about the whole installation: ``init``, ``check`` and ``backup``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Final

import typer

from pipelit_agents.cli._arguments import AsJson
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import print_wrapped, show

__all__ = ["backup", "check", "init"]
_DATABASE: Final = Path(".pipelit", "agents.db")
# A line of .env with a setting of ours.
_SETTING: Final = re.compile(
    r"^[ \t]*(?:export[ \t]+)?(?:FIELD_ENCRYPTION_KEY|PIPELIT_[A-Z_]+)(?:_FILE)?[ \t]*=",
    re.MULTILINE,
)
# Characters of another folder's .env, which somebody else may have written.
_MAX_ENV: Final = 2**20
_MARKS: Final = {True: "ok  ", False: "FAIL", None: "-   "}
_COLOURS: Final = {"ok": "green", "FAIL": "red"}


@reporting
def init(*, as_json: AsJson = False) -> None:
    """Create the encryption key in .env if there is none, and create the database tables."""
    from pipelit_agents import Pipelit
    from pipelit_agents.settings import DEFAULT_DATABASE_URL, Settings, ensure_key

    settings = Settings.read()
    has_key, had_database = settings.has_key, _DATABASE.exists()
    if has_key:
        # Before the database's folder is created, because an invalid key has to be corrected first.
        settings.keyring()
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
        has_people = len(pipelit.users.page(kind="human", limit=1)) > 0
    fields = {
        "key": f"created, in {made}" if made else "already set; kept",
        "database": where,
        "attempts counted in": counted,
        "next": "pipelit-agents check" if has_people else "pipelit-agents users create NAME",
    }
    if made:
        fields["keep"] = ".env out of version control, and a copy of the key in a safe place"
    new = ["key"] if made else []
    if settings.database_url == DEFAULT_DATABASE_URL and not had_database:
        new.append("database")
    if warnings := [*_git_warnings(Path()), *_warnings_of_another(Path.cwd(), new)]:
        fields["warning"] = "; ".join(warnings)
    show("Ready.", fields, as_json=as_json)


def _git_warnings(folder: Path) -> Iterator[str]:
    listing = folder / ".gitignore"
    if not listing.is_file() and not (folder / ".git").exists():
        return
    text = listing.read_text(encoding="utf-8", errors="replace") if listing.is_file() else ""
    patterns = [line.strip().strip("/") for line in text.splitlines()]
    ours = [name for name in (".env", ".pipelit") if (folder / name).exists()]
    tracked = [name for name in ours if not any(fnmatch(name, each) for each in patterns)]
    if tracked:
        yield f"git may add {' and '.join(tracked)}: add a line for each to .gitignore"


def _warnings_of_another(folder: Path, new: Sequence[str]) -> Iterator[str]:
    above = next((each for each in folder.parents if _is_set_up(each)), None)
    if new and above is not None:
        yield (
            f"this folder has its own {' and '.join(new)} now, but {above} was set up before: if "
            "you meant that one, run the commands there"
        )


def _is_set_up(folder: Path) -> bool:
    try:
        if (folder / _DATABASE).is_file():
            return True
        if not (folder / ".env").is_file():
            return False
        with (folder / ".env").open(encoding="utf-8", errors="replace") as file:
            return _SETTING.search(file.read(_MAX_ENV)) is not None
    except OSError:
        # Others' folders needn't be readable.
        return False


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
