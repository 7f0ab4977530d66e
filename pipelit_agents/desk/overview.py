"""What needs the caller's attention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from fastapi import APIRouter
from pydantic import Field

from pipelit_agents.accounts.models import ApiKeyInfo
from pipelit_agents.desk.api_keys import ApiKey
from pipelit_agents.desk.callers import Home, PersonCaller
from pipelit_agents.desk.checks import CheckResult, latest_checks
from pipelit_agents.desk.fields import Answer, Moment
from pipelit_agents.desk.routes import DeskRoute, takes_long

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["overview"], route_class=DeskRoute)

_SOON: Final = timedelta(days=14)
_MOST: Final = 100


class Locked(Answer):
    """A locked lane: codes of an account that aren't evaluated for now."""

    username: str = Field(description="The account.", examples=["agent_writer"])
    lane: str = Field(description="The lane's name, to unlock it.", examples=["others"])
    about: str = Field(description="The attempts that the lane counts.")
    locked_until: Moment


class ExpiringKey(ApiKey):
    """An API key that is accepted now and expires soon."""

    username: str = Field(description="The account that it belongs to.", examples=["alice"])


class Overview(Answer):
    """What needs the caller's attention. What only operators see is null for others."""

    pending_approvals: int = Field(
        description="The number of questions that the caller may answer now; 100 means 100 or more."
    )
    expiring_keys: list[ExpiringKey] = Field(
        description="API keys that expire within 14 days, the soonest first, at most 100: the "
        "caller's own, and all for operators."
    )
    failed_checks: list[CheckResult] | None = Field(
        description="The deployment checks that failed; for operators."
    )
    locked: list[Locked] | None = Field(description="The locked lanes, at most 100; for operators.")
    operators_without_second_factor: list[str] | None = Field(
        description="Active operators without a second factor, at most 100; for operators."
    )


@router.get("/overview", summary="What needs attention")
@takes_long
def get_overview(home: Home, caller: PersonCaller) -> Overview:
    """Return the findings that need the caller's attention."""
    name, everything = caller.user.username, caller.role == "operator"
    keys = home.users.expiring_keys(_SOON, username=None if everything else name, limit=_MOST)
    return Overview(
        pending_approvals=home.approvals.count_pending(name, most=_MOST),
        expiring_keys=_expiring(keys),
        failed_checks=(
            [
                CheckResult.model_validate(each)
                for each in latest_checks(home, deploy=True)
                if each.ok is False
            ]
            if everything
            else None
        ),
        locked=(
            [
                Locked(
                    username=each.username,
                    lane=each.lane.lane,
                    about=each.lane.about,
                    locked_until=each.lane.locked_until,
                )
                for each in home.users.locked_lanes(limit=_MOST)
                if each.lane.locked_until is not None
            ]
            if everything
            else None
        ),
        operators_without_second_factor=(
            list(home.users.operators_without_second_factor(limit=_MOST)) if everything else None
        ),
    )


def _expiring(keys: Sequence[ApiKeyInfo]) -> list[ExpiringKey]:
    return [ExpiringKey.model_validate(each) for each in keys]
