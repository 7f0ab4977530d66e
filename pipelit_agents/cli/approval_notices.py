"""The command that notifies people by a webhook of questions that wait for them."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipelit_agents.cli._arguments import AsJson
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.near_names import with_near_name
from pipelit_agents.cli.output import print_wrapped, safe
from pipelit_agents.cli.tables import Column, columns_of, show_table
from pipelit_agents.errors import ConfigurationError, CredentialNotFound, StorageError

if TYPE_CHECKING:
    from pipelit_agents import ApprovalNotices, NoticeResult, Pipelit, Webhook

__all__ = ["notify"]

_FAILED: Final = 1
_COLUMNS: Final = columns_of(
    Column("id", "id", head=True),
    "step",
    "attempt",
    "delivered",
    "reason",
    Column("next_at", "time", title="next attempt"),
)


@reporting
def notify(
    *,
    webhook: Annotated[str, typer.Option(help="The URL that receives the notices, https://….")],
    credential: Annotated[
        str, typer.Option(help="The name of the credential that has the signing secret.")
    ],
    include_arguments: Annotated[
        bool, typer.Option("--include-arguments", help="Send the arguments of the calls too.")
    ] = False,
    timeout: Annotated[int, typer.Option(help="For each request, in seconds.")] = 10,
    watch: Annotated[
        bool, typer.Option("--watch", help="Continue until the command is stopped.")
    ] = False,
    every: Annotated[
        int,
        typer.Option(
            help="With --watch: seconds between two rounds.", metavar="NUMBER", min=1, max=3600
        ),
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Send the notices of all questions that wait for people, if they are due.

    Each notice is signed as Standard Webhooks describes it. A notice that failed is sent again
    when it is due: by the next run of this command, or by --watch. Exit code 1 means that a notice
    failed. With --watch and --json, each round that sent something prints one line.
    """
    from pipelit_agents import Pipelit, Webhook

    # Each failure is in the table, so it isn't printed as a log record too.
    logging.getLogger("pipelit_agents.operations.approval_notices").addHandler(
        logging.NullHandler()
    )
    receiver = Webhook(webhook, credential, include_arguments=include_arguments, timeout=timeout)
    with Pipelit.from_env() as pipelit:
        _require_credential(pipelit, credential)
        if not watch:
            results = pipelit.approvals.notices.send_due(receiver)
            _show(results, as_json=as_json)
            if not all(each.delivered for each in results):
                raise typer.Exit(_FAILED)
            return
        with suppress(KeyboardInterrupt):
            while True:
                _round(pipelit.approvals.notices, receiver, as_json=as_json)
                time.sleep(every)


def _require_credential(pipelit: Pipelit, credential: str) -> None:
    """Fail before the notices do, because each would then wait longer for its next attempt."""
    try:
        pipelit.credentials.get(credential.partition(":")[0], unreadable=True)
    except CredentialNotFound as error:
        if pipelit.approvals.pending():
            raise
        print_wrapped(f"warning: {with_near_name(error, str(error))}", err=True)
    except (ConfigurationError, StorageError):
        # The round reports it.
        pass


def _round(notices: ApprovalNotices, receiver: Webhook, *, as_json: bool) -> None:
    try:
        results = notices.send_due(receiver)
    except StorageError as error:
        # A database that restarts doesn't end the watch.
        typer.echo(f"warning: {safe(str(error))}", err=True)
        return
    if results:
        _show(results, as_json=as_json, one_line=True)


def _show(results: Sequence[NoticeResult], *, as_json: bool, one_line: bool = False) -> None:
    found = [dataclasses.asdict(each) for each in results]
    if as_json and one_line:
        typer.echo(json.dumps(found, default=str))
    else:
        show_table(found, _COLUMNS, as_json=as_json, empty="No notice is due.")
