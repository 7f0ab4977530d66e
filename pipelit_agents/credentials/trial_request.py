"""Ask a server whether it accepts a credential: one GET, bounded, whose body is never read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import httpx

from pipelit_agents.credentials.bounded_http import bounded
from pipelit_agents.credentials.trial_words import (
    NOT_PUBLIC,
    Finding,
    by_error,
    by_status,
    has_no_address,
    says_nothing,
)

__all__ = ["Request", "ask"]


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


def ask(
    request: Request, auth: httpx.Auth, timeout: float, *, public_only: bool = False
) -> Finding:
    """Send a request with a credential, and return what the answer's status says.

    If the server accepts it, the request is sent a second time without it: an address that
    answers everybody says nothing about the key.

    Args:
        request: The request.
        auth: Fills its header.
        timeout: For all of it, in seconds.
        public_only: Whether to ask only a server with a public address.
    """
    try:
        url = httpx.URL(request.url)
    except (httpx.InvalidURL, TypeError):
        return Finding("unanswered", "its address can't be read as a URL: correct it")
    server = f"{url.scheme}://{url.netloc.decode('ascii')}"
    try:
        asking = partial(_statuses, request, auth)
        status, without_key = bounded(url, timeout, asking, public_only=public_only)
    except Exception as error:
        if public_only and has_no_address(error):
            return Finding("unanswered", NOT_PUBLIC, server)
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
    request: Request, auth: httpx.Auth, client: httpx.AsyncClient
) -> tuple[int, int | None]:
    """Return the status of the answer; if that is a success, also the one without the key."""
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
