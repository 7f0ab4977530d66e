"""What a task has written, and which rows belong together.

A saver stores each write of a ``put_writes`` call as a row. The number of a row is its index in the
call; each special channel (errors, questions, answers, scheduled tasks) has a number of its own.
Several calls may be about one task: a row that is there already stays or is replaced, and none is
deleted. So if one row of a call is there, all its numbers are taken, by that call or another one.
If some aren't, the task looks done, and a node that it leads to may not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from langgraph.checkpoint.base import WRITES_IDX_MAP

from pipelit_agents.errors import UnsealError

__all__ = ["Call", "StoredWrite", "call_of", "require_whole_calls"]

# How many writes a call had, and the index and the number of those to special channels. It is part
# of each write that is sealed, so it stays small in a call with many writes.
Call: TypeAlias = tuple[int, tuple[tuple[int, int], ...]]


class StoredWrite(NamedTuple):
    """A write of a task.

    Attributes:
        task: The id of the task.
        path: Its path, by which LangGraph orders the tasks of a step.
        position: The index of the write among those that were written with it.
        call: Those that were written with it.
        name: The channel.
        value: What was written.
    """

    task: str
    path: str
    position: int
    call: Call
    name: str
    value: object

    @property
    def number(self) -> int:
        """The number of its row among those of the task."""
        return WRITES_IDX_MAP.get(self.name, self.position)


def call_of(writes: Sequence[tuple[str, object]]) -> Call:
    """Describe a call of ``put_writes``."""
    special = [
        (position, WRITES_IDX_MAP[name])
        for position, (name, _) in enumerate(writes)
        if name in WRITES_IDX_MAP
    ]
    return len(writes), tuple(special)


def require_whole_calls(writes: Iterable[StoredWrite]) -> None:
    """Require that no row is missing of a call that has rows.

    Args:
        writes: All writes of one checkpoint.

    Raises:
        UnsealError: A row is missing.
    """
    taken: dict[str, set[int]] = {}
    calls: dict[tuple[str, Call], str] = {}
    for each in writes:
        taken.setdefault(each.task, set()).add(each.number)
        calls[each.task, each.call] = each.name
    for (task, (length, special)), name in calls.items():
        numbers = dict(special)
        if any(numbers.get(at, at) not in taken[task] for at in range(length)):
            raise UnsealError(
                f"a write of task {task!r:.80} is missing that was stored together with its "
                f"write of {name!r:.80}"
            )
