"""The purposes that values are encrypted for; a value opens for its own purpose only."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from contextlib import suppress

from pipelit_agents.errors import (
    UnsealError,
)
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = ["credential_purpose", "holds", "peering_purpose", "pending_purpose", "totp_purpose"]


def totp_purpose(username: str) -> str:
    """The place that a TOTP secret is sealed for."""
    return f"user:{username}:totp"


def peering_purpose(relation: str) -> str:
    """The place that the secret of an issued peering is sealed for."""
    return f"peering:{relation}"


def holds(keyring: Keyring, sealed: Iterable[Sealed], secret: bytes) -> bool:
    """Whether one of these sealed secrets is this one; what doesn't open isn't."""
    found = False
    for each in sealed:
        with suppress(UnsealError):
            found |= hmac.compare_digest(keyring.unseal(each.token, each.purpose), secret)
    return found


def pending_purpose(username: str) -> str:
    """The place that the secret of a second factor is sealed for until it is on."""
    return f"user:{username}:totp:pending"


def credential_purpose(name: str, kind: str, public: str, allow: str | None) -> str:
    """The place that a credential's fields are sealed for."""
    # What says where the secret may go is part of where it belongs: a base_url or an allow-list
    # that was changed behind our back doesn't get the secret.
    digest = hashlib.sha256(json.dumps([kind, public, allow]).encode()).hexdigest()
    return f"credential:{name}:{digest}"
