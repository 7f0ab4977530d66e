"""Check that the encryption keys and the database belong together, and say how to restore them."""

from __future__ import annotations

from pipelit_agents._core import Core
from pipelit_agents.database.key_row import check_fitting, needs_key
from pipelit_agents.errors import ConfigurationError

__all__ = ["check_key"]


def check_key(core: Core) -> bool:
    """Check the keys; see ``Pipelit.check_key``."""
    with core.database.reading() as connection:
        if not needs_key(connection):
            return False
    url = core.database.engine.url.render_as_string()
    try:
        keyring = core.keyring()
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the database at {url} has encrypted values, so restore the key that encrypted "
            f"them: {error}"
        ) from None
    try:
        with core.database.reading() as connection:
            check_fitting(connection, keyring)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the database at {url} has values that this FIELD_ENCRYPTION_KEY can't decrypt: "
            "restore the key that encrypted them (add it after a newer one, separated by a comma), "
            f"or use another database: {error}"
        ) from None
    return True
