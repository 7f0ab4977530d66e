"""Forks of a process that is using the database, in the middle of whatever it does."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from internals import database_of
from sqlalchemy import text

from pipelit_agents import Agent, Pipelit
from pipelit_agents import _forks as forks
from pipelit_agents.database.process import PROCESS_LOCKS
from pipelit_agents.database.sqlite import BUSY_TIMEOUT
from pipelit_agents.errors import StorageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
HANGS_AFTER = 30  # Seconds, on a busy machine.


class Child:
    """A forked child, which does something and says what came of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._pipe, into = os.pipe()
        self._number = os.fork()
        if not self._number:
            signal.alarm(HANGS_AFTER)
            try:
                said = str(work())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(into, said.encode()[:4000])
            os._exit(0)
        os.close(into)

    def said(self) -> str:
        """What came of it; nothing if it hung."""
        os.waitpid(self._number, 0)
        with os.fdopen(self._pipe) as pipe:
            return pipe.read()


@contextmanager
def busy(*works: Callable[[], object]) -> Iterator[None]:
    """Threads that do these over and over; each has done it once."""
    stop = Event()
    failed: list[BaseException] = []

    def go(work: Callable[[], object], begun: Event) -> None:
        try:
            while not stop.is_set():
                work()
                begun.set()
        except BaseException as error:
            failed.append(error)
            begun.set()

    begun = [Event() for _ in works]
    threads = [Thread(target=go, args=each) for each in zip(works, begun, strict=True)]
    for each in threads:
        each.start()
    try:
        for event in begun:
            event.wait()
        yield
    finally:
        stop.set()
        for each in threads:
            each.join()
    assert failed == []


def put(pipelit: Pipelit, name: str = "mine") -> str:
    """Write, in several transactions."""
    pipelit.credentials.put(name, "sk-abcdefghijkl", kind="llm", created_by="alice")
    return "ok"


@pytest.mark.parametrize("threads", [1, 4])
def test_children_of_a_process_that_writes_can_write(pipelit: Pipelit, threads: int) -> None:
    """Eight forks under writing threads: eight write."""
    with busy(*[lambda: put(pipelit, "busy")] * threads):
        children = [Child(lambda: put(pipelit)) for _ in range(8)]
        assert [each.said() for each in children] == ["ok"] * 8


def test_children_of_a_process_that_reads_and_checks_can_write(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Readers hold locks in SQLite's memory too, and so does whoever opens or closes it."""

    def check() -> None:
        challenge = editor.challenge("agent_writer")
        proof = writer.prove(challenge.value, b"x", verifier="agent_editor")
        editor.verify_proof(proof, challenge=challenge, payload=b"x")

    with busy(pipelit.users.list, pipelit.audit.list, check, pipelit.close):
        children = [Child(lambda: put(pipelit)) for _ in range(8)]
        assert [each.said() for each in children] == ["ok"] * 8


def test_children_of_a_process_that_writes_from_an_event_loop_can_write(pipelit: Pipelit) -> None:
    """The writing is done by the package's own threads, which aren't in the child."""

    async def put_one(name: str) -> None:
        await pipelit.credentials.aput(name, "sk-abcdefghijkl", kind="llm", created_by="alice")

    async def write() -> None:
        await asyncio.gather(*(put_one(f"busy-{number}") for number in range(3)))

    with busy(lambda: asyncio.run(write())):
        children = [Child(lambda: put(pipelit)) for _ in range(4)]
        children += [Child(lambda: asyncio.run(write())) for _ in range(4)]
        assert [each.said() for each in children] == ["ok"] * 4 + ["None"] * 4


def test_children_of_two_threads_that_fork_at_once_can_write(pipelit: Pipelit) -> None:
    """Neither waits for the other for good."""
    together = Barrier(2)
    said: list[str] = []

    def fork() -> None:
        together.wait()
        for _ in range(4):
            said.append(Child(lambda: put(pipelit)).said())

    threads = [Thread(target=fork) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert said == ["ok"] * 8


def test_multiprocessing_can_fork(pipelit: Pipelit) -> None:
    """As a worker is started on Linux before Python 3.14."""
    put(pipelit)
    context: Any = multiprocessing.get_context("fork")
    with busy(lambda: put(pipelit, "busy")):
        worker = context.Process(target=put, args=(pipelit, "theirs"))
        worker.start()
        worker.join(HANGS_AFTER)
    assert worker.exitcode == 0
    assert pipelit.credentials.get("theirs").name == "theirs"


def test_what_a_child_writes_outlives_its_parents_connections(pipelit: Pipelit) -> None:
    """The parent closes last, as it believes; the log with the child's commits isn't deleted."""
    assert pipelit.users.get("alice")
    ready, told = os.pipe()
    go, tell = os.pipe()

    def work() -> str:
        put(pipelit, "first")
        os.write(told, b"x")
        os.read(go, 1)
        return put(pipelit, "second")

    child = Child(work)
    os.read(ready, 1)
    pipelit.close()
    os.write(tell, b"x")
    assert child.said() == "ok"
    for each in (ready, told, go, tell):
        os.close(each)
    assert {each.name for each in pipelit.credentials.list()} >= {"first", "second"}


@pytest.mark.backends("sqlite")
def test_a_second_handle_does_not_drop_the_locks_of_the_first(
    pipelit: Pipelit, settings: dict[str, Any], database_url: str
) -> None:
    """Otherwise whoever closes the file elsewhere deletes the log under the first one."""
    put(pipelit, "first")
    with Pipelit(**settings) as second:
        assert second.users.get("alice")
        program = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM pipelit_users").fetchone()
connection.close()
"""
        path = database_url.removeprefix("sqlite:///")
        subprocess.run([sys.executable, "-S", "-c", program, path], check=True)
        assert Path(f"{path}-wal").exists()
        put(second, "second")
    pipelit.close()
    assert {each.name for each in pipelit.credentials.list()} >= {"first", "second"}


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("way", ["writing", "deciding", "reading"])
def test_a_child_does_not_go_on_with_its_parents_transaction(pipelit: Pipelit, way: str) -> None:
    """A child that leaves the block commits nothing and rolls nothing back; the parent commits."""
    add = "UPDATE pipelit_users SET purpose = 'changed' WHERE username = 'alice'"

    def run(connection: Any, sql: str) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(sql)
        cursor.close()

    child = None
    in_child = False
    pipe, into = os.pipe()
    try:
        with getattr(database_of(pipelit), way)() as connection:
            run(connection, "SELECT 1" if way == "reading" else add)
            child = os.fork()
            in_child = not child
            if not in_child:
                os.waitpid(child, 0)
                run(connection, "SELECT 1")
        said = "left"
    except StorageError as error:
        said = str(error)
    finally:
        if in_child:
            os.write(into, said.encode()[:900])
            os._exit(0)
    os.close(into)
    with os.fdopen(pipe) as answer:
        words = answer.read()
    assert said == "left"
    assert words != "left"
    if way != "reading":
        assert pipelit.users.get("alice").purpose == "changed"
    assert put(pipelit) == "ok"
    assert Child(lambda: put(pipelit)).said() == "ok"


@pytest.mark.backends("sqlite")
def test_a_child_of_a_transaction_says_at_once_that_it_can_not_write(pipelit: Pipelit) -> None:
    """SQLite would have it wait for a lock that nobody releases; it may read."""
    with database_of(pipelit).writing():
        began = time.monotonic()
        child = Child(lambda: [pipelit.users.get("alice").username, put(pipelit)])
        said = child.said()
        assert "forked in the middle of a transaction" in said
        assert "spawn or forkserver" in said
        assert time.monotonic() - began < BUSY_TIMEOUT / 2
        assert Child(lambda: pipelit.users.get("alice").username).said() == "alice"
    assert put(pipelit) == "ok"
    assert Child(lambda: put(pipelit)).said() == "ok"


@pytest.mark.backends("sqlite")
def test_a_child_of_another_database_can_write(
    pipelit: Pipelit, settings: dict[str, Any], tmp_path: Path
) -> None:
    """What was in use is one file, and not all of them; by any handle, and by any path to it."""
    link = tmp_path / "link.db"
    link.symlink_to(settings["database_url"].removeprefix("sqlite:///"))
    with Pipelit(**settings | {"database_url": f"sqlite:///{tmp_path}/other.db"}) as other:
        other.create_schema()
        other.users.create("alice")
        with (
            Pipelit(**settings | {"database_url": f"sqlite:///{link}"}) as same,
            database_of(pipelit).writing(),
        ):
            assert Child(lambda: put(other)).said() == "ok"
            assert "forked in the middle" in Child(lambda: put(same)).said()


@pytest.mark.backends("sqlite")
def test_a_fork_does_not_wait_for_good(pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread in a transaction may itself wait for the one that forks."""
    monkeypatch.setattr(forks, "_THREADS_TIMEOUT", 0.05)
    forked, inside = Event(), Event()

    def hold() -> None:
        with database_of(pipelit).writing() as connection:
            connection.execute(text("UPDATE pipelit_users SET purpose = 'x'"))
            inside.set()
            forked.wait()

    thread = Thread(target=hold)
    thread.start()
    inside.wait()
    said = Child(lambda: put(pipelit)).said()
    forked.set()
    thread.join()
    assert "forked in the middle" in said
    assert put(pipelit) == "ok"


@pytest.mark.backends("sqlite")
def test_threads_wait_for_a_fork_and_go_on(pipelit: Pipelit) -> None:
    """What another module does before a fork takes its time; nobody begins in between."""
    seen: list[bool] = []
    begun, go = Event(), Event()

    class Slow:
        """Begins after the database's connections were closed."""

        def reset_after_fork(self) -> None:
            """Nothing of its own."""

        def before_fork(self) -> None:
            """Let a thread try to read in the middle of the fork."""
            begun.set()
            time.sleep(0.05)
            seen.append(go.is_set())

    def read() -> None:
        begun.wait()
        pipelit.users.list()
        go.set()

    slow = Slow()
    thread = Thread(target=read)
    thread.start()
    forks.reset_in_forked_children(slow)
    assert Child(lambda: put(pipelit)).said() == "ok"
    forks._ALIVE.discard(slow)
    thread.join(HANGS_AFTER)
    assert seen[0] is False
    assert go.is_set()


def test_a_migration_of_another_thread_does_not_hold_the_child(pipelit: Pipelit) -> None:
    """The lock around Alembic's global variable is the child's own."""
    held, done = Event(), Event()

    def hold() -> None:
        with PROCESS_LOCKS.migrating:
            held.set()
            done.wait()

    thread = Thread(target=hold)
    thread.start()
    held.wait()
    said = Child(pipelit.create_schema).said()
    done.set()
    thread.join()
    assert said == "None"


@pytest.mark.backends("postgres", "redis")
def test_children_write_on_servers_too(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """Connections to servers aren't shared: both speak on, each on its own."""

    def check() -> str:
        challenge = editor.challenge("agent_writer")
        proof = writer.prove(challenge.value, b"x", verifier="agent_editor")
        return editor.verify_proof(proof, challenge=challenge, payload=b"x").peer

    with busy(check, lambda: put(pipelit, "busy")):
        children = [Child(lambda: [check(), put(pipelit)]) for _ in range(4)]
        assert [each.said() for each in children] == ["['agent_writer', 'ok']"] * 4
