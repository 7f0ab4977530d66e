"""What one run of a spawn node shares with its children, outside any state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.types import StateSnapshot

from pipelit_agents.errors import (
    SpawnError,
)

from ..child import DEPTH
from .plan import ReadTask
from .results import MAX_LISTED_FAILURES, Order, SpawnResult

__all__ = ["Run", "depth_of", "run_of", "spawn_error"]

EVENT: Final = "pipelit.spawn"
RUN: Final = "__pipelit_run"
_DEEPEST: Final = 1_000_000


class Run:
    """What one run of the node shares with its children, outside any state."""

    def __init__(self, write: Callable[[Any], None] | None) -> None:
        self.write = write
        self.results: dict[int, SpawnResult] = {}
        # The tasks, where they had to be read before the run begins.
        self.read: list[ReadTask] | None = None
        # These tasks were answered in an earlier turn, and nobody wrote any since.
        self.repeats = False
        # In no graph, and without a saver: nobody can be asked.
        self.alone = False
        # The tasks of the spawn that wait for a person's answer, and whose question was shown.
        self.waiting: frozenset[str] = frozenset()
        # When a child last showed that it holds its secret, by the lead's clock.
        self.shown: dict[str, float] = {}
        # The children that are being asked to, on the event loop.
        self.showing: dict[str, asyncio.Future[None]] = {}

    def tell(self, event: str, order: Order, **more: Any) -> None:
        """Emit an event of a task to the stream of the caller."""
        # Without a parent around it the node's own stream is the caller's.
        write = self.write or get_stream_writer()
        write(
            {"type": EVENT, "event": event, "agent": order["agent"], "index": order["index"]} | more
        )

    def learn(self, saved: StateSnapshot) -> None:
        """Load the results that an earlier run of these tasks has saved."""
        # A resume runs only what failed; the others were verified by an earlier run.
        for task in saved.tasks:
            for answer in (task.result or {}).get("answers", []):
                self.results.setdefault(answer["index"], answer["result"])


def spawn_error(run: Run) -> SpawnError:
    """Return the error that lists the tasks without a verified answer."""
    results = [run.results[index] for index in sorted(run.results)]
    failed = [index for index in sorted(run.results) if run.results[index]["status"] != "verified"]
    told = [
        f"tasks[{index}], {run.results[index]['agent']}: {run.results[index]['status']} "
        f"({run.results[index]['error']})"
        for index in failed[:MAX_LISTED_FAILURES]
    ]
    if len(failed) > MAX_LISTED_FAILURES:
        told.append(f"and {len(failed) - MAX_LISTED_FAILURES} more, in the error's results")
    return SpawnError("not every child gave a verified answer: " + "; ".join(told), results=results)


def depth_of(config: RunnableConfig) -> int:
    """Return how many spawns are around the one that runs."""
    # Only ours counts: whoever calls a served graph can say anything here.
    depth = config.get("configurable", {}).get(DEPTH, 0)
    return min(max(depth, 0), _DEEPEST) if type(depth) is int else 0


def run_of(config: RunnableConfig) -> Run:
    """Return the run that a configuration belongs to, or a new one."""
    run = config.get("configurable", {}).get(RUN)
    return run if isinstance(run, Run) else Run(None)
