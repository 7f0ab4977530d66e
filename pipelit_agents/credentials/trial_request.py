"""Ask a server whether it accepts a credential: one GET, bounded, whose body is never read."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, NamedTuple

import httpx

from pipelit_agents._threads import Apart
from pipelit_agents.credentials.http_auth import is_loopback
from pipelit_agents.credentials.trial_words import Finding, by_error, by_status, says_nothing

__all__ = ["MAX_TIME", "Request", "ask"]

# The longest time limit of a test, in seconds.
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


class Request(NamedTuple):
    """The request that shows whether a server accepts a credential.

    Attributes:
        url: What to GET.
        header: The header of the secret.
        scheme: The word before the secret; None for no word.
        others: Further headers.
        refusals: The statuses by which this service refuses a key, beside 401.
    """

    url: str
    header: str = "Authorization"
    scheme: str | None = "Bearer"
    others: Mapping[str, str] = {}
    refusals: frozenset[int] = frozenset()


def ask(request: Request, auth: httpx.Auth, timeout: float) -> Finding:
    """Send a request with a credential, and return what the answer's status says.

    If the server accepts it, the request is sent a second time without it: an address that
    answers everybody says nothing about the key.

    Args:
        request: The request.
        auth: Fills its header.
        timeout: For all of it, in seconds.
    """
    try:
        url = httpx.URL(request.url)
    except (httpx.InvalidURL, TypeError):
        return Finding("unanswered", "its address can't be read as a URL: correct it")
    server = f"{url.scheme}://{url.netloc.decode('ascii')}"
    try:
        with _no_logs():
            asking = _statuses(request, url, auth, timeout)
            with asyncio.Runner(loop_factory=_Loop) as runner:
                status, without_key = runner.run(asking)
    except Exception as error:
        return Finding("unanswered", by_error(error, timeout), server)
    if without_key is not None and httpx.codes.is_success(without_key):
        return Finding(
            "untested",
            "the server gives the same answer without the key, so it says nothing about the key: "
            "use an address that needs it",
            server,
            status,
        )
    if without_key is not None and says_nothing(without_key):
        return Finding(
            "unanswered",
            "the server accepts the key, but doesn't say now whether it refuses those without it: "
            "try again later",
            server,
            without_key,
        )
    return Finding(*by_status(status, refusals=request.refusals), server, status)


async def _statuses(
    request: Request, url: httpx.URL, auth: httpx.Auth, within: float
) -> tuple[int, int | None]:
    """Return the status of the answer; if that is a success, also the one without the key."""
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
        status = await _status(client, request, auth)
        if not httpx.codes.is_success(status):
            return status, None
        # Otherwise a session that the answer began would answer for the key.
        client.cookies.clear()
        return status, await _status(client, request, None)


async def _status(client: httpx.AsyncClient, request: Request, auth: httpx.Auth | None) -> int:
    # The body isn't read: it may be endless, and may repeat the key.
    async with client.stream(
        "GET", request.url, headers=dict(request.others), auth=auth
    ) as response:
        return response.status_code


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
