"""Whether a key belongs to a database: asked before anything is sealed there."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from pipelit_agents.errors import ConfigurationError, UnsealError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["require_fitting"]

# Some of the newest of each kind: one that was damaged doesn't keep everybody out.
_SAMPLES: Final = (
    "SELECT sealed FROM pipelit_credentials ORDER BY updated_at DESC LIMIT 3",
    "SELECT totp_secret FROM pipelit_users WHERE totp_secret IS NOT NULL "
    "ORDER BY created_at DESC LIMIT 3",
)


def require_fitting(connection: Connection, keyring: Keyring) -> None:
    """Makes sure that what is sealed in a database opens under these keys, or nothing is there.

    Raises:
        ConfigurationError: Something is there, and none of it opens.
    """
    tokens = [token for sample in _SAMPLES for token in connection.scalars(text(sample))]
    if tokens and not any(_opens(keyring, token) for token in tokens):
        raise ConfigurationError(
            "refused to seal anything: the FIELD_ENCRYPTION_KEY that is set opens nothing that was "
            "sealed last in this database, so it is another one's, or was replaced since this "
            "process started. Is one set in the environment, before the one in .env? See: "
            "pipelit-agents check. For a key that is lost: pipelit-agents keys forget"
        )


def _opens(keyring: Keyring, token: str) -> bool:
    try:
        keyring.require_opening(token)
    except UnsealError:
        return False
    return True
