"""Sealed columns of any application: found, counted, put under the newest key, never forgotten."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
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

from pipelit_agents import EncryptedString, Keyring, Pipelit, columns, rotation
from pipelit_agents.columns import Place
from pipelit_agents.database.models import Base as Ours
from pipelit_agents.database.types import EncryptedString as Kind
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.keyring import Sealed

BACKENDS = False
NONE = InMemorySaver()


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the models of other tests, which this process knows too."""
    monkeypatch.setattr("pipelit_agents.database.types._KNOWN", WeakSet())


@pytest.fixture
def old(settings: dict[str, Any]) -> Keyring:
    """The key that everything is sealed under."""
    return Keyring(*settings["encryption_keys"])


@pytest.fixture
def newer() -> str:
    """The key that replaces it."""
    return Keyring.generate_key()


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
    metadata.create_all(pipelit._database.engine)
    with pipelit._database.writing() as connection:
        for number in range(rows):
            values = {"id": number // 2, "region": f"r{number % 2}", "token": f"token-{number}"}
            connection.execute(insert(written).values(**values, note=None if number else "note"))
    return customers(None)


def opened(pipelit: Pipelit, table: Table, ring: Keyring) -> list[str]:
    """What the tokens open to, by one keyring."""
    with pipelit._database.reading() as connection:
        found = connection.scalars(select(table.c.token).order_by(table.c.id, table.c.region))
        return [each.unseal(ring) for each in found]


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


def test_a_declarative_base_is_named_too(rotating: Pipelit, old: Keyring, newer: str) -> None:
    """models=[Base]: objects that were stored open under the newer key alone."""

    class Base(DeclarativeBase):
        """An application's."""

    class Account(Base):
        """With a token."""

        __tablename__ = "accounts"
        id: Mapped[int] = mapped_column(primary_key=True)
        token: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=lambda: ring))

    ring = old
    Base.metadata.create_all(rotating._database.engine)
    with Session(rotating._database.engine) as session:
        session.add(Account(id=1, token="t-123456"))  # type: ignore[arg-type]
        session.commit()
    ring = rotating._open_keyring()
    assert rotating.keys.rotate(models=[Base], checkpointers=[NONE]).status.older_can_go
    with Session(rotating._database.engine) as session:
        assert session.scalars(select(Account.token)).one().unseal(Keyring(newer)) == "t-123456"


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
    metadata.create_all(rotating._database.engine)
    assert rotating.keys.status(checkpointers=[NONE]).older_can_go
    assert others.tables


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
        with rotating._database.writing() as connection:
            connection.execute(text(f"CREATE TABLE pipelit_left (id INTEGER, kept {kind})"))
            connection.execute(text("INSERT INTO pipelit_left VALUES (1, :v)"), {"v": value})
        status = rotating.keys.status(checkpointers=[NONE])
        assert (status.columns, status.older_can_go) == ({"pipelit_left.kept": 1}, False)
        with rotating._database.writing() as connection:
            connection.execute(text("DROP TABLE pipelit_left"))
    assert rotating.keys.status(checkpointers=[NONE]).older_can_go


def test_ciphertexts_of_somebody_else_are_nothing_of_ours(rotating: Pipelit) -> None:
    """Fernet tokens under other keys need none of these."""
    rotating.keys.rotate()
    foreign = Keyring(Keyring.generate_key()).seal("x", "y")
    with rotating._database.writing() as connection:
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
    with rotating._database.writing() as connection:
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
    metadata.create_all(rotating._database.engine)
    first, second = old.seal("one", "loose.token"), old.seal("two", "loose.token")
    put = text("INSERT INTO loose VALUES (:v)")
    with rotating._database.writing() as connection:
        connection.execute(put, [{"v": first}, {"v": None}])
    place = Place(table.c.token, _source(rotating))
    ring = rotating._open_keyring()
    with rotating._database.writing() as connection:
        connection.execute(
            text("UPDATE loose SET token = :v WHERE token = :o"), {"v": second, "o": first}
        )
    assert place._swap([((), first, ring.renew(first))]) == 0
    assert place.reseal(ring, 10) == 1
    with rotating._database.reading() as connection:
        kept = connection.scalars(select(table.c.token).where(table.c.token.is_not(None))).one()
    assert (kept.unseal(ring), ring.is_newest(kept.token)) == ("two", True)


def _source(pipelit: Pipelit) -> Any:
    from pipelit_agents.columns import Source

    return Source.of(pipelit._database)


def test_what_is_no_ciphertext_is_named(rotating: Pipelit, old: Keyring) -> None:
    """Plaintext in a column of named models: the old key can't be said to go."""
    metadata, _ = filled(rotating, old)
    with rotating._database.writing() as connection:
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


# Our own columns


def test_a_column_of_ours_that_no_place_tells_is_rotated_all_the_same(
    rotating: Pipelit, newer: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever adds a sealed column and forgets the rotation loses nothing."""
    places = [
        each for each in rotation._PLACES if each.table.__tablename__ != "pipelit_credentials"
    ]
    monkeypatch.setattr(rotation, "_PLACES", tuple(places))
    before = rotating.keys.status(checkpointers=[NONE])
    assert (before.newest, before.older, before.older_can_go) == (0, 2, False)
    assert rotating.keys.rotate(checkpointers=[NONE]).status.older_can_go
    with Pipelit(**settings | {"encryption_keys": [newer]}) as after:
        assert after.credentials.get("openai").masked == "…7890"


def test_every_sealed_column_of_ours_has_its_place() -> None:
    """With its purpose, so that a value that was moved is named as one that doesn't open."""
    sealed = {
        (table.name, column.name)
        for table in Ours.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, Kind)
    }
    placed = {
        (each.table.__tablename__, name) for each in rotation._PLACES for name in each.columns
    }
    assert sealed == placed


def test_a_tag_that_no_rotation_knows_is_said(
    rotating: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags need their key too, and can't be told from their form."""
    rotating.keys.rotate()
    monkeypatch.setattr(
        rotation,
        "_TAGS",
        frozenset(each for each in rotation._TAGS if "recovery" not in each.table.name),
    )
    status = rotating.keys.status(checkpointers=[NONE])
    assert status.older_can_go is None
    assert status.not_counted == ("pipelit_recovery_codes.mac, whose tags no rotation knows",)


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


def test_the_command_counts_and_rotates_an_applications_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: Keyring, newer: str, key: str
) -> None:
    """Without --metadata they are found and named; with it they are rotated."""
    from test_cli import told
    from typer.testing import CliRunner

    from pipelit_agents.cli import app

    monkeypatch.chdir(tmp_path)
    name = f"shop{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS)
    (tmp_path / ".env").write_text(f"FIELD_ENCRYPTION_KEY={newer},{key}\n")

    def typed(*words: str) -> Any:
        return CliRunner().invoke(app, words)

    typed("init")
    with closing(sqlite3.connect(tmp_path / ".pipelit" / "agents.db")) as file, file:
        file.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, token TEXT)")
        token = old.seal("t-1", "customers.token")
        file.execute("INSERT INTO customers VALUES (1, ?)", (token,))
    found = told(typed("keys", "status", "--no-checkpoints", "--json"))
    assert found["of_these_in_other_tables"] == {"customers.token": 1}
    assert found["older_keys_can_go"] is False
    assert "--metadata" in found["next"]
    done = told(typed("rotate-key", "--no-checkpoints", "--metadata", f"{name}:Base", "--json"))
    assert (done["sealed_anew"], done["under_an_older"]) == (1, 0)
    assert done["checkpoints_under_an_older"] == "not counted"
    assert done["older_keys_can_go"] is None
    with closing(sqlite3.connect("threads.db")) as file:
        from langgraph.checkpoint.sqlite import SqliteSaver

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
        (f"{name}:Customer.id", "no declarative base"),
        (f"{name}:Base=NAME", "module:Base=env:NAME"),
        (f"{name}:Base=env:NOTHING", "no SQLAlchemy URL"),
    ):
        failed = typed("keys", "status", "--metadata", wrong)
        assert (failed.exit_code, says in failed.stderr) == (1, True), failed.stderr
