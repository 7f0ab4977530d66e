"""Commands about people's second factors: ``mfa``."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelit_agents.cli._arguments import AsJson, Yes, example
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import print_wrapped, safe, show
from pipelit_agents.cli.prompts import at_a_terminal, confirm, read_code, read_secret
from pipelit_agents.errors import (
    CodeRejected,
    ConfigurationError,
    MalformedCode,
    SecondFactorError,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

    from pipelit_agents import Pipelit

__all__ = ["mfa"]
mfa: typer.Typer = typer.Typer(
    help="Manage people's second factors, with an authenticator app.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The person's account.", metavar="USERNAME")]


@mfa.command("enroll", epilog=example("mfa enroll alice"))
@reporting
def enroll(
    username: Name,
    *,
    png: Annotated[
        Path | None, typer.Option(help="Write the QR code to this file instead of drawing it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a second factor, show it as a QR code, and turn it on with the app's first code.

    Without a terminal, pass the first code to: pipelit-agents mfa confirm.
    """
    from pipelit_agents import Pipelit

    if png is not None and (png.exists() or not png.parent.is_dir()):
        raise ConfigurationError(
            f"--png {png}: name a file that doesn't exist yet, in a folder that exists"
        )
    if png is not None and not os.access(png.parent, os.W_OK):
        raise ConfigurationError(f"--png {png}: the folder isn't writable; name another")
    with Pipelit.from_env() as pipelit:
        enrolled = pipelit.mfa.enroll(username)
        uri = enrolled.get_secret_value()
        prompts = at_a_terminal() and not as_json
        if png is not None:
            import segno

            drawn = segno.make(uri, error="m", micro=False)
            with os.fdopen(os.open(png, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                drawn.save(out, kind="png", scale=8)
        if prompts:
            _show_enrolment(username, uri, png)
            _show_recovery(_first_code(pipelit, username, enrolled), _turned_on(username))
            if png is not None:
                print_wrapped(f"Delete {png}: anyone who has it can make the app's codes.")
            return
        fields = {"username": username, "provisioning_uri": uri}
        if png is not None:
            fields["qr_code"] = str(png)
        fields["next"] = f"pipelit-agents mfa confirm {username}"
        title = "Enter this URI in an authenticator app." if png is None else "Scan the QR code."
        show(title, fields, as_json=as_json, once=["provisioning_uri"])


def _show_enrolment(username: str, uri: str, png: Path | None) -> None:
    """Show the QR code, and last of all the question, which is below it in 24 lines."""
    import shutil

    from pipelit_agents.cli.qr_codes import drawn_for

    if png is not None:
        typer.echo(f"Scan the QR code in this file with an authenticator app: {safe(str(png))}")
    else:
        typer.echo(
            f"If you can't scan the QR code, enter this URI in an authenticator app:\n  {uri}"
        )
        drawn = drawn_for(sys.stdout, uri, shutil.get_terminal_size().columns)
        typer.echo(
            drawn
            or "This terminal can't show the QR code. For a picture, press Ctrl-C and run: "
            f"pipelit-agents mfa enroll {username} --png FILE",
            # The colours of the code are no decoration: without them a camera sees it inverted.
            color=bool(drawn) or None,
        )
    typer.echo("Scan it, and type the 6 digits that the app shows. They stay hidden.")


def _first_code(pipelit: Pipelit, username: str, enrolled: SecretStr) -> Sequence[SecretStr]:
    """Prompt for the first code until one is correct, or the enrolment has ended."""
    while True:
        # This user has seen the secret, so the code is verified however many wrong first codes
        # others have entered.
        try:
            typed = read_code(
                "no code was typed: type the 6 digits that the app shows, or press Ctrl-C to stop"
            )
            return pipelit.mfa.confirm(username, typed, enrolled=enrolled)
        except (CodeRejected, MalformedCode) as error:
            if not pipelit.mfa.status(username).pending:
                raise
            print_wrapped(str(error), err=True)
        except typer.Abort:
            raise SecondFactorError(
                f"stopped before a code was verified. The enrolment of {username} stays pending "
                "until then, and the app can keep its entry. To go on: pipelit-agents mfa confirm "
                f"{username}. For a new QR code: pipelit-agents mfa enroll {username}",
                username=username,
            ) from None


@mfa.command("confirm", epilog=example("mfa confirm alice"))
@reporting
def confirm_factor(username: Name, *, as_json: AsJson = False) -> None:
    """Turn a second factor on with its first code, from a hidden prompt or standard input."""
    from pipelit_agents import Pipelit

    typed_code = read_secret("Code")
    with Pipelit.from_env() as pipelit:
        codes = pipelit.mfa.confirm(username, typed_code)
    if as_json:
        _show_recovery_json(codes, username)
    else:
        _show_recovery(codes, _turned_on(username))


@mfa.command("recovery-codes", epilog=example("mfa recovery-codes alice"))
@reporting
def recovery_codes(username: Name, *, as_json: AsJson = False) -> None:
    """Replace the recovery codes with ten new ones. This requires a code."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        _require_on(pipelit, username)
        codes = pipelit.mfa.renew_recovery_codes(username, read_secret("Code"))
    if as_json:
        _show_recovery_json(codes, username)
    else:
        _show_recovery(codes, f"{username} has new recovery codes. The earlier ones have ended.")


@mfa.command("disable", epilog=example("mfa disable alice"))
@reporting
def disable(username: Name, *, as_json: AsJson = False) -> None:
    """Turn a second factor off. This requires one of its codes, or a recovery code."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        _require_on(pipelit, username)
        pipelit.mfa.disable(username, read_secret("Code"))
    show("Off.", {"username": username}, as_json=as_json)


@mfa.command("reset", epilog=example("mfa reset alice"))
@reporting
def reset(username: Name, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Turn a second factor off without a code, for a person who lost phone and recovery codes."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        pipelit.mfa.status(username)  # An account that isn't there needs no confirmation.
        confirm(f"Turn off the second factor of {username} without a code?", yes=yes)
        pipelit.mfa.reset(username)
    fields = {"username": username, "next": f"pipelit-agents mfa enroll {username}"}
    show("Off.", fields, as_json=as_json)


@mfa.command("status", epilog=example("mfa status alice"))
@reporting
def factor(username: Name, *, as_json: AsJson = False) -> None:
    """Show whether a person has a second factor, and how many recovery codes remain."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.mfa.status(username)
    show("", dataclasses.asdict(found), as_json=as_json)


def _require_on(pipelit: Pipelit, username: str) -> None:
    # Fail before the prompt. Unlike a caller whose code is refused, the operator may know this.
    from pipelit_agents.accounts.second_factor import no_second_factor

    if not pipelit.mfa.status(username).on:
        raise no_second_factor(username)


def _turned_on(username: str) -> str:
    return f"The second factor of {username} is on."


def _show_recovery(codes: Sequence[SecretStr], title: str) -> None:
    """Show recovery codes, one a line."""
    print_wrapped(title)
    typer.echo("Recovery codes, for when the phone isn't at hand:")
    for number, each in enumerate(codes, 1):
        typer.echo(f"  {number:>{len(str(len(codes)))}}. {each.get_secret_value()}")
    if len(codes) == 1:
        typer.echo("It works once. Store it now: it isn't shown again.")
    else:
        typer.echo("Each works once. Store them now: they aren't shown again.")


def _show_recovery_json(codes: Sequence[SecretStr], username: str) -> None:
    shown = [code.get_secret_value() for code in codes]
    show("", {"username": username, "recovery_codes": shown}, as_json=True)
