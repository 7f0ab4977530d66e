"""Commands about the audit trail: ``audit``."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypedDict, cast

import typer

from pipelit_agents._words import quoted
from pipelit_agents.cli._arguments import AsJson, Yes, duration, example
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import beside_others, moment, show
from pipelit_agents.cli.prompts import confirm
from pipelit_agents.cli.tables import Column, columns_of, show_table
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.protocol.usernames import OPERATOR

if TYPE_CHECKING:
    from pipelit_agents import AuditEntry, AuditHead, Pipelit

__all__ = ["audit"]
audit: typer.Typer = typer.Typer(
    help="List the recorded decisions, and detect changes to the records."
)
# Seconds.
_FOLLOW_INTERVAL: Final = 1.0
_COLUMNS: Final = columns_of(
    Column("at", "time", head=True),
    Column("actor", "id"),
    Column("person", "id", blank="none"),
    Column("subject", "id"),
    Column("action", "id", head=True),
    Column("outcome", head=True),
    "reason",
    "node",
)
# Each round reads the end of the trail, and writes a seal if there are new entries.
_MIN_SEAL_INTERVAL: Final = timedelta(seconds=1)
# Entries get their number before they are committed, so a late one may have a number that is lower
# by up to this many.
_LATE_WINDOW: Final = 1000


class _Filters(TypedDict):
    """Which entries are listed."""

    subject: str | None
    actor: str | None
    action: str | None
    outcome: str | None
    person: str | None
    since: datetime | None


@audit.callback(
    invoke_without_command=True, epilog=example("audit --subject agent_lead --since 2h")
)
@reporting
def entries(
    context: typer.Context,
    *,
    subject: Annotated[
        str | None, typer.Option(help="Only entries about this account or credential.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only requests of this account.")] = None,
    action: Annotated[
        str | None,
        typer.Option(
            help="Only this action; with a dot at its end, all actions that begin so, such as "
            "`verify.` for `verify.proof`."
        ),
    ] = None,
    outcome: Annotated[str | None, typer.Option(help="Only this outcome: ok or refused.")] = None,
    person: Annotated[
        str | None,
        typer.Option(
            help="Only credentials that were opened for this person, or that are its own."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only entries since then: 2h, 90d, or a time in ISO 8601.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="The maximum number of entries.", metavar="NUMBER", min=1)
    ] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep printing new entries until interrupted.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each entry.")
    ] = False,
) -> None:
    """List the newest entries of the audit trail in chronological order."""
    if context.invoked_subcommand is not None:
        return
    from pipelit_agents import Pipelit

    filters: _Filters = {
        "subject": subject,
        "actor": actor,
        "action": action,
        "outcome": outcome,
        "person": person,
        "since": None if since is None else _since("--since", since),
    }
    with Pipelit.from_env() as pipelit:
        found = pipelit.audit.list(limit=limit, **filters)
        if follow or as_json:
            for entry in found:
                _print_entry(entry, as_json=as_json)
        else:
            show_table(found, _COLUMNS, as_json=False, empty=_nothing(pipelit, filters))
        if follow:
            _follow(pipelit, filters, {entry.id for entry in found}, as_json=as_json)


def _nothing(pipelit: Pipelit, filters: _Filters) -> str:
    """Return that there are no entries, and what may be mistyped in the filters."""
    lines = ["There are no such entries."]
    for option in ("subject", "actor", "person"):
        name = filters[option]
        if name is not None and name != OPERATOR and not _is_there(pipelit, option, name):
            what = "account or credential" if option == "subject" else "account"
            lines.append(f"--{option}: there is no {what} {quoted(name)}.")
    action = filters["action"]
    if action is not None and not action.endswith("."):
        group = action.partition(".")[0]
        if pipelit.audit.list(limit=1, action=f"{group}."):
            lines.append(f"For all actions of the group: --action {group}.")
    return "\n".join(lines)


def _is_there(pipelit: Pipelit, option: str, name: str) -> bool:
    """Return whether a name is that of an account, or of a credential if it is a subject."""
    # Any other entry is enough: the subject may be a person's own credential, or was deleted since.
    if pipelit.audit.list(limit=1, **cast(_Filters, {option: name})):
        return True
    looks: list[Callable[[], object]] = [lambda: pipelit.users.get(name)]
    if option == "subject":
        looks.append(lambda: pipelit.credentials.get(name, unreadable=True))
    for look in looks:
        try:
            look()
        except (LookupError, ValueError):
            continue
        except ConfigurationError:
            # There is one, and no key to describe it with.
            pass
        return True
    return False


def _follow(pipelit: Pipelit, filters: _Filters, seen: set[int], *, as_json: bool) -> None:
    # Begin with the first printed entry, or with new ones. Ignore entries outside the numbering,
    # because one that was planted at the highest number would hide all new entries.
    newest = pipelit.audit.seals.newest_number()
    first = min((each for each in seen if 1 <= each <= newest), default=newest + 1)
    while True:
        for entry in pipelit.audit.list(limit=_LATE_WINDOW, after=first - 1, **filters):
            if entry.id not in seen:
                _print_entry(entry, as_json=as_json)
                seen.add(entry.id)
        first = max(first, pipelit.audit.seals.newest_number() - _LATE_WINDOW)
        seen = {each for each in seen if each >= first}
        time.sleep(_FOLLOW_INTERVAL)


def _print_entry(entry: AuditEntry, *, as_json: bool) -> None:
    fields = dataclasses.asdict(entry) | {"at": moment(entry.at)}
    if as_json:
        typer.echo(json.dumps(fields))
        return
    words = (beside_others(str(fields[each.name])) or "-" for each in _COLUMNS)
    typer.echo("  ".join(words))


def _since(option: str, text: str) -> datetime:
    if text[:4].isdigit() and "-" in text:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"{option} {text!r} isn't a time; for example 2026-01-31T12:00Z"
            ) from None
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    try:
        return datetime.now(UTC) - duration(option, text)
    except ValueError as error:
        raise ValueError(f"{error}, or a time such as 2026-01-31T12:00Z") from None


@audit.command("seal", epilog=example("audit seal --every 1m"))
@reporting
def seal(
    *,
    every: Annotated[
        str | None,
        typer.Option(help="Repeat at this interval, such as 1m, until interrupted."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Seal the entries that were written since the last seal, so that changes can be detected."""
    from pipelit_agents import Pipelit
    from pipelit_agents._bounds import LONGEST_WAIT

    pause = None
    if every is not None:
        most = timedelta(seconds=LONGEST_WAIT)
        pause = duration("--every", every, least=_MIN_SEAL_INTERVAL, most=most).total_seconds()
    with Pipelit.from_env() as pipelit:
        while True:
            sealed = pipelit.audit.seal()
            head = pipelit.audit.head()
            show("Sealed.", {"entries": sealed, "seal": head.number}, as_json=as_json)
            if pause is None:
                return
            time.sleep(pause)


@audit.command("head", epilog=example("audit head --append heads.jsonl"))
@reporting
def head(
    *,
    append: Annotated[
        Path | None,
        typer.Option(help="Append the head to this file, if the file's heads match the trail."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="No effect: the output is always one line of JSON.")
    ] = False,
) -> None:
    """Seal, and print the chain head (the newest seal) as one line of JSON.

    Store it where the database's users can't write.
    """
    from pipelit_agents import Pipelit
    from pipelit_agents.errors import AuditTampered

    kept = _heads("--append", append) if append is not None and append.exists() else []
    with Pipelit.from_env() as pipelit:
        problems = pipelit.audit.verify(kept).problems
        if problems:
            raise AuditTampered(f"the trail was changed, so no head is printed: {problems[0]}")
        pipelit.audit.seal()
        line = pipelit.audit.head().to_json()
    if append is not None:
        try:
            with append.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise ConfigurationError(f"--append {append}: {error.strerror}") from None
    typer.echo(line)


@audit.command("verify", epilog=example("audit verify --head heads.jsonl"))
@reporting
def verify_trail(
    *,
    against: Annotated[
        Path | None,
        typer.Option(
            "--head",
            help="A file with lines from `audit head`. Each must match the trail, so that deletion "
            "of the newest seals is detected.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the trail against its seals. Exit code 1 means that it was changed."""
    from pipelit_agents import Pipelit

    kept = [] if against is None else _heads("--head", against)
    with Pipelit.from_env() as pipelit:
        report = pipelit.audit.verify(kept)
    show("", dataclasses.asdict(report) | {"whole": not report.problems}, as_json=as_json)
    if report.problems:
        raise typer.Exit(1)


def _heads(option: str, path: Path) -> list[AuditHead]:
    from pipelit_agents import AuditHead

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{option} {path}: the file can't be read ({error})") from None
    found = [AuditHead.from_json(line) for line in lines if line.strip()]
    if not found:
        raise ConfigurationError(f"{option} {path}: the file has no head in it")
    return found


@audit.command("prune", epilog=example("audit prune --before 90d"))
@reporting
def prune(
    *,
    before: Annotated[
        str, typer.Option(help="Delete entries older than this: 90d, or a time in ISO 8601.")
    ],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete old sealed entries in whole batches. The remaining trail can still be verified."""
    from pipelit_agents import Pipelit

    confirm(f"Delete the audit entries from before {before}?", yes=yes)
    with Pipelit.from_env() as pipelit:
        deleted = pipelit.audit.prune(_since("--before", before))
    show("Pruned.", {"entries": deleted}, as_json=as_json)
