"""The commands ``code`` and ``verify``."""

from __future__ import annotations

import dataclasses
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from pipelit_agents.cli._arguments import AsJson
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import show
from pipelit_agents.cli.prompts import read_secret

__all__ = ["code", "verify"]


@reporting
def code(
    agent: Annotated[str, typer.Argument(help="The agent whose code to print.", metavar="AGENT")],
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


@reporting
def verify(
    verifier: Annotated[
        str, typer.Argument(help="The agent that verifies the code.", metavar="VERIFIER")
    ],
    peer: Annotated[str, typer.Argument(help="The agent whose code is verified.", metavar="PEER")],
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
    from pipelit_agents import Pipelit

    typed_code = read_secret("Code")
    with Pipelit.from_env() as pipelit:
        verified = pipelit.agent(verifier).verify_peer(
            peer, typed_code, kind="plain" if plain else "audience", message=message
        )
    show("Verified.", dataclasses.asdict(verified), as_json=as_json)
