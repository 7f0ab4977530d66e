"""Checkpoints at rest: encrypted under keys of their own, derived from ``FIELD_ENCRYPTION_KEY``.

The serializer encrypts what a checkpointer gives it; the saver also closes what checkpointers write
past their serializer: metadata, and the plain values that PostgresSaver keeps as JSON. In clear
stay the ids of threads, checkpoints and tasks, the names of nodes and channels, versions, times and
sizes. A ciphertext that is moved to another row of its kind opens there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final

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
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from pipelit_agents.errors import ConfigurationError, UnsealError
from pipelit_agents.keyring import Keyring

__all__ = ["SealedSaver", "SealedSerializer"]

_LABEL: Final = "checkpoints"
_MARK: Final = "+pipelit"
_SEALED: Final = "pipelit_sealed"
_BOX: Final = "__pipelit_box__"
# What LangGraph itself reads from metadata without having written it into the state.
_CLEAR: Final = ("source", "step", "parents", "run_id", "counters_since_delta_snapshot")
_ROUTING: Final = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


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
            serde: Its allow-lists are kept, if it is a ``JsonPlusSerializer``; one that seals
                already is returned as it is.
            keyring: As for the constructor.
        """
        if isinstance(serde, SealedSerializer):
            return serde
        made = cls(keyring)
        if isinstance(serde, JsonPlusSerializer):
            vars(made).update(vars(serde))
        return made

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Serializes and encrypts a value."""
        kind, data = super().dumps_typed(obj)
        return kind + _MARK, self._keys().seal(data, f"checkpoint:{kind}").encode("ascii")

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decrypts and rebuilds a value.

        Raises:
            UnsealError: It was written in clear or by another cipher, under another key, or was
                changed.
        """
        kind, token = data
        if not kind.endswith(_MARK):
            raise UnsealError(
                f"a checkpoint holds a value of kind {kind!r:.40} that was not sealed: it was "
                "written without this serializer, or put there. Start a new thread, or read the "
                "old ones with the serializer that wrote them"
            )
        kind = kind.removesuffix(_MARK)
        plain = self._keys().unseal(bytes(token).decode("ascii", "replace"), f"checkpoint:{kind}")
        return super().loads_typed((kind, plain))

    def _keys(self) -> Keyring:
        if self._derived is None:
            keyring = self._keyring if isinstance(self._keyring, Keyring) else self._keyring()
            self._derived = keyring.derive(_LABEL)
        return self._derived

    def __repr__(self) -> str:
        return "SealedSerializer()"


class SealedSaver(BaseCheckpointSaver[Any]):
    """A checkpointer that writes state and metadata encrypted, through another one.

    Metadata is sealed together with the id of its checkpoint; so a row that was not written by a
    ``SealedSaver`` is refused. Further methods, such as ``setup``, are the other one's.

    Args:
        saver: Any checkpointer. It isn't changed: a copy of it that shares its connection is used.
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
        serde = SealedSerializer.over(saver.serde, keyring)
        super().__init__(serde=serde)
        self._clear = (*_CLEAR, *clear_metadata)
        self._use(copy(saver), serde)

    def _use(self, saver: BaseCheckpointSaver[Any], serde: SerializerProtocol) -> None:
        self._saver = saver
        self._saver.serde = self.serde = serde

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
        self._saver.put_writes(_routed(config), writes, task_id, task_path)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As :meth:`put_writes`."""
        await self._saver.aput_writes(_routed(config), writes, task_id, task_path)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Reads a checkpoint.

        Raises:
            UnsealError: It was not written by a ``SealedSaver``, or doesn't open.
        """
        found = self._saver.get_tuple(config)
        return found and self._opened(found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As :meth:`get_tuple`."""
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
        found = self._saver.list(config, filter=filter, before=before, limit=limit)
        return (self._opened(each) for each in found)

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
        async for each in self._saver.alist(config, filter=filter, before=before, limit=limit):
            yield self._opened(each)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As every checkpointer's."""
        found = self._saver.get_delta_channel_history(config=config, channels=channels)
        return {name: _seeded(each) for name, each in found.items()}

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As every checkpointer's."""
        found = await self._saver.aget_delta_channel_history(config=config, channels=channels)
        return {name: _seeded(each) for name, each in found.items()}

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

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies a thread."""
        self._saver.copy_thread(source_thread_id, target_thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies a thread."""
        await self._saver.acopy_thread(source_thread_id, target_thread_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes older checkpoints."""
        self._saver.prune(thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes older checkpoints."""
        await self._saver.aprune(thread_ids, strategy=strategy)

    def _closed(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> tuple[RunnableConfig, Checkpoint, CheckpointMetadata]:
        # The checkpointer would copy configurable and metadata of the configuration in clear.
        full: dict[str, Any] = {**get_checkpoint_metadata(config, metadata)}
        clear: Any = {name: full.pop(name) for name in self._clear if name in full}
        kind, token = self.serde.dumps_typed([checkpoint["id"], full])
        clear[_SEALED] = f"{kind} {token.decode('ascii')}"
        values = {name: _boxed(value) for name, value in checkpoint["channel_values"].items()}
        return _routed(config), {**checkpoint, "channel_values": values}, clear

    def _opened(self, found: CheckpointTuple) -> CheckpointTuple:
        metadata: Any = dict(found.metadata)
        kind, _, token = str(metadata.pop(_SEALED, "")).partition(" ")
        checkpoint = found.checkpoint
        if not token:
            raise UnsealError(
                f"checkpoint {checkpoint['id']!r:.80} was not written through a SealedSaver, or "
                "was put there. Start a new thread, or read it with the checkpointer that wrote it"
            )
        belongs, full = self.serde.loads_typed((kind, token.encode()))
        if belongs != checkpoint["id"]:
            raise UnsealError
        values = {name: _unboxed(value) for name, value in checkpoint["channel_values"].items()}
        full.update(metadata)
        return found._replace(checkpoint={**checkpoint, "channel_values": values}, metadata=full)

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


def _boxed(value: Any) -> Any:
    # PostgresSaver writes plain values as JSON, past its serializer, which all others go through.
    plain = isinstance(value, str | int | float)
    return {_BOX: value} if plain or (isinstance(value, dict) and _BOX in value) else value


def _unboxed(value: Any) -> Any:
    if isinstance(value, dict) and _BOX in value:
        return value[_BOX]
    if isinstance(value, str | int | float):
        raise UnsealError
    return value


def _seeded(history: DeltaChannelHistory) -> DeltaChannelHistory:
    if "seed" not in history:
        return history
    return {**history, "seed": _unboxed(history["seed"])}
