"""EncryptedString on the models of an application that isn't ours."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Computed,
    Engine,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    bindparam,
    case,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    text,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import ArgumentError, CompileError, IntegrityError, StatementError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    mapped_column,
    validates,
)

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


class Account(Base):
    """Whose values are set in other ways than by the one who makes the object."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    by_default: Mapped[Sealed | None] = mapped_column(
        EncryptedString(keyring=KEYRING), default=PLAIN, onupdate=PLAIN
    )
    by_function: Mapped[Sealed | None] = mapped_column(
        EncryptedString(keyring=KEYRING), default=lambda: PLAIN
    )
    by_listener: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=KEYRING))
    validated: Mapped[Sealed | None] = mapped_column(EncryptedString(keyring=KEYRING))

    @validates("validated")
    def _strip(self, _name: str, value: str) -> str:
        return value.strip()


@event.listens_for(Account, "before_insert")
def _listen(_mapper: object, _connection: object, account: Any) -> None:
    account.by_listener = PLAIN


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
    """A loaded value is a Sealed, which the keyring decrypts."""
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
    """A reader of the database can't tell which rows hold the same value."""
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
    """A ciphertext is decrypted in its own column only."""
    write(engine, token=PLAIN)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE customers SET {column} = token"))  # noqa: S608
    loaded = getattr(read(engine), column)
    with pytest.raises(UnsealError):
        loaded.unseal(KEYRING)


def test_a_ciphertext_moved_to_another_table_does_not_open(engine: Engine) -> None:
    """A column that a mixin shares has a different purpose in each table."""
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
    """Another column's Sealed is stored as it is, and can't be decrypted here."""
    write(engine, token=PLAIN)
    with Session(engine) as session, session.begin():
        customer = session.scalars(select(Customer)).one()
        customer.called = customer.token
    loaded = read(engine).called
    assert loaded is not None
    with pytest.raises(UnsealError):
        loaded.unseal(KEYRING)


def test_an_aliased_column_loads_like_the_column(engine: Engine) -> None:
    """A column that is selected by another name keeps its own purpose."""
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
    """Another type is a TypeError that names the column, and shows no value of the row."""
    with pytest.raises(TypeError, match=r"customers\.token takes str, Sealed or None") as caught:
        write(engine, token=value, called=PLAIN)
    assert PLAIN not in str(caught.value)
    assert "sk-list" not in str(caught.value)


def test_text_that_is_no_text_is_refused_and_not_repeated(engine: Engine) -> None:
    """A lone surrogate can't be encrypted; the message names the column, not the value."""
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
    """A bound value that belongs to no column has no purpose."""
    with engine.connect() as connection, pytest.raises(TypeError, match="belong to a table"):
        connection.execute(select(literal(PLAIN, EncryptedString(keyring=KEYRING))))


Token: Any = Customer.token


@pytest.mark.parametrize(
    "compare",
    [
        lambda: select(exists().where(Token == PLAIN)),
        lambda: delete(Customer).where(Token == PLAIN),
        lambda: delete(Customer).where(Token != PLAIN),
        lambda: select(Customer).filter_by(token=PLAIN),
        lambda: select(Customer).where(Token.in_([PLAIN])),
        lambda: select(Customer).where(Token.not_in([PLAIN])),
        lambda: select(Customer).where(Token.in_(select(Customer.called))),
        lambda: select(Customer).where(Token.like("sk-%")),
        lambda: select(Customer).where(Token.is_distinct_from(PLAIN)),
        lambda: select(Customer).where(Token.between("a", "b")),
        lambda: select(Customer).where(Token < PLAIN),
        lambda: select(Customer).where(Token == Customer.called),
        lambda: select(Customer).where(Token.label("other") == PLAIN),
        lambda: select(Customer).where(aliased(Customer).token == PLAIN),
        lambda: select(Customer).order_by(Token.desc()),
        lambda: select(Token + PLAIN),
        lambda: select(PLAIN + Token),
        lambda: update(Customer).values(note=Token + PLAIN),
        lambda: select(Token.distinct()),
        lambda: select(Token.startswith("sk")),
    ],
)
def test_ciphertexts_are_not_compared(compare: Callable[[], Any], engine: Engine) -> None:
    """No statement is built that would silently match nothing, or delete everything."""
    with Session(engine) as session, pytest.raises(TypeError, match="EncryptedString") as caught:
        session.execute(compare())
    assert PLAIN not in str(caught.value)


@pytest.mark.parametrize(
    ("test", "ids"),
    [
        (Token.is_(None), [2]),
        (Token.is_not(None), [1]),
        (Token == None, [2]),  # noqa: E711 - what SQLAlchemy makes IS NULL of
        (Token != None, [1]),  # noqa: E711
        (Token.is_(null()), [2]),
    ],
)
def test_whether_there_is_a_value_can_be_asked(engine: Engine, test: Any, ids: list[int]) -> None:
    """NULL is NULL, encrypted or not."""
    write(engine, token=PLAIN)
    with Session(engine) as session, session.begin():
        session.add(Customer(id=2))
    with Session(engine) as session:
        assert list(session.scalars(select(Customer.id).where(test))) == ids


def test_sqlalchemys_own_comparisons_of_columns_go_on_working(engine: Engine) -> None:
    """A list of columns is searched by ``==``; only a statement of it is refused."""
    columns = [Customer.__table__.c.called, Customer.__table__.c.token]
    assert columns.index(Customer.__table__.c.token) == 1
    assert Customer.__table__.c.note not in columns
    write(engine, token=PLAIN)
    for _ in range(2):
        with engine.connect() as connection:
            row = connection.execute(select(Customer.token, Customer.called)).one()
        assert row.token.unseal(KEYRING) == PLAIN


def test_a_ciphertext_is_the_one_that_was_read(engine: Engine) -> None:
    """A compare-and-swap by the loaded Sealed changes that row alone, and once."""
    write(engine, token=PLAIN)
    loaded = read(engine).token
    swap = update(Customer).where(Token == loaded).values(token="new")
    with engine.begin() as connection:
        assert [connection.execute(swap).rowcount for _ in range(2)] == [1, 0]


@pytest.mark.parametrize(
    "parts",
    [
        lambda: [Column("token", EncryptedString(), unique=True)],
        lambda: [Column("token", EncryptedString(), primary_key=True)],
        lambda: [Column("token", EncryptedString()), UniqueConstraint("token")],
        lambda: [Column("token", EncryptedString()), PrimaryKeyConstraint("token")],
        lambda: [
            Column("id", Integer),
            Column("token", EncryptedString()),
            Index("one_of_each", "id", "token", unique=True),
        ],
    ],
)
def test_a_ciphertext_is_no_key(parts: Callable[[], list[Any]]) -> None:
    """A unique ciphertext would let equal values in, so the table is refused when it is defined."""
    with pytest.raises(ArgumentError, match="keyed hash"):
        Table("things", MetaData(), *parts())


def test_an_index_that_is_not_unique_is_the_applications_business() -> None:
    """It is of no use, and does no harm."""
    column: Column[Any] = Column("token", EncryptedString(), index=True)
    assert len(Table("things", MetaData(), column).indexes) == 1


def renamed(engine: Engine, **options: Any) -> Any:
    """What a table holds that was called customers when its row was written."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE customers RENAME TO clients"))
    column: Column[Any] = Column("token", EncryptedString(keyring=KEYRING, **options))
    clients = Table("clients", MetaData(), Column("id", Integer, primary_key=True), column)
    with engine.begin() as connection:
        connection.execute(insert(clients).values(id=2, token="new"))
        return connection.scalars(select(clients.c.token).order_by(clients.c.id)).all()


@pytest.mark.parametrize("name", ["purpose", "place"])
def test_a_renamed_table_keeps_its_values_by_their_purpose(engine: Engine, name: str) -> None:
    """Old values are decrypted, and new ones are bound to the same purpose."""
    write(engine, token=PLAIN)
    old, new = renamed(engine, **{name: "customers.token"})
    assert (old.unseal(KEYRING), new.unseal(KEYRING)) == (PLAIN, "new")
    assert new.purpose == "customers.token"


def test_without_the_purpose_a_renamed_tables_values_do_not_open(engine: Engine) -> None:
    """So the test above would find it."""
    write(engine, token=PLAIN)
    old, new = renamed(engine)
    assert new.unseal(KEYRING) == "new"
    with pytest.raises(UnsealError):
        old.unseal(KEYRING)


def test_two_purposes_at_once_are_refused() -> None:
    """The earlier name of the argument can't contradict the newer one."""
    with pytest.raises(ValueError, match="purpose alone"):
        EncryptedString(purpose="a.b", place="c.d")


def test_a_value_belongs_to_its_schema() -> None:
    """A ciphertext of one tenant's table can't be decrypted in the table of another."""
    one, other = (
        Table(
            "customers", MetaData(), Column("token", EncryptedString(keyring=KEYRING)), schema=each
        )
        for each in ("tenant_a", "tenant_b")
    )
    sealed = one.c.token.type.sealed(PLAIN)  # type: ignore[attr-defined]
    assert sealed.purpose == "tenant_a.customers.token"
    with pytest.raises(UnsealError):
        Sealed(sealed.token, other.c.token.type.purpose).unseal(KEYRING)  # type: ignore[attr-defined]


@pytest.mark.parametrize("action", ["insert", "update"])
def test_what_was_flushed_is_sealed_in_the_object_too(engine: Engine, action: str) -> None:
    """With expire_on_commit=False no object keeps the plaintext of what it has stored."""
    with Session(engine, expire_on_commit=False) as session:
        customer = Customer(id=1, token=PLAIN if action == "insert" else "before")
        session.add(customer)
        session.flush()
        if action == "update":
            customer.token = PLAIN  # type: ignore[assignment]
        session.commit()
        assert isinstance(customer.token, Sealed)
        assert customer.token.unseal(KEYRING) == PLAIN
        assert PLAIN.encode() not in pickle.dumps(customer)
        session.refresh(customer)
        assert customer.token.unseal(KEYRING) == PLAIN


def test_a_value_that_nobody_assigned_is_sealed_in_the_object_too(engine: Engine) -> None:
    """Neither a default nor a listener leaves plaintext in a stored object."""
    names = ("by_default", "by_function", "by_listener")
    with Session(engine, expire_on_commit=False) as session:
        account = Account(id=1)
        session.add(account)
        session.commit()
        assert PLAIN.encode() not in pickle.dumps(account)
        assert {getattr(account, each).unseal(KEYRING) for each in names} == {PLAIN}
        first = account.by_default
        account.name = "renamed"
        session.commit()
        assert PLAIN.encode() not in pickle.dumps(account)
        assert account.by_default.unseal(KEYRING) == PLAIN  # type: ignore[union-attr]
        assert account.by_default is not first
        # The object has the ciphertext of the row.
        stored = select(Account.id).where(
            *(getattr(Account, n) == getattr(account, n) for n in names)
        )
        assert session.scalar(stored) == 1


@pytest.mark.parametrize("strategy", ["auto", "evaluate", "fetch", "by key"])
def test_an_update_leaves_no_plaintext_in_objects(engine: Engine, strategy: str) -> None:
    """SQLAlchemy sets the attributes of objects in the session to the values of the UPDATE."""
    write(engine, token="before")
    with Session(engine, expire_on_commit=False) as session:
        customer = session.get_one(Customer, 1)
        customer.called = "not written yet"  # type: ignore[assignment]
        with session.no_autoflush:
            if strategy == "by key":
                session.execute(update(Customer), [{"id": 1, "token": PLAIN}])
            else:
                session.execute(
                    update(Customer).values(token=PLAIN),
                    execution_options={"synchronize_session": strategy},
                )
            assert PLAIN not in vars(customer).values()
        session.commit()
        assert customer.token is not None
        assert customer.token.unseal(KEYRING) == PLAIN
        assert customer.called is not None
        assert customer.called.unseal(KEYRING) == "not written yet"


def test_what_waits_to_be_written_is_kept(engine: Engine) -> None:
    """If other attributes are loaded again, one that was assigned meanwhile isn't lost."""
    write(engine, token="before")
    with Session(engine) as session:
        customer = session.get_one(Customer, 1)
        customer.token = PLAIN  # type: ignore[assignment]
        with session.no_autoflush:
            session.refresh(customer, ["note"])
            assert customer.token == PLAIN  # type: ignore[comparison-overlap]
        session.commit()
    loaded = read(engine).token
    assert loaded is not None
    assert loaded.unseal(KEYRING) == PLAIN


def test_a_validator_sees_only_what_was_assigned(engine: Engine) -> None:
    """A flush encrypts the value behind it, so that it is never called with a Sealed."""
    with Session(engine, expire_on_commit=False) as session:
        account = Account(id=1, validated=f" {PLAIN} ")
        session.add(account)
        session.commit()
        account.validated = f"{PLAIN}2 "  # type: ignore[assignment]
        session.commit()
        assert isinstance(account.validated, Sealed)
        session.refresh(account)
        assert account.validated.unseal(KEYRING) == f"{PLAIN}2"


class Swapped(Base):
    """Attributes that have the names of each other's columns."""

    __tablename__ = "swapped"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str | None] = mapped_column("name")
    name: Mapped[Sealed | None] = mapped_column("token", EncryptedString(keyring=KEYRING))


UPSERT = sqlite.insert(Customer).values(id=1)
# What would store plaintext: SQLAlchemy binds none of these with the type of the column.
IN_CLEAR: dict[str, Any] = {
    "another column": lambda: update(Account).values(by_listener=Account.name),
    "a function": lambda: update(Customer).values(token=func.lower(PLAIN)),
    "text": lambda: update(Customer).values(token=text(f"'{PLAIN}'")),
    "a literal": lambda: update(Customer).values(token=literal(PLAIN)),
    "a literal column": lambda: insert(Customer).values(token=literal_column(f"'{PLAIN}'")),
    "a typed parameter": lambda: insert(Customer).values(token=bindparam("x", type_=String())),
    "a parameter that has its type from its value": lambda: insert(Customer).values(
        token=bindparam("x", PLAIN)
    ),
    "a case": lambda: update(Customer).values(token=case((null().is_(None), PLAIN))),
    "a part of a case": lambda: update(Customer).values(
        token=case((Customer.id == 2, Customer.token), else_=PLAIN)
    ),
    "a part of a function": lambda: update(Customer).values(
        token=func.coalesce(Customer.token, PLAIN)
    ),
    "a subquery": lambda: update(Customer).values(
        token=select(Account.name).limit(1).scalar_subquery()
    ),
    "an untyped parameter of a select": lambda: insert(Customer).from_select(
        ["token"], select(bindparam("x"))
    ),
    "an untyped parameter of a subquery": lambda: update(Customer).values(
        token=select(bindparam("x")).scalar_subquery()
    ),
    "an untyped parameter of a function": lambda: update(Customer).values(
        token=func.coalesce(Customer.token, bindparam("x"))
    ),
    "an untyped parameter of a case": lambda: update(Customer).values(
        token=case((Customer.id == 2, Customer.token), else_=bindparam("x"))
    ),
    "an untyped parameter of a later row": lambda: insert(Customer).values(
        [{"id": 1, "token": bindparam("x")}, {"id": 2, "token": bindparam("y")}]
    ),
    "a function in a subquery": lambda: insert(Customer).from_select(
        ["token"],
        select(select(func.coalesce(Customer.token, PLAIN).label("x")).subquery().c.x),
    ),
    "a union in a subquery": lambda: insert(Customer).from_select(
        ["token"],
        select(union_all(select(Customer.called), select(Account.name)).subquery().c[0]),
    ),
    "the name of another attribute": lambda: insert(Swapped).from_select(
        ["token"], select(Account.name)
    ),
    "the name of another attribute, on a conflict": lambda: (
        sqlite.insert(Swapped).values(id=1).on_conflict_do_update(set_={"token": func.lower(PLAIN)})
    ),
    "an insert in a CTE": lambda: select(
        insert(Customer).values(token=func.lower(PLAIN)).returning(Customer.id).cte()
    ),
    "an update beside a select": lambda: select(Customer.id).add_cte(
        update(Customer).values(token=func.lower(PLAIN)).cte()
    ),
    "a labelled value": lambda: update(Customer).values(token=literal(PLAIN).label("x")),
    "an order": lambda: update(Customer).ordered_values((Customer.token, func.lower(PLAIN))),
    "a name of the table": lambda: update(Customer.__table__).values(  # type: ignore[arg-type]
        {"token": func.lower(PLAIN)}
    ),
    "one row of several": lambda: insert(Customer).values(
        [{"id": 1, "token": PLAIN}, {"id": 2, "token": func.lower(PLAIN)}]
    ),
    "a row without names": lambda: insert(Customer.__table__).values(  # type: ignore[arg-type]
        [(1, func.lower(PLAIN), None, None, None)] * 2
    ),
    "a select": lambda: insert(Customer).from_select(["token"], select(Account.name)),
    "one of two selects": lambda: insert(Customer).from_select(
        ["token"], union_all(select(Customer.called), select(Account.name))
    ),
    "a conflict": lambda: UPSERT.on_conflict_do_update(set_={"token": func.lower(PLAIN)}),
    "a conflict of MySQL": lambda: mysql.insert(Customer).on_duplicate_key_update(
        token=func.lower(PLAIN)
    ),
}


@pytest.mark.parametrize("kind", IN_CLEAR)
def test_an_expression_that_would_be_stored_in_clear_is_refused(engine: Engine, kind: str) -> None:
    """SQLAlchemy doesn't pass the result of an expression to the type that would encrypt it."""
    write(engine, token="before")
    for run in (Session(engine), engine.connect()):
        with run, pytest.raises(TypeError, match="unencrypted") as caught:
            run.execute(IN_CLEAR[kind]())
        assert PLAIN not in str(caught.value)


def test_an_expression_as_an_attribute_is_refused_too(engine: Engine) -> None:
    """The ORM writes it in the statement of the flush."""
    for value in (func.lower(PLAIN), literal(PLAIN)):
        with Session(engine) as session:
            session.add(Customer(id=1, token=value))
            with pytest.raises(TypeError, match="unencrypted"):
                session.commit()


IN_CIPHER: dict[str, Any] = {
    "null": lambda: update(Customer).values(token=null()),
    "nothing": lambda: update(Customer).values(token=None),
    "the column": lambda: update(Customer).values(token=Customer.token),
    "a case": lambda: update(Customer).values(
        token=case((Customer.id == 2, null()), else_=Customer.token)
    ),
    "a subquery": lambda: update(Customer).values(
        token=select(aliased(Customer).token).limit(1).scalar_subquery()
    ),
    "a select": lambda: insert(Customer).from_select(["token"], select(Customer.token)),
    "a select from a subquery": lambda: insert(Customer).from_select(
        ["token"], select(select(Customer.token.label("x")).subquery().c.x)
    ),
    "a select from a union": lambda: insert(Customer).from_select(
        ["token"],
        select(union_all(select(Customer.token), select(null())).cte().c[0]),
    ),
    "a value in an expression": lambda: update(Customer).values(
        token=func.coalesce(Customer.token, literal(PLAIN, Customer.token.type))
    ),
    "the first of several rows": lambda: insert(Customer).values(
        [{"token": bindparam("x", None)}, {"token": PLAIN}]
    ),
    "an attribute that has another column's name": lambda: insert(Swapped).values(
        token=func.lower("A"), name=PLAIN
    ),
    "a marked expression": lambda: update(Customer).values(
        token=type_coerce(func.max(Customer.token).select().scalar_subquery(), Customer.token.type)
    ),
    "a conflict": lambda: UPSERT.on_conflict_do_update(set_={"token": UPSERT.excluded.token}),
    "a conflict with text": lambda: UPSERT.on_conflict_do_update(set_={"token": PLAIN}),
    "an expression for another column": lambda: update(Account).values(name=func.lower("A")),
}


@pytest.mark.parametrize("kind", IN_CIPHER)
def test_an_expression_that_yields_a_ciphertext_is_written(engine: Engine, kind: str) -> None:
    """Values that are encrypted already, NULL, and text that the type encrypts."""
    write(engine, token=PLAIN)
    with engine.begin() as connection:
        connection.execute(IN_CIPHER[kind]())
        stored = connection.scalars(select(Customer.token)).all()
    assert {each.unseal(KEYRING) for each in stored if each is not None} <= {PLAIN}


def test_a_parameter_without_a_type_is_encrypted(engine: Engine) -> None:
    """It gets the type of the column: an UPDATE of many rows has such parameters."""
    write(engine, token="before")
    statement = update(Customer.__table__).where(  # type: ignore[arg-type]
        Customer.__table__.c.id == bindparam("row")
    )
    with engine.begin() as connection:
        connection.execute(statement.values(token=bindparam("new")), [{"row": 1, "new": PLAIN}])
    loaded = read(engine).token
    assert loaded is not None
    assert loaded.unseal(KEYRING) == PLAIN


@pytest.mark.parametrize(
    "options",
    [
        {"server_default": PLAIN},
        {"server_default": text(f"'{PLAIN}'")},
        {"default": func.lower(PLAIN)},
        {"onupdate": func.lower(PLAIN)},
        {"default": literal(PLAIN)},
    ],
    ids=["value", "text", "function", "on update", "literal"],
)
def test_a_default_that_would_be_stored_in_clear_is_refused(options: dict[str, Any]) -> None:
    """What the database computes isn't encrypted."""
    kind = EncryptedString(keyring=KEYRING)
    with pytest.raises(ArgumentError, match="unencrypted") as caught:
        Table("t", MetaData(), Column("token", kind, **options))
    assert PLAIN not in str(caught.value)
    with pytest.raises(ArgumentError, match="unencrypted"):
        Table("t", MetaData(), Column("token", kind, Computed("name")))


@pytest.mark.parametrize("default", [text("NULL"), null()], ids=["text", "null"])
def test_null_may_be_the_default(default: Any) -> None:
    """NULL is never encrypted."""
    Table("t", MetaData(), Column("token", EncryptedString(), server_default=default))


def test_an_error_about_another_column_repeats_no_plaintext(engine: Engine) -> None:
    """SQLAlchemy shows the row's parameters: through the ORM ciphertexts, in Core none."""
    write(engine, token="first")
    with pytest.raises(IntegrityError) as orm, Session(engine) as session, session.begin():
        session.add(Customer(id=1, token=PLAIN))
    with pytest.raises(IntegrityError) as core, engine.begin() as connection:
        connection.execute(insert(Customer).values(id=1, token=PLAIN))
    with pytest.raises(StatementError) as before, engine.begin() as connection:
        connection.execute(insert(Customer), [{"token": PLAIN}, {"id": 3, "called": PLAIN}])
    for caught in (orm, core, before):
        assert PLAIN not in f"{caught.value}{caught.value!r}{caught.value.params}"


def test_errors_of_other_tables_show_their_parameters_as_before(engine: Engine) -> None:
    """Only statements that name a table with an encrypted column lose them."""
    with pytest.raises(StatementError) as caught, engine.begin() as connection:
        connection.execute(text("INSERT INTO nowhere VALUES (:shown)"), {"shown": "a-value"})
    assert "a-value" in str(caught.value)


def test_a_literal_is_refused_without_its_value() -> None:
    """A printer of statements gets an error that doesn't hold the value."""
    statement = insert(Customer).values(token=PLAIN)
    with pytest.raises((TypeError, CompileError)) as caught:
        statement.compile(compile_kwargs={"literal_binds": True})
    assert PLAIN not in str(caught.value)
