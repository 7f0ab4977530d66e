"""The commands ``code`` and ``verify``."""

from __future__ import annotations

import dataclasses
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pipelit_agents._words import quoted
from pipelit_agents.cli._arguments import AsJson
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.near_names import with_near_name
from pipelit_agents.cli.output import print_wrapped, show
from pipelit_agents.cli.prompts import read_secret
from pipelit_agents.errors import UserNotFound

if TYPE_CHECKING:
    from pipelit_agents import Pipelit

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
        if audience is not None and not as_json:
            _warn_of(pipelit, audience)
    left = max(0, round((made.expires_at - datetime.now(UTC)).total_seconds()))
    fields = {"code": made.code, "audience": made.audience, "seconds_left": left}
    if not as_json and not sys.stdout.isatty():
        # For `pipelit-agents code … | pipelit-agents verify …`.
        typer.echo(made.code)
        return
    show("", fields, as_json=as_json)


def _warn_of(pipelit: Pipelit, audience: str) -> None:
    """Warn of an audience that can't verify the code, such as a mistyped one."""
    try:
        found = pipelit.users.get(audience)
    except UserNotFound as error:
        named = with_near_name(error, f"no account here is named {quoted(audience)}")
        print_wrapped(
            f"warning: --audience: {named}, so only another database's agent of this name can "
            "verify the code",
            err=True,
        )
        return
    if found.kind == "human":
        print_wrapped(
            f"warning: --audience: {audience!r} is a person, and only agents verify codes", err=True
        )
    elif not found.active:
        print_wrapped(f"warning: --audience: {audience!r} was deactivated", err=True)


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

    with Pipelit.from_env() as pipelit:
        # The library reports an unknown verifier as a wrong code, because strangers may ask.
        handle = pipelit.agent(verifier)
        handle.require_active()
        typed_code = read_secret("Code")
        verified = handle.verify_peer(
            peer, typed_code, kind="plain" if plain else "audience", message=message
        )
    show("Verified.", dataclasses.asdict(verified), as_json=as_json)
