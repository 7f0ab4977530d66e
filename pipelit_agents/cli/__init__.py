"""The command ``pipelit-agents``. Each subcommand calls a method of the library."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Final

import typer

from pipelit_agents.cli._guard import Guarded
from pipelit_agents.cli.accounts import agents, users
from pipelit_agents.cli.applying import apply
from pipelit_agents.cli.approval_notices import notify
from pipelit_agents.cli.approvals import approvals as approvals_commands
from pipelit_agents.cli.audit import audit as audit_commands
from pipelit_agents.cli.codes import code, verify
from pipelit_agents.cli.credentials import credentials as credentials_commands
from pipelit_agents.cli.desk import serve_desk
from pipelit_agents.cli.keys import keys as keys_commands
from pipelit_agents.cli.keys import rotate_key
from pipelit_agents.cli.mfa import mfa as mfa_commands
from pipelit_agents.cli.programs import demo, serve_mcp
from pipelit_agents.cli.system import backup, check, init

__all__ = ["app"]

_ABOUT: Final = "Identity that agents can prove, and secrets they can't leak."

app = typer.Typer(
    name="pipelit-agents",
    cls=Guarded,
    help=_ABOUT,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(users, name="users")
app.add_typer(agents, name="agents")
app.add_typer(credentials_commands, name="credentials")
app.add_typer(keys_commands, name="keys")
app.add_typer(mfa_commands, name="mfa")
app.add_typer(approvals_commands, name="approvals")
app.add_typer(audit_commands, name="audit")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("pipelit-agents"))
        raise typer.Exit


@app.callback(help=_ABOUT)
def main(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Read the options that aren't a command's."""


approvals_commands.command()(notify)
app.command()(init)
app.command()(code)
app.command()(verify)
app.command()(demo)
app.command("mcp")(serve_mcp)
app.command("desk")(serve_desk)
app.command()(check)
app.command()(apply)
# The old name of `keys rotate`, kept for scripts.
app.command("rotate-key", hidden=True)(rotate_key)
app.command()(backup)
