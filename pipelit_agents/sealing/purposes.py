"""Every purpose of the package: what a ciphertext, a tag or a derived key is bound to.

A value is decrypted for its own purpose only, so a ciphertext that was copied to another row or
column is refused. The texts must never change: stored values are bound to them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from pipelit_agents.errors import UnsealError
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = [
    "APPROVAL_ANSWER",
    "APPROVAL_REGISTER",
    "APPROVAL_REQUEST",
    "AUDIT_PRUNED",
    "AUDIT_SEAL",
    "CHECKPOINTS",
    "CHECKPOINT_BOX",
    "CHECKPOINT_METADATA",
    "CHECKPOINT_VALUE",
    "DATABASE_KEY",
    "DESK_SET_UP",
    "ISSUED_CODES",
    "RECOVERY_CODE",
    "approval_purpose",
    "credential_hint_purpose",
    "credential_purpose",
    "holds",
    "peering_purpose",
    "pending_purpose",
    "person_credential_hint_purpose",
    "person_credential_purpose",
    "reason_purpose",
    "result_purpose",
    "totp_purpose",
]

# Labels of keys that are derived from FIELD_ENCRYPTION_KEY (Keyring.derive).
CHECKPOINTS: Final = "checkpoints"

# Labels of tags (Keyring.mac): a tag that was made for one label is wrong for all others.
APPROVAL_REQUEST: Final = "approval-request"
APPROVAL_ANSWER: Final = "approval"
APPROVAL_REGISTER: Final = "approval-register"
AUDIT_PRUNED: Final = "audit-pruned"
AUDIT_SEAL: Final = "audit-seal"
CHECKPOINT_BOX: Final = "box"
DATABASE_KEY: Final = "database-key"
DESK_SET_UP: Final = "desk-set-up"
ISSUED_CODES: Final = "issued-codes"
RECOVERY_CODE: Final = "recovery-code"

# What the purposes of checkpointed values and metadata begin with; their kind or position follows.
CHECKPOINT_METADATA: Final = "checkpoint metadata"
CHECKPOINT_VALUE: Final = "checkpoint"


def totp_purpose(username: str) -> str:
    """Return the purpose of an account's TOTP secret, the current and the previous one."""
    return f"user:{username}:totp"


def pending_purpose(username: str) -> str:
    """Return the purpose of a second factor's secret that isn't confirmed yet."""
    return f"user:{username}:totp:pending"


def peering_purpose(relation: str) -> str:
    """Return the purpose of the secret of an issued peering."""
    return f"peering:{relation}"


def credential_purpose(name: str, kind: str, public: str, allow: str | None) -> str:
    """Return the purpose of a credential's secret fields.

    The public fields and the allow-list are part of it: they decide who gets the secret and where
    it is sent. If someone changes a ``base_url`` in the database, the secret isn't decrypted.
    """
    return f"credential:{name}:{_digest(kind, public, allow)}"


def credential_hint_purpose(name: str, kind: str, public: str, allow: str | None) -> str:
    """Return the purpose of the masked form of a credential."""
    return f"{credential_purpose(name, kind, public, allow)}:hint"


def person_credential_purpose(
    person: str, name: str, kind: str, public: str, allow: str | None
) -> str:
    """Return the purpose of the secret fields of a credential that is one person's own.

    It is bound to the person too: another person's value isn't decrypted, and neither is a shared
    one.
    """
    return f"person:{person}:credential:{name}:{_digest(kind, public, allow)}"


def person_credential_hint_purpose(
    person: str, name: str, kind: str, public: str, allow: str | None
) -> str:
    """Return the purpose of the masked form of a person's own credential."""
    return f"{person_credential_purpose(person, name, kind, public, allow)}:hint"


def _digest(kind: str, public: str, allow: str | None) -> str:
    return hashlib.sha256(json.dumps([kind, public, allow]).encode()).hexdigest()


def approval_purpose(identifier: str, digest: str) -> str:
    """Return the purpose of the input that an approver is shown; it is bound to one request."""
    return f"approval:{identifier}:{digest}:shown"


def reason_purpose(identifier: str, username: str) -> str:
    """Return the purpose of the reason that a person gives with an answer."""
    return f"approval:{identifier}:{username}:reason"


def result_purpose(identifier: str, start: int) -> str:
    """Return the purpose of what an approved call returned, when it was started for this time."""
    return f"approval:{identifier}:{start}:result"


def holds(keyring: Keyring, sealed: Iterable[Sealed], secret: bytes) -> bool:
    """Return whether one of these ciphertexts holds this secret.

    A ciphertext that can't be decrypted doesn't hold it.
    """
    found = False
    for each in sealed:
        with suppress(UnsealError):
            found |= hmac.compare_digest(keyring.unseal(each.token, each.purpose), secret)
    return found
