"""Read the data that LangGraph keeps about a running task.

LangGraph has no public names for it. All such keys are in this module, and ``test_spawn_calls.py``
fails if a version of LangGraph changes their meaning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field
from functools import partial
from typing import Any, ClassVar, Final, Protocol, TypeAlias, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.channels.base import BaseChannel
from langgraph.types import PregelExecutableTask

from ..steps import GraphStep
from ..types import AnyGraph

__all__ = [
    "Configurable",
    "Loop",
    "Scratchpad",
    "first_step",
    "is_the_node",
    "keeps_checkpoints",
    "levels",
    "task_of",
]

# LangChain's type of `configurable`.
Configurable: TypeAlias = Mapping[str, Any]

# Keys of `configurable`. The first four are documented, and address a checkpoint.
THREAD_ID: Final = "thread_id"
NAMESPACE: Final = "checkpoint_ns"
CHECKPOINT_ID: Final = "checkpoint_id"
ANCESTORS: Final = "checkpoint_map"
TASK_ID: Final = "__pregel_task_id"
SAVER: Final = "__pregel_checkpointer"
RESUMING: Final = "__pregel_resuming"
REPLAYING: Final = "__pregel_replay_state"
RUNTIME: Final = "__pregel_runtime"
# Counters of a task: of its interrupts, and of the graphs that it called.
SCRATCHPAD: Final = "__pregel_scratchpad"
# The function with which a task calls `@task` functions: a partial with the task and its loop.
_CALL: Final = "__pregel_call"
# The channel of a task's interrupt among the pending writes.
INTERRUPT: Final = "__interrupt__"
# The first item of the path of a task that `Send` made.
PUSH: Final = "__pregel_push"
# The id under which LangGraph stores a plain resume value among the pending writes.
NULL_TASK: Final = "00000000-0000-0000-0000-000000000000"
RESUME: Final = "__resume__"
SEPARATOR: Final = "|"


class Scratchpad(Protocol):
    """The counters of a task, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    get_null_resume: Callable[[bool], object]


class Node(Protocol):
    """A node of a graph."""

    channels: str | list[str]
    bound: Runnable[Any, Any]


class Loop(Protocol):
    """The loop that runs a graph."""

    config: RunnableConfig
    input: object
    nodes: Mapping[str, Node]
    channels: Mapping[str, BaseChannel[Any, Any, Any]]
    checkpoint_pending_writes: Sequence[tuple[str, str, object]]
    checkpointer: object


def levels(conf: Configurable) -> Iterator[tuple[Configurable, Loop]]:
    """Yield the configuration of the task that makes a call, with its loop, and so on outwards."""
    while (loop := _loop_of(conf)) is not None:
        yield conf, loop
        conf = (getattr(loop, "config", None) or {}).get("configurable") or {}


def keeps_checkpoints(conf: Configurable) -> bool:
    """Return whether the graph of a task can be resumed where it is."""
    if not conf.get(SAVER):
        return False
    # The outer graph's saver is here too if this graph is compiled with checkpointer=False.
    loop = _loop_of(conf)
    return loop is None or loop.checkpointer is not None


def task_of(conf: Configurable) -> PregelExecutableTask | None:
    """Return the task that a configuration belongs to."""
    call = _caller_of(conf)
    return call.args[0]() if call is not None and call.args else None


def _loop_of(conf: Configurable) -> Loop | None:
    call = _caller_of(conf)
    method = None if call is None else call.keywords.get("schedule_task")
    return cast("Loop | None", getattr(method, "__self__", None))


def _caller_of(conf: Configurable) -> partial[Any] | None:
    call = conf.get(_CALL)
    while inspect.isfunction(call):
        # A node with a timeout wraps it in a function that checks the time.
        call = inspect.getclosurevars(call).nonlocals.get("call")
    return call if isinstance(call, partial) else None


def is_the_node(graph: AnyGraph, conf: Configurable) -> bool:
    """Return whether a graph is itself the node whose task has this configuration."""
    first = first_step(getattr(task_of(conf), "proc", None))
    if type(first) is GraphStep:
        # A child's step calls its graph once.
        return first.deps == [graph]
    return first is graph


def first_step(runnable: object) -> object:
    """Return the first step of a sequence, or the runnable itself."""
    return next(iter(getattr(runnable, "steps", (runnable,))), None)
