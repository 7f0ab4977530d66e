"""Commands about ``FIELD_ENCRYPTION_KEY``: ``keys``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias
from urllib.parse import quote

import typer

from pipelit_agents.cli._arguments import AsJson, Yes, example
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import hand_over, show
from pipelit_agents.cli.prompts import confirm
from pipelit_agents.errors import (
    ConfigurationError,
    PipelitError,
)

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from sqlalchemy import Engine, MetaData

    from pipelit_agents import KeyStatus

    _Saver: TypeAlias = BaseCheckpointSaver[str]
    _Model: TypeAlias = MetaData | tuple[MetaData, Engine]

__all__ = ["keys", "rotate_key"]

keys: typer.Typer = typer.Typer(
    help="Manage FIELD_ENCRYPTION_KEY: add, rotate and count keys.", no_args_is_help=True
)
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoints",
        help="A database with encrypted checkpoints, to count those under an older key: a file of "
        "SqliteSaver, or env:NAME of a variable with a postgresql:// URL. May be repeated.",
    ),
]
NoCheckpoints = Annotated[
    bool,
    typer.Option(
        "--no-checkpoints",
        help="State that there are no encrypted checkpoints. None are counted, so you must decide "
        "yourself whether you can remove the older keys.",
    ),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata",
        help="Your own models with EncryptedString columns, to count and rotate them too: "
        "module:Base, or for another database module:Base=env:NAME, of a variable with its "
        "SQLAlchemy URL. The module is imported. May be repeated.",
    ),
]


@keys.command("generate")
@reporting
def generate(*, as_json: AsJson = False) -> None:
    """Generate a key and show it.

    Put it before the old key, separated by a comma, in FIELD_ENCRYPTION_KEY.
    """
    from pipelit_agents import Keyring

    fields = {
        "key": Keyring.generate_key(),
        "next": "FIELD_ENCRYPTION_KEY=<this key>,<the old key>; restart all processes; keys rotate",
    }
    hand_over("Generated.", fields, "key", as_json=as_json)


@keys.command("add")
@reporting
def add(*, as_json: AsJson = False) -> None:
    """Generate a key and put it before the old key in .env. Nothing is encrypted with it yet."""
    from pipelit_agents.settings import add_key

    path = add_key(Path(".env"))
    fields = {
        "file": str(path),
        "next": "restart all processes, then run: pipelit-agents keys rotate",
    }
    show("Added.", fields, as_json=as_json)


@keys.command("forget")
@reporting
def forget(*, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete the records that no key can decrypt, after a key was lost for good."""
    from pipelit_agents import Pipelit

    confirm("Delete every credential, secret and peering that no key can decrypt?", yes=yes)
    with Pipelit.from_env() as pipelit:
        gone = pipelit.keys.forget_unreadable()
    show("Deleted.", {"forgotten": list(gone)}, as_json=as_json)


@keys.command("status", epilog=example("keys status --checkpoints checkpoints.db"))
@reporting
def status(
    *,
    checkpoints: Checkpoints = None,
    no_checkpoints: NoCheckpoints = False,
    metadata: Metadata = None,
    as_json: AsJson = False,
) -> None:
    """Count the values encrypted with each key, and show whether you can remove the older keys."""
    from pipelit_agents import Pipelit

    with (
        Pipelit.from_env() as pipelit,
        _savers(checkpoints, none=no_checkpoints) as savers,
        _models(metadata) as models,
    ):
        found = pipelit.keys.status(checkpointers=savers, models=models)
    none_stated = no_checkpoints and not checkpoints
    show("", _status(found, models, none_stated=none_stated, as_json=as_json), as_json=as_json)


@keys.command("rotate", epilog=example("keys rotate --checkpoints checkpoints.db"))
@reporting
def rotate_key(
    *,
    batch: Annotated[
        int, typer.Option(help="The number of rows to replace at a time.", metavar="NUMBER", min=1)
    ] = 100,
    checkpoints: Checkpoints = None,
    no_checkpoints: NoCheckpoints = False,
    metadata: Metadata = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Then rewrite the tables, to remove the old ciphertext from the files. This needs "
            "exclusive use of the database.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encrypt everything again with the newest key, while the system runs.

    You can interrupt the command and run it again. It shows when you can remove the older key.
    """
    from pipelit_agents import Pipelit

    with (
        Pipelit.from_env() as pipelit,
        _savers(checkpoints, none=no_checkpoints) as savers,
        _models(metadata) as models,
    ):
        with _progress("encrypting again", quiet=as_json) as update:
            done = pipelit.keys.rotate(
                batch=batch, progress=update, checkpointers=savers, models=models
            )
        if purge:
            pipelit.keys.purge()
    none_stated = no_checkpoints and not checkpoints
    fields: dict[str, object] = {"encrypted_again": done.resealed, "purged": purge}
    fields |= _status(done.status, models, none_stated=none_stated, as_json=as_json)
    show("Rotated.", fields, as_json=as_json)
    if done.status.unreadable:
        raise typer.Exit(1)


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    # On standard error, so that the result can be piped.
    console = Console(stderr=True, quiet=quiet)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, rows: bar.update(task, completed=done, total=rows)


@contextmanager
def _savers(addresses: Sequence[str] | None, *, none: bool) -> Iterator[list[_Saver] | None]:
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
                f"--checkpoints: the checkpoints can't be read ({type(error).__name__}): is this "
                "a checkpointer's database?"
            ) from None


def _saver(address: str) -> AbstractContextManager[_Saver]:
    import sqlite3

    try:
        if address.startswith("env:"):
            from langgraph.checkpoint.postgres import PostgresSaver

            value = os.environ.get(address.removeprefix("env:"), "")
            if not value.startswith(("postgresql://", "postgres://")):
                raise ConfigurationError(
                    f"--checkpoints {address}: the variable has no postgresql:// address"
                )
            return PostgresSaver.from_conn_string(value)
        from langgraph.checkpoint.sqlite import SqliteSaver
    except ModuleNotFoundError as error:
        extra = "postgres" if address.startswith("env:") else "sqlite"
        raise ConfigurationError(
            f"--checkpoints needs {error.name}: pip install 'pipelit-agents[{extra}]'"
        ) from None
    if "://" in address:
        raise ConfigurationError(
            "--checkpoints: the shell's history has the address with its password now; put it into "
            "a variable and name the variable: --checkpoints env:NAME"
        )
    # Look first, because the saver creates its tables in any file.
    try:
        with closing(sqlite3.connect(f"file:{quote(address)}?mode=ro", uri=True)) as file:
            file.execute("SELECT thread_id FROM checkpoints LIMIT 1").fetchone()
    except sqlite3.Error:
        raise ConfigurationError(
            f"--checkpoints: {address!r:.200} isn't a file of SqliteSaver"
        ) from None
    return SqliteSaver.from_conn_string(address)


@contextmanager
def _models(named: Sequence[str] | None) -> Iterator[list[_Model] | None]:
    """Import the named models from the working directory, as `python -m` would."""
    if named is None:
        yield None
        return
    sys.path.insert(0, str(Path.cwd()))
    with ExitStack() as opened:
        opened.callback(sys.path.remove, sys.path[0])
        yield [_model(each, opened) for each in named]


def _model(named: str, opened: ExitStack) -> _Model:
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
        raise ConfigurationError(f"--metadata {where} is neither a declarative base nor MetaData")
    if not equals:
        return metadata
    url = os.environ.get(variable.removeprefix("env:"), "")
    try:
        engine = create_engine(url)
    except Exception as error:
        # The error's message may contain the password.
        raise ConfigurationError(
            f"--metadata {named}: the variable isn't set to a usable SQLAlchemy URL "
            f"({type(error).__name__})"
        ) from None
    opened.callback(engine.dispose)
    return metadata, engine


def _status(
    found: KeyStatus, models: list[_Model] | None, *, none_stated: bool, as_json: bool
) -> dict[str, object]:
    fields: dict[str, object] = {
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
        # The command doesn't know the application's models.
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
            "keys rotate --metadata module:Base, for the columns in other tables; checkpoints keep "
            "their key until their threads are deleted"
        )
    elif can_go is None:
        fields["next"] = (
            "nothing that was counted needs an older key. Keep it, unless you know that nothing "
            "else needs it either"
            + (": you stated that there are no encrypted checkpoints" if none_stated else "")
        )
    return fields
