"""Encrypted columns of any application: found, counted and rotated, never forgotten."""

from __future__ import annotations

import ast
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from internals import database_of, keyring_of
from key_rotation import newer, no_models, old
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from paths import ROOT
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typing_extensions import TypedDict

from pipelit_agents import EncryptedString, Keyring, Pipelit
from pipelit_agents.database import application_columns as columns
from pipelit_agents.database import token_search
from pipelit_agents.database.models import Base as Ours
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing.keyring import Sealed

__all__ = ["newer", "no_models", "old"]
BACKENDS = False
NONE = InMemorySaver()


@pytest.fixture
def rotating(pipelit: Pipelit, settings: dict[str, Any], newer: str) -> Iterator[Pipelit]:
    """The same database with the newer key before the old."""
    pipelit.credentials.put("openai", "sk-live-1234567890", kind="llm", created_by="alice")
    keys = [newer, *settings["encryption_keys"]]
    with Pipelit(**settings | {"encryption_keys": keys}) as made:
        yield made


def customers(ring: Keyring | None, name: str = "customers") -> tuple[MetaData, Table]:
    """A table of an application, in a scratch metadata."""
    metadata = MetaData()
    table = Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column("region", String(8), primary_key=True),
        Column("token", EncryptedString(keyring=ring)),
        Column("note", EncryptedString(keyring=ring, purpose="elsewhere.note")),
    )
    return metadata, table


def filled(pipelit: Pipelit, old: Keyring, rows: int = 3) -> tuple[MetaData, Table]:
    """The table with rows under the old key; what rotates it has no keyring of its own."""
    metadata, written = customers(old)
    metadata.create_all(database_of(pipelit).engine)
    with database_of(pipelit).writing() as connection:
        for number in range(rows):
            values = {"id": number // 2, "region": f"r{number % 2}", "token": f"token-{number}"}
            connection.execute(insert(written).values(**values, note=None if number else "note"))
    return customers(None)


def opened(pipelit: Pipelit, table: Table, ring: Keyring) -> list[str]:
    """Decrypt the tokens with one keyring."""
    with database_of(pipelit).reading() as connection:
        found = connection.scalars(select(table.c.token).order_by(table.c.id, table.c.region))
        return [each.unseal(ring) for each in found]


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres")
def test_an_applications_columns_are_counted_and_rotated(
    rotating: Pipelit, old: Keyring, newer: str
) -> None:
    """Counted without being named, put under the newest key where they are; then the old can go."""
    metadata, table = filled(rotating, old, 5)
    before = rotating.keys.rotate(checkpointers=[NONE]).status
    assert before.columns == {"customers.token": 5, "customers.note": 1}
    assert (before.older, before.older_can_go) == (6, False)
    done = rotating.keys.rotate(checkpointers=[NONE], models=[metadata], batch=2)
    assert done.resealed == 6
    assert (done.status.older, done.status.columns, done.status.older_can_go) == (0, {}, True)
    assert opened(rotating, table, Keyring(newer)) == [f"token-{number}" for number in range(5)]
    assert rotating.keys.rotate(models=[metadata]).resealed == 0


def test_a_repeated_key_is_no_older_key(
    pipelit: Pipelit, settings: dict[str, Any], old: Keyring
) -> None:
    """Otherwise values under the newest key would count as older, and never be rotated."""
    metadata, _ = filled(pipelit, old)
    keys = settings["encryption_keys"] * 2
    with Pipelit(**settings | {"encryption_keys": keys}) as again:
        done = again.keys.rotate(models=[metadata]).status
    assert (done.older, len(done.keys)) == (0, 1)


@pytest.mark.slow
def test_a_declarative_base_is_named_too(rotating: Pipelit, old: Keyring, newer: str) -> None:
    """models=[Base]: stored objects can be decrypted with the newer key alone."""

    class Base(DeclarativeBase):
        """An application's."""

    class Account(Base):
        """With a token."""

        __tablename__ = "accounts"
        id: Mapped[int] = mapped_column(primary_key=True)
        token: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=lambda: ring))

    ring = old
    Base.metadata.create_all(database_of(rotating).engine)
    with Session(database_of(rotating).engine) as session:
        session.add(Account(id=1, token="t-123456"))  # type: ignore[arg-type]
        session.commit()
    ring = keyring_of(rotating)
    assert rotating.keys.rotate(models=[Base], checkpointers=[NONE]).status.older_can_go
    with Session(database_of(rotating).engine) as session:
        assert session.scalars(select(Account.token)).one().unseal(Keyring(newer)) == "t-123456"


@pytest.mark.slow
def test_another_database_is_named_by_its_engine(
    rotating: Pipelit, old: Keyring, newer: str, tmp_path: Path
) -> None:
    """A pair, (Base.metadata, engine); without the engine it is an error, and not a count of 0."""
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    metadata, table = customers(old)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(table).values(id=1, region="x", token="t-1"))
    metadata, table = customers(None)
    assert rotating.keys.rotate(checkpointers=[NONE]).status.older_can_go is None
    status = rotating.keys.status(checkpointers=[NONE], models=[(metadata, engine)])
    assert (status.columns, status.older_can_go) == ({"customers.token": 1}, False)
    with pytest.raises(ConfigurationError, match="no table customers in the database"):
        rotating.keys.rotate(models=[metadata])
    done = rotating.keys.rotate(checkpointers=[NONE], models=[(metadata, engine)])
    assert (done.resealed, done.status.older_can_go) == (1, True)
    with engine.connect() as connection:
        assert connection.scalars(select(table.c.token)).one().unseal(Keyring(newer)) == "t-1"
    engine.dispose()


def test_models_that_this_process_knows_and_nobody_named_are_said(
    rotating: Pipelit, old: Keyring
) -> None:
    """In whatever database their tables are: it isn't yes, and their columns are named."""
    metadata, _ = customers(None, "orders")
    status = rotating.keys.rotate(checkpointers=[NONE], models=[]).status
    assert (status.older, status.older_can_go) == (0, None)
    assert [each.partition(",")[0] for each in status.not_counted] == [
        "orders.note",
        "orders.token",
    ]
    # Those of a keyring that shares no key with this one need none of these keys.
    others, _ = customers(Keyring(Keyring.generate_key()), "others")
    metadata.create_all(database_of(rotating).engine)
    assert rotating.keys.status(checkpointers=[NONE]).older_can_go
    assert others.tables


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres")
def test_a_column_that_no_model_has_any_more_is_counted(rotating: Pipelit, old: Keyring) -> None:
    """In text, in a long varchar, within JSON, in a table that begins like ours."""
    rotating.keys.rotate()
    token = old.seal("x", "anything")
    for kind, value in (
        ("TEXT", token),
        ("VARCHAR(500)", token),
        ("JSON", json.dumps({"a": [token]})),
    ):
        with database_of(rotating).writing() as connection:
            connection.execute(text(f"CREATE TABLE pipelit_left (id INTEGER, kept {kind})"))
            connection.execute(text("INSERT INTO pipelit_left VALUES (1, :v)"), {"v": value})
        status = rotating.keys.status(checkpointers=[NONE])
        assert (status.columns, status.older_can_go) == ({"pipelit_left.kept": 1}, False)
        with database_of(rotating).writing() as connection:
            connection.execute(text("DROP TABLE pipelit_left"))
    assert rotating.keys.status(checkpointers=[NONE]).older_can_go


def test_ciphertexts_of_somebody_else_are_nothing_of_ours(rotating: Pipelit) -> None:
    """Fernet tokens under other keys need none of these."""
    rotating.keys.rotate()
    foreign = Keyring(Keyring.generate_key()).seal("x", "y")
    with database_of(rotating).writing() as connection:
        connection.execute(text("CREATE TABLE airflow (kept TEXT, other TEXT)"))
        connection.execute(text("INSERT INTO airflow VALUES (:v, 'gAAAAA')"), {"v": foreign})
    status = rotating.keys.status(checkpointers=[NONE])
    assert (status.unreadable, status.older_can_go) == ((), True)


@pytest.mark.backends("postgres")
def test_other_schemas_are_looked_at_too(rotating: Pipelit, old: Keyring, newer: str) -> None:
    """A table in a schema of its own is counted, and rotated where its models are named."""
    metadata = MetaData(schema="aside")
    table = Table("keys", metadata, Column("id", Integer, primary_key=True))
    table.append_column(Column("token", EncryptedString(keyring=old)))
    with database_of(rotating).writing() as connection:
        connection.execute(text("CREATE SCHEMA aside"))
        metadata.create_all(connection)
        connection.execute(insert(table).values(id=1, token="t-1"))
    assert rotating.keys.rotate(checkpointers=[NONE]).status.columns == {"aside.keys.token": 1}
    table.c.token.type.keyring = None
    assert rotating.keys.rotate(checkpointers=[NONE], models=[metadata]).status.older_can_go


def test_a_value_that_is_written_meanwhile_stays(rotating: Pipelit, old: Keyring) -> None:
    """Only what was read is replaced; rows without a key, and a table without one, too."""
    metadata = MetaData()
    table = Table("loose", metadata, Column("token", EncryptedString()))
    metadata.create_all(database_of(rotating).engine)
    first, second = old.seal("one", "loose.token"), old.seal("two", "loose.token")
    put = text("INSERT INTO loose VALUES (:v)")
    with database_of(rotating).writing() as connection:
        connection.execute(put, [{"v": first}, {"v": None}])
    column = columns.EncryptedColumn(table.c.token, columns.Source.of(database_of(rotating)))
    ring = keyring_of(rotating)
    with database_of(rotating).writing() as connection:
        connection.execute(
            text("UPDATE loose SET token = :v WHERE token = :o"), {"v": second, "o": first}
        )
    assert column._swap([((), first, ring.renew(first))], ring) == 0
    assert column.encrypt_again(ring, 10) == 1
    with database_of(rotating).reading() as connection:
        kept = connection.scalars(select(table.c.token).where(table.c.token.is_not(None))).one()
    assert (kept.unseal(ring), ring.is_newest(kept.token)) == ("two", True)


def test_what_is_no_ciphertext_is_named(rotating: Pipelit, old: Keyring) -> None:
    """Plaintext in a column of named models: the old key can't be said to go."""
    metadata, _ = filled(rotating, old)
    with database_of(rotating).writing() as connection:
        connection.execute(text("UPDATE customers SET token = 'plain' WHERE id = 1"))
    status = rotating.keys.rotate(checkpointers=[NONE], models=[metadata]).status
    assert (status.unreadable, status.older, status.older_can_go) == (
        ("customers.token",), 0, False,
    )  # fmt: skip


def test_more_rows_than_a_page(
    rotating: Pipelit, old: Keyring, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages follow each other by the whole of the key."""
    monkeypatch.setattr(columns, "_PAGE", 3)
    metadata, table = filled(rotating, old, 11)
    assert rotating.keys.rotate(models=[metadata], checkpointers=[NONE]).status.older_can_go
    assert len(opened(rotating, table, Keyring(newer))) == 11


@pytest.mark.parametrize(
    "models", [MetaData(), "Base", ["Base"], [(MetaData(), "url")], [None], Ours]
)
def test_what_are_no_models_is_refused(rotating: Pipelit, models: Any) -> None:
    """The message shows how they are given."""
    with pytest.raises(TypeError, match=r"models=\[Base.metadata"):
        rotating.keys.status(models=models)


# What is forgotten


def put(pipelit: Pipelit, *statements: str, token: Any) -> None:
    """Runs statements, with a token where they want one."""
    with database_of(pipelit).writing() as connection:
        for each in statements:
            connection.execute(text(each), {"v": token} if ":v" in each else {})


@pytest.mark.slow
def test_a_forgotten_column_of_a_named_table_is_counted(
    rotating: Pipelit, old: Keyring, tmp_path: Path
) -> None:
    """Here, in another database that is named by its engine, and in a table of ours."""
    metadata, _ = filled(rotating, old)
    rotating.keys.rotate(models=[metadata])
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    metadata.create_all(engine)
    token = old.seal("x", "y")
    named = [metadata, (metadata, engine)]
    assert rotating.keys.status(checkpointers=[NONE], models=named).older_can_go
    put(rotating, "ALTER TABLE customers ADD COLUMN iban TEXT", token=token)
    put(rotating, "UPDATE customers SET iban = :v WHERE id = 1", token=token)
    status = rotating.keys.status(checkpointers=[NONE], models=named)
    assert (status.columns, status.older_can_go) == ({"customers.iban": 1}, False)
    put(rotating, "ALTER TABLE customers DROP COLUMN iban", token=token)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE left_over (kept)"))
        connection.execute(text("INSERT INTO left_over VALUES (:v)"), {"v": token})
    status = rotating.keys.status(checkpointers=[NONE], models=named)
    assert status.columns == {"left_over.kept": 1}
    engine.dispose()
    put(rotating, "UPDATE pipelit_credentials SET kind = :v", token=token)
    assert rotating.keys.status(checkpointers=[NONE]).columns == {"pipelit_credentials.kind": 1}


def test_tables_of_one_name_in_two_databases_are_two(
    rotating: Pipelit, old: Keyring, tmp_path: Path
) -> None:
    """Named there, the one that is here is looked at all the same."""
    rotating.keys.rotate()
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    metadata, _ = customers(None)
    metadata.create_all(engine)
    put(
        rotating,
        "CREATE TABLE customers (id INTEGER, token TEXT)",
        "INSERT INTO customers VALUES (1, :v)",
        token=old.seal("x", "y"),
    )
    status = rotating.keys.status(checkpointers=[NONE], models=[(metadata, engine)])
    assert (status.columns, status.older_can_go) == ({"customers.token": 1}, False)
    engine.dispose()


def test_a_table_of_the_same_name_is_not_the_models_table(rotating: Pipelit) -> None:
    """It lacks a sealed column of the model, so that column is somewhere else."""
    rotating.keys.rotate()
    put(rotating, "CREATE TABLE customers (id INTEGER, token TEXT)", token=None)
    metadata, _ = customers(None)
    status = rotating.keys.status(checkpointers=[NONE])
    assert status.older_can_go is None
    assert [each.partition(",")[0] for each in status.not_counted] == ["customers.note"]
    assert metadata.tables


def test_any_column_of_sqlite_may_hold_a_token(rotating: Pipelit, old: Keyring) -> None:
    """It doesn't enforce types: text or bytes, whatever the column is declared to be."""
    rotating.keys.rotate()
    kinds = (
        "STRING", "BLOB", "", "VARCHAR(64)", "UUID", "ANY", "INTEGER", "DATETIME", "BOOLEAN",
    )  # fmt: skip
    names = [f"c{number}" for number in range(len(kinds))]
    declared = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
    put(rotating, f"CREATE TABLE t ({declared})", token=None)
    token = old.seal("x", "y")
    for value in (token, token.encode(), b"\0\xff" + token.encode(), f"\0{token}"):
        row = "INSERT INTO t VALUES (:v, :v, :v, :v, :v, :v, :v, :v, :v)"
        put(rotating, "DELETE FROM t", row, token=value)
        status = rotating.keys.status(checkpointers=[NONE])
        assert status.columns == {f"t.{name}": 1 for name in names}
        assert status.older_can_go is False


@pytest.mark.filterwarnings("ignore:Did not recognize type")
@pytest.mark.backends("postgres")
def test_any_type_of_postgresql_that_can_hold_a_token_is_read(
    rotating: Pipelit, old: Keyring
) -> None:
    """Arrays, domains, bytes, composite types, and what a materialized view keeps."""
    rotating.keys.rotate()
    put(
        rotating,
        "CREATE DOMAIN word AS text",
        "CREATE TYPE pair AS (one text, two bytea)",
        "CREATE TABLE t (a text[], b word, c bytea, d pair, e jsonb[], f bytea[], g varchar(64), "
        "h pair, i numeric)",
        "INSERT INTO t VALUES (array[:v], :v, convert_to(:v, 'UTF8'), row(:v, null), "
        "array[to_jsonb(cast(:v AS text))], array[convert_to(:v, 'UTF8')], 'x', "
        "row(null, convert_to(:v, 'UTF8')), 1)",
        "CREATE TABLE source (a text)",
        "INSERT INTO source VALUES (:v)",
        "CREATE MATERIALIZED VIEW seen AS SELECT a FROM source",
        "DELETE FROM source",
        token=old.seal("x", "y"),
    )
    status = rotating.keys.status(checkpointers=[NONE])
    assert status.not_counted == ()
    put(rotating, "SELECT lo_from_bytea(0, convert_to(:v, 'UTF8'))", token="x")
    aside = rotating.keys.status(checkpointers=[NONE]).not_counted
    put(rotating, "SELECT lo_unlink(oid) FROM pg_largeobject_metadata", token="x")
    assert aside == ("large objects of the database, which aren't read",)
    assert status.columns == dict.fromkeys(
        ("t.a", "t.b", "t.c", "t.d", "t.e", "t.f", "t.h", "seen.a"), 1
    )


@pytest.mark.backends("postgres")
def test_rows_that_a_policy_hides_are_not_taken_for_none(rotating: Pipelit, old: Keyring) -> None:
    """With row-level security the table is named as not counted, and so is one of ours."""
    rotating.keys.rotate()
    put(
        rotating,
        "CREATE ROLE app",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app",
        "CREATE TABLE t (kept text)",
        "INSERT INTO t VALUES (:v)",
        "GRANT ALL ON t TO app",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE pipelit_peerings ENABLE ROW LEVEL SECURITY",
        token=old.seal("x", "y"),
    )
    source = columns.Source.of(database_of(rotating))

    @contextmanager
    def reading() -> Iterator[Any]:
        with source.reading() as connection:
            connection.execute(text("SET LOCAL ROLE app"))
            yield connection

    ring = keyring_of(rotating)
    counted, _ = token_search.search_columns(replace(source, reading=reading), set(), ring, [ring])
    assert counted.older == {}
    assert sorted(each.partition(",")[0] for each in counted.not_counted) == [
        "pipelit_peerings",
        "t",
    ]
    with database_of(rotating).writing() as connection:
        connection.execute(text("DROP OWNED BY app"))
        connection.execute(text("DROP ROLE app"))


@pytest.mark.parametrize(
    ("around", "number"),
    [
        ("{}_v1", 1),
        ("gAAAAA{}", 1),
        ("x{}x", 1),
        ("gAAAAAgAAAAA{}{}abc", 2),
        ('{{"a": "{}", "b": "{}"}}', 2),
        ("{}gAAAAA", 1),
    ],
)
@pytest.mark.parametrize("plain", ["x", "x" * 16, "x" * 32])
def test_a_token_with_anything_around_it_is_found(around: str, number: int, plain: str) -> None:
    """Of each length, with and without its padding, in lines too."""
    keys = [Keyring.generate_key(), Keyring.generate_key()]
    old, rings = Keyring(keys[1]), [Keyring(*keys)]
    token = old.seal(plain, "y")
    wrapped = "\n".join(token[at : at + 64] for at in range(0, len(token), 64))
    for each in (token, token.rstrip("="), token.replace("=", "%3D"), wrapped):
        if "{}{}" in around and each != token.rstrip("="):
            continue
        found, whole = token_search._origins_in(around.format(*[each] * number).encode(), rings)
        assert (found, whole) == ([old.origins[0]] * number, True)


@pytest.mark.slow
def test_a_value_of_many_beginnings_takes_no_hours(rotating: Pipelit, old: Keyring) -> None:
    """Nobody can make the count endless by storing text: the column is named instead."""
    rotating.keys.rotate()
    hostile = "gAAAAA" * 4_000
    put(
        rotating,
        "CREATE TABLE t (kept TEXT)",
        *["INSERT INTO t VALUES (:v)"] * 2,
        token=hostile,
    )
    status = rotating.keys.status(checkpointers=[NONE])
    assert status.older_can_go is None
    assert status.not_counted == ("t.kept, where a value has too much that may be a ciphertext",)


def test_derived_keys_are_known_by_what_they_are_made_from(
    rotating: Pipelit, old: Keyring, newer: str, key: str
) -> None:
    """A model whose keyring is derived from the keys is counted and rotated."""
    ring = Keyring(newer, key).derive("mine")
    metadata, _ = customers(ring)
    metadata.create_all(database_of(rotating).engine)
    token = old.derive("mine").seal("x", "customers.token")
    put(rotating, "INSERT INTO customers VALUES (1, 'r', :v, NULL)", token=token)
    assert rotating.keys.rotate(checkpointers=[NONE]).status.columns == {"customers.token": 1}
    done = rotating.keys.rotate(checkpointers=[NONE], models=[metadata])
    assert (done.resealed, done.status.older_can_go) == (1, True)
    assert ring.shares_a_key(old.derive("mine").derive("deeper"))
    assert not ring.shares_a_key(Keyring(Keyring.generate_key()).derive("mine"))


def test_a_column_with_an_older_key_alone_needs_that_key(rotating: Pipelit, old: Keyring) -> None:
    """What is newest in a model's own keyring is an older key here."""
    rotating.keys.rotate()
    metadata, _ = customers(old)
    metadata.create_all(database_of(rotating).engine)
    token = old.seal("x", "customers.token")
    put(rotating, "INSERT INTO customers VALUES (1, 'r', :v, NULL)", token=token)
    status = rotating.keys.status(checkpointers=[NONE], models=[metadata])
    assert (status.columns, status.older_can_go) == ({"customers.token": 1}, False)


def test_rows_whose_key_has_null_are_counted_and_rotated(
    rotating: Pipelit, old: Keyring, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows can't be ordered page by page if their key is NULL."""
    monkeypatch.setattr(columns, "_PAGE", 2)
    metadata, table = customers(None)
    put(
        rotating,
        "CREATE TABLE customers (id INTEGER, region TEXT, token TEXT, note TEXT)",
        *["INSERT INTO customers VALUES (1, NULL, :v, NULL)"] * 3,
        "INSERT INTO customers VALUES (2, 'r', :v, NULL)",
        token=old.seal("token", "customers.token"),
    )
    before = rotating.keys.status(checkpointers=[NONE], models=[metadata])
    assert before.columns == {"customers.token": 4}
    assert rotating.keys.rotate(checkpointers=[NONE], models=[metadata]).status.older_can_go
    assert opened(rotating, table, Keyring(newer)) == ["token"] * 4


def test_a_checkpointer_in_this_database_is_noticed(
    pipelit: Pipelit, rotating: Pipelit, database_url: str
) -> None:
    """Although another one was named: its keys are derived, and its columns are bytes."""
    with SqliteSaver.from_conn_string(database_url.removeprefix("sqlite:///")) as saver:
        run(pipelit.sealed_saver(saver))
    rotating.keys.rotate()
    status = rotating.keys.status(checkpointers=[NONE])
    assert status.older_can_go is False
    assert {"checkpoints.checkpoint", "writes.value"} <= {*status.columns}


# Checkpoints


class State(TypedDict):
    """What is checkpointed."""

    note: str


def run(saver: Any) -> None:
    """Writes some checkpoints."""
    builder = StateGraph(State)
    builder.add_node("work", lambda _: {"note": "done"})
    builder.add_edge(START, "work")
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"note": "x"}, {"configurable": {"thread_id": "1"}})


@pytest.mark.parametrize("given", [None, []])
def test_checkpoints_that_nobody_named_are_never_a_yes(rotating: Pipelit, given: Any) -> None:
    """Left out, or said to be none: nothing was counted, and that is what it says."""
    status = rotating.keys.rotate(checkpointers=given).status
    assert (status.older, status.checkpoints, status.older_can_go) == (0, None, None)
    assert "sealed checkpoints" in status.not_counted[0]


def test_every_way_to_seal_checkpoints_is_counted(pipelit: Pipelit, rotating: Pipelit) -> None:
    """A plain checkpointer, the sealed one around it, and one with the sealing serializer."""
    plain, by_serializer = InMemorySaver(), InMemorySaver(serde=pipelit.checkpoint_serializer())
    run(pipelit.sealed_saver(plain))
    run(by_serializer)
    rotating.keys.rotate()
    for saver in (plain, rotating.sealed_saver(plain), by_serializer):
        status = rotating.keys.status(checkpointers=[NONE, saver])
        assert status.checkpoints
        assert status.older_can_go is False


# The command


MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from pipelit_agents import EncryptedString
class Base(DeclarativeBase): pass
class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(EncryptedString())
"""


@pytest.mark.slow
def test_the_command_counts_and_rotates_an_applications_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: Keyring, newer: str, key: str
) -> None:
    """Without --metadata they are found and named; with it they are rotated."""
    from command_line import typed
    from test_cli import told

    monkeypatch.chdir(tmp_path)
    name = f"shop{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS)
    (tmp_path / ".env").write_text(f"FIELD_ENCRYPTION_KEY={newer},{key}\n")

    typed("init")
    with closing(sqlite3.connect(tmp_path / ".pipelit" / "agents.db")) as file, file:
        file.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, token TEXT)")
        token = old.seal("t-1", "customers.token")
        file.execute("INSERT INTO customers VALUES (1, ?)", (token,))
    found = told(typed("keys", "status", "--no-checkpoints", "--json"))
    assert found["of_these_in_other_tables"] == {"customers.token": 1}
    assert found["older_keys_can_go"] is False
    assert "--metadata" in found["next"]
    done = told(typed("keys", "rotate", "--no-checkpoints", "--metadata", f"{name}:Base", "--json"))
    assert (done["encrypted_again"], done["under_an_older"]) == (1, 0)
    assert done["checkpoints_under_an_older"] == "not counted"
    assert done["older_keys_can_go"] is None
    with closing(sqlite3.connect("threads.db")) as file:
        SqliteSaver(file).setup()
    every = ("--checkpoints", "threads.db", "--metadata", f"{name}:Base")
    assert told(typed("keys", "status", *every, "--json"))["older_keys_can_go"] is True
    assert told(typed("keys", "status", *every[:2], "--json"))["older_keys_can_go"] is None
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/.pipelit/agents.db")
    elsewhere = (*every[:3], f"{name}:Base=env:SHOP_URL")
    assert told(typed("keys", "status", *elsewhere, "--json"))["older_keys_can_go"] is True
    for wrong, says in (
        ("nothing", "module:Base"),
        ("nothing:Base", "No module"),
        (f"{name}:Nothing", "Nothing"),
        (f"{name}:Customer.id", "neither a declarative base"),
        (f"{name}:Base=NAME", "module:Base=env:NAME"),
        (f"{name}:Base=env:NOTHING", "usable SQLAlchemy URL"),
    ):
        failed = typed("keys", "status", "--metadata", wrong)
        assert (failed.exit_code, says in failed.stderr) == (1, True), failed.stderr


@pytest.mark.slow
def test_a_rotation_searches_for_values_under_every_derived_key() -> None:
    """A label for which the package derives keys, and a rotation doesn't search, hides values.

    Under such a key `keys rotate` would count nothing, and say that the old key can go.
    """
    derived: set[str] = set()
    for path in (ROOT / "pipelit_agents").rglob("*.py"):
        derived |= {
            ast.unparse(call.args[0])
            for call in ast.walk(ast.parse(path.read_text()))
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "derive"
            and call.args
        }
    # A variable named label passes on what its caller chose.
    assert derived - {"label"} == {"CHECKPOINTS"}
    rotation = (ROOT / "pipelit_agents/operations/key_rotation.py").read_text()
    assert "keyrings_of(keyring, CHECKPOINTS)" in rotation
