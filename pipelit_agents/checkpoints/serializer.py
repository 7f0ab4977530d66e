"""A LangGraph serializer that encrypts what it serializes."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Iterator,
)
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

_MARK: Final = "+pipelit"
_SHUT: Final = (
    "what is sealed does not open: it was changed or moved, or its key isn't in "
    "FIELD_ENCRYPTION_KEY any more. An old key stays there, behind the newest, until the threads "
    "that it sealed are deleted"
)


class SealedSerializer(JsonPlusSerializer):
    """LangGraph's serializer, with Fernet around what it writes.

    The kind of a value is authenticated with it. What was written in clear, by another cipher,
    or under a key that isn't in the keyring any more, is refused. It works for every checkpointer
    that takes ``serde``, also under ``LANGGRAPH_STRICT_MSGPACK``.

    Args:
        keyring: Seals under its first key and opens under all; or what returns it, called when
            it is needed.
        options: As for ``JsonPlusSerializer``.
    """

    def __init__(self, keyring: Keyring | Callable[[], Keyring], **options: Any) -> None:
        super().__init__(**options)
        self._keyring = keyring
        self._derived: Keyring | None = None

    @classmethod
    def over(
        cls, serde: SerializerProtocol, keyring: Keyring | Callable[[], Keyring]
    ) -> SealedSerializer:
        """A serializer that allows the types that another one allows.

        Args:
            serde: A ``JsonPlusSerializer``, whose allow-lists are kept, or an
                ``EncryptedSerializer`` around one, whose cipher is not.
            keyring: As for the constructor.

        Raises:
            TypeError: It is another one, or a subclass that serializes in a way of its own.
        """
        if isinstance(serde, SealedSerializer):
            if serde._keyring == keyring:
                return serde
            made = copy(serde)
            made._keyring, made._derived = keyring, None
            return made
        if isinstance(serde, EncryptedSerializer):
            return cls.over(serde.serde, keyring)
        # Also what was set on the instance: it would come along, and take the seal's place.
        if not isinstance(serde, JsonPlusSerializer) or any(
            getattr(getattr(serde, name), "__func__", None) is not getattr(JsonPlusSerializer, name)
            for name in ("dumps_typed", "loads_typed")
        ):
            raise TypeError(
                f"{type(serde).__name__} serializes in a way of its own, which would be lost under "
                "the seal: give the checkpointer a JsonPlusSerializer, and the state types that it "
                "can write"
            )
        made = cls(keyring)
        vars(made).update(vars(serde))
        return made

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Serializes and encrypts a value."""
        return self._seal(obj, CHECKPOINT_VALUE)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decrypts and rebuilds a value.

        Raises:
            UnsealError: It was written in clear or by another cipher, under another key, or was
                changed.
        """
        return self._unseal(data, CHECKPOINT_VALUE)

    def _seal(self, obj: Any, purpose: str) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind + _MARK, self._keys().seal(data, f"{purpose}:{kind}").encode("ascii")

    def _unseal(self, data: tuple[str, bytes], purpose: str) -> Any:
        kind, token = data
        if not isinstance(kind, str) or not kind.endswith(_MARK):
            raise UnsealError(
                f"a checkpoint holds a value of kind {kind!r:.40} that was not sealed: it was "
                "written without this serializer, or put there. Start a new thread, or read the "
                "old ones with the serializer that wrote them"
            )
        # SQLite gives what a column holds, and bytes(number) would be that many zeros.
        if not isinstance(token, bytes | bytearray | memoryview):
            raise UnsealError(_SHUT)
        kind, text = kind.removesuffix(_MARK), bytes(token).decode("ascii", "replace")
        try:
            plain = self._keys().unseal(text, f"{purpose}:{kind}")
        except UnsealError:
            raise UnsealError(_SHUT) from None
        return super().loads_typed((kind, plain))

    def _tags(self, *place: str) -> Iterator[bytes]:
        """What stands in a box for this place, under each of the keys."""
        tags = self._keys().macs(CHECKPOINT_BOX, *(each.encode() for each in place))
        return (tag.encode() for tag in tags)

    def _keys(self) -> Keyring:
        if self._derived is None:
            keyring = self._keyring if isinstance(self._keyring, Keyring) else self._keyring()
            self._derived = keyring.derive(CHECKPOINTS)
        return self._derived

    def __repr__(self) -> str:
        return "SealedSerializer()"


def refuse_open_secrets(values: Any) -> None:
    # A node that updates a graph's state by itself saves past the node's own guards.
    if (scope := current_scope()) is not None:
        scope.check(values, "what the node saves")
