"""``pipelit.approvals`` with the services that need what is above the floor of ``approvals``."""

from __future__ import annotations

from pipelit_agents._core import Core
from pipelit_agents.approvals.people import People
from pipelit_agents.approvals.service import Approvals
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.operations.approval_notices import ApprovalNotices
from pipelit_agents.operations.approval_register import ApprovalRegister

__all__ = ["ServedApprovals"]


class ServedApprovals(Approvals):
    """Questions to people and their answers; ``pipelit.approvals``.

    Args:
        core: As of `Approvals`.
        people: As of `Approvals`.
        credentials: Has the signing secrets of webhooks.
        audit: Has the entries with which the register is compared.

    Attributes:
        notices: Notifies people that a question waits for them.
        register: Exports who approved what, and verifies it.
    """

    def __init__(
        self, core: Core, people: People, credentials: Credentials, audit: AuditTrail
    ) -> None:
        super().__init__(core, people)
        self.register = ApprovalRegister(core, audit)
        self.notices = ApprovalNotices(core, self, credentials)
