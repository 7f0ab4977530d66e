"""Send HTTP requests about a credential: bounded in time and bytes, not redirected, not logged.

An answer's body is never read: it may be endless, and may repeat a secret.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

import httpx

from pipelit_agents._threads import Apart
from pipelit_agents.credentials.origins import is_loopback

__all__ = ["MAX_TIME", "bounded", "is_public"]

R = TypeVar("R")

# The longest time limit of requests, in seconds.
MAX_TIME: Final = 600
_LOOKUPS: Final = Apart(64)
# IPv4 addresses that were translated to IPv6 (RFC 6052).
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
# All addresses of the IPv6 internet. Others are of networks, such as fec0::/10, of translators to
# IPv4, such as 64:ff9b:1::/48, or unassigned; `ipaddress` calls many of them global.
_INTERNET: Final = ipaddress.IPv6Network("2000::/3")
# Public by their numbers, but inside: of protocols, one of which is Oracle's metadata service, and
# of the services of Azure and IBM for their machines.
_INSIDE: Final = tuple(
    map(
        ipaddress.IPv4Network,
        ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16", "161.26.0.0/16", "166.8.0.0/14"),
    )
)

# The loggers of httpx and httpcore, which log an answer's headers and its reason phrase.
_LOGGERS: Final = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.proxy",
    "httpcore.socks",
)
_unlogged: ContextVar[bool] = ContextVar("pipelit_agents_unlogged", default=False)


def bounded(
    url: httpx.URL,
    within: float,
    work: Callable[[httpx.AsyncClient], Awaitable[R]],
    *,
    public_only: bool = False,
) -> R:
    """Return what a function gets from a server, on an event loop of this call's own.

    Args:
        url: The server's address.
        within: For all requests together, in seconds.
        work: Sends the requests by the client that it is called with.
        public_only: Whether to connect to public addresses only, and without a proxy: what a proxy
            connects to can't be seen from here. A refused address looks as a name that can't be
            resolved, so nobody learns by it which names and servers are inside the network.

    Raises:
        TimeoutError: It took longer.
        httpx.HTTPError: As the client's methods.
    """
    loop = _PublicLoop if public_only else _Loop
    with _no_logs(), asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_by_client(url, within, work, public_only))


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet, also within an IPv6 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        # A tunnel leads to wherever its other end is.
        if found.teredo is not None or found not in _INTERNET:
            return False
    elif any(found in each for each in _INSIDE):
        return False
    return found.is_global and not found.is_multicast


def _is_own(sock: socket.socket, address: Any) -> bool:
    """Return whether an address is this machine's: what it sends there comes from there.

    A firewall between this machine and the internet doesn't see these connections.
    """
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
        try:
            # It chooses the sender's address, and sends nothing.
            probe.connect(address)
        except OSError:
            return False
        return bool(probe.getsockname()[0] == address[0])


async def _by_client(
    url: httpx.URL,
    within: float,
    work: Callable[[httpx.AsyncClient], Awaitable[R]],
    public_only: bool,
) -> R:
    # No proxy is between this machine and itself. One that is asked for an http:// address would
    # see the key.
    local = is_loopback(url.host) or public_only
    async with (
        asyncio.timeout(within),
        httpx.AsyncClient(
            timeout=within,
            trust_env=not local,
            # Reading the machine's certificates takes time, and http:// needs none.
            verify=url.scheme != "http" and httpx.create_ssl_context(),
            follow_redirects=False,
        ) as client,
    ):
        return await work(client)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that a name server can't keep from ending.

    asyncio looks up names in threads that its loop, and the process at exit, wait for.
    """

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """Look up a name on a thread that nobody waits for."""
        return await _LOOKUPS.arun(partial(socket.getaddrinfo, *args, **kwargs), within=MAX_TIME)


class _PublicLoop(_Loop):
    """An event loop that connects to public addresses only.

    The address is compared when it is connected to. A name that is resolved once to look at it and
    once to connect could have two addresses.
    """

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to a public address; any other fails as a name that can't be resolved."""
        host = address[0] if isinstance(address, tuple) else ""
        if not is_public(host) or _is_own(sock, address):
            raise socket.gaierror(socket.EAI_NONAME, "no public address")
        await super().sock_connect(sock, address)


class _Unlogged(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _unlogged.get()


@contextmanager
def _no_logs() -> Iterator[None]:
    """Log nothing of these requests, because a server may repeat the key in what is logged."""
    quiet, mine = _Unlogged(), _unlogged.set(True)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for each in loggers:
        each.addFilter(quiet)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(quiet)
        _unlogged.reset(mine)
