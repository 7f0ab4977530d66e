"""The ledger: counts attempts to verify a peer, and lets no code be used twice.

``SqlLedger`` counts in the database, ``RedisLedger`` in Redis. For a ledger of your own write a
class with the methods of ``Ledger``, give ``Pipelit(ledger=…)`` a function that makes one, and let
``pipelit_agents.testing.LedgerSuite`` test it. Here is everything that such a class needs.
"""

from __future__ import annotations

from pipelit_agents.ledger.base import (
    Account,
    Attempt,
    Decision,
    Ledger,
    account_of,
    compared,
    find_steps,
    lock_attempt,
    record_decision,
    was_expired,
)
from pipelit_agents.ledger.opening import LedgerContext, LedgerFactory
from pipelit_agents.ledger.redis import RedisLedger
from pipelit_agents.ledger.rules import Lane, Rules, Ruling, Spent, class_of
from pipelit_agents.ledger.sql import SqlLedger

__all__ = [
    "Account",
    "Attempt",
    "Decision",
    "Lane",
    "Ledger",
    "LedgerContext",
    "LedgerFactory",
    "RedisLedger",
    "Rules",
    "Ruling",
    "Spent",
    "SqlLedger",
    "account_of",
    "class_of",
    "compared",
    "find_steps",
    "lock_attempt",
    "record_decision",
    "was_expired",
]
