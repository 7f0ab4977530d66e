"""Give a sealed saver exactly the capabilities of the saver below it.

LangGraph takes a capability to be there if the class of a checkpointer overrides its method. So the
optional methods are in classes of their own, and the class of each sealed saver is made of those
whose methods the saver below has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

__all__ = ["AnySaver", "AsyncInThreads", "DeletesRuns", "DeletesThreads", "PrunesThreads"]
__all__ += ["overrides", "with_capabilities"]

AnySaver: TypeAlias = BaseCheckpointSaver[Any]
S = TypeVar("S", bound=AnySaver)

# Without one of them, LangGraph can't run a graph on an event loop.
_ASYNC_METHODS: Final = ("aget_tuple", "alist", "aput", "aput_writes")


class DeletesThreads(BaseCheckpointSaver[Any]):
    """A sealed saver over one that deletes threads."""

    _saver: AnySaver

    def delete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints and writes of a thread."""
        self._saver.delete_thread(thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        """As :meth:`delete_thread`."""
        await _call(self._saver, "delete_thread", thread_id)


class DeletesRuns(BaseCheckpointSaver[Any]):
    """A sealed saver over one that deletes the checkpoints of runs."""

    _saver: AnySaver

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete all checkpoints and writes of runs.

        The saver below finds them by the copies of ``run_id`` that are stored in clear.
        """
        self._saver.delete_for_runs(run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As :meth:`delete_for_runs`."""
        await _call(self._saver, "delete_for_runs", run_ids)


class PrunesThreads(BaseCheckpointSaver[Any]):
    """A sealed saver over one that prunes threads."""

    _saver: AnySaver

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete checkpoints of threads.

        Args:
            thread_ids: The threads.
            strategy: ``keep_latest`` keeps the newest checkpoint of each namespace, ``delete``
                keeps none. The saver below may have more.
        """
        self._saver.prune(thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As :meth:`prune`."""
        await _call(self._saver, "prune", thread_ids, strategy=strategy)


class AsyncInThreads(BaseCheckpointSaver[Any]):
    """A sealed saver over one without async methods: each call runs in a thread of the loop's."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As :meth:`get_tuple`."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, object] | None = None,  # noqa: A002 - the base class calls it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As :meth:`list`, which is read to its end first."""

        def read() -> list[CheckpointTuple]:
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
        """As :meth:`put`."""
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As :meth:`put_writes`."""
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As :meth:`get_delta_channel_history`."""
        return await asyncio.to_thread(
            self.get_delta_channel_history, config=config, channels=channels
        )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As :meth:`copy_thread`."""
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)


_OPTIONAL: Final[dict[str, type[AnySaver]]] = {
    "delete_thread": DeletesThreads,
    "delete_for_runs": DeletesRuns,
    "prune": PrunesThreads,
}

# The classes that were made, by the class of the sealed saver and that of the saver below.
_MADE: Final[dict[tuple[type[AnySaver], type[AnySaver]], type[AnySaver]]] = {}


def overrides(kind: type[AnySaver], method: str) -> bool:
    """Return whether a class of checkpointers has a method of its own."""
    return getattr(kind, method) is not getattr(BaseCheckpointSaver, method)


def with_capabilities(kind: type[S], below: type[AnySaver]) -> type[S]:
    """Return a subclass that overrides the methods that a saver of a class has.

    Args:
        kind: A class of sealed savers, which overrides what every saver has.
        below: The class of the saver below.
    """
    if made := _MADE.get((kind, below)):
        return cast(type[S], made)
    before: list[type[AnySaver]] = []
    # SqliteSaver has some of them, which only raise.
    if not all(overrides(below, each) for each in _ASYNC_METHODS):
        before = [AsyncInThreads]
    after = [
        mixin
        for name, mixin in _OPTIONAL.items()
        if overrides(below, name) or overrides(below, f"a{name}")
    ]
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_kind": kind}
    made = cast(type[S], type(kind.__name__, (*before, kind, *after), names))
    _MADE[kind, below] = made
    return made


async def _call(saver: AnySaver, name: str, *args: object, **kwargs: object) -> None:
    if overrides(type(saver), f"a{name}"):
        await getattr(saver, f"a{name}")(*args, **kwargs)
    else:
        await asyncio.to_thread(getattr(saver, name), *args, **kwargs)
