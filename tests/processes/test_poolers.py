"""PostgreSQL through a pooler in transaction mode, and what a session keeps of us.

Each transaction may run in another session there, and other applications use the same sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import psycopg
import pytest
from internals import clock_of, database_of
from keeper import Keeper
from pgbouncer import MISSING, PROGRAM, pgbouncer, pooled
from postgres import PostgresServer

from pipelit_agents import Pipelit
from pipelit_agents.database.fast_path import Query
from pipelit_agents.database.maintenance import pending_migrations
from pipelit_agents.errors import StorageError

BACKENDS = ("postgres",)
SESSIONS = 3
POOLED = pytest.mark.skipif(PROGRAM is None, reason=MISSING)
# All that a client can leave behind in a session.
LEFT = """
SELECT 'setting ' || name || ' = ' || setting FROM pg_settings WHERE source = 'session'
UNION ALL SELECT 'prepared ' || name FROM pg_prepared_statements
UNION ALL SELECT 'lock ' || locktype FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype IN ('advisory', 'transactionid')
UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE statement NOT LIKE '%pg_cursors%'
UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel
UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relpersistence = 't'
"""


@pytest.fixture
def pool_url(postgres_server: PostgresServer, keeper: Keeper, database_url: str) -> Iterator[str]:
    """The test's database, through PgBouncer with a few sessions."""
    with (
        keeper.own_folder() as folder,
        pgbouncer(postgres_server, folder, SESSIONS, "server_idle_timeout = 0"),
    ):
        yield pooled(database_url, folder)


def everything(pipelit: Pipelit, number: int) -> None:
    """Use what reads, decides and writes, often enough for psycopg to prepare statements."""
    name = f"agent_{number}"
    pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    made, editor = pipelit.agent(name), pipelit.agent("agent_editor")
    # Each many times in a row: psycopg counts executions, and begins again after a rollback.
    for _ in range(8):
        pipelit.credentials.put(f"key-{number}", "sk-abcdefghijkl", kind="llm", created_by="alice")
    for _ in range(8):
        assert pipelit.credentials.get(f"key-{number}").name == f"key-{number}"
    for _ in range(8):
        assert pipelit.users.get(name).username == name
    for _ in range(8):
        challenge = editor.challenge(name)
        proof = made.prove(challenge.value, b"done", verifier="agent_editor")
        assert editor.verify_proof(proof, challenge=challenge, payload=b"done").peer == name
    code = made.totp_code(audience="agent_editor").code
    assert editor.verify_peer(name, code).peer == name
    assert any(each.subject == name for each in pipelit.audit.list(limit=1000))


def left_in(url: str, sessions: int) -> list[Any]:
    """What is left in that many sessions at once."""
    with ExitStack() as stack:
        opened = [stack.enter_context(psycopg.connect(url)) for _ in range(sessions)]
        return [row for each in opened for row in each.execute(LEFT).fetchall()]


@POOLED
def test_clients_of_a_pooler_disturb_nobody(
    pipelit: Pipelit, editor: object, pool_url: str, settings: dict[str, Any]
) -> None:
    """12 clients over 3 sessions: no error, and another application's sessions are as before."""
    del editor
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                Pipelit(
                    **settings | {"database_url": pool_url}, clock=clock_of(pipelit), pool_size=1
                )
            )
            for _ in range(12)
        ]
        with ThreadPoolExecutor(len(clients)) as threads:
            for each in [threads.submit(everything, client, n) for n, client in enumerate(clients)]:
                each.result()
        assert left_in(pool_url, SESSIONS) == []


@POOLED
def test_a_schema_can_be_made_through_a_pooler(settings: dict[str, Any], pool_url: str) -> None:
    """Migrations run in one transaction, with the advisory lock that ends with it."""
    with Pipelit(**settings | {"database_url": pool_url}) as made:
        made.create_schema()
        assert not pending_migrations(database_of(made))
    assert left_in(pool_url, SESSIONS) == []


@POOLED
def test_tables_are_not_rewritten_through_a_pooler(
    pipelit: Pipelit, settings: dict[str, Any], pool_url: str
) -> None:
    """VACUUM FULL needs limits for its session, so the error names the server's own address."""
    with (
        Pipelit(**settings | {"database_url": pool_url}) as made,
        pytest.raises(StorageError, match=r"through a pooler.*own address in PIPELIT_DATABASE_URL"),
    ):
        made.keys.purge()
    pipelit.keys.purge()


@POOLED
def test_prepared_statements_are_for_whoever_asks(
    pipelit: Pipelit, settings: dict[str, Any], pool_url: str
) -> None:
    """A pooler that keeps them apart may be told: the option of the address reaches the driver."""
    del pipelit
    with Pipelit(**settings | {"database_url": f"{pool_url}&prepare_threshold=0"}) as made:
        assert made.users.get("alice").username == "alice"
    assert any("prepared _pg3" in str(each) for each in left_in(pool_url, SESSIONS))


def test_a_session_keeps_nothing(pipelit: Pipelit, editor: object) -> None:
    """Without a pooler too: no settings, prepared statements, locks, cursors or tables."""
    del editor
    everything(pipelit, 1)
    pipelit.create_schema()
    driver = database_of(pipelit).engine.raw_connection()
    try:
        cursor = driver.cursor()
        cursor.execute(LEFT)
        assert cursor.fetchall() == []
    finally:
        driver.close()


@pytest.mark.parametrize("way", ["reading", "writing", "deciding"])
def test_each_transaction_has_its_limits(pipelit: Pipelit, way: str) -> None:
    """What another application of the same sessions has set doesn't hold for ours."""
    database = database_of(pipelit)
    driver = database.engine.raw_connection()
    for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
        driver.cursor().execute(f"SET {name} = 0")
    driver.cursor().execute("SET synchronous_commit = off")
    driver.cursor().execute("SET default_transaction_isolation = serializable")
    driver.close()
    with getattr(database, way)() as connection:
        cursor = connection.connection.cursor()
        found = []
        for name in (
            *("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"),
            *("synchronous_commit", "transaction_isolation", "transaction_read_only"),
        ):
            cursor.execute(f"SHOW {name}")
            found.append(cursor.fetchone()[0])
        cursor.close()
    kind = ["repeatable read", "on"] if way == "reading" else ["read committed", "off"]
    assert found == ["15s", "30s", "1min", "on", *kind]


class Limits(NamedTuple):
    """The server's answer."""

    limits: str


def test_one_statement_has_limits_too(pipelit: Pipelit, database_url: str) -> None:
    """A read outside a longer transaction has one of its own, so that a lock can't hold it."""
    query = Query("SELECT current_setting('lock_timeout') AS limits", Limits)
    assert database_of(pipelit).fetch(query, {})[0].limits == "15s"
    assert left_in(database_url, 1) == []
