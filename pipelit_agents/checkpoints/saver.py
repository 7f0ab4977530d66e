"""Encrypt checkpoints under keys derived from ``FIELD_ENCRYPTION_KEY``.

The serializer encrypts what a checkpointer passes to it, and authenticates only the kind of a
value: such a value can be moved to any position of the same kind. The saver also encrypts what
checkpointers write without their serializer (metadata, and the plain values that PostgresSaver
stores as JSON), and binds everything to its checkpoint key; see ``cipher.py``.

These stay in clear: the ids of threads, checkpoints and tasks, the names of nodes and channels,
versions, times and sizes. An attacker who can write to the database can still:

- Delete checkpoints. Without its newest ones, a thread continues from an older one; without a
  parent, a ``DeltaChannel`` starts empty.
- Delete all writes that a task stored in one call. Then the task runs again, or a question is asked
  again. If only some of a call are deleted, the checkpoint is refused.
- Delete the changes of a ``DeltaChannel`` in older checkpoints. They are read without the other
  writes of their call, so that a change that is missing isn't noticed there; ``list`` and
  ``copy_thread`` refuse such a checkpoint.
- Restore an earlier version of a row at the same position, for example an earlier answer of the
  same task in the same checkpoint.
- Move a ``DeltaChannel``'s own changes and earlier values between the checkpoints of a thread.
- Hide checkpoints from ``list(filter=...)``, by changing the copies in clear that it filters by. A
  checkpoint whose copies were changed is never returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from pipelit_agents.checkpoints.capabilities import AnySaver, with_capabilities
from pipelit_agents.checkpoints.cipher import CLEAR_FIELDS, CheckpointCipher
from pipelit_agents.checkpoints.copy_thread import CopiesThreads
from pipelit_agents.checkpoints.listing import Listing, Page
from pipelit_agents.checkpoints.reading import aclosing, closing, describe, reading
from pipelit_agents.checkpoints.serializer import SealedSerializer
from pipelit_agents.errors import UnsealError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["SealedSaver"]


class SealedSaver(CopiesThreads):
    """A checkpointer that encrypts state and metadata, and stores them through another one.

    It reads only data that a ``SealedSaver`` has written for this thread, checkpoint and channel.
    So rows that somebody copies to another thread don't open there; ``copy_thread`` encrypts them
    again. Its class overrides ``delete_thread``, ``delete_for_runs`` and ``prune`` if that of the
    other checkpointer does. If the other one has synchronous methods only, the asynchronous ones
    run them in threads. Further methods, such as ``setup``, come from the other checkpointer.

    Stored data is never encrypted again under a newer key, because checkpointers don't rewrite
    stored values and writes. Keep an old key in ``FIELD_ENCRYPTION_KEY``, behind the newest, until
    the threads that it encrypted are deleted.

    Args:
        saver: Any checkpointer. It isn't changed: a copy of it that shares its connection is used.
            If it is a ``SealedSaver`` already, only the keyring changes.
        keyring: As for ``SealedSerializer``.
        clear_metadata: Names of metadata to also store in clear, so that the other checkpointer can
            filter by it. ``list`` also filters by other metadata, after decrypting it.
        require_fitting: Called before each write, off the event loop, to require that the keys fit
            the database of a ``Pipelit``.

    Example:
        ```python
        with PostgresSaver.from_conn_string(url) as saver:
            graph = builder.compile(checkpointer=pipelit.sealed_saver(saver))
        ```
    """

    def __init__(
        self,
        saver: AnySaver,
        keyring: Keyring | Callable[[], Keyring],
        *,
        clear_metadata: Sequence[str] = (),
        require_fitting: Callable[[], None] | None = None,
    ) -> None:
        clear = (*CLEAR_FIELDS, *clear_metadata)
        if not isinstance(saver, BaseCheckpointSaver):
            raise TypeError(
                "saver must be a checkpointer, for example SqliteSaver(connection), not "
                f"{saver!r:.80}"
            )
        if isinstance(saver, SealedSaver):
            clear, saver = (*saver._cipher.clear, *clear_metadata), saver._saver
        serde = SealedSerializer.over(saver.serde, keyring)
        super().__init__(serde=serde)
        self._require_fitting = require_fitting
        self._use(copy(saver), CheckpointCipher(serde, clear))
        # Here the saver is known, whatever the constructor of a subclass takes.
        kind: type[SealedSaver] = vars(type(self)).get("_kind", type(self))
        self.__class__ = with_capabilities(kind, type(saver), _AsyncInThreads)

    def _use(self, saver: AnySaver, cipher: CheckpointCipher) -> None:
        self._saver, self._cipher = saver, cipher
        self.serde: SealedSerializer = cipher.serializer
        self._saver.serde = self.serde

    def __getattr__(self, name: str) -> Any:
        # While a copy is being made, _saver isn't set yet.
        if name == "_saver":
            raise AttributeError(name)
        return getattr(self._saver, name)

    @property
    def config_specs(self) -> list[object]:
        """The configuration options of the other checkpointer."""
        return self._saver.config_specs

    def get_next_version(self, current: object, channel: None) -> object:
        """Return the next version of a channel, as the other checkpointer does."""
        return self._saver.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> SealedSaver:
        """Return a copy that may rebuild more types, like any checkpointer."""
        made = copy(self)
        saver = self._saver.with_allowlist(extra_allowlist)
        # A copy of the serializer that this saver gave to the other one.
        serde = cast(SealedSerializer, saver.serde)
        made._use(saver, replace(self._cipher, serializer=serde))
        return made

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write a checkpoint.

        Raises:
            ConfigurationError: The newest key isn't the one of the database.
        """
        self._compare_key()
        encrypted = self._cipher.encrypt(config, checkpoint, metadata)
        return self._saver.put(*encrypted, new_versions)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As ``put``."""
        await self._acompare_key()
        return await self._saver.aput(
            *self._cipher.encrypt(config, checkpoint, metadata), new_versions
        )

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task has written so far.

        Raises:
            ConfigurationError: As ``put``.
        """
        self._compare_key()
        self._saver.put_writes(*self._cipher.encrypt_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As ``put_writes``."""
        await self._acompare_key()
        encrypted = self._cipher.encrypt_writes(config, writes, task_id, task_path)
        await self._saver.aput_writes(*encrypted)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a checkpoint.

        Raises:
            UnsealError: The checkpoint was not written by a ``SealedSaver`` for this thread and
                id, or can't be decrypted.
        """
        with reading([describe(config)]):
            found = self._saver.get_tuple(config)
            return found and self._cipher.decrypt(found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As ``get_tuple``."""
        with reading([describe(config)]):
            found = await self._saver.aget_tuple(config)
            return found and self._cipher.decrypt(found)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, object] | None = None,  # noqa: A002 - the base class calls it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Read checkpoints, from the newest on.

        The other checkpointer filters by the metadata that is stored in clear: that of LangGraph
        and ``clear_metadata``. By other metadata, checkpoints are filtered after they are
        decrypted; with a thread, a namespace and a limit, no more than a few pages are read.

        Args:
            config: The thread, or None for all. With ``checkpoint_ns``, only that namespace.
            filter: Metadata that a checkpoint must have. Values are compared as JSON.
            before: Only checkpoints older than this one.
            limit: The maximum number of checkpoints.

        Raises:
            UnsealError: As ``get_tuple``, also of a checkpoint that only the filter reads.
        """
        listing = Listing(config, filter, before, limit, self._cipher.clear)
        where = ["the first checkpoint of the list"]
        while (page := listing.next_page()) is not None:
            found = self._saver.list(config, **page)
            # SqliteSaver holds its lock and two cursors until its list is closed. After an error,
            # only the garbage collector would close it, and other threads would wait for the lock.
            with self._naming_malformed(config, page), closing(found), reading(where):
                for each in found:
                    where[0] = describe(each.config)
                    opened = self._cipher.decrypt(each)
                    if listing.accepts(opened):
                        yield opened
                    if listing.is_full:
                        return
                    where[0] = f"the checkpoint that is listed after {where[0]}"

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, object] | None = None,  # noqa: A002 - the base class calls it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As ``list``."""
        listing = Listing(config, filter, before, limit, self._cipher.clear)
        where = ["the first checkpoint of the list"]
        while (page := listing.next_page()) is not None:
            found = self._saver.alist(config, **page)
            async with self._anaming_malformed(config, page), aclosing(found):
                with reading(where):
                    async for each in found:
                        where[0] = describe(each.config)
                        opened = self._cipher.decrypt(each)
                        if listing.accepts(opened):
                            yield opened
                        if listing.is_full:
                            return
                        where[0] = f"the checkpoint that is listed after {where[0]}"

    @contextmanager
    def _naming_malformed(self, config: RunnableConfig | None, page: Page) -> Iterator[None]:
        """Name a checkpoint whose metadata makes the filter of the saver below fail."""
        try:
            yield
        except UnsealError:
            raise
        except Exception:
            if page["filter"]:
                # With the saver's own error if the database is at fault.
                for _ in SealedSaver.list(self, config, before=page["before"]):
                    pass
            raise

    @asynccontextmanager
    async def _anaming_malformed(
        self, config: RunnableConfig | None, page: Page
    ) -> AsyncIterator[None]:
        """As ``_naming_malformed``."""
        try:
            yield
        except UnsealError:
            raise
        except Exception:
            if page["filter"]:
                async for _ in SealedSaver.alist(self, config, before=page["before"]):
                    pass
            raise

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return the stored changes of channels, like any checkpointer."""
        with reading([describe(config)]):
            found = self._saver.get_delta_channel_history(config=config, channels=channels)
            return self._cipher.decrypt_history(config, found)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As ``get_delta_channel_history``."""
        with reading([describe(config)]):
            found = await self._saver.aget_delta_channel_history(config=config, channels=channels)
            return self._cipher.decrypt_history(config, found)


class _AsyncInThreads(SealedSaver):
    """A sealed saver over one without async methods: each call runs in a thread of the loop's."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As ``get_tuple``."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, object] | None = None,  # noqa: A002 - the base class calls it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As ``list``, which is read to its end first."""

        def read() -> Sequence[CheckpointTuple]:
            return [*self.list(config, filter=filter, before=before, limit=limit)]

        for each in await asyncio.to_thread(read):
            yield each

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As ``put``."""
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As ``put_writes``."""
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As ``get_delta_channel_history``."""
        return await asyncio.to_thread(
            self.get_delta_channel_history, config=config, channels=channels
        )
