"""The commands ``demo`` and ``mcp``, which run programs of ``graphs`` and ``tools``."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from pipelit_agents.cli._arguments import AsJson
from pipelit_agents.cli.failures import reporting
from pipelit_agents.errors import ConfigurationError

__all__ = ["demo", "serve_mcp"]


@reporting
def demo(
    *,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input", help="A text file for a child; up to three. By default, built-in texts."
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
    try:
        # Imported by name, so that the commands load without the graphs and their dependencies.
        run = import_module("pipelit_agents.graphs.demo.run").run
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the demo command needs {error.name}: pip install 'pipelit-agents[sqlite]'"
        ) from None
    raise typer.Exit(run(inputs=inputs or [], model=model, as_json=as_json))


@reporting
def serve_mcp(
    agent: Annotated[
        str, typer.Argument(help="The agent that the client's model acts as.", metavar="AGENT")
    ],
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
    from pipelit_agents import Pipelit

    try:
        served = import_module("pipelit_agents.tools.mcp")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the mcp command needs {error.name}: pip install 'pipelit-agents[mcp]'"
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
