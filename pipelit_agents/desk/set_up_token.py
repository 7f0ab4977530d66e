"""The one-time token with which the first operator is created.

It is derived from ``FIELD_ENCRYPTION_KEY`` and from what is in the database, and it is stored
nowhere. So all processes of a server accept the same token, also after a restart. Every new person
changes it, and so does every role that is changed and every person who is deactivated: an old log
has no token that is good again. Without the key nobody can compute it, and it has as many bits as
an API key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import math
from collections.abc import Iterator
from typing import Final

from pydantic import SecretStr
from sqlalchemy import func, select

from pipelit_agents._discretion import discreet
from pipelit_agents._threads import aside
from pipelit_agents.database.models import AuditRow, EpochRow, UserRow
from pipelit_agents.pipelit import Pipelit
from pipelit_agents.sealing.purposes import DESK_SET_UP

__all__ = ["SetUpTokens", "is_set_up_token", "may_be_set_up_token", "set_up_token"]

_PREFIX: Final = "plit_setup_"
# Characters.
_LENGTH: Final = len(_PREFIX) + 43
# Seconds for which the tokens are remembered, so that guesses don't keep the database busy.
_TTL: Final = 1.0


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


class SetUpTokens:
    """Recognize the token on an event loop.

    However many tokens are guessed, the database is asked once a second. So guesses need no budget,
    and nobody keeps the one who has the token from setting up.

    Args:
        home: The accounts.
    """

    def __init__(self, home: Pipelit) -> None:
        self._home = home
        self._digests: tuple[bytes, ...] = ()
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None

    async def accept(self, token: str) -> bool:
        """Return whether this is the token, as ``is_set_up_token`` does."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._read_at >= _TTL:
            if self._reading is None or self._reading.get_loop() is not loop:
                self._reading = asyncio.ensure_future(self._read())
            # Many requests wait for one read, and one that is cancelled doesn't end it.
            await asyncio.shield(self._reading)
        digest = _digest(token)
        if not any(hmac.compare_digest(each, digest) for each in self._digests):
            return False
        return await aside(is_set_up_token, self._home, token)

    async def _read(self) -> None:
        try:
            self._digests = await aside(_digests, self._home)
            self._read_at = asyncio.get_running_loop().time()
        finally:
            self._reading = None


def _digests(home: Pipelit) -> tuple[bytes, ...]:
    return tuple(_digest(each) for each in _tokens(home))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _tokens(home: Pipelit) -> Iterator[str]:
    """Yield the token under each key, newest first; none if there is an active operator."""
    if home.users.has_operator():
        return
    people = select(UserRow.username).where(UserRow.kind == "human", UserRow.domain == "")
    changes = select(func.max(AuditRow.id)).where(
        AuditRow.subject.in_(people), AuditRow.action.in_(("user.role", "user.deactivate"))
    )
    with home._database.reading() as connection:
        # Accounts are never deleted, so a number that has passed doesn't come again. A person can
        # also become the operator and cease to be it: that is in the audit.
        count = connection.scalar(select(func.count()).select_from(people.subquery())) or 0
        newest = connection.scalar(changes) or 0
        database = connection.scalar(select(EpochRow.database_id)) or ""
    for tag in home._core.keyring().macs(
        DESK_SET_UP, database.encode(), f"{count}:{newest}".encode()
    ):
        secret = base64.urlsafe_b64encode(bytes.fromhex(tag)).decode().rstrip("=")
        yield f"{_PREFIX}{secret}"
