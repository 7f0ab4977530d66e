"""Commands about ``FIELD_ENCRYPTION_KEY``: ``keys``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from pipelit_agents.cli._io import (
    AsJson,
    Yes,
    confirm,
    hand_over,
    reporting,
    show,
)
from pipelit_agents.errors import (
    ConfigurationError,
    PipelitError,
)

if TYPE_CHECKING:
    from pipelit_agents import KeyStatus

__all__ = ["keys", "rotate_key"]

keys = typer.Typer(help="FIELD_ENCRYPTION_KEY: what stands under which key.", no_args_is_help=True)
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoints",
        help="Where sealed checkpoints are, to count those under an older key: a file of "
        "SqliteSaver, or env:NAME of a variable with a postgresql:// address. May be repeated.",
    ),
]
NoCheckpoints = Annotated[
    bool,
    typer.Option(
        "--no-checkpoints",
        help="Say that there are no sealed checkpoints, as none are named. They aren't counted, so "
        "whether the older keys can go stays for you to decide.",
    ),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata",
        help="Your own models with EncryptedString columns, as module:Base, to count and rotate "
        "them too; in another database module:Base=env:NAME, of a variable with its SQLAlchemy "
        "URL. The module is imported. May be repeated.",
    ),
]


@keys.command("generate")
@reporting
def generate(*, as_json: AsJson = False) -> None:
    """Make a key and show it; put it before the old one, with a comma, in FIELD_ENCRYPTION_KEY."""
    from pipelit_agents import Keyring

    fields = {
        "key": Keyring.generate_key(),
        "next": "FIELD_ENCRYPTION_KEY=<this>,<the old one>; start all processes again; keys rotate",
    }
    hand_over("Made.", fields, "key", as_json=as_json)


@keys.command("add")
@reporting
def add(*, as_json: AsJson = False) -> None:
    """Make a key and put it before the old one in .env; nothing is sealed under it yet."""
    from pipelit_agents.settings import add_key

    path = add_key(Path(".env"))
    fields = {
        "file": str(path),
        "next": "start all processes again, and then: pipelit-agents keys rotate",
    }
    show("Added.", fields, as_json=as_json)


@keys.command("forget")
@reporting
def forget(*, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete what no key opens: for a key that is lost for good."""
    from pipelit_agents import Pipelit

    confirm("Delete every credential, secret and peering that no key opens?", yes=yes)
    with Pipelit.from_env() as pipelit:
        gone = pipelit.keys.forget_unreadable()
    show("Deleted.", {"forgotten": list(gone)}, as_json=as_json)


@keys.command("status")
@reporting
def status(
    *,
    checkpoints: Checkpoints = None,
    no_checkpoints: NoCheckpoints = False,
    metadata: Metadata = None,
    as_json: AsJson = False,
) -> None:
    """Count what is under which key, and say whether the older ones can go."""
    from pipelit_agents import Pipelit

    with (
        Pipelit.from_env() as pipelit,
        _savers(checkpoints, none=no_checkpoints) as savers,
        _models(metadata) as models,
    ):
        found = pipelit.keys.status(checkpointers=savers, models=models)
    said = no_checkpoints and not checkpoints
    show("", _status(found, models, said=said, as_json=as_json), as_json=as_json)


@keys.command("rotate")
@reporting
def rotate_key(
    *,
    batch: Annotated[int, typer.Option(help="How many rows are replaced at a time.", min=1)] = 100,
    checkpoints: Checkpoints = None,
    no_checkpoints: NoCheckpoints = False,
    metadata: Metadata = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Then rewrite the tables, so that the old ciphertext leaves the files; needs the "
            "database for itself.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Seal everything anew under the newest key, while the system runs.

    It may be stopped, killed and started again. It says when the older key can go.
    """
    from pipelit_agents import Pipelit

    with (
        Pipelit.from_env() as pipelit,
        _savers(checkpoints, none=no_checkpoints) as savers,
        _models(metadata) as models,
    ):
        with _progress("sealing anew", quiet=as_json) as told:
            done = pipelit.keys.rotate(
                batch=batch, progress=told, checkpointers=savers, models=models
            )
        if purge:
            pipelit.keys.purge()
    said = no_checkpoints and not checkpoints
    fields = {"sealed_anew": done.resealed, "purged": purge}
    fields |= _status(done.status, models, said=said, as_json=as_json)
    show("Rotated.", fields, as_json=as_json)
    if done.status.unreadable:
        raise typer.Exit(1)


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    # On standard error, so that the outcome can be piped on.
    console = Console(stderr=True, quiet=quiet)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, rows: bar.update(task, completed=done, total=rows)


@contextmanager
def _savers(addresses: Sequence[str] | None, *, none: bool) -> Iterator[list[Any] | None]:
    if addresses is None:
        yield [] if none else None
        return
    with ExitStack() as opened:
        savers = []
        for address in addresses:
            try:
                savers.append(opened.enter_context(_saver(address)))
            except PipelitError:
                raise
            except Exception as error:
                raise ConfigurationError(
                    f"--checkpoints {address!r:.100} can't be opened ({type(error).__name__})"
                ) from None
        try:
            yield savers
        except (OSError, RuntimeError, PipelitError, typer.Exit):
            raise
        except Exception as error:
            raise ConfigurationError(
                f"--checkpoints: they can't be read ({type(error).__name__}): is it a "
                "checkpointer's database?"
            ) from None


def _saver(address: str) -> Any:
    import sqlite3

    try:
        if address.startswith("env:"):
            from langgraph.checkpoint.postgres import PostgresSaver

            value = os.environ.get(address.removeprefix("env:"), "")
            if not value.startswith(("postgresql://", "postgres://")):
                raise ConfigurationError(
                    f"--checkpoints {address}: no postgresql:// address is set"
                )
            return PostgresSaver.from_conn_string(value)
        from langgraph.checkpoint.sqlite import SqliteSaver
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--checkpoints needs the checkpointer's package: {error}"
        ) from None
    if "://" in address:
        raise ConfigurationError(
            "--checkpoints: an address stands in the shell's history with its password; put it "
            "into a variable, and name that: --checkpoints env:NAME"
        )
    # Looked at first: the saver would make its tables in whatever it is given.
    try:
        with closing(sqlite3.connect(f"file:{quote(address)}?mode=ro", uri=True)) as file:
            file.execute("SELECT thread_id FROM checkpoints LIMIT 1").fetchone()
    except sqlite3.Error:
        raise ConfigurationError(
            f"--checkpoints: {address!r:.200} is no file of SqliteSaver"
        ) from None
    return SqliteSaver.from_conn_string(address)


@contextmanager
def _models(named: Sequence[str] | None) -> Iterator[list[Any] | None]:
    """The models that are named, imported from the working directory as `python -m` would."""
    if named is None:
        yield None
        return
    sys.path.insert(0, str(Path.cwd()))
    with ExitStack() as opened:
        opened.callback(sys.path.remove, sys.path[0])
        yield [_model(each, opened) for each in named]


def _model(named: str, opened: ExitStack) -> Any:
    from sqlalchemy import MetaData, create_engine

    where, equals, variable = named.partition("=")
    module, colon, name = where.partition(":")
    if not (module and colon and name) or (equals and not variable.startswith("env:")):
        raise ConfigurationError("--metadata takes module:Base, or module:Base=env:NAME")
    try:
        found = attrgetter(name)(import_module(module))
    except (AttributeError, ImportError) as error:
        raise ConfigurationError(f"--metadata {where}: {error}") from None
    except Exception as error:
        raise ConfigurationError(
            f"--metadata {where}: importing it failed ({type(error).__name__})"
        ) from error
    metadata = found if isinstance(found, MetaData) else getattr(found, "metadata", None)
    if not isinstance(metadata, MetaData):
        raise ConfigurationError(f"--metadata {where} is no declarative base and no MetaData")
    if not equals:
        return metadata
    url = os.environ.get(variable.removeprefix("env:"), "")
    try:
        engine = create_engine(url)
    except Exception as error:
        # Its words may hold the password.
        raise ConfigurationError(
            f"--metadata {named}: the variable holds no SQLAlchemy URL that can be used "
            f"({type(error).__name__})"
        ) from None
    opened.callback(engine.dispose)
    return metadata, engine


def _status(
    found: KeyStatus, models: list[Any] | None, *, said: bool, as_json: bool
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "keys": list(found.keys),
        "under_the_newest": found.newest,
        "under_an_older": found.older,
    }
    if found.columns:
        fields["of_these_in_other_tables"] = dict(found.columns)
    if found.unreadable:
        fields["no_key_opens"] = list(found.unreadable)
    missing = list(found.not_counted)
    if models is None:
        # This process doesn't know the application's models.
        missing.append(
            "EncryptedString columns in other databases: --metadata module:Base=env:NAME"
        )
    fields["checkpoints_under_an_older"] = (
        "not counted" if found.checkpoints is None else found.checkpoints
    )
    if len(found.keys) < 2:
        return fields
    can_go = found.older_can_go
    if can_go and missing:
        can_go = None
    if missing:
        fields["not_counted"] = missing
    fields["older_keys_can_go"] = can_go if can_go is not None or as_json else "not known"
    if found.columns and not models:
        fields["next"] = (
            "keys rotate --metadata module:Base, for the columns in other tables; checkpoints stay "
            "until their threads are deleted"
        )
    elif can_go is None:
        fields["next"] = (
            "nothing that was counted needs an older key. Keep it, unless you know that nothing of "
            "what wasn't counted does"
            + (": you said that there are no sealed checkpoints" if said else "")
        )
    return fields
