"""The command ``pipelit-agents``. Each subcommand calls a method of the library."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Final

import typer

from pipelit_agents.cli._arguments import example
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

# The parts of the help, in this order.
_SET_UP: Final = "Set up and check"
_PROGRAMS: Final = "Programs"
_ACCOUNTS: Final = "Accounts and codes"
_SECRETS: Final = "Credentials and keys"
_DECISIONS: Final = "Approvals and audit"
_ABOUT: Final = "Identity that agents can prove, and secrets they can't leak."

app: typer.Typer = typer.Typer(
    name="pipelit-agents",
    cls=Guarded,
    help=_ABOUT,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(users, name="users", rich_help_panel=_ACCOUNTS)
app.add_typer(agents, name="agents", rich_help_panel=_ACCOUNTS)
app.add_typer(mfa_commands, name="mfa", rich_help_panel=_ACCOUNTS)
app.add_typer(credentials_commands, name="credentials", rich_help_panel=_SECRETS)
app.add_typer(keys_commands, name="keys", rich_help_panel=_SECRETS)
app.add_typer(approvals_commands, name="approvals", rich_help_panel=_DECISIONS)
app.add_typer(audit_commands, name="audit", rich_help_panel=_DECISIONS)


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


approvals_commands.command(
    epilog=example("approvals notify --credential hook --webhook https://my.example")
)(notify)
app.command(rich_help_panel=_SET_UP)(init)
app.command(rich_help_panel=_SET_UP)(check)
app.command(rich_help_panel=_SET_UP, epilog=example("apply accounts.yaml --dry-run"))(apply)
app.command(rich_help_panel=_SET_UP, epilog=example("backup copy.db"))(backup)
app.command("desk", rich_help_panel=_PROGRAMS, epilog=example("desk --port 8441"))(serve_desk)
app.command("mcp", rich_help_panel=_PROGRAMS, epilog=example("mcp agent_lead"))(serve_mcp)
app.command(rich_help_panel=_PROGRAMS, epilog=example("demo --input notes.txt"))(demo)
app.command(
    rich_help_panel=_ACCOUNTS, epilog=example("code agent_researcher --audience agent_lead")
)(code)
app.command(rich_help_panel=_ACCOUNTS, epilog=example("verify agent_lead agent_researcher"))(verify)
# The old name of `keys rotate`, kept for scripts.
app.command("rotate-key", hidden=True)(rotate_key)
