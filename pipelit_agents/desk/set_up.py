"""Set-up: create the first operator, with the one-time token that the server has printed."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from pipelit_agents.desk.callers import Home, SetUp
from pipelit_agents.desk.fields import Answer, NewExpiry, NewUsername, OnceShown, Request
from pipelit_agents.desk.problems import library_input, unauthenticated
from pipelit_agents.desk.routes import DeskRoute
from pipelit_agents.errors import NotPermitted

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["set-up"], route_class=DeskRoute)


class FirstOperator(Request):
    """The first operator to create."""

    username: NewUsername
    key_expires_at: NewExpiry = None


class CreatedOperator(Answer):
    """The first operator. The key is displayed only once."""

    username: str = Field(description="The person's name.", examples=["alice"])
    role: Literal["operator"] = Field(description="The person's role.")
    api_key: OnceShown = Field(description="`plit_<id>_<43 characters>`; store it now.")


@router.post(
    "/setup",
    status_code=201,
    summary="Create the first operator",
    responses={409: {}},
)
def set_up(home: Home, token: SetUp, body: FirstOperator) -> CreatedOperator:
    """Create the first operator, with the token that the server printed at its start.

    The token is sent as API keys are: `Authorization: Bearer plit_setup_…`. It works once, and only
    while there is no active operator; afterwards it is refused like any wrong key.
    """
    try:
        with library_input("body.key_expires_at"):
            new = home.users.create_first_operator(
                body.username, key_expires_at=body.key_expires_at
            )
    except NotPermitted:
        # Another request, or somebody at the server's shell, was first.
        raise unauthenticated() from None
    return CreatedOperator(username=new.username, role="operator", api_key=new.api_key)
