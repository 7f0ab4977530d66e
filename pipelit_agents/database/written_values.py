"""What a statement writes into encrypted columns: values that are encrypted, or ciphertexts.

A type encrypts the values that are bound to its column. SQLAlchemy writes an SQL expression, and a
parameter with a type of its own, as they are: the database would store the plaintext.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    BindParameter,
    Case,
    ClauseElement,
    Column,
    ColumnClause,
    FunctionElement,
    Insert,
    Label,
    Null,
    ScalarSelect,
    TypeCoerce,
    Update,
)
from sqlalchemy.schema import Computed, DefaultClause
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import NullType, TypeEngine

__all__ = ["default_in_clear", "values_in_clear"]

# Whether a type encrypts the values that are bound to it.
IsEncrypted: TypeAlias = Callable[[object], bool]

# Where the clauses of dialects that follow VALUES keep what they set: on a conflict, or on a
# duplicate key.
_SET_BY_CLAUSES: Final = ("update_values_to_set", "update")


def values_in_clear(statement: object, is_encrypted: IsEncrypted) -> Iterator[str]:
    """Yield the names of encrypted columns into which a statement writes something in clear.

    Args:
        statement: Any statement.
        is_encrypted: Whether a type is one of an encrypted column.
    """
    if not isinstance(statement, Insert | Update):
        return
    for key, value, is_typed in _written(statement):
        # Plain values are bound with the column's type.
        if not isinstance(value, ClauseElement) and not hasattr(value, "__clause_element__"):
            continue
        # The ORM has replaced the names of its attributes, so a name is that of a column.
        column = statement.table.c.get(key) if isinstance(key, str) else key
        if column is None or not is_encrypted(column.type):
            continue
        # A parameter without a type of its own gets that of the column, unless it is nested.
        if is_typed and isinstance(value, BindParameter) and isinstance(value.type, NullType):
            continue
        if not _is_ciphertext(value, is_encrypted):
            yield str(column)


def default_in_clear(column: Column[Any], is_encrypted: IsEncrypted) -> str:
    """Return which default of an encrypted column the database would store in clear, or ``""``.

    Args:
        column: The column.
        is_encrypted: As for ``values_in_clear``.
    """
    for name in ("default", "onupdate"):
        value = getattr(getattr(column, name), "arg", None)
        if isinstance(value, ClauseElement) and not _is_ciphertext(value, is_encrypted):
            return name
    default = column.server_default
    if isinstance(default, Computed):
        return "Computed"
    if isinstance(default, DefaultClause) and str(default.arg).strip().upper() != "NULL":
        return "server_default"
    return ""


def _written(statement: Insert | Update) -> Iterator[tuple[Any, object, bool]]:
    """Yield columns or their keys, what is written, and whether that gets the column's type."""
    # SQLAlchemy has no public names for the parts of a statement.
    if isinstance(statement, Insert) and statement.select is not None:
        for select in _selects(statement.select):
            for name, column in zip(
                statement._select_names or (), select.selected_columns, strict=False
            ):
                yield name, column, False
    for key, value in (statement._values or {}).items():
        yield key, value, True
    for several in statement._multi_values:
        for number, row in enumerate(several):
            named: Mapping[Any, object] = (
                row if isinstance(row, Mapping) else dict(zip(statement.table.c, row, strict=False))
            )
            for column, value in named.items():
                # SQLAlchemy gives the parameters of the first row alone a type.
                yield column, value, number == 0
    for clause in _clauses_after(statement):
        for name in _SET_BY_CLAUSES:
            found = getattr(clause, name, None)
            if isinstance(found, Mapping):
                for key, value in found.items():
                    yield key, value, True


def _clauses_after(statement: Insert | Update) -> Iterable[object]:
    clause = getattr(statement, "_post_values_clause", None)
    return () if clause is None else iterate(clause)


def _selects(select: object) -> Iterator[Any]:
    """Yield a SELECT, or those that a UNION is made of."""
    parts = getattr(select, "selects", None)
    if parts is None:
        yield select
    else:
        for each in parts:
            yield from _selects(each)


def _is_ciphertext(value: Any, is_encrypted: IsEncrypted) -> bool:
    """Return whether a value is NULL, is encrypted when it is bound, or is a ciphertext."""
    value = value.__clause_element__() if hasattr(value, "__clause_element__") else value
    kind: TypeEngine[Any] | None = getattr(value, "type", None)
    match value:
        case Null():
            return True
        case BindParameter() | TypeCoerce():
            return is_encrypted(kind)
        case ColumnClause():
            # In a subquery, a column may be an expression, or be several that a UNION yields.
            bases = [value, *value.base_columns]
            if not all(is_encrypted(each.type) for each in bases if isinstance(each, ColumnClause)):
                return False
            inner: Iterable[object] = [each for each in bases if not isinstance(each, ColumnClause)]
        case Label() | Grouping():
            inner = [value.element]
        case Case():
            inner = [*(result for _, result in value.whens), value.else_]
        case FunctionElement() if is_encrypted(kind):
            inner = value.clauses
        case ScalarSelect():
            selects = _selects(value.element)
            inner = (column for each in selects for column in each.selected_columns)
        case _:
            return False
    return all(each is None or _is_ciphertext(each, is_encrypted) for each in inner)
