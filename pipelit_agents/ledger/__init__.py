"""The ledger: counts attempts to verify a peer, and lets no code be used twice.

``SqlLedger`` counts in the database, ``RedisLedger`` in Redis. For a ledger of your own write a
class with the methods of ``Ledger``, give ``Pipelit(ledger=…)`` a function that makes one, and let
``pipelit_agents.testing.LedgerSuite`` test it. This module has everything that such a class needs.
"""

from __future__ import annotations

from pipelit_agents.ledger.attempts import Account, Attempt, CodeKind, Decision, Verdict
from pipelit_agents.ledger.common import Ledger, lock_attempt, record_decision
from pipelit_agents.ledger.facts import Facts, read_facts
from pipelit_agents.ledger.opening import LedgerContext, LedgerFactory
from pipelit_agents.ledger.redis import RedisLedger
from pipelit_agents.ledger.rules import Lane, Peer, Rules, Ruling, Spent, State, decide
from pipelit_agents.ledger.sql import SqlLedger

__all__ = [
    "Account",
    "Attempt",
    "CodeKind",
    "Decision",
    "Facts",
    "Lane",
    "Ledger",
    "LedgerContext",
    "LedgerFactory",
    "Peer",
    "RedisLedger",
    "Rules",
    "Ruling",
    "Spent",
    "SqlLedger",
    "State",
    "Verdict",
    "decide",
    "lock_attempt",
    "read_facts",
    "record_decision",
]
