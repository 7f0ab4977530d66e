"""Encrypt checkpoints, metadata and writes, each bound to its checkpoint key.

A value is bound to thread, namespace, channel and version; a task's write also to task and
checkpoint, with its place among the writes of its call; metadata to its checkpoint. The metadata
includes what LangGraph uses to decide what runs next: parent, versions, and which channels have a
value. Data that was written, moved or changed without the key is refused, and so are the writes of
a checkpoint if some of a call are missing.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol, TypeGuard, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.types import TASKS

from pipelit_agents.checkpoints.serializer import SealedSerializer, refuse_open_secrets
from pipelit_agents.checkpoints.writes import StoredWrite, call_of, require_whole_calls
from pipelit_agents.errors import UnsealError
from pipelit_agents.sealing.purposes import CHECKPOINT_METADATA

__all__ = ["CLEAR_FIELDS", "CheckpointCipher", "as_json", "ids_of"]

# LangGraph writes these fields itself. Savers find by them what to prune, and what to delete of a
# run: PostgresSaver recognizes a DeltaChannel, which it must not prune, by its counters.
CLEAR_FIELDS: Final = ("source", "step", "parents", "run_id", "counters_since_delta_snapshot")
_METADATA_KEY: Final = "pipelit_sealed"
_ROUTING_KEYS: Final = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")
# A checkpoint also has its values, and ``pending_sends``, which savers add when they read.
_DIGEST_FIELDS: Final = ("v", "ts", "id", "channel_versions", "versions_seen", "updated_channels")


class _ReadCheckpoint(Checkpoint, total=False):
    pending_sends: list[object]


class _DeltaSnapshot(Protocol):
    """A complete value of a ``DeltaChannel``; LangGraph has no public name for it."""

    value: object

    def _replace(self, *, value: object) -> _DeltaSnapshot: ...


@dataclass(frozen=True, slots=True)
class CheckpointCipher:
    """Encrypts and decrypts what a checkpointer stores.

    Attributes:
        serializer: Serializes and encrypts the metadata, and makes the tags of values.
        clear: Names of metadata that are also stored in clear.
        mark: Is encrypted with everything, so that ``has_written`` recognizes it.
    """

    serializer: SealedSerializer
    clear: tuple[str, ...]
    mark: str = ""

    def encrypt(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> tuple[RunnableConfig, Checkpoint, CheckpointMetadata]:
        """Encrypt a checkpoint and its metadata, and return the arguments for ``put``.

        Raises:
            SecretLeakError: They contain a secret that is open here.
        """
        refuse_open_secrets([checkpoint["channel_values"], metadata])
        thread, ns, parent = ids_of(config)
        encrypted = cast(_ReadCheckpoint, {**checkpoint})
        versions = checkpoint["channel_versions"]
        encrypted["channel_values"] = values = {
            name: self._boxed(value, [versions.get(name)], "value", thread, ns, name)
            for name, value in checkpoint["channel_values"].items()
        }
        if sends := encrypted.get("pending_sends"):
            encrypted["pending_sends"] = [
                self._boxed(each, [], "write", thread, ns, TASKS) for each in sends
            ]
        # The checkpointer would copy the configuration's configurable and metadata in clear.
        full: dict[str, object] = {**get_checkpoint_metadata(config, metadata)}
        names = sorted(values.keys() & versions.keys())
        kind, token = self.serializer._encrypt(
            [_digest(checkpoint), parent, names, full, self.mark],
            _metadata_purpose(thread, ns, checkpoint["id"]),
        )
        clear: dict[str, object] = {name: full[name] for name in self.clear if name in full}
        clear[_METADATA_KEY] = f"{kind} {token.decode('ascii')}"
        return _routing_config(config), encrypted, cast(CheckpointMetadata, clear)

    def decrypt(self, found: CheckpointTuple) -> CheckpointTuple:
        """Decrypt what was read for a checkpoint.

        Raises:
            UnsealError: It was not written for this checkpoint by a ``SealedSaver``, or was
                changed.
        """
        thread, ns, checkpoint_id = ids_of(found.config)
        digest, parent, names, full, _ = self._decrypted_metadata(found)
        clear: dict[str, object] = dict(found.metadata)
        clear.pop(_METADATA_KEY)
        decrypted = cast(_ReadCheckpoint, {**found.checkpoint})
        versions, values = decrypted["channel_versions"], decrypted["channel_values"]
        # A missing parent is fine, because pruning removes parents. So are additional values: a
        # removed channel, or one that stores changes, keeps the value of an older version.
        if (
            decrypted["id"] != checkpoint_id
            or _digest(decrypted) != digest
            or (found.parent_config and ids_of(found.parent_config)[2] != parent)
            or not values.keys() >= {*names}
            or as_json(clear) != as_json({name: full.get(name) for name in clear})
        ):
            raise UnsealError("the data stored in clear differs from the encrypted copy")
        decrypted["channel_values"] = {
            name: self._unboxed(value, [versions.get(name)], "value", thread, ns, name)
            for name, value in values.items()
        }
        if sends := decrypted.get("pending_sends"):
            decrypted["pending_sends"] = [
                self._unboxed(each, [], "write", thread, ns, TASKS) for each in sends
            ]
        writes = found.pending_writes and [
            (each.task, each.name, each.value) for each in self.decrypt_writes(found)
        ]
        return found._replace(checkpoint=decrypted, metadata=full, pending_writes=writes)

    def has_written(self, found: CheckpointTuple) -> bool:
        """Return whether a checkpoint, its values and its writes have the mark of this cipher.

        Args:
            found: What was read for the checkpoint, which ``decrypt`` has accepted.
        """
        *_, mark = self._decrypted_metadata(found)
        boxes = [*found.checkpoint["channel_values"].values()]
        boxes += [box for _, _, box in found.pending_writes or []]
        return all(each == self.mark for each in (mark, *(_plain(box)[4] for box in boxes)))

    def _decrypted_metadata(self, found: CheckpointTuple) -> Any:
        metadata: Mapping[str, object] = dict(found.metadata)
        kind, _, token = str(metadata.get(_METADATA_KEY, "")).partition(" ")
        if not token:
            raise UnsealError(
                "it was not written by a SealedSaver, or was put there. Start a new thread, or "
                "read it with the checkpointer that wrote it"
            )
        return self.serializer._decrypt(
            (kind, token.encode()), _metadata_purpose(*ids_of(found.config))
        )

    def encrypt_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> tuple[RunnableConfig, Sequence[tuple[str, object]], str, str]:
        """Encrypt a task's writes, and return the arguments for ``put_writes``.

        Raises:
            SecretLeakError: They contain a secret that is open here.
        """
        call = call_of(writes)
        stored = [
            StoredWrite(task_id, task_path, position, call, name, value)
            for position, (name, value) in enumerate(writes)
        ]
        return _routing_config(config), self.encrypt_stored(config, stored), task_id, task_path

    def encrypt_stored(
        self, config: RunnableConfig, writes: Sequence[StoredWrite]
    ) -> list[tuple[str, object]]:
        """Encrypt writes of a checkpoint, each with the place and the call that it had.

        Raises:
            SecretLeakError: As ``encrypt_writes``.
        """
        refuse_open_secrets([(each.name, each.value) for each in writes])
        thread, ns, checkpoint_id = ids_of(config)
        encrypted: list[tuple[str, object]] = []
        for each in writes:
            length, special = each.call
            call = [length, [[*place] for place in special]]
            at = [each.task, checkpoint_id, each.path, each.position, call]
            box = self._boxed(each.value, at, "write", thread, ns, each.name)
            encrypted.append((each.name, box))
        return encrypted

    def decrypt_writes(self, found: CheckpointTuple) -> list[StoredWrite]:
        """Decrypt the writes of a checkpoint, in the order in which tasks are applied.

        Args:
            found: What was read for the checkpoint.

        Raises:
            UnsealError: A write was not encrypted for this checkpoint, or one is missing.
        """
        thread, ns, checkpoint_id = ids_of(found.config)
        writes = self._unboxed_writes(found.pending_writes or [], [checkpoint_id], thread, ns)
        require_whole_calls(writes)
        return writes

    def decrypt_history(
        self, config: RunnableConfig, found: Mapping[str, DeltaChannelHistory]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Decrypt the stored changes of channels.

        Raises:
            UnsealError: A value was not encrypted for this thread and channel.
        """
        thread, ns, _ = ids_of(config)
        decrypted: dict[str, DeltaChannelHistory] = {name: {**each} for name, each in found.items()}
        for name, each in decrypted.items():
            found_here = [(task, name, box) for task, _, box in each["writes"]]
            each["writes"] = [
                (write.task, name, write.value)
                for write in self._unboxed_writes(found_here, [], thread, ns)
            ]
            if "seed" in each:
                each["seed"] = self._unboxed(each["seed"], [], "value", thread, ns, name)
        return decrypted

    def _unboxed_writes(
        self, writes: Iterable[tuple[str, str, object]], at: list[str], thread: str, ns: str
    ) -> list[StoredWrite]:
        opened: dict[tuple[int, tuple[str, str, int]], StoredWrite] = {}
        # The checkpoints of a history are in their order already.
        order: dict[object, int] = {}
        for task, name, box in writes:
            value = self._unboxed(box, [task, *at], "write", thread, ns, name)
            _, checkpoint_id, path, position, (length, special) = _plain(box)[1]
            call = length, tuple((place, number) for place, number in special)
            write = StoredWrite(task, path, position, call, name, value)
            at_checkpoint = order.setdefault(checkpoint_id, len(order))
            key = writes_sort_key(path, task, write.number)
            if (at_checkpoint, key) in opened:
                raise UnsealError(f"a write of {name!r:.80} is stored twice")
            opened[at_checkpoint, key] = write
        return [opened[key] for key in sorted(opened)]

    def _boxed(self, value: object, at: Sequence[object], *key: str) -> object:
        # PostgresSaver recognizes complete values of a DeltaChannel by this type, and keeps them.
        if _is_delta_snapshot(value):
            return value._replace(value=self._boxed(value.value, at, *key))
        # Within a list, a bytearray would be rebuilt as bytes.
        tag = next(self.serializer._tags(*key))
        return [tag, at, value, isinstance(value, bytearray), self.mark]

    def _unboxed(self, box: object, at: Sequence[object], *key: str) -> object:
        if _is_delta_snapshot(box):
            return box._replace(value=self._unboxed(box.value, at, *key))
        # The tag occurs only in encrypted data, so this is no JSON that was written without it.
        if (
            not isinstance(box, list)
            or len(box) != 5
            or not isinstance(box[0], bytes)
            or not any(hmac.compare_digest(tag, box[0]) for tag in self.serializer._tags(*key))
            or box[1][: len(at)] != at
        ):
            raise UnsealError(f"the value of {key[-1]!r:.80} was not encrypted for this checkpoint")
        return bytearray(box[2]) if box[3] else box[2]


def _is_delta_snapshot(value: object) -> TypeGuard[_DeltaSnapshot]:
    return type(value).__name__ == "_DeltaSnapshot"


def _plain(box: Any) -> Any:
    return box.value if _is_delta_snapshot(box) else box


def _routing_config(config: RunnableConfig) -> RunnableConfig:
    configurable = {
        name: value
        for name, value in config["configurable"].items()
        if name in _ROUTING_KEYS or name.startswith("__")
    }
    return {"configurable": configurable}


def ids_of(config: RunnableConfig) -> tuple[str, str, str]:
    """Return the ids of thread, namespace and checkpoint in a configuration."""
    found = config["configurable"]
    ns, checkpoint = found.get("checkpoint_ns"), found.get("checkpoint_id")
    return str(found["thread_id"]), str(ns or ""), str(checkpoint or "")


def _metadata_purpose(*ids: str) -> str:
    return f"{CHECKPOINT_METADATA} {_canonical(ids).decode('ascii')}"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode("ascii")


def _digest(checkpoint: Mapping[str, object]) -> str:
    return sha256(_canonical({name: checkpoint.get(name) for name in _DIGEST_FIELDS})).hexdigest()


def as_json(value: object) -> object:
    """Return a value as it is read back from JSON, in which savers store metadata."""
    return json.loads(_canonical(value))
