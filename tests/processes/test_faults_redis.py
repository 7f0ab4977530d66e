"""Faults of Redis: nothing is accepted that shouldn't be, and what may not be lost isn't.

Each row of the fault table is a test here; those of the database are in ``test_faults.py``. Most
run with the accounts in SQLite: what Redis does to them is the same in PostgreSQL.
"""

from __future__ import annotations

import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from internals import clock_of
from keeper import Keeper
from redis import Redis
from redis_server import Gate, RedisServer, free_port, until

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import (
    CodeRejected,
    LedgerUnavailable,
    LedgerWarning,
    PeerLocked,
    RateLimited,
    VerificationError,
)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The ledger in a server that the test may maltreat, the accounts in SQLite."""
    return "redis"


@pytest.fixture
def redis_url(own_redis: RedisServer) -> str:
    """That server's address."""
    return own_redis.url


@pytest.fixture
def redis(own_redis: RedisServer) -> Redis:
    """A client of the test's own."""
    return own_redis.client()


def verify(editor: Agent, writer: Agent) -> int:
    """Verifies with the right code; the step."""
    code = writer.totp_code(audience=editor.username).code
    return editor.verify_peer(writer.username, code).step


def last_reason(pipelit: Pipelit) -> str:
    """The true reason of the last decision."""
    return pipelit.audit.list(limit=1)[0].reason


def guess(editor: Agent, times: int = 1) -> list[str]:
    """Guesses wrong that many times; the exceptions."""
    found = []
    for _ in range(times):
        with pytest.raises((LedgerUnavailable, VerificationError)) as caught:
            editor.verify_peer("agent_writer", "00000000")
        found.append(type(caught.value).__name__)
    return found


def spent(pipelit: Pipelit, editor: Agent, writer: Agent) -> str:
    """A code that was accepted a moment ago."""
    code = writer.totp_code(audience=editor.username).code
    editor.verify_peer(writer.username, code)
    return code


def refused_as(pipelit: Pipelit, editor: Agent, code: str, *reasons: str) -> None:
    """The code is refused, for one of these true reasons."""
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", code)
    assert last_reason(pipelit) in reasons


def unavailable(pipelit: Pipelit, editor: Agent, code: str) -> str:
    """The check is refused since attempts can't be counted, and audited; what was said."""
    with pytest.raises(LedgerUnavailable, match="PIPELIT_REDIS_URL") as caught:
        editor.verify_peer("agent_writer", code)
    assert (caught.value.peer, caught.value.verifier) == ("agent_writer", editor.username)
    assert code not in str(caught.value)
    entry = pipelit.audit.list(limit=1)[0]
    assert (entry.outcome, entry.reason) == ("refused", "ledger unavailable")
    return str(caught.value)


def test_without_redis_nothing_is_accepted(
    pipelit: Pipelit, own_redis: RedisServer, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Gone: codes are refused with the setting's name. Back: they are accepted, by itself.

    Before the first attempt as well as after it.
    """
    for _ in range(2):
        code = writer.totp_code(audience="agent_editor").code
        own_redis.kill()
        unavailable(pipelit, editor, code)
        own_redis.start()
        editor.verify_peer("agent_writer", code)
        clock.advance(60)


def test_without_redis_proofs_are_checked(
    pipelit: Pipelit, own_redis: RedisServer, writer: Agent, editor: Agent
) -> None:
    """A proof needs no count, and so no Redis."""
    own_redis.kill()
    challenge = editor.challenge("agent_writer")
    proof = writer.prove(challenge.value, b"", verifier="agent_editor")
    assert editor.verify_proof(proof, challenge=challenge, payload=b"")


def test_a_flushed_redis_makes_no_spent_code_good(
    pipelit: Pipelit, redis: Redis, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """FLUSHALL: what was spent stands in SQL too; two steps later codes are good again."""
    code = spent(pipelit, editor, writer)
    for _ in range(2):
        redis.flushall()
        refused_as(pipelit, editor, code, "replay")
    clock.advance(60)
    verify(editor, writer)


def test_a_flushed_redis_forgets_no_lock(
    pipelit: Pipelit, redis: Redis, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Flushed before every guess, the tenth failure in a row still locks the lane, for as long.

    The wait of a minute alone is forgotten with Redis.
    """
    for number in range(14):
        redis.flushall()
        assert guess(editor) == ["CodeRejected"]
        if number >= 9:
            redis.flushall()
            with pytest.raises(PeerLocked) as caught:
                verify(editor, writer)
            assert caught.value.retry_after == 900 * 2 ** (number - 9)
            clock.advance(caught.value.retry_after)
    redis.flushall()
    verify(editor, writer)
    redis.flushall()
    assert guess(editor, 5) == ["CodeRejected"] * 5


def test_an_evicted_key_forgets_no_lock(
    pipelit: Pipelit, redis: Redis, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Whichever of a peer's keys is dropped: SQL knows the failures in a row and the lock."""
    for _ in range(10):
        assert guess(editor) == ["CodeRejected"]
        for each in redis.scan_iter():
            redis.delete(each)
    assert guess(editor) == ["PeerLocked"]
    clock.advance(900)
    assert guess(editor, 2) == ["CodeRejected", "PeerLocked"]


def test_a_restarted_redis_makes_no_spent_code_good(
    pipelit: Pipelit, own_redis: RedisServer, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Killed and started with nothing in it: refused, and so are codes that may have been spent.

    Those of the step after, which were good before the fault too; then all are accepted again.
    """
    code = spent(pipelit, editor, writer)
    own_redis.kill()
    own_redis.start()
    refused_as(pipelit, editor, code, "replay")
    clock.advance(30)
    refused_as(
        pipelit,
        editor,
        writer.totp_code(audience="agent_editor").code,
        "step from before a restart",
    )
    clock.advance(30)
    verify(editor, writer)


def test_an_older_dump_makes_no_spent_code_good(
    pipelit: Pipelit,
    own_redis: RedisServer,
    redis: Redis,
    clock: Clock,
    writer: Agent,
    editor: Agent,
) -> None:
    """Restored from a dump made before the code was spent: refused."""
    verify(editor, writer)
    clock.advance(60)
    redis.save()
    code = spent(pipelit, editor, writer)
    guess(editor, 2)
    own_redis.kill()
    redis = own_redis.start()
    assert redis.dbsize() > 0
    refused_as(pipelit, editor, code, "replay")
    # The failures of the last minute are those of the dump: those since are not among them.
    assert guess(editor, 5) == ["CodeRejected"] * 4 + ["RateLimited"]


def test_an_older_dump_ends_no_lock_that_an_operator_ended_since(
    pipelit: Pipelit, own_redis: RedisServer, redis: Redis, writer: Agent, editor: Agent
) -> None:
    """A dump from before an unlock doesn't bring the lock back: SQL knows how many there were."""
    guess(editor, 6)
    redis.save()
    pipelit.users.unlock("agent_writer")
    own_redis.kill()
    own_redis.start()
    verify(editor, writer)


@pytest.fixture
def replica(keeper: Keeper) -> Iterator[RedisServer]:
    """A second server."""
    with keeper.own_folder() as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.close()


def test_a_promoted_replica_that_lags_makes_no_spent_code_good(
    pipelit: Pipelit,
    own_redis: RedisServer,
    replica: RedisServer,
    clock: Clock,
    writer: Agent,
    editor: Agent,
) -> None:
    """Failed over to a replica that hadn't heard of it yet: refused; young codes are good."""
    port = free_port()
    own_redis.kill()
    master = own_redis.start("--port", str(port))
    verify(editor, writer)
    second = replica.client()
    second.replicaof("127.0.0.1", str(port))
    clock.advance(60)
    master.set("mark", 1)
    # Asked itself: the master may count on it before it has loaded what it was sent.
    until(lambda: second.get("mark") == b"1")
    # From here on it hears nothing any more.
    second.execute_command("REPLICAOF", "NO", "ONE")
    assert second.dbsize() == master.dbsize() > 0
    code = spent(pipelit, editor, writer)
    own_redis.kill()
    replica.socket.rename(own_redis.socket)
    refused_as(pipelit, editor, code, "replay")
    clock.advance(60)
    verify(editor, writer)


def test_a_flushed_script_is_sent_again(
    pipelit: Pipelit, redis: Redis, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """SCRIPT FLUSH changes nothing: what was spent is, and the next code is accepted."""
    code = spent(pipelit, editor, writer)
    redis.script_flush()
    refused_as(pipelit, editor, code, "replay")
    redis.script_flush()
    clock.advance(30)
    verify(editor, writer)


def test_a_full_redis_accepts_nothing(
    pipelit: Pipelit, redis: Redis, writer: Agent, editor: Agent
) -> None:
    """Out of memory under ``noeviction``: refused, and nothing half written; then it goes on."""
    code = writer.totp_code(audience="agent_editor").code
    redis.config_set("maxmemory", 1)
    assert "maxmemory" in unavailable(pipelit, editor, code)
    assert redis.dbsize() == 0
    redis.config_set("maxmemory", 0)
    editor.verify_peer("agent_writer", code)


def test_a_read_only_replica_accepts_nothing(
    pipelit: Pipelit, redis: Redis, writer: Agent, editor: Agent
) -> None:
    """The address of a replica: refused; promoted: accepted."""
    code = writer.totp_code(audience="agent_editor").code
    redis.replicaof("127.0.0.1", "1")
    assert "READONLY" in unavailable(pipelit, editor, code)
    redis.execute_command("REPLICAOF", "NO", "ONE")
    editor.verify_peer("agent_writer", code)


@pytest.mark.parametrize("known", [True, False], ids=["connected", "new"])
def test_a_redis_that_hangs_is_waited_for_a_few_seconds(
    pipelit: Pipelit,
    own_redis: RedisServer,
    clock: Clock,
    writer: Agent,
    editor: Agent,
    known: bool,
) -> None:
    """Stopped: refused within seconds. Running again: accepted, by itself."""
    if known:
        verify(editor, writer)
        clock.advance(30)
    code = writer.totp_code(audience="agent_editor").code
    own_redis.signal(signal.SIGSTOP)
    start = time.monotonic()
    unavailable(pipelit, editor, code)
    assert time.monotonic() - start < 6
    own_redis.signal(signal.SIGCONT)
    own_redis.client().ping()
    clock.advance(60)
    verify(editor, writer)


def test_what_a_hanging_redis_was_asked_is_not_good_again(
    pipelit: Pipelit, own_redis: RedisServer, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """It answers the request that was given up when it runs again: the code was spent by it."""
    verify(editor, writer)
    clock.advance(30)
    code = writer.totp_code(audience="agent_editor").code
    own_redis.signal(signal.SIGSTOP)
    unavailable(pipelit, editor, code)
    own_redis.signal(signal.SIGCONT)
    own_redis.client().ping()
    refused_as(pipelit, editor, code, "replay")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_evicts_is_reported(
    pipelit: Pipelit, redis: Redis, writer: Agent, editor: Agent, policy: str
) -> None:
    """Another ``maxmemory-policy`` than ``noeviction`` is a LedgerWarning, once a connection."""
    redis.config_set("maxmemory-policy", policy)
    with pytest.warns(
        LedgerWarning, match=f"evicts keys when its memory is full.*{policy}.*noeviction"
    ):
        verify(editor, writer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guess(editor)


def test_an_evicted_key_makes_no_spent_code_good(
    pipelit: Pipelit, redis: Redis, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Without the peer's keys, as after an eviction, what was spent is refused all the same."""
    code = spent(pipelit, editor, writer)
    for each in redis.scan_iter():
        redis.delete(each)
        refused_as(pipelit, editor, code, "replay")
    clock.advance(60)
    verify(editor, writer)


def test_a_connection_cut_before_the_answer_is_a_refusal(
    settings: dict[str, Any],
    pipelit: Pipelit,
    own_redis: RedisServer,
    clock: Clock,
    writer: Agent,
    editor: Agent,
) -> None:
    """Redis decided and nobody heard it: refused, not asked again, the code isn't good again."""
    gate = Gate(own_redis.socket)
    behind = settings | {"redis_url": f"redis://127.0.0.1:{gate.port}"}
    with Pipelit(**behind, clock=clock) as other:
        cut_off = other.agent("agent_editor")
        verify(cut_off, writer)
        clock.advance(30)
        code = writer.totp_code(audience="agent_editor").code
        gate.keeps = b"EVALSHA"
        unavailable(other, cut_off, code)
        gate.keeps = None
        refused_as(other, cut_off, code, "replay")
        assert last_reason(pipelit) == "replay"
        clock.advance(30)
        verify(cut_off, writer)
    gate.close()


def test_a_guess_that_was_cut_off_is_charged(
    settings: dict[str, Any], pipelit: Pipelit, own_redis: RedisServer, writer: Agent, editor: Agent
) -> None:
    """Who cuts the answers off gets no guess for nothing: of the minute's five it was one."""
    gate = Gate(own_redis.socket)
    behind = settings | {"redis_url": f"redis://127.0.0.1:{gate.port}"}
    with Pipelit(**behind, clock=clock_of(pipelit)) as other:
        cut_off = other.agent("agent_editor")
        assert guess(cut_off) == ["CodeRejected"]
        gate.keeps = b"EVALSHA"
        assert guess(cut_off, 4) == ["LedgerUnavailable"] * 4
        gate.keeps = None
        with pytest.raises(RateLimited):
            verify(cut_off, writer)
    gate.close()


def test_two_servers_accept_one_code_once(
    settings: dict[str, Any],
    pipelit: Pipelit,
    replica: RedisServer,
    clock: Clock,
    writer: Agent,
    editor: Agent,
) -> None:
    """Processes that were given different servers by mistake: SQL lets one acceptance pass."""
    code = spent(pipelit, editor, writer)
    with Pipelit(**(settings | {"redis_url": replica.url}), clock=clock) as other:
        refused_as(other, other.agent("agent_editor"), code, "replay")


def test_two_databases_share_a_server(
    settings: dict[str, Any],
    pipelit: Pipelit,
    tmp_path: Path,
    clock: Clock,
    writer: Agent,
    editor: Agent,
) -> None:
    """What is counted about an agent here isn't counted about its namesake there."""
    guess(editor, 6)
    with Pipelit(**(settings | {"database_url": f"sqlite:///{tmp_path}/b.db"}), clock=clock) as b:
        b.create_schema()
        b.users.create("alice")
        for name in ("agent_writer", "agent_editor"):
            b.users.create_agent(name, owner="alice", purpose="takes part")
        verify(b.agent("agent_editor"), b.agent("agent_writer"))
    with pytest.raises(RateLimited):
        verify(editor, writer)


def test_a_copied_database_spends_in_the_same_place(
    settings: dict[str, Any],
    pipelit: Pipelit,
    tmp_path: Path,
    clock: Clock,
    writer: Agent,
    editor: Agent,
    database_url: str,
) -> None:
    """A copy of the files is the same database to Redis: its codes are spent there as well."""
    pipelit.close()
    copy = tmp_path / "copy"
    shutil.copytree(Path(database_url.removeprefix("sqlite:///")).parent, copy)
    code = spent(pipelit, editor, writer)
    with Pipelit(**(settings | {"database_url": f"sqlite:///{copy}/agents.db"}), clock=clock) as b:
        refused_as(b, b.agent("agent_editor"), code, "replay")
