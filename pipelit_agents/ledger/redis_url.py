"""Make a redis-py client of an address: for one server, Sentinel or Cluster."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from pipelit_agents.errors import ConfigurationError, LedgerWarning

if TYPE_CHECKING:
    from redis import Redis, RedisCluster

    Client: TypeAlias = Redis | RedisCluster

__all__ = [
    "RedisUnusable",
    "connect",
    "masked_address",
    "named_errors",
    "report_eviction",
    "without_password",
]

URL_SETTING: Final = "PIPELIT_REDIS_URL (redis_url=)"
# Seconds. A script takes a fraction of a millisecond.
_TIMEOUT: Final = 2.0
_SENTINEL_PORT: Final = 26379
_OPTIONS: Final = frozenset({"client_name", "db", "health_check_interval", "max_connections"})
_FORMS: Final = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"


def connect(url: str) -> Client:
    """Create a client. It doesn't connect yet, except to ask a cluster for its layout.

    Args:
        url: An address of redis-py. With ``+sentinel`` it has several hosts, and the service in
            the path: ``redis+sentinel://host:26379,host:26379/mymaster/0``. With ``+cluster`` it
            has any node. In the query, ``sentinel_password`` is for the sentinels; ``ssl_…``,
            ``client_name``, ``health_check_interval`` and ``max_connections`` are redis-py's.

    Raises:
        ConfigurationError: The address can't be used, or redis-py isn't installed.
        redis.exceptions.RedisError: The cluster can't be reached.
    """
    try:
        from redis import ConnectionPool, Redis, RedisCluster, SSLConnection
        from redis.backoff import NoBackoff
        from redis.retry import Retry
        from redis.sentinel import Sentinel
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{URL_SETTING} is set, and redis-py is not installed: "
            "pip install 'pipelit-agents[redis]'"
        ) from None
    limits: dict[str, Any] = {
        "socket_timeout": _TIMEOUT,
        "socket_connect_timeout": _TIMEOUT,
        "protocol": 2,
        # Don't retry: if only the answer was lost, a second call would say «replay».
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        parts = urlsplit(url)
        scheme, _, layout = parts.scheme.partition("+")
        query = _checked_query(scheme, layout, parts)
        login, at, hosts = parts.netloc.rpartition("@")
        service, number = "", parts.path.strip("/")
        if layout == "sentinel":
            service, _, number = number.partition("/")
            if not service:
                raise _Unfit("it has to name the service: …/mymaster")  # noqa: TRY301 - said below
        if scheme != "unix" and not (number or "0").isdecimal():
            why = "its path must be the number of a database; in a password / is written %2F"
            raise _Unfit(why)  # noqa: TRY301 - said below
        sentinels_password = query.pop("sentinel_password", None)
        # redis-py parses the rest of the address.
        where = f"{login}{at}unknown" if layout == "sentinel" else parts.netloc
        plain = urlunsplit((scheme, where, f"/{number or 0}", urlencode(query), ""))
        if not layout:
            plain = url
        # Check that a connection can be made of it, without opening one.
        pool = ConnectionPool.from_url(plain, **limits)
        pool.make_connection()
        if layout == "cluster":
            return RedisCluster.from_url(plain, **limits)
        if not layout:
            return Redis.from_url(plain, **limits)
        shared = {k: v for k, v in pool.connection_kwargs.items() if k not in ("host", "port")}
        tls = {"ssl": True} if pool.connection_class is SSLConnection else {}
        trust = {k: v for k, v in shared.items() if k.startswith("ssl_")}
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            [_host_and_port(each) for each in hosts.split(",")],
            sentinel_kwargs={**limits, **tls, **trust, "password": sentinels_password},
        )
        master: Redis = sentinel.master_for(service, **shared, **tls)
        return master  # noqa: TRY300 - the errors are those of this block
    except _Unfit as error:
        why = str(error)
    except (AttributeError, TypeError, ValueError):
        # Don't repeat these errors, because they may contain the password.
        why = "it can't be read; in user and password write / ? # @ : as %2F %3F %23 %40 %3A"
    raise ConfigurationError(
        f"{URL_SETTING} is no address that can be used here ({why}); for example: "
        "redis://:password@127.0.0.1:6379/0"
    )


class _Unfit(ValueError):
    """Says what is wrong with an address, without repeating it."""


def _checked_query(scheme: str, layout: str, parts: SplitResult) -> dict[str, str]:
    if scheme not in ("redis", "rediss", "unix") or layout not in ("", "sentinel", "cluster"):
        raise _Unfit(f"it has to begin with {_FORMS}")
    query = dict(parse_qsl(parts.query))
    for name in query:
        ours = layout == "sentinel" and name == "sentinel_password"
        tls = scheme == "rediss" and name.startswith("ssl_")
        if not (ours or tls or name in _OPTIONS):
            raise _Unfit(f"{name[:40]!r} is no option for it")
    return query


class RedisUnusable(Exception):
    """Redis can't be reached, or refuses."""


@contextmanager
def named_errors(url: str) -> Iterator[None]:
    """Convert errors of redis-py to one that names the server and the setting.

    Raises:
        RedisUnusable: Redis can't be reached, or refuses.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        # Catch everything, because redis-py's errors have no common base class.
        raise RedisUnusable(
            f"the Redis at {masked_address(url)} did not do what was asked "
            f"({type(error).__name__}: {error}) (setting: {URL_SETTING})"
        ) from None


def masked_address(url: str) -> str:
    """Return the address for messages: without user, password and options."""
    scheme, _, rest = url.partition("://")
    # Up to the last @, because a password that wasn't escaped may contain a slash.
    login, at, where = rest.rpartition("@")
    shown = where.partition("?")[0].partition("#")[0]
    if not at and shown.startswith(":"):
        shown = ""
    return f"{scheme}://{'***@' if login else ''}{shown}"


def without_password(url: str) -> str:
    """Return the address without passwords."""
    scheme, _, rest = url.partition("://")
    where, _, query = rest.rpartition("@")[2].partition("?")
    kept = [(name, value) for name, value in parse_qsl(query) if name != "sentinel_password"]
    return f"{scheme}://{where}" + (f"?{urlencode(kept)}" if kept else "")


def report_eviction(client: Client, url: str) -> None:
    """Warn if the server deletes keys when its memory is full.

    Raises:
        redis.exceptions.RedisError: The server can't be reached, or refuses.
    """
    from redis import RedisCluster

    clustered = isinstance(client, RedisCluster)
    nodes = {"target_nodes": RedisCluster.RANDOM} if clustered else {}
    policy = client.info("memory", **nodes).get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        warnings.warn(
            f"the Redis at {masked_address(url)} evicts keys when its memory is full "
            f"(maxmemory-policy {policy}), and with them counted failures and locks: set it to "
            "noeviction",
            LedgerWarning,
            stacklevel=2,
        )


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise _Unfit("one of its hosts has no name")
    return parts.hostname, parts.port or _SENTINEL_PORT
