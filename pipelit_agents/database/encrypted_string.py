"""A column type for text that is encrypted in the database until it is decrypted on request."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, NoReturn
from weakref import ReferenceType, WeakSet, ref

from sqlalchemy import (
    BinaryExpression,
    ClauseElement,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Index,
    Null,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.engine import Engine, ExceptionContext, ExecutionContext
from sqlalchemy.exc import ArgumentError, DontWrapMixin, StatementError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import instance_state as object_state
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.sql.schema import ColumnCollectionConstraint, SchemaItem
from sqlalchemy.types import TypeDecorator, TypeEngine

from pipelit_agents.database.key_row import column_keyring
from pipelit_agents.database.written_values import default_in_clear, values_in_clear
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = ["EncryptedString", "encrypted_tables"]

_NULL_TESTS: Final = (operators.eq, operators.ne, operators.is_, operators.is_not)
# The tables whose rows SQLAlchemy's errors must not repeat.
_TABLES: Final = set[str]()
# The connection of the statement that is being executed.
_EXECUTING: Final = ContextVar[ReferenceType[Connection] | None]("pipelit_executing", default=None)
# The tables themselves, as long as something refers to them.
_KNOWN: Final = WeakSet[Table]()


# SQLAlchemy wraps an exception that is raised while it writes, and repeats the row's values in the
# message, the plaintext too, unless the exception asks it not to.
class _NoKey(ConfigurationError, DontWrapMixin):
    pass


class _NotText(TypeError, DontWrapMixin):
    pass


class _Refused(BinaryExpression[Any]):
    """A comparison of two columns that can't be compiled into a statement.

    SQLAlchemy itself compares columns by ``==`` to find them in lists, so creating it must succeed.
    """

    inherit_cache = True


@compiles(_Refused)
def _refuse_to_compile(refused: _Refused, _compiler: SQLCompiler, **_options: Any) -> NoReturn:
    _refuse_comparison(refused.left, refused.operator)


class _NotComparable(TypeDecorator.Comparator[Any]):
    """Refuses all comparisons of a ciphertext but those with NULL and with a ``Sealed``."""

    __slots__ = ()

    def operate(self, op: OperatorType, *other: Any, **options: Any) -> ColumnElement[Any]:
        against = other[0] if other else self.expr
        equality = op in (operators.eq, operators.ne)
        null = against is None or isinstance(against, Null)
        # The ciphertext that was read is used for compare-and-swap.
        if (null and op in _NULL_TESTS) or (equality and isinstance(against, Sealed)):
            return super().operate(op, *other, **options)
        if not equality or not isinstance(against, ClauseElement):
            _refuse_comparison(self.expr, op)
        refused = _Refused.__new__(_Refused)
        vars(refused).update(vars(super().operate(op, *other, **options)))
        return refused

    def reverse_operate(self, op: OperatorType, other: Any, **options: Any) -> NoReturn:
        _refuse_comparison(self.expr, op)


def _refuse_comparison(expression: ColumnElement[object], op: OperatorType) -> NoReturn:
    name = getattr(op, "__name__", "this operator")
    raise TypeError(
        f"{expression} is an EncryptedString, and {name} would compare ciphertexts, which differ "
        "even where the values are equal. Use is_(None) or is_not(None), or keep a keyed hash of "
        "the value in a column of its own and compare that"
    )


class EncryptedString(TypeDecorator[Any]):
    """Text that is encrypted at rest under ``FIELD_ENCRYPTION_KEY``, for any application's models.

    A ``str`` is encrypted when the row is written. The database returns a ``Sealed``, which is
    decrypted by ``value.unseal(keyring)`` and shows nothing before that. After the ORM has flushed
    an object, its attribute is a ``Sealed`` too, also with ``expire_on_commit=False``. If the value
    was a default, or came from an UPDATE by the ORM, the attribute is loaded again when it is read.

    Only values are encrypted, and not the results of SQL expressions. So a statement is refused if
    it writes an expression, or a parameter with a type of its own, into the column. ``NULL`` and
    ciphertexts of encrypted columns are written; an expression of another kind that yields one is
    marked with ``type_coerce(expression, column.type)``. Within an expression, pass a value as
    ``literal(value, column.type)``. A default that the database computes is refused too. SQL that
    you write as text isn't searched.

    The purpose, by default ``table.column`` or ``schema.table.column``, is authenticated: a
    ciphertext that is copied to another column can't be decrypted. Text that isn't a ciphertext
    can't be decrypted either, so plaintext in the column is never returned.

    Two equal values have different ciphertexts. So comparisons and ``unique`` are refused. Only
    ``is_(None)`` and ``is_not(None)`` work, and ``==`` with the ``Sealed`` that was loaded: it
    tests whether the row still holds the same ciphertext. SQLAlchemy can't refuse a comparison in
    which the column is wrapped in a tuple, a cast or a function, or comes second, behind another
    column or a ``literal``; such a comparison finds nothing. It can't refuse ``order_by(column)``
    either, which sorts by the times of encryption.

    To rename a table or a column, keep the purpose of the values that are already stored:
    ``EncryptedString(purpose="old_table.old_column")``.

    Args:
        keyring: The keyring, or a function that returns it when a row is written. Without one,
            the keyring is read from the environment at that moment, never at import.
        purpose: What the ciphertexts are bound to. Set it to keep values readable after a rename,
            or if ciphertexts are copied between tables of one name in different schemas.
        place: The earlier name of ``purpose``.

    Raises:
        ConfigurationError: On write, when there is no usable key. If the table is in a database of
            a ``Pipelit``, also when the newest key isn't that database's.
        TypeError: On write, when the value is neither ``str``, ``Sealed`` nor None, or is an SQL
            expression. When a statement is built, if it compares the column with anything but None
            or a ``Sealed``.
        sqlalchemy.exc.ArgumentError: When a table is defined, if the column is unique, part of a
            primary key, or has a default that would be stored unencrypted.

    Example:
        ```python
        class Customer(Base):
            __tablename__ = "customers"
            id: Mapped[int] = mapped_column(primary_key=True)
            token: Mapped[Sealed | None] = mapped_column(EncryptedString())
        ```
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    comparator_factory: Any = _NotComparable
    # Two columns' types differ by their purpose, so compiled statements are cached apart.
    cache_ok: bool | None = True

    def __init__(
        self,
        *,
        keyring: Keyring | Callable[[], Keyring] | None = None,
        purpose: str = "",
        place: str = "",
    ) -> None:
        super().__init__()
        if purpose and place and purpose != place:
            raise ValueError("purpose and place are two names of one setting: give purpose alone")
        self.keyring = keyring
        # The name that SQLAlchemy looks for when it copies or compares the type.
        self.place: str = purpose or place

    @property
    def purpose(self) -> str:
        """What the ciphertexts of this column are bound to."""
        return self.place

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        """Encrypt a value that is about to be written."""
        found = _EXECUTING.get()
        sealed = self.sealed(value, found() if found else None)
        return None if sealed is None else sealed.token

    def sealed(self, value: object, connection: Connection | None = None) -> Sealed | None:
        """Encrypt a value for this column. A ``Sealed`` or None is returned as it is.

        Args:
            value: The value.
            connection: The transaction in which it is written.

        Raises:
            ConfigurationError: There is no usable key, or it isn't the one of the database.
            TypeError: The value is of another type, or the type belongs to no column.
        """
        if value is None or isinstance(value, Sealed):
            return value
        if not isinstance(value, str):
            raise _NotText(
                f"{self.place or 'EncryptedString'} takes str, Sealed or None, "
                f"not {type(value).__name__}"
            )
        if not self.place:
            raise _NotText("EncryptedString has to belong to a table's column to encrypt a value")
        try:
            keyring = self._keyring()
            if connection is not None:
                declared = self.keyring is not None
                keyring = column_keyring(connection, keyring, is_declared=declared)
            return Sealed(keyring.seal(value, self.place), self.place)
        except ConfigurationError as error:
            raise _NoKey(str(error)) from None
        except UnicodeEncodeError:
            raise _NotText(f"{self.place}: text with a lone surrogate can't be stored") from None

    def process_result_value(self, value: Any, dialect: Dialect) -> Sealed | None:
        """Wrap a ciphertext that was loaded; nothing is decrypted here."""
        return None if value is None else Sealed(value, self.place)

    def literal_processor(self, dialect: Dialect) -> NoReturn:
        """Refuse: a literal would put the value into the text of a statement.

        The error is raised before a value is rendered, as SQLAlchemy would repeat the value in it.
        """
        raise TypeError("an EncryptedString is never rendered as a literal")

    def _of_column(self, name: str) -> EncryptedString:
        """Return the type of one column; ``name`` is ``table.column``."""
        return EncryptedString(keyring=self.keyring, purpose=self.place or name)

    def _keyring(self) -> Keyring:
        if isinstance(self.keyring, Keyring):
            return self.keyring
        if self.keyring is not None:
            return self.keyring()
        from pipelit_agents.settings import Settings

        return Settings.read().keyring()


@event.listens_for(Column, "after_parent_attach")
def _bind_to_the_column(column: Column[object], parent: SchemaItem) -> None:
    # A type instance may be shared by columns (mixins), so each column gets its own.
    if not isinstance(column.type, EncryptedString) or not isinstance(parent, Table):
        return
    if default := default_in_clear(column, _is_encrypted):
        raise ArgumentError(
            f"{column} is an EncryptedString, and its {default} would be stored unencrypted: give "
            "it a default that is text, or a function that returns text"
        )
    where = ".".join(filter(None, (parent.schema, parent.name, column.name)))
    column.type = column.type._of_column(where)
    _TABLES.add(parent.name)
    _KNOWN.add(parent)
    _names.cache_clear()
    if column.primary_key or column.unique or column.foreign_keys:
        _refuse_key(column)


def encrypted_tables() -> list[Table]:
    """Return the tables of this process that have an encrypted column."""
    return list(_KNOWN)


@event.listens_for(UniqueConstraint, "after_parent_attach")
@event.listens_for(PrimaryKeyConstraint, "after_parent_attach")
@event.listens_for(Index, "after_parent_attach")
def _refuse_unique(constraint: ColumnCollectionConstraint | Index, _parent: SchemaItem) -> None:
    if isinstance(constraint, Index) and not constraint.unique:
        return
    for column in constraint.columns:
        if isinstance(column.type, EncryptedString):
            _refuse_key(column)


def _refuse_key(column: Column[object]) -> NoReturn:
    raise ArgumentError(
        f"{column} is an EncryptedString, and can be neither unique nor a key: equal values have "
        "different ciphertexts. Keep a keyed hash of the value in a column of its own, and make "
        "that one unique"
    )


@event.listens_for(Mapper, "before_insert")
@event.listens_for(Mapper, "before_update")
def _encrypt_attributes(mapper: Mapper[object], connection: Connection, target: object) -> None:
    # Before the flush, so that no object keeps the plaintext of a stored value, and no error about
    # another column of the row repeats it.
    for name, kind in _encrypted(mapper):
        value = target.__dict__.get(name)
        if isinstance(value, str):
            # Not by setattr: validators and other listeners have had the value that was set.
            target.__dict__[name] = kind.sealed(value, connection)


@event.listens_for(Mapper, "after_insert")
@event.listens_for(Mapper, "after_update")
def _forget_written(mapper: Mapper[object], _connection: Connection, target: object) -> None:
    # Plaintext that SQLAlchemy encrypted only when it was bound: a default of the column, or a
    # value that another listener has set before the flush.
    _expire(mapper, target)


@event.listens_for(Mapper, "refresh")
def _forget_evaluated(target: object, _context: object, _names: object) -> None:
    # An UPDATE by the ORM sets the attributes of objects in its session to the values in it.
    state = object_state(target)
    _expire(state.mapper, target, among=state.unmodified)


def _expire(mapper: Mapper[Any], target: object, among: Collection[str] | None = None) -> None:
    """Let plaintext in attributes be loaded again as a ``Sealed``, as its ciphertext isn't known.

    Args:
        mapper: The mapper of the object.
        target: The object.
        among: The attributes; None for all.
    """
    plain = [
        name
        for name, _ in _encrypted(mapper)
        if isinstance(target.__dict__.get(name), str) and (among is None or name in among)
    ]
    if plain:
        # Session.expire refuses an object that is being inserted, and there is no other public name
        # for this. If SQLAlchemy drops the private one, such a flush fails and stores nothing.
        object_state(target)._expire_attributes(target.__dict__, plain)


@cache
def _encrypted(mapper: Mapper[object]) -> list[tuple[str, EncryptedString]]:
    return [
        (each.key, each.columns[0].type)
        for each in mapper.column_attrs
        if isinstance(each.columns[0].type, EncryptedString)
    ]


@event.listens_for(Engine, "before_execute")
def _keep_connection(
    connection: Connection, statement: object, _sets: object, _values: object, _options: object
) -> None:
    # Parameters are encrypted when they are bound, and a type isn't told the transaction. Text and
    # a SELECT can write too: its CTE may be an INSERT.
    _EXECUTING.set(ref(connection))
    _refuse_clear(statement)


@event.listens_for(Engine, "before_cursor_execute")
def _search_ctes(
    _connection: object,
    _cursor: object,
    _text: str,
    _values: object,
    context: ExecutionContext,
    _many: bool,
) -> None:
    # Only the compiled statement lists its CTEs; on PostgreSQL, an INSERT or UPDATE may be one.
    for cte in getattr(context.compiled, "ctes", None) or ():
        _refuse_clear(cte.element)


def _refuse_clear(statement: object) -> None:
    for name in values_in_clear(statement, _is_encrypted):
        raise TypeError(
            f"{name} is an EncryptedString, and this statement would store the result of an SQL "
            "expression, or a parameter of another type, unencrypted: pass the value as str, or in "
            "an expression as literal(value, column.type). An expression that yields a ciphertext "
            "of this column is marked with type_coerce(expression, column.type)"
        )


def _is_encrypted(kind: object) -> bool:
    return isinstance(kind, EncryptedString)


@event.listens_for(Engine, "handle_error")
def _hide_parameters(context: ExceptionContext) -> None:
    # If a statement fails before it is sent, or in the driver, the error shows its parameters. In a
    # Core statement these are the plaintexts: they are encrypted only when they are bound.
    error = context.sqlalchemy_exception
    if isinstance(error, StatementError) and _names().search(context.statement or ""):
        error.hide_parameters = True
        error.params = ("hidden",)


@cache
def _names() -> re.Pattern[str]:
    listed = "|".join(map(re.escape, sorted(_TABLES)))
    return re.compile(rf"(?<!\w)(?:{listed})(?!\w)" if listed else r"(?!)")
