"""Fixtures for tests of your own, with pytest.

Put ``pytest_plugins = ["pipelit_agents.testing.fixtures"]`` into the ``conftest.py`` at the root of
your tests. Each fixture can be overridden there by one of the same name.
"""

from __future__ import annotations

import secrets
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from shutil import copyfile
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.testing.clock import Clock
from pipelit_agents.testing.leaks import assert_no_leak as _assert_no_leak

__all__ = [
    "FakeCredential",
    "assert_no_leak",
    "clock",
    "encryption_key",
    "fake_credential",
    "pipelit",
    "pipelit_schema",
]


class FakeCredential(Protocol):
    """The function that the fixture ``fake_credential`` returns."""

    def __call__(
        self,
        name: str,
        *fields: str,
        kind: str = "api",
        public: Mapping[str, Any] | None = None,
        allow: Sequence[str] | None = None,
    ) -> dict[str, str]:
        """Store a credential with random secrets.

        Args:
            name: The credential's name.
            fields: The names of its secrets; by default one without a name.
            kind: As in ``credentials.put``.
            public: As in ``credentials.put``.
            allow: As in ``credentials.put``.

        Returns:
            The plaintexts by field; where there are no fields, under ``value``.
        """


@pytest.fixture
def clock() -> Clock:
    """Return the clock of ``pipelit``. It moves only by ``clock.advance(30)``."""
    return Clock()


@pytest.fixture
def encryption_key() -> str:
    """Return a new ``FIELD_ENCRYPTION_KEY``."""
    return Keyring.generate_key()


@pytest.fixture(scope="session")
def pipelit_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite file with the tables, to be copied: that is faster than making them."""
    file = tmp_path_factory.mktemp("pipelit-schema") / "agents.db"
    with Pipelit(
        database_url=f"sqlite:///{file}", encryption_keys=[Keyring.generate_key()]
    ) as made:
        made.create_schema()
    return file


@pytest.fixture
def pipelit(
    pipelit_schema: Path, tmp_path: Path, encryption_key: str, clock: Clock
) -> Iterator[Pipelit]:
    """Return a ``Pipelit`` on an empty SQLite database of the test's own.

    The file is ``pipelit/agents.db`` in ``tmp_path``.
    """
    file = tmp_path / "pipelit" / "agents.db"
    file.parent.mkdir(mode=0o700)
    copyfile(pipelit_schema, file)
    file.chmod(0o600)
    with closing(sqlite3.connect(file)) as connection, connection:
        # Otherwise all copies would count in the same keys, where a test uses a Redis.
        connection.execute("UPDATE pipelit_epoch SET database_id = ?", [uuid.uuid4().hex])
    with Pipelit(
        database_url=f"sqlite:///{file}", encryption_keys=[encryption_key], clock=clock
    ) as made:
        yield made


@pytest.fixture
def fake_credential(pipelit: Pipelit) -> FakeCredential:
    """Return a function that stores a credential with random secrets, and returns these."""

    def put(
        name: str,
        *fields: str,
        kind: str = "api",
        public: Mapping[str, Any] | None = None,
        allow: Sequence[str] | None = None,
    ) -> dict[str, str]:
        values = {field: f"fake-{secrets.token_urlsafe(24)}" for field in fields or ["value"]}
        value = {field: SecretStr(plain) for field, plain in values.items()}
        pipelit.credentials.put(
            name,
            value if fields else value["value"],
            kind=kind,
            created_by="tests",
            public=public,
            allow=allow,
        )
        return values

    return put


@pytest.fixture
def assert_no_leak(
    pipelit: Pipelit, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[Any], None]]:
    """Return a function that fails if a value holds a stored or open credential.

    At the end of the test, its log records are searched as well.
    """

    def check(value: Any) -> None:
        _assert_no_leak(value, pipelit)

    yield check
    _assert_no_leak(caplog.get_records("call"), pipelit)
