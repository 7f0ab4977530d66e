"""Column types: text that is ciphertext in the database, and stays so until somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Dialect, Table, Text, event
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.types import TypeDecorator

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.keyring import Keyring, Sealed

__all__ = ["EncryptedString"]


# SQLAlchemy wraps what is raised while it writes, and then repeats the row's values, the plaintext
# among them, in the message; except where the exception asks it not to.
class _NoKey(ConfigurationError, DontWrapMixin):
    pass


class _NotText(TypeError, DontWrapMixin):
    pass


class EncryptedString(TypeDecorator[Any]):
    """Text sealed at rest under ``FIELD_ENCRYPTION_KEY``, for the models of any application.

    A ``str`` is sealed when the row is written. What is loaded is a :class:`Sealed`, which opens
    with ``value.unseal(keyring)`` and shows nothing before. The place, ``table.column``, is
    authenticated: a ciphertext copied to another column doesn't open. What isn't a ciphertext
    doesn't open either, so plaintext that found its way into the column is never handed out.

    A :class:`Sealed` that is assigned is stored as it is, for places narrower than the column.

    Args:
        keyring: The keyring, or a function that returns it when a row is written. Without one,
            the keyring is read from the environment at that moment, never at import.

    Raises:
        ConfigurationError: On write, when there is no usable key.
        TypeError: On write, when the value is neither ``str``, ``Sealed`` nor None.

    Example:
        ```python
        class Customer(Base):
            __tablename__ = "customers"
            id: Mapped[int] = mapped_column(primary_key=True)
            token: Mapped[Sealed | None] = mapped_column(EncryptedString())
        ```
    """

    impl = Text
    # Two columns' types differ by their place, so compiled statements are cached apart.
    cache_ok = True

    def __init__(
        self, *, keyring: Keyring | Callable[[], Keyring] | None = None, place: str = ""
    ) -> None:
        super().__init__()
        self.keyring = keyring
        self.place = place

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Seals a value that is about to be written."""
        if value is None:
            return None
        if isinstance(value, Sealed):
            return value.token
        if not isinstance(value, str):
            raise _NotText(
                f"{self.place or 'EncryptedString'} takes str, Sealed or None, "
                f"not {type(value).__name__}"
            )
        if not self.place:
            raise _NotText("EncryptedString has to belong to a table's column to seal a value")
        try:
            return self._keyring().seal(value, self.place)
        except ConfigurationError as error:
            raise _NoKey(str(error)) from None
        except UnicodeEncodeError:
            raise _NotText(f"{self.place}: text with a lone surrogate can't be stored") from None

    def process_result_value(self, value: Any, dialect: Dialect) -> Sealed | None:
        """Wraps a loaded ciphertext; nothing is decrypted here."""
        return None if value is None else Sealed(value, self.place)

    def process_literal_param(self, value: Any, dialect: Dialect) -> str:
        """Refuses: a literal would put a value into the text of a statement."""
        raise TypeError("an EncryptedString is never rendered as a literal")

    def _keyring(self) -> Keyring:
        if isinstance(self.keyring, Keyring):
            return self.keyring
        if self.keyring is not None:
            return self.keyring()
        from pipelit_agents.settings import Settings

        return Settings.read().keyring()


@event.listens_for(Column, "after_parent_attach")
def _learn_the_place(column: Column[Any], parent: Any) -> None:
    # A type instance may be shared by columns (mixins), so each column gets its own.
    if isinstance(column.type, EncryptedString) and isinstance(parent, Table):
        column.type = EncryptedString(
            keyring=column.type.keyring, place=f"{parent.name}.{column.name}"
        )
