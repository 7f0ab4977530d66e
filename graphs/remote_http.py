"""HTTP with the server of a remote child: one request at a time, and bounded answers.

No word of the server's reaches a log, an error or a result: only its status and a bounded JSON
document are read.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final

import httpx

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._threads import aside
from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import decode

from .types import Json

__all__ = ["RunLost", "ServerUnauthorized", "UnexpectedStatus", "Unreachable", "call", "new_client"]

# The maximum size of an answer other than an envelope: a run's record, a list of runs, an error.
_MAX_RECORD_BYTES: Final = 2**20
# A run's record or a list of runs has about a hundred.
_MAX_BRACKETS: Final = 4096
# A body of fewer bytes is decoded on the event loop.
_SMALL_BODY: Final = 2**16
# Seconds.
_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
# The server is temporarily unavailable: overloaded, restarting, or a proxy reports one of these.
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unreachable(Exception):
    """The server can't be reached, or no longer knows the run.

    Attributes:
        status: The HTTP status, or 0 if there was none.
    """

    def __init__(self, status: int = 0) -> None:
        super().__init__()
        self.status = status


class RunLost(Unreachable):
    """The server lost the run, ended it, or delivered it to its child again or too late."""


class ServerUnauthorized(Exception):
    """The server doesn't accept the credential."""


class UnexpectedStatus(Exception):
    """The server answered with an unexpected HTTP status.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status


class _Trust:
    """The trusted certificates, read once per process.

    Reading them takes about 20 ms of CPU time, which each call of a child would spend. Only the
    certificates are shared. Each call opens new connections, so that no connection is used by two
    event loops or on both sides of a fork.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Drop the parent process's context: another thread may hold its OpenSSL locks."""
        self._lock = threading.Lock()
        self._read: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context. Read it again if the environment or a certificate file changed."""
        source = _certificate_sources()
        with self._lock:
            if self._read is None or self._read[0] != source:
                context = httpx.create_ssl_context()
                context.set_alpn_protocols(["http/1.1"])
                # httpcore sets the same protocol again at each connection. OpenSSL would write it
                # to the context while another thread may be copying it.
                setattr(context, "set_alpn_protocols", _keep_protocols)  # noqa: B010 - for mypy
                self._read = source, context
            return self._read[1]


def _keep_protocols(_: Sequence[str]) -> None:
    return


def _certificate_sources() -> tuple[object, ...]:
    # The sources that httpx and Python's ssl use.
    found: list[object] = [os.environ.get("SSLKEYLOGFILE")]
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(variable)
        found.append(path)
        if path:
            with suppress(OSError):
                about = Path(path).stat()
                found.append((about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(found)


_TRUST: Final = _Trust()


class _NoReasonPhrase(httpx.AsyncHTTPTransport):
    """Drop the reason phrase: httpx logs it, and the server controls its text."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.extensions.pop("reason_phrase", None)
        return response


def new_client(url: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """Return a client for one server. The first call in a process reads certificates.

    Args:
        url: The server's URL.
        headers: The headers of each request, which may hold an API key.
    """
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        # The client would keep all cookies that a server sets, and search them for each request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=_TIMEOUT,
        follow_redirects=False,
        event_hooks={"response": [_check_status]},
        # With an explicit transport httpx ignores proxies in the environment.
        transport=_NoReasonPhrase(verify=_TRUST.context()),
    )


async def call(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    limit: int = _MAX_RECORD_BYTES,
    body: Json = None,
) -> Json:
    """Send a request, and return the JSON document of the answer, or None if it is empty.

    Args:
        client: A client of ``new_client``.
        method: The HTTP method.
        path: The path.
        limit: The maximum size of the answer, in bytes.
        body: The JSON document to send.

    Raises:
        Unreachable: The server is unavailable, or answers 404.
        UnexpectedStatus: The server answered with an unexpected HTTP status.
        ServerUnauthorized: The server doesn't accept the API key.
        PayloadError: The answer is too large, or isn't JSON.
    """
    received = bytearray()
    try:
        async with client.stream(method, path, json=body) as response:
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > limit:
                    break
    except httpx.TransportError:
        # The error holds the server's text, and its request holds the key.
        raise Unreachable from None
    if sum(map(received.count, (b"{", b"["))) > _MAX_BRACKETS:
        # An envelope has two brackets, and base64url none. Deep nesting is cheap to send but
        # expensive to parse.
        raise PayloadError("the answer isn't an envelope")
    if len(received) < _SMALL_BODY:
        return decode(bytes(received), limit=limit) if received.strip() else None
    return await aside(lambda: decode(bytes(received), limit=limit))


async def _check_status(response: httpx.Response) -> None:
    # Called before the body is read.
    status = response.status_code
    if status in (401, 403):
        raise ServerUnauthorized
    if status in _TRANSIENT or status == 404:
        raise Unreachable(status)
    if not response.is_success:
        raise UnexpectedStatus(status)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("the server compressed its answer, although the request forbids it")
