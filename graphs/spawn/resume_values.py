"""Pass a plain resume value only to the interrupt that it answers.

``Command(resume=…)`` with a value instead of a dict by interrupt ids is a plain resume value.
LangGraph passes it to the first interrupt of the resumed run, whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Command, StateSnapshot

from ..interrupts import RENAMED, RESUMED, is_interrupt_id
from .internals import (
    INTERRUPT,
    NULL_TASK,
    RESUME,
    SCRATCHPAD,
    TASK_ID,
    Configurable,
    Scratchpad,
    levels,
)

__all__ = ["waiting_tasks", "without_resume_value"]


def waiting_tasks(
    configurable: Configurable,
    graph_input: object,
    saved: StateSnapshot,
    parent: CheckpointTuple | None,
) -> frozenset[str]:
    """Return the ids of recorded tasks that may consume the plain resume value.

    These are the tasks whose interrupt was displayed. There are none if the run was resumed by
    interrupt ids or without a value: a plain value that LangGraph still stores then belongs to
    an earlier run.

    Args:
        configurable: The ``configurable`` of the call.
        graph_input: The input of the graph.
        saved: The record.
        parent: The checkpoint of the enclosing graph, if it is known.
    """
    if not _has_plain_answer(configurable, graph_input):
        return frozenset()
    displayed: set[str] | None = None
    if parent is not None:
        mine = configurable.get(TASK_ID)
        displayed = {
            getattr(each, "id", "")
            for task_id, channel, value in parent.pending_writes or ()
            if channel == INTERRUPT and task_id == mine
            for each in (value if isinstance(value, list | tuple) else (value,))
        }
    # If this spawn is the graph of another spawn's child, the other one displays its own ids.
    renamed: Callable[[str], str] = configurable.get(RENAMED) or str
    return frozenset(
        task.id
        for task in saved.tasks
        if any(
            displayed is None or not displayed.isdisjoint((each.id, renamed(each.id)))
            for each in task.interrupts
        )
    )


def _has_plain_answer(configurable: Configurable, graph_input: object) -> bool:
    # Whether the plain resume value that LangGraph stores came with this run.
    if TASK_ID not in configurable or isinstance(graph_input, Command):
        return _is_plain_resume(graph_input, None)
    for _, loop in levels(configurable):
        writes = getattr(loop, "checkpoint_pending_writes", ())
        if any(each[0] == NULL_TASK and each[1] == RESUME for each in writes):
            # LangGraph uses the value that is nearest to the call.
            mapped = loop.config.get("configurable", {}).get(RESUMED)
            return _is_plain_resume(loop.input, mapped)
    return False


def without_resume_value(configurable: Configurable) -> Configurable:
    """Return keys for ``configurable`` that keep a plain resume value from nested runs.

    LangGraph passes such a value to the first interrupt, whichever it is.

    Args:
        configurable: The ``configurable`` of a task.
    """
    pad: Scratchpad | None = configurable.get(SCRATCHPAD)
    if pad is None or not hasattr(pad, "get_null_resume") or pad.get_null_resume(False) is None:
        # There is no resume value.
        return {}
    # A new function for each task, because calls are counted by it.
    return {SCRATCHPAD: replace(pad, get_null_resume=partial(_no_resume_value))}


def _is_plain_resume(graph_input: object, mapped: object) -> bool:
    # LangGraph treats a dict whose keys are all interrupt ids as answers by id.
    resume = graph_input.resume if isinstance(graph_input, Command) else None
    if resume is None or resume is mapped:
        return False
    return not isinstance(resume, dict) or not all(map(is_interrupt_id, resume))


def _no_resume_value(consume: bool = False) -> None:
    return None
