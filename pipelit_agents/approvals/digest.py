"""The digest of what a person is asked to approve: pure, and the same in every process."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from pipelit_agents.protocol.payload import decode, encode

__all__ = ["approval_digest", "canonical"]

MAX_SHOWN: Final = 2**20


def canonical(shown: Any) -> str:
    """Return the one JSON text of a value: compact, with sorted keys.

    Raises:
        PayloadError: It can't be carried as JSON, or is longer than 1 MiB.
    """
    plain = decode(encode(shown), limit=MAX_SHOWN)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def approval_digest(shown: Any) -> str:
    """Return the digest of what is shown: SHA-256 of its JSON, compact and with sorted keys.

    Compute it again where something is about to be done: it tells whether that is what was
    approved.

    Args:
        shown: Text, or other JSON: what the person is asked to approve.

    Returns:
        64 lowercase hexadecimal digits.

    Raises:
        PayloadError: It can't be carried as JSON, or is longer than 1 MiB.
    """
    return hashlib.sha256(canonical(shown).encode()).hexdigest()
