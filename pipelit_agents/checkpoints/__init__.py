"""Checkpointers that encrypt checkpoints under keys derived from ``FIELD_ENCRYPTION_KEY``."""

from __future__ import annotations

from pipelit_agents.checkpoints.saver import SealedSaver
from pipelit_agents.checkpoints.serializer import SealedSerializer

__all__ = ["SealedSaver", "SealedSerializer"]
