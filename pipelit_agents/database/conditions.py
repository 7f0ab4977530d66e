"""The conditions of partial indexes.

A query has to have the same words, so that the database sees that it can use the index.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EXPIRING_KEYS", "KINDS_OF_ACCOUNTS", "LOCKED_LANES"]

# Which accounts are listed together.
KINDS_OF_ACCOUNTS: Final = {
    "agents": "kind = 'agent'",
    "operators": "role = 'operator'",
    "peers": "domain <> ''",
    "people": "kind = 'human' AND domain = ''",
}
EXPIRING_KEYS: Final = "revoked_at IS NULL AND expires_at IS NOT NULL"
# Not a range, which SQLite would search instead of the one that the query has.
LOCKED_LANES: Final = "locked_until <> 0"
