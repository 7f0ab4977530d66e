"""What the account methods return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import SecretStr

from pipelit_agents.ledger.lanes import lane_name
from pipelit_agents.ledger.rules import Lane, Rules, class_of, clock_trouble

__all__ = ["ApiKeyInfo", "LaneInfo", "NewAgent", "NewApiKey", "NewUser", "User"]


@dataclass(frozen=True, slots=True)
class User:
    """An account.

    Attributes:
        username: Its name.
        kind: ``human``, ``agent``, or ``peer``: an agent of another domain, which can be verified
            here and not acted as.
        owner: Who an agent belongs to: a person or another agent; None for a person or a peer.
        root_owner: The person at the end of the owners; a peer is its own.
        purpose: What an agent is for.
        active: Whether it may act.
        may_create_agents: Whether an agent may make others; people may.
        created_at: When, UTC.
        created_by: Who made it.
        domain: Where a peer comes from; empty for others.
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


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A fresh API key. The key is shown here and never again.

    Attributes:
        id: Its public id, for ``revoke_api_key``.
        username: Whose it is.
        api_key: ``plit_<id>_<43 characters>``.
    """

    id: str
    username: str
    api_key: SecretStr


@dataclass(frozen=True, slots=True)
class NewUser:
    """A fresh account of a person. The key is shown here and never again."""

    username: str
    api_key: SecretStr


@dataclass(frozen=True, slots=True)
class NewAgent:
    """A fresh agent user. Both secrets are shown here and never again.

    Attributes:
        username: Its name.
        api_key: Its Bearer key.
        provisioning_uri: ``otpauth://…`` for an authenticator app.
    """

    username: str
    api_key: SecretStr
    provisioning_uri: SecretStr


@dataclass(frozen=True, slots=True)
class ApiKeyInfo:
    """What is known of an API key; the key itself isn't.

    Attributes:
        id: Its public id.
        name: What it was named.
        masked: ``…`` and its last four characters.
        created_at: When, UTC.
        expires_at: From when it isn't accepted, UTC, or None.
        revoked_at: When it was revoked, UTC, or None.
        last_used_at: To within a minute, UTC, or None.
    """

    id: str
    name: str
    masked: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class LaneInfo:
    """What was counted about an account in one lane: by whom, and how many failures.

    Attributes:
        lane: Its name, for ``unlock``: ``self``, ``family``, ``others``, ``first``,
            ``plain:NAME``, ``audience:NAME`` or ``nobody:NAME``.
        about: The same in words.
        failures: Failures since the last right code.
        locked_until: The end of its lock, UTC, or None where it isn't locked.
        allowance_used: Whether it has used up its wrong guesses of the year: a right code is
            accepted, and doesn't end the count of failures; nor does ``unlock`` or a new secret.
        clock_trouble: What was written while the clock was ahead, in words; empty where nothing
            was. ``unlock`` fixes it.
    """

    lane: str
    about: str
    failures: int
    locked_until: datetime | None
    allowance_used: bool
    clock_trouble: str


def lane_info(row: Any, rules: Rules, now: float, *, person: bool) -> LaneInfo:
    trouble = clock_trouble(row, rules, now, person=person)
    lanes = class_of(row.scope, person=person)
    lane = rules.seen(Lane(row.in_a_row, (), row.locked_until, row.whole_at), now, lanes)
    used, locked_until = not rules.forgives(lane, now), lane.locked_until
    if row.scope == "first":
        # It isn't locked: there are no more first codes than the year has.
        locked_until = now + rules.wait(1, lane, now, lanes)
        used = locked_until > now
    until = datetime.fromtimestamp(locked_until, UTC) if locked_until > now else None
    words = {
        "self": "checks for the person herself",
        "family": "plain codes that agents of the same owner check",
        "others": "everybody who has no lane of their own",
        "first": "first codes of enrolments",
        "nobody": f"plain codes that {row.subject} checks, who was no active agent",
        "pair": f"audience codes that {row.subject} checks",
        "plain": f"plain codes that {row.subject} checks",
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
    )


def moment_of(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
