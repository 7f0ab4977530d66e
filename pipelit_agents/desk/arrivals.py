"""Bounds of a request's first lines: its target, its headers, its host and its sender."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, Final

from starlette.types import Scope

from pipelit_agents.desk.problems import Problem
from pipelit_agents.desk.settings import Network

__all__ = ["forwarded", "require_bounded", "require_host", "route_path"]

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Bytes.
_MAX_TARGET: Final = 2_048
_MAX_HEADERS_SIZE: Final = 16_384
_MAX_HEADERS: Final = 64
# Addresses in X-Forwarded-For that are looked at, from the nearest.
_MAX_HOPS: Final = 20
# Two programs may read such paths differently: encoded or doubled slashes, backslashes, dot
# segments, and control characters.
_TRICKS: Final = re.compile(
    rb"//|\\|%2f|%5c|%00|[\x00-\x20\x7f]|(?:^|/)(?:\.|%2e){1,2}(?=/|$)", re.IGNORECASE
)
_ONCE: Final = frozenset(
    {b"host", b"content-length", b"content-type", b"transfer-encoding", b"pipelit-code"}
)
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?\Z", re.IGNORECASE)
# An address, or one with a port; without the zone of IPv6, which can be any text.
_HOP: Final = re.compile(
    r"(?:\[([0-9a-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+|([0-9a-f:.]+))\Z", re.I
)


def route_path(scope: Any) -> str:
    """Return the path below the prefix at which the desk is mounted."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if not prefix or not path.startswith(prefix):
        return path
    rest = path[len(prefix) :]
    return rest if rest.startswith("/") or not rest else path


def forwarded(scope: Scope, proxies: Iterable[Network]) -> Scope:
    """Return the scope as the first proxy that isn't trusted, or the client itself, sent it.

    Only what trusted proxies wrote is believed: the header is read from its end, to the first
    address that isn't one of theirs. What a client writes in it stands before that.

    Args:
        scope: The scope of the connection.
        proxies: The networks of trusted proxies.
    """
    trusted = tuple(proxies)
    client = scope.get("client")
    if not trusted or not client or not _is_in(client[0], trusted):
        return dict(scope)
    values: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        values.setdefault(name, []).append(value)
    hops = b",".join(values.get(b"x-forwarded-for", [])).decode("latin-1").split(",")
    address = client[0]
    for hop in reversed(hops[-_MAX_HOPS:]):
        found = _address(hop)
        if found is None:
            break
        address = found
        if not _is_in(address, trusted):
            break
    changed = dict(scope) | {"client": (address, 0)}
    schemes = b",".join(values.get(b"x-forwarded-proto", [])).decode("latin-1").split(",")
    if schemes[-1].strip().lower() in ("http", "https"):
        changed["scheme"] = schemes[-1].strip().lower()
    return changed


def require_bounded(scope: Scope) -> None:
    """Require that a request's target and headers are short, and mean one thing.

    Raises:
        Problem: They don't.
    """
    if scope["method"] not in METHODS:
        allow = {"Allow": ", ".join(METHODS)}
        raise Problem(405, "method-not-allowed", "there is no such method here", headers=allow)
    raw = scope.get("raw_path")
    path: bytes = raw if raw is not None else scope["path"].encode("utf-8", "surrogatepass")
    # Some servers leave the query in it.
    path = path.partition(b"?")[0]
    query: bytes = scope.get("query_string", b"")
    if len(path) > _MAX_TARGET or len(query) > _MAX_TARGET:
        raise Problem(
            414, "target-too-long", f"a path and a query have at most {_MAX_TARGET} bytes"
        )
    # U+FFFD is what servers make of bytes that aren't UTF-8.
    if _TRICKS.search(path) or not scope["path"].isprintable() or "\ufffd" in scope["path"]:
        raise Problem(
            400,
            "bad-request",
            "the path has an empty part, a dot part, an encoded slash "
            "or a control character: write each name as it is, percent-encoded",
        )
    if b"%00" in query or any(byte <= 0x20 or byte == 0x7F for byte in query):
        raise Problem(400, "bad-request", "the query has a control character or a space")
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > _MAX_HEADERS or size > _MAX_HEADERS_SIZE:
        raise Problem(
            431,
            "headers-too-large",
            f"a request has at most {_MAX_HEADERS} headers of {_MAX_HEADERS_SIZE:,} bytes together",
        )
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in _ONCE and name in seen:
            raise Problem(400, "bad-request", f"the header {name.decode()} is there twice")
        seen.add(name)


def require_host(scope: Scope, hosts: frozenset[str]) -> None:
    """Require that a request names the desk's host, and not one that resolves to its address.

    A page of another site may let its own name resolve to this machine, and would then be of the
    same origin as the desk (DNS rebinding).

    Raises:
        Problem: It names another host, or none.
    """
    named = [value for name, value in scope["headers"] if name == b"host"]
    found = _HOST.match(named[0].decode("latin-1")) if len(named) == 1 else None
    host = found[1].lower().strip("[]").rstrip(".") if found else ""
    if host and ("*" in hosts or host in hosts or _is_below(host, hosts)):
        return
    raise Problem(
        400,
        "unknown-host",
        "the desk isn't served under this host name; the operator of the server lists its names in "
        "PIPELIT_DESK_ALLOWED_HOSTS",
    )


def _is_below(host: str, hosts: Iterable[str]) -> bool:
    return any(each.startswith("*.") and host.endswith(each[1:]) for each in hosts)


def _address(text: str) -> str | None:
    """Return an address without its port, or None."""
    found = _HOP.match(text.strip())
    try:
        return str(ipaddress.ip_address(found[1] or found[2] or found[3])) if found else None
    except ValueError:
        return None


def _is_in(address: str, networks: Iterable[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    inside = getattr(found, "ipv4_mapped", None)
    return any(each in network for network in networks for each in (found, inside) if each)
