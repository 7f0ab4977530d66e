"""Identity that LangChain and LangGraph agents can prove, and secrets they can't leak.

Start with :class:`Pipelit`. The tools are in ``pipelit_agents.tools``, the graph nodes in
``pipelit_agents.graphs``, the exceptions in ``pipelit_agents.errors``.
"""

from __future__ import annotations

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
from pipelit_agents.users import ApiKeyInfo, NewAgent, NewApiKey, NewUser, User
from pipelit_agents.verification import Agent, TotpCode, Verification

__all__ = [
    "Agent",
    "ApiKeyInfo",
    "AuditEntry",
    "AuditHead",
    "AuditReport",
    "Challenge",
    "CredentialInfo",
    "EncryptedString",
    "KeyStatus",
    "Keyring",
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
