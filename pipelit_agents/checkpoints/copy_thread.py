"""``copy_thread``: decrypt a thread as its own, and store it encrypted for another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from pipelit_agents._threads import aside
from pipelit_agents.checkpoints.capabilities import (
    AnySaver,
    acall,
    call,
    has,
    has_async_methods,
    in_thread,
)
from pipelit_agents.checkpoints.cipher import CheckpointCipher
from pipelit_agents.checkpoints.reading import aclosing, closing, describe, reading
from pipelit_agents.checkpoints.thread_copy import Row, ThreadCopy
from pipelit_agents.errors import UnsealError

__all__ = ["CopiesThreads"]


class CopiesThreads(BaseCheckpointSaver[Any]):
    """A sealed saver that copies threads, over any saver."""

    _saver: AnySaver
    _cipher: CheckpointCipher
    _require_fitting: Callable[[], None] | None

    def _compare_key(self) -> None:
        if self._require_fitting is not None:
            self._require_fitting()

    async def _acompare_key(self) -> None:
        if self._require_fitting is not None:
            await aside(self._require_fitting)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread, encrypted for the new thread.

        All of the thread is decrypted before anything is written. At the end the new thread is read
        back: it holds this copy and nothing else, or an error is raised. Savers have no
        transactions, so nobody else may write to the new thread meanwhile.

        After an error, the part that was written is deleted, if the other checkpointer can delete
        threads and the new thread holds nothing else. Otherwise it stays, and a note of the error
        says so. If the process is killed meanwhile, delete the new thread yourself.

        Args:
            source_thread_id: The thread. If it has no checkpoints, nothing is written.
            target_thread_id: The new thread.

        Raises:
            ValueError: The new thread has checkpoints already, or somebody else wrote to it
                meanwhile.
            UnsealError: A checkpoint wasn't written for the thread, or can't be decrypted; or
                there were rows in the new thread that can't, or a part of the copy was deleted
                meanwhile.
            ConfigurationError: As ``put``.
        """
        configs = [each.config for each in self.list(_thread(source_thread_id))]
        copying = ThreadCopy(self._cipher, target_thread_id)
        _require_no_checkpoint(target_thread_id, self._below(target_thread_id, limit=1))
        try:
            for config in reversed(configs):
                self._compare_key()
                with reading([describe(config)]):
                    put, writes = copying.calls(_present(self._saver.get_tuple(config)))
                self._saver.put(*put)
                for each in writes:
                    self._saver.put_writes(*each)
                if config is configs[-1]:
                    # Another copy that began at the same time is noticed before more is mixed.
                    copying.require_only(self._rows_of(copying, target_thread_id))
            copying.require_only(self._rows_of(copying, target_thread_id), all_of_it=True)
        except BaseException as error:
            with _noting(error, target_thread_id):
                if copying.has_begun:
                    copying.require_only(self._rows_of(copying, target_thread_id))
                    _require_deleting(self._saver)
                    call(self._saver, "delete_thread", target_thread_id)
            raise

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As ``copy_thread``. A task that is cancelled deletes its part too."""
        source = _thread(source_thread_id)
        configs = [each.config async for each in self.alist(source)]
        copying = ThreadCopy(self._cipher, target_thread_id)
        _require_no_checkpoint(target_thread_id, await self._abelow(target_thread_id, limit=1))
        try:
            for config in reversed(configs):
                await self._acompare_key()
                with reading([describe(config)]):
                    found = await acall(self._saver, "get_tuple", config)
                    put, writes = copying.calls(_present(found))
                await acall(self._saver, "put", *put)
                for each in writes:
                    await acall(self._saver, "put_writes", *each)
                if config is configs[-1]:
                    copying.require_only(await self._arows_of(copying, target_thread_id))
            copying.require_only(await self._arows_of(copying, target_thread_id), all_of_it=True)
        except BaseException as error:
            with _noting(error, target_thread_id):
                if copying.has_begun:
                    copying.require_only(await self._arows_of(copying, target_thread_id))
                    _require_deleting(self._saver)
                    await acall(self._saver, "delete_thread", target_thread_id)
            raise

    def _below(self, thread_id: str, limit: int | None = None) -> Sequence[CheckpointTuple]:
        found = self._saver.list(_thread(thread_id), limit=limit)
        with closing(found), reading([f"a checkpoint of thread {thread_id!r:.80}"]):
            return [*found]

    async def _abelow(self, thread_id: str, limit: int | None = None) -> Sequence[CheckpointTuple]:
        if not has_async_methods(type(self._saver)):
            return await in_thread(self._below, thread_id, limit)
        found = self._saver.alist(_thread(thread_id), limit=limit)
        async with aclosing(found):
            with reading([f"a checkpoint of thread {thread_id!r:.80}"]):
                return [each async for each in found]

    def _rows_of(self, copying: ThreadCopy, thread_id: str) -> Iterator[set[Row] | None]:
        for each in [each.config for each in self._below(thread_id)]:
            with reading([describe(each)]):
                yield copying.own_rows(_present(self._saver.get_tuple(each)))

    async def _arows_of(self, copying: ThreadCopy, thread_id: str) -> list[set[Row] | None]:
        rows = []
        for each in [each.config for each in await self._abelow(thread_id)]:
            with reading([describe(each)]):
                found = await acall(self._saver, "get_tuple", each)
                rows.append(copying.own_rows(_present(found)))
        return rows


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


def _require_deleting(saver: AnySaver) -> None:
    if not has(type(saver), "delete_thread"):
        raise NotImplementedError(f"{type(saver).__name__} can't delete threads")


@contextmanager
def _noting(error: BaseException, thread_id: str) -> Iterator[None]:
    """Add to an error why a part of a copy wasn't deleted, instead of another error."""
    try:
        yield
    except Exception as reason:
        error.add_note(
            f"What was copied to thread {thread_id!r:.80} is still there: {reason}. Look at that "
            "thread and delete it, or what others have begun in it continues from a part of a copy"
        )
