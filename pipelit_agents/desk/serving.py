"""Serve the desk with uvicorn, which waits for no client forever."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from fastapi import FastAPI

from pipelit_agents.bearer import source_of
from pipelit_agents.credentials.origins import is_loopback
from pipelit_agents.desk.settings import PREFIX, DeskSettings
from pipelit_agents.desk.tls import behind_tls, tls_context
from pipelit_agents.desk.workers import Workers, listen_for, require_forks
from pipelit_agents.errors import ConfigurationError

try:
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError as _missing:
    raise ConfigurationError(
        f"the desk needs {_missing.name}: pip install 'pipelit-agents[desk]'"
    ) from None

__all__ = ["bounded_protocol", "require_private", "serve", "server_config"]

# Seconds that a connection may be idle between two requests.
_IDLE_TIMEOUT: Final = 15
# Seconds for requests that are being answered when the server is stopped.
_SHUTDOWN_TIMEOUT: Final = 15
# Seconds until a client has to have taken what was written.
SEND_TIMEOUT: Final = 60.0
# Bytes of a request's first lines; the guards answer above half of them.
_MAX_HEAD: Final = 32_768
# The part of all connections that one address may have.
_SHARE: Final = 4
_BACKLOG: Final = 512


def serve(
    app: FastAPI, settings: DeskSettings, *, started: Callable[[str], None] = lambda _: None
) -> None:
    """Serve the desk until SIGINT or SIGTERM; then requests that are being answered end first.

    Args:
        app: The desk.
        settings: Its settings.
        started: Called with the address, once connections are accepted.

    Raises:
        ConfigurationError: The address can't be listened on, or would send keys in clear.
    """
    require_private(settings)
    require_forks(settings.workers)
    with ExitStack() as stack:
        listeners = _listening(settings)
        for each in listeners:
            stack.enter_context(each)
        port = listeners[0].getsockname()[1]
        scheme = "http" if settings.ssl_certfile is None else "https"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        config = server_config(app, settings)

        def ready() -> None:
            started(f"{scheme}://{host}:{port}")

        if settings.workers == 1:
            _serve_on(listeners[0], _Server(config, ready))
        else:
            Workers(
                lambda listener, is_ready, parent: _serve_on(
                    listener, _Server(config, is_ready, parent)
                ),
                listeners,
            ).run(ready)


def _serve_on(listener: socket.socket, server: _Server) -> None:
    # uvicorn sends itself the signal again at its end, which would kill the process.
    before = {each: signal.signal(each, _ignore) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def server_config(app: FastAPI, settings: DeskSettings) -> uvicorn.Config:
    """Return how uvicorn serves the desk."""
    protocol: Callable[..., Any] = bounded_protocol(settings)
    loop: Literal["auto", "asyncio"] = "auto"
    if (context := tls_context(settings)) is not None:
        protocol = behind_tls(
            protocol, context, within=settings.receive_timeout, has_room=_room(settings)
        )
        # With uvloop, bytes that came with the connection would be read before the handshake.
        loop = "asyncio"
    return uvicorn.Config(
        app,
        # h11 bounds the size of headers; uvicorn's other parser doesn't.
        http=cast(type[asyncio.Protocol], protocol),
        loop=loop,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # The guards read what proxies send, and know who is one.
        proxy_headers=False,
        server_header=False,
        # uvicorn refuses from this number on.
        limit_concurrency=settings.max_connections + 1,
        timeout_keep_alive=_IDLE_TIMEOUT,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
        h11_max_incomplete_event_size=_MAX_HEAD,
    )


def require_private(settings: DeskSettings) -> None:
    """Require that keys aren't sent in clear over a network.

    Raises:
        ConfigurationError: They would be.
    """
    public = urlsplit(settings.public_url)
    if public.scheme == "http" and not is_loopback(public.hostname or ""):
        raise ConfigurationError(
            f"{PREFIX}PUBLIC_URL begins with http://, so others on the network could read API "
            "keys: set it to the https:// address that people use, such as "
            f"https://{public.hostname} (--public-url)"
        )
    if is_loopback(settings.host) or settings.ssl_certfile or settings.trusted_proxies:
        return
    raise ConfigurationError(
        f"{PREFIX}HOST is {settings.host}, so others on the network could read API keys: set "
        f"{PREFIX}SSL_CERTFILE and {PREFIX}SSL_KEYFILE (--ssl-certfile, --ssl-keyfile); or, if a "
        f"proxy before the desk does TLS, its address in {PREFIX}TRUSTED_PROXIES (--behind-proxy)"
    )


def _listening(settings: DeskSettings) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        address = (settings.host, settings.port)
        return listen_for(settings.workers, address, family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"the desk can't listen on {settings.host}, port {settings.port} "
            f"({error.strerror or error}): choose others with --host and --port, or with "
            f"{PREFIX}HOST and {PREFIX}PORT"
        ) from None


def _ignore(number: int, frame: FrameType | None) -> None:
    """Handle a signal that uvicorn has handled already."""


class _Server(uvicorn.Server):
    """A server that says when it has started.

    Args:
        config: How it serves.
        started: Called when it accepts connections.
        parent: A file descriptor that can be read once the process that started this one is gone,
            which ends it too.
    """

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], None], parent: int | None = None
    ) -> None:
        super().__init__(config)
        self._on_start = started
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._parent is not None:
            asyncio.get_running_loop().add_reader(self._parent, self._lose_parent, self._parent)
        self._on_start()

    def _lose_parent(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        self.should_exit = True


def bounded_protocol(settings: DeskSettings) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with times for headers and answers, and a share of connections."""
    has_room = _room(settings)
    # Seconds from a connection, or from the first byte of a later request, to the end of its
    # headers.
    within = settings.receive_timeout

    class BoundedProtocol(H11Protocol):
        # Set when a connection is counted.
        source: str
        waiting: asyncio.TimerHandle | None = None
        unsent: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if not has_room(self, self.connections):
                transport.abort()
                return
            # So that `pause_writing` is called for whatever the client doesn't take.
            transport.set_write_buffer_limits(high=1, low=0)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait()
            else:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._expect_reader()
            elif self.conn.trailing_data[0] and self.cycle.response_complete:
                # Bytes of the next request that came with those before.
                self._wait()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._expect_reader()

        def pause_writing(self) -> None:
            self._expect_reader()
            super().pause_writing()

        def resume_writing(self) -> None:
            if self.unsent is not None and not self.transport.is_closing():
                self.unsent.cancel()
                self.unsent = None
            super().resume_writing()

        def _expect_reader(self) -> None:
            # A transport that is closed sends what is left first: to a client that takes nothing,
            # forever.
            if self.unsent is None:
                self.unsent = self.loop.call_later(SEND_TIMEOUT, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            if self.unsent is not None:
                self.unsent.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                # An answer is being sent or was sent, and another can't be.
                self.transport.close()

        def _unsupported_upgrade_warning(self) -> None:
            """Don't log it: anybody may ask for another protocol, and the request is answered."""

        def _wait(self) -> None:
            if self.waiting is None:
                self.waiting = self.loop.call_later(within, self._give_up)

        def _stop_waiting(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

        def _give_up(self) -> None:
            self.waiting = None
            # A request may be answered meanwhile, if its last bytes came with those before.
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return BoundedProtocol


def _room(settings: DeskSettings) -> Callable[[Any, Any], bool]:
    """Return whether a connection may stay, which is one of all connections."""
    most, proxies = max(1, settings.max_connections // _SHARE), settings.proxies

    def is_proxy(client: tuple[str, int] | None) -> bool:
        with suppress(ValueError):
            address = ipaddress.ip_address(client[0] if client else "")
            return any(address in network for network in proxies)
        return False

    def has_room(connection: Any, connections: Any) -> bool:
        # An IPv6 network of one customer is one source.
        source = connection.source = source_of(connection.client)
        others = [each for each in connections if getattr(each, "source", None) == source]
        return len(others) <= most or is_proxy(connection.client)

    return has_room
