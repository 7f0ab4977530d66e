"""Storage: private files, migrations, and errors that name the setting."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import fresh
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from conftest import Clock
from internals import database_of
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError

from pipelit_agents import Agent, Keyring, Pipelit, Proof
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Query, Statement
from pipelit_agents.database.locks import lock_key
from pipelit_agents.database.machine import boot_id
from pipelit_agents.database.maintenance import create_schema, pending_migrations
from pipelit_agents.database.models import Base
from pipelit_agents.database.schema import alembic_config
from pipelit_agents.errors import (
    CodeRejected,
    ConfigurationError,
    PeerLocked,
    ProofRejected,
    RateLimited,
    StorageError,
)


def run(program: str, *arguments: str, cwd: Path | None = None) -> str:
    """Runs a program in a process of its own, without our settings."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=clean(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_imported(program: str, *arguments: str) -> str:
    """The same where it doesn't matter what is imported already."""
    done = fresh.run(program, clean(), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def clean() -> dict[str, str]:
    """The environment without our settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("FIELD_", "PIPELIT_"))}


def mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.process
def test_importing_opens_no_driver_and_no_graph() -> None:
    """``import pipelit_agents`` imports neither LangGraph nor a database driver nor alembic."""
    program = """
import sys
import pipelit_agents
unwanted = {"langgraph", "sqlite3", "alembic", "psycopg", "redis", "langchain"}
print(sorted(unwanted & set(sys.modules)))
"""
    assert run(program) == "[]\n"


@pytest.mark.process
def test_from_env_with_nothing_set_opens_nothing(tmp_path: Path) -> None:
    """At import time of a graph module there may be no key, no database and no folder yet."""
    program = """
import sys
from pipelit_agents import Pipelit
pipelit = Pipelit.from_env()
agent = pipelit.agent("agent_writer")
@pipelit.credentials.inject(api_key="openai")
def node(state, *, api_key): ...
print(sorted({"sqlite3", "langgraph", "alembic"} & set(sys.modules)), repr(pipelit), agent)
"""
    assert run(program, cwd=tmp_path) == "[] Pipelit() Agent('agent_writer')\n"
    assert list(tmp_path.iterdir()) == []


def test_from_env_reads_dot_env_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings come from ``.env``, the environment wins, the default file is ``.pipelit``'s."""
    monkeypatch.chdir(tmp_path)
    for name in ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(f"FIELD_ENCRYPTION_KEY={Keyring.generate_key()}\n")
    with Pipelit.from_env() as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    assert (tmp_path / ".pipelit" / "agents.db").exists()
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{tmp_path}/other.db")
    with Pipelit.from_env() as pipelit:
        pipelit.create_schema()
    assert (tmp_path / "other.db").exists()


@pytest.mark.process
def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    """The folder is 0700, and the file, its -wal and its -shm 0600, also under umask 0."""
    program = """
import os, sys
os.umask(0)
from pipelit_agents import Keyring, Pipelit
with Pipelit(database_url=sys.argv[1], encryption_keys=[Keyring.generate_key()]) as pipelit:
    pipelit.create_schema()
    pipelit.users.create("alice")
    for each in sorted(os.listdir(sys.argv[2])):
        print(each, oct(os.stat(os.path.join(sys.argv[2], each)).st_mode & 0o7777))
"""
    folder = tmp_path / "pipelit"
    out = run_imported(program, f"sqlite:///{folder}/agents.db", str(folder))
    assert out.splitlines() == [
        "agents.db 0o600",
        "agents.db-shm 0o600",
        "agents.db-wal 0o600",
    ]
    assert mode(folder) == 0o700


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path, key: str) -> None:
    """An existing file with wide permissions is narrowed when it is opened."""
    path = tmp_path / "agents.db"
    path.touch()
    path.chmod(0o666)
    with Pipelit(database_url=f"sqlite:///{path}", encryption_keys=[key]) as pipelit:
        pipelit.create_schema()
        assert mode(path) == 0o600


@pytest.mark.backends("sqlite")
def test_the_key_is_not_beside_the_database(pipelit: Pipelit, database_url: str, key: str) -> None:
    """No file in the database's folder holds the key."""
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    folder = Path(database_url.removeprefix("sqlite:///")).parent
    for each in folder.iterdir():
        assert key.encode() not in each.read_bytes()


@pytest.mark.backends("sqlite")
def test_connections_are_set_up(pipelit: Pipelit) -> None:
    """WAL and foreign keys are on for every connection; without a boot id nothing is lazy."""
    for transaction in (database_of(pipelit).reading, database_of(pipelit).writing):
        with transaction() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert connection.scalar(text("PRAGMA foreign_keys")) == 1
            assert connection.scalar(text("PRAGMA synchronous")) == (1 if boot_id() else 2)
    with (
        pytest.raises(StorageError, match="FOREIGN KEY"),
        database_of(pipelit).writing() as connection,
    ):
        connection.execute(
            text(
                "INSERT INTO pipelit_api_keys (id, username, name, digest, last_four, created_at, "
                "created_by) VALUES ('i', 'nobody', 'n', 'd', 'l', 0, 'o')"
            )
        )


def test_a_transaction_is_all_or_nothing(pipelit: Pipelit) -> None:
    """An exception inside ``writing`` undoes what was written, and comes out as it is."""

    def work() -> None:
        with database_of(pipelit).writing() as connection:
            connection.execute(text("DELETE FROM pipelit_epoch"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pipelit_epoch")) == 1


def test_a_schema_can_be_made_twice(pipelit: Pipelit) -> None:
    """``create_schema`` on a migrated database changes nothing."""
    assert pending_migrations(database_of(pipelit)) is False
    pipelit.create_schema()
    assert pending_migrations(database_of(pipelit)) is False
    assert pipelit.users.get("alice")


def test_an_empty_database_has_pending_migrations(database_url: str) -> None:
    """Before ``create_schema`` there is something to migrate."""
    if (path := make_url(database_url).database) and database_url.startswith("sqlite"):
        Path(path).parent.mkdir()
        Path(path).touch()
    database = Database(lambda: database_url)
    assert pending_migrations(database) is True
    create_schema(database)
    assert pending_migrations(database) is False
    database.close()


def test_a_mistyped_address_makes_no_file(tmp_path: Path) -> None:
    """Whoever uses a database where none is, is told the whole path, and makes no file."""
    pipelit = Pipelit(
        database_url=f"sqlite:///{tmp_path}/agnets/agents.db",
        encryption_keys=[Keyring.generate_key()],
    )
    for use in (pipelit.users.list, lambda: pipelit.users.create("alice")):
        with pytest.raises(StorageError, match=rf"no database at {tmp_path}/agnets/agents\.db"):
            use()
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_a_schema_can_be_made_by_two_processes_at_once(tmp_path: Path, clock: Clock) -> None:
    """Of processes that migrate a fresh file at once all succeed, and the tables are whole."""
    program = """
import multiprocessing
import sys
from pipelit_agents import Pipelit

fork = multiprocessing.get_context("fork")
barrier = fork.Barrier(3)

def make():
    with Pipelit(database_url=sys.argv[1], encryption_keys=[]) as pipelit:
        barrier.wait(60)
        pipelit.create_schema()

processes = [fork.Process(target=make) for _ in range(3)]
for each in processes:
    each.start()
for each in processes:
    each.join()
print([each.exitcode for each in processes])
"""
    url = f"sqlite:///{tmp_path}/agents.db"
    assert run_imported(program, url) == "[0, 0, 0]\n"
    with Pipelit(database_url=url, encryption_keys=[], clock=clock) as pipelit:
        assert pending_migrations(database_of(pipelit)) is False
        assert pipelit.users.create("alice")


@pytest.mark.slow
def test_schemas_of_two_databases_can_be_made_at_once(tmp_path: Path) -> None:
    """Threads that migrate different files don't get into each other's way."""
    databases = [Database(lambda n=n: f"sqlite:///{tmp_path}/{n}.db") for n in range(6)]
    threads = [Thread(target=create_schema, args=(database,)) for database in databases]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [pending_migrations(database) for database in databases] == [False] * 6
    for database in databases:
        database.close()


def test_models_and_migrations_agree(pipelit: Pipelit) -> None:
    """Autogenerate finds no difference between the models and the migrated tables."""
    with database_of(pipelit).reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "pipelit_version", "compare_type": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_tables_of_the_application_are_left_alone(pipelit: Pipelit) -> None:
    """All our tables begin with ``pipelit_``, and migrating leaves others as they are."""
    assert all(name.startswith("pipelit_") for name in Base.metadata.tables)
    with database_of(pipelit).writing() as connection:
        connection.execute(text("CREATE TABLE mine (id INTEGER)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
    pipelit.create_schema()
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM mine")) == 0


@pytest.mark.backends("sqlite", "postgres")
def test_a_newer_database_is_refused_with_words(pipelit: Pipelit, settings: dict[str, Any]) -> None:
    """An older library uses no table of a newer one, and says what to install; nothing changes."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_version SET version_num = '9999'"))
    with Pipelit(**settings) as older:
        for use in (
            older.create_schema,
            older.users.list,
            lambda: older.users.create("bob"),
            lambda: older.users.authenticate("nonsense"),
            lambda: older.agent("agent_x").verify_peer("agent_y", "12345678"),
            older.audit.seal,
            lambda: pending_migrations(database_of(older)),
        ):
            with pytest.raises(StorageError) as caught:
                use()
            for word in ("newer pipelit-agents", "9999", "pip install", "PIPELIT_DATABASE_URL"):
                assert word in str(caught.value)
        assert "newer pipelit-agents" in next(
            each.found for each in older.check() if each.name == "tables"
        )
    # What runs already goes on until it is started again.
    assert [each.username for each in pipelit.users.list()] == ["alice"]


def test_tables_from_before_the_first_release_are_refused(
    pipelit: Pipelit, settings: dict[str, Any]
) -> None:
    """Their migrations are gone, so nothing uses them, and the error says what to do instead."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_version SET version_num = '0009'"))
    with Pipelit(**settings) as released:
        for use in (released.create_schema, released.users.list):
            with pytest.raises(StorageError) as caught:
                use()
            for word in ("before the first", "0009", "0010", "empty", "PIPELIT_DATABASE_URL"):
                assert word in str(caught.value)


@pytest.mark.backends("sqlite")
def test_tables_that_couldnt_be_looked_at_are_looked_at_again(
    pipelit: Pipelit, settings: dict[str, Any]
) -> None:
    """A first use before there are tables, or a server, isn't the last word."""
    rename = "ALTER TABLE {} RENAME TO {}"
    with Pipelit(**settings) as older:
        with database_of(pipelit).writing() as connection:
            connection.execute(text(rename.format("pipelit_version", "away")))
        assert older.users.list()
        with database_of(pipelit).writing() as connection:
            connection.execute(text(rename.format("away", "pipelit_version")))
            connection.execute(text("UPDATE pipelit_version SET version_num = '9999'"))
        with pytest.raises(StorageError, match="newer pipelit-agents"):
            older.users.list()


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("to", ["-1", "base"])
def test_there_is_no_way_back_to_older_tables(pipelit: Pipelit, to: str) -> None:
    """Alembic's downgrade is refused with the fix, before anything is changed."""

    def downgrade() -> None:
        with database_of(pipelit).writing() as connection:
            config = alembic_config()
            config.attributes["connection"] = connection
            command.downgrade(config, to)

    with pytest.raises(CommandError, match="restore the copy"):
        downgrade()
    assert pending_migrations(database_of(pipelit)) is False
    assert pipelit.users.get("alice")


def test_an_unmigrated_database_says_what_to_run(database_url: str, key: str) -> None:
    """Before ``create_schema`` every use is a StorageError with the command and the setting."""
    with Pipelit(database_url=database_url, encryption_keys=[key]) as pipelit:
        for use in (
            lambda: pipelit.users.create("alice"),
            pipelit.users.list,
            lambda: pipelit.users.authenticate("nonsense"),
            pipelit.credentials.list,
            pipelit.audit.list,
            pipelit.agent("agent_x").totp_code,
        ):
            with pytest.raises(StorageError) as caught:
                use()
            for word in ("pipelit.create_schema()", "pipelit-agents init", "PIPELIT_DATABASE_URL"):
                assert word in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:shared?mode=memory&cache=shared&uri=true",
        "sqlite:///file:agents.db?vfs=memdb&uri=true",
        "sqlite:///agents.db?mode=ro",
    ],
)
def test_a_database_in_memory_is_refused(
    url: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL that names no file of its own is a ConfigurationError, and makes no file."""
    monkeypatch.chdir(tmp_path)
    pipelit = Pipelit(database_url=url, encryption_keys=[key])
    with pytest.raises(
        ConfigurationError, match=r"PIPELIT_DATABASE_URL \(database_url=\) must name a file"
    ):
        pipelit.create_schema()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["", "nonsense", "nosuch://host/db", "sqlite+nosuch:///x.db", "sqlite+aiosqlite:///x.db"]
)
def test_a_url_that_is_none_names_the_setting(url: str, key: str) -> None:
    """A URL that can't be used is a ConfigurationError at first use."""
    pipelit = Pipelit(database_url=url, encryption_keys=[key])
    with pytest.raises(ConfigurationError, match="PIPELIT_DATABASE_URL"):
        pipelit.users.list()


def test_a_folder_that_can_not_be_made_names_the_setting(tmp_path: Path, key: str) -> None:
    """A path under a file is a ConfigurationError that names path and setting."""
    (tmp_path / "file").touch()
    pipelit = Pipelit(database_url=f"sqlite:///{tmp_path}/file/agents.db", encryption_keys=[key])
    with pytest.raises(ConfigurationError, match="PIPELIT_DATABASE_URL"):
        pipelit.create_schema()


def test_errors_repeat_neither_values_nor_sqlalchemys_causes(pipelit: Pipelit) -> None:
    """A StorageError has the driver's words, without statement, parameters or chained causes."""
    with pytest.raises(StorageError) as caught, database_of(pipelit).writing() as connection:
        connection.execute(
            text("INSERT INTO pipelit_epoch (id, boot_id, changed_at) VALUES (1, :secret, 0)"),
            {"secret": "sk-live-1"},
        )
    assert "sk-live-1" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert isinstance(caught.value.__context__, IntegrityError)


def test_it_goes_on_after_close(pipelit: Pipelit) -> None:
    """``close`` closes connections; the next use opens new ones."""
    pipelit.close()
    assert pipelit.users.get("alice")


def test_threads_open_one_engine(database_url: str) -> None:
    """Many threads at first use share one pool of connections."""
    database = Database(lambda: database_url)
    create_schema(database)
    database.close()
    found = []
    threads = [Thread(target=lambda: found.append(database.engine)) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({id(each) for each in found}) == 1
    database.close()


class Number(NamedTuple):
    """A row with one number."""

    rows: int


def counted(database: Database) -> int:
    """How many rows the audit has, by a statement of the driver's."""
    (row,) = database.fetch(Query("SELECT count(*) AS rows FROM pipelit_audit", Number), {})
    return int(row.rows)


@pytest.mark.backends("sqlite", "postgres")
def test_what_fails_leaves_no_transaction_to_the_next(pipelit: Pipelit) -> None:
    """After a refused statement, alone or behind another, nothing was written and all goes on."""
    database = database_of(pipelit)
    before = counted(database)
    wrong = Query("SELECT 1 AS rows FROM pipelit_nowhere", Number)

    def decide() -> None:
        with database.deciding() as inside:
            Statement("DELETE FROM pipelit_audit").write(inside, {})
            wrong.fetch(inside, {})

    for _ in range(3):
        with pytest.raises(StorageError, match="pipelit_nowhere"):
            database.fetch(wrong, {})
        with pytest.raises(StorageError, match="pipelit_nowhere"):
            decide()
    assert counted(database) == before
    pipelit.users.create("bob")


def test_the_fields_of_a_row_are_the_columns_in_their_order(pipelit: Pipelit) -> None:
    """Values are assigned by their order, so a query with other columns is refused."""
    for columns in ("count(*) AS number", "1 AS rows, 2 AS more", "1"):
        query = Query(f"SELECT {columns} FROM pipelit_audit", Number)  # noqa: S608 - our words
        with pytest.raises(TypeError, match="Number must have the fields"):
            database_of(pipelit).fetch(query, {})
    assert counted(database_of(pipelit))


@pytest.mark.backends("sqlite")
def test_a_connection_that_is_kept_holds_no_transaction(
    pipelit: Pipelit, database_url: str
) -> None:
    """Between two checks another process has the file to itself."""
    with database_of(pipelit).deciding() as inside:
        Statement("UPDATE pipelit_audit SET reason = reason").write(inside, {})
    counted(database_of(pipelit))
    path = make_url(database_url).database or ""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
        busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy


def test_more_threads_than_connections_each_read(pipelit: Pipelit) -> None:
    """Sixty-four threads read at once, again and again, and few connections stay open."""
    database = database_of(pipelit)
    expected = counted(database)
    found: list[int] = []

    def read() -> None:
        found.extend(counted(database) for _ in range(20))

    threads = [Thread(target=read) for _ in range(64)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [expected] * 64 * 20
    assert database._opened
    assert len(database._opened.spare) <= 16


@pytest.mark.backends("sqlite")
def test_close_closes_what_was_kept(pipelit: Pipelit, database_url: str) -> None:
    """After ``close`` the write-ahead log is gone, as the last connection takes it with it."""
    log = Path(f"{make_url(database_url).database}-wal")
    counted(database_of(pipelit))
    assert log.exists()
    pipelit.close()
    assert not log.exists()


@pytest.mark.backends("sqlite")
def test_what_was_in_use_while_it_was_closed_is_not_kept(pipelit: Pipelit, tmp_path: Path) -> None:
    """After ``close`` and with another file in its place, nothing reads or writes the old one."""
    database = database_of(pipelit)
    pipelit.backup(tmp_path / "copy.db")
    with database.deciding() as inside:
        Statement("DELETE FROM pipelit_audit").write(inside, {})
        database.close()
        assert counted(database)
    assert not counted(database)
    database.close()
    (tmp_path / "copy.db").replace(database.url.database or "")  # type: ignore[union-attr]
    rows = counted(database)
    with database.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pipelit_audit")) == rows > 0


def is_closed(connection: Any) -> bool:
    """Whether a driver's connection is closed: sqlite3 says so by refusing, psycopg is asked."""
    if hasattr(connection, "closed"):
        return bool(connection.closed)
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("how", ["reading", "writing", "deciding", "late", "failing"])
def test_what_comes_back_after_close_is_closed(pipelit: Pipelit, how: str) -> None:
    """Nothing is left for the garbage collector, whatever the connection was in use for."""
    database = database_of(pipelit)
    used: list[Any] = []
    if how in ("reading", "writing"):
        with getattr(database, how)() as connection:
            used.append(connection.connection.dbapi_connection)
            database.close()
            assert not is_closed(used[0])
    elif how == "late":
        # This thread had seen it open, and takes and gives back a connection afterwards.
        opened = database._ready()
        database.close()
        for _ in range(2):
            driver = opened.take()
            used.append(driver.dbapi_connection)
            opened.give_back(driver)
    else:
        with suppress(ZeroDivisionError), database.deciding() as inside:
            used.append(inside.connection.dbapi_connection)
            database.close()
            assert not is_closed(used[0])
            if how == "failing":
                raise ZeroDivisionError
    assert all(is_closed(each) for each in used)
    assert counted(database)


@pytest.mark.slow
def test_it_may_be_closed_under_its_users(pipelit: Pipelit, editor: Agent, writer: Agent) -> None:
    """Threads that check go on while another closes, again and again; each check is on record."""
    before, seen = len(pipelit.audit.list(limit=10_000)), list[BaseException]()
    done = Event()

    def check() -> None:
        for _ in range(60):
            try:
                writer.verify_proof(
                    Proof("agent_editor", "agent_writer", 1, "0" * 64),
                    challenge=writer.challenge("agent_editor"),
                    payload=b"",
                )
            except BaseException as error:
                seen.append(error)

    def close() -> None:
        while not done.is_set():
            pipelit.close()

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [Thread(target=check) for _ in range(4)]
        closer = Thread(target=close)
        for each in (*threads, closer):
            each.start()
        for each in threads:
            each.join()
    finally:
        done.set()
        closer.join()
        sys.setswitchinterval(usual)
    assert {type(each) for each in seen} == {ProofRejected}
    assert len(pipelit.audit.list(limit=10_000)) - before == len(seen) == 240


@pytest.mark.process
def test_a_forked_child_opens_connections_of_its_own(tmp_path: Path) -> None:
    """After a fork the child uses none of the parent's connections, and both go on."""
    program = """
import os, sys
from pipelit_agents import Keyring, Pipelit
with Pipelit(database_url=sys.argv[1], encryption_keys=[Keyring.generate_key()]) as pipelit:
    pipelit.create_schema()
    engine = pipelit._database.engine
    pipelit.users.list()
    with pipelit._database.deciding():
        pass
    assert pipelit._database._opened.spare
    with pipelit._database.writing():
        child = os.fork()
        if not child:
            assert pipelit._database.engine is not engine
            assert pipelit.users.list() == []
            assert not pipelit._database._opened.spare
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert pipelit._database.engine is engine
    print(pipelit.users.create("alice").username)
"""
    assert run_imported(program, f"sqlite:///{tmp_path}/agents.db") == "alice\n"


@pytest.mark.backends("sqlite", "postgres")
def test_numbers_that_grow_for_ever_have_room(pipelit: Pipelit) -> None:
    """Audit entries and attempts may be more than fit into 32 bits."""
    with database_of(pipelit).writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT setval('pipelit_audit_id_seq', 4000000000)"))
        else:
            connection.execute(text("UPDATE pipelit_audit SET id = id + 4000000000"))
        connection.execute(
            text(
                "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, "
                "locked_until, spent_step) VALUES ('x', 'peer', '', 4000000000, 0, '', 0, -1)"
            )
        )
    pipelit.users.create("bob")
    assert pipelit.audit.list(limit=1)[0].id > 4_000_000_000


@pytest.mark.backends("postgres")
def test_models_and_migrations_agree_on_a_server_too(pipelit: Pipelit) -> None:
    """Autogenerate finds no difference there either."""
    with database_of(pipelit).reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "pipelit_version", "compare_type": True}
        )
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.backends("postgres")
def test_names_whose_locks_are_the_same_do_not_wait_for_each_other(pipelit: Pipelit) -> None:
    """Two agents whose names have one number verify each other from many threads."""
    # CRC-32 gives both the same.
    names = ["plumless", "buckeroo"]
    assert len({lock_key(f"account:{name}") for name in names}) == 1
    for name in names:
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    agents = [pipelit.agent(name) for name in names]
    failed: list[Exception] = []

    def work(mine: int) -> None:
        for _ in range(10):
            try:
                agents[mine].verify_peer(names[1 - mine], "00000000")
            except (CodeRejected, RateLimited, PeerLocked):
                pass
            except Exception as error:
                failed.append(error)

    threads = [Thread(target=work, args=(number % 2,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []


@pytest.mark.parametrize("size", [0, -1])
def test_a_pool_has_an_end(database_url: str, key: str, size: int) -> None:
    """SQLAlchemy takes 0 for no limit: here it is refused."""
    with pytest.raises(ConfigurationError, match="pool_size"):
        Pipelit(database_url=database_url, encryption_keys=[key], pool_size=size)


def test_a_bare_key_is_refused(database_url: str, key: str) -> None:
    """One key where a list belongs would be taken for keys of one letter each."""
    with pytest.raises(ConfigurationError, match="list of keys"):
        Pipelit(database_url=database_url, encryption_keys=key)
