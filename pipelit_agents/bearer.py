"""Authenticate the callers of a server by API keys, on its event loop, and bound guessing.

Guesses don't slow down other callers. Only a limited number of invalid keys is looked up in the
database. Refusals are delayed, and admissions aren't. A valid key is always looked up.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final

from sqlalchemy import or_, select

from pipelit_agents._threads import aside
from pipelit_agents.accounts.models import User
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import ApiKeyRow, UserRow
from pipelit_agents.errors import AuthenticationError
from pipelit_agents.pipelit import Pipelit

__all__ = [
    "ApiKeyGate",
    "FailureBudget",
    "FailureDelay",
    "KeyNotLookedUp",
    "source_of",
    "token_of",
]

# Bytes.
_MAX_HEADER_LENGTH: Final = 256
_LOG: Final = logging.getLogger(__name__)
_MAX_SOURCES: Final = 4096
# Failures of one source in the window that aren't delayed.
_FREE_FAILURES: Final = 5
# Seconds.
_FAILURE_WINDOW: Final = 60.0
_MAX_DELAY: Final = 2.0
_MAX_DELAYED: Final = 2048
# Look-ups, and look-ups that are added each second.
_SOURCE_BUDGET: Final = (100, 10.0)
_TOTAL_BUDGET: Final = (400, 100.0)
# Seconds.
_DIGESTS_TTL: Final = 5.0
_MAX_DIGESTS: Final = 100_000
# Seconds.
_WARNING_INTERVAL: Final = 60.0
# IPv4 addresses that were translated to IPv6 (RFC 6052).
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")


class KeyNotLookedUp(Exception):
    """A key was refused without a look-up, because its source had sent too many invalid ones.

    Attributes:
        retry_after: Whole seconds to wait.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"too many API keys from this address were refused; try again in {retry_after} seconds"
        )
        self.retry_after = retry_after


class FailureDelay:
    """Delay the refusals of a source that keeps failing.

    Only refusals are delayed, so a valid key is answered immediately, whatever its source. Memory
    is bounded by the number of sources and by the number of delayed refusals. Above that number,
    refusals aren't delayed.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._waiting = 0

    def note(self, source: str, now: float) -> float:
        """Count a failure.

        Args:
            source: The source of the request.
            now: The time of a monotonic clock, in seconds.

        Returns:
            The delay of the refusal in seconds: 0 for the first five in a minute, then 0.1, doubled
            by each further one, and 2 at most.
        """
        failures = self._failures.setdefault(source, deque(maxlen=_FREE_FAILURES + 8))
        self._failures.move_to_end(source)
        if len(self._failures) > _MAX_SOURCES:
            self._failures.popitem(last=False)
        while failures and failures[0] <= now - _FAILURE_WINDOW:
            failures.popleft()
        failures.append(now)
        excess = len(failures) - _FREE_FAILURES
        return 0.0 if excess <= 0 else min(0.1 * 2.0 ** (excess - 1), _MAX_DELAY)

    async def wait(self, source: str) -> None:
        """Count a failure now, and wait for the delay that ``note`` returns."""
        delay = self.note(source, asyncio.get_running_loop().time())
        if self._waiting >= _MAX_DELAYED:
            delay = 0.0
        self._waiting += 1
        try:
            # Even without a delay, so that other tasks can run.
            await asyncio.sleep(delay)
        finally:
            self._waiting -= 1


class FailureBudget:
    """Limit how many invalid API keys are looked up in the database.

    Each source has 100 look-ups, and gets 10 more each second. All sources together have 400, and
    get 100 more each second. A valid key costs nothing.
    """

    def __init__(self) -> None:
        self._all = _Bucket(*_TOTAL_BUDGET)
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, source: str, now: float) -> float:
        """Take one look-up from the budget.

        Args:
            source: The source of the request.
            now: The time of a monotonic clock, in seconds.

        Returns:
            0 if a look-up was taken, or else the seconds until one is available.
        """
        own = self._sources.setdefault(source, _Bucket(*_SOURCE_BUDGET))
        self._sources.move_to_end(source)
        if len(self._sources) > _MAX_SOURCES:
            self._sources.popitem(last=False)
        wait = max(own.wait(now), self._all.wait(now))
        if not wait:
            own.left -= 1
            self._all.left -= 1
        return wait

    def give_back(self, source: str) -> None:
        """Return one look-up, after the key turned out to be valid."""
        for bucket in (self._all, self._sources.get(source)):
            if bucket is not None:
                bucket.left = min(bucket.size, bucket.left + 1)


class _Bucket:
    """A token bucket: tokens are refilled over time."""

    __slots__ = ("at", "each_second", "left", "size")

    def __init__(self, size: int, each_second: float) -> None:
        self.left = float(size)
        self.size = size
        self.each_second = each_second
        self.at: float | None = None

    def wait(self, now: float) -> float:
        """Return the seconds until a token is available, or 0 if one is."""
        if self.at is not None:
            self.left = min(self.size, self.left + max(0.0, now - self.at) * self.each_second)
        self.at = now
        return 0.0 if self.left >= 1 else (1 - self.left) / self.each_second


class _LivingKeys:
    """A cache of the digests of valid keys.

    It admits nobody: a key in the cache is looked up like any other. When a source is over its
    budget, the cache distinguishes valid keys from unknown ones, so that a stranger can't lock out
    others behind the same address. It is only read when a source is over its budget, and at most
    every five seconds.
    """

    def __init__(self, accounts: Pipelit) -> None:
        self._accounts = accounts
        self._digests: frozenset[bytes] = frozenset()
        self._refused: set[bytes] = set()
        self._admitted: set[bytes] = set()
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None

    async def has(self, token: str) -> bool:
        """Whether a token is a valid key. A key of the last five seconds may be missing.

        Raises:
            StorageError: The database can't be read.
        """
        digest = _digest(token)
        # Refresh before the answer, because that clears the refused keys too. A refusal may have
        # been too early, or is out of date.
        if self._is_unknown(token, digest) and self.stale_in() <= 0:
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read())
            # Many tasks wait for one read. The shield keeps it running if one of them is cancelled.
            await asyncio.shield(self._reading)
        return not self._is_unknown(token, digest)

    def _is_unknown(self, token: str, digest: bytes) -> bool:
        if _whole_digest(token) in self._refused:
            return True
        return digest not in self._digests and digest not in self._admitted

    def stale_in(self) -> float:
        """Return the seconds until the cache may be read again."""
        return self._read_at + _DIGESTS_TTL - asyncio.get_running_loop().time()

    def note(self, token: str) -> None:
        """Record that a key was admitted, which may be newer than the cache."""
        if len(self._admitted) < _MAX_DIGESTS:
            self._admitted.add(_digest(token))

    def forget(self, token: str) -> None:
        """Record that a key in the cache was refused."""
        if len(self._refused) < _MAX_DIGESTS:
            # The whole token, because the right secret under a wrong id is another token.
            self._refused.add(_whole_digest(token))

    async def _read(self) -> None:
        try:
            # Note the time before the query, because its result may lack keys that are issued
            # meanwhile.
            read_at = asyncio.get_running_loop().time()
            now = (self._accounts._clock or time.time)()
            self._digests = await aside(_living_digests, self._accounts._database, now)
            self._refused.clear()
            self._admitted.clear()
            self._read_at = read_at
        finally:
            self._reading = None


def _living_digests(database: Database, now: float) -> frozenset[bytes]:
    query = (
        select(ApiKeyRow.digest)
        .join(UserRow, UserRow.username == ApiKeyRow.username)
        .where(
            UserRow.active,
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
        )
        .order_by(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at.desc())
        .limit(_MAX_DIGESTS)
    )
    with database.reading() as connection:
        return frozenset(bytes.fromhex(each)[:16] for each in connection.scalars(query))


def _digest(token: str) -> bytes:
    # Of the secret part, as it is stored. Half of the digest is enough to distinguish keys.
    return hashlib.sha256(token.split("_", 2)[-1].encode()).digest()[:16]


def _whole_digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()[:16]


class ApiKeyGate:
    """Authenticate requests on an event loop.

    Args:
        accounts: The Pipelit whose API keys are accepted.
    """

    def __init__(self, accounts: Pipelit) -> None:
        self._accounts = accounts
        self._budget = FailureBudget()
        self._delay = FailureDelay()
        self._living = _LivingKeys(accounts)
        self._unseen = 0
        self._warned_at = -math.inf

    async def user_of(self, token: str, source: str) -> User:
        """Return the account that a key belongs to, as the database says now.

        Args:
            token: The token of the request; see ``token_of``.
            source: The source of the request; see ``source_of``.

        Raises:
            AuthenticationError: The key isn't valid; raised after a delay if the source keeps
                failing.
            KeyNotLookedUp: The source, or all of them, sent too many invalid keys.
            ConfigurationError: The database can't be used.
            StorageError: The database can't be read.
        """
        wait = self._budget.take(source, asyncio.get_running_loop().time())
        try:
            if wait and not (token and await self._living.has(token)):
                raise await self._refuse_without_lookup(source, wait)
            user = await self._accounts.users.aauthenticate(token)
        except AuthenticationError:
            if wait:
                self._living.forget(token)
        else:
            if not wait:
                self._budget.give_back(source)
            self._living.note(token)
            return user
        await self._delay.wait(source)
        raise AuthenticationError

    async def require(self, source: str, is_right: Awaitable[bool]) -> None:
        """Require another secret than a key, with the same delays.

        Args:
            source: The source of the request.
            is_right: Whether it is right. It has no budget, so it must not need the database to
                find that out.

        Raises:
            AuthenticationError: It isn't right; raised after a delay if the source keeps failing.
        """
        if not await is_right:
            await self._delay.wait(source)
            raise AuthenticationError

    async def _refuse_without_lookup(self, source: str, wait: float) -> KeyNotLookedUp:
        self._accounts.users.refusals.count("not looked up")
        self._unseen += 1
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= _WARNING_INTERVAL:
            _LOG.warning(
                "%d API keys were refused without a look-up, because their source had sent too "
                "many invalid ones; the last came from %s",
                self._unseen,
                source or "an unknown address",
            )
            self._unseen, self._warned_at = 0, now
        # After that time the cache is read again, and then contains this key if it is valid.
        fresh_in = self._living.stale_in()
        seconds = math.ceil(max(1.0, fresh_in if fresh_in > 0 else wait))
        await self._delay.wait(source)
        return KeyNotLookedUp(seconds)


def token_of(headers: Iterable[tuple[object, object]]) -> str:
    """Return the token of the one ``Authorization`` header, or an empty string.

    Args:
        headers: Names and values, as ASGI's bytes or as text.
    """
    values = [_text(value) for name, value in headers if _text(name).lower() == "authorization"]
    if len(values) != 1 or len(values[0]) > _MAX_HEADER_LENGTH or not values[0].isascii():
        return ""
    scheme, _, token = values[0].partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _text(value: object) -> str:
    # Latin-1 maps each byte to one character, so what isn't ASCII stays so.
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def source_of(client: object) -> str:
    """Return the source of a request: an IPv4 address, or an IPv6 network of one customer (/64).

    All clients without an address, such as those of a Unix socket, are one source.
    """
    try:
        host = client[0] if isinstance(client, Sequence) else ""
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except (IndexError, ValueError):
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    inside = address.ipv4_mapped
    if inside is None and address in _TRANSLATED:
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return str(inside or ipaddress.IPv6Network((address, 64), strict=False))
