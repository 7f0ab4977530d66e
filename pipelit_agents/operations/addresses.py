"""Addresses of servers that are reached without TLS, and how far away a host is."""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = [
    "Distance",
    "Found",
    "clear_http",
    "clear_postgres",
    "clear_redis",
    "clear_traces",
    "distance_in_clear",
    "distance_of",
    "is_clear",
    "is_yes",
]

_FALSE: Final = frozenset({"0", "false", "no", "off", "n", "f"})
# Domains that Docker, Podman and Kubernetes use within their own networks.
_CONTAINER_DOMAINS: Final = (
    ".docker.internal", ".containers.internal", ".svc", ".svc.cluster.local",
)  # fmt: skip
_YES: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_HTTP: Final = re.compile(r"http://[^\s\"',}\\]*", re.IGNORECASE)
_TRACING: Final = re.compile(
    r"(LANGSMITH|LANGCHAIN|OTEL_EXPORTER|OTLP|LANGFUSE|PHOENIX|SENTRY|LOGFIRE|MLFLOW|OPIK|ARIZE"
    r"|HELICONE|TRACELOOP|TRACING|TRACES|(\A|_)TRACE_|JAEGER|ZIPKIN|WANDB|WEAVE|DATADOG|(\A|_)DD_"
    r"|ELASTIC_APM|NEW_RELIC|HONEYCOMB|BRAINTRUST|COMET|LANGTRACE|LUNARY|GALILEO|SPLUNK)",
    re.IGNORECASE,
)


class Distance(enum.IntEnum):
    """How far away a host is."""

    HERE = 0
    """On this machine."""
    UNKNOWN = 1
    """A name without a dot: a service of Docker Compose, a machine of the same network."""
    ELSEWHERE = 2
    """On another machine."""


def distance_of(host: str | None) -> Distance:
    """Return how far away a host is, judging by its name."""
    name = unquote(host or "").strip("[]").rstrip(".").lower()
    # A path is a Unix socket. An empty host is the driver's default, which is a socket too.
    if not name or name.startswith(("/", "@")) or name == "localhost":
        return Distance.HERE
    if name.endswith(".localhost"):
        return Distance.HERE
    try:
        # Short and hexadecimal forms: 127.1, 0x7f000001.
        short = (
            socket.inet_aton(name) if re.fullmatch(r"[0-9a-fx.]*[0-9][0-9a-fx.]*", name) else b""
        )
    except OSError:
        short = b""
    try:
        loopback = ipaddress.ip_address(short or name).is_loopback
    except ValueError:
        near = "." not in name or name.endswith(_CONTAINER_DOMAINS)
        return Distance.UNKNOWN if near else Distance.ELSEWHERE
    return Distance.HERE if loopback else Distance.ELSEWHERE


def distance_in_clear(value: str) -> Distance:
    """Return the distance of the farthest ``http://`` host in a value, or ``HERE``."""
    return max((_distance(each[0]) for each in _HTTP.finditer(value)), default=Distance.HERE)


def is_clear(value: str) -> bool:
    """Whether a value has an ``http://`` address that isn't on this machine."""
    return distance_in_clear(value) > Distance.HERE


def _distance(url: str) -> Distance:
    try:
        return distance_of(urlsplit(url).hostname or "host.unknown")
    except ValueError:
        return Distance.ELSEWHERE


class Found(NamedTuple):
    """Problems with the addresses of servers.

    Attributes:
        problems: Connections to another machine.
        notes: Connections that are only safe if the host is on this machine or in a private
            network.
    """

    problems: list[str]
    notes: list[str]

    def add(self, far: Distance, what: str) -> None:
        """Add a problem with an address, by its distance."""
        if far is Distance.ELSEWHERE:
            self.problems.append(what)
        elif far is Distance.UNKNOWN:
            self.notes.append(what.replace(" reaches ", " may reach "))


def clear_http(environ: Mapping[str, str]) -> Found:
    """Return the names of settings with ``http://`` addresses."""
    found = Found([], [])
    for name, value in sorted(environ.items()):
        found.add(distance_in_clear(value), name)
    return found


def clear_traces(environ: Mapping[str, str]) -> Found:
    """Return the names of settings that send traces, with states and prompts, without TLS."""
    found = clear_http({name: each for name, each in environ.items() if _TRACING.search(name)})
    for name, value in sorted(environ.items()):
        if re.fullmatch(r"OTEL_EXPORTER_OTLP(_\w+)?_INSECURE", name) and is_yes(value):
            endpoint = name.removesuffix("INSECURE") + "ENDPOINT"
            # For gRPC, the endpoint is a host and a port without a scheme.
            host = environ.get(endpoint, environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
            if "://" not in host and host:
                found.add(distance_of(host.rpartition(":")[0] or host), name)
    return found


def clear_redis(addresses: Mapping[str, str]) -> Found:
    """Return the problems with the addresses of Redis servers.

    Args:
        addresses: The addresses, by the names of their settings.
    """
    found = Found([], [])
    for name, address in sorted(addresses.items()):
        scheme, _, rest = address.strip().partition("://")
        scheme = re.split(r"[+-]", scheme.lower())[0].replace("valkey", "redis")
        if scheme not in ("redis", "rediss"):
            continue
        netloc, _, query = re.split(r"[/?#]", rest, maxsplit=1)[0], "", rest.partition("?")[2]
        hosts = [_host_of(each) for each in netloc.rpartition("@")[2].split(",")]
        far, options = max(map(distance_of, hosts)), parse_qs(query)
        checked = (options.get("ssl_cert_reqs") or [""])[-1].lower().removeprefix("cert_")
        if scheme == "redis":
            found.add(far, f"{name} reaches another machine without TLS")
        elif checked in ("none", "optional", "0", "1"):
            found.add(far, f"{name} doesn't verify the server's certificate")
        elif (options.get("ssl_check_hostname") or [""])[-1].lower() in _FALSE:
            found.add(far, f"{name} doesn't verify that the certificate is for this host")
    return found


def clear_postgres(addresses: Mapping[str, str], environ: Mapping[str, str]) -> Found:
    """Return the problems with the addresses of PostgreSQL servers.

    Args:
        addresses: The addresses, by the names of their settings.
        environ: The environment, with libpq's variables.
    """
    found = Found([], [])
    for name, address in sorted(addresses.items()):
        scheme, _, rest = address.strip().partition("://")
        if scheme.lower().partition("+")[0] not in ("postgresql", "postgres"):
            continue
        query = parse_qs(rest.partition("?")[2])
        netloc = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        named = query.get("hostaddr") or query.get("host") or [netloc]
        hosts = [_host_of(each) for part in named for each in part.split(",")]
        hosts = [each or environ.get("PGHOST", "") for each in hosts]
        modes = query.get("sslmode") or query.get("ssl") or [environ.get("PGSSLMODE", "")]
        if modes[-1].lower() not in ("require", "verify-ca", "verify-full", "true"):
            mode = f"sslmode={modes[-1]}" if modes[-1].isalpha() else "no sslmode"
            found.add(max(map(distance_of, hosts)), f"{name} reaches another machine with {mode}")
    return found


def _host_of(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text if text.count(":") > 1 else text.partition(":")[0]


def is_yes(value: str) -> bool:
    """Whether the value of a setting means yes."""
    return value.strip().lower() in _YES
