"""What an error of the database says: its cause, and what to do."""

from __future__ import annotations

import copy
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from internals import database_of
from postgres import PostgresServer
from psycopg import Connection
from sqlalchemy import make_url, text

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.database.causes import hint
from pipelit_agents.errors import ConfigurationError, PipelitError, StorageError

USER = "pipelit_stranger"


def said(use: Callable[[], object], kind: type[PipelitError] = StorageError) -> str:
    """What the error says; it names the setting."""
    with pytest.raises(kind) as caught:
        use()
    assert "PIPELIT_DATABASE_URL" in str(caught.value)
    return str(caught.value)


def at(url: str, key: str) -> Pipelit:
    """A database that nothing was done with yet."""
    return Pipelit(database_url=url, encryption_keys=[key])


# PostgreSQL


@pytest.fixture
def as_stranger(
    postgres_url: str, postgres_connection: Connection, postgres_server: PostgresServer
) -> Iterator[str]:
    """The address of the test's database, for a user who owns nothing in it."""
    user = f"{USER}_{postgres_url.partition('?')[0][-8:]}"
    postgres_connection.execute(f"CREATE ROLE {user} LOGIN")
    yield postgres_url.replace("postgres:@", f"{user}:@")
    postgres_connection.execute(f"DROP ROLE {user}")


def test_a_database_in_latin1_is_named(
    postgres_server: PostgresServer, postgres_connection: Connection, key: str
) -> None:
    """A character that it lacks is no lone surrogate; one that it has is stored."""
    postgres_connection.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    )
    try:
        with at(postgres_server.url("latin"), key) as pipelit:

            def stored(value: str) -> object:
                with database_of(pipelit).writing() as connection:
                    return connection.scalar(text("SELECT CAST(:it AS TEXT)"), {"it": value})

            assert stored("schön") == "schön"
            words = said(lambda: stored("名前"))
            assert "isn't in UTF-8" in words
            assert "ENCODING 'UTF8'" in words
            with pytest.raises(StorageError, match="lone surrogate"):
                stored("\ud800")
    finally:
        postgres_connection.execute("DROP DATABASE latin WITH (FORCE)")


def test_a_schema_without_the_privilege_to_create_says_what_to_grant(
    as_stranger: str, key: str
) -> None:
    """Since PostgreSQL 15 a database's schema is its owner's."""
    with at(as_stranger, key) as pipelit:
        words = said(pipelit.create_schema)
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {make_url(as_stranger).username}" in words


def test_tables_of_another_user_are_named(postgres_url: str, as_stranger: str, key: str) -> None:
    """A user who may connect may use none of the tables yet."""
    with at(postgres_url, key) as pipelit:
        pipelit.create_schema()
    with at(as_stranger, key) as pipelit:
        assert "these tables belong to another user" in said(pipelit.users.list)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("/test_", "/no_"), "name another database, or create this one"),
        (("postgres:@", "nobody_here:@"), "name another user, or create this one"),
        (("host=", "sslmode=sometimes&host="), "correct that option in the address"),
    ],
)
def test_an_address_that_leads_nowhere_says_which_part(
    postgres_url: str, key: str, change: tuple[str, str], words: str
) -> None:
    """Database, user and options are told apart."""
    with at(postgres_url.replace(*change), key) as pipelit:
        assert words in said(pipelit.users.list)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('FATAL:  password authentication failed for user "a"', "correct the user and password"),
        ("fe_sendauth: no password supplied", "correct the user and password"),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "a", no encryption', "sslmode=require"),
        ("FATAL:  SSL required", "sslmode=require"),
        ("server does not support SSL, but SSL was required", "enable TLS in the server"),
        ("SSL error: certificate verify failed", "sslrootcert"),
        ('root certificate file "/x" does not exist', "sslrootcert"),
        ("FATAL:  sorry, too many clients already", "pool_size"),
        ('FATAL:  too many connections for role "a"', "pool_size"),
        ("FATAL:  remaining connection slots are reserved for roles with …", "pool_size"),
        ("FATAL:  no more connections allowed (max_client_conn)", "pool_size"),
        ("QueuePool limit of size 8 overflow 0 reached, connection timed out", "raise Pipelit("),
        ("FATAL:  query_wait_timeout", "the pooler's limit"),
        ("FATAL:  the database system is starting up", "wait until"),
        ("FATAL:  the database system is shutting down", "wait until"),
        ('FATAL:  permission denied for database "x"', "GRANT CONNECT ON DATABASE … TO carl"),
        ("ERROR:  no schema has been selected to create in", "GRANT USAGE, CREATE ON SCHEMA"),
        ("failed to resolve host 'db': Name or service not known", "correct the host name"),
        ("connection to server failed: Connection refused", "start the server"),
        ("connection timeout expired", "firewall"),
        ("could not extend file: No space left on device", "free space"),
        ("something else", ""),
    ],
)
def test_the_words_of_a_server_get_a_hint(message: str, words: str) -> None:
    """Those that a test's own server doesn't say, as it trusts everybody, without TLS."""
    found = hint(Exception(message), make_url("postgresql://carl@db/x"))
    assert words in found
    assert bool(found) == bool(words)


# SQLite


def test_a_copy_without_its_log_is_named(pipelit: Pipelit, tmp_path: Path, key: str) -> None:
    """Of a new database everything is in the log; `init` on the copy would make an empty one."""
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    (tmp_path / "copy.db").chmod(0o600)
    with at(f"sqlite:///{tmp_path}/copy.db", key) as copied:
        words = said(copied.users.list)
        assert "pipelit-agents backup" in words
        assert "-wal" in words
        (tables,) = [each for each in copied.check() if each.name == "tables"]
    assert tables.ok is False
    assert "-wal" in tables.found
    assert "backup" in tables.fix
    (tables,) = [each for each in pipelit.check() if each.name == "tables"]
    assert tables.ok


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "name a file in this folder"),
        (lambda path: path.symlink_to(path), "a symbolic link leads to itself"),
        (lambda path: path.write_bytes(b"no database" * 999), "name another file"),
    ],
)
def test_what_is_no_database_is_named(
    tmp_path: Path, key: str, make: Callable[[Path], object], words: str
) -> None:
    """A folder, a link in a circle and any other file have messages of their own."""
    make(tmp_path / "agents.db")
    with at(f"sqlite:///{tmp_path}/agents.db", key) as pipelit:
        assert words in said(pipelit.users.list, PipelitError)


def test_a_path_through_a_file_is_named(tmp_path: Path, key: str) -> None:
    """A part of the path that is no folder isn't a matter of permissions."""
    (tmp_path / "file").touch()
    with at(f"sqlite:///{tmp_path}/file/agents.db", key) as pipelit:
        assert "a part of its path is a file" in said(pipelit.users.list, ConfigurationError)


@pytest.mark.backends("sqlite")
def test_a_damaged_file_says_to_restore_a_copy(pipelit: Pipelit, database_url: str) -> None:
    """Pages that were overwritten are no lock and no missing table."""
    path = Path(database_url.removeprefix("sqlite:///"))
    pipelit.backup(path.with_name("copy.db"))
    pipelit.close()
    damaged = path.with_name("copy.db")
    with damaged.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 60)
    with at(f"sqlite:///{damaged}", Keyring.generate_key()) as copied:
        assert "restore a copy" in said(copied.users.list)
    shutil.rmtree(path.parent)


# Copies in memory


@pytest.mark.parametrize(
    "service", ["users", "credentials", "audit", "keys", "mfa", "approvals", "_database"]
)
@pytest.mark.parametrize("make", [pickle.dumps, copy.deepcopy])
def test_a_service_is_not_pickled(
    pipelit: Pipelit, service: str, make: Callable[[object], object]
) -> None:
    """It has keys and connections: the TypeError says to make a Pipelit in the other process."""
    with pytest.raises(TypeError, match=r"Pipelit\.from_env\(\)"):
        make(getattr(pipelit, service))


def test_neither_is_what_holds_a_service(pipelit: Pipelit) -> None:
    """As multiprocessing would send it to a worker: a bound method, or a container."""
    for each in (pipelit.credentials.get, {"store": pipelit.credentials}, [pipelit.users.list]):
        with pytest.raises(TypeError, match=r"Pipelit\.from_env\(\)"):
            pickle.dumps(each)
