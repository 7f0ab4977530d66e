"""Make the accounts, API keys and credentials that a file declares.

All changes are one transaction, so a process that fails or is killed has changed nothing in the
database, or everything. A second process waits for the first, and then finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._words import quoted
from pipelit_agents.accounts.lookup import AccountRow, read_account, storable
from pipelit_agents.accounts.models import role_of
from pipelit_agents.accounts.users import Users
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.errors import AccountError, ConfigurationError, CredentialError
from pipelit_agents.operations.accounts_file import (
    AccountsFile,
    DeclaredAgent,
    DeclaredCredential,
    DeclaredPerson,
    SecretSource,
    path_of,
    read_accounts_file,
    require_path,
)
from pipelit_agents.operations.changes import Change
from pipelit_agents.operations.issued_secrets import IssuedSecrets
from pipelit_agents.operations.secret_folder import SecretFolder

__all__ = ["apply_accounts"]

_GONE: Final = "was deactivated, which is permanent: choose another name, or take it out"


class _NothingWanted(Exception):
    """Roll back a transaction that only shows what would change."""


@discreet
def apply_accounts(
    core: Core,
    users: Users,
    credentials: Credentials,
    path: str | Path,
    environ: Mapping[str, str],
    *,
    dry_run: bool,
) -> list[Change]:
    """Apply a file; see ``Pipelit.apply``."""
    path = require_path(path)
    declared = read_accounts_file(path)
    folder = SecretFolder(path.parent / (declared.secrets or "."))
    written = False
    with ExitStack() as held:
        try:
            with core.database.writing(durable=True) as connection:
                core.database.lock(connection, "apply")
                if declared.secrets is not None:
                    # Longer than the database's lock: until the files have their names.
                    held.enter_context(folder.locked(make=not dry_run))
                run = _Run(core, users, credentials, path, environ, declared, folder, connection)
                run.apply()
                _require_wanted(dry_run)
                folder.write()
                written = True
        except _NothingWanted:
            return run.changes
        finally:
            # A commit that seems to fail may have happened: then the files are needed.
            if not written:
                folder.discard()
        folder.publish()
        for name in run.issued.open_files:
            folder.close(name)
    return run.changes


class _Run:
    """One application of a file, within one transaction."""

    def __init__(
        self,
        core: Core,
        users: Users,
        credentials: Credentials,
        path: Path,
        environ: Mapping[str, str],
        declared: AccountsFile,
        folder: SecretFolder,
        connection: Connection,
    ) -> None:
        self._core = core
        self._users = users
        self._credentials = credentials
        self._path = path
        self._environ = environ
        self._declared = declared
        self._folder = folder
        self._connection = connection
        self.changes: list[Change] = []
        self.problems: list[str] = []
        self.issued: IssuedSecrets = IssuedSecrets(core, users, folder, connection, self.changes)

    def apply(self) -> None:
        """Make all changes.

        Raises:
            ConfigurationError: Some can't be made. The message names each by its path in the file.
        """
        for name, person in self._declared.people.items():
            with self._at("people", name):
                self._person(name, person)
        for name, agent in self._declared.agents_by_owner():
            if self._lacks_owner(name, agent.owner):
                continue
            with self._at("agents", name):
                self._agent(name, agent)
        for name, credential in self._declared.credentials.items():
            with self._at("credentials", name):
                self._credential(name, credential)
        if self.problems:
            raise ConfigurationError(f"{self._path}: {'; '.join(self.problems)}")

    def _lacks_owner(self, name: str, owner: str) -> bool:
        """Return whether a new agent's owner isn't there, and note that as a problem."""
        if any(read_account(self._connection, each) is not None for each in (name, owner)):
            return False
        # A declared owner that isn't there has a problem of its own.
        if owner not in self._declared.people and owner not in self._declared.agents:
            self.problems.append(
                f"{path_of('agents', name, 'owner')}: there is no account {quoted(owner)}: declare "
                "it under people"
            )
        return True

    @contextmanager
    def _at(self, *path: str) -> Iterator[None]:
        try:
            yield
        except (AccountError, CredentialError, ValueError) as error:
            self.problems.append(f"{path_of(*path)}: {error}")

    def _person(self, name: str, person: DeclaredPerson) -> None:
        row = read_account(self._connection, name)
        if row is None:
            self.changes.append(Change("created", "person", name, person.role or ""))
            self.issued.create_with_key(
                name,
                person.keys,
                lambda key_name, expires_at: self._users.create_in(
                    self._connection,
                    name,
                    role=person.role,
                    key_name=key_name,
                    key_expires_at=expires_at,
                ).api_key.get_secret_value(),
            )
        else:
            _require_living(row, "human")
            if person.role is not None and role_of(row) != person.role:
                self._users.set_role_in(self._connection, name, person.role)
                self.changes.append(Change("changed", "person", name, f"role {person.role}"))
        self.issued.update_keys(name, person.keys)

    def _agent(self, name: str, agent: DeclaredAgent) -> None:
        row = read_account(self._connection, name)
        if row is None:
            self.changes.append(Change("created", "agent", name, f"owner {agent.owner}"))
            uris: list[str] = []

            def create(key_name: str, expires_at: datetime | None) -> str:
                new = self._users.create_agent_in(
                    self._connection,
                    name,
                    owner=agent.owner,
                    purpose=agent.purpose,
                    may_create_agents=agent.may_create_agents,
                    key_name=key_name,
                    key_expires_at=expires_at,
                )
                uris.append(new.provisioning_uri.get_secret_value())
                return new.api_key.get_secret_value()

            self.issued.create_with_key(name, agent.keys, create)
            if agent.provisioning_uri:
                self.issued.write_uri(name, uris[0])
        else:
            self._change(name, agent, row)
            if agent.provisioning_uri:
                self.issued.update_uri(name)
        self.issued.update_keys(name, agent.keys)

    def _change(self, name: str, agent: DeclaredAgent, row: AccountRow) -> None:
        _require_living(row, "agent")
        if row.owner != agent.owner:
            raise ValueError(
                f"owner is {row.owner!r} here, and an owner can't change: create another agent"
            )
        purpose = None if storable(agent.purpose, "purpose") == row.purpose else agent.purpose
        may = agent.may_create_agents
        may = None if may is None or may == bool(row.may_create_agents) else may
        changed = {"purpose": purpose, "may_create_agents": may}
        named = [field for field, value in changed.items() if value is not None]
        if named:
            self._users.change_agent_in(
                self._connection, name, purpose=purpose, may_create_agents=may
            )
            self.changes.append(Change("changed", "agent", name, ", ".join(named)))

    def _credential(self, name: str, declared: DeclaredCredential) -> None:
        value: str | dict[str, str]
        if declared.value is not None:
            value = self._secret(declared.value, "value")
        else:
            value = {
                field: self._secret(source, "fields", field)
                for field, source in declared.fields.items()
            }
        if self._credentials.has_in(
            self._connection,
            name,
            value,
            kind=declared.kind,
            public=declared.public,
            allow=declared.allow,
        ):
            return
        self._credentials.put_in(
            self._connection,
            name,
            value,
            kind=declared.kind,
            created_by=declared.created_by,
            public=declared.public,
            allow=declared.allow,
        )
        self.changes.append(Change("stored", "credential", name))

    def _secret(self, source: SecretSource, *path: str) -> str:
        if source.env is not None:
            found = self._environ.get(source.env, "")
            if not found:
                raise ValueError(f"{path_of(*path, 'env')}: {quoted(source.env)} isn't set")
            return found
        at = f"{path_of(*path, 'file')}: {quoted(source.file)}"
        file = self._path.parent / (source.file or "")
        own = self._folder.name_of(file)
        text = self._folder.pending(own) if own is not None else None
        if text is not None:
            return text
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{at} isn't UTF-8 text: encode it first") from None
        except OSError as error:
            raise ValueError(f"{at} can't be read ({error.strerror})") from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise ValueError(f"{at} is empty")
        return text


def _require_wanted(dry_run: bool) -> None:
    if dry_run:
        raise _NothingWanted


def _require_living(row: AccountRow, kind: str) -> None:
    if row.kind != kind or row.domain:
        raise ValueError(f"there is {_kind(row)} of that name")
    if not row.active:
        raise ValueError(_GONE)


def _kind(row: AccountRow) -> str:
    if row.domain:
        return f"a peer of the domain {row.domain!r}"
    return "a person" if row.kind == "human" else "an agent"
