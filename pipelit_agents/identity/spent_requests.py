"""Serve each request once, in all processes of a database."""

from __future__ import annotations

import hashlib
from typing import Final

from sqlalchemy import delete, select, text

from pipelit_agents._core import Core
from pipelit_agents.audit.records import recorded_name
from pipelit_agents.database.models import SpentRequestRow
from pipelit_agents.identity.lookup import require_active_agent

__all__ = ["spend_request"]

_SPEND: Final = text(
    "INSERT INTO pipelit_spent_requests (digest, expires_at) VALUES (:digest, :expires_at) "
    "ON CONFLICT (digest) DO NOTHING"
)

# Seconds. A clock may be set back by as much without a request becoming good again.
_CLOCK_TOLERANCE: Final = 3600.0


def spend_request(
    core: Core, username: str, parent: str, challenge: bytes, lifetime: float
) -> bool:
    """Mark a request as used; see ``Agent.spend_request``."""
    named = f"{username}\0{parent}\0".encode() + challenge
    with core.database.writing(durable=True) as connection:
        require_active_agent(connection, username)
        now, shared = core.clock(), core.shared_now(connection)
        # Each process verifies requests by the clock of its machine. So a mark stays until it is
        # old by that clock and by the one that all share: a process whose clock is ahead must not
        # delete what others still refuse.
        request = {
            "digest": hashlib.sha256(named).hexdigest(),
            "expires_at": max(now, shared) + lifetime,
        }
        oldest = min(now, shared) - _CLOCK_TOLERANCE
        # SKIP LOCKED: another process is already deleting these rows.
        expired = (
            select(SpentRequestRow.digest)
            .where(SpentRequestRow.expires_at <= oldest)
            .with_for_update(skip_locked=True)
        )
        connection.execute(delete(SpentRequestRow).where(SpentRequestRow.digest.in_(expired)))
        first = connection.execute(_SPEND, request).rowcount == 1
        if not first:
            name, reason = recorded_name(connection, parent), "request used before"
            core.record(
                connection, username, name, "verify.request", reason, outcome="refused", at=now
            )
    return first
