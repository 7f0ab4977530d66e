"""What the parts of ``Credentials`` have in common: the database, and the encryption keys."""

from __future__ import annotations

from pipelit_agents._core import Core

__all__ = ["CredentialService"]


class CredentialService:
    """The base class of the parts of ``Credentials``.

    Args:
        core: The database, and the encryption keys.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
