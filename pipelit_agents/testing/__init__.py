"""What tests need: a suite for ledgers, fixtures, and a model with replies that you write.

Nothing of pipelit-agents imports this package. The suite and the fixtures need ``pytest``, which
isn't installed with pipelit-agents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelit_agents._late import late

if TYPE_CHECKING:
    from pipelit_agents.testing.clock import Clock
    from pipelit_agents.testing.leaks import assert_no_leak
    from pipelit_agents.testing.ledger_suite import LedgerParts, LedgerSuite
    from pipelit_agents.testing.scripted import ScriptedModel, tool_call

__all__ = [
    "Clock",
    "LedgerParts",
    "LedgerSuite",
    "ScriptedModel",
    "assert_no_leak",
    "tool_call",
]

# Imported when they are first used, as only the suite needs pytest.
_MODULES = {
    "Clock": "clock",
    "LedgerParts": "ledger_suite",
    "LedgerSuite": "ledger_suite",
    "ScriptedModel": "scripted",
    "assert_no_leak": "leaks",
    "tool_call": "scripted",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = late(__name__, _MODULES)
