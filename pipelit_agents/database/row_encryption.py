"""What the models of this package declare about their encrypted columns and their tags.

Rotation, ``keys status`` and ``keys forget`` are derived from these declarations by
``pipelit_agents.database.sealed_columns``. A new encrypted column needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter
from typing import Final, Literal, TypeAlias

from sqlalchemy import Column, Connection, Row, Table
from sqlalchemy.exc import DontWrapMixin

from pipelit_agents.database.encrypted_string import EncryptedString
from pipelit_agents.sealing.keyring import Sealed

__all__ = ["AnyRow", "Key", "RowEncryptedString", "RowRules", "row_rules", "tag_kind_of", "tag_of"]

_RULES: Final = "pipelit_agents.row_rules"
_TAG: Final = "pipelit_agents.tag_of"
# What keys forget does with a row that it can't decrypt.
Unreadable: TypeAlias = Literal["delete row", "clear columns"]
# A row of any columns, and the values of its primary key.
AnyRow: TypeAlias = Row[*tuple[object, ...]]
Key: TypeAlias = tuple[object, ...]


class _NotEncrypted(TypeError, DontWrapMixin):
    pass


class RowEncryptedString(EncryptedString):
    """A ciphertext that is bound to its row: copied to another row, it can't be decrypted.

    The type doesn't see the row that a value is written to, so it takes no plaintext. The service
    encrypts the value for its purpose, and writes a ``Sealed``.

    Args:
        row_purpose: Returns the purpose of a value.
        columns: The columns of the row that ``row_purpose`` takes, in its order.
    """

    cache_ok: bool | None = True

    def __init__(self, row_purpose: Callable[..., str], *columns: str) -> None:
        super().__init__()
        self.row_purpose = row_purpose
        self.columns = columns

    def purpose_of(self, row: AnyRow) -> str:
        """Return the purpose of this column's value in a row.

        Raises:
            TypeError: A column holds a value of another type. Databases that don't enforce types
                may hold one.
            ValueError: As for TypeError.
        """
        return self.row_purpose(*(getattr(row, column) for column in self.columns))

    def sealed(self, value: object, connection: Connection | None = None) -> Sealed | None:
        """Return a ``Sealed`` or None as it is.

        Raises:
            TypeError: The value is of another type.
        """
        if value is None or isinstance(value, Sealed):
            return value
        raise _NotEncrypted(
            f"{self.place or 'RowEncryptedString'} takes Sealed or None, not "
            f"{type(value).__name__}: encrypt the value for the purpose of its row first"
        )

    def _of_column(self, name: str) -> RowEncryptedString:
        made = RowEncryptedString(self.row_purpose, *self.columns)
        made.place = name
        return made


@dataclass(frozen=True, slots=True)
class RowRules:
    """How the rows of a table with encrypted columns are handled.

    Attributes:
        lock: The lock of a row, for ``Database.lock``, with the names of columns in braces:
            ``account:{username}``. Empty where writers take no lock.
        unreadable: What ``keys forget`` does with a row that no key can decrypt.
    """

    lock: str = ""
    unreadable: Unreadable = "delete row"

    @classmethod
    def of(cls, table: Table) -> RowRules:
        """Return the rules that a model declared, or the default ones."""
        rules = table.info.get(_RULES, cls())
        assert isinstance(rules, cls)  # noqa: S101 - for the type checker
        return rules

    @property
    def lock_columns(self) -> tuple[str, ...]:
        """The columns that the lock is made of."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.lock) if name)

    def lock_of(self, row: AnyRow) -> str:
        """Return the name of a row's lock; empty where there is none."""
        return self.lock.format(**{name: getattr(row, name) for name in self.lock_columns})


def row_rules(
    *, lock: str = "", unreadable: Unreadable = "delete row"
) -> dict[str, dict[str, RowRules]]:
    """Declare a table's ``RowRules``: the last item of a model's ``__table_args__``."""
    return {"info": {_RULES: RowRules(lock, unreadable)}}


def tag_of(kind: str) -> dict[str, str]:
    """Declare that a column holds a tag (MAC): the ``info`` of a column.

    Args:
        kind: Whose tag it is; ``Keys`` has the function that tags rows of this kind again.
    """
    return {_TAG: kind}


def tag_kind_of(column: Column[object]) -> str | None:
    """Return whose tag a column holds; None where it isn't declared as a tag."""
    kind: str | None = column.info.get(_TAG)
    return kind
