"""A checkpointer with all of LangGraph's capabilities; the installed ones lack some."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from langgraph.checkpoint.memory import InMemorySaver


class WholeSaver(InMemorySaver):
    """InMemorySaver, and what it lacks. It copies threads as rows, without looking into them."""

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs, by their metadata."""
        for thread, spaces in self.storage.items():
            for ns, found in spaces.items():
                for checkpoint_id, (_, metadata, _) in [*found.items()]:
                    if self.serde.loads_typed(metadata).get("run_id") in run_ids:
                        self._delete(thread, ns, checkpoint_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the newest checkpoint of each namespace, or nothing."""
        for thread in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread)
                continue
            for ns, found in self.storage[thread].items():
                for checkpoint_id in sorted(found)[:-1]:
                    self._delete(thread, ns, checkpoint_id)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all rows of a thread."""
        self.storage[target_thread_id] = copy.deepcopy(self.storage[source_thread_id])
        for rows in (self.writes, self.blobs):
            for (thread, *key), value in [*rows.items()]:
                if thread == source_thread_id:
                    rows[(target_thread_id, *key)] = value  # type: ignore[index]

    def _delete(self, thread: str, ns: str, checkpoint_id: str) -> None:
        del self.storage[thread][ns][checkpoint_id]
        self.writes.pop((thread, ns, checkpoint_id), None)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As :meth:`delete_for_runs`."""
        self.delete_for_runs(run_ids)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As :meth:`prune`."""
        self.prune(thread_ids, strategy=strategy)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As :meth:`copy_thread`."""
        self.copy_thread(source_thread_id, target_thread_id)
