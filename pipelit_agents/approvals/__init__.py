"""Approvals by people: questions, their answers, and the use of an approval.

Users hold :class:`Approvals` as ``pipelit.approvals``.
"""

from __future__ import annotations

from pipelit_agents.approvals.digest import approval_digest
from pipelit_agents.approvals.service import Approvals
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest

__all__ = ["ApprovalDecision", "ApprovalRequest", "Approvals", "approval_digest"]
