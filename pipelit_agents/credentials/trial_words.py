"""What a test of a credential finds out, in our own words: an answer's text is never shown."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

import httpx

from pipelit_agents.errors import CredentialError

__all__ = [
    "Finding",
    "Outcome",
    "by_error",
    "by_status",
    "has_no_address",
    "late",
    "says_nothing",
]

Outcome: TypeAlias = Literal["good", "refused", "unanswered", "untested"]


class Finding(NamedTuple):
    """What a test found out.

    Attributes:
        outcome: As of a `CredentialTest`.
        reason: Why, and what to do.
        server: The server that was asked; empty if there was none.
        status: The status of its answer; None if there was none.
    """

    outcome: Outcome
    reason: str
    server: str = ""
    status: int | None = None


_OTHER_ISSUED: Final = "Make another one at its issuer, and store it with credentials put"
_BY_STATUS: Final[dict[int, tuple[Outcome, str]]] = {
    401: ("refused", f"the key isn't accepted: it is wrong, expired or revoked. {_OTHER_ISSUED}"),
    402: ("refused", "the key's account has no credit: add some at its issuer"),
    403: (
        "refused",
        "the service forbids this: the key has no permission for it, or isn't valid. Look at its "
        "permissions at its issuer",
    ),
    404: (
        "unanswered",
        "the server has nothing at this address: correct the public field base_url or test_url",
    ),
    407: ("unanswered", "the proxy wants a user and a password: put them into HTTPS_PROXY"),
    429: (
        "unanswered",
        "the service limits requests now, or the key's quota is used up: try again later, and look "
        "at the quota at its issuer",
    ),
}
_BY_STATUS[405] = _BY_STATUS[410] = _BY_STATUS[404]


def by_status(status: int, *, refusals: frozenset[int] = frozenset()) -> tuple[Outcome, str]:
    """Return what a status says about the credential that was sent.

    Args:
        status: The status of an HTTP answer.
        refusals: Those by which this service refuses a key, beside 401.
    """
    if status in refusals:
        status = 401
    if 200 <= status < 300:
        return "good", "the service accepts it"
    if 300 <= status < 400:
        return "unanswered", (
            "the server redirects to another address, to which the key isn't sent: put the final "
            "address into the public field base_url or test_url"
        )
    if status >= 500:
        return "unanswered", "the service has a fault of its own: try again later"
    return _BY_STATUS.get(
        status, ("unanswered", "the service's answer says nothing about the key: look at its logs")
    )


# The same for a name without an address and for one inside the network: that stays unknown.
NOT_PUBLIC: Final = (
    "the server's name can't be resolved to a public address, and no other is asked here: correct "
    "the public field base_url or test_url, or let an operator test it where the server is reached"
)


def has_no_address(error: BaseException) -> bool:
    """Return whether a server couldn't be asked because there is no address to connect to."""
    return any(isinstance(each, socket.gaierror) for each in _causes(error))


def says_nothing(status: int) -> bool:
    """Return whether a server answers so whatever it is asked, at the moment."""
    return status in (408, 429) or status >= 500


def by_error(
    error: BaseException,
    timeout: float,
    *,
    address: str = "the public field base_url or test_url",
    unsent: str = "the key wasn't sent",
) -> str:
    """Return why a server couldn't be asked, and what to do.

    Args:
        error: The exception of a client.
        timeout: The time that it had, in seconds.
        address: What has the server's address.
        unsent: What an untrusted server didn't get.
    """
    if isinstance(error, CredentialError):
        return str(error)
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return late(timeout)
    if isinstance(error, httpx.ProxyError):
        return "the proxy that the environment names (HTTPS_PROXY) refuses to connect: correct it"
    causes = list(_causes(error))
    if any(isinstance(each, socket.gaierror) for each in causes):
        return f"the server's name can't be resolved: correct {address}, or this machine's DNS"
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes):
        return (
            f"the server's certificate isn't trusted, so {unsent}: correct the address, or "
            "name your own authority's certificates in SSL_CERT_FILE"
        )
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return f"the server doesn't speak TLS at this address, so {unsent}: correct it"
    if isinstance(error, httpx.ConnectError):
        return "nothing answers at this address: start the server, or correct the address"
    if isinstance(error, httpx.TransportError):
        return "the server closed the connection, or doesn't speak HTTP: correct the address"
    return (
        "the server can't be asked from here: look at HTTPS_PROXY and SSL_CERT_FILE in the "
        "environment"
    )


def late(timeout: float) -> str:
    """Return that there was no answer in time."""
    return (
        f"there was no answer within {timeout:g} s: try again, with a longer timeout, or look "
        "whether a firewall is between"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
