"""Share the data of one run of a spawn node with its children, outside any state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.types import StateSnapshot

from pipelit_agents.errors import SpawnError

from ..child import DEPTH
from .results import MAX_LISTED_FAILURES, Order, SpawnResult, error_in_words
from .tasks import ReadTask

__all__ = ["Run", "depth_of", "run_of", "spawn_error"]

EVENT: Final = "pipelit.spawn"
RUN: Final = "__pipelit_run"
_MAX_DEPTH: Final = 1_000_000


class Run:
    """The data that one run of the node shares with its children, outside any state."""

    def __init__(self, write: Callable[[object], None] | None) -> None:
        self.write = write
        self.results: dict[int, SpawnResult] = {}
        # The tasks, if they had to be read before the run begins.
        self.read: list[ReadTask] | None = None
        # Whether an earlier turn answered these tasks, and none were written since.
        self.repeats = False
        # Whether the run is outside a graph and has no saver, so that no interrupt can be answered.
        self.alone = False
        # The ids of tasks that wait for a person's answer and whose interrupt was displayed.
        self.waiting: frozenset[str] = frozenset()
        # When a child last proved possession of its secret, in seconds by the lead's clock.
        self.possession_proven: dict[str, float] = {}
        # The running checks of possession, on the event loop.
        self.proving_possession: dict[str, asyncio.Future[None]] = {}

    def emit(self, event: str, order: Order, **more: object) -> None:
        """Emit an event of a task to the stream of the caller."""
        # Without a parent graph the node's own stream is the caller's stream.
        write = self.write or get_stream_writer()
        write(
            {"type": EVENT, "event": event, "agent": order["agent"], "index": order["index"]} | more
        )

    def load_saved_results(self, saved: StateSnapshot) -> None:
        """Load the results that an earlier run of these tasks saved."""
        # A resume runs only the failed tasks. An earlier run verified the others.
        for task in saved.tasks:
            for answer in (task.result or {}).get("answers", []):
                self.results.setdefault(answer["index"], answer["result"])


def spawn_error(run: Run) -> SpawnError:
    """Return the error that lists the tasks without a verified answer."""
    results = [run.results[index] for index in sorted(run.results)]
    failed = [index for index in sorted(run.results) if run.results[index]["status"] != "verified"]
    listed = [
        f"tasks[{index}], {run.results[index]['agent']}: {run.results[index]['status']} "
        f"({error_in_words(run.results[index])})"
        for index in failed[:MAX_LISTED_FAILURES]
    ]
    if len(failed) > MAX_LISTED_FAILURES:
        listed.append(f"and {len(failed) - MAX_LISTED_FAILURES} more, in the error's results")
    return SpawnError(
        "not every child gave a verified answer: " + "; ".join(listed), results=results
    )


def depth_of(config: RunnableConfig) -> int:
    """Return how many spawns enclose the running one."""
    # The caller of a served graph can put any value here.
    depth = config.get("configurable", {}).get(DEPTH, 0)
    return min(max(depth, 0), _MAX_DEPTH) if type(depth) is int else 0


def run_of(config: RunnableConfig) -> Run:
    """Return the run that a configuration belongs to, or a new one."""
    run = config.get("configurable", {}).get(RUN)
    return run if isinstance(run, Run) else Run(None)
