"""People who approve, with their apps; `approving` is a small database of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Self

import pyotp
import pytest
from sqlalchemy import create_engine, text

if TYPE_CHECKING:
    from conftest import Clock
    from pydantic import SecretStr

    from pipelit_agents import Pipelit

NAMES = ("alice", "bob", "mallory")


class People:
    """Alice and bob with their apps and recovery codes, and mallory, who has an app too."""

    def __init__(self, pipelit: Pipelit, clock: Clock, names: Sequence[str] = NAMES) -> None:
        self.clock = clock
        self.pipelit = pipelit
        self.apps: dict[str, pyotp.TOTP] = {}
        self.recovery: dict[str, list[str]] = {}
        for name in names:
            if name != "alice":
                pipelit.users.create(name)
            self.enroll(name)

    @classmethod
    def again(cls, first: People, pipelit: Pipelit, clock: Clock) -> Self:
        """The same people in a copy of their database."""
        made = cls.__new__(cls)
        made.clock, made.pipelit = clock, pipelit
        made.apps = dict(first.apps)
        made.recovery = {name: list(codes) for name, codes in first.recovery.items()}
        return made

    def enroll(self, name: str) -> None:
        """A new app."""
        self.clock.advance(30)
        self.apps[name] = _app_of(self.pipelit.mfa.enroll(name))
        codes = self.pipelit.mfa.confirm(name, self.apps[name].at(self.clock()))
        self.recovery[name] = [code.get_secret_value() for code in codes]
        self.clock.advance(30)

    def code(self, name: str) -> str:
        """A code that nobody has used."""
        self.clock.advance(30)
        return self.apps[name].at(self.clock())

    def approve(self, question: str, *names: str) -> None:
        """Let people approve a question, one after the other."""
        for name in names:
            self.pipelit.approvals.decide(question, name, self.code(name))


def _app_of(uri: SecretStr) -> pyotp.TOTP:
    made = pyotp.parse_uri(uri.get_secret_value())
    assert isinstance(made, pyotp.TOTP)
    return made


class Approving(People):
    """People in a database of SQLite, which somebody without the key can write to."""

    url: str
    settings: dict[str, Any]

    def change(self, statement: str, **values: object) -> int:
        """Write to the database without the key; return how many rows it changed."""
        engine = create_engine(self.url)
        with engine.begin() as connection:
            changed = connection.execute(text(statement), values).rowcount
        engine.dispose()
        assert changed > 0, statement
        return changed

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Read a table as it is."""
        engine = create_engine(self.url)
        with engine.begin() as connection:
            found = connection.execute(text(f"SELECT * FROM {table}"))  # noqa: S608 - our names
            rows = [dict(row) for row in found.mappings()]
        engine.dispose()
        return rows

    def put_back(self, table: str, rows: Sequence[dict[str, Any]], key: str) -> None:
        """Restore rows that were read before."""
        for row in rows:
            sets = ", ".join(f'"{name}" = :{name}' for name in row)
            self.change(f'UPDATE {table} SET {sets} WHERE "{key}" = :{key}', **row)  # noqa: S608 - our names


@pytest.fixture(scope="session")
def approving_file(migrated_file: Path, shared_key: str) -> tuple[Path, People, float]:
    """A file with alice, bob, carol and mallory: enrolling them takes longer than most tests."""
    from conftest import Clock, add_alice

    from pipelit_agents import Pipelit

    file = migrated_file.with_name("approving.db")
    copyfile(migrated_file, file)
    add_alice(f"sqlite:///{file}")
    clock = Clock()
    settings: dict[str, Any] = {"encryption_keys": [shared_key], "clock": clock}
    with Pipelit(database_url=f"sqlite:///{file}", **settings) as made:
        return file, People(made, clock, ("alice", "bob", "carol", "mallory")), clock()


@pytest.fixture
def approving(
    approving_file: tuple[Path, People, float], shared_key: str, clock: Clock, tmp_path: Path
) -> Iterator[Approving]:
    """A copy of the file, with people whose apps the test has."""
    from pipelit_agents import Pipelit

    file, people, clock.now = approving_file
    copy = tmp_path / "agents.db"
    copyfile(file, copy)
    copy.chmod(0o600)
    settings = {"database_url": f"sqlite:///{copy}", "encryption_keys": [shared_key]}
    with Pipelit(**settings, clock=clock) as pipelit:
        made = Approving.again(people, pipelit, clock)
        made.url, made.settings = f"sqlite:///{copy}", settings
        yield made


# Of the tests of gates. Their helpers import LangChain, which other tests don't need.


@pytest.fixture
def people(approving: Approving) -> Any:
    """Alice and others, who can approve, as `paying.People`."""
    from paying import People

    return People(approving.pipelit, approving.clock, approving.apps)


@pytest.fixture
def paid() -> Any:
    """What was paid, as `paying.Payments`."""
    from paying import Payments

    return Payments()
