"""TLS of the desk's server: connections are bounded before their handshake too."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from pipelit_agents.desk.settings import PREFIX, DeskSettings
from pipelit_agents.errors import ConfigurationError

__all__ = ["behind_tls", "tls_context"]


def tls_context(settings: DeskSettings) -> ssl.SSLContext | None:
    """Return what TLS is done with, or None where nothing of it is set.

    Raises:
        ConfigurationError: The certificate or its key can't be used.
    """
    if settings.ssl_certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except OSError as error:
        raise ConfigurationError(
            f"{PREFIX}SSL_CERTFILE can't be used with its key ({error}): it must have the "
            f"certificate in PEM, and {PREFIX}SSL_KEYFILE its private key, without a password"
        ) from None
    return context


def behind_tls(
    protocol: Callable[..., Any],
    context: ssl.SSLContext,
    *,
    within: float,
    has_room: Callable[[Any, Any], bool],
) -> Callable[..., asyncio.Protocol]:
    """Return uvicorn's protocol behind TLS.

    A server of asyncio tells a protocol of a connection only after the handshake. So clients that
    begin none would be counted nowhere, and would use up the process's open files.

    Args:
        protocol: The protocol that reads HTTP.
        context: The certificate and its key.
        within: The time for a handshake, in seconds.
        has_room: Whether a connection may stay, of it and of all connections.
    """

    class Handshake(asyncio.Protocol):
        def __init__(self, server_state: Any, **given: Any) -> None:
            self._inner = protocol(server_state=server_state, **given)
            self._connections = server_state.connections
            # What came with the last bytes of the handshake.
            self._early = bytearray()
            self._task: asyncio.Task[None] | None = None
            self.client: tuple[str, int] | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            transport.pause_reading()
            self._transport = transport
            self.client = transport.get_extra_info("peername")
            self._connections.add(self)
            if has_room(self, self._connections):
                self._task = asyncio.get_running_loop().create_task(self._begin(transport))
            else:
                self.shutdown()

        async def _begin(self, transport: asyncio.Transport) -> None:
            try:
                secured = await asyncio.get_running_loop().start_tls(
                    transport, self, context, server_side=True, ssl_handshake_timeout=within
                )
            except OSError:
                # It isn't TLS, took too long, or the client went: nothing to log.
                secured = None
            finally:
                known = self in self._connections
                self._connections.discard(self)
            if secured is None or not known:
                transport.abort()
                return
            secured.set_protocol(self._inner)
            self._inner.connection_made(secured)
            if self._early:
                self._inner.data_received(bytes(self._early))

        def data_received(self, data: bytes) -> None:
            self._early += data

        def connection_lost(self, exc: Exception | None) -> None:
            self._connections.discard(self)

        def shutdown(self) -> None:
            """End the connection; uvicorn calls it when it stops."""
            self._connections.discard(self)
            self._transport.abort()

    return Handshake
