"""What the deployment checks look at, and the decorator that makes a function one of them."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values
from sqlalchemy import URL, Connection

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.operations.checks.finding import Finding, NoDatabase, NotApplicable
from pipelit_agents.operations.folders import folder_problems

if TYPE_CHECKING:
    from pipelit_agents.audit.trail import AuditTrail
    from pipelit_agents.database.engine import Database
    from pipelit_agents.database.key_counts import Counted
    from pipelit_agents.policy import VerificationPolicy
    from pipelit_agents.sealing.keyring import Keyring

__all__ = [
    "Deployment",
    "DeploymentCheck",
    "Installation",
    "deployment_check",
    "object_in",
    "read_json_object",
]


@dataclass(frozen=True)
class Installation:
    """The parts of a running installation that the checks look at.

    Attributes:
        database: The accounts, credentials and audit.
        keyring: Returns the keyring.
        redis_url: Returns the Redis address, or an empty string.
        check_ledger: Requires that attempts can be counted, and returns where.
        count_values: Counts the encrypted values and tags of the database by their keys.
        audit: The audit trail.
        policy: The limits of verification.
        clock: Returns Unix seconds; None for the clock of each machine.
    """

    database: Database
    keyring: Callable[[], Keyring]
    redis_url: Callable[[], str]
    check_ledger: Callable[[], str]
    count_values: Callable[[Keyring], Counted]
    audit: AuditTrail
    policy: VerificationPolicy
    clock: Callable[[], float] | None


class Deployment:
    """An installation with its files, settings and servers. All checks of a run share one.

    Args:
        installation: The accounts, keys and ledger.
        folder: The folder of ``.env`` and ``langgraph.json``.
        environ: The environment; it takes precedence over ``.env``.

    Attributes:
        folder: As passed.
        env_is_readable: Whether ``.env`` could be read, or doesn't exist.
        environ: All settings: of the environment, of ``.env`` and of ``langgraph.json``.
        database_url: The database's URL; None if it isn't a valid one.
        database_modes: The modes of the database's files, by path; empty for a server.
        open_folders: The folders in which other accounts can create files, with their modes.
        database_is_missing: Whether the database is a file that doesn't exist.
        keyring: Returns the keyring, or raises the error that names what is wrong with it.
        redis_url: Returns the Redis address, or an empty string.
        policy: The limits of verification.
        clock: Returns Unix seconds; None for the clock of each machine.
        now: Returns Unix seconds by ``clock``, or by this machine's.
    """

    def __init__(
        self, installation: Installation, folder: Path, environ: Mapping[str, str]
    ) -> None:
        self._installation = installation
        self.keyring: Callable[[], Keyring] = installation.keyring
        self.redis_url: Callable[[], str] = installation.redis_url
        self.policy: VerificationPolicy = installation.policy
        self.clock: Callable[[], float] | None = installation.clock
        self.now: Callable[[], float] = installation.clock or time.time
        self.folder = folder
        self.env_is_readable: bool
        in_file, self.env_is_readable = _read_env_file(folder / ".env")
        env = self.served_or_nothing().get("env")
        served = {str(n): str(v) for n, v in env.items()} if isinstance(env, dict) else {}
        self.environ: dict[str, str] = served | in_file | dict(environ)
        self._set_here = served.keys() | in_file.keys()
        self.database_url: URL | None = installation.database.url
        # Read the modes first, because opening the database makes its file private.
        file = self._database_file()
        self.database_modes: dict[Path, int] = {} if file is None else _modes_of(file)
        parents = [] if file is None else [file.resolve().parent]
        self.open_folders: list[str] = folder_problems([folder.resolve(), *parents])
        # An empty URL is a database in memory, and a URL with an empty path has no file either.
        self.database_is_missing: bool = self.is_sqlite and _is_missing(file or Path())

    @property
    def installed(self) -> Installation:
        """The parts that need the database.

        Checks reach the database only through this, so none of them creates an SQLite file.

        Raises:
            NoDatabase: There is none.
        """
        if self.database_is_missing:
            raise NoDatabase
        return self._installation

    def reading(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that reads the database.

        Raises:
            NoDatabase: There is none.
        """
        return self.installed.database.reading()

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file."""
        url = self.database_url
        return url is not None and url.get_backend_name() == "sqlite"

    def is_set_here(self, name: str) -> bool:
        """Return whether ``.env`` or ``langgraph.json`` has a setting."""
        return name in self._set_here

    def server_addresses(self) -> dict[str, str]:
        """Return the addresses of servers by the names of their settings."""
        found = {name: value for name, value in self.environ.items() if "://" in value}
        if self.database_url is not None:
            found["PIPELIT_DATABASE_URL"] = self.database_url.render_as_string(hide_password=False)
        if redis := self.redis_url():
            found["PIPELIT_REDIS_URL"] = redis
        return found

    def served(self) -> Mapping[str, object]:
        """Return the content of ``langgraph.json``.

        Raises:
            NotApplicable: There is no such file.
            ConfigurationError: It isn't a JSON object.
        """
        file = self.folder / "langgraph.json"
        if not file.is_file():
            raise NotApplicable("there is no langgraph.json")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            text = ""
        return read_json_object(file.name, text)

    def served_or_nothing(self) -> Mapping[str, object]:
        """Return the content of ``langgraph.json``; empty if it has none that can be read."""
        try:
            return self.served()
        except (ConfigurationError, NotApplicable):
            return {}

    def _database_file(self) -> Path | None:
        url = self.database_url
        return Path(url.database) if self.is_sqlite and url is not None and url.database else None


@dataclass(frozen=True, slots=True)
class DeploymentCheck:
    """A check that can be run.

    Attributes:
        name: Its short name.
        why: Why it matters.
        always: Whether it runs outside production too.
        look: Looks at a deployment.
    """

    name: str
    why: str
    always: bool
    look: Callable[[Deployment], Finding]


def deployment_check(
    name: str, *, why: str, always: bool = False
) -> Callable[[Callable[[Deployment], Finding]], DeploymentCheck]:
    """Make a function a deployment check.

    The function raises ``NotApplicable`` with the reason if the check doesn't apply. Any other
    error counts as a failed check.

    Args:
        name: Its short name.
        why: Why it matters.
        always: Whether it runs outside production too.
    """
    return lambda look: DeploymentCheck(name, why, always, look)


def read_json_object(name: str, text: str) -> Mapping[str, object]:
    """Return a JSON object.

    Args:
        name: Where the text is from.
        text: The text.

    Raises:
        ConfigurationError: It isn't a JSON object.
    """
    try:
        found: object = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{name} can't be read as a JSON object")
    return found


def object_in(served: Mapping[str, object], *names: str) -> Mapping[str, object]:
    """Return an object within ``langgraph.json``; empty if it isn't there.

    Raises:
        ConfigurationError: Something else is in its place.
    """
    for name in names:
        found = served.get(name) or {}
        if not isinstance(found, dict):
            raise ConfigurationError(f"langgraph.json: {name!r} must be an object")
        served = found
    return served


def _read_env_file(file: Path) -> tuple[dict[str, str], bool]:
    """Return the settings of ``.env``, and whether it could be read."""
    try:
        found = dotenv_values(file) if file.is_file() else {}
    except (OSError, UnicodeDecodeError):
        return {}, False
    return {name: value for name, value in found.items() if value}, True


def _modes_of(database: Path) -> dict[Path, int]:
    if os.name != "posix":
        return {}
    modes = {}
    for suffix in ("", "-wal", "-shm"):
        path = Path(f"{database}{suffix}")
        # If the folder can't be entered, opening the database reports that.
        with suppress(OSError):
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                modes[path] = mode
    return modes


def _is_missing(path: Path) -> bool:
    """Whether a file doesn't exist; False if that can't be determined."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
