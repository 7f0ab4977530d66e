"""A person's own second factor: enrol, confirm, recovery codes, disable."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter
from pydantic import Field, SecretStr

from pipelit_agents._discretion import discreet
from pipelit_agents.accounts.second_factor import no_second_factor
from pipelit_agents.desk.callers import Home, PersonCaller
from pipelit_agents.desk.fields import Answer, Code, OnceShown, Request
from pipelit_agents.desk.qr_codes import qr_svg
from pipelit_agents.desk.routes import DeskRoute
from pipelit_agents.pipelit import Pipelit

__all__ = ["router"]

router: APIRouter = APIRouter(
    prefix="/me/second-factor", tags=["second factor"], route_class=DeskRoute
)


class Enrolment(Answer):
    """A second factor that waits for its first code. The secret is displayed only once."""

    provisioning_uri: OnceShown = Field(description="`otpauth://…`, for an authenticator app.")
    secret: OnceShown = Field(description="The secret in base32, to type it into the app.")
    qr_svg: OnceShown = Field(description="The provisioning URI as a QR code, an SVG image.")


class OwnCode(Request):
    """A code of the caller's own second factor."""

    code: Code


class RecoveryCodes(Answer):
    """Ten recovery codes. They are displayed only once, and each can be used once."""

    recovery_codes: Sequence[OnceShown] = Field(
        description="Each can be used instead of a code, once.",
        examples=[["AAAA-BBBB-CCCC-DDDD"]],
    )


@router.post("", status_code=201, summary="Enrol a second factor", responses={409: {}})
def enrol_second_factor(home: Home, caller: PersonCaller) -> Enrolment:
    """Begin an enrolment; its first code turns the second factor on.

    Another enrolment before that replaces this one.
    """
    uri = home.mfa.enroll(caller.user.username, by=caller.user.username)
    return Enrolment(provisioning_uri=uri, secret=_secret_of(uri), qr_svg=qr_svg(uri))


@router.post("/confirm", summary="Confirm a second factor", responses={409: {}})
def confirm_second_factor(home: Home, caller: PersonCaller, body: OwnCode) -> RecoveryCodes:
    """Turn the second factor on with the first code of the app. Five wrong codes end the enrolment.

    From then on, sensitive actions need a code.
    """
    name = caller.user.username
    codes = home.mfa.confirm(name, body.code.get_secret_value())
    return RecoveryCodes(recovery_codes=list(codes))


@router.post("/recovery-codes", summary="Renew the recovery codes", responses={409: {}})
def renew_recovery_codes(home: Home, caller: PersonCaller, body: OwnCode) -> RecoveryCodes:
    """Replace the recovery codes with ten new ones."""
    name = _require_on(home, caller.user.username)
    codes = home.mfa.renew_recovery_codes(name, body.code.get_secret_value())
    return RecoveryCodes(recovery_codes=list(codes))


@router.post(
    "/disable",
    status_code=204,
    summary="Disable the second factor",
    responses={409: {}},
)
def disable_second_factor(home: Home, caller: PersonCaller, body: OwnCode) -> None:
    """End the second factor and its recovery codes."""
    name = _require_on(home, caller.user.username)
    home.mfa.disable(name, body.code.get_secret_value())


def _require_on(home: Pipelit, username: str) -> str:
    # Before the code, which would be counted as a wrong one.
    if not home.mfa.status(username).on:
        raise no_second_factor(username)
    return username


@discreet
def _secret_of(uri: SecretStr) -> SecretStr:
    return SecretStr(parse_qs(urlsplit(uri.get_secret_value()).query)["secret"][0])
