"""Middleware for ``langchain.agents.create_agent``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelit_agents.approvals.rules import Approvers
from pipelit_agents.middleware.credentials import CredentialMiddleware

if TYPE_CHECKING:
    from pipelit_agents.middleware.approval import ApprovalMiddleware
    from pipelit_agents.middleware.spawn import SpawnMiddleware

__all__ = ["ApprovalMiddleware", "Approvers", "CredentialMiddleware", "SpawnMiddleware"]

# Imported when they are first used: they need the graphs and tools, and the others don't.
_MODULES = {"ApprovalMiddleware": "approval", "SpawnMiddleware": "spawn"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
