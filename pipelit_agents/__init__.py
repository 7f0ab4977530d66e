"""Identity that LangChain and LangGraph agents can prove, and secrets they can't leak.

Start with :class:`Pipelit`. The tools are in ``pipelit_agents.tools``, the graph nodes in
``pipelit_agents.graphs``, the exceptions in ``pipelit_agents.errors``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelit_agents.approvals import ApprovalDecision, ApprovalRequest, Approvals
    from pipelit_agents.audit import AuditEntry
    from pipelit_agents.chain import AuditHead, AuditReport
    from pipelit_agents.credentials.secret import Secret
    from pipelit_agents.credentials.store import CredentialInfo
    from pipelit_agents.database.types import EncryptedString
    from pipelit_agents.errors import PipelitError
    from pipelit_agents.keyring import Keyring, Sealed
    from pipelit_agents.mfa import MfaStatus
    from pipelit_agents.pipelit import Pipelit
    from pipelit_agents.policy import VerificationPolicy
    from pipelit_agents.proof import Challenge, Proof
    from pipelit_agents.provisioning import ProvisionedAgent
    from pipelit_agents.rotation import KeyStatus, Rotation
    from pipelit_agents.users import ApiKeyInfo, LaneInfo, NewAgent, NewApiKey, NewUser, User
    from pipelit_agents.verification import Agent, TotpCode, Verification

__all__ = [
    "Agent",
    "ApiKeyInfo",
    "ApprovalDecision",
    "ApprovalRequest",
    "Approvals",
    "AuditEntry",
    "AuditHead",
    "AuditReport",
    "Challenge",
    "CredentialInfo",
    "EncryptedString",
    "KeyStatus",
    "Keyring",
    "LaneInfo",
    "MfaStatus",
    "NewAgent",
    "NewApiKey",
    "NewUser",
    "Pipelit",
    "PipelitError",
    "Proof",
    "ProvisionedAgent",
    "Rotation",
    "Sealed",
    "Secret",
    "TotpCode",
    "User",
    "Verification",
    "VerificationPolicy",
]

# Imported when they are first used: a command's help, or a graph's module that only names this
# package, needs no SQLAlchemy.
_HOMES = {
    "approvals": ["ApprovalDecision", "ApprovalRequest", "Approvals"],
    "audit": ["AuditEntry"],
    "chain": ["AuditHead", "AuditReport"],
    "credentials.secret": ["Secret"],
    "credentials.store": ["CredentialInfo"],
    "database.types": ["EncryptedString"],
    "errors": ["PipelitError"],
    "keyring": ["Keyring", "Sealed"],
    "mfa": ["MfaStatus"],
    "pipelit": ["Pipelit"],
    "policy": ["VerificationPolicy"],
    "proof": ["Challenge", "Proof"],
    "provisioning": ["ProvisionedAgent"],
    "rotation": ["KeyStatus", "Rotation"],
    "users": ["ApiKeyInfo", "LaneInfo", "NewAgent", "NewApiKey", "NewUser", "User"],
    "verification": ["Agent", "TotpCode", "Verification"],
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
