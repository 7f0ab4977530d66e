"""LangChain tools that use an agent's identity. Import as ``pipelit_agents.tools``."""

from __future__ import annotations

from .approved import approved_tool
from .identity import CreateAgentUser, GetTotpCode, IdentityToolkit, VerifyPeer
from .spawn import SpawnAndAwait

__all__ = [
    "CreateAgentUser",
    "GetTotpCode",
    "IdentityToolkit",
    "SpawnAndAwait",
    "VerifyPeer",
    "approved_tool",
]
