"""Issue the API keys and provisioning URIs that a file of accounts declares, each into a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from pipelit_agents._core import Core
from pipelit_agents.accounts.models import ApiKeyInfo
from pipelit_agents.accounts.users import Users
from pipelit_agents.operations.accounts_file import DeclaredKey
from pipelit_agents.operations.changes import Change
from pipelit_agents.operations.secret_folder import SecretFolder

__all__ = ["IssuedSecrets"]


class IssuedSecrets:
    """Issues the secrets that aren't in their files yet, within one transaction.

    Args:
        core: The clock.
        users: Issues and revokes API keys.
        folder: The folder of the files.
        connection: The transaction.
        changes: Each change is added to it.

    Attributes:
        open_files: The files that others can read, and that are closed after the transaction.
    """

    def __init__(
        self,
        core: Core,
        users: Users,
        folder: SecretFolder,
        connection: Connection,
        changes: list[Change],
    ) -> None:
        self._core = core
        self._users = users
        self._folder = folder
        self._connection = connection
        self._changes = changes
        self.open_files: list[str] = []

    def create_with_key(
        self,
        name: str,
        keys: Mapping[str, DeclaredKey],
        create: Callable[[str, datetime | None], str],
    ) -> None:
        """Create an account with its first declared key, or with one that is revoked at once."""
        if keys:
            first, declared = next(iter(keys.items()))
            token = create(first, self._expiry(declared))
            self._issue(name, first, token)
        else:
            token = create("unused", None)
            self._users.revoke_api_key_in(self._connection, token.split("_")[1])

    def update_keys(self, name: str, keys: Mapping[str, DeclaredKey]) -> None:
        """Issue the declared keys that no file has, and revoke those of their names."""
        found = self._users.list_api_keys_in(self._connection, name)
        now = self._now()
        for key_name, declared in keys.items():
            living = {
                each.id: each
                for each in found
                if each.name == key_name
                and each.revoked_at is None
                and (each.expires_at is None or each.expires_at > now)
            }
            kept = self._kept_key(name, key_name, declared, living)
            if kept is None:
                new = self._users.issue_api_key_in(
                    self._connection, name, name=key_name, expires_at=self._expiry(declared)
                )
                self._issue(name, key_name, new.api_key.get_secret_value())
            for key_id in living.keys() - {kept}:
                # Its file is lost, or it doesn't have the declared expiry.
                self._users.revoke_api_key_in(self._connection, key_id)
                self._changes.append(
                    Change("revoked", "API key", f"{name} {key_name}", f"id {key_id}")
                )

    def _kept_key(
        self, name: str, key_name: str, declared: DeclaredKey, living: Mapping[str, ApiKeyInfo]
    ) -> str | None:
        """Return the id of the key that is in its file and fits, or None."""
        file = _key_file(name, key_name)

        def fits(token: str | None) -> str | None:
            if token is None:
                return None
            key_id = self._users.key_id_of_in(self._connection, name, token)
            if key_id is None or key_id not in living:
                return None
            at = declared.expires_at
            return key_id if at is None or living[key_id].expires_at == at else None

        if key_id := fits(self._folder.read(file)):
            self._close("API key", f"{name} {key_name}", file)
            return key_id
        for path, token in self._folder.left_over(file):
            if key_id := fits(token):
                self._adopt("API key", f"{name} {key_name}", file, path)
                return key_id
        return None

    def update_uri(self, name: str) -> None:
        """Keep the URI that is in its file, or write one with a new TOTP secret."""
        file = _uri_file(name)
        stored = self._folder.read(file)
        if stored is not None and self._users.has_secret_in(self._connection, name, stored):
            self._close("provisioning URI", name, file)
            return
        for path, left in self._folder.left_over(file):
            if self._users.has_secret_in(self._connection, name, left):
                self._adopt("provisioning URI", name, file, path)
                return
        uri = self._users.rotate_totp_in(self._connection, name).get_secret_value()
        self._changes.append(Change("changed", "agent", name, "TOTP secret: its file was missing"))
        self.write_uri(name, uri)

    def _issue(self, account: str, key: str, token: str) -> None:
        file = _key_file(account, key)
        stored = self._folder.read(file)
        # It may be the only copy of another database's key.
        own = stored and self._users.key_id_of_in(self._connection, account, stored)
        if stored is not None and not own:
            raise ValueError(
                f"keys.{key}: {self._shown(file)} has no key of this account in this database: "
                "move that file away to get a new key"
            )
        self._folder.stage(file, token)
        self._changes.append(Change("issued", "API key", f"{account} {key}", self._shown(file)))

    def write_uri(self, name: str, uri: str) -> None:
        """Write the URI of an agent.

        Raises:
            ValueError: The file has another one.
        """
        file = _uri_file(name)
        if self._folder.read(file) is not None:
            raise ValueError(
                f"provisioning_uri: {self._shown(file)} has another TOTP secret than the agent: "
                "move that file away to give the agent a new secret"
            )
        self._folder.stage(file, uri)
        self._changes.append(Change("written", "provisioning URI", name, self._shown(file)))

    def _adopt(
        self, what: Literal["API key", "provisioning URI"], name: str, file: str, path: Path
    ) -> None:
        remark = ": others could read it" if self._folder.adopt(file, path) else ""
        self._changes.append(Change("written", what, name, f"{self._shown(file)}{remark}"))

    def _close(self, what: Literal["API key", "provisioning URI"], name: str, file: str) -> None:
        if file not in self._folder.staged and self._folder.is_open(file):
            self.open_files.append(file)
            self._changes.append(
                Change("closed", what, name, f"{self._shown(file)}: others could read it")
            )

    def _shown(self, file: str) -> str:
        return str(self._folder.path / file)

    def _expiry(self, declared: DeclaredKey) -> datetime | None:
        if declared.expires_in is None:
            return declared.expires_at
        return self._now() + declared.expires_in

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._core.shared_now(self._connection), UTC)


def _key_file(account: str, key: str) -> str:
    return f"{account}/{key}.key"


def _uri_file(account: str) -> str:
    return f"{account}/provisioning.uri"
