"""Find out whether an earlier turn of a thread already did the tasks in its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from langgraph.constants import START
from langgraph.pregel import Pregel

from ..types import AnyGraph
from .internals import PUSH, Configurable, Loop, first_step, is_the_node, levels, task_of

__all__ = ["is_repeat"]

# A version of a channel. Savers choose the type.
V = TypeVar("V", int, float, str)

# For each loop that runs a graph: whether the tasks of a version were done in an earlier turn.
_DONE: Final[WeakKeyDictionary[Loop, dict[int | float | str, bool]]] = WeakKeyDictionary()


def is_repeat(graph: AnyGraph, configurable: Configurable) -> bool:
    """Return whether the node would repeat tasks that a node did in an earlier turn.

    That is so if a new input arrived since, and the tasks weren't written since then. A loop within
    one turn isn't a repeat, nor is a ``Send``, which carries its own tasks. A graph that is a node
    gets its tasks from the enclosing graph, which is examined if no node inside wrote tasks.

    Args:
        graph: The spawn graph.
        configurable: The ``configurable`` of its call.
    """
    if not is_the_node(graph, configurable):
        return False
    for conf, loop in levels(configurable):
        task = task_of(conf)
        if task is None or task.path[:1] == (PUSH,):
            return False
        if not isinstance(first_step(task.proc), Pregel):
            # A function chooses the tasks of the graphs that it calls.
            return False
        checkpoint = getattr(loop, "checkpoint", None) or {}
        versions = checkpoint.get("channel_versions", {})
        written, turn = versions.get("tasks"), versions.get(START)
        if written is None or turn is None:
            return False
        if written < turn:
            seen = checkpoint.get("versions_seen", {})
            return _was_done(loop, seen, versions, written)
        if written > turn:
            # A node of this graph wrote the tasks, not its input.
            return False
    return False


def _was_done(
    loop: Loop,
    seen: Mapping[str, Mapping[str, V]],
    versions: Mapping[str, V],
    written: V,
) -> bool:
    """Return whether tasks that were written before this turn were also done before it.

    Args:
        loop: The loop that runs the graph.
        seen: For each node, the channel versions that it last ran with.
        versions: The present channel versions.
        written: The version of the tasks channel.
    """
    known = _DONE.setdefault(loop, {})
    if written in known:
        return known[written]
    turn = versions[START]
    before = again = False
    for name, node in loop.nodes.items():
        if not seen.get(name) or "tasks" not in node.channels or not _does_tasks(node.bound):
            continue
        last = max(seen[name].values())
        again = again or last > turn
        # A graph that does the tasks writes them back with its results, at the end of its step.
        echoed = versions.get("results") == written and _number(written) == _number(last) + 1
        before = before or ((written <= last or echoed) and last < turn)
    if again and not before:
        # A node ran in this turn before the run was interrupted: empty results mean a repeat.
        results = loop.channels.get("results")
        before = results is not None and results.is_available() and not results.get()
    known[written] = before
    return before


def _number(version: object) -> int:
    # Savers count versions. Some append more after a dot.
    return int(str(version).partition(".")[0])


def _does_tasks(runnable: object) -> bool:
    # Whether a node is a spawn, or a graph with such a node.
    graph = first_step(runnable)
    if not isinstance(graph, Pregel):
        return False
    return hasattr(graph, "terms") or any(
        "tasks" in node.channels and _does_tasks(node.bound) for node in graph.nodes.values()
    )
