"""One change that was made to apply a file of accounts, as ``Pipelit.apply`` returns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Change"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change that a file of accounts needed.

    Attributes:
        action: What was done.
        what: ``person``, ``agent``, ``API key``, ``provisioning URI`` or ``credential``.
        name: Its name; of an API key, the account and the key.
        detail: The file that has the secret, or what changed. Never a secret.
    """

    action: Literal["created", "changed", "issued", "revoked", "written", "stored", "closed"]
    what: Literal["person", "agent", "API key", "provisioning URI", "credential"]
    name: str
    detail: str = ""
