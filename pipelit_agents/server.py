"""Authentication of LangGraph Server and Aegra with API keys, and access to own resources only.

Name it in ``langgraph.json`` or ``aegra.json``; ``docs/remote.md`` and
``docs/integrations/aegra.md`` explain each step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from langgraph_sdk import Auth

from pipelit_agents._bounds import require_flag
from pipelit_agents.accounts.models import User
from pipelit_agents.bearer import (
    ApiKeyGate,
    FailureBudget,
    FailureDelay,
    KeyNotLookedUp,
    source_of,
    token_of,
)
from pipelit_agents.errors import AuthenticationError, ConfigurationError, StorageError
from pipelit_agents.pipelit import Pipelit

__all__ = ["FailureBudget", "FailureDelay", "auth", "make_auth"]

REFUSAL: Final = "a valid API key is needed: Authorization: Bearer plit_…"
_LOG: Final = logging.getLogger(__name__)
_OWNED: Final = frozenset({"threads", "assistants", "crons"})
_WRITES: Final = frozenset({"create", "create_run", "update"})


def make_auth(pipelit: Pipelit | None = None, *, owner_filter: bool = True) -> Auth:
    """Create the authentication of a LangGraph Server, or of Aegra.

    The user of a request is the account that its API key belongs to. A node finds the account's
    name in ``runtime.server_info.user.identity``. Handlers that you add with ``@auth.on…`` take
    precedence over the owner filter for the resources that they name.

    Args:
        pipelit: The accounts; by default those of the environment's settings.
        owner_filter: Whether only the account that created them can access threads, runs,
            assistants, crons and store items.

    Returns:
        The object to name as ``auth.path`` in ``langgraph.json`` or ``aegra.json``.

    Raises:
        TypeError: ``owner_filter`` isn't a bool.
    """
    require_flag(owner_filter, "owner_filter")
    accounts = pipelit or Pipelit.from_env()
    gate = ApiKeyGate(accounts)
    made = Auth()

    # LangGraph Server passes both arguments by name, and Aegra the headers alone, by position.
    @made.authenticate
    async def authenticate(
        headers: Mapping[Any, Any], scope: Mapping[str, Any] | None = None
    ) -> Auth.types.MinimalUserDict:
        if scope is None:
            # Without an address all callers are one source. Their refusals are delayed together,
            # and a valid key is answered at once, also above the budget.
            with _sdk_errors():
                user = await _user_of(gate, token_of(headers.items()), "")
        else:
            # Not the argument: as a mapping it has only one of several headers of a name.
            token = token_of(scope.get("headers", ()))
            user = await _user_of(gate, token, source_of(scope.get("client")))
        return {
            "identity": user.username,
            "display_name": user.username,
            "is_authenticated": True,
            "permissions": [],
        }

    if owner_filter:
        made.on(_own_resources_only)
    return made


async def _user_of(gate: ApiKeyGate, token: str, source: str) -> User:
    """Return the account of a key, or raise the exception that the server answers with.

    Raises:
        HTTPException: The key isn't valid, or wasn't looked up.
    """
    try:
        return await gate.user_of(token, source)
    except AuthenticationError:
        raise Auth.exceptions.HTTPException(status_code=401, detail=REFUSAL) from None
    except KeyNotLookedUp as refused:
        headers = {"Retry-After": str(refused.retry_after)}
        raise _http_error(429, str(refused), headers) from None
    except (ConfigurationError, StorageError) as error:
        raise _unavailable(error) from None


async def _own_resources_only(
    ctx: Auth.types.AuthContext, value: dict[str, Any]
) -> Auth.types.HandlerResult:
    identity = ctx.user.identity
    if ctx.resource == "store":
        # A namespace label can't contain a dot, and the first one can't be "langgraph".
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
        # The server marks its own assistants with it, so callers must not set it.
        metadata.pop("created_by", None)
    own = {"owner": identity}
    if ctx.resource == "assistants" and ctx.action in ("read", "search"):
        # The server knows "$or", and the type of the SDK doesn't.
        return cast(Auth.types.HandlerResult, {"$or": [own, {"created_by": "system"}]})
    return own


@contextmanager
def _sdk_errors() -> Iterator[None]:
    """Raise every refusal as the SDK's exception.

    Aegra answers each of them with 401 and its text. It would log the traceback of any other, and
    answer "Authentication system error".
    """
    from starlette.exceptions import HTTPException

    try:
        yield
    except HTTPException as error:
        raise Auth.exceptions.HTTPException(
            status_code=error.status_code, detail=error.detail
        ) from None


def _unavailable(error: Exception) -> Exception:
    _LOG.error("API keys can't be verified: %s", error)
    return _http_error(503, "API keys can't be verified now: see the server's log")


def _http_error(status: int, detail: str, headers: dict[str, str] | None = None) -> Exception:
    # Imported here, because only the server has Starlette. Its handler turns the exception into a
    # response and logs no traceback. Of the SDK's exceptions it handles only 401 and 403.
    from starlette.exceptions import HTTPException

    return HTTPException(status, detail, headers)


auth: Auth = make_auth()
