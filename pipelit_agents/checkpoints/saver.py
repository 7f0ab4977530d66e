"""Encrypt checkpoints under keys derived from ``FIELD_ENCRYPTION_KEY``.

The serializer encrypts what a checkpointer passes to it, and authenticates only the kind of a
value: such a value can be moved to any position of the same kind. The saver also encrypts what
checkpointers write without their serializer (metadata, and the plain values that PostgresSaver
stores as JSON). It binds everything to its checkpoint key: a value to thread, namespace, channel
and version; a task's write also to task and checkpoint; metadata to its checkpoint. The metadata
includes what LangGraph uses to decide what runs next: parent, versions, and which channels have a
value. Data that was written, moved or changed without the key is refused.

These stay in clear: the ids of threads, checkpoints and tasks, the names of nodes and channels,
versions, times and sizes. An attacker who can write to the database can still:

- Delete rows. Without its newest checkpoints, a thread continues from an older one; without its
  writes, a task runs again; without a parent, a ``DeltaChannel`` starts empty.
- Restore an earlier version of a row at the same position, for example an earlier answer of the
  same task in the same checkpoint.
- Change the order of writes in one checkpoint, and move a ``DeltaChannel``'s own changes and
  earlier values between the checkpoints of a thread.
- Change what ``list(filter=...)`` finds. It filters by copies in clear, which are never returned.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from hashlib import sha256
from typing import Any, Final, NoReturn

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.types import TASKS

from pipelit_agents.checkpoints.serializer import SealedSerializer, refuse_open_secrets
from pipelit_agents.errors import ConfigurationError, UnsealError
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import CHECKPOINT_METADATA

__all__ = ["SealedSaver"]
_METADATA_KEY: Final = "pipelit_sealed"
# LangGraph writes and reads these fields of the metadata itself.
_CLEAR_FIELDS: Final = ("source", "step", "parents", "run_id", "counters_since_delta_snapshot")
_ROUTING_KEYS: Final = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")
# A checkpoint also has its values, and ``pending_sends``, which savers add when they read.
_DIGEST_FIELDS: Final = ("v", "ts", "id", "channel_versions", "versions_seen", "updated_channels")


class SealedSaver(BaseCheckpointSaver[Any]):
    """A checkpointer that encrypts state and metadata, and stores them through another one.

    It reads only data that a ``SealedSaver`` has written for this thread, checkpoint and channel.
    So a thread can't be copied to another id; otherwise one thread could continue with what was
    approved in another. Further methods, such as ``setup``, come from the other checkpointer.

    Stored data is never encrypted again under a newer key, because checkpointers don't rewrite
    stored values and writes. Keep an old key in ``FIELD_ENCRYPTION_KEY``, behind the newest, until
    the threads that it encrypted are deleted.

    Args:
        saver: Any checkpointer. It isn't changed: a copy of it that shares its connection is used.
            If it is a ``SealedSaver`` already, only the keyring changes.
        keyring: As for ``SealedSerializer``.
        clear_metadata: Names of metadata to also store in clear, so that ``list`` can filter by it.

    Example:
        ```python
        with PostgresSaver.from_conn_string(url) as saver:
            graph = builder.compile(checkpointer=pipelit.sealed_saver(saver))
        ```
    """

    def __init__(
        self,
        saver: BaseCheckpointSaver[Any],
        keyring: Keyring | Callable[[], Keyring],
        *,
        clear_metadata: Sequence[str] = (),
    ) -> None:
        clear = (*_CLEAR_FIELDS, *clear_metadata)
        if not isinstance(saver, BaseCheckpointSaver):
            raise TypeError(
                "saver must be a checkpointer, for example SqliteSaver(connection), not "
                f"{saver!r:.80}"
            )
        if isinstance(saver, SealedSaver):
            clear, saver = (*saver._clear, *clear_metadata), saver._saver
        serde = SealedSerializer.over(saver.serde, keyring)
        super().__init__(serde=serde)
        self._clear: tuple[str, ...] = clear
        self._use(copy(saver), serde)

    def _use(self, saver: BaseCheckpointSaver[Any], serde: Any) -> None:
        self._saver = saver
        self._saver.serde = self.serde = self._encrypting = serde

    def __getattr__(self, name: str) -> Any:
        # While a copy is being made, _saver isn't set yet.
        if name == "_saver":
            raise AttributeError(name)
        return getattr(self._saver, name)

    @property
    def config_specs(self) -> list[Any]:
        """The configuration options of the other checkpointer."""
        return self._saver.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        """Return the next version of a channel, as the other checkpointer does."""
        return self._saver.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> SealedSaver:
        """Return a copy that may rebuild more types, like any checkpointer."""
        made = copy(self)
        saver = self._saver.with_allowlist(extra_allowlist)
        made._use(saver, saver.serde)
        return made

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write a checkpoint."""
        return self._saver.put(*self._encrypted(config, checkpoint, metadata), new_versions)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As :meth:`put`."""
        return await self._saver.aput(*self._encrypted(config, checkpoint, metadata), new_versions)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task has written so far."""
        self._saver.put_writes(*self._encrypted_writes(config, writes, task_id), task_id, task_path)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As :meth:`put_writes`."""
        await self._saver.aput_writes(
            *self._encrypted_writes(config, writes, task_id), task_id, task_path
        )

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a checkpoint.

        Raises:
            UnsealError: The checkpoint was not written by a ``SealedSaver`` for this thread and
                id, or can't be decrypted.
        """
        with _reading([_description(config)]):
            found = self._saver.get_tuple(config)
            return found and self._decrypted(found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As :meth:`get_tuple`."""
        with _reading([_description(config)]):
            found = await self._saver.aget_tuple(config)
            return found and self._decrypted(found)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the base class calls it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Read checkpoints.

        Raises:
            ConfigurationError: The filter names metadata that is encrypted.
            UnsealError: As :meth:`get_tuple`.
        """
        self._require_clear(filter)
        return self._decrypted_list(
            self._saver.list(config, filter=filter, before=before, limit=limit)
        )

    def _decrypted_list(self, found: Iterator[CheckpointTuple]) -> Iterator[CheckpointTuple]:
        # SqliteSaver holds its lock and two cursors until its list is closed. After an error here,
        # only the garbage collector would close it, and other threads would wait for the lock.
        with _closing(found), _reading(where := ["the first checkpoint of the list"]):
            for each in found:
                where[0] = _description(each.config)
                yield self._decrypted(each)
                where[0] = f"the checkpoint that is listed after {where[0]}"

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the base class calls it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As :meth:`list`."""
        self._require_clear(filter)
        found = self._saver.alist(config, filter=filter, before=before, limit=limit)
        async with _aclosing(found):
            with _reading(where := ["the first checkpoint of the list"]):
                async for each in found:
                    where[0] = _description(each.config)
                    yield self._decrypted(each)
                    where[0] = f"the checkpoint that is listed after {where[0]}"

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return the stored changes of channels, like any checkpointer."""
        with _reading([_description(config)]):
            found = self._saver.get_delta_channel_history(config=config, channels=channels)
            return self._decrypted_history(config, found)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As :meth:`get_delta_channel_history`."""
        with _reading([_description(config)]):
            found = await self._saver.aget_delta_channel_history(config=config, channels=channels)
            return self._decrypted_history(config, found)

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread."""
        self._saver.delete_thread(thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        """As :meth:`delete_thread`."""
        await self._saver.adelete_thread(thread_id)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what runs have written."""
        self._saver.delete_for_runs(run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As :meth:`delete_for_runs`."""
        await self._saver.adelete_for_runs(run_ids)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> NoReturn:
        """Refuse to copy a thread, because encrypted data is bound to its thread.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "encrypted checkpoints are bound to their thread: read the state with get_state, and "
            "write it into the new thread with update_state"
        )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> NoReturn:
        """As :meth:`copy_thread`."""
        self.copy_thread(source_thread_id, target_thread_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete older checkpoints."""
        self._saver.prune(thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As :meth:`prune`."""
        await self._saver.aprune(thread_ids, strategy=strategy)

    def _encrypted(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> tuple[RunnableConfig, Checkpoint, CheckpointMetadata]:
        refuse_open_secrets([checkpoint["channel_values"], metadata])
        thread, ns, parent = _ids(config)
        encrypted: Any = {**checkpoint}
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
        full: dict[str, Any] = {**get_checkpoint_metadata(config, metadata)}
        names = sorted(values.keys() & versions.keys())
        kind, token = self._encrypting._encrypt(
            [_digest(checkpoint), parent, names, full],
            _metadata_purpose(thread, ns, checkpoint["id"]),
        )
        clear: Any = {name: full[name] for name in self._clear if name in full}
        clear[_METADATA_KEY] = f"{kind} {token.decode('ascii')}"
        return _routing_config(config), encrypted, clear

    def _decrypted(self, found: CheckpointTuple) -> CheckpointTuple:
        thread, ns, checkpoint_id = _ids(found.config)
        clear: Any = dict(found.metadata)
        kind, _, token = str(clear.pop(_METADATA_KEY, "")).partition(" ")
        if not token:
            raise UnsealError(
                "it was not written by a SealedSaver, or was put there. Start a new thread, or "
                "read it with the checkpointer that wrote it"
            )
        digest, parent, names, full = self._encrypting._decrypt(
            (kind, token.encode()), _metadata_purpose(thread, ns, checkpoint_id)
        )
        decrypted: Any = {**found.checkpoint}
        versions, values = decrypted["channel_versions"], decrypted["channel_values"]
        # A missing parent is fine, because pruning removes parents. So are additional values: a
        # removed channel, or one that stores changes, keeps the value of an older version.
        if (
            decrypted["id"] != checkpoint_id
            or _digest(decrypted) != digest
            or (found.parent_config and _ids(found.parent_config)[2] != parent)
            or not values.keys() >= {*names}
            or _as_json(clear) != _as_json({name: full.get(name) for name in clear})
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
            (task, name, self._unboxed(value, [task, checkpoint_id], "write", thread, ns, name))
            for task, name, value in found.pending_writes
        ]
        return found._replace(checkpoint=decrypted, metadata=full, pending_writes=writes)

    def _encrypted_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str
    ) -> tuple[RunnableConfig, Sequence[tuple[str, Any]]]:
        refuse_open_secrets(writes)
        thread, ns, checkpoint_id = _ids(config)
        return _routing_config(config), [
            (name, self._boxed(value, [task_id, checkpoint_id], "write", thread, ns, name))
            for name, value in writes
        ]

    def _decrypted_history(
        self, config: RunnableConfig, found: Mapping[str, DeltaChannelHistory]
    ) -> Mapping[str, DeltaChannelHistory]:
        thread, ns, _ = _ids(config)
        decrypted: dict[str, Any] = {name: {**each} for name, each in found.items()}
        for name, each in decrypted.items():
            each["writes"] = [
                (task, name, self._unboxed(value, [task], "write", thread, ns, name))
                for task, _, value in each["writes"]
            ]
            if "seed" in each:
                each["seed"] = self._unboxed(each["seed"], [], "value", thread, ns, name)
        return decrypted

    def _boxed(self, value: Any, at: Sequence[Any], *key: str) -> Any:
        # PostgresSaver recognizes complete values of a DeltaChannel by this type, and keeps them.
        if type(value).__name__ == "_DeltaSnapshot":
            return value._replace(value=self._boxed(value.value, at, *key))
        # Within a list, a bytearray would be rebuilt as bytes.
        return [next(self._encrypting._tags(*key)), at, value, isinstance(value, bytearray)]

    def _unboxed(self, box: Any, at: Sequence[Any], *key: str) -> Any:
        if type(box).__name__ == "_DeltaSnapshot":
            return box._replace(value=self._unboxed(box.value, at, *key))
        # The tag occurs only in encrypted data, so this is no JSON that was written without it.
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not isinstance(box[0], bytes)
            or not any(hmac.compare_digest(tag, box[0]) for tag in self._encrypting._tags(*key))
            or box[1][: len(at)] != at
        ):
            raise UnsealError(f"the value of {key[-1]!r:.80} was not encrypted for this checkpoint")
        return bytearray(box[2]) if box[3] else box[2]

    def _require_clear(self, wanted: Mapping[str, Any] | None) -> None:
        for name in (wanted or {}).keys() - {*self._clear}:
            raise ConfigurationError(
                f"checkpoints can't be filtered by {name!r}: it is encrypted. Add it to "
                "clear_metadata of the SealedSaver, for checkpoints written from then on"
            )


def _routing_config(config: RunnableConfig) -> RunnableConfig:
    configurable = {
        name: value
        for name, value in config["configurable"].items()
        if name in _ROUTING_KEYS or name.startswith("__")
    }
    return {"configurable": configurable}


def _ids(config: RunnableConfig) -> tuple[str, str, str]:
    found = config["configurable"]
    ns, checkpoint = found.get("checkpoint_ns"), found.get("checkpoint_id")
    return str(found["thread_id"]), str(ns or ""), str(checkpoint or "")


def _description(config: RunnableConfig) -> str:
    thread, _, checkpoint = _ids(config)
    which = f"checkpoint {checkpoint!r:.80}" if checkpoint else "the newest checkpoint"
    return f"{which} of thread {thread!r:.80}"


def _metadata_purpose(*ids: str) -> str:
    return f"{CHECKPOINT_METADATA} {_canonical(ids).decode('ascii')}"


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode("ascii")


def _digest(checkpoint: Mapping[str, Any]) -> str:
    return sha256(_canonical({name: checkpoint.get(name) for name in _DIGEST_FIELDS})).hexdigest()


def _as_json(value: Any) -> Any:
    return json.loads(_canonical(value))


@contextmanager
def _closing(found: Iterator[Any]) -> Iterator[None]:
    """Close an iterator at the end if it is a generator; a saver may return any iterator."""
    try:
        yield
    finally:
        if isinstance(found, Generator):
            found.close()


@asynccontextmanager
async def _aclosing(found: AsyncIterator[Any]) -> AsyncIterator[None]:
    """As :func:`_closing`."""
    try:
        yield
    finally:
        if isinstance(found, AsyncGenerator):
            await found.aclose()


@contextmanager
def _reading(where: list[str]) -> Iterator[None]:
    """Name the checkpoint in errors: ``where[0]``, in its state when the error occurs."""
    try:
        yield
    except UnsealError as error:
        raise UnsealError(f"{where[0]}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UnsealError(f"{where[0]} is malformed ({type(error).__name__})") from error
