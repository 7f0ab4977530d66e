"""Send HTTP requests about a credential: bounded in time and bytes, not redirected, not logged.

An answer's body is never read: it may be endless, and may repeat a secret.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

import httpx

from pipelit_agents._threads import Apart
from pipelit_agents.credentials.http_auth import is_loopback

__all__ = ["MAX_TIME", "bounded"]

R = TypeVar("R")

# The longest time limit of requests, in seconds.
MAX_TIME: Final = 600
_LOOKUPS: Final = Apart(64)

# The loggers of httpx and httpcore, which log an answer's headers and its reason phrase.
_LOGGERS: Final = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.proxy",
    "httpcore.socks",
)
_unlogged: ContextVar[bool] = ContextVar("pipelit_agents_unlogged", default=False)


def bounded(url: httpx.URL, within: float, work: Callable[[httpx.AsyncClient], Awaitable[R]]) -> R:
    """Return what a function gets from a server, on an event loop of this call's own.

    Args:
        url: The server's address.
        within: For all requests together, in seconds.
        work: Sends the requests by the client that it is called with.

    Raises:
        TimeoutError: It took longer.
        httpx.HTTPError: As the client's methods.
    """
    with _no_logs(), asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(_by_client(url, within, work))


async def _by_client(
    url: httpx.URL, within: float, work: Callable[[httpx.AsyncClient], Awaitable[R]]
) -> R:
    # No proxy is between this machine and itself. One that is asked for an http:// address would
    # see the key.
    local = is_loopback(url.host)
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
