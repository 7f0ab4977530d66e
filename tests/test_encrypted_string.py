"""EncryptedString on the models of an application that isn't ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, literal, select, text
from sqlalchemy.exc import CompileError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pipelit_agents import EncryptedString, Keyring, Sealed
from pipelit_agents.errors import ConfigurationError, UnsealError

KEYRING = Keyring(Keyring.generate_key())
PLAIN = "sk-live-0123456789"


class Base(DeclarativeBase):
    pass


class WithNotes:
    note: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=KEYRING))


class Customer(WithNotes, Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=KEYRING))
    called: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=lambda: KEYRING))
    from_env: Mapped[Sealed | None] = mapped_column(EncryptedString())


class Supplier(WithNotes, Base):
    __tablename__ = "suppliers"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The application's own database."""
    made = create_engine(f"sqlite:///{tmp_path}/app.db")
    Base.metadata.create_all(made)
    yield made
    made.dispose()


def write(engine: Engine, **columns: object) -> None:
    """Writes one customer."""
    with Session(engine) as session, session.begin():
        session.add(Customer(id=1, **columns))


def read(engine: Engine) -> Customer:
    """Loads it in a session of its own."""
    with Session(engine) as session:
        return session.scalars(select(Customer)).one()


def test_a_value_loads_sealed_and_opens_on_request(engine: Engine) -> None:
    """What is loaded is a Sealed, which opens with the keyring."""
    write(engine, token=PLAIN)
    loaded = read(engine).token
    assert isinstance(loaded, Sealed)
    assert PLAIN not in f"{loaded!r}{loaded}"
    assert loaded.unseal(KEYRING) == PLAIN


def test_the_database_holds_ciphertext(engine: Engine, tmp_path: Path) -> None:
    """The plaintext is in no byte of the file."""
    write(engine, token=PLAIN, called=PLAIN)
    engine.dispose()
    assert PLAIN.encode() not in (tmp_path / "app.db").read_bytes()


def test_equal_values_have_different_ciphertexts(engine: Engine) -> None:
    """Who reads the database can't tell which rows hold the same value."""
    write(engine, token=PLAIN, called=PLAIN)
    loaded = read(engine)
    assert loaded.token is not None
    assert loaded.called is not None
    assert loaded.token.token != loaded.called.token


def test_nothing_is_nothing(engine: Engine) -> None:
    """None is stored as NULL and loaded as None."""
    write(engine, token=None)
    assert read(engine).token is None


def test_an_empty_text_is_sealed(engine: Engine) -> None:
    """The empty string is a value like any other."""
    write(engine, token="")
    loaded = read(engine).token
    assert loaded is not None
    assert loaded.unseal(KEYRING) == ""


def test_planted_plaintext_does_not_open(engine: Engine) -> None:
    """Plaintext that found its way into the column is never handed out."""
    write(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE customers SET token = :plain"), {"plain": PLAIN})
    loaded = read(engine).token
    assert loaded is not None
    with pytest.raises(UnsealError) as caught:
        loaded.unseal(KEYRING)
    assert PLAIN not in str(caught.value)


@pytest.mark.parametrize("column", ["called", "from_env", "note"])
def test_a_ciphertext_moved_to_another_column_does_not_open(engine: Engine, column: str) -> None:
    """A ciphertext opens in its own column only."""
    write(engine, token=PLAIN)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE customers SET {column} = token"))  # noqa: S608
    loaded = getattr(read(engine), column)
    with pytest.raises(UnsealError):
        loaded.unseal(KEYRING)


def test_a_ciphertext_moved_to_another_table_does_not_open(engine: Engine) -> None:
    """Columns of one name, shared by a mixin, are different places in different tables."""
    write(engine, note=PLAIN)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO suppliers (id, note) SELECT 1, note FROM customers"))
    with Session(engine) as session:
        loaded = session.scalars(select(Supplier)).one().note
    assert loaded is not None
    with pytest.raises(UnsealError):
        loaded.unseal(KEYRING)
    own = read(engine).note
    assert own is not None
    assert own.unseal(KEYRING) == PLAIN


def test_a_sealed_value_from_elsewhere_does_not_open_here(engine: Engine) -> None:
    """Assigning another column's Sealed stores it as it is, and here it doesn't open."""
    write(engine, token=PLAIN)
    with Session(engine) as session, session.begin():
        customer = session.scalars(select(Customer)).one()
        customer.called = customer.token
    loaded = read(engine).called
    assert loaded is not None
    with pytest.raises(UnsealError):
        loaded.unseal(KEYRING)


def test_an_aliased_column_loads_like_the_column(engine: Engine) -> None:
    """A column that is selected by another name opens with its own place."""
    write(engine, token=PLAIN)
    with Session(engine) as session:
        loaded = session.scalars(select(Customer.token.label("other"))).one()
    assert loaded is not None
    assert loaded.unseal(KEYRING) == PLAIN


def test_a_keyring_may_be_a_function(engine: Engine) -> None:
    """A function is called when a row is written."""
    write(engine, called=PLAIN)
    loaded = read(engine).called
    assert loaded is not None
    assert loaded.unseal(KEYRING) == PLAIN


def test_without_a_keyring_the_environment_is_read_on_write(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FIELD_ENCRYPTION_KEY is looked up when the row is written, not at import."""
    key = Keyring.generate_key()
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    write(engine, from_env=PLAIN)
    loaded = read(engine).from_env
    assert loaded is not None
    assert loaded.unseal(Keyring(key)) == PLAIN


def test_without_a_key_nothing_is_written_and_nothing_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No key is a ConfigurationError that names the setting and doesn't repeat the plaintext."""
    monkeypatch.delenv("FIELD_ENCRYPTION_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY") as caught:
        write(engine, from_env=PLAIN)
    assert PLAIN not in str(caught.value)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM customers")) == 0


@pytest.mark.parametrize("value", [7, b"bytes", ["sk-list"], {"sk": "dict"}, True, 1.5])
def test_other_types_are_refused_and_not_repeated(engine: Engine, value: object) -> None:
    """What is no text is a TypeError that names the column, and neither it nor its neighbours."""
    with pytest.raises(TypeError, match=r"customers\.token takes str, Sealed or None") as caught:
        write(engine, token=value, called=PLAIN)
    assert PLAIN not in str(caught.value)
    assert "sk-list" not in str(caught.value)


def test_text_that_is_no_text_is_refused_and_not_repeated(engine: Engine) -> None:
    """A lone surrogate can't be sealed; the message names the column and not the value."""
    with pytest.raises(TypeError, match=r"customers\.token") as caught:
        write(engine, token=PLAIN + "\ud800")
    assert PLAIN not in str(caught.value)


def test_a_value_is_never_written_into_a_statement() -> None:
    """Rendering a literal is refused, so that no statement text holds a plaintext."""
    statement = select(literal(PLAIN, EncryptedString(keyring=KEYRING)))
    with pytest.raises((TypeError, CompileError)) as caught:
        statement.compile(compile_kwargs={"literal_binds": True})
    assert "literal" in str(caught.value)


def test_a_type_without_a_column_seals_nothing(engine: Engine) -> None:
    """A bound value that belongs to no column has no place to be sealed for."""
    with engine.connect() as connection, pytest.raises(TypeError, match="belong to a table"):
        connection.execute(select(literal(PLAIN, EncryptedString(keyring=KEYRING))))
