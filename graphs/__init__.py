"""LangGraph nodes with verified answers and approvals. Import as ``pipelit_agents.graphs``."""

from __future__ import annotations

from .answer_message import AnswerMetadata
from .approval import Approval, approval_digest, approve_with_totp
from .child import ANYONE, VerifiedChild, verified_child
from .envelope import Envelope, SpawnRequest
from .interrupts import asking_agent
from .remote import RemoteChild, remote_child
from .spawn.created import CreatedAgents, created_agents
from .spawn.keyed import keyed_by_input
from .spawn.node import spawn_and_await
from .spawn.results import SpawnResult, SpawnTask
from .spawn.tasks import request_digest
from .verified_agent import VerifiedAgent, verified_agent

__all__ = [
    "ANYONE",
    "AnswerMetadata",
    "Approval",
    "CreatedAgents",
    "Envelope",
    "RemoteChild",
    "SpawnRequest",
    "SpawnResult",
    "SpawnTask",
    "VerifiedAgent",
    "VerifiedChild",
    "approval_digest",
    "approve_with_totp",
    "asking_agent",
    "created_agents",
    "keyed_by_input",
    "remote_child",
    "request_digest",
    "spawn_and_await",
    "verified_agent",
    "verified_child",
]
