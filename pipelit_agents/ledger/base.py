"""What other parts of pipelit-agents use of the ledger, by its names of before."""

from __future__ import annotations

from pipelit_agents.ledger.attempts import Account, Attempt, CodeKind, account_at, is_person
from pipelit_agents.ledger.common import Ledger, ledger_now
from pipelit_agents.ledger.first_codes import charge_first_code, wait_for_first_code
from pipelit_agents.ledger.lanes import lane_name, read_lane_name
from pipelit_agents.ledger.machine import described, kernels_at
from pipelit_agents.ledger.rules import clock_trouble
from pipelit_agents.ledger.unlocking import begin_secret, unlock

__all__ = [
    "Account",
    "Attempt",
    "CodeKind",
    "Ledger",
    "account_at",
    "begin_secret",
    "charge_first_code",
    "clock_trouble",
    "described",
    "is_person",
    "kernels_at",
    "lane_name",
    "ledger_now",
    "read_lane_name",
    "unlock",
    "wait_for_first_code",
]
