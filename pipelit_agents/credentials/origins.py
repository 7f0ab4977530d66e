"""The server that a URL names, and whether a secret may be sent to it unencrypted."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import httpx

from pipelit_agents.errors import ConfigurationError

__all__ = ["Origin", "is_loopback", "origin_in", "origin_of", "require_encrypted"]

_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """A server, as browsers tell them apart."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def origin_of(argument: str, url: object, *, sent: str = "the credential") -> Origin:
    """Return the origin of a URL that a developer wrote.

    Args:
        argument: The argument's name, for the message.
        url: The URL.
        sent: What is sent there, for the message.

    Raises:
        TypeError: It isn't text.
        ValueError: It has a user or password, or isn't https://; http:// is for this machine only.
    """
    if not isinstance(url, str) or not url:
        raise TypeError(f"{argument} must be a URL, for example https://crm.example.com")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError(
            f"{argument} can't be read as a URL: use for example https://host"
        ) from None
    if parsed.scheme not in _PORTS or not parsed.host:
        raise ValueError(f"{argument} has to begin with https:// and name a host")
    if parsed.userinfo:
        raise ValueError(f"{argument} must not hold a user or password")
    if (refusal := _unencrypted(argument, parsed, sent)) is not None:
        raise ValueError(refusal)
    return origin_in(parsed)


def require_encrypted(argument: str, url: str) -> None:
    """Refuse the URL of another machine that would receive a credential unencrypted.

    Raises:
        ConfigurationError: It begins with http://, and isn't on this machine.
    """
    with suppress(httpx.InvalidURL):
        if (refusal := _unencrypted(argument, httpx.URL(url))) is not None:
            raise ConfigurationError(refusal)


def _unencrypted(argument: str, url: httpx.URL, sent: str = "the credential") -> str | None:
    if url.scheme != "http" or is_loopback(url.host):
        return None
    return (
        f"{argument}: http:// would send {sent} to {url.host} unencrypted: use "
        "https:// (http:// is only for this machine)"
    )


def origin_in(url: Any) -> Origin:
    """Return the origin of the URL of a request: of httpx, of httpx2, or of what sends it."""
    # A client's URL shows an international name in Unicode as its host; on the wire it has the name
    # that raw_host has.
    scheme, host = (
        each.decode("ascii", "replace") if isinstance(each, bytes) else str(each)
        for each in (url.scheme, getattr(url, "raw_host", url.host))
    )
    scheme, host = scheme.lower(), host.lower().strip("[]")
    return Origin(scheme, host, _PORTS.get(scheme) if url.port is None else url.port)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, to which a secret may go unencrypted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
