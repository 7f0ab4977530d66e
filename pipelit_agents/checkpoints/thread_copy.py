"""Copy a thread: decrypt it as its own, and encrypt it again for another one.

A ciphertext is bound to its thread, so copied rows would not open.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
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

from pipelit_agents.checkpoints.cipher import CheckpointCipher, ids_of
from pipelit_agents.checkpoints.writes import StoredWrite
from pipelit_agents.errors import UnsealError

__all__ = ["ThreadCopy"]

Put: TypeAlias = tuple[RunnableConfig, Checkpoint, CheckpointMetadata, ChannelVersions]
PutWrites: TypeAlias = tuple[RunnableConfig, Sequence[tuple[str, object]], str, str]
# The namespace and id of a checkpoint, and the task and number of a write, or "" and 0.
Row: TypeAlias = tuple[str, str, str, int]


class ThreadCopy:
    """Make the arguments that store the checkpoints of a thread in another one.

    All that it encrypts has a mark. Savers have no transactions, so somebody else may write to the
    new thread at the same time; by the mark, the copy recognizes its own rows.

    Args:
        cipher: Decrypts and encrypts.
        target: The other thread.
    """

    def __init__(self, cipher: CheckpointCipher, target: str) -> None:
        self._cipher = replace(cipher, mark=secrets.token_hex(8))
        self._target = target
        self._stored: set[tuple[str, str, object]] = set()
        self._rows: set[Row] = set()

    @property
    def has_begun(self) -> bool:
        """Whether something may have been written."""
        return bool(self._rows)

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
        stored = self._cipher.decrypt_writes(found)
        self._rows |= _rows(ns, checkpoint_id, stored)
        writes: list[PutWrites] = [
            (config, self._cipher.encrypt_stored(config, call), call[-1].task, call[-1].path)
            for call in _calls(stored)
        ]
        return (*encrypted, versions), writes

    def own_rows(self, found: CheckpointTuple) -> set[Row] | None:
        """Return the rows of a checkpoint of the new thread, or None if some aren't of this copy.

        Args:
            found: The checkpoint as the saver below has read it.

        Raises:
            UnsealError: Some can't be decrypted, or are missing.
        """
        self._cipher.decrypt(found)
        if not self._cipher.has_written(found):
            return None
        _, ns, checkpoint_id = ids_of(found.config)
        return _rows(ns, checkpoint_id, self._cipher.decrypt_writes(found))

    def require_only(self, found: Iterable[set[Row] | None], *, all_of_it: bool = False) -> None:
        """Require that nobody else has written to the new thread.

        Args:
            found: The rows of each of its checkpoints, as ``own_rows`` returns them.
            all_of_it: Also require that everything that was encrypted so far is there.

        Raises:
            ValueError: Somebody has.
            UnsealError: Something is missing.
        """
        rows: set[Row] = set()
        for each in found:
            if each is None:
                raise ValueError(
                    f"target_thread_id {self._target!r:.80} was written to by somebody else while "
                    "the copy was being made: copy to the id of a thread that nobody uses yet"
                )
            rows |= each
        if all_of_it and rows != self._rows:
            raise UnsealError(
                f"a part of the copy is missing in thread {self._target!r:.80}: it was deleted or "
                "replaced meanwhile, or rows of others were in its place"
            )


def _rows(ns: str, checkpoint_id: str, writes: Iterable[StoredWrite]) -> set[Row]:
    rows: set[Row] = {(ns, checkpoint_id, each.task, each.number) for each in writes}
    return rows | {(ns, checkpoint_id, "", 0)}


def _config(thread: str, ns: str, checkpoint_id: str | None) -> RunnableConfig:
    found = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": found | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


def _calls(writes: Iterable[StoredWrite]) -> Iterator[list[StoredWrite]]:
    """Yield writes in calls that give each row the number that it had.

    A saver numbers the writes of a call. Special ones have a number of their own, and take one of
    the others' all the same. What is stored already stays, so it may fill a gap.
    """
    by_task: dict[str, list[StoredWrite]] = {}
    for each in writes:
        by_task.setdefault(each.task, []).append(each)
    for found in by_task.values():
        special = [each for each in found if each.name in WRITES_IDX_MAP]
        for _, group in groupby(special, lambda each: each.path):
            yield [*group]
        others = {each.position: each for each in found if each.name not in WRITES_IDX_MAP}
        call: list[StoredWrite] = []
        for position in range(max(others, default=-1) + 1):
            each = others.get(position) or special[0]
            if position in others and call and call[-1].path != each.path:
                yield [*call]
            call.append(each)
        if call:
            yield call
