"""What tests need: a suite for ledgers, and fixtures for tests of your own.

Nothing of pipelit-agents imports this package. ``pytest`` is needed for it, and it isn't installed
with pipelit-agents.
"""

from __future__ import annotations

from pipelit_agents.testing.clock import Clock
from pipelit_agents.testing.leaks import assert_no_leak
from pipelit_agents.testing.ledger_suite import LedgerParts, LedgerSuite

__all__ = ["Clock", "LedgerParts", "LedgerSuite", "assert_no_leak"]
