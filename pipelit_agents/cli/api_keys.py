"""Commands about API keys: ``keys`` of accounts."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from pipelit_agents.cli._arguments import AsJson, Name, Yes, example, expiry
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import hand_over, show
from pipelit_agents.cli.prompts import confirm
from pipelit_agents.cli.tables import Column, columns_of, show_table

__all__ = ["keys"]
_COLUMNS: Final = columns_of(
    Column("id", "id", head=True),
    "name",
    Column("masked", "id", title="ends in"),
    Column("created_at", "time"),
    Column("expires_at", "time", title="expires"),
    Column("revoked_at", "time"),
    Column("last_used_at", "time"),
)
keys: typer.Typer = typer.Typer(help="Manage the API keys of any account.", no_args_is_help=True)


@keys.command("list", epilog=example("users keys list alice"))
@reporting
def list_keys(username: Name, *, as_json: AsJson = False) -> None:
    """List an account's API keys, masked. The keys themselves aren't stored."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.users.list_api_keys(username)
    empty = (
        f"{username} has no API keys. Issue one:\n"
        f"  pipelit-agents users keys issue {username} --name laptop"
    )
    show_table(found, _COLUMNS, as_json=as_json, empty=empty)


@keys.command("issue", epilog=example("users keys issue alice --name laptop --expires-in 90d"))
@reporting
def issue_key(
    username: Name,
    *,
    name: Annotated[str, typer.Option(help="The name to list the key under.")],
    expires_in: Annotated[
        str | None,
        typer.Option(help="The period of validity, such as 90d. By default, it doesn't expire."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Issue another API key for an account, and show it once. A pipe receives only the key."""
    from pipelit_agents import Pipelit

    expires_at = expiry(expires_in)
    with Pipelit.from_env() as pipelit:
        new = pipelit.users.issue_api_key(username, name=name, expires_at=expires_at)
    fields = {"id": new.id, "username": new.username, "api_key": new.api_key.get_secret_value()}
    hand_over("Issued.", fields, "api_key", as_json=as_json)


@keys.command("revoke", epilog=example("users keys revoke 4f1d09ac2b7e"))
@reporting
def revoke_key(
    key_id: Annotated[
        str, typer.Argument(help="The key's id: the middle part of the key.", metavar="KEY_ID")
    ],
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key immediately."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.users.get_api_key(key_id)
        confirm(f"Revoke the API key {key_id} of {found.username}?", yes=yes)
        pipelit.users.revoke_api_key(key_id)
    show("Done.", {"revoked": key_id}, as_json=as_json)
