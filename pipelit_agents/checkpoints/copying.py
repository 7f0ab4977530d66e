"""Copy a thread: decrypt it as its own, and encrypt it again for another one.

A ciphertext is bound to its thread, so copied rows would not open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from pipelit_agents.checkpoints.cipher import CheckpointCipher, StoredWrite, ids_of

__all__ = ["ThreadCopy"]

Put: TypeAlias = tuple[RunnableConfig, Checkpoint, CheckpointMetadata, ChannelVersions]
PutWrites: TypeAlias = tuple[RunnableConfig, Sequence[tuple[str, object]], str, str]


class ThreadCopy:
    """Make the arguments that store the checkpoints of a thread in another one.

    Args:
        cipher: Decrypts and encrypts.
        target: The other thread.
    """

    def __init__(self, cipher: CheckpointCipher, target: str) -> None:
        self._cipher = cipher
        self._target = target
        self._stored: set[tuple[str, str, object]] = set()

    def calls(self, found: CheckpointTuple) -> tuple[Put, list[PutWrites]]:
        """Return the arguments of ``put`` and of each ``put_writes`` for a checkpoint.

        Args:
            found: The checkpoint as the saver below has read it. Older ones come first.

        Raises:
            UnsealError: It was not written for its thread.
        """
        opened = self._cipher.decrypt(found)
        _, ns, checkpoint_id = ids_of(opened.config)
        parent = ids_of(opened.parent_config)[2] if opened.parent_config else None
        versions: ChannelVersions = {
            name: version
            for name, version in opened.checkpoint["channel_versions"].items()
            if (ns, name, version) not in self._stored
        }
        self._stored.update((ns, name, version) for name, version in versions.items())
        encrypted = self._cipher.encrypt(
            _config(self._target, ns, parent), opened.checkpoint, opened.metadata
        )
        config = _config(self._target, ns, checkpoint_id)
        writes = [
            self._cipher.encrypt_writes(config, call, task, path)
            for task, path, call in _calls(self._cipher.decrypt_writes(found))
        ]
        return (*encrypted, versions), writes


def _config(thread: str, ns: str, checkpoint_id: str | None) -> RunnableConfig:
    found = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": found | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


def _calls(
    writes: Iterable[StoredWrite],
) -> Iterator[tuple[str, str, list[tuple[str, object]]]]:
    """Yield a task, its path and writes, in calls that give each write the number that it had.

    A saver numbers the writes of a call. Special ones have a number of their own, and take one of
    the others' all the same.
    """
    for (task, path), group in groupby(writes, lambda each: (each.task, each.path)):
        found = [*group]
        call = {each.position: each for each in found if each.name not in WRITES_IDX_MAP}
        last, apart = max(call, default=-1), []
        for each in found:
            if each.name in WRITES_IDX_MAP:
                if each.position < last and each.position not in call:
                    call[each.position] = each
                else:
                    apart.append(each)
        for part in (apart, [call[position] for position in sorted(call)]):
            if part:
                yield task, path, [(each.name, each.value) for each in part]
