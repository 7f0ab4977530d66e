"""Verification: the calling agent verifies a code of a peer."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, SecretStr

from pipelit_agents.desk.callers import Caller, Home, permitted
from pipelit_agents.desk.fields import Answer, Moment, Request
from pipelit_agents.desk.problems import library_input
from pipelit_agents.desk.routes import DeskRoute

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["verification"], route_class=DeskRoute)

Verifier = Annotated[Caller, Depends(permitted("peers.verify"))]


class PeerCode(Request):
    """A code of a peer."""

    peer: str = Field(
        max_length=149,
        description="The peer, exactly as its account is written.",
        examples=["agent_writer"],
    )
    code: SecretStr = Field(
        max_length=64,
        description="The digits: 8 of an audience code, 6 of a plain one.",
        examples=["12345678"],
    )
    message: str | None = Field(
        None,
        max_length=4_000,
        description="The exact text that came with the code, if the code was made for a text.",
    )
    kind: Literal["audience", "plain"] = Field(
        "audience",
        description="`audience`: only codes that were made for the caller. `plain`: codes of an "
        "authenticator app. Your code chooses it, never a model.",
    )


class Verified(Answer):
    """The evidence that the peer made the code. A failure is never a 200."""

    peer: str = Field(description="The agent that made the code.", examples=["agent_writer"])
    verifier: str = Field(description="The caller.", examples=["agent_editor"])
    kind: Literal["audience", "plain"] = Field(description="The kind of the code.")
    verified_at: Moment
    message: str | None = Field(
        description="The exact text that the peer made its code for, or null. A code "
        "without a text doesn't confirm any text that came with it."
    )


@router.post("/verify", summary="Verify a peer's code")
def verify_peer(home: Home, caller: Verifier, body: PeerCode) -> Verified:
    """Verify a peer's short code as the calling agent, and spend it.

    A wrong code, a spent one, one that was made for another verifier or text, and a peer that
    doesn't exist have the same answer: 403 `code-rejected`. After too many failures nothing is
    evaluated for a while: 429.
    """
    with library_input("body.message"):
        found = home.agent(caller.user.username).verify_peer(
            body.peer, body.code.get_secret_value(), kind=body.kind, message=body.message
        )
    return Verified(
        peer=found.peer,
        verifier=found.verifier,
        kind=body.kind,
        verified_at=found.verified_at,
        message=found.message,
    )
