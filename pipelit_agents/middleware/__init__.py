"""Middleware for ``langchain.agents.create_agent``."""

from __future__ import annotations

from pipelit_agents.middleware.credentials import CredentialMiddleware

__all__ = ["CredentialMiddleware"]
