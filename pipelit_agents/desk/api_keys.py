"""API keys: issue (displayed once), list (masked), revoke."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from pipelit_agents.desk.callers import Home, PersonCaller, Sensitive
from pipelit_agents.desk.fields import (
    Answer,
    KeyId,
    KeyName,
    NewExpiry,
    OnceShown,
    Request,
    UsernameInPath,
)
from pipelit_agents.desk.me import OwnKey
from pipelit_agents.desk.paging import After, Limit, Page
from pipelit_agents.desk.problems import library_input
from pipelit_agents.desk.routes import DeskRoute
from pipelit_agents.desk.users import reachable_account, require_future
from pipelit_agents.errors import UserInactive
from pipelit_agents.paging import DEFAULT_LIMIT

__all__ = ["ApiKey", "router"]

router: APIRouter = APIRouter(tags=["API keys"], route_class=DeskRoute)


class ApiKey(OwnKey):
    """A description of an API key, without the key."""

    revoked_at: datetime | None = Field(
        description="The time of its revocation, UTC; null if it wasn't revoked."
    )


class NewApiKey(Request):
    """An API key to issue."""

    name: KeyName
    expires_at: NewExpiry = None


class IssuedApiKey(Answer):
    """A new API key. It is displayed only once."""

    id: str = Field(description="The key's public id.", examples=["0123456789ab"])
    username: str = Field(description="The account that it belongs to.", examples=["alice"])
    api_key: OnceShown = Field(description="`plit_<id>_<43 characters>`; store it now.")


@router.get("/users/{username}/keys", summary="List API keys")
def list_keys(
    home: Home,
    caller: PersonCaller,
    username: UsernameInPath,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[ApiKey]:
    """Return an account's API keys, masked, oldest first. Members reach their own."""
    reachable_account(home, caller, "keys.read", username)
    with library_input("query.after"):
        page = home.users.page_api_keys(username, after=after, limit=limit)
    return Page[ApiKey].of(page, ApiKey.model_validate)


@router.post(
    "/users/{username}/keys",
    status_code=201,
    summary="Issue an API key",
    responses={409: {}},
)
def issue_key(
    home: Home,
    caller: PersonCaller,
    factor: Sensitive,
    username: UsernameInPath,
    body: NewApiKey,
) -> IssuedApiKey:
    """Issue another API key for an account. It is displayed only once. Members reach their own."""
    found = reachable_account(home, caller, "keys.issue", username)
    if not found.active:
        raise UserInactive(f"{username!r} was deactivated", username=username)
    require_future(home, "body.expires_at", body.expires_at)
    factor.confirm()
    with library_input("body.expires_at"):
        new = home.users.issue_api_key(
            username, name=body.name, expires_at=body.expires_at, by=caller.user.username
        )
    return IssuedApiKey(id=new.id, username=new.username, api_key=new.api_key)


@router.delete(
    "/users/{username}/keys/{key_id}",
    status_code=204,
    summary="Revoke an API key",
)
def revoke_key(
    home: Home,
    caller: PersonCaller,
    factor: Sensitive,
    username: UsernameInPath,
    key_id: KeyId,
) -> None:
    """Revoke an API key, from the next request on. Revoking it twice does nothing.

    Your own keys need no code, because a stolen one has to end soon. Members reach their own.
    """
    reachable_account(home, caller, "keys.revoke", username)
    if username == caller.user.username:
        factor.not_needed()
    else:
        home.users.get_api_key(key_id, username=username)
        factor.confirm()
    home.users.revoke_api_key(key_id, username=username, by=caller.user.username)
