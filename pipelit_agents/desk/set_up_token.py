"""The one-time token with which the first operator is created.

It is derived from ``FIELD_ENCRYPTION_KEY`` and from what is in the database, and it is stored
nowhere. So all processes of a server accept the same token, also after a restart. Every new person
changes it. Without the key nobody can compute it, and it has as many bits as an API key.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from typing import Final

from pydantic import SecretStr
from sqlalchemy import func, select

from pipelit_agents._discretion import discreet
from pipelit_agents.database.models import EpochRow, UserRow
from pipelit_agents.pipelit import Pipelit
from pipelit_agents.sealing.purposes import DESK_SET_UP

__all__ = ["is_set_up_token", "may_be_set_up_token", "set_up_token"]

_PREFIX: Final = "plit_setup_"
# Characters.
_LENGTH: Final = len(_PREFIX) + 43


@discreet
def set_up_token(home: Pipelit) -> SecretStr | None:
    """Return the token while there is no active operator, or else None.

    Display it to whoever starts the server, and keep it out of logs.

    Args:
        home: The accounts.

    Raises:
        ConfigurationError: There is no key to derive it from.
        StorageError: The database can't be read.
    """
    return next((SecretStr(each) for each in _tokens(home)), None)


@discreet
def is_set_up_token(home: Pipelit, token: str) -> bool:
    """Return whether this is the token, and there is no active operator.

    While a key is replaced, tokens under the older keys are accepted too.

    Args:
        home: The accounts.
        token: What a caller sent.

    Raises:
        ConfigurationError: There is no key.
        StorageError: The database can't be read.
    """
    if not may_be_set_up_token(token):
        return False
    return any(hmac.compare_digest(each, token) for each in _tokens(home))


def may_be_set_up_token(token: str) -> bool:
    """Return whether a text has the form of a token."""
    return token.startswith(_PREFIX) and len(token) == _LENGTH and token.isascii()


def _tokens(home: Pipelit) -> Iterator[str]:
    """Yield the token under each key, newest first; none if there is an active operator."""
    if home.users.has_operator():
        return
    people = select(func.count()).select_from(UserRow)
    people = people.where(UserRow.kind == "human", UserRow.domain == "")
    with home._database.reading() as connection:
        # Accounts are never deleted, so a number that has passed doesn't come again. After the
        # first operator was deactivated, an old token is as wrong as any other.
        count = connection.scalar(people) or 0
        database = connection.scalar(select(EpochRow.database_id)) or ""
    for tag in home._core.keyring().macs(DESK_SET_UP, database.encode(), str(count).encode()):
        secret = base64.urlsafe_b64encode(bytes.fromhex(tag)).decode().rstrip("=")
        yield f"{_PREFIX}{secret}"
