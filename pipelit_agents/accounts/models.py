"""The classes that the methods for accounts return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from pydantic import SecretStr

from pipelit_agents.ledger.clock_trouble import clock_trouble
from pipelit_agents.ledger.lanes import lane_name
from pipelit_agents.ledger.rules import Lane, Rules, class_of

__all__ = [
    "ApiKeyInfo",
    "LaneInfo",
    "LockedLane",
    "NewAgent",
    "NewApiKey",
    "NewUser",
    "Role",
    "User",
    "role_of",
]

Role: TypeAlias = Literal["operator", "member"]


@dataclass(frozen=True, slots=True)
class User:
    """An account.

    Attributes:
        username: The account's name.
        kind: ``human``, ``agent`` or ``peer``. A peer is an agent of another domain: it can be
            verified here, but code can't act as it.
        owner: The person or agent that an agent belongs to; None for a person or a peer.
        root_owner: The person at the end of the chain of owners; a peer is its own root owner.
        purpose: What an agent is for.
        active: Whether the account is active.
        may_create_agents: Whether an agent may create others; people always may.
        created_at: The time of creation, UTC.
        created_by: The creator's name.
        domain: The domain of a peer; empty for others.
        role: ``operator`` or ``member``, the role of a person; empty for others.
    """

    username: str
    kind: Literal["human", "agent", "peer"]
    owner: str | None
    root_owner: str
    purpose: str
    active: bool
    may_create_agents: bool
    created_at: datetime
    created_by: str
    domain: str = ""
    role: Literal["operator", "member", ""] = ""


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A new API key. This is the only time that the key is returned.

    Attributes:
        id: The key's public id, for ``revoke_api_key``.
        username: The account that it belongs to.
        api_key: ``plit_<id>_<43 characters>``.
    """

    id: str
    username: str
    api_key: SecretStr


@dataclass(frozen=True, slots=True)
class NewUser:
    """A new account of a person. This is the only time that the key is returned.

    Attributes:
        username: The person's name.
        api_key: The person's API key, a Bearer token.
        role: The person's role.
    """

    username: str
    api_key: SecretStr
    role: Role = "member"


@dataclass(frozen=True, slots=True)
class NewAgent:
    """A new agent user. This is the only time that both secrets are returned.

    Attributes:
        username: The agent's name.
        api_key: The agent's API key, a Bearer token.
        provisioning_uri: ``otpauth://…`` for an authenticator app.
    """

    username: str
    api_key: SecretStr
    provisioning_uri: SecretStr


@dataclass(frozen=True, slots=True)
class ApiKeyInfo:
    """A description of an API key, without the key itself.

    Attributes:
        id: The key's public id.
        name: The key's name.
        masked: ``…`` and the key's last four characters.
        created_at: The time of creation, UTC.
        expires_at: The time from which it isn't accepted, UTC, or None.
        revoked_at: The time of its revocation, UTC, or None.
        last_used_at: The time of its last use to within a minute, UTC, or None.
        username: The account that it belongs to.
    """

    id: str
    name: str
    masked: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    username: str = ""


@dataclass(frozen=True, slots=True)
class LaneInfo:
    """The failures about an account in one lane.

    Attributes:
        lane: The lane's name, for ``unlock``: ``self``, ``family``, ``others``, ``first``,
            ``plain:NAME``, ``audience:NAME`` or ``nobody:NAME``.
        about: A description of the lane.
        failures: The number of failures since the last right code.
        locked_until: The end of the lane's lock, UTC, or None if it isn't locked.
        allowance_used: Whether the lane has used up its wrong guesses of the year. Then a right
            code is accepted but doesn't reset the failures; nor does ``unlock`` or a new secret.
        clock_trouble: A description of what was stored while the clock was ahead, or an empty
            string. ``unlock`` fixes it.
    """

    lane: str
    about: str
    failures: int
    locked_until: datetime | None
    allowance_used: bool
    clock_trouble: str


@dataclass(frozen=True, slots=True)
class LockedLane:
    """A lane that is locked, and the account that it is about.

    Attributes:
        username: The account.
        lane: The lane.
    """

    username: str
    lane: LaneInfo


def lane_info(row: Any, rules: Rules, now: float, *, person: bool) -> LaneInfo:
    trouble = clock_trouble(row, rules, now, person=person)
    lanes = class_of(row.scope, person=person)
    lane = rules.seen(Lane(row.in_a_row, (), row.locked_until, row.whole_at), now, lanes)
    used, locked_until = not rules.forgives(lane, now), lane.locked_until
    if row.scope == "first":
        # This lane has no locks, only a number of first codes for each year.
        locked_until = now + rules.wait(1, lane, now, lanes)
        used = locked_until > now
    until = datetime.fromtimestamp(locked_until, UTC) if locked_until > now else None
    words = {
        "self": "codes that the authenticated person enters",
        "family": "plain codes that agents of the same owner verify",
        "others": "everybody who has no own lane",
        "first": "first codes of enrolments",
        "nobody": f"plain codes that {row.subject} verifies, who wasn't an active agent",
        "pair": f"audience codes that {row.subject} verifies",
        "plain": f"plain codes that {row.subject} verifies",
        "peer": "spent plain codes",
    }
    return LaneInfo(
        lane_name(row.scope, row.subject),
        words.get(row.scope, row.scope),
        row.in_a_row,
        until,
        used,
        trouble,
    )


def role_of(row: Any) -> Literal["operator", "member", ""]:
    """Return the role of a row of the table of accounts; a word that isn't one gives no right."""
    if row.kind != "human" or row.domain:
        return ""
    return "operator" if row.role == "operator" else "member"


def user_of(row: Any) -> User:
    return User(
        row.username,
        "peer" if row.domain else row.kind,
        row.owner,
        row.root_owner,
        row.purpose,
        bool(row.active),
        bool(row.may_create_agents),
        datetime.fromtimestamp(row.created_at, UTC),
        row.created_by,
        row.domain,
        role_of(row),
    )


def key_info(row: Any) -> ApiKeyInfo:
    return ApiKeyInfo(
        row.id,
        row.name,
        f"…{row.last_four}",
        datetime.fromtimestamp(row.created_at, UTC),
        moment_of(row.expires_at),
        moment_of(row.revoked_at),
        moment_of(row.last_used_at),
        row.username,
    )


def moment_of(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
