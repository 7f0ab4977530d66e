"""Bearer keys for LangGraph Server: who calls, and that nobody reads what another made.

Name it in ``langgraph.json``; ``docs/remote.md`` goes through it step by step.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final, cast

from langgraph_sdk import Auth
from sqlalchemy import or_, select

from pipelit_agents._threads import aside
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import ApiKeyRow, UserRow
from pipelit_agents.errors import AuthenticationError, ConfigurationError, StorageError
from pipelit_agents.pipelit import Pipelit

__all__ = ["FailureBudget", "FailureDelay", "auth", "make_auth"]

REFUSAL: Final = "a valid API key is needed: Authorization: Bearer plit_…"
UNSEEN: Final = "too many API keys from this address were refused; try again in {0} seconds"
_LONGEST_HEADER: Final = 256
_LOG: Final = logging.getLogger(__name__)
_SOURCES: Final = 4096
_FREE_FAILURES: Final = 5
_WINDOW: Final = 60.0
_LONGEST_DELAY: Final = 2.0
_MOST_WAITING: Final = 2048
_EACH: Final = (100, 10.0)
_TOGETHER: Final = (400, 100.0)
_FRESH: Final = 5.0
_MOST_KNOWN: Final = 100_000
_WARN_EVERY: Final = 60.0
# IPv4 addresses as a translator shows them (RFC 6052).
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
_OWNED: Final = frozenset({"threads", "assistants", "crons"})
_WRITES: Final = frozenset({"create", "create_run", "update"})


class FailureDelay:
    """How long the refusal of a source that keeps failing is held back.

    Only refusals wait, so a valid key is answered at once wherever it comes from. What is kept is
    bounded: the sources that failed last, and how many refusals wait at a time. Above that number
    the others are answered at once.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._waiting = 0

    def note(self, source: str, now: float) -> float:
        """Counts a failure.

        Args:
            source: Where it came from.
            now: Seconds of a clock that never goes back.

        Returns:
            Seconds to hold the refusal back: none for the first five in a minute, then a tenth,
            doubled by each further one, and 2 at the most.
        """
        failures = self._failures.setdefault(source, deque(maxlen=_FREE_FAILURES + 8))
        self._failures.move_to_end(source)
        if len(self._failures) > _SOURCES:
            self._failures.popitem(last=False)
        while failures and failures[0] <= now - _WINDOW:
            failures.popleft()
        failures.append(now)
        excess = len(failures) - _FREE_FAILURES
        return 0.0 if excess <= 0 else min(0.1 * 2.0 ** (excess - 1), _LONGEST_DELAY)

    async def wait(self, source: str) -> None:
        """Counts a failure now, and waits as long as :meth:`note` says."""
        delay = self.note(source, asyncio.get_running_loop().time())
        if self._waiting >= _MOST_WAITING:
            delay = 0.0
        self._waiting += 1
        try:
            # Also where nothing is to be waited for: others get their turn.
            await asyncio.sleep(delay)
        finally:
            self._waiting -= 1


class FailureBudget:
    """How many refused API keys may be looked up in the database.

    Each source has 100 look-ups and gets 10 more each second. All sources together have 400, and
    get 100 more each second. A key that turns out to be valid costs nothing.
    """

    def __init__(self) -> None:
        self._all = _Bucket(*_TOGETHER)
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, source: str, now: float) -> float:
        """Takes one look-up from the budget.

        Args:
            source: Where the key comes from.
            now: Seconds of a clock that never goes back.

        Returns:
            0, or the seconds until there is one; then nothing was taken.
        """
        own = self._sources.setdefault(source, _Bucket(*_EACH))
        self._sources.move_to_end(source)
        if len(self._sources) > _SOURCES:
            self._sources.popitem(last=False)
        wait = max(own.wait(now), self._all.wait(now))
        if not wait:
            own.left -= 1
            self._all.left -= 1
        return wait

    def give_back(self, source: str) -> None:
        """Gives one back: the key was valid."""
        for bucket in (self._all, self._sources.get(source)):
            if bucket is not None:
                bucket.left = min(bucket.size, bucket.left + 1)


class _Bucket:
    """Tokens that come back with time."""

    __slots__ = ("at", "each_second", "left", "size")

    def __init__(self, size: int, each_second: float) -> None:
        self.left = float(size)
        self.size = size
        self.each_second = each_second
        self.at: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 where there is one."""
        if self.at is not None:
            self.left = min(self.size, self.left + max(0.0, now - self.at) * self.each_second)
        self.at = now
        return 0.0 if self.left >= 1 else (1 - self.left) / self.each_second


class _LivingKeys:
    """Which keys are valid, as the database said within the last seconds.

    It lets nobody in: a key that is here is looked up like any other. But it tells a valid key from
    a stranger's where the source is over its budget, so strangers behind one address can't keep
    anybody else out. It is read when a source is over its budget, and again at most each five
    seconds.
    """

    def __init__(self, accounts: Pipelit) -> None:
        self._accounts = accounts
        self._digests: frozenset[bytes] = frozenset()
        self._refused: set[bytes] = set()
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None

    async def has(self, token: str) -> bool:
        """Whether a token is a valid key, that isn't younger than five seconds.

        Raises:
            StorageError: The database can't be asked.
        """
        digest = _digest(token)
        # First, because it forgets what was refused: that may have been too early, or long ago.
        if self._is_unknown(token, digest) and self.stale_in() <= 0:
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read())
            # Many wait for one; and when one of them is cancelled, the others still wait.
            await asyncio.shield(self._reading)
        return not self._is_unknown(token, digest)

    def _is_unknown(self, token: str, digest: bytes) -> bool:
        return digest not in self._digests or _whole_digest(token) in self._refused

    def stale_in(self) -> float:
        """Seconds until it is read again, for a key that isn't in it or was refused."""
        return self._read_at + _FRESH - asyncio.get_running_loop().time()

    def forget(self, token: str) -> None:
        """A key that was in it has been refused."""
        if len(self._refused) < _MOST_KNOWN:
            # All of it: the right secret under a wrong id says nothing about the right key.
            self._refused.add(_whole_digest(token))

    async def _read(self) -> None:
        try:
            # Before it is asked: a key that is made meanwhile may not be in the answer.
            read_at = asyncio.get_running_loop().time()
            now = (self._accounts._clock or time.time)()
            self._digests = await aside(_living_digests, self._accounts._database, now)
            self._refused.clear()
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
        .limit(_MOST_KNOWN)
    )
    with database.reading() as connection:
        return frozenset(bytes.fromhex(each)[:16] for each in connection.scalars(query))


def _digest(token: str) -> bytes:
    # Of the secret part, as it is stored. The half of it is enough to tell keys apart.
    return hashlib.sha256(token.split("_", 2)[-1].encode()).digest()[:16]


def _whole_digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()[:16]


class _Door:
    """Decides about one request after the other, on the event loop.

    Args:
        accounts: Whose keys are valid.
    """

    def __init__(self, accounts: Pipelit) -> None:
        self._accounts = accounts
        self._budget = FailureBudget()
        self._delay = FailureDelay()
        self._living = _LivingKeys(accounts)
        self._unseen = 0
        self._warned_at = -math.inf

    async def user_of(self, token: str, source: str) -> Any:
        """The account that a key belongs to.

        Raises:
            HTTPException: It isn't valid, or wasn't looked up.
        """
        wait = self._budget.take(source, asyncio.get_running_loop().time())
        try:
            if wait and not (token and await self._living.has(token)):
                raise await self._unseen_refusal(source, wait)
            user = await self._accounts.users.aauthenticate(token)
        except AuthenticationError:
            if wait:
                self._living.forget(token)
        except (ConfigurationError, StorageError) as error:
            raise _unavailable(error) from None
        else:
            if not wait:
                self._budget.give_back(source)
            return user
        await self._delay.wait(source)
        raise Auth.exceptions.HTTPException(status_code=401, detail=REFUSAL)

    async def _unseen_refusal(self, source: str, wait: float) -> Exception:
        self._accounts.users.refusals.count("not looked up")
        self._unseen += 1
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= _WARN_EVERY:
            _LOG.warning(
                "%d API keys were refused without a look at them, because too many of one source "
                "were wrong; the last came from %s",
                self._unseen,
                source or "an unknown address",
            )
            self._unseen, self._warned_at = 0, now
        # Then the valid keys are read again, and this one with them if it is one.
        fresh_in = self._living.stale_in()
        seconds = math.ceil(max(1.0, fresh_in if fresh_in > 0 else wait))
        await self._delay.wait(source)
        return _http_error(429, UNSEEN.format(seconds), {"Retry-After": str(seconds)})


def make_auth(pipelit: Pipelit | None = None, *, owner_filter: bool = True) -> Auth:
    """Makes the authentication of a LangGraph Server.

    The user of a request is the account that its API key belongs to; a node finds its name in
    ``runtime.server_info.user.identity``. Handlers that are added with ``@auth.on…`` go before the
    owner filter, for what they name.

    Args:
        pipelit: Whose accounts; by default those of the environment.
        owner_filter: Whether threads, runs, assistants, crons and store items are for the account
            that made them alone.

    Returns:
        What ``langgraph.json`` names as ``auth.path``.
    """
    accounts = pipelit or Pipelit.from_env()
    door = _Door(accounts)
    made = Auth()

    @made.authenticate
    async def authenticate(scope: dict[str, Any]) -> Auth.types.MinimalUserDict:
        source = _source(scope.get("client"))
        user = await door.user_of(_token(scope.get("headers", ())), source)
        return {
            "identity": user.username,
            "display_name": user.username,
            "is_authenticated": True,
            "permissions": [],
        }

    if owner_filter:
        made.on(_only_ones_own)
    return made


async def _only_ones_own(
    ctx: Auth.types.AuthContext, value: dict[str, Any]
) -> Auth.types.HandlerResult:
    identity = ctx.user.identity
    if ctx.resource == "store":
        # A store takes no label with a dot, nor "langgraph" for the first.
        own_label = f"user:{identity.replace('.', ':')}"
        namespace = tuple(value.get("namespace") or ())
        if namespace[:1] != (own_label,):
            namespace = (own_label, *namespace)
        value["namespace"] = namespace
        return None
    if ctx.resource not in _OWNED:
        return False
    if ctx.action in _WRITES and (ctx.action != "update" or value.get("metadata") is not None):
        metadata = value.get("metadata")
        if not isinstance(metadata, dict):
            metadata = value["metadata"] = {}
        metadata["owner"] = identity
        # It marks the assistants that the server makes of its own graphs.
        metadata.pop("created_by", None)
    own: Any = {"owner": identity}
    if ctx.resource == "assistants" and ctx.action in ("read", "search"):
        own = {"$or": [own, {"created_by": "system"}]}
    return cast(Auth.types.HandlerResult, own)


def _token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = [value for name, value in headers if name.lower() == b"authorization"]
    if len(given) != 1 or len(given[0]) > _LONGEST_HEADER or not given[0].isascii():
        return ""
    scheme, _, token = given[0].decode("ascii").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _source(client: Any) -> str:
    """What counts as one source: an IPv4 address, or a network of IPv6 as one customer has it.

    All that has no address, such as a Unix socket, is one source.
    """
    try:
        address = ipaddress.ip_address(str(client[0]).partition("%")[0])
    except (IndexError, KeyError, TypeError, ValueError):
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    inside = address.ipv4_mapped
    if inside is None and address in _TRANSLATED:
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return str(inside or ipaddress.IPv6Network((address, 64), strict=False))


def _unavailable(error: Exception) -> Exception:
    _LOG.error("API keys can't be checked: %s", error)
    return _http_error(503, "API keys can't be checked now: the server's log says why")


def _http_error(status: int, detail: str, headers: dict[str, str] | None = None) -> Exception:
    # What only the server has; its own handler makes a response of it and logs no frame. Of the
    # SDK's own exceptions it takes 401 and 403 alone.
    from starlette.exceptions import HTTPException

    return HTTPException(status, detail, headers)


auth = make_auth()
