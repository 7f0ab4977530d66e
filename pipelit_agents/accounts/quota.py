"""How many agents a person's agents may be, and how many of them agents may create."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, func, select

from pipelit_agents.accounts.lookup import AccountRow, find_account
from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import QuotaExceeded
from pipelit_agents.policy import VerificationPolicy

__all__ = ["require_quota"]

# One quarter of an owner's quota is reserved for agents that people create.
_RESERVED_FOR_PEOPLE: Final = 4


def require_quota(connection: Connection, owner: AccountRow, policy: VerificationPolicy) -> None:
    """Require that the quotas allow one more agent of this owner.

    Args:
        connection: A transaction that has locked the accounts of the root owner.
        owner: The person or agent that will own the agent.
        policy: The quotas.

    Raises:
        QuotaExceeded: The root owner, or an agent among the owners, has as many active agents as
            the policy allows.
    """
    root, limit = owner.root_owner, policy.agents_per_owner
    family = (UserRow.root_owner == root, UserRow.kind == "agent", UserRow.active)
    active = connection.scalar(select(func.count()).where(*family)) or 0
    if active >= limit:
        raise QuotaExceeded(
            f"{root!r} has {active} active agents, and {limit} are allowed: deactivate one, "
            "or raise agents_per_owner in the policy",
            username=root,
            limit=limit,
        )
    if owner.kind != "agent":
        return
    # Agents that agents create never use the quota reserved for agents that people create.
    theirs = limit - limit // _RESERVED_FOR_PEOPLE
    made = connection.scalar(select(func.count()).where(*family, UserRow.owner != root)) or 0
    if made >= theirs:
        raise QuotaExceeded(
            f"the agents of {root!r} have created {made} active agents, and may create "
            f"{theirs} of the {limit} that are allowed: deactivate one, or raise "
            "agents_per_owner in the policy",
            username=root,
            limit=theirs,
        )
    most = policy.agents_per_creator
    while owner.kind == "agent":
        made = _count_made_by(connection, owner.username)
        if made >= most:
            raise QuotaExceeded(
                f"{owner.username!r} has created {made} active agents, itself or through its "
                f"agents, and {most} are allowed: deactivate one, or raise agents_per_creator "
                "in the policy",
                username=owner.username,
                limit=most,
            )
        # Agents that an agent's agents create count towards its quota too.
        owner = find_account(connection, owner.owner or "")


def _count_made_by(connection: Connection, agent: str) -> int:
    active = select(UserRow.username).where(UserRow.owner == agent, UserRow.active)
    made = active.cte(recursive=True)
    made = made.union(
        select(UserRow.username).where(UserRow.owner == made.c.username, UserRow.active)
    )
    return connection.scalar(select(func.count()).select_from(made)) or 0
