"""The command ``pipelit-agents``. Each subcommand calls a method of the library."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from pipelit_agents.cli._guard import Guarded
from pipelit_agents.cli._io import AsJson, read_secret, reporting, show
from pipelit_agents.cli.accounts import agents, users
from pipelit_agents.cli.audit import audit as audit_commands
from pipelit_agents.cli.credentials import credentials as credentials_commands
from pipelit_agents.cli.keys import keys as keys_commands
from pipelit_agents.cli.keys import rotate_key
from pipelit_agents.cli.mfa import mfa as mfa_commands
from pipelit_agents.cli.system import backup, check

__all__ = ["app"]

app = typer.Typer(
    name="pipelit-agents",
    cls=Guarded,
    help="Identity that agents can prove, and secrets they can't leak.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(users, name="users")
app.add_typer(agents, name="agents")
app.add_typer(credentials_commands, name="credentials")
app.add_typer(keys_commands, name="keys")
app.add_typer(mfa_commands, name="mfa")
app.add_typer(audit_commands, name="audit")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("pipelit-agents"))
        raise typer.Exit


@app.callback()
def main(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Identity that agents can prove, and secrets they can't leak."""


def _not_ignored(folder: Path) -> list[str]:
    listing = folder / ".gitignore"
    if not listing.is_file() and not (folder / ".git").exists():
        return []
    text = listing.read_text(encoding="utf-8", errors="replace") if listing.is_file() else ""
    patterns = [line.strip().strip("/") for line in text.splitlines()]
    ours = [name for name in (".env", ".pipelit") if (folder / name).exists()]
    return [name for name in ours if not any(fnmatch(name, each) for each in patterns)]


@app.command()
@reporting
def init(*, as_json: AsJson = False) -> None:
    """Create the encryption key in .env if there is none, and create the database tables."""
    from pipelit_agents import Pipelit
    from pipelit_agents.settings import Settings, ensure_key

    with Pipelit.from_env() as pipelit:
        pipelit.create_schema()
        where = pipelit.database_url
        if not Settings.read().has_key:
            # Before a key is created: a new one couldn't decrypt the existing data.
            pipelit.check_key()
    made = ensure_key(Path(".env"))
    with Pipelit.from_env() as pipelit:
        pipelit.check_key()
        counted = pipelit.check_ledger()
    fields = {
        "key": f"created, in {made}" if made else "already set; kept",
        "database": where,
        "attempts counted in": counted,
        "next": "pipelit-agents users create NAME",
    }
    if made:
        fields["keep"] = ".env out of version control, and a copy of the key in a safe place"
    if tracked := _not_ignored(Path()):
        fields["warning"] = (
            f"git may add {' and '.join(tracked)}: add a line for each to .gitignore"
        )
    show("Ready.", fields, as_json=as_json)


@app.command()
@reporting
def code(
    agent: Annotated[str, typer.Argument(help="The agent whose code to print.")],
    *,
    audience: Annotated[
        str | None,
        typer.Option(help="The agent that will verify the code. Without it: a plain TOTP code."),
    ] = None,
    message: Annotated[
        str | None,
        typer.Option(help="The exact text to bind the code to; requires --audience."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print an agent's current code."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        made = pipelit.agent(agent).totp_code(audience=audience, message=message)
    left = max(0, round((made.expires_at - datetime.now(UTC)).total_seconds()))
    fields = {"code": made.code, "audience": made.audience, "seconds_left": left}
    if not as_json and not sys.stdout.isatty():
        # For `pipelit-agents code … | pipelit-agents verify …`.
        typer.echo(made.code)
        return
    show("", fields, as_json=as_json)


@app.command()
@reporting
def verify(
    verifier: Annotated[str, typer.Argument(help="The agent that verifies the code.")],
    peer: Annotated[str, typer.Argument(help="The agent whose code is verified.")],
    *,
    plain: Annotated[bool, typer.Option("--plain", help="The code is a plain TOTP code.")] = False,
    message: Annotated[
        str | None, typer.Option(help="The exact text that the code is bound to.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify an agent's code and mark it as used. Exit code 0 means verified, 1 refused.

    The code is read from a hidden prompt, or from standard input.
    """
    import dataclasses

    from pipelit_agents import Pipelit

    typed_code = read_secret("Code")
    with Pipelit.from_env() as pipelit:
        verified = pipelit.agent(verifier).verify_peer(
            peer, typed_code, kind="plain" if plain else "audience", message=message
        )
    show("Verified.", dataclasses.asdict(verified), as_json=as_json)


@app.command()
@reporting
def demo(
    *,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input", help="A text file for a child; up to three. By default our own texts."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A chat model, as provider:name. Its API key is the credential with the "
            "provider's name."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a demo: three children are verified, three attacks are refused, and no key leaks."""
    from importlib import import_module

    try:
        # Imported by name, so that the commands load without the graphs and their dependencies.
        run = import_module("pipelit_agents.graphs.demo.run").run
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the demo command needs {error.name}: pip install 'pipelit-agents[demo]'"
        ) from None
    raise typer.Exit(run(inputs=inputs or [], model=model, as_json=as_json))


@app.command("mcp")
@reporting
def serve_mcp(
    agent: Annotated[str, typer.Argument(help="The agent that the client's model acts as.")],
    *,
    audience: Annotated[
        list[str] | None,
        typer.Option(
            help="An agent that codes may be made for; may be repeated. By default any agent."
        ),
    ] = None,
    require_message: Annotated[
        bool,
        typer.Option(
            "--require-message", help="Make and accept only codes that are bound to a message."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve one agent's tools over MCP on standard input and output. An MCP client starts it.

    The tools are get_totp_code, verify_peer and create_agent_user.
    """
    from importlib import import_module

    from pipelit_agents import Pipelit
    from pipelit_agents.errors import ConfigurationError

    try:
        served = import_module("pipelit_agents.tools.mcp")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the mcp command needs the mcp extra: pip install 'pipelit-agents[mcp]' ({error})"
        ) from None
    toolkit = import_module("pipelit_agents.tools").IdentityToolkit
    with Pipelit.from_env() as pipelit:
        handle = pipelit.agent(agent)
        # Fail at the start, not at the first call, if the agent doesn't exist or isn't active.
        handle.require_active()
        tools = toolkit(
            agent=handle,
            audiences=tuple(audience) if audience else None,
            require_message=require_message,
        ).get_tools()
        if sys.stdin.isatty():
            typer.echo("Serving MCP on standard input. Stop with Ctrl-C.", err=True)
        # With Python's own handler, the thread that waits for input would keep the process alive.
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            served.serve_stdio(tools, name=f"pipelit-agents {agent}")
        finally:
            signal.signal(signal.SIGINT, before)


app.command("check")(check)
# The old name of `keys rotate`, kept for scripts.
app.command("rotate-key", hidden=True)(rotate_key)
app.command("backup")(backup)
