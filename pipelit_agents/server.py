"""Bearer keys for LangGraph Server: who calls, and that nobody reads what another made.

Name it in ``langgraph.json``; ``docs/remote.md`` goes through it step by step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from typing import Any, Final, cast

from langgraph_sdk import Auth

from pipelit_agents.errors import AuthenticationError, ConfigurationError, StorageError
from pipelit_agents.pipelit import Pipelit

__all__ = ["FailureDelay", "auth", "make_auth"]

REFUSAL: Final = "a valid API key is needed: Authorization: Bearer plit_…"
_LONGEST_HEADER: Final = 256
_LOG: Final = logging.getLogger(__name__)
_SOURCES: Final = 4096
_FREE_FAILURES: Final = 5
_WINDOW: Final = 60.0
_LONGEST_DELAY: Final = 2.0
_MOST_WAITING: Final = 64
_OWNED: Final = frozenset({"threads", "assistants", "crons"})
_WRITES: Final = frozenset({"create", "create_run", "update"})


class FailureDelay:
    """How long the refusal of a source that keeps failing is held back.

    Only refusals wait, so a valid key is answered at once wherever it comes from. What is kept is
    bounded: the sources that failed last, and how many refusals wait at a time.
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
        delay = self.note(source, time.monotonic())
        if not delay or self._waiting >= _MOST_WAITING:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._waiting -= 1


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
    delay = FailureDelay()
    made = Auth()

    @made.authenticate
    async def authenticate(scope: dict[str, Any]) -> Auth.types.MinimalUserDict:
        try:
            user = await accounts.users.aauthenticate(_token(scope))
        except AuthenticationError:
            user = None
        except (ConfigurationError, StorageError) as error:
            raise _unavailable(error) from None
        if user is None:
            client = scope.get("client")
            await delay.wait(str(client[0]) if client else "")
            raise Auth.exceptions.HTTPException(status_code=401, detail=REFUSAL)
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


def _token(scope: dict[str, Any]) -> str:
    given = [value for name, value in scope.get("headers", ()) if name.lower() == b"authorization"]
    if len(given) != 1 or len(given[0]) > _LONGEST_HEADER or not given[0].isascii():
        return ""
    scheme, _, token = given[0].decode("ascii").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _unavailable(error: Exception) -> Exception:
    _LOG.error("API keys can't be checked: %s", error)
    # What only the server has; its own handler makes a response of it and logs no frame.
    from starlette.exceptions import HTTPException

    return HTTPException(503, "API keys can't be checked now: the server's log says why")


auth = make_auth()
