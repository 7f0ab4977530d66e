"""A LangGraph serializer that encrypts what it serializes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from pipelit_agents.credentials.scope import current_scope
from pipelit_agents.errors import UnsealError
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import CHECKPOINT_BOX, CHECKPOINT_VALUE, CHECKPOINTS

__all__ = ["SealedSerializer"]

_KIND_SUFFIX: Final = "+pipelit"
_DOES_NOT_DECRYPT: Final = (
    "the encrypted data can't be decrypted: it was changed or moved, or its key isn't in "
    "FIELD_ENCRYPTION_KEY any more. Keep an old key there, behind the newest, until the threads "
    "that it encrypted are deleted"
)


class SealedSerializer(JsonPlusSerializer):
    """LangGraph's serializer, with Fernet encryption of its output.

    The kind of a value is authenticated with it. Data that was written in clear, by another cipher,
    or under a key that isn't in the keyring any more, is refused. The serializer works with every
    checkpointer that takes ``serde``, also under ``LANGGRAPH_STRICT_MSGPACK``.

    Args:
        keyring: Encrypts under its first key and decrypts under all of them; or a function that
            returns the keyring, called on first use.
        require_fitting: Called before a value is encrypted, to require that the keys fit the
            database of a ``Pipelit``. It waits for that database, so it isn't called on an event
            loop: an asynchronous checkpointer needs a ``SealedSaver`` for that.
        options: Keyword arguments for ``JsonPlusSerializer``.
    """

    def __init__(
        self,
        keyring: Keyring | Callable[[], Keyring],
        *,
        require_fitting: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._require_fitting = require_fitting
        self._keyring = keyring
        self._derived: Keyring | None = None

    @classmethod
    def over(
        cls, serde: SerializerProtocol, keyring: Keyring | Callable[[], Keyring]
    ) -> SealedSerializer:
        """Return a serializer that allows the same types as another one.

        Args:
            serde: A ``JsonPlusSerializer``, whose allow-lists are kept; or an
                ``EncryptedSerializer`` around one, whose cipher is not used.
            keyring: As for the constructor.

        Raises:
            TypeError: ``serde`` is of another type, or a subclass that overrides serialization.
        """
        if isinstance(serde, SealedSerializer):
            if serde._keyring == keyring and serde._require_fitting is None:
                return serde
            made = copy(serde)
            made._keyring, made._derived, made._require_fitting = keyring, None, None
            return made
        if isinstance(serde, EncryptedSerializer):
            return cls.over(serde.serde, keyring)
        # Methods set on the instance count too: they would be copied, and bypass the encryption.
        if not isinstance(serde, JsonPlusSerializer) or any(
            getattr(getattr(serde, name), "__func__", None) is not getattr(JsonPlusSerializer, name)
            for name in ("dumps_typed", "loads_typed")
        ):
            raise TypeError(
                f"{type(serde).__name__} overrides serialization, which would be lost under the "
                "encryption: give the checkpointer a JsonPlusSerializer, and use state types that "
                "it can serialize"
            )
        made = cls(keyring)
        vars(made).update(vars(serde))
        return made

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Serialize and encrypt a value.

        Raises:
            ConfigurationError: The newest key isn't the one of the database.
        """
        if self._require_fitting is not None and not _is_on_event_loop():
            self._require_fitting()
        return self._encrypt(obj, CHECKPOINT_VALUE)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decrypt and rebuild a value.

        Raises:
            UnsealError: The value was written in clear, by another cipher or under another key,
                or was changed.
        """
        return self._decrypt(data, CHECKPOINT_VALUE)

    def _encrypt(self, obj: object, purpose: str) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind + _KIND_SUFFIX, self._keys().seal(data, f"{purpose}:{kind}").encode("ascii")

    def _decrypt(self, data: tuple[str, bytes], purpose: str) -> Any:
        kind, token = data
        if not isinstance(kind, str) or not kind.endswith(_KIND_SUFFIX):
            raise UnsealError(
                f"a checkpoint contains a value of kind {kind!r:.40} that is not encrypted: it was "
                "written without this serializer, or put there. Start a new thread, or read the "
                "old ones with the serializer that wrote them"
            )
        # SQLite may return a number from any column, and bytes(number) would be that many zeros.
        if not isinstance(token, bytes | bytearray | memoryview):
            raise UnsealError(_DOES_NOT_DECRYPT)
        kind, text = kind.removesuffix(_KIND_SUFFIX), bytes(token).decode("ascii", "replace")
        try:
            plain = self._keys().unseal(text, f"{purpose}:{kind}")
        except UnsealError:
            raise UnsealError(_DOES_NOT_DECRYPT) from None
        return super().loads_typed((kind, plain))

    def _tags(self, *key: str) -> Iterator[bytes]:
        """Yield the tag that binds a value to its checkpoint key, under each encryption key."""
        tags = self._keys().macs(CHECKPOINT_BOX, *(each.encode() for each in key))
        return (tag.encode() for tag in tags)

    def _keys(self) -> Keyring:
        if self._derived is None:
            keyring = self._keyring if isinstance(self._keyring, Keyring) else self._keyring()
            self._derived = keyring.derive(CHECKPOINTS)
        return self._derived

    def __repr__(self) -> str:
        return "SealedSerializer()"


def _is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_open_secrets(values: object) -> None:
    """Raise ``SecretLeakError`` if values to save contain a secret that is open here."""
    # A node that updates a graph's state directly bypasses the guards around the node.
    if (scope := current_scope()) is not None:
        scope.search(values, "the state that the node saves")
