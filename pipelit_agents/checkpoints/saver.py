"""Checkpoints at rest: encrypted under keys of their own, derived from ``FIELD_ENCRYPTION_KEY``.

The serializer encrypts what a checkpointer gives it, and knows no more of it than its kind: what
it alone has sealed opens in every place of that kind. The saver also closes what checkpointers
write past their serializer (metadata, and the plain values that PostgresSaver keeps as JSON), and
binds all to its place: a value to thread, namespace, channel and version; a task's write to task
and checkpoint too; metadata to its checkpoint. Sealed with the metadata is what LangGraph decides
by what runs next: parent, versions, and which channels have a value. What was written, moved or
changed without the key is refused.

In clear stay the ids of threads, checkpoints and tasks, the names of nodes and channels, versions,
times and sizes. Not promised, against whoever can write to the database:

- Deleted rows aren't missed. Without its newest checkpoints a thread goes on from an older one;
  without its writes a task runs again; without a parent a ``DeltaChannel`` starts empty.
- A row that is put back as it once was, into its own place, opens: for example an earlier answer
  of the same task in the same checkpoint.
- The order of writes in one checkpoint, and which of a ``DeltaChannel``'s own changes and earlier
  values stand in which of the thread's checkpoints, are believed.
- What ``list(filter=...)`` finds is decided by copies in clear, which are never returned.
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
_SEALED: Final = "pipelit_sealed"
# What LangGraph itself reads from metadata without having written it into the state.
_CLEAR: Final = ("source", "step", "parents", "run_id", "counters_since_delta_snapshot")
_ROUTING: Final = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")
# The rest of a checkpoint is its values, and ``pending_sends``, which savers add when they read.
_DIGESTED: Final = ("v", "ts", "id", "channel_versions", "versions_seen", "updated_channels")


class SealedSaver(BaseCheckpointSaver[Any]):
    """A checkpointer that writes state and metadata encrypted, through another one.

    What it reads must have been written by a ``SealedSaver``, for this thread, checkpoint and
    channel. So a thread can't be copied to another id: one could be continued with what was
    approved in the other. Further methods, such as ``setup``, are the other one's.

    What a key has sealed is never sealed again under a newer one: checkpointers don't write again
    the values and writes that they hold. Keep an old key in ``FIELD_ENCRYPTION_KEY``, behind the
    newest, until the threads that it sealed are deleted.

    Args:
        saver: Any checkpointer. It isn't changed: a copy of it that shares its connection is used.
            Of one that is sealed already, only the keyring changes.
        keyring: As for ``SealedSerializer``.
        clear_metadata: Metadata that may stand in clear, so that ``list`` can filter by it.

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
        clear = (*_CLEAR, *clear_metadata)
        if not isinstance(saver, BaseCheckpointSaver):
            raise TypeError(
                "saver has to be a checkpointer, for example SqliteSaver(connection), not "
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
        self._saver.serde = self.serde = self._seals = serde

    def __getattr__(self, name: str) -> Any:
        # Where nothing is set yet, as in a copy that is being made, there is nobody to ask.
        if name == "_saver":
            raise AttributeError(name)
        return getattr(self._saver, name)

    @property
    def config_specs(self) -> list[Any]:
        """The other checkpointer's."""
        return self._saver.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The other checkpointer's."""
        return self._saver.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> SealedSaver:
        """As every checkpointer's: a copy that may rebuild more types."""
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
        """Writes a checkpoint."""
        return self._saver.put(*self._closed(config, checkpoint, metadata), new_versions)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As :meth:`put`."""
        return await self._saver.aput(*self._closed(config, checkpoint, metadata), new_versions)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Writes what a task has written so far."""
        self._saver.put_writes(*self._written(config, writes, task_id), task_id, task_path)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As :meth:`put_writes`."""
        await self._saver.aput_writes(*self._written(config, writes, task_id), task_id, task_path)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Reads a checkpoint.

        Raises:
            UnsealError: It was not written by a ``SealedSaver`` for this place, or doesn't open.
        """
        with _reading([_named(config)]):
            found = self._saver.get_tuple(config)
            return found and self._opened(found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As :meth:`get_tuple`."""
        with _reading([_named(config)]):
            found = await self._saver.aget_tuple(config)
            return found and self._opened(found)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the base class calls it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Reads checkpoints.

        Raises:
            ConfigurationError: The filter names metadata that is sealed.
            UnsealError: As :meth:`get_tuple`.
        """
        self._require_clear(filter)
        return self._listed(self._saver.list(config, filter=filter, before=before, limit=limit))

    def _listed(self, found: Iterator[CheckpointTuple]) -> Iterator[CheckpointTuple]:
        # SqliteSaver keeps its lock and two cursors until its list is closed. An error here would
        # leave that to the garbage collector, and every thread that uses the saver would wait.
        with _closing(found), _reading(where := ["the first checkpoint of the list"]):
            for each in found:
                where[0] = _named(each.config)
                yield self._opened(each)
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
                    where[0] = _named(each.config)
                    yield self._opened(each)
                    where[0] = f"the checkpoint that is listed after {where[0]}"

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As every checkpointer's."""
        with _reading([_named(config)]):
            found = self._saver.get_delta_channel_history(config=config, channels=channels)
            return self._replayed(config, found)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As every checkpointer's."""
        with _reading([_named(config)]):
            found = await self._saver.aget_delta_channel_history(config=config, channels=channels)
            return self._replayed(config, found)

    def delete_thread(self, thread_id: str) -> None:
        """Deletes a thread."""
        self._saver.delete_thread(thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        """Deletes a thread."""
        await self._saver.adelete_thread(thread_id)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes what runs have written."""
        self._saver.delete_for_runs(run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes what runs have written."""
        await self._saver.adelete_for_runs(run_ids)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> NoReturn:
        """Refused: what is sealed is bound to its thread.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "what is sealed is bound to its thread: read the state with get_state, and write it "
            "into the new thread with update_state"
        )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> NoReturn:
        """As :meth:`copy_thread`."""
        self.copy_thread(source_thread_id, target_thread_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes older checkpoints."""
        self._saver.prune(thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes older checkpoints."""
        await self._saver.aprune(thread_ids, strategy=strategy)

    def _closed(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> tuple[RunnableConfig, Checkpoint, CheckpointMetadata]:
        refuse_open_secrets([checkpoint["channel_values"], metadata])
        thread, ns, parent = _place(config)
        closed: Any = {**checkpoint}
        versions = checkpoint["channel_versions"]
        closed["channel_values"] = values = {
            name: self._boxed(value, [versions.get(name)], "value", thread, ns, name)
            for name, value in checkpoint["channel_values"].items()
        }
        if sends := closed.get("pending_sends"):
            closed["pending_sends"] = [
                self._boxed(each, [], "write", thread, ns, TASKS) for each in sends
            ]
        # The checkpointer would copy configurable and metadata of the configuration in clear.
        full: dict[str, Any] = {**get_checkpoint_metadata(config, metadata)}
        names = sorted(values.keys() & versions.keys())
        kind, token = self._seals._seal(
            [_digest(checkpoint), parent, names, full],
            _metadata_of(thread, ns, checkpoint["id"]),
        )
        clear: Any = {name: full[name] for name in self._clear if name in full}
        clear[_SEALED] = f"{kind} {token.decode('ascii')}"
        return _routed(config), closed, clear

    def _opened(self, found: CheckpointTuple) -> CheckpointTuple:
        thread, ns, belongs = _place(found.config)
        clear: Any = dict(found.metadata)
        kind, _, token = str(clear.pop(_SEALED, "")).partition(" ")
        if not token:
            raise UnsealError(
                "it was not written through a SealedSaver, or was put there. Start a new thread, "
                "or read it with the checkpointer that wrote it"
            )
        digest, parent, names, full = self._seals._unseal(
            (kind, token.encode()), _metadata_of(thread, ns, belongs)
        )
        opened: Any = {**found.checkpoint}
        versions, values = opened["channel_versions"], opened["channel_values"]
        # Pruning takes a parent away. A value may be found beside those that were put: a channel
        # that the graph lost, or one of changes, keeps the value of a version that still stands.
        if (
            opened["id"] != belongs
            or _digest(opened) != digest
            or (found.parent_config and _place(found.parent_config)[2] != parent)
            or not values.keys() >= {*names}
            or _plain(clear) != _plain({name: full.get(name) for name in clear})
        ):
            raise UnsealError("what is stored in clear is not what was sealed with it")
        opened["channel_values"] = {
            name: self._unboxed(value, [versions.get(name)], "value", thread, ns, name)
            for name, value in values.items()
        }
        if sends := opened.get("pending_sends"):
            opened["pending_sends"] = [
                self._unboxed(each, [], "write", thread, ns, TASKS) for each in sends
            ]
        writes = found.pending_writes and [
            (task, name, self._unboxed(value, [task, belongs], "write", thread, ns, name))
            for task, name, value in found.pending_writes
        ]
        return found._replace(checkpoint=opened, metadata=full, pending_writes=writes)

    def _written(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str
    ) -> tuple[RunnableConfig, Sequence[tuple[str, Any]]]:
        refuse_open_secrets(writes)
        thread, ns, belongs = _place(config)
        return _routed(config), [
            (name, self._boxed(value, [task_id, belongs], "write", thread, ns, name))
            for name, value in writes
        ]

    def _replayed(
        self, config: RunnableConfig, found: Mapping[str, DeltaChannelHistory]
    ) -> Mapping[str, DeltaChannelHistory]:
        thread, ns, _ = _place(config)
        opened: dict[str, Any] = {name: {**each} for name, each in found.items()}
        for name, each in opened.items():
            each["writes"] = [
                (task, name, self._unboxed(value, [task], "write", thread, ns, name))
                for task, _, value in each["writes"]
            ]
            if "seed" in each:
                each["seed"] = self._unboxed(each["seed"], [], "value", thread, ns, name)
        return opened

    def _boxed(self, value: Any, at: Sequence[Any], *place: str) -> Any:
        # PostgresSaver marks by its type what DeltaChannel stores whole, so as not to prune it.
        if type(value).__name__ == "_DeltaSnapshot":
            return value._replace(value=self._boxed(value.value, at, *place))
        # In a list a bytearray would come back as bytes.
        return [next(self._seals._tags(*place)), at, value, isinstance(value, bytearray)]

    def _unboxed(self, box: Any, at: Sequence[Any], *place: str) -> Any:
        if type(box).__name__ == "_DeltaSnapshot":
            return box._replace(value=self._unboxed(box.value, at, *place))
        # The tag stands in ciphertext only: so this isn't JSON that somebody wrote past the seal.
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not isinstance(box[0], bytes)
            or not any(hmac.compare_digest(tag, box[0]) for tag in self._seals._tags(*place))
            or box[1][: len(at)] != at
        ):
            raise UnsealError(f"what is stored for {place[-1]!r:.80} was not sealed for this place")
        return bytearray(box[2]) if box[3] else box[2]

    def _require_clear(self, wanted: Mapping[str, Any] | None) -> None:
        for name in (wanted or {}).keys() - {*self._clear}:
            raise ConfigurationError(
                f"checkpoints can't be filtered by {name!r}: it is sealed. Name it in "
                "clear_metadata where the SealedSaver is made, for checkpoints written from then on"
            )


def _routed(config: RunnableConfig) -> RunnableConfig:
    configurable = {
        name: value
        for name, value in config["configurable"].items()
        if name in _ROUTING or name.startswith("__")
    }
    return {"configurable": configurable}


def _place(config: RunnableConfig) -> tuple[str, str, str]:
    found = config["configurable"]
    ns, checkpoint = found.get("checkpoint_ns"), found.get("checkpoint_id")
    return str(found["thread_id"]), str(ns or ""), str(checkpoint or "")


def _named(config: RunnableConfig) -> str:
    thread, _, checkpoint = _place(config)
    which = f"checkpoint {checkpoint!r:.80}" if checkpoint else "the newest checkpoint"
    return f"{which} of thread {thread!r:.80}"


def _metadata_of(*place: str) -> str:
    return f"{CHECKPOINT_METADATA} {_canonical(place).decode('ascii')}"


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode("ascii")


def _digest(checkpoint: Mapping[str, Any]) -> str:
    return sha256(_canonical({name: checkpoint.get(name) for name in _DIGESTED})).hexdigest()


def _plain(value: Any) -> Any:
    return json.loads(_canonical(value))


@contextmanager
def _closing(found: Iterator[Any]) -> Iterator[None]:
    """Close it at the end if it is a generator; a saver may return any iterator."""
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
    """Names the checkpoint that can't be read: ``where[0]``, as it is when that is found out."""
    try:
        yield
    except UnsealError as error:
        raise UnsealError(f"{where[0]}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UnsealError(f"{where[0]} is malformed ({type(error).__name__})") from error
