"""The row that names a database's key: which keys may encrypt and tag there, and which may not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from internals import database_of, keyring_of, stored_values_of
from key_rotation import newer, no_models, old
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from sqlalchemy import Connection, Engine, bindparam, create_engine, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typing_extensions import TypedDict

from pipelit_agents import EncryptedString, Keyring, Pipelit
from pipelit_agents.database import key_row
from pipelit_agents.errors import (
    ConfigurationError,
    EncryptionKeysUnavailable,
    StorageError,
    UnsealError,
)
from pipelit_agents.sealing.keyring import Sealed

__all__ = ["newer", "no_models", "old"]
BACKENDS = ("sqlite",)
ANOTHER = "another one's"
REPLACED = "was replaced by `keys rotate`"
UNNAMED = "doesn't say which key is its own"
Open = Callable[..., Pipelit]


@pytest.fixture
def under(pipelit: Pipelit, settings: dict[str, Any]) -> Iterator[Open]:
    """Opens the same database under other keys."""
    opened = []

    def open_under(*keys: str, **more: Any) -> Pipelit:
        opened.append(Pipelit(**settings | {"encryption_keys": [*keys], **more}))
        return opened[-1]

    yield open_under
    for each in opened:
        each.close()


def put(pipelit: Pipelit, name: str = "openai", person: str | None = None) -> None:
    """Encrypt something."""
    secret = "sk-1b2c3d4e5f6a"
    pipelit.credentials.put(name, secret, kind="llm", created_by="alice", person=person)


def change(pipelit: Pipelit, statement: str, **values: object) -> None:
    """What somebody does who has the database, and no key."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text(statement), values)


class State(TypedDict):
    """What is checkpointed."""

    note: str


def graph_of(saver: Any) -> Any:
    """A graph of one node."""
    builder = StateGraph(State)
    builder.add_node("work", lambda _: {"note": "done"})
    builder.add_edge(START, "work")
    return builder.compile(checkpointer=saver)


def run(saver: Any) -> None:
    """Write checkpoints."""
    graph_of(saver).invoke({"note": "x"}, {"configurable": {"thread_id": "1"}})


# What can be the first encrypted value of a database, or its first tag.
FIRST: dict[str, Callable[[Pipelit], object]] = {
    "a credential": put,
    "a person's own credential": lambda p: put(p, person="alice"),
    "an agent": lambda p: p.users.create_agent("agent_lead", owner="alice", purpose="x"),
    "a second factor": lambda p: p.mfa.enroll("alice"),
    "a seal": lambda p: p.audit.seal(),
    "a checkpoint": lambda p: run(p.sealed_saver(InMemorySaver())),
    "a serialized value": lambda p: p.checkpoint_serializer().dumps_typed("x"),
}


# Every state


@pytest.mark.parametrize("first", FIRST)
def test_whatever_is_sealed_first_names_the_key(pipelit: Pipelit, under: Open, first: str) -> None:
    """Another key may then seal nothing, whatever it is; the database's own key may."""
    assert pipelit.check_key() is False
    FIRST[first](pipelit)
    assert pipelit.check_key() is True
    wrong = under(Keyring.generate_key())
    for seal in FIRST.values():
        with pytest.raises(ConfigurationError, match=ANOTHER):
            seal(wrong)
    with pytest.raises(ConfigurationError, match="can't decrypt"):
        wrong.check_key()
    for name, seal in FIRST.items():
        if name != first:
            seal(pipelit)
    assert pipelit.keys.status().unreadable == ()


@pytest.mark.backends("sqlite", "postgres")
def test_both_keys_write_between_add_and_rotate(
    pipelit: Pipelit, under: Open, key: str, newer: str, tmp_path: Path
) -> None:
    """A restarted process writes under the newer key, and the others go on under the old one."""
    put(pipelit)
    both = under(newer, key)
    put(both, "new")
    put(pipelit, "old")
    assert (both.keys.status().older, both.keys.status().newest) == (5, 2)
    # Nothing but the row needs the older key, and it does.
    for name in ("openai", "old"):
        pipelit.credentials.delete(name)
    assert (both.keys.status().older, both.keys.status().older_can_go) == (1, False)
    checks = both.check(deploy=True, folder=tmp_path, environ={})
    assert "keys rotate" in {each.name: each.fix for each in checks}["newest key"]


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres")
def test_after_rotate_a_replaced_key_writes_nothing(
    pipelit: Pipelit, under: Open, key: str, newer: str
) -> None:
    """Neither alone nor before the newer one, also when the last value is gone."""
    put(pipelit)
    both, current, behind = under(newer, key), under(newer), under(key, newer)
    assert both.keys.rotate().resealed == 2
    for _ in range(2):
        for stale in (pipelit, behind):
            with pytest.raises(ConfigurationError, match=REPLACED):
                put(stale, "stale")
            failed = {each.name for each in stale.check() if each.ok is False}
            assert "database key" in failed
        current.credentials.delete("openai")
        put(both)
        put(current)
    # Going back is a rotation like any other.
    behind.keys.rotate()
    put(pipelit)
    with pytest.raises(ConfigurationError, match=REPLACED):
        put(current)


def test_a_function_is_asked_again_before_a_process_is_refused(
    pipelit: Pipelit, under: Open, key: str, newer: str, settings: dict[str, Any]
) -> None:
    """So a process whose keys come from a secrets manager needs no restart."""
    put(pipelit)
    kept = [key]
    with Pipelit(**settings | {"encryption_keys": lambda: list(kept)}) as live:
        put(live)
        under(newer, key).keys.rotate()
        with pytest.raises(ConfigurationError, match=REPLACED):
            put(live)
    kept = [key]
    with Pipelit(**settings | {"encryption_keys": lambda: list(kept)}) as live:
        len(keyring_of(live))
        kept[:] = [newer, key]
        put(live)
    with under(newer) as current:
        assert current.keys.status().unreadable == ()


def test_a_rotation_under_another_key_changes_nothing(pipelit: Pipelit, under: Open) -> None:
    """It is refused, and the database's key goes on."""
    put(pipelit)
    with pytest.raises(ConfigurationError, match=ANOTHER):
        under(Keyring.generate_key()).keys.rotate()
    put(pipelit)


def test_a_rotation_that_another_one_has_passed_replaces_nothing(
    pipelit: Pipelit, under: Open, key: str, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paused; going on, it would put values under a replaced key again."""
    put(pipelit)
    slow, newest = under(newer, key), Keyring.generate_key()
    replace = stored_values_of(slow)._replace

    def paused(table: Any, pending: Any, keyring: Keyring) -> int:
        if pending:
            under(newest, newer, key).keys.rotate()
        return replace(table, pending, keyring)

    monkeypatch.setattr(stored_values_of(slow), "_replace", paused)
    with pytest.raises(ConfigurationError, match=REPLACED):
        slow.keys.rotate()
    assert under(newest).keys.status().unreadable == ()


@pytest.mark.backends("sqlite", "postgres")
def test_a_lost_key_is_given_up(pipelit: Pipelit, under: Open) -> None:
    """The newest key is the database's from then on, and the lost one is another one's."""
    put(pipelit)
    found = under(Keyring.generate_key())
    assert found.keys.forget_unreadable() == ["credentials openai"]
    put(found)
    with pytest.raises(ConfigurationError, match=ANOTHER):
        put(pipelit)
    assert found.keys.forget_unreadable() == []
    forgot = [each.reason for each in found.audit.list() if each.action == "keys.forget"]
    assert len(forgot) == 2
    assert keyring_of(found).fingerprint() in forgot[0]


# A row that was changed or deleted


DAMAGES = {
    "another key": "UPDATE pipelit_encryption_key SET fingerprint = 'ffffffffffff'",
    "another tag": "UPDATE pipelit_encryption_key SET mac = 'ffffffffffff'",
    "more that was replaced": "UPDATE pipelit_encryption_key SET replaced = 'ffffffffffff'",
    "no text": "UPDATE pipelit_encryption_key SET mac = x'00ff'",
    "a number": "UPDATE pipelit_encryption_key SET fingerprint = 5",
    "not ASCII": "UPDATE pipelit_encryption_key SET replaced = 'é'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_row_that_was_changed_stops_writers_and_is_named(
    pipelit: Pipelit, damage: str, writer: Any, editor: Any
) -> None:
    """What is stored opens, codes are verified, and `keys forget` deletes nothing."""
    put(pipelit)
    change(pipelit, damage)
    for seal in (put, lambda p: p.keys.rotate()):
        with pytest.raises(ConfigurationError, match="keys forget"):
            seal(pipelit)
    assert pipelit.credentials.get("openai").masked == "…5f6a"
    assert editor.verify_peer("agent_writer", writer.totp_code(audience="agent_editor").code)
    assert any("pipelit_encryption_key" in each for each in pipelit.keys.status().unreadable)
    failed = {each.name: each for each in pipelit.check() if each.ok is False}
    assert failed.keys() == {"database key"}
    assert "keys forget" in failed["database key"].fix
    assert pipelit.keys.forget_unreadable() == []
    put(pipelit)
    assert pipelit.keys.status().unreadable == ()


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("outage", [False, True])
def test_a_key_that_is_only_unknown_here_isnt_lost(
    pipelit: Pipelit, settings: dict[str, Any], under: Open, key: str, newer: str, outage: bool
) -> None:
    """Another process has rotated since this one read its keys, and a value calls for no others.

    A value that no key decrypts had them read again a moment ago.
    """
    kept, answers = [key], [True]

    def ask() -> list[str]:
        if not answers:
            raise TimeoutError
        return list(kept)

    put(pipelit)
    pipelit.credentials.put("junk", "sk-live-1234567890", kind="llm", created_by="alice")
    change(pipelit, "UPDATE pipelit_credentials SET hint = 'gAAAAA' WHERE name = 'junk'")
    other = under(newer, key)
    with Pipelit(**settings | {"encryption_keys": ask}) as live:
        with pytest.raises(UnsealError):
            live.credentials.get("junk")
        other.keys.rotate()
        kept[:] = [newer]
        if outage:
            answers.clear()
            with pytest.raises(EncryptionKeysUnavailable):
                live.keys.forget_unreadable()
        else:
            assert live.keys.forget_unreadable() == ["credentials junk"]
    assert under(newer).credentials.get("openai").masked == "…5f6a"


@pytest.mark.backends("sqlite", "postgres")
def test_nobody_stores_under_a_lost_key_while_it_is_given_up(
    pipelit: Pipelit, under: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that still has that key is refused before the first value is deleted."""
    put(pipelit)
    found = under(Keyring.generate_key())
    unreadable = stored_values_of(found).unreadable

    def then(keyring: Keyring) -> Any:
        yield from unreadable(keyring)
        with pytest.raises(ConfigurationError, match=ANOTHER):
            put(pipelit)

    monkeypatch.setattr(stored_values_of(found), "unreadable", then)
    assert found.keys.forget_unreadable() == ["credentials openai"]
    assert found.keys.status().unreadable == ()


@pytest.mark.backends("sqlite", "postgres")
def test_what_is_rotated_meanwhile_isnt_given_up(
    pipelit: Pipelit, under: Open, key: str, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process replaces the key in the middle: nothing of it is deleted."""
    put(pipelit)
    slow = under(key)
    unreadable = stored_values_of(slow).unreadable

    def late(keyring: Keyring) -> Any:
        under(newer, key).keys.rotate()
        yield from unreadable(keyring)

    monkeypatch.setattr(stored_values_of(slow), "unreadable", late)
    with pytest.raises(ConfigurationError, match="isn't lost"):
        slow.keys.forget_unreadable()
    assert under(newer).credentials.get("openai").masked == "…5f6a"


def test_damaged_values_lock_nobody_out(pipelit: Pipelit) -> None:
    """The row says which key is right, however many of the newest values are damaged."""
    put(pipelit)
    pipelit.users.create_agent("agent_x", owner="alice", purpose="x")
    change(pipelit, "UPDATE pipelit_credentials SET sealed = 'gAAAAA', hint = 'x'")
    change(pipelit, "UPDATE pipelit_users SET totp_secret = 'gAAAAAx' WHERE kind = 'agent'")
    put(pipelit, "other")
    pipelit.users.rotate_totp("agent_x")


def test_a_database_from_before_the_row_gets_one(
    pipelit: Pipelit, under: Open, key: str, newer: str
) -> None:
    """From the values that are there; with two keys, it is the older one, if one needs it."""
    put(pipelit)
    change(pipelit, "DELETE FROM pipelit_encryption_key")
    wrong = under(Keyring.generate_key())
    for refused in (lambda: put(wrong), wrong.keys.rotate):
        with pytest.raises(ConfigurationError):
            refused()
    both = under(newer, key)
    put(both, "new")
    put(pipelit, "old")
    change(pipelit, "DELETE FROM pipelit_encryption_key")
    # The process with the older key alone doesn't know the newer one.
    with pytest.raises(ConfigurationError, match=UNNAMED):
        put(pipelit)
    put(both)
    put(pipelit)


def test_a_planted_value_admits_no_replaced_key(
    pipelit: Pipelit, under: Open, key: str, newer: str
) -> None:
    """Neither beside the row nor without it."""
    put(pipelit)
    with database_of(pipelit).reading() as connection:
        token = connection.scalar(text("SELECT sealed FROM pipelit_credentials"))
    under(newer, key).keys.rotate()
    change(pipelit, "UPDATE pipelit_users SET totp_secret = :token", token=token)
    with pytest.raises(ConfigurationError, match=REPLACED):
        put(pipelit)
    change(pipelit, "DELETE FROM pipelit_encryption_key")
    with pytest.raises(ConfigurationError, match=UNNAMED):
        put(pipelit)


def test_tags_alone_name_no_key_until_a_rotation(pipelit: Pipelit, under: Open) -> None:
    """Only their service can compare them, and `keys rotate` asks it."""
    pipelit.audit.seal()
    change(pipelit, "DELETE FROM pipelit_encryption_key")
    wrong = under(Keyring.generate_key())
    for each in (wrong, pipelit):
        with pytest.raises(ConfigurationError, match=UNNAMED):
            put(each)
    with pytest.raises(ConfigurationError, match="decrypts nothing"):
        wrong.keys.rotate()
    pipelit.keys.rotate()
    put(pipelit)
    assert pipelit.audit.verify().problems == ()


def test_a_row_reveals_nothing_and_cant_be_made(pipelit: Pipelit, key: str, newer: str) -> None:
    """It has a fingerprint and a tag; the tag of one key isn't another's."""
    put(pipelit)
    with database_of(pipelit).reading() as connection:
        row = connection.execute(text("SELECT * FROM pipelit_encryption_key")).one()
    assert key not in str(row)
    made = key_row._signed(Keyring(newer), 0, ())
    fingerprint = Keyring(key).fingerprint()
    change(
        pipelit,
        "UPDATE pipelit_encryption_key SET fingerprint = :f, mac = :m",
        f=fingerprint,
        m=made["mac"],
    )
    with pytest.raises(ConfigurationError, match=ANOTHER):
        put(pipelit)


# Races


@pytest.mark.backends("sqlite", "postgres")
def test_one_of_two_first_writers_is_admitted(pipelit: Pipelit, under: Open, newer: str) -> None:
    """Two keys at once, in an empty database: one of them is its key, and the other is refused."""
    for _ in range(5):
        change(pipelit, "DELETE FROM pipelit_encryption_key")
        change(pipelit, "DELETE FROM pipelit_credentials")
        both, done = threading.Barrier(2), list[str]()

        def first(writer: Pipelit, both: Any = both, done: list[str] = done) -> None:
            both.wait()
            try:
                put(writer)
                done.append("stored")
            except ConfigurationError:
                done.append("refused")

        threads = [threading.Thread(target=first, args=(p,)) for p in (pipelit, under(newer))]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(done) == ["refused", "stored"]


@pytest.mark.backends("postgres")
def test_a_rotation_waits_for_a_paused_writer(
    pipelit: Pipelit, under: Open, key: str, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value that it encrypts under the older key is rotated too."""
    put(pipelit)
    looked, go = threading.Event(), threading.Event()

    def slow(connection: Connection, keyring: Keyring) -> Keyring:
        found = key_row.fitting_keyring(connection, keyring)
        looked.set()
        assert go.wait(20)
        return found

    monkeypatch.setattr("pipelit_agents._core.fitting_keyring", slow)
    late = threading.Thread(target=put, args=(pipelit, "late"))
    late.start()
    assert looked.wait(10)
    done = list[int]()
    rotation = threading.Thread(
        target=lambda: done.append(under(newer, key).keys.rotate().status.older)
    )
    rotation.start()
    rotation.join(0.5)
    assert rotation.is_alive()
    go.set()
    late.join()
    rotation.join()
    assert done == [0]
    current = under(newer)
    assert current.keys.status().unreadable == ()
    assert current.credentials.get("late").masked == "…5f6a"


# What is stored elsewhere


def test_checkpoints_are_written_under_the_databases_key_alone(
    pipelit: Pipelit, under: Open, key: str, newer: str
) -> None:
    """After a rotation a process with the older key adds nothing to a thread; it can read."""
    inner = InMemorySaver()
    sealed = pipelit.sealed_saver(inner)
    run(sealed)
    under(newer, key).keys.rotate()
    config = {"configurable": {"thread_id": "1"}}
    with pytest.raises(ConfigurationError, match=REPLACED):
        run(sealed)
    with pytest.raises(ConfigurationError, match=REPLACED):
        asyncio.run(graph_of(sealed).ainvoke({"note": "x"}, config))
    assert graph_of(sealed).get_state(config).values == {"note": "done"}
    with pytest.raises(ConfigurationError, match=REPLACED):
        run(InMemorySaver(serde=pipelit.checkpoint_serializer()))


async def test_an_async_saver_doesnt_block_the_loop(pipelit: Pipelit) -> None:
    """The row is read on a worker thread."""
    graph = graph_of(pipelit.sealed_saver(InMemorySaver()))
    await graph.ainvoke({"note": "x"}, {"configurable": {"thread_id": "1"}})


def test_checkpoints_need_the_tables(tmp_path: Any) -> None:
    """Without them nobody knows which key is right."""
    url = f"sqlite:///{tmp_path}/none.db"
    none = Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()])
    with none, pytest.raises(StorageError, match="init"):
        run(none.sealed_saver(InMemorySaver()))


class Base(DeclarativeBase):
    """An application's tables."""


RING = [Keyring(Keyring.generate_key())]


class Customer(Base):
    """A row with a column under FIELD_ENCRYPTION_KEY, and one with keys that are declared."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[Sealed | None] = mapped_column(EncryptedString())
    note: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=lambda: RING[0]))


TYPED = text("UPDATE customers SET token = :token").bindparams(
    bindparam("token", type_=Customer.__table__.c.token.type)
)


@pytest.fixture
def engine(pipelit: Pipelit, database_url: str) -> Iterator[Engine]:
    """An application's own engine for this database."""
    made = create_engine(database_url)
    Base.metadata.create_all(made)
    yield made
    Base.metadata.drop_all(made)
    made.dispose()


def add(engine: Engine, number: int, **values: Any) -> None:
    """Write a row with the ORM, and one with a statement."""
    with Session(engine) as session:
        session.add(Customer(id=number, **values))
        session.commit()
    with engine.begin() as connection:
        connection.execute(insert(Customer).values(id=number + 1, **values))
        connection.execute(insert(Customer), [{"id": number + 2, **values}])


def within(engine: Engine, write: Callable[[Session], object]) -> None:
    """Write in a session of its own."""
    with Session(engine) as session:
        write(session)
        session.commit()


@pytest.mark.backends("sqlite", "postgres")
def test_an_applications_column_in_this_database(
    pipelit: Pipelit, under: Open, engine: Engine, key: str, newer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is written under the database's key alone; its first value names the key."""
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    add(engine, 1, token="tok-1")
    with pytest.raises(ConfigurationError, match=ANOTHER):
        put(under(newer))
    put(pipelit)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", newer)
    row = {"token": "tok-2"}
    for write in (
        lambda s: s.add(Customer(id=7, **row)),
        lambda s: s.execute(insert(Customer).values(id=7, **row)),
        lambda s: s.execute(insert(Customer), [{"id": 7, **row}]),
        lambda s: s.execute(Customer.__table__.update().values(**row)),
        lambda s: s.execute(TYPED, row),
    ):
        with pytest.raises(ConfigurationError, match=ANOTHER) as error:
            within(engine, write)
        assert "tok-2" not in str(error.value)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", f"{newer},{key}")
    add(engine, 11, token="tok-3")
    done = under(newer, key).keys.rotate(models=[Base.metadata])
    assert (done.status.older, done.status.unreadable) == (0, ())
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    with pytest.raises(ConfigurationError, match=REPLACED):
        add(engine, 21, token="tok-4")


def test_declared_keys_may_be_others_but_no_replaced_ones(
    pipelit: Pipelit, under: Open, engine: Engine, key: str, newer: str
) -> None:
    """An application may have keys of its own; derived keys go with those they are derived from."""
    RING[:] = [Keyring(Keyring.generate_key())]
    add(engine, 1, note="own")
    assert pipelit.check_key() is False
    put(pipelit)
    RING[:] = [Keyring(key).derive("app")]
    add(engine, 11, note="derived")
    under(newer, key).keys.rotate()
    with pytest.raises(ConfigurationError, match=REPLACED):
        add(engine, 21, note="stale")
    RING[:] = [Keyring(newer).derive("app")]
    add(engine, 31, note="new")


@pytest.mark.backends("sqlite", "postgres")
def test_a_transaction_reads_the_row_once(
    pipelit: Pipelit, engine: Engine, key: str, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many values it encrypts; each savepoint for itself, and for each of several keys."""
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    reads = list[int]()
    fitting = key_row.fitting_keyring

    def counted(connection: Connection, keyring: Keyring) -> Keyring:
        reads.append(1)
        return fitting(connection, keyring)

    monkeypatch.setattr(key_row, "fitting_keyring", counted)
    with Session(engine) as session:
        for number in range(5):
            session.add(Customer(id=number, token="tok-1"))
            session.flush()
        session.execute(insert(Customer), [{"id": n, "token": "tok-2"} for n in range(10, 20)])
        assert len(reads) == 1
        with session.begin_nested() as savepoint:
            session.add(Customer(id=30, token="tok-3"))
            session.flush()
            savepoint.rollback()
        assert len(reads) == 2
        monkeypatch.setenv("FIELD_ENCRYPTION_KEY", newer)
        session.add(Customer(id=40, token="tok-4"))
        with pytest.raises(ConfigurationError, match=ANOTHER):
            session.flush()
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    add(engine, 50, token="tok-5")
    assert len(reads) > 3


def test_another_database_isnt_asked(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, newer: str
) -> None:
    """An application's column there may be under any key."""
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    Base.metadata.create_all(engine)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", newer)
    add(engine, 1, token="tok-1")
    engine.dispose()
