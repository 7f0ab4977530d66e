"""A new FIELD_ENCRYPTION_KEY while the system runs, killed, raced, and what the old one leaves."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakSet

import fresh
import pytest
from conftest import Clock
from internals import database_of, stored_values_of
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from sqlalchemy import text
from test_mfa import app_of
from test_stolen_database import opened
from typing_extensions import TypedDict

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.database.sealed_columns import SealedTable
from pipelit_agents.errors import ConfigurationError, UnsealError

BACKENDS = ("sqlite", "postgres")
MANY = 900
NONE = InMemorySaver()


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the models of other tests, which this process knows too."""
    monkeypatch.setattr("pipelit_agents.database.encrypted_string._KNOWN", WeakSet())


@pytest.fixture
def newer() -> str:
    """The key that is to replace the old one."""
    return Keyring.generate_key()


@pytest.fixture
def rotating(
    pipelit: Pipelit, settings: dict[str, Any], newer: str, clock: Clock
) -> Iterator[Pipelit]:
    """The same database with the newer key before the old; all values are under the old."""
    pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes")
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(hours=1))
    pipelit.users.issue_peering("agent_writer", domain="there")
    pipelit.credentials.put("openai", "sk-live-1234567890", kind="llm", created_by="alice")
    pipelit.users.create("bob")
    app = app_of(pipelit.mfa.enroll("bob"))
    pipelit.mfa.confirm("bob", app.at(clock()))
    pipelit.mfa.enroll("alice")
    pipelit.audit.seal()
    keys = [newer, *settings["encryption_keys"]]
    with Pipelit(**settings | {"encryption_keys": keys}, clock=clock) as made:
        yield made


def alone(settings: dict[str, Any], key: str, clock: Clock) -> Pipelit:
    """The same database with one key."""
    return Pipelit(**settings | {"encryption_keys": [key]}, clock=clock)


def test_everything_opens_under_the_newer_key_alone(
    rotating: Pipelit, settings: dict[str, Any], newer: str, clock: Clock
) -> None:
    """Agents, both their secrets, peerings, second factors, credentials, the audit's seals."""
    before = rotating.keys.status()
    assert (before.newest, before.unreadable, before.older_can_go) == (0, (), False)
    done = rotating.keys.rotate(checkpointers=[NONE])
    # One is a seal, and one the row that names the key.
    assert (done.resealed, done.status.older) == (before.older - 2, 0)
    assert done.status.newest == before.older - 1
    assert done.status.older_can_go
    with alone(settings, newer, clock) as after:
        assert after.keys.status(checkpointers=[NONE]).older_can_go
        assert opened(after, "openai") == "sk-live-1234567890"
        assert after.credentials.get("openai").masked == "…7890"
        assert after.agent("agent_writer").totp_code().code
        assert after.audit.verify().problems == ()
        assert "keys.rotate" in [entry.action for entry in after.audit.list()]


def test_a_rotation_that_ends_early_is_on_record(rotating: Pipelit) -> None:
    """From its first change on."""

    def stop(done: int, rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotating.keys.rotate(batch=1, progress=stop, by="bob")
    (entry,) = rotating.audit.list(action="keys.rotate")
    assert (entry.actor, entry.reason.split()[:4]) == ("bob", ["the", "database's", "key", "is"])


def test_a_second_rotation_does_nothing(rotating: Pipelit) -> None:
    """Values under the newest key are left alone."""
    rotating.keys.rotate()
    assert rotating.keys.rotate().resealed == 0


KILLED = """
import json, sys
from pipelit_agents import Pipelit
with Pipelit(**json.loads(sys.argv[1])) as pipelit:
    pipelit.keys.rotate(batch=20, progress=lambda done, rows: print(done, flush=True))
"""


@pytest.mark.backends("sqlite")
def test_killed_three_times_with_writers_beside_it_loses_nothing(
    pipelit: Pipelit, settings: dict[str, Any], newer: str, clock: Clock
) -> None:
    """900 credentials, `kill -9` in the middle, other processes' values changing all the time."""
    values = {f"c{count:04}": f"secret-{count:08}" for count in range(MANY)}
    with database_of(pipelit).writing() as connection:
        for name, value in values.items():
            pipelit.credentials.put_in(connection, name, value, kind="llm", created_by="alice")
    keys = settings | {"encryption_keys": [newer, *settings["encryption_keys"]]}
    stop, written = threading.Event(), dict(values)

    def write(first: int) -> None:
        # One of the writers wasn't restarted, and encrypts under the old key.
        with Pipelit(**(settings if first else keys)) as writer:
            count = 0
            while not stop.is_set():
                name = f"c{(first + 2 * count) % MANY:04}"
                value = f"changed-{first}-{count:08}"
                try:
                    writer.credentials.put(name, value, kind="llm", created_by="alice")
                except ConfigurationError:
                    # It must be restarted: it lacks the key that the database names.
                    assert first == 1
                    return
                written[name] = value
                count += 7

    writers = [threading.Thread(target=write, args=(first,)) for first in range(2)]
    for each in writers:
        each.start()
    # A rotation that is at its end says nothing any more.
    killed = [fresh.killed_after_a_line(KILLED, json.dumps(keys), lines=8) for _ in range(3)]
    stop.set()
    for each in writers:
        each.join()
    assert all(killed)
    with Pipelit(**keys) as last:
        assert last.keys.rotate(checkpointers=[NONE]).status.older_can_go
    with alone(settings, newer, clock) as after:
        found = {name: opened(after, name) for name in written}
    assert found == written
    assert sum(value.startswith("changed") for value in found.values()) > 20


@pytest.mark.backends("sqlite", "postgres")
def test_a_value_that_is_written_meanwhile_is_not_overwritten(
    rotating: Pipelit, settings: dict[str, Any], newer: str, clock: Clock
) -> None:
    """Another secret is stored between reading and replacing: it stays."""
    replace = stored_values_of(rotating)._replace

    def slow(table: SealedTable, pending: Any, keyring: Keyring) -> int:
        if any(getattr(each.row, "name", "") == "openai" for each in pending):
            rotating.credentials.put("openai", "sk-other-0987", kind="llm", created_by="alice")
        return replace(table, pending, keyring)

    stored_values_of(rotating)._replace = slow  # type: ignore[method-assign]
    rotating.keys.rotate()
    with alone(settings, newer, clock) as after:
        assert opened(after, "openai") == "sk-other-0987"


def test_what_no_key_opens_is_named_and_left(rotating: Pipelit) -> None:
    """A damaged value, a moved one: the old key can't go, and it is said for which."""
    with database_of(rotating).writing() as connection:
        connection.execute(text("UPDATE pipelit_credentials SET hint = sealed"))
    status = rotating.keys.rotate().status
    assert status.unreadable == ("pipelit_credentials.hint of openai",)
    assert not status.older_can_go
    assert opened(rotating, "openai") == "sk-live-1234567890"


def test_a_row_that_somebody_made_stops_nothing(rotating: Pipelit, newer: str) -> None:
    """Public fields that are no text, a name that can't be read: named, and the others go on."""
    if database_of(rotating).engine.dialect.name == "sqlite":
        crafted = [
            "UPDATE pipelit_credentials SET public = x'00'",
            "UPDATE pipelit_users SET totp_secret = 5 WHERE username = 'bob'",
            "UPDATE pipelit_mfa_pending SET secret = CAST(x'ff' AS TEXT)",
        ]
    else:
        crafted = ["UPDATE pipelit_credentials SET public = '{'"]
    with database_of(rotating).writing() as connection:
        for statement in crafted:
            connection.execute(text(statement))
    status = rotating.keys.rotate(checkpointers=[NONE]).status
    assert len(status.unreadable) >= len(crafted)
    assert (status.older, status.older_can_go) == (0, False)


def test_progress_is_told_to_the_end(rotating: Pipelit) -> None:
    """Row by row up to all of them."""
    told: list[tuple[int, int]] = []
    rotating.keys.rotate(batch=1, progress=lambda done, rows: told.append((done, rows)))
    first_pass = told[: told.index((told[-1][1], told[-1][1])) + 1]
    assert first_pass == sorted(first_pass)
    assert first_pass[-1][0] == first_pass[-1][1]
    with pytest.raises(ValueError, match="batch"):
        rotating.keys.rotate(batch=0)


def test_nothing_is_sealed_under_another_databases_key(
    rotating: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """A key in the environment that isn't this database's neither overwrites nor adds a value."""
    with alone(settings, Keyring.generate_key(), clock) as wrong:
        for seals in (
            lambda: wrong.credentials.put("openai", "x" * 20, kind="llm", created_by="alice"),
            lambda: wrong.users.create_agent("agent_new", owner="alice", purpose="x"),
            lambda: wrong.users.rotate_totp("agent_writer"),
            lambda: wrong.users.issue_peering("agent_writer", domain="x"),
            lambda: wrong.mfa.enroll("alice"),
            lambda: wrong.approvals.request({"x": 1}, approvers=["bob"]),
        ):
            with pytest.raises(ConfigurationError, match="another one's"):
                seals()
    assert opened(rotating, "openai") == "sk-live-1234567890"
    assert rotating.keys.status().unreadable == ()


def test_what_a_lost_key_sealed_is_given_up_in_one_step(
    rotating: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """Values that no key decrypts are deleted and named; agents keep their accounts."""
    with alone(settings, Keyring.generate_key(), clock) as after:
        assert "credentials openai" in after.keys.forget_unreadable()
        assert after.keys.status().unreadable == (
            "1 seals of the audit trail (pipelit-agents audit verify)",
        )
        after.users.rotate_totp("agent_writer")
        assert after.agent("agent_writer").totp_code().code
        assert "keys.forget" in {entry.action for entry in after.audit.list()}


# Checkpoints


class State(TypedDict):
    """What is checkpointed."""

    note: str


def run(saver: Any, thread: str) -> None:
    """Writes some checkpoints."""
    builder = StateGraph(State)
    builder.add_node("work", lambda _: {"note": "done"})
    builder.add_edge(START, "work")
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"note": "x"}, {"configurable": {"thread_id": thread}})


@pytest.mark.backends("sqlite")
def test_checkpoints_are_counted(pipelit: Pipelit, rotating: Pipelit, tmp_path: Path) -> None:
    """The old key is needed until the threads that it encrypted are deleted."""
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        run(pipelit.sealed_saver(saver), "old")
        run(rotating.sealed_saver(saver), "new")
        status = rotating.keys.rotate(checkpointers=[saver]).status
        assert status.checkpoints
        assert (status.older, status.older_can_go) == (0, False)
        saver.delete_thread("old")
        status = rotating.keys.status(checkpointers=[saver])
        assert (status.checkpoints, status.older_can_go) == (0, True)


@pytest.mark.backends("sqlite")
def test_checkpoints_in_clear_are_refused(rotating: Pipelit) -> None:
    """A checkpointer whose values aren't encrypted can't be counted: an error says so."""
    saver = InMemorySaver()
    run(saver, "clear")
    with pytest.raises(UnsealError):
        rotating.keys.status(checkpointers=[saver])


# What the old key leaves behind


@pytest.mark.backends("sqlite")
def test_old_ciphertext_leaves_the_file(rotating: Pipelit, database_url: str) -> None:
    """After a rotation the old tokens are still in free pages; after a purge they aren't."""
    folder = Path(database_url.removeprefix("sqlite:///")).parent
    with database_of(rotating).reading() as connection:
        found = connection.execute(text("SELECT sealed, hint FROM pipelit_credentials")).one()
    rotating.keys.rotate()
    rotating.keys.purge()
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert not any(token.encode() in content for token in found)
    assert rotating.keys.status(checkpointers=[NONE]).older_can_go
    assert rotating.keys.status().older_can_go is None


@pytest.mark.backends("postgres")
def test_a_purge_rewrites_the_tables(rotating: Pipelit) -> None:
    """Each table's file is a new one."""
    files = text("SELECT relname, relfilenode FROM pg_class WHERE relname LIKE 'pipelit_cred%'")
    with database_of(rotating).reading() as connection:
        before = connection.execute(files).all()
    rotating.keys.purge()
    with database_of(rotating).reading() as connection:
        assert connection.execute(files).all() != before


# Copies


@pytest.mark.backends("sqlite")
def test_a_copy_is_whole_private_and_opens_with_the_key_of_its_day(
    rotating: Pipelit, settings: dict[str, Any], tmp_path: Path, clock: Clock
) -> None:
    """Made while the database is used; a later rotation doesn't reach it."""
    copy = tmp_path / "copy.db"
    rotating.backup(copy)
    rotating.keys.rotate()
    assert copy.stat().st_mode & 0o777 == 0o600
    restored = settings | {"database_url": f"sqlite:///{copy}"}
    with Pipelit(**restored, clock=clock) as old:
        assert opened(old, "openai") == "sk-live-1234567890"
        assert old.audit.verify().problems == ()
    with Pipelit(**restored | {"encryption_keys": [Keyring.generate_key()]}) as lost:
        with pytest.raises(ConfigurationError, match="can't decrypt"):
            lost.check_key()
        with pytest.raises(UnsealError):
            opened(lost, "openai")
    with pytest.raises(ConfigurationError, match="doesn't exist yet"):
        rotating.backup(copy)
    with closing(sqlite3.connect(copy)) as file, file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.backends("postgres")
def test_a_server_is_copied_by_its_own_tool(rotating: Pipelit, tmp_path: Path) -> None:
    """What isn't a file is refused with what to use."""
    with pytest.raises(ConfigurationError, match="pg_dump"):
        rotating.backup(tmp_path / "copy.db")
