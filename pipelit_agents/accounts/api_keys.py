"""API keys of accounts: displayed once, stored as digests, verified at each call."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Final, NamedTuple

from pydantic import SecretStr
from sqlalchemy import Connection, insert, select, update

from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted
from pipelit_agents.accounts.lookup import find_account, require_active, storable
from pipelit_agents.accounts.models import (
    ApiKeyInfo,
    NewApiKey,
    User,
    key_info,
    user_of,
)
from pipelit_agents.accounts.service import AccountService
from pipelit_agents.database.fast_path import Flag, Query
from pipelit_agents.database.models import ApiKeyRow
from pipelit_agents.errors import (
    ApiKeyNotFound,
    AuthenticationError,
)
from pipelit_agents.ledger.common import at_moment
from pipelit_agents.protocol.usernames import OPERATOR, require_username

__all__ = ["ApiKeys"]

# The name of the key that an account is created with.
FIRST_KEY: Final = "first key"

_TOKEN: Final = re.compile(r"plit_([0-9a-f]{12})_([A-Za-z0-9_-]{43})\Z")
_KEY_ID: Final = re.compile(r"[0-9a-f]{12}\Z")


class _KeyRow(NamedTuple):
    """An API key, the account that it belongs to, and the time by the database server's clock."""

    now: float | None
    digest: str
    revoked_at: float | None
    expires_at: float | None
    last_used_at: float | None
    username: str
    kind: str
    owner: str | None
    root_owner: str
    purpose: str
    active: Flag
    may_create_agents: Flag
    created_at: float
    created_by: str
    domain: str
    role: str


# Seconds between two updates of `last_used_at`.
_LAST_USED_INTERVAL: Final = 60.0


@cache
def _reading(now: str) -> Query[_KeyRow]:
    return Query(
        f"SELECT {now} AS now, k.digest, k.revoked_at, k.expires_at, k.last_used_at, u.username, "  # noqa: S608 - our words
        "u.kind, u.owner, u.root_owner, u.purpose, u.active, u.may_create_agents, u.created_at, "
        "u.created_by, u.domain, u.role "
        "FROM pipelit_api_keys k JOIN pipelit_users u ON u.username = k.username WHERE k.id = :id",
        _KeyRow,
    )


def _fingerprint(secret: str) -> str:
    # No slow hash is needed: the secret has 256 random bits and can't be guessed.
    return hashlib.sha256(secret.encode()).hexdigest()


def _why_ended(row: _KeyRow, now: float) -> str:
    """Return why a genuine key isn't valid any more, or an empty string."""
    if row.revoked_at is not None:
        return "revoked key"
    if row.expires_at is not None and row.expires_at <= now:
        return "expired key"
    return "" if row.active else "account inactive"


def _require_key_id(key_id: object) -> None:
    if not isinstance(key_id, str) or key_id.startswith("plit_"):
        # The message doesn't repeat the input, which may be the key.
        raise ApiKeyNotFound(
            "key_id: pass the 12 characters between the underscores, not the key "
            "(pipelit-agents users keys list NAME, or list_api_keys)"
        )


def _no_api_key(key_id: str) -> ApiKeyNotFound:
    # Part of a key isn't repeated either.
    which = repr(key_id) if _KEY_ID.match(key_id) else quoted(key_id)
    return ApiKeyNotFound(f"no API key has the id {which}; see list_api_keys")


class ApiKeys(AccountService):
    """The API keys of accounts; a base class of ``Users``."""

    def issue_api_key(
        self,
        username: str,
        *,
        name: str,
        expires_at: datetime | None = None,
        by: str = OPERATOR,
    ) -> NewApiKey:
        """Create another API key for an account.

        Args:
            username: The account.
            name: The key's name in lists.
            expires_at: The time from which the key isn't accepted; with a time zone.
            by: The requester's name, for the audit.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            UserInactive: It was deactivated.
            ValueError: The name is empty or blank, or the expiry has no time zone or is past.
        """
        require_username(username)
        with self._database.writing(durable=True) as connection:
            # Otherwise a peer that is enrolled again meanwhile, which revokes all its keys, would
            # keep this one.
            self._lock_accounts(connection, username)
            return self.issue_api_key_in(
                connection, username, name=name, expires_at=expires_at, by=by
            )

    aissue_api_key: Final = off_the_loop(issue_api_key)

    def issue_api_key_in(
        self,
        connection: Connection,
        username: str,
        *,
        name: str,
        expires_at: datetime | None = None,
        by: str = OPERATOR,
    ) -> NewApiKey:
        """Create a key as ``issue_api_key`` does, in the caller's transaction."""
        if isinstance(name, str) and not name.strip():
            raise ValueError("name must say where the key is used, such as laptop")
        expires = self._expiry("expires_at", expires_at)
        row = find_account(connection, username)
        require_active(row)
        return self._insert_key(connection, row.username, name, expires, by)

    def revoke_api_key(
        self, key_id: str, *, username: str | None = None, by: str = OPERATOR
    ) -> None:
        """Revoke an API key, with immediate effect. Revoking it twice does nothing.

        Args:
            key_id: The key's public id, the middle part of the key.
            username: The only account whose key may be revoked; by default any.
            by: The requester's name, for the audit.

        Raises:
            ApiKeyNotFound: No key has that id, or it is another account's.
        """
        _require_key_id(key_id)
        with self._database.writing(durable=True) as connection:
            self.revoke_api_key_in(connection, key_id, username=username, by=by)

    arevoke_api_key: Final = off_the_loop(revoke_api_key)

    def revoke_api_key_in(
        self,
        connection: Connection,
        key_id: str,
        *,
        username: str | None = None,
        by: str = OPERATOR,
    ) -> None:
        """Revoke a key as ``revoke_api_key`` does, in the caller's transaction."""
        owner = connection.scalar(select(ApiKeyRow.username).where(ApiKeyRow.id == key_id))
        if owner is None or username not in (None, owner):
            raise _no_api_key(key_id)
        connection.execute(
            update(ApiKeyRow)
            .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
            .values(revoked_at=self._clock())
        )
        self._core.record(connection, by, owner, "key.revoke", key_id)

    def get_api_key(self, key_id: str, *, username: str | None = None) -> ApiKeyInfo:
        """Return the description of an API key, without the key itself.

        Args:
            key_id: The key's public id, the middle part of the key.
            username: The only account whose key is returned; by default any.

        Raises:
            ApiKeyNotFound: No key has that id, or it is another account's.
        """
        _require_key_id(key_id)
        with self._database.reading() as connection:
            row = connection.execute(
                select(ApiKeyRow.__table__).where(ApiKeyRow.id == key_id)
            ).one_or_none()
        if row is None or username not in (None, row.username):
            raise _no_api_key(key_id)
        return key_info(row)

    aget_api_key: Final = off_the_loop(get_api_key)

    def list_api_keys(self, username: str) -> Sequence[ApiKeyInfo]:
        """List an account's API keys without the keys themselves, oldest first.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
        """
        require_username(username)
        with self._database.reading() as connection:
            return self.list_api_keys_in(connection, username)

    alist_api_keys: Final = off_the_loop(list_api_keys)

    def list_api_keys_in(self, connection: Connection, username: str) -> Sequence[ApiKeyInfo]:
        """List keys as ``list_api_keys`` does, in the caller's transaction."""
        name = find_account(connection, username).username
        rows = connection.execute(
            select(ApiKeyRow.__table__)
            .where(ApiKeyRow.username == name)
            .order_by(ApiKeyRow.created_at, ApiKeyRow.id)
        ).all()
        return [key_info(row) for row in rows]

    @discreet
    def key_id_of_in(self, connection: Connection, username: str, token: str) -> str | None:
        """Return the id of an account's API key if the key is genuine, or None.

        Nothing is recorded: it identifies a key that an operator has, and admits nobody.
        """
        found = _TOKEN.match(token)
        if found is None:
            return None
        key_id, secret = found.groups()
        digest = connection.scalar(
            select(ApiKeyRow.digest).where(ApiKeyRow.id == key_id, ApiKeyRow.username == username)
        )
        genuine = hmac.compare_digest(_fingerprint(secret), digest or "0" * 64)
        return key_id if genuine else None

    @discreet
    def authenticate(self, bearer_token: str) -> User:
        """Return the account that an API key belongs to.

        A failure is recorded. It never locks the account, because the key can't be guessed. Of many
        failures, the first twenty are recorded one by one, and the others as a number. A success is
        recorded if the key was last used more than a minute ago.

        Args:
            bearer_token: The token after ``Bearer`` in the ``Authorization`` header.

        Raises:
            AuthenticationError: It isn't a key, it was revoked or has expired, or its account was
                deactivated. The message is the same; only the audit has the reason.
            TypeError: It isn't text. For a ``SecretStr``, pass its ``get_secret_value()``.
        """
        if isinstance(bearer_token, SecretStr):
            # A request's header is never a SecretStr, so this reveals nothing to strangers.
            raise TypeError(
                "bearer_token must be text, not SecretStr: pass api_key.get_secret_value()"
            )
        found = _TOKEN.match(bearer_token) if isinstance(bearer_token, str) else None
        key_id, secret = found.groups() if found else ("", "")
        row, now = self._read_key(key_id)
        genuine = hmac.compare_digest(_fingerprint(secret), row.digest if row else "0" * 64)
        reason = ""
        if row is None or not genuine:
            reason = "unknown key" if found else "malformed key"
        else:
            reason = _why_ended(row, now)
        who = row.username if row is not None and genuine else ""
        if reason or row is None:
            self.refusals.note(who, reason)
            raise AuthenticationError
        if row.last_used_at is None or row.last_used_at <= now - _LAST_USED_INTERVAL:
            with self._database.writing() as connection:
                connection.execute(
                    update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_used_at=now)
                )
                self._core.record(connection, who, who, "authenticate", key_id)
        return user_of(row)

    aauthenticate: Final = off_the_loop(authenticate)

    def holder_of_key(self, key_id: str) -> User:
        """Return the account of an API key that ``authenticate`` accepted before, as it is now.

        Ask it again where time has passed since then, such as before each part of a long answer.
        Nothing is recorded, and a public id alone authenticates nobody.

        Args:
            key_id: The key's public id, the middle part of the key.

        Raises:
            AuthenticationError: The key was revoked or has expired, its account was deactivated, or
                there is no such key.
            ApiKeyNotFound: It isn't an id, but a key.
        """
        _require_key_id(key_id)
        row, now = self._read_key(key_id)
        if row is None or _why_ended(row, now):
            raise AuthenticationError
        return user_of(row)

    aholder_of_key: Final = off_the_loop(holder_of_key)

    def _read_key(self, key_id: str) -> tuple[_KeyRow | None, float]:
        """Return an API key if there is one, and the time by the clock that all processes share."""
        rows = self._database.fetch(_reading(self._database.server_clock), {"id": key_id})
        row = rows[0] if rows else None
        return row, at_moment(self._core.shared_clock, row.now if row else None)

    def _insert_key(
        self,
        connection: Connection,
        username: str,
        name: str,
        expires_at: float | None,
        created_by: str,
    ) -> NewApiKey:
        key_id = secrets.token_hex(6)
        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii").rstrip("=")
        connection.execute(
            insert(ApiKeyRow).values(
                id=key_id,
                username=username,
                name=storable(name, "name")[:149],
                digest=_fingerprint(secret),
                last_four=secret[-4:],
                created_at=self._clock(),
                created_by=storable(created_by, "created_by")[:149],
                expires_at=expires_at,
            )
        )
        self._core.record(connection, created_by, username, "key.issue", key_id)
        return NewApiKey(key_id, username, SecretStr(f"plit_{key_id}_{secret}"))
