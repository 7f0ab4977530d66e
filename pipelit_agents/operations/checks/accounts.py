"""Checks of people's second factors, and of API keys."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import func, select

from pipelit_agents.accounts.provisioning import KEY_PREFIX
from pipelit_agents.database.models import ApiKeyRow, CredentialRow, UserRow
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import Finding, listed, passed

__all__ = ["key_expiry", "key_use", "second_factor"]

# Seconds.
_MAX_UNUSED_TIME: Final = 90 * 86_400


@deployment_check(
    "second factor", why="without one, anyone who has the API key can act as this person"
)
def second_factor(deployment: Deployment) -> Finding:
    """Every person has a second factor, and above all each operator."""
    people = select(UserRow.username, UserRow.role).where(
        UserRow.kind == "human", UserRow.domain == "", UserRow.active,
        UserRow.totp_secret.is_(None),
    )  # fmt: skip
    with deployment.reading() as connection:
        without = connection.execute(people.order_by(UserRow.username)).all()
    operators = [each.username for each in without if each.role == "operator"]
    others = [each.username for each in without if each.role != "operator"]
    found = []
    if operators:
        found.append(f"operators without one, who can change every account: {listed(operators)}")
    if others:
        found.append(f"people without a second factor: {listed(others)}")
    if found:
        return Finding("; ".join(found), f"pipelit-agents mfa enroll {(operators + others)[0]}")
    return passed()


@deployment_check("API keys expire", why="a forgotten key stays valid forever")
def key_expiry(deployment: Deployment) -> Finding:
    """Every API key has an expiry."""
    forever = [each for each in _valid_keys(deployment) if each.expires_at is None]
    if not forever:
        return passed()
    key = forever[0]
    where = (
        f"into the credential {key.credential}" if key.credential else "where the old one is used"
    )
    return Finding(
        f"{len(forever)} never expire: {listed(map(str, forever))}",
        f"pipelit-agents users keys issue {key.username} --name renewed --expires-in 90d, put the "
        f"new key {where}, then: pipelit-agents users keys revoke {key.id} --yes",
    )


@deployment_check("API keys used", why="nobody notices the theft of an unused key")
def key_use(deployment: Deployment) -> Finding:
    """Every API key was used in the last 90 days."""
    since = deployment.now() - _MAX_UNUSED_TIME
    unused = [each for each in _valid_keys(deployment) if each.last_used_at < since]
    if not unused:
        return passed()
    return Finding(
        f"{len(unused)} haven't been used for 90 days: {listed(map(str, unused))}",
        f"pipelit-agents users keys revoke {unused[0].id} --yes",
    )


class _ApiKey(NamedTuple):
    """An API key. One that was never used counts as used when it was created.

    Attributes:
        credential: The credential that holds the key, if an agent created the account.
    """

    id: str
    username: str
    credential: str | None
    expires_at: float | None
    last_used_at: float

    def __str__(self) -> str:
        return f"{self.id} of {self.username}"


def _valid_keys(deployment: Deployment) -> list[_ApiKey]:
    """Return the API keys that are accepted now, in the order of their creation."""
    query = (
        select(
            ApiKeyRow.id,
            ApiKeyRow.username,
            CredentialRow.name,
            ApiKeyRow.expires_at,
            func.coalesce(ApiKeyRow.last_used_at, ApiKeyRow.created_at),
        )
        .join(UserRow, UserRow.username == ApiKeyRow.username)
        .outerjoin(CredentialRow, CredentialRow.name == KEY_PREFIX + ApiKeyRow.username)
        .where(UserRow.active, ApiKeyRow.revoked_at.is_(None))
        .order_by(ApiKeyRow.created_at)
    )
    with deployment.reading() as connection:
        keys = [_ApiKey(*row) for row in connection.execute(query)]
    now = deployment.now()
    return [each for each in keys if each.expires_at is None or each.expires_at > now]
