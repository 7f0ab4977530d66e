"""Identity that LangChain and LangGraph agents can prove, and secrets they can't leak.

Start with ``Pipelit``. The tools are in ``pipelit_agents.tools``, the graph nodes in
``pipelit_agents.graphs``, the exceptions in ``pipelit_agents.errors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelit_agents._late import late

if TYPE_CHECKING:
    from pipelit_agents.accounts.models import (
        ApiKeyInfo,
        LaneInfo,
        LockedLane,
        NewAgent,
        NewApiKey,
        NewUser,
        User,
    )
    from pipelit_agents.accounts.permissions import Permissions
    from pipelit_agents.accounts.provisioning import ProvisionedAgent
    from pipelit_agents.accounts.second_factor import Mfa, MfaStatus
    from pipelit_agents.accounts.users import Users
    from pipelit_agents.approvals import (
        ApprovalDecision,
        ApprovalRequest,
        ApprovalStep,
        Approvers,
    )
    from pipelit_agents.audit.records import AuditEntry
    from pipelit_agents.audit.seals import AuditHead
    from pipelit_agents.audit.trail import AuditTrail
    from pipelit_agents.audit.verifying import AuditReport
    from pipelit_agents.credentials.rows import CredentialInfo
    from pipelit_agents.credentials.secret import Secret
    from pipelit_agents.credentials.store import Credentials
    from pipelit_agents.credentials.trial import CredentialTest
    from pipelit_agents.database.encrypted_string import EncryptedString
    from pipelit_agents.errors import PipelitError
    from pipelit_agents.identity.agent import Agent
    from pipelit_agents.identity.evidence import TotpCode, Verification
    from pipelit_agents.operations.approval_notices import (
        ApprovalNotice,
        ApprovalNotices,
        NoticeResult,
    )
    from pipelit_agents.operations.approval_register import ApprovalRegister
    from pipelit_agents.operations.approval_services import Approvals
    from pipelit_agents.operations.key_rotation import Keys, KeyStatus, Rotation
    from pipelit_agents.operations.register_rules import RegisterReport
    from pipelit_agents.operations.webhooks import Webhook
    from pipelit_agents.paging import Page
    from pipelit_agents.pipelit import Pipelit
    from pipelit_agents.policy import VerificationPolicy
    from pipelit_agents.protocol.binding import Challenge, Proof
    from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = [
    "Agent",
    "ApiKeyInfo",
    "ApprovalDecision",
    "ApprovalNotice",
    "ApprovalNotices",
    "ApprovalRegister",
    "ApprovalRequest",
    "ApprovalStep",
    "Approvals",
    "Approvers",
    "AuditEntry",
    "AuditHead",
    "AuditReport",
    "AuditTrail",
    "Challenge",
    "CredentialInfo",
    "CredentialTest",
    "Credentials",
    "EncryptedString",
    "KeyStatus",
    "Keyring",
    "Keys",
    "LaneInfo",
    "LockedLane",
    "Mfa",
    "MfaStatus",
    "NewAgent",
    "NewApiKey",
    "NewUser",
    "NoticeResult",
    "Page",
    "Permissions",
    "Pipelit",
    "PipelitError",
    "Proof",
    "ProvisionedAgent",
    "RegisterReport",
    "Rotation",
    "Sealed",
    "Secret",
    "TotpCode",
    "User",
    "Users",
    "Verification",
    "VerificationPolicy",
    "Webhook",
]

# Imported when they are first used: a command's help, or a graph's module that only names this
# package, needs no SQLAlchemy.
_HOMES = {
    "accounts.models": [
        "ApiKeyInfo",
        "LaneInfo",
        "LockedLane",
        "NewAgent",
        "NewApiKey",
        "NewUser",
        "User",
    ],
    "accounts.permissions": ["Permissions"],
    "accounts.provisioning": ["ProvisionedAgent"],
    "accounts.second_factor": ["Mfa", "MfaStatus"],
    "accounts.users": ["Users"],
    "approvals": ["ApprovalDecision", "ApprovalRequest", "ApprovalStep", "Approvers"],
    "audit.records": ["AuditEntry"],
    "audit.seals": ["AuditHead"],
    "audit.trail": ["AuditTrail"],
    "audit.verifying": ["AuditReport"],
    "credentials.secret": ["Secret"],
    "credentials.store": ["Credentials"],
    "credentials.rows": ["CredentialInfo"],
    "credentials.trial": ["CredentialTest"],
    "database.encrypted_string": ["EncryptedString"],
    "errors": ["PipelitError"],
    "identity.agent": ["Agent"],
    "identity.evidence": ["TotpCode", "Verification"],
    "paging": ["Page"],
    "operations.approval_notices": ["ApprovalNotice", "ApprovalNotices", "NoticeResult"],
    "operations.key_rotation": ["KeyStatus", "Keys", "Rotation"],
    "operations.webhooks": ["Webhook"],
    "operations.approval_register": ["ApprovalRegister"],
    "operations.approval_services": ["Approvals"],
    "operations.register_rules": ["RegisterReport"],
    "pipelit": ["Pipelit"],
    "policy": ["VerificationPolicy"],
    "protocol.binding": ["Challenge", "Proof"],
    "sealing.keyring": ["Keyring", "Sealed"],
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:
    __getattr__, __dir__ = late(__name__, _MODULES)
