"""What somebody with a signal, a stopwatch or a mistyped address does to the ledger in Redis."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from conftest import Clock
from internals import ledger_of
from paths import ROOT
from redis_server import RedisServer

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import (
    CodeRejected,
    ConfigurationError,
    LedgerUnavailable,
    PeerLocked,
    VerificationError,
)
from pipelit_agents.ledger.attempts import Account, Attempt
from pipelit_agents.protocol.binding import PERIOD

BACKENDS = True
PAGE = (ROOT / "docs" / "deployment.md").read_text()


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "left_there",
    [
        "'theirs accepted 1800000000.000000 60000000 - 0 0 0.000000 '",
        "'theirs'",
        "''",
        "{'theirs'}",
        "1",
        "nil",
    ],
)
def test_an_answer_that_was_left_on_a_connection_is_nobodys(
    settings: dict[str, Any],
    own_redis: RedisServer,
    pipelit: Pipelit,
    writer: Agent,
    editor: Agent,
    left_there: str,
) -> None:
    """A call that was interrupted leaves «accepted» behind: the next guess isn't told it."""
    with Pipelit(**settings | {"redis_url": own_redis.url}) as other:
        client: Any = ledger_of(other)._script.client  # type: ignore[attr-defined]
        pool = client.connection_pool
        left = pool.get_connection()
        own_redis.signal(signal.SIGSTOP)
        left.send_command("EVAL", f"return {left_there}", 0)
        pool.release(left)
        seen: list[Exception] = []
        sent, send = Event(), left.send_packed_command

        def sending(*given: Any, **options: Any) -> None:
            send(*given, **options)
            sent.set()

        left.send_packed_command = sending

        def guess() -> None:
            try:
                other.agent("agent_editor").verify_peer("agent_writer", "00000000")
            except (LedgerUnavailable, VerificationError) as error:
                seen.append(error)

        thread = Thread(target=guess)
        thread.start()
        # It has looked whether anything is left on the connection, and waits for an answer.
        assert sent.wait(60)
        own_redis.signal(signal.SIGCONT)
        thread.join()
        assert [type(each) for each in seen] == [LedgerUnavailable]
        assert "another call's" in str(seen[0])
        # And nobody meets that connection again.
        with pytest.raises(CodeRejected):
            other.agent("agent_editor").verify_peer("agent_writer", "00000000")


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "written",
    [
        ("SET", ""),
        ("SET", "1 2 3"),
        ("SET", "0 0 0.0 -1 soon run "),
        ("SET", "x 0 0.0 -1 0.0 run "),
        ("SET", "nan nan nan nan nan run "),
        ("HSET", "in_a_row", "0"),
        ("SADD", "0"),
    ],
)
def test_damaged_counters_accept_nothing(
    settings: dict[str, Any],
    own_redis: RedisServer,
    pipelit: Pipelit,
    writer: Agent,
    editor: Agent,
    written: tuple[str, ...],
) -> None:
    """What another wrote under a counter's key is refused, with its name, until it is deleted."""
    with Pipelit(**settings | {"redis_url": own_redis.url}) as other:
        verifier = other.agent("agent_editor")
        with pytest.raises(CodeRejected):
            verifier.verify_peer("agent_writer", "00000000")
        client = own_redis.client()
        code = other.agent("agent_writer").totp_code(audience="agent_editor").code
        for key in client.keys("*"):
            before = client.get(key)
            client.delete(key)
            client.execute_command(written[0], key, *written[1:])
            with pytest.raises(LedgerUnavailable, match=f"{re.escape(key.decode())}.*delete"):
                verifier.verify_peer("agent_writer", code)
            client.delete(key)
            client.set(key, before)
        assert verifier.verify_peer("agent_writer", code)


@pytest.mark.backends("sqlite")
def test_an_account_that_may_not_read_is_not_told_to_delete(
    settings: dict[str, Any],
    own_redis: RedisServer,
    pipelit: Pipelit,
    writer: Agent,
    editor: Agent,
) -> None:
    """Without ``GET`` nothing is accepted, and the counters aren't said to be damaged."""
    rights = ("+eval", "+evalsha", "+set", "+info", "+time")
    user = ("ACL", "SETUSER", "counter", "on", ">pw", "resetkeys", "~pipelit:*", "-@all", *rights)
    own_redis.client().execute_command(*user)
    address = own_redis.url.replace("unix://", "unix://counter:pw@")
    with (
        Pipelit(**settings | {"redis_url": address}) as other,
        pytest.raises(LedgerUnavailable) as caught,
    ):
        other.agent("agent_editor").verify_peer("agent_writer", "00000000")
    assert "damaged" not in str(caught.value)


@pytest.mark.backends("redis")
@pytest.mark.parametrize(
    "change",
    [
        lambda users: users.rotate_totp("agent_writer"),
        lambda users: users.deactivate("agent_writer"),
        lambda users: users.deactivate("agent_editor"),
        lambda users: users.deactivate("alice"),
    ],
)
def test_a_change_in_the_middle_of_a_check_holds_at_once(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, change: Callable[[Any], Any]
) -> None:
    """What was deactivated or rotated before the outcome was written verifies nobody."""

    def matches(account: Account | None, steps: range) -> list[int]:
        change(pipelit.users)
        return [int(clock.now) // PERIOD]

    attempt = Attempt("agent_editor", "agent_writer", "audience", matches)
    decision = ledger_of(pipelit).decide(attempt)
    assert decision.verdict == "rejected"
    assert pipelit.audit.list(limit=1)[0].reason == "account changed meanwhile"


@pytest.mark.backends("redis")
def test_an_unlock_reaches_a_redis_that_is_ahead_of_a_restored_database(
    settings: dict[str, Any], clock: Clock, tmp_path: Path
) -> None:
    """Redis remembers more unlocks than a backup does: the next one ends the lock all the same."""
    path = Path(settings["database_url"].removeprefix("sqlite:///"))
    with Pipelit(**settings, clock=clock) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        for name in ("agent_a", "agent_b"):
            pipelit.users.create_agent(name, owner="alice", purpose="takes part")
        pipelit.close()
        shutil.copytree(path.parent, tmp_path / "backup")
        for _ in range(3):
            pipelit.users.unlock("agent_a")
            clock.advance(1)
        for _ in range(10):
            clock.advance(13)
            with pytest.raises(CodeRejected):
                pipelit.agent("agent_b").verify_peer("agent_a", "00000000")
        pipelit.close()
        shutil.rmtree(path.parent)
        shutil.copytree(tmp_path / "backup", path.parent)
        with pytest.raises(PeerLocked):
            pipelit.agent("agent_b").verify_peer("agent_a", "00000000")
        pipelit.users.unlock("agent_a")
        code = pipelit.agent("agent_a").totp_code(audience="agent_b").code
        pipelit.agent("agent_b").verify_peer("agent_a", code)


ADDRESSES = [
    "redis://:s3cret/word@h.example:6379/0",
    "redis://:12345/s3cret@h.example/0",
    "redis://:s3cret?x@h.example/0",
    "redis://:s3cret#x@h.example/0",
    "redis+sentinel://:s3cret/x@h.example:1/m",
    "redis+sentinel://:s3cret@[::1/m",
    "redis://:s3cret@[::1",
    "redis://:s3cret@h.example/name",
    "redis://:s3cret@h.example?decode_responses=true",
    "redis://:s3cret@h.example?protocol=3",
    "redis://:s3cret@h.example?socket_timeout=-1",
    "redis://:s3cret@h.example?retry=3",
    "redis://:s3cret@h.example?nosuch=s3cret",
    "redis://:s3cret@h.example?ssl_ca_certs=/x",
    "rediss://:s3cret@h.example?ssl_nonsense=/x",
    "redis://:s3cret@h.example?max_connections=many",
    "redis://:s3cret@h..example/0",
    "http://:s3cret@h.example",
    "s3cret",
]


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("url", ADDRESSES)
def test_a_mistyped_address_is_refused_without_its_password(
    settings: dict[str, Any], pipelit: Pipelit, writer: Agent, editor: Agent, url: str
) -> None:
    """Whatever was typed wrong: an error that names the setting, a row, and no password."""
    with Pipelit(**settings | {"redis_url": url}) as other:
        before = other.audit.list(limit=1)[0].id
        for use in (
            other.check_ledger,
            lambda: other.agent("agent_editor").verify_peer("agent_writer", "00000000"),
        ):
            with pytest.raises(
                (ConfigurationError, LedgerUnavailable), match="PIPELIT_REDIS_URL"
            ) as caught:
                use()
            assert "s3cret" not in str(caught.value)
            assert "12345" not in str(caught.value)
        (row,) = other.audit.list(after=before)
        assert (row.action, row.outcome) == ("verify.audience", "refused")


@pytest.mark.backends("sqlite")
def test_the_commands_that_the_page_names_are_enough(
    settings: dict[str, Any],
    own_redis: RedisServer,
    pipelit: Pipelit,
    writer: Agent,
    editor: Agent,
) -> None:
    """An account with them alone checks codes and the ledger, and may do nothing else."""
    (said,) = re.findall(r"needs the commands (.*?);", PAGE, re.DOTALL)
    commands = re.findall(r"`([A-Z]+)`", said)
    rights = [f"+{each.lower()}" for each in commands]
    client = own_redis.client()
    user = ("ACL", "SETUSER", "counter", "on", ">pw", "resetkeys", "~pipelit:*", "-@all", *rights)
    client.execute_command(*user)
    address = own_redis.url.replace("unix://", "unix://counter:pw@")
    for number in (0, 3):
        with Pipelit(**settings | {"redis_url": f"{address}?db={number}"}) as other:
            assert other.check_ledger().endswith(str(own_redis.socket))
            code = other.agent("agent_writer").totp_code(audience="agent_editor").code
            with pytest.raises(CodeRejected):
                other.agent("agent_editor").verify_peer("agent_writer", "00000000")
            if number == 0:
                other.agent("agent_editor").verify_peer("agent_writer", code)
