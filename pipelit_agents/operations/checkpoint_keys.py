"""How many values of a checkpointer need an older key."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing.keyring import Keyring

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

__all__ = ["count_older_values"]


class _CountingKeyring(Keyring):
    """A keyring that counts the values that it decrypts with an older key."""

    __slots__ = ("older",)
    older: list[int]

    @classmethod
    def of(cls, keyring: Keyring, older: list[int]) -> _CountingKeyring:
        made = cls.__new__(cls)
        for name in Keyring.__slots__:
            setattr(made, name, getattr(keyring, name))
        made.older = older
        return made

    def unseal(self, token: str, purpose: str) -> bytes:
        plain = super().unseal(token, purpose)
        self.older[0] += not self.is_newest(token)
        return plain

    def derive(self, label: str) -> Keyring:
        return _CountingKeyring.of(super().derive(label), self.older)


def count_older_values(saver: BaseCheckpointSaver[Any], keyring: Keyring) -> int:
    """Read all checkpoints of a checkpointer, and count the values that are under an older key.

    Args:
        saver: A checkpointer that was written to through ``sealed_saver`` or
            ``checkpoint_serializer``; it isn't changed.
        keyring: The keys.

    Raises:
        ConfigurationError: LangGraph isn't installed.
        UnsealError: A checkpoint isn't encrypted, or no key decrypts it.
    """
    try:
        from pipelit_agents.checkpoints.saver import SealedSaver
        from pipelit_agents.checkpoints.serializer import SealedSerializer
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"checkpoints need LangGraph ({error})") from None
    older = [0]
    counting = _CountingKeyring.of(keyring, older)
    if isinstance(saver, SealedSaver):
        saver = saver._saver
    reading: BaseCheckpointSaver[Any]
    if isinstance(saver.serde, SealedSerializer):
        # Only its values are encrypted. The copy shares what the checkpointer has stored.
        reading = copy(saver)
        reading.serde = SealedSerializer.over(saver.serde, counting)
    else:
        reading = SealedSaver(saver, counting)
    for _ in reading.list(None):
        pass
    return older[0]
