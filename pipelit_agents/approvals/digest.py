"""The digest of the value that a person approves; the same in every process."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import decode, encode

__all__ = ["approval_digest", "canonical", "digest_of"]

# Bytes of canonical JSON, 1 MiB.
MAX_SHOWN: Final = 2**20


def canonical(shown: object) -> str:
    """Return the canonical JSON of a value: compact, with sorted keys.

    Raises:
        PayloadError: It is None, can't be represented as JSON, or is longer than 1 MiB.
    """
    if shown is None:
        raise PayloadError("there is nothing to approve: pass what the person is asked, not None")
    plain = decode(encode(shown), limit=MAX_SHOWN)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def approval_digest(shown: object) -> str:
    """Return the digest of a displayed value: SHA-256 of its JSON, compact and with sorted keys.

    Compute it again just before the action, to compare the action with what was approved.

    Args:
        shown: The value that the person is asked to approve: text or other JSON.

    Returns:
        64 lowercase hexadecimal digits.

    Raises:
        PayloadError: It can't be represented as JSON, or is longer than 1 MiB.
    """
    return digest_of(canonical(shown))


def digest_of(text: str) -> str:
    """Return the digest of canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()
