"""What most tests stand on: a database of their own, a key of their own, and time they set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelit_agents import Agent, Keyring, Pipelit

pytest_plugins = ["postgres"]


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The present moment, Unix seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves the clock."""
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """Time, as the test sets it."""
    return Clock()


@pytest.fixture
def key() -> str:
    """A fresh FIELD_ENCRYPTION_KEY."""
    return Keyring.generate_key()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """A database file that isn't there yet."""
    return f"sqlite:///{tmp_path}/pipelit/agents.db"


@pytest.fixture
def pipelit(database_url: str, key: str, clock: Clock) -> Iterator[Pipelit]:
    """An empty, migrated database with alice in it."""
    with Pipelit(database_url=database_url, encryption_keys=[key], clock=clock) as made:
        made.create_schema()
        made.users.create("alice")
        yield made


@pytest.fixture
def writer(pipelit: Pipelit) -> Agent:
    """An agent of alice's."""
    pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes")
    return pipelit.agent("agent_writer")


@pytest.fixture
def editor(pipelit: Pipelit) -> Agent:
    """Another agent of alice's."""
    pipelit.users.create_agent("agent_editor", owner="alice", purpose="edits")
    return pipelit.agent("agent_editor")
