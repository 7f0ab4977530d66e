"""Approvals by people: questions, their answers, and the use of an approval.

Users hold ``Approvals`` (``operations/approval_services.py``) as ``pipelit.approvals``.
"""

from __future__ import annotations

from pipelit_agents.approvals.digest import approval_digest
from pipelit_agents.approvals.rules import Approvers
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest, ApprovalStep

__all__ = [
    "ApprovalDecision",
    "ApprovalRequest",
    "ApprovalStep",
    "Approvers",
    "approval_digest",
]
