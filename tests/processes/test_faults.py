"""Faults of the database, of the process and of its clock: nothing is accepted that shouldn't be.

Each row of the fault table is a test here, those of Redis in ``test_faults_redis.py``. A full disk
and a database that is gone, damaged or read-only: ``test_ledger.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import fresh
import psycopg
import pytest
from conftest import Clock
from internals import database_of
from killed import AFTER, kill_at
from later_migration import add_migration
from postgres import PostgresServer
from redis import Redis
from sqlalchemy import text

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.database.locks import lock_key
from pipelit_agents.database.maintenance import pending_migrations
from pipelit_agents.errors import (
    CodeRejected,
    LedgerUnavailable,
    PipelitError,
    StorageError,
    UnsealError,
    VerificationError,
)
from pipelit_agents.ledger import Ledger, LedgerContext, RedisLedger, SqlLedger


@pytest.fixture
def real(settings: dict[str, Any]) -> Iterator[Pipelit]:
    """A database with two agents, by the real clock."""
    with Pipelit(**settings) as made:
        made.create_schema()
        populate(made)
        yield made


def populate(pipelit: Pipelit) -> None:
    """Makes two agents of alice's."""
    pipelit.users.create("alice")
    for name in ("agent_writer", "agent_editor", "agent_other"):
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")


def code_of(pipelit: Pipelit, name: str = "agent_writer") -> str:
    """A right code for the editor."""
    return pipelit.agent(name).totp_code(audience="agent_editor").code


def verify(pipelit: Pipelit, code: str, peer: str = "agent_writer") -> int:
    """The editor verifies; the step."""
    return pipelit.agent("agent_editor").verify_peer(peer, code).step


def refused(pipelit: Pipelit, code: str, kind: type[VerificationError] = CodeRejected) -> str:
    """The editor refuses; the true reason of the last decision."""
    with pytest.raises(kind) as caught:
        verify(pipelit, code)
    assert type(caught.value) is kind
    return pipelit.audit.list(limit=1)[0].reason


def run(program: str, *arguments: Any, starts: bool = False) -> Any:
    """Runs a program by its own, every warning an error; what it printed, as JSON.

    Args:
        program: The program.
        arguments: Its arguments, as JSON.
        starts: Whether an interpreter is started and ended for it, in development mode; otherwise
            it is a fork of one that has imported us.
    """
    given = [json.dumps(each) for each in arguments]
    if starts:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program, *given],
            capture_output=True,
            text=True,
            check=False,
        )
    else:
        done = fresh.run(STRICT + program + COLLECTED, os.environ, *given)
    # What is left open is said there, and doesn't end the program.
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


STRICT = """
import warnings
warnings.simplefilter("error")
"""
# As at the end of an interpreter.
COLLECTED = """
import gc
for name in [each for each in globals() if each != "gc"]:
    del globals()[name]
gc.collect()
"""


# A process that is killed


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("place", ["INSERT INTO pipelit_ledger", "INSERT INTO pipelit_audit"])
def test_killed_before_its_end_a_decision_never_was(
    real: Pipelit, settings: dict[str, Any], place: str
) -> None:
    """Kill -9 between the statements: nothing spent, nothing audited, and nobody waits for it."""
    code = code_of(real)
    before = len(real.audit.list())
    kill_at(settings, place, "agent_editor", "agent_writer", code)
    assert len(real.audit.list()) == before
    verify(real, code)
    assert refused(real, code) == "replay"


@pytest.mark.backends("sqlite", "postgres")
def test_killed_at_the_commit_a_decision_never_was(real: Pipelit, settings: dict[str, Any]) -> None:
    """Kill -9 with all statements done but the last: the code is good, once."""
    code = code_of(real)
    kill_at(settings, "COMMIT", "agent_editor", "agent_writer", code)
    verify(real, code)
    assert refused(real, code) == "replay"


@pytest.mark.backends("sqlite", "postgres", "redis", "both")
def test_killed_after_its_end_a_decision_holds(real: Pipelit, settings: dict[str, Any]) -> None:
    """Kill -9 when the acceptance has just been handed out: the code isn't good again."""
    code = code_of(real)
    kill_at(settings, AFTER, "agent_editor", "agent_writer", code)
    assert real.audit.list(limit=1)[0].outcome == "ok"
    assert refused(real, code) == "replay"


@pytest.mark.backends("redis", "both")
@pytest.mark.parametrize("place", ["INSERT INTO pipelit_ledger", "INSERT INTO pipelit_audit"])
def test_killed_between_redis_and_sql_a_spent_code_stays_spent(
    real: Pipelit, settings: dict[str, Any], place: str
) -> None:
    """Kill -9 when Redis has spent the code and SQL doesn't know it: the code isn't good again."""
    code = code_of(real)
    kill_at(settings, place, "agent_editor", "agent_writer", code)
    assert refused(real, code) == "replay"


@pytest.mark.backends("redis", "both")
def test_killed_between_redis_and_sql_a_guess_stays_charged(
    real: Pipelit, settings: dict[str, Any]
) -> None:
    """Kill -9 when Redis has counted a guess and SQL hasn't: it is one of the minute's five."""
    kill_at(settings, "INSERT INTO pipelit_ledger", "agent_editor", "agent_writer", "00000000")
    editor = real.agent("agent_editor")
    said = []
    for _ in range(5):
        with pytest.raises((LedgerUnavailable, VerificationError)) as caught:
            editor.verify_peer("agent_writer", "00000000")
        said.append(type(caught.value).__name__)
    assert said == ["CodeRejected"] * 4 + ["RateLimited"]


# A power cut


class Cut:
    """A copy of SQLite's files, which are put back as a power cut leaves them."""

    def __init__(self, url: str, folder: Path) -> None:
        self._path = Path(url.removeprefix("sqlite:///"))
        self._copy = folder / "copy"
        shutil.copytree(self._path.parent, self._copy)

    def put_back(self) -> None:
        """Loses what was committed since the copy."""
        for each in self._path.parent.iterdir():
            each.unlink()
        # The log of what isn't in the file yet belongs to it; its index is made anew.
        for each in self._copy.iterdir():
            if not each.name.endswith("-shm"):
                shutil.copy(each, self._path.parent / each.name)


@pytest.mark.backends("sqlite", "redis")
def test_a_power_cut_that_undoes_commits_makes_no_spent_code_good(
    pipelit: Pipelit,
    database_url: str,
    redis_url: str | None,
    key: str,
    tmp_path: Path,
    clock: Clock,
) -> None:
    """With the files as they were before and another boot id: refused, and young codes are good.

    Where Redis counts, it has lost its memory as well. Failures of the last moments may be
    forgotten: rule 3 is about what was spent.
    """
    for name in ("agent_writer", "agent_editor"):
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    cut = Cut(database_url, tmp_path)
    code = code_of(pipelit)
    verify(pipelit, code)
    pipelit.close()
    cut.put_back()
    if redis_url is not None:
        with database_of(pipelit).writing() as connection:
            named = connection.scalar(text("SELECT database_id FROM pipelit_epoch"))
        with Redis.from_url(redis_url) as forgetting:
            # Other tests use this Redis at the same time, so FLUSHALL would be theirs as well.
            assert forgetting.delete(*forgetting.scan_iter(f"pipelit:{named}:*"))

    def another_life(context: LedgerContext) -> Ledger:
        database, policy, life = context.database, context.policy, "another life"
        if redis_url is None:
            return SqlLedger(database, policy, context.clock, lambda: life)
        return RedisLedger(database, policy, redis_url, context.clock, lambda: life)

    with Pipelit(
        database_url=database_url, encryption_keys=[key], ledger=another_life, clock=clock
    ) as restarted:
        editor = restarted.agent("agent_editor")
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code)
        assert pipelit.audit.list(limit=1)[0].reason == "step from before a restart"
        clock.advance(60)
        assert editor.verify_peer("agent_writer", code_of(pipelit))


@pytest.mark.backends("redis")
def test_with_redis_a_database_that_forgot_accepts_nothing_twice(
    real: Pipelit, database_url: str, tmp_path: Path
) -> None:
    """SQLite's files as they were before: Redis remembers what was spent."""
    cut = Cut(database_url, tmp_path)
    code = code_of(real)
    verify(real, code)
    real.close()
    cut.put_back()
    assert refused(real, code) == "replay"


# A database that fails


@pytest.mark.backends("redis", "both")
def test_with_redis_and_no_place_to_write_nothing_is_accepted(real: Pipelit) -> None:
    """A database that refuses the audit row refuses the code, which isn't good again."""
    code = code_of(real)
    table = "pipelit_audit"
    with database_of(real).writing() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO gone"))
    with pytest.raises(LedgerUnavailable, match="PIPELIT_DATABASE_URL"):
        verify(real, code)
    with database_of(real).writing() as connection:
        connection.execute(text(f"ALTER TABLE gone RENAME TO {table}"))
    assert refused(real, code) == "replay"


@pytest.mark.backends("redis", "both")
def test_an_unlock_reaches_locks_that_the_database_never_heard_of(real: Pipelit) -> None:
    """Guesses that Redis counted while the database didn't write are forgotten by ``unlock``."""
    with database_of(real).writing() as connection:
        connection.execute(text("ALTER TABLE pipelit_audit RENAME TO gone"))
    for _ in range(6):
        with pytest.raises(LedgerUnavailable):
            verify(real, "00000000")
    with database_of(real).writing() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO pipelit_audit"))
    with pytest.raises(VerificationError, match="wait"):
        verify(real, code_of(real))
    real.users.unlock("agent_writer")
    verify(real, code_of(real))


@pytest.fixture
def on_it(own_postgres: PostgresServer, key: str) -> Iterator[Pipelit]:
    """Two agents in that server's database."""
    with Pipelit(database_url=own_postgres.url(), encryption_keys=[key]) as made:
        made.create_schema()
        populate(made)
        yield made


def test_postgresql_that_ends_in_a_transaction_refuses_and_works_again(
    own_postgres: PostgresServer, on_it: Pipelit
) -> None:
    """Ended at once in the middle of a decision: refused, nothing spent; then by itself again."""
    code = code_of(on_it)
    found: list[PipelitError] = []

    def attempt() -> None:
        with pytest.raises(LedgerUnavailable, match="PIPELIT_DATABASE_URL") as caught:
            verify(on_it, code)
        found.append(caught.value)

    plain = own_postgres.url()
    with psycopg.connect(plain, autocommit=True) as watching:
        holder = psycopg.connect(plain)
        key = lock_key("ledger:agent_writer")
        holder.execute("SELECT pg_advisory_xact_lock(%s, %s)", key)
        thread = Thread(target=attempt)
        thread.start()
        # It is in its transaction, behind us.
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while watching.execute(waiting).fetchone() != (1,):
            pass
        own_postgres.stop()
        own_postgres.start()
        thread.join()
        holder.close()
    assert len(found) == 1
    verify(on_it, code)
    assert refused(on_it, code) == "replay"


def test_postgresql_that_is_gone_refuses_everything(
    own_postgres: PostgresServer, on_it: Pipelit
) -> None:
    """No server: codes and proofs are refused with the setting's name; it is back: accepted."""
    code = code_of(on_it)
    editor, writer = on_it.agent("agent_editor"), on_it.agent("agent_writer")
    challenge = editor.challenge("agent_writer")
    proof = writer.prove(challenge.value, b"answer", verifier="agent_editor")
    own_postgres.stop()
    with pytest.raises(LedgerUnavailable, match="PIPELIT_DATABASE_URL"):
        verify(on_it, code)
    with pytest.raises(StorageError, match="PIPELIT_DATABASE_URL"):
        editor.verify_proof(proof, challenge=challenge, payload=b"answer")
    own_postgres.start()
    verify(on_it, code)


# A wrong key


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_under_a_wrong_key_nothing_is_accepted(real: Pipelit, settings: dict[str, Any]) -> None:
    """Codes and proofs are an UnsealError and audited as that; nothing is spent by it."""
    code = code_of(real)
    challenge = real.agent("agent_editor").challenge("agent_writer")
    proof = real.agent("agent_writer").prove(challenge.value, b"", verifier="agent_editor")
    wrong = settings | {"encryption_keys": [Keyring.generate_key()]}
    with Pipelit(**wrong) as other:
        with pytest.raises(UnsealError):
            verify(other, code)
        assert other.audit.list(limit=1)[0].reason == "secret doesn't open"
        with pytest.raises(UnsealError):
            other.agent("agent_editor").verify_proof(proof, challenge=challenge, payload=b"")
        with pytest.raises(UnsealError):
            code_of(other)
    verify(real, code)


# Clocks

OFF = """
import json, sys, time
right = time.time
settings, off, codes = map(json.loads, sys.argv[1:])
time.time = lambda: right() + off
# So that nothing of ours holds the right clock.
for name in [each for each in sys.modules if each.split(".")[0] == "pipelit_agents"]:
    del sys.modules[name]
from pipelit_agents import Pipelit
from pipelit_agents.errors import CodeRejected
said = []
with Pipelit(**settings) as pipelit:
    for code in codes:
        try:
            found = pipelit.agent("agent_editor").verify_peer("agent_writer", code)
            said.append(abs(found.verified_at.timestamp() - right()) < 20)
        except CodeRejected:
            said.append("rejected")
print(json.dumps(said))
"""


@pytest.mark.backends("postgres", "redis", "both")
@pytest.mark.parametrize("off", [-120, 120])
def test_a_verifier_whose_clock_is_off_decides_by_the_ledgers(
    real: Pipelit, settings: dict[str, Any], off: int
) -> None:
    """Two minutes before or behind: a fresh code is accepted, one that is good by its clock isn't.

    The moment that it is told is the ledger's too.
    """
    with Pipelit(**settings, clock=lambda: time.time() + off) as other:
        stale = code_of(other)
    assert run(OFF, settings, off, [stale, code_of(real)]) == ["rejected", True]


# Older tables


@pytest.mark.backends("sqlite", "postgres")
def test_an_older_database_is_brought_up_with_all_that_is_in_it(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts, keys, secrets, what was spent and what was counted are there after migrating."""
    clock = Clock()
    with Pipelit(**settings, clock=clock) as older:
        older.create_schema()
        populate(older)
        api_key = older.users.issue_api_key("agent_writer", name="k").api_key.get_secret_value()
        older.credentials.put("openai", "sk-live-1234", kind="llm", created_by="alice")
        spent = code_of(older)
        verify(older, spent)
        with pytest.raises(CodeRejected):
            older.agent("agent_editor").verify_peer("agent_other", "00000000")
        lanes = older.users.lanes("agent_other")
        before = older.audit.list()
    add_migration(tmp_path / "later", monkeypatch)
    with Pipelit(**settings, clock=clock) as pipelit:
        assert pending_migrations(database_of(pipelit))
        pipelit.create_schema()
        assert not pending_migrations(database_of(pipelit))
        with database_of(pipelit).reading() as reading:
            assert reading.scalar(text("SELECT min(later) FROM pipelit_users")) == "x"
        assert pipelit.check_key()
        assert pipelit.audit.list() == before
        assert pipelit.users.lanes("agent_other") == lanes
        assert pipelit.users.authenticate(api_key).username == "agent_writer"
        assert pipelit.credentials.get("openai").masked.endswith("1234")
        assert refused(pipelit, spent) == "replay"
        clock.advance(30)
        verify(pipelit, code_of(pipelit))


# Forks and ends

FORK = """
import json, os, sys
from pipelit_agents import Pipelit
settings, codes = map(json.loads, sys.argv[1:])

def own():
    # What the servers call our connections. SQLite's are closed before a fork.
    with pipelit._database.reading() as connection:
        driver = connection.connection.driver_connection
        session = driver.info.backend_pid if hasattr(driver, "info") else "a file"
    script = getattr(pipelit._ledger.open(), "_script", None)
    client = script and script.client
    return session, client and client.client_id()

with Pipelit(**settings) as pipelit:
    editor = pipelit.agent("agent_editor")
    editor.verify_peer("agent_writer", codes[0])
    sessions = own()
    child = os.fork()
    if not child:
        # It leaves by the same door, and closes what it takes for its own.
        {first}
        editor.verify_peer("agent_other", codes[1])
        pipelit.close()
        pipelit.users.list()
        pipelit.close()
        os._exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        editor.verify_peer("agent_other", codes[1])
        again = "accepted"
    except Exception as error:
        again = type(error).__name__
    print(json.dumps([status, again, own() == sessions, len(pipelit.users.list())]))
"""


@pytest.mark.backends("sqlite", "postgres", "redis", "both")
@pytest.mark.parametrize("first", ["pass", "pipelit.close()"], ids=["use", "close"])
def test_a_forked_child_has_connections_of_its_own(
    real: Pipelit, settings: dict[str, Any], first: str
) -> None:
    """A child verifies and closes; the parent's connections are as they were, and both count."""
    codes = [code_of(real), code_of(real, "agent_other")]
    program = FORK.replace("{first}", first)
    assert run(program, settings, codes) == [7, "CodeRejected", True, 4]


CLOSED = """
import gc, json, os, sys, threading
from pipelit_agents import Pipelit
settings, codes = map(json.loads, sys.argv[1:])

def sockets():
    gc.collect()
    found = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if
             os.path.exists(f"/proc/self/fd/{n}")]
    return sum("socket:" in each or ".db" in each for each in found)

pipelit = Pipelit(**settings)
before = sockets()
said = []
for code in codes:
    threads = [threading.Thread(target=pipelit.users.list) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    pipelit.agent("agent_editor").verify_peer(*code)
    opened = sockets()
    pipelit.close()
    said.append([opened > before, sockets() == before])
pipelit.close()
print(json.dumps(said))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what is open by /proc")
@pytest.mark.backends("sqlite", "postgres", "redis", "both")
def test_close_leaves_nothing_open_and_the_next_use_opens_again(
    real: Pipelit, settings: dict[str, Any], backend: str
) -> None:
    """After ``close`` no file or socket is open and none was forgotten; twice closed is once."""
    codes = [(name, code_of(real, name)) for name in ("agent_writer", "agent_other")]
    starts = backend in ("sqlite", "both")
    assert run(CLOSED, settings, codes, starts=starts) == [[True, True]] * 2
