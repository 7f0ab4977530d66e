"""Encrypt checkpoints under keys derived from ``FIELD_ENCRYPTION_KEY``.

The serializer encrypts what a checkpointer passes to it, and authenticates only the kind of a
value: such a value can be moved to any position of the same kind. The saver also encrypts what
checkpointers write without their serializer (metadata, and the plain values that PostgresSaver
stores as JSON), and binds everything to its checkpoint key; see ``cipher.py``.

These stay in clear: the ids of threads, checkpoints and tasks, the names of nodes and channels,
versions, times and sizes. An attacker who can write to the database can still:

- Delete rows. Without its newest checkpoints, a thread continues from an older one; without its
  writes, a task runs again; without a parent, a ``DeltaChannel`` starts empty.
- Restore an earlier version of a row at the same position, for example an earlier answer of the
  same task in the same checkpoint.
- Move a ``DeltaChannel``'s own changes and earlier values between the checkpoints of a thread.
- Hide checkpoints from ``list(filter=...)``, by changing the copies in clear that it filters by. A
  checkpoint whose copies were changed is never returned.
"""

from __future__ import annotations

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
from dataclasses import replace
from typing import Any, Self, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from pipelit_agents._threads import aside
from pipelit_agents.checkpoints.capabilities import AnySaver, overrides, with_capabilities
from pipelit_agents.checkpoints.cipher import CLEAR_FIELDS, CheckpointCipher, ids_of
from pipelit_agents.checkpoints.copying import ThreadCopy
from pipelit_agents.checkpoints.listing import Listing
from pipelit_agents.checkpoints.serializer import SealedSerializer
from pipelit_agents.errors import UnsealError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["SealedSaver"]


class SealedSaver(BaseCheckpointSaver[Any]):
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

    def __new__(cls, saver: AnySaver | None = None, *_: object, **__: object) -> Self:
        """Return an instance of a subclass with the capabilities of the saver."""
        # ``copy`` passes no saver, and the class is made already.
        if not isinstance(saver, BaseCheckpointSaver):
            return super().__new__(cls)
        below = saver._saver if isinstance(saver, SealedSaver) else saver
        kind: type[Self] = vars(cls).get("_kind", cls)
        return super().__new__(with_capabilities(kind, type(below)))

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

    def _use(self, saver: AnySaver, cipher: CheckpointCipher) -> None:
        self._saver, self._cipher = saver, cipher
        self._saver.serde = self.serde = cipher.serializer

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

    def _compare_key(self) -> None:
        if self._require_fitting is not None:
            self._require_fitting()

    async def _acompare_key(self) -> None:
        if self._require_fitting is not None:
            await aside(self._require_fitting)

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
        """As :meth:`put`."""
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
            ConfigurationError: As :meth:`put`.
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
        """As :meth:`put_writes`."""
        await self._acompare_key()
        encrypted = self._cipher.encrypt_writes(config, writes, task_id, task_path)
        await self._saver.aput_writes(*encrypted)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a checkpoint.

        Raises:
            UnsealError: The checkpoint was not written by a ``SealedSaver`` for this thread and
                id, or can't be decrypted.
        """
        with _reading([_description(config)]):
            found = self._saver.get_tuple(config)
            return found and self._cipher.decrypt(found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As :meth:`get_tuple`."""
        with _reading([_description(config)]):
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
            UnsealError: As :meth:`get_tuple`, also of a checkpoint that only the filter reads.
        """
        listing = Listing(config, filter, before, limit, self._cipher.clear)
        where = ["the first checkpoint of the list"]
        while (page := listing.next_page()) is not None:
            found = self._saver.list(config, **page)
            # SqliteSaver holds its lock and two cursors until its list is closed. After an error,
            # only the garbage collector would close it, and other threads would wait for the lock.
            with _closing(found), _reading(where):
                for each in found:
                    where[0] = _description(each.config)
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
        """As :meth:`list`."""
        listing = Listing(config, filter, before, limit, self._cipher.clear)
        where = ["the first checkpoint of the list"]
        while (page := listing.next_page()) is not None:
            found = self._saver.alist(config, **page)
            async with _aclosing(found):
                with _reading(where):
                    async for each in found:
                        where[0] = _description(each.config)
                        opened = self._cipher.decrypt(each)
                        if listing.accepts(opened):
                            yield opened
                        if listing.is_full:
                            return
                        where[0] = f"the checkpoint that is listed after {where[0]}"

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return the stored changes of channels, like any checkpointer."""
        with _reading([_description(config)]):
            found = self._saver.get_delta_channel_history(config=config, channels=channels)
            return self._cipher.decrypt_history(config, found)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As :meth:`get_delta_channel_history`."""
        with _reading([_description(config)]):
            found = await self._saver.aget_delta_channel_history(config=config, channels=channels)
            return self._cipher.decrypt_history(config, found)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread, encrypted for the new thread.

        All of the thread is decrypted before anything is written. If writing fails, the part that
        was written is deleted, if the other checkpointer can delete threads. If the process is
        killed meanwhile, delete the new thread yourself.

        Args:
            source_thread_id: The thread. If it has no checkpoints, nothing is written.
            target_thread_id: The new thread.

        Raises:
            ValueError: The new thread has checkpoints already.
            UnsealError: A checkpoint wasn't written for the thread, or can't be decrypted. Nothing
                was written.
            ConfigurationError: As :meth:`put`.
        """
        source, target = _thread(source_thread_id), _thread(target_thread_id)
        found = self._saver.list(target, limit=1)
        with _closing(found):
            _require_no_checkpoint(target_thread_id, [*found])
        configs = [each.config for each in self.list(source)]
        copying = ThreadCopy(self._cipher, target_thread_id)
        try:
            for config in reversed(configs):
                self._compare_key()
                with _reading([_description(config)]):
                    put, writes = copying.calls(_present(self._saver.get_tuple(config)))
                self._saver.put(*put)
                for each in writes:
                    self._saver.put_writes(*each)
        except BaseException:
            if overrides(type(self._saver), "delete_thread"):
                self._saver.delete_thread(target_thread_id)
            raise

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As :meth:`copy_thread`."""
        source, target = _thread(source_thread_id), _thread(target_thread_id)
        found = self._saver.alist(target, limit=1)
        async with _aclosing(found):
            _require_no_checkpoint(target_thread_id, [each async for each in found])
        configs = [each.config async for each in self.alist(source)]
        copying = ThreadCopy(self._cipher, target_thread_id)
        try:
            for config in reversed(configs):
                await self._acompare_key()
                with _reading([_description(config)]):
                    put, writes = copying.calls(_present(await self._saver.aget_tuple(config)))
                await self._saver.aput(*put)
                for each in writes:
                    await self._saver.aput_writes(*each)
        except BaseException:
            if overrides(type(self._saver), "adelete_thread"):
                await self._saver.adelete_thread(target_thread_id)
            raise


def _thread(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


def _require_no_checkpoint(thread_id: str, found: Sequence[CheckpointTuple]) -> None:
    if found:
        raise ValueError(
            f"target_thread_id {thread_id!r:.80} has checkpoints already: pass the id of a new "
            "thread, or delete that thread first"
        )


def _present(found: CheckpointTuple | None) -> CheckpointTuple:
    if found is None:
        raise UnsealError("it was deleted while its thread was being copied")
    return found


def _description(config: RunnableConfig) -> str:
    thread, _, checkpoint = ids_of(config)
    which = f"checkpoint {checkpoint!r:.80}" if checkpoint else "the newest checkpoint"
    return f"{which} of thread {thread!r:.80}"


@contextmanager
def _closing(found: Iterator[object]) -> Iterator[None]:
    """Close an iterator at the end if it is a generator; a saver may return any iterator."""
    try:
        yield
    finally:
        if isinstance(found, Generator):
            found.close()


@asynccontextmanager
async def _aclosing(found: AsyncIterator[object]) -> AsyncIterator[None]:
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
