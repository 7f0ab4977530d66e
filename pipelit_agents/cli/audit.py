"""Commands about the audit trail: ``audit``."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipelit_agents._bounds import LONGEST_WAIT
from pipelit_agents.cli._io import (
    AsJson,
    Yes,
    confirm,
    duration,
    moment,
    reporting,
    safe,
    show,
    show_table,
)
from pipelit_agents.errors import (
    ConfigurationError,
)

if TYPE_CHECKING:
    from pipelit_agents import Pipelit

__all__ = ["audit"]
audit = typer.Typer(help="What was decided, and whether that was changed since.")
_FOLLOW_EVERY: Final = 1.0
# Each time the whole trail's end is read, and a seal is written where there is anything new.
_SEAL_EVERY: Final = timedelta(seconds=1)
# Numbers are given before they are committed: what is shown late has a lower one.
_LATE: Final = 1000


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
    newest = pipelit.audit.seals.newest_number()
    first = min((each for each in seen if 1 <= each <= newest), default=newest + 1)
    while True:
        for entry in pipelit.audit.list(limit=_LATE, after=first - 1, **filters):
            if entry.id not in seen:
                _print_entry(entry, as_json=as_json)
                seen.add(entry.id)
        first = max(first, pipelit.audit.seals.newest_number() - _LATE)
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
