"""What an operator changes is on the disk when the call returns; seen at the commit itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from conftest import Clock
from internals import database_of, ledger_of
from sqlalchemy import event, text
from test_mfa import app_of, wrong

from pipelit_agents import Agent, Keyring, Pipelit
from pipelit_agents.database.machine import boot_id
from pipelit_agents.errors import UserExists, VerificationError
from pipelit_agents.protocol.provisioning_uri import base32_secret

BACKENDS = ("sqlite", "postgres")
# What each means that a power cut loses nothing of: SQLite's FULL, PostgreSQL's own word.
FLUSHED = {"sqlite": "2", "postgresql": "on"}
ASKED = {"sqlite": "PRAGMA synchronous", "postgresql": "SHOW synchronous_commit"}

Change = Callable[[Pipelit, Clock], Iterator[None]]
CHANGES: list[Change] = []


def change(function: Change) -> Change:
    """Names a change: what comes before its yield prepares it."""
    CHANGES.append(function)
    return function


@change
def _create(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    yield
    pipelit.users.create("bob")


@change
def _create_agent(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    yield
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")


@change
def _deactivate(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.create("bob")
    yield
    pipelit.users.deactivate("bob")


@change
def _unlock(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    yield
    pipelit.users.unlock("alice")


@change
def _rotate_totp(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    yield
    pipelit.users.rotate_totp("agent_x")


@change
def _issue_peering(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    yield
    pipelit.users.issue_peering("agent_x", domain="acme")


@change
def _enroll_peer(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    secret = base32_secret(b"s" * 32)
    uri = f"otpauth://totp/pipelit-agents:agent_y?secret={secret}&relation={'a' * 32}"
    yield
    pipelit.users.enroll_peer(uri, name="agent_y", domain="acme")


@change
def _issue_api_key(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    yield
    pipelit.users.issue_api_key("alice", name="k")


@change
def _revoke_api_key(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    key = pipelit.users.issue_api_key("alice", name="k")
    yield
    pipelit.users.revoke_api_key(key.id)


@change
def _provision_agent(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    yield
    pipelit.provision_agent(pipelit.agent("agent_x"), purpose="helps")


@change
def _put(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    yield
    pipelit.credentials.put("openai", "sk-" + "b" * 40, kind="llm", created_by="alice")


@change
def _delete(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.credentials.put("openai", "sk-" + "b" * 40, kind="llm", created_by="alice")
    yield
    pipelit.credentials.delete("openai")


@change
def _mfa_enroll(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    yield
    pipelit.mfa.enroll("alice")


@change
def _mfa_confirm(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    app = app_of(pipelit.mfa.enroll("alice"))
    yield
    pipelit.mfa.confirm("alice", app.at(clock()))


@change
def _mfa_renew(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    app = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", app.at(clock()))
    clock.advance(30)
    yield
    pipelit.mfa.renew_recovery_codes("alice", app.at(clock()))


@change
def _mfa_disable(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    app = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", app.at(clock()))
    clock.advance(30)
    yield
    pipelit.mfa.disable("alice", app.at(clock()))


@change
def _mfa_reset(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    app = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", app.at(clock()))
    yield
    pipelit.mfa.reset("alice")


@change
def _recovery_code(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    app = app_of(pipelit.mfa.enroll("alice"))
    code, *_ = pipelit.mfa.confirm("alice", app.at(clock()))
    yield
    pipelit.mfa.verify("alice", code.get_secret_value())


@change
def _mfa_confirm_wrong(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    app = app_of(pipelit.mfa.enroll("alice"))
    yield
    with pytest.raises(VerificationError):
        pipelit.mfa.confirm("alice", wrong(app, clock))


@change
def _mfa_confirm_taken_back(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    # The code is right by this clock, and can't be spent: so its factor is pending again.
    app = app_of(pipelit.mfa.enroll("alice"))
    code = app.at(clock())
    ledger_of(pipelit)._epoch = lambda: "another life"  # type: ignore[attr-defined]
    yield
    with pytest.raises(VerificationError):
        pipelit.mfa.confirm("alice", code)
    status = pipelit.mfa.status("alice")
    assert (status.on, status.pending, status.recovery_codes) == (False, True, 0)


@change
def _refused_provisioning(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    yield
    with pytest.raises(UserExists):
        pipelit.provision_agent(pipelit.agent("agent_x"), purpose="helps", username="alice")


@change
def _keys_rotate(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    pipelit.audit.seal()
    pipelit._keyring = Keyring(Keyring.generate_key(), *_keys(pipelit))
    yield
    pipelit.keys.rotate()


@change
def _keys_forget(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.credentials.put("openai", "sk-" + "b" * 40, kind="llm", created_by="alice")
    pipelit._keyring = Keyring(Keyring.generate_key())
    yield
    pipelit.keys.forget_unreadable()


@change
def _audit_seal(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    yield
    pipelit.audit.seal()


@change
def _audit_prune(pipelit: Pipelit, clock: Clock) -> Iterator[None]:
    pipelit.audit.seal()
    pipelit.users.create("bob")
    pipelit.audit.seal()
    clock.advance(86_400)
    yield
    assert pipelit.audit.prune(datetime.fromtimestamp(clock(), UTC))


@change
def _refusals(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.refusals.count("not looked up")
    yield
    pipelit.users.refusals.flush()


@change
def _spend_request(pipelit: Pipelit, _clock: Clock) -> Iterator[None]:
    pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    agent = pipelit.agent("agent_x")
    yield
    assert agent.spend_request("agent_lead", b"c" * 32)


def _keys(pipelit: Pipelit) -> Any:
    kept = pipelit._make_keyring.__closure__[0].cell_contents  # type: ignore[attr-defined]
    return [each.get_secret_value() for each in kept]


def driver_of(connection: Any) -> Any:
    """The driver's own connection."""
    return connection.connection.dbapi_connection


@contextmanager
def commits(pipelit: Pipelit) -> Iterator[list[str]]:
    """How each transaction that writes is flushed, asked on its connection when it commits."""
    engine = database_of(pipelit).engine
    found: list[str] = []

    def begin(connection: Any) -> None:
        connection.info["changes"] = getattr(driver_of(connection), "total_changes", 0)

    def ask(connection: Any) -> None:
        cursor = driver_of(connection).cursor()
        if engine.dialect.name == "sqlite":
            changed = driver_of(connection).total_changes - connection.info["changes"]
        else:
            changed = cursor.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()[0]
        if changed:
            cursor.execute(ASKED[engine.dialect.name])
            found.append(str(cursor.fetchone()[0]))
        cursor.close()

    event.listen(engine, "begin", begin)
    event.listen(engine, "commit", ask)
    yield found
    event.remove(engine, "begin", begin)
    event.remove(engine, "commit", ask)


@pytest.mark.skipif(not boot_id(), reason="without a boot id every commit is flushed")
@pytest.mark.parametrize("do", CHANGES, ids=lambda each: each.__name__[1:])
def test_what_an_operator_changes_is_flushed(pipelit: Pipelit, clock: Clock, do: Change) -> None:
    """Accounts, keys, credentials, second factors, the audit: no power cut takes it back."""
    changing = do(pipelit, clock)
    next(changing)
    with commits(pipelit) as found:
        next(changing, None)
    assert found
    assert set(found) == {FLUSHED[database_of(pipelit).engine.dialect.name]}


@pytest.mark.backends("sqlite")
@pytest.mark.skipif(not boot_id(), reason="without a boot id every commit is flushed")
def test_flushing_ends_with_the_transaction(pipelit: Pipelit) -> None:
    """The connection is quick again afterwards, also where the change failed."""

    def fail() -> None:
        with database_of(pipelit).writing(durable=True):
            raise KeyError

    pipelit.users.create("bob")
    with pytest.raises(KeyError):
        fail()
    with commits(pipelit) as found:
        for _ in range(5):
            with database_of(pipelit).writing() as connection:
                connection.execute(text("UPDATE pipelit_users SET purpose = 'x'"))
    assert found == ["1"] * 5


@pytest.mark.backends("postgres")
def test_postgresql_confirms_what_is_on_its_disk(
    settings: dict[str, Any], pipelit: Pipelit, writer: Agent
) -> None:
    """Whatever the server's default: on each connection, and also for what isn't an operator's."""
    url = settings["database_url"]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
    with Pipelit(**settings) as other:
        with commits(other) as found:
            other.users.create("bob")
        with database_of(other).deciding() as transaction:
            cursor = transaction.connection.cursor()
            cursor.execute("SHOW synchronous_commit")
            found.append(str((cursor.fetchone() or ("",))[0]))
            cursor.close()
    assert found == ["on", "on"]
