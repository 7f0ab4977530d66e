"""Agents: create one, and display its key and its TOTP secret once."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field

from pipelit_agents.desk.callers import Home, OperatorCaller, Sensitive
from pipelit_agents.desk.fields import Answer, NewExpiry, NewUsername, OnceShown, Purpose, Request
from pipelit_agents.desk.problems import library_input
from pipelit_agents.desk.qr_codes import qr_svg
from pipelit_agents.desk.routes import DeskRoute
from pipelit_agents.desk.users import require_free_name, require_future

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["accounts"], route_class=DeskRoute)


class NewAgent(Request):
    """An agent to create."""

    username: NewUsername = Field(examples=["agent_writer"])
    owner: NewUsername = Field(
        description="An active person, or an active agent that may create agents.",
        examples=["alice"],
    )
    purpose: Purpose
    may_create_agents: bool | None = Field(
        None,
        description="By default, an agent of a person may create agents, and others may not.",
        examples=[False],
    )
    key_expires_at: NewExpiry = None


class CreatedAgent(Answer):
    """A new agent. Its secrets are displayed only once."""

    username: str = Field(description="The agent's name.", examples=["agent_writer"])
    api_key: OnceShown = Field(description="`plit_<id>_<43 characters>`; store it now.")
    provisioning_uri: OnceShown = Field(
        description="`otpauth://…`: the agent's TOTP secret, for an authenticator app."
    )
    qr_svg: OnceShown = Field(description="The provisioning URI as a QR code, an SVG image.")


@router.post(
    "/agents",
    status_code=201,
    summary="Create an agent",
    responses={404: {}, 409: {}},
)
def create_agent(
    home: Home, caller: OperatorCaller, factor: Sensitive, body: NewAgent
) -> CreatedAgent:
    """Create an agent with a TOTP secret and an API key, which are displayed only once."""
    home.users.require_may_own_agent(body.owner)
    require_free_name(home, body.username)
    require_future(home, "body.key_expires_at", body.key_expires_at)
    factor.confirm()
    with library_input("body.key_expires_at", "body.purpose"):
        new = home.users.create_agent(
            body.username,
            owner=body.owner,
            purpose=body.purpose,
            may_create_agents=body.may_create_agents,
            key_expires_at=body.key_expires_at,
            created_by=caller.user.username,
        )
    return CreatedAgent(
        username=new.username,
        api_key=new.api_key,
        provisioning_uri=new.provisioning_uri,
        qr_svg=qr_svg(new.provisioning_uri),
    )
