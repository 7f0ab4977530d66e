"""Accounts of people and agents: list, create, change, deactivate, unlock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Body, Query
from pydantic import Field, model_validator

from pipelit_agents.accounts.lookup import no_account
from pipelit_agents.accounts.models import Role, User
from pipelit_agents.accounts.permissions import Action, may, reach_of
from pipelit_agents.desk.callers import Caller, Home, OperatorCaller, PersonCaller, Sensitive
from pipelit_agents.desk.fields import (
    Answer,
    Moment,
    NewExpiry,
    NewUsername,
    OnceShown,
    Purpose,
    Request,
    UsernameInPath,
    UsernameInQuery,
)
from pipelit_agents.desk.paging import After, Limit, Page
from pipelit_agents.desk.problems import Problem, library_input
from pipelit_agents.desk.routes import DeskRoute
from pipelit_agents.errors import (
    NotLocalAgent,
    NotPermitted,
    UserExists,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.ledger.lanes import read_lane_name
from pipelit_agents.paging import DEFAULT_LIMIT
from pipelit_agents.pipelit import Pipelit
from pipelit_agents.protocol.usernames import require_new_username

__all__ = ["Account", "router"]

router: APIRouter = APIRouter(tags=["accounts"], route_class=DeskRoute)


class Account(Answer):
    """An account."""

    username: str = Field(description="The account's name.", examples=["alice"])
    kind: Literal["human", "agent", "peer"] = Field(
        description="A peer is an agent of another domain.", examples=["human"]
    )
    role: Literal["operator", "member", ""] = Field(
        description="The person's role; empty for agents and peers.",
        examples=["member"],
    )
    owner: str | None = Field(
        description="The person or agent that an agent belongs to; null for others.",
        examples=[None],
    )
    root_owner: str = Field(
        description="The person at the end of the chain of owners.", examples=["alice"]
    )
    purpose: str = Field(description="The agent's purpose; empty for others.", examples=[""])
    active: bool = Field(description="Whether the account is active.", examples=[True])
    may_create_agents: bool = Field(
        description="Whether an agent may create others.", examples=[False]
    )
    created_at: Moment
    created_by: str = Field(description="The creator's name.", examples=["olga"])
    domain: str = Field(description="The domain of a peer; empty for others.", examples=[""])


class NewPerson(Request):
    """A person's account to create."""

    username: NewUsername = Field(examples=["bob"])
    role: Role | None = Field(
        None,
        description="By default `member`, or `operator` while there is no active operator.",
        examples=["member"],
    )
    key_expires_at: NewExpiry = None


class CreatedPerson(Answer):
    """A new account of a person. The key is displayed only once."""

    username: str = Field(description="The person's name.", examples=["bob"])
    role: Role = Field(description="The person's role.", examples=["member"])
    api_key: OnceShown = Field(description="`plit_<id>_<43 characters>`; store it now.")


class Changes(Request):
    """A person's new role, or an agent's new purpose and rights."""

    role: Role | None = Field(None, description="Of a person; null leaves it unchanged.")
    purpose: Purpose | None = Field(None, description="Of an agent; null leaves it unchanged.")
    may_create_agents: bool | None = Field(
        None, description="Of an agent; null leaves it unchanged."
    )

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        of_agent = self.purpose is not None or self.may_create_agents is not None
        if of_agent == (self.role is not None):
            raise ValueError(
                "pass the role of a person, or the purpose or may_create_agents of an agent"
            )
        return self


class Deactivated(Answer):
    """The accounts that a request deactivated."""

    deactivated: Sequence[str] = Field(
        description="The account and the agents that it owned, sorted.",
        examples=[["agent_writer", "alice"]],
    )


class Lane(Answer):
    """The failed codes about an account in one lane."""

    lane: str = Field(description="The lane's name, for `unlock`.", examples=["self"])
    about: str = Field(
        description="The attempts that the lane counts.",
        examples=["codes that the authenticated person enters"],
    )
    failures: int = Field(description="Failures since the last right code.", examples=[0])
    locked_until: datetime | None = Field(
        description="The end of the lock, UTC; null if not locked."
    )
    allowance_used: bool = Field(
        description="Whether the wrong guesses of the year are used up; `unlock` doesn't end that."
    )
    clock_trouble: str = Field(
        description="The values that were stored while the clock was ahead; `unlock` fixes them."
    )


class LaneToUnlock(Request):
    """The lane to unlock."""

    lane: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="As named by the list of lanes; by default all.", examples=["self"]
    )


class Unlocked(Answer):
    """What unlocking left locked."""

    username: str = Field(description="The account.", examples=["bob"])
    still_locked: Sequence[Lane] = Field(
        description="Lanes that have used up the wrong guesses of the year."
    )


def reachable_account(home: Pipelit, caller: Caller, action: Action, username: str) -> User:
    """Return an account that the caller reaches with an action.

    Raises:
        UserNotFound: There is no such account, or it is out of reach. Both take one statement and
            have the same words, so that nobody learns which names exist.
        NotPermitted: The caller reaches every account but their own.
    """
    found = home.users.get(username)
    if may(caller.user, action, on=found):
        return found
    if reach_of(caller.user, action) == "others":
        raise NotPermitted(
            "this isn't for your own account: use /me/second-factor with one of your codes",
            username=username,
        )
    raise no_account(username)


def require_free_name(home: Pipelit, username: str) -> None:
    """Require that no account has a name, before a code is spent on creating one.

    Raises:
        InvalidUsername: It has the form of a key or a code.
        UserExists: The name is taken.
    """
    try:
        home.users.get(require_new_username(username))
    except UserNotFound:
        return
    raise UserExists(
        f"there is an account {username!r} already: choose another name", username=username
    )


def require_future(home: Pipelit, field: str, expires_at: datetime | None) -> None:
    """Require that a key to issue doesn't expire before, so that no code is spent on it.

    Raises:
        Problem: It has expired already.
    """
    now = (home._clock or time.time)()
    if expires_at is not None and expires_at.timestamp() <= now:
        name = field.rpartition(".")[2]
        message = f"{name} is past ({expires_at:%Y-%m-%d %H:%M %Z}): pass a later time"
        raise Problem(422, "invalid", message, errors=[(field, message)])


def require_active_account(home: Pipelit, username: str) -> User:
    """Return an active account, before a code is spent on changing it.

    Raises:
        UserNotFound: There is no such account.
        UserInactive: It was deactivated.
    """
    found = home.users.get(username)
    if not found.active:
        raise UserInactive(f"{username!r} was deactivated", username=username)
    return found


def _require_kind(found: User, kind: str) -> None:
    """Require that a change is one of this kind of account, before a code is spent on it."""
    if found.kind == kind:
        return
    if kind == "human":
        raise NotPermitted(
            f"{found.username!r} isn't a person of this database: only people have a role",
            username=found.username,
        )
    raise NotLocalAgent(
        f"{found.username!r} isn't an agent of this database: only agents have a purpose and may "
        "be allowed to create others",
        username=found.username,
    )


@router.get("/users", summary="List accounts")
def list_users(
    home: Home,
    caller: PersonCaller,
    kind: Annotated[
        Literal["human", "agent", "peer"] | None, Query(description="Only accounts of this kind.")
    ] = None,
    owner: Annotated[
        UsernameInQuery | None,
        Query(description="Only accounts that this account owns directly.", examples=["alice"]),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[Account]:
    """Return accounts by name. Members get their own account and the agents that they own."""
    mine = None if reach_of(caller.user, "users.read") == "all" else caller.user.username
    with library_input("query.after"):
        page = home.users.page(after=after, limit=limit, kind=kind, owner=owner, root_owner=mine)
    return Page[Account].of(page, Account.model_validate)


@router.get("/users/{username}", summary="Get an account")
def get_user(home: Home, caller: PersonCaller, username: UsernameInPath) -> Account:
    """Return one account. Members reach their own account and the agents that they own."""
    return Account.model_validate(reachable_account(home, caller, "users.read", username))


@router.post("/users", status_code=201, summary="Create a person", responses={409: {}})
def create_user(
    home: Home, caller: OperatorCaller, factor: Sensitive, body: NewPerson
) -> CreatedPerson:
    """Create the account of a person, with one API key that is displayed only once."""
    require_free_name(home, body.username)
    require_future(home, "body.key_expires_at", body.key_expires_at)
    factor.confirm()
    with library_input("body.key_expires_at"):
        new = home.users.create(
            body.username,
            role=body.role,
            key_expires_at=body.key_expires_at,
            created_by=caller.user.username,
        )
    return CreatedPerson(username=new.username, role=new.role, api_key=new.api_key)


@router.patch("/users/{username}", summary="Change an account", responses={409: {}})
def change_user(
    home: Home,
    caller: OperatorCaller,
    factor: Sensitive,
    username: UsernameInPath,
    body: Changes,
) -> Account:
    """Give a person another role, or an agent another purpose or right.

    The last active operator can't be made a member.
    """
    found, by = require_active_account(home, username), caller.user.username
    _require_kind(found, "human" if body.role is not None else "agent")
    if body.role == "member":
        home.users.require_another_operator(username, by=by)
    factor.confirm()
    if body.role is not None:
        changed = home.users.set_role(username, body.role, by=by)
    else:
        with library_input("body.purpose"):
            changed = home.users.change_agent(
                username, purpose=body.purpose, may_create_agents=body.may_create_agents, by=by
            )
    return Account.model_validate(changed)


@router.post(
    "/users/{username}/deactivate",
    summary="Deactivate an account",
    responses={409: {}},
)
def deactivate_user(
    home: Home, caller: OperatorCaller, factor: Sensitive, username: UsernameInPath
) -> Deactivated:
    """Deactivate an account and all agents that it owns. This can't be undone.

    Their API keys and codes aren't accepted any more, from the next request on. The last active
    operator can't be deactivated.
    """
    home.users.require_another_operator(username, by=caller.user.username)
    factor.confirm()
    ended = home.users.deactivate(username, by=caller.user.username)
    return Deactivated(deactivated=list(ended))


@router.get("/users/{username}/lanes", summary="List failed codes and locks")
def list_lanes(
    home: Home,
    caller: PersonCaller,
    username: UsernameInPath,
    limit: Limit = DEFAULT_LIMIT,
    after: Annotated[
        str | None,
        Query(min_length=1, max_length=200, description="`next` of the page before, as it is."),
    ] = None,
) -> Page[Lane]:
    """Return the lanes that have counted failed codes about an account, in a fixed order.

    A page looks at a bounded number of lanes, so it may have few items, or none, although others
    follow: go on while `next` isn't null.

    Members reach their own account and the agents that they own.
    """
    reachable_account(home, caller, "lanes.read", username)
    with library_input("query.after"):
        page = home.users.page_lanes(username, after=after, limit=limit)
    return Page[Lane].of(page, Lane.model_validate)


@router.post("/users/{username}/unlock", summary="Unlock an account")
def unlock_user(
    home: Home,
    caller: OperatorCaller,
    factor: Sensitive,
    username: UsernameInPath,
    body: Annotated[LaneToUnlock | None, Body()] = None,
) -> Unlocked:
    """End the locks about an account, so that its codes are evaluated again.

    A lane that has used up its wrong guesses of the year stays locked until its lock ends.
    """
    lane = None if body is None else body.lane
    if lane is not None:
        with library_input("body.lane"):
            read_lane_name(lane)
    home.users.get(username)
    factor.confirm()
    with library_input("body.lane"):
        locked = home.users.unlock(username, lane=lane, by=caller.user.username)
    return Unlocked(username=username, still_locked=[Lane.model_validate(each) for each in locked])


@router.post(
    "/users/{username}/second-factor/reset",
    status_code=204,
    summary="Reset a second factor",
)
def reset_second_factor(
    home: Home, caller: OperatorCaller, factor: Sensitive, username: UsernameInPath
) -> None:
    """End the second factor of a person who lost phone and recovery codes.

    To end your own second factor, use `/me/second-factor/disable`, with a code.
    """
    found = reachable_account(home, caller, "second_factor.reset", username)
    home.mfa.status(found.username)
    factor.confirm()
    home.mfa.reset(username, by=caller.user.username)
