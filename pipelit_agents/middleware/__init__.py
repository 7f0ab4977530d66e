"""Middleware for ``langchain.agents.create_agent``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelit_agents._late import late
from pipelit_agents.approvals.rules import Approvers
from pipelit_agents.middleware.credentials import CredentialMiddleware

if TYPE_CHECKING:
    from pipelit_agents.middleware.approval import ApprovalMiddleware
    from pipelit_agents.middleware.spawn import SpawnMiddleware

__all__ = ["ApprovalMiddleware", "Approvers", "CredentialMiddleware", "SpawnMiddleware"]

# Imported when they are first used: they need the graphs and tools, and the others don't.
_MODULES = {"ApprovalMiddleware": "approval", "SpawnMiddleware": "spawn"}

if not TYPE_CHECKING:
    __getattr__, __dir__ = late(__name__, _MODULES)
