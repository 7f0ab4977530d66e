"""The command ``desk``, which serves the HTTP API and its pages."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipelit_agents.cli._arguments import AsJson
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import print_wrapped, show
from pipelit_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelit_agents import Pipelit
    from pipelit_agents.desk import DeskSettings

__all__ = ["serve_desk"]

# The options that aren't named after their setting.
_OPTIONS: Final = {"trusted_proxies": "--behind-proxy"}
_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@reporting
def serve_desk(
    *,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on; by default 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="The port to listen on; by default 8440.", metavar="NUMBER", min=0, max=65_535
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="The number of processes; by default 1.", metavar="NUMBER", min=1, max=64
        ),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="The URL under which people reach the desk, https://….", metavar="URL"),
    ] = None,
    behind_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="The address or network of a proxy that terminates TLS; may be repeated. Its "
            "X-Forwarded-For is trusted.",
            metavar="ADDRESS",
        ),
    ] = None,
    ssl_certfile: Annotated[
        Path | None, typer.Option(help="The file with the certificate for TLS.")
    ] = None,
    ssl_keyfile: Annotated[
        Path | None, typer.Option(help="The file with the certificate's private key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the HTTP API and the pages for people who run agents, until it is stopped.

    It listens on this machine only. With another --host, it needs TLS. Each
    option is also a setting, such as PIPELIT_DESK_HOST. While there is no operator, it prints a
    token with which you create the first one.
    """
    from pipelit_agents import Pipelit
    from pipelit_agents.desk import DeskSettings, make_app
    from pipelit_agents.desk.serving import serve

    chosen: dict[str, Any] = {
        "host": host,
        "port": port,
        "workers": workers,
        "public_url": public_url,
        "trusted_proxies": behind_proxy,
        "ssl_certfile": ssl_certfile,
        "ssl_keyfile": ssl_keyfile,
    }
    given = {name: each for name, each in chosen.items() if each is not None}
    try:
        settings = DeskSettings(**given)
    except ConfigurationError as error:
        raise ConfigurationError(_by_option(str(error), given)) from None
    with _log_on_stderr(), Pipelit.from_env() as pipelit:
        token = _set_up_token(pipelit)
        app = make_app(pipelit, settings)
        # All of this lives to the end, so the collector needn't search it while requests wait.
        gc.collect()
        gc.freeze()
        serve(
            app,
            settings,
            started=lambda address: _show_started(settings, address, token, as_json=as_json),
        )


def _show_started(
    settings: DeskSettings, address: str, token: str | None, *, as_json: bool
) -> None:
    from pipelit_agents.credentials.origins import is_loopback

    fields: dict[str, object] = {"address": settings.public_url or address}
    if settings.public_url or as_json:
        fields["listens_on"] = address
    if token is not None or as_json:
        fields["set_up_token"] = token
    show("The desk is ready.", fields, as_json=as_json)
    if token is not None and not as_json:
        print_wrapped(
            "There is no operator yet. Open the address, and type the set-up token there to create "
            "the first one. Anyone who has the token can."
        )
    if not (is_loopback(settings.host) or settings.public_url or settings.allowed_hosts):
        print_wrapped(
            "It answers to localhost and its own address only. If people use another address, set "
            "it with --public-url or PIPELIT_DESK_PUBLIC_URL.",
            err=True,
        )
    # A service manager reads it while the server runs.
    sys.stdout.flush()


def _by_option(message: str, given: Iterable[str]) -> str:
    """Name the option that was typed, where a message begins with its setting."""
    for name in given:
        option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        setting = f"PIPELIT_DESK_{name.upper()}:"
        if message.startswith(setting):
            return f"{option}:{message.removeprefix(setting)}"
    return message


def _set_up_token(pipelit: Pipelit) -> str | None:
    from pipelit_agents.desk.set_up_token import set_up_token

    token = set_up_token(pipelit)
    return None if token is None else token.get_secret_value()


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    loggers = [logging.getLogger(name) for name in ("pipelit_agents", "uvicorn")]
    for logger, level in zip(loggers, (logging.INFO, logging.WARNING), strict=True):
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
