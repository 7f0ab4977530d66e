"""The caller: which account a key belongs to, its second factor, and the key itself."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from pipelit_agents.desk.callers import AnyCaller, Home
from pipelit_agents.desk.fields import Answer, Moment
from pipelit_agents.desk.routes import DeskRoute
from pipelit_agents.desk.users import Account

__all__ = ["OwnKey", "router"]

router: APIRouter = APIRouter(tags=["me"], route_class=DeskRoute)


class OwnSecondFactor(Answer):
    """The state of the caller's second factor."""

    on: bool = Field(description="Whether codes are verified.", examples=[True])
    pending: bool = Field(
        description="Whether an enrolment waits for its first code.", examples=[False]
    )
    recovery_codes: int = Field(description="The number of unused recovery codes.", examples=[10])


class OwnKey(Answer):
    """A description of an API key, without the key."""

    id: str = Field(description="The key's public id.", examples=["0123456789ab"])
    name: str = Field(description="The key's name.", examples=["first key"])
    masked: str = Field(description="`…` and the key's last four characters.", examples=["…x7Qz"])
    created_at: Moment
    expires_at: datetime | None = Field(
        description="The time from which it isn't accepted, UTC; null if it doesn't expire."
    )
    last_used_at: datetime | None = Field(
        description="The time of its last use, to within a minute, UTC; null if it was never used."
    )


class Me(Account):
    """The caller's account, second factor and API key."""

    second_factor: OwnSecondFactor | None = Field(description="Null for agents.")
    key: OwnKey = Field(description="The API key of this request, masked.")


@router.get("/me", summary="Get your own account", responses={403: {}})
def get_me(home: Home, caller: AnyCaller) -> Me:
    """Return the account that the API key of this request belongs to, and the key, masked."""
    user = caller.user
    factor = home.mfa.status(user.username) if user.kind == "human" else None
    return Me(
        **Account.model_validate(user).model_dump(),
        second_factor=None if factor is None else OwnSecondFactor.model_validate(factor),
        key=OwnKey.model_validate(home.users.get_api_key(caller.key.id)),
    )
