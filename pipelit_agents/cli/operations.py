"""The operator's commands: check, keys, second factors, audit, copies."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from pipelit_agents._bounds import LONGEST_WAIT
from pipelit_agents.cli._io import (
    AsJson,
    Yes,
    at_a_terminal,
    confirm,
    duration,
    hand_over,
    moment,
    read_secret,
    reporting,
    safe,
    show,
    show_table,
)
from pipelit_agents.errors import (
    CodeRejected,
    ConfigurationError,
    MalformedCode,
    PipelitError,
    SecondFactorError,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

    from pipelit_agents import KeyStatus, Pipelit

__all__ = ["audit", "backup", "check", "keys", "mfa", "rotate_key"]

keys = typer.Typer(help="FIELD_ENCRYPTION_KEY: what stands under which key.", no_args_is_help=True)
mfa = typer.Typer(help="Second factors of people, by an authenticator app.", no_args_is_help=True)
audit = typer.Typer(help="What was decided, and whether that was changed since.")

Name = Annotated[str, typer.Argument(help="The person's account.", metavar="username")]
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
_MARKS: Final = {True: "ok  ", False: "FAIL", None: "-   "}
_FOLLOW_EVERY: Final = 1.0
# Each time the whole trail's end is read, and a seal is written where there is anything new.
_SEAL_EVERY: Final = timedelta(seconds=1)
# Numbers are given before they are committed: what is shown late has a lower one.
_LATE: Final = 1000


@reporting
def check(
    *,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Go through the checklist for production too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look whether all is as it should be; exit code 1 means that something isn't.

    Each item that isn't well is shown with why it matters and what mends it.
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
                typer.echo(f"        mend: {each.mend}")
        if not deploy:
            typer.echo("For production: pipelit-agents check --deploy")
    if failed:
        raise typer.Exit(1)


@keys.command("generate")
@reporting
def generate(*, as_json: AsJson = False) -> None:
    """Make a key and show it; put it before the old one, with a comma, in FIELD_ENCRYPTION_KEY."""
    from pipelit_agents import Keyring

    fields = {
        "key": Keyring.generate_key(),
        "next": "FIELD_ENCRYPTION_KEY=<this>,<the old one>; start all processes again; rotate-key",
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
        "next": "start all processes again, and then: pipelit-agents rotate-key",
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
            "rotate-key --metadata module:Base, for the columns in other tables; checkpoints stay "
            "until their threads are deleted"
        )
    elif can_go is None:
        fields["next"] = (
            "nothing that was counted needs an older key. Keep it, unless you know that nothing of "
            "what wasn't counted does"
            + (": you said that there are no sealed checkpoints" if said else "")
        )
    return fields


# Second factors


@mfa.command("enroll")
@reporting
def enroll(
    username: Name,
    *,
    png: Annotated[
        Path | None, typer.Option(help="Write the QR code to this file instead of drawing it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a second factor, show it as a QR code, and turn it on by a first code of the app.

    Without a terminal to ask at, the first code is for: pipelit-agents mfa confirm.
    """
    import segno

    from pipelit_agents import Pipelit

    if png is not None and (png.exists() or not png.parent.is_dir()):
        raise ConfigurationError(
            f"--png {png}: name a file that isn't there yet, in a folder that is"
        )
    if png is not None and not os.access(png.parent, os.W_OK):
        raise ConfigurationError(f"--png {png}: the folder can't be written to; name another")
    with Pipelit.from_env() as pipelit:
        enrolled = pipelit.mfa.enroll(username)
        uri = enrolled.get_secret_value()
        asks = at_a_terminal() and not as_json
        drawn = segno.make(uri, error="m", micro=False)
        if png is not None:
            with os.fdopen(os.open(png, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                drawn.save(out, kind="png", scale=8)
        elif asks:
            drawn.terminal(compact=True)
        fields: dict[str, Any] = {"username": username, "provisioning_uri": uri}
        if png is not None:
            fields["qr_code"] = str(png)
        if not asks:
            fields["next"] = f"pipelit-agents mfa confirm {username}"
        title = "Scan it." if asks or png else "Put this address into an authenticator app."
        show(title, fields, as_json=as_json, once=["provisioning_uri"])
        if asks:
            _show_recovery(_first_code(pipelit, username, enrolled), username)


def _first_code(pipelit: Pipelit, username: str, enrolled: SecretStr) -> Sequence[SecretStr]:
    """Ask for a first code until one is right, or the enrolment has ended."""
    while True:
        # Whoever sits here was shown the secret, so however many first codes others got wrong,
        # this one is evaluated.
        try:
            return pipelit.mfa.confirm(username, read_secret("Code"), enrolled=enrolled)
        except (CodeRejected, MalformedCode) as error:
            if not pipelit.mfa.status(username).pending:
                raise
            typer.echo(safe(str(error)), err=True)


@mfa.command("confirm")
@reporting
def confirm_factor(username: Name, *, as_json: AsJson = False) -> None:
    """Turn a second factor on by its first code, from a hidden prompt or standard input."""
    from pipelit_agents import Pipelit

    given = read_secret("Code")
    with Pipelit.from_env() as pipelit:
        codes = pipelit.mfa.confirm(username, given)
    _show_recovery(codes, username, as_json=as_json)


@mfa.command("recovery-codes")
@reporting
def recovery_codes(username: Name, *, as_json: AsJson = False) -> None:
    """Replace the recovery codes by ten new ones; it asks for a code."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        _require_on(pipelit, username)
        codes = pipelit.mfa.renew_recovery_codes(username, read_secret("Code"))
    _show_recovery(codes, username, as_json=as_json)


@mfa.command("disable")
@reporting
def disable(username: Name, *, as_json: AsJson = False) -> None:
    """End a second factor; it asks for a code of it, or a recovery code."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        _require_on(pipelit, username)
        pipelit.mfa.disable(username, read_secret("Code"))
    show("Off.", {"username": username}, as_json=as_json)


@mfa.command("reset")
@reporting
def reset(username: Name, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """End a second factor without a code, for who lost phone and recovery codes."""
    from pipelit_agents import Pipelit

    confirm(f"End the second factor of {username} without a code?", yes=yes)
    with Pipelit.from_env() as pipelit:
        pipelit.mfa.reset(username)
    fields = {"username": username, "next": f"pipelit-agents mfa enroll {username}"}
    show("Off.", fields, as_json=as_json)


@mfa.command("status")
@reporting
def factor(username: Name, *, as_json: AsJson = False) -> None:
    """Show whether a person has a second factor, and how many recovery codes are left."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.mfa.status(username)
    show("", dataclasses.asdict(found), as_json=as_json)


def _require_on(pipelit: Pipelit, username: str) -> None:
    # The operator is told what a code's refusal doesn't say, and isn't asked for a code in vain.
    if not pipelit.mfa.status(username).on:
        raise SecondFactorError(
            f"{username!r} has no second factor: pipelit-agents mfa enroll {username}",
            username=username,
        )


def _show_recovery(codes: Sequence[Any], username: str, *, as_json: bool = False) -> None:
    shown = [code.get_secret_value() for code in codes]
    fields = {"username": username, "recovery_codes": shown}
    show("On.", fields, as_json=as_json, once=["recovery_codes"])


# Audit


@audit.callback(invoke_without_command=True)
@reporting
def entries(
    context: typer.Context,
    *,
    subject: Annotated[str | None, typer.Option(help="Only about this name.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only asked for by this account.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, or a group that ends with a dot: verify.")
    ] = None,
    outcome: Annotated[str | None, typer.Option(help="ok or refused.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 2h, 90d, or a time in ISO 8601.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at the most.", min=1)] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what comes, until it is stopped.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each entry.")
    ] = False,
) -> None:
    """List the newest entries of the audit trail, the oldest of them first."""
    if context.invoked_subcommand is not None:
        return
    from pipelit_agents import Pipelit

    filters: dict[str, Any] = {
        "subject": subject,
        "actor": actor,
        "action": action,
        "outcome": outcome,
        "since": None if since is None else _since("--since", since),
    }
    with Pipelit.from_env() as pipelit:
        found = pipelit.audit.list(limit=limit, **filters)
        if follow or as_json:
            for entry in found:
                _print_entry(entry, as_json=as_json)
        else:
            columns = ("at", "actor", "subject", "action", "outcome", "reason", "node")
            show_table(found, columns, as_json=False)
        if follow:
            _follow(pipelit, filters, {entry.id for entry in found}, as_json=as_json)


def _follow(pipelit: Pipelit, filters: dict[str, Any], seen: set[int], *, as_json: bool) -> None:
    # What is asked for begins with the first one that was shown, or with what comes now. Only the
    # numbers that were given count: an entry that somebody put at their end would hide all others.
    newest = pipelit.audit.chain.newest_number()
    first = min((each for each in seen if 1 <= each <= newest), default=newest + 1)
    while True:
        for entry in pipelit.audit.list(limit=_LATE, after=first - 1, **filters):
            if entry.id not in seen:
                _print_entry(entry, as_json=as_json)
                seen.add(entry.id)
        first = max(first, pipelit.audit.chain.newest_number() - _LATE)
        seen = {each for each in seen if each >= first}
        time.sleep(_FOLLOW_EVERY)


def _print_entry(entry: Any, *, as_json: bool) -> None:
    fields = dataclasses.asdict(entry) | {"at": moment(entry.at)}
    if as_json:
        typer.echo(json.dumps(fields))
        return
    words = ("at", "actor", "subject", "action", "outcome", "reason", "node")
    typer.echo(safe("  ".join(str(fields[word]) or "-" for word in words)))


def _since(option: str, text: str) -> datetime:
    if text[:4].isdigit() and "-" in text:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"--since {text!r} is no time; for example 2026-01-31T12:00Z"
            ) from None
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    try:
        return datetime.now(UTC) - duration(option, text)
    except ValueError as error:
        raise ValueError(f"{error}; or a time, 2026-01-31T12:00Z") from None


@audit.command("seal")
@reporting
def seal(
    *,
    every: Annotated[
        str | None, typer.Option(help="Go on, once in so long, such as 1m, until it is stopped.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Seal the entries that came since the last time, so that changing them shows."""
    from pipelit_agents import Pipelit

    pause = None
    if every is not None:
        most = timedelta(seconds=LONGEST_WAIT)
        pause = duration("--every", every, least=_SEAL_EVERY, most=most).total_seconds()
    with Pipelit.from_env() as pipelit:
        while True:
            sealed = pipelit.audit.seal()
            head = pipelit.audit.head()
            show("Sealed.", {"entries": sealed, "seal": head.number}, as_json=as_json)
            if pause is None:
                return
            time.sleep(pause)


@audit.command("head")
@reporting
def head(
    *,
    append: Annotated[
        Path | None,
        typer.Option(help="Add it to this file, if the heads that are in it still fit."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As without it: one line of JSON.")
    ] = False,
) -> None:
    """Seal, and print the newest seal: one line of JSON, to be kept somewhere else."""
    from pipelit_agents import Pipelit
    from pipelit_agents.errors import AuditTampered

    kept = _heads("--append", append) if append is not None and append.exists() else []
    with Pipelit.from_env() as pipelit:
        problems = pipelit.audit.verify(kept).problems
        if problems:
            raise AuditTampered(f"no head is made of a trail that was changed: {problems[0]}")
        pipelit.audit.seal()
        line = pipelit.audit.head().to_json()
    if append is not None:
        try:
            with append.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise ConfigurationError(f"--append {append}: {error.strerror}") from None
    typer.echo(line)


@audit.command("verify")
@reporting
def verify_trail(
    *,
    against: Annotated[
        Path | None,
        typer.Option(
            "--head", help="A file with lines of `audit head`: each has to fit, so a cut-off shows."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the trail against its seals; exit code 1 means that it was changed."""
    from pipelit_agents import Pipelit

    kept = [] if against is None else _heads("--head", against)
    with Pipelit.from_env() as pipelit:
        report = pipelit.audit.verify(kept)
    show("", dataclasses.asdict(report) | {"whole": not report.problems}, as_json=as_json)
    if report.problems:
        raise typer.Exit(1)


def _heads(option: str, path: Path) -> list[Any]:
    from pipelit_agents import AuditHead

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{option} {path}: it can't be read ({error})") from None
    found = [AuditHead.from_json(line) for line in lines if line.strip()]
    if not found:
        raise ConfigurationError(f"{option} {path}: there is no head in it")
    return found


@audit.command("prune")
@reporting
def prune(
    *,
    before: Annotated[str, typer.Option(help="What is older goes: 90d, or a time in ISO 8601.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete old sealed entries, in whole batches; what stays can still be checked."""
    from pipelit_agents import Pipelit

    confirm(f"Delete the audit's entries from before {before}?", yes=yes)
    with Pipelit.from_env() as pipelit:
        deleted = pipelit.audit.prune(_since("--before", before))
    show("Pruned.", {"entries": deleted}, as_json=as_json)


@reporting
def backup(
    path: Annotated[Path, typer.Argument(help="A file that isn't there yet.", metavar="file")],
    *,
    as_json: AsJson = False,
) -> None:
    """Copy an SQLite database while it is used; the key isn't in the copy."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        pipelit.backup(path)
    show("Copied.", {"file": str(path), "keep": "the key, somewhere else"}, as_json=as_json)
