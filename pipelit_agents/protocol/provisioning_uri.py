"""The ``otpauth://`` URI by which an authenticator app or a peer receives a secret."""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import quote, urlencode

from pydantic import SecretStr

__all__ = ["base32_secret", "provisioning_uri"]

ISSUER: Final = "pipelit-agents"
# Characters; the size of the ledger's columns.
MAX_NAME: Final = 149


def provisioning_uri(username: str, secret: bytes, relation: str = "") -> SecretStr:
    """Return the ``otpauth://totp/…`` URI of a secret, as authenticator apps read it."""
    fields = {"secret": base32_secret(secret), "issuer": ISSUER}
    query = urlencode(fields | ({"relation": relation} if relation else {}))
    return SecretStr(f"otpauth://totp/{quote(ISSUER)}:{quote(username)}?{query}")


def base32_secret(key: bytes) -> str:
    """Return a secret in base32 without padding, as in ``otpauth://`` URIs."""
    return base64.b32encode(key).decode("ascii").rstrip("=")
