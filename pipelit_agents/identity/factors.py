"""Identify a person's current second factor."""

from __future__ import annotations

import hmac

__all__ = ["factor_id"]


def factor_id(username: str, secret: bytes) -> str:
    """Return an id of a person's current second factor that reveals nothing about it.

    Each enrolment has a new secret and therefore a new id. The id is an HMAC under the secret
    itself (160 random bits). So it stays the same when ``FIELD_ENCRYPTION_KEY`` is replaced, and
    it can't be computed without the secret.
    """
    data = b"pipelit-agents/factor/v1\0" + username.encode()
    return hmac.digest(secret, data, "sha256").hex()[:32]
