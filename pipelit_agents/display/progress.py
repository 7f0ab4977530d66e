"""The progress of spawned tasks: a table that changes in a notebook, and lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Protocol, TextIO

from pipelit_agents.display.tables import BAD, GOOD, status_html
from pipelit_agents.display.text import printable

__all__ = ["Progress", "afollow", "follow"]

# The type of the events that `spawn_and_await` emits.
_EVENT: Final = "pipelit.spawn"
_STEPS: Final = {"spawned": 1, "running": 2, "verified": 3, "refused": 3, "failed": 3}
_DONE: Final = 3
# Rows of the table; of more tasks only the numbers are displayed.
_MAX_ROWS: Final = 50
_MAX_NAME: Final = 64
_MAX_ERROR: Final = 200
# Seconds between two updates of a notebook, so that thousands of tasks don't hold up the kernel.
_PACE: Final = 0.1
_BLUE = "#0969da"
_CELL: Final = "text-align:left;padding:3px 14px 3px 0;overflow-wrap:anywhere"


class _Streams(Protocol):
    def stream(self, input: Any, config: Any = None, *, stream_mode: Any) -> Iterator[Any]: ...  # noqa: A002 - LangGraph's name


class _StreamsAsync(Protocol):
    def astream(
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        config: Any = None,
        *,
        stream_mode: Any,
    ) -> AsyncIterator[Any]: ...


@dataclass(slots=True)
class _Task:
    agent: str
    index: int
    event: str
    error: str = ""


class Progress:
    """The progress of spawned tasks: a table that changes in a notebook, a line an event elsewhere.

    Use it as a context manager, and pass it the events of LangGraph's custom stream. ``follow``
    does both.

    Args:
        file: Where the lines are written if this isn't a notebook; standard output by default.

    Example:
        ```python
        with Progress() as progress:
            for event in graph.stream({"tasks": tasks}, stream_mode="custom"):
                progress.update(event)
        ```
    """

    def __init__(self, *, file: TextIO | None = None) -> None:
        self._file = file
        self._tasks: list[_Task] = []
        # The newest task of each index.
        self._newest: dict[tuple[str, int], _Task] = {}
        self._handle: Any = None
        self._shown_at = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._refresh()

    def update(self, event: object) -> None:
        """Take one event of the stream; events of others are ignored.

        Args:
            event: What ``stream_mode="custom"`` yields.
        """
        task = self._task_of(event)
        if task is None:
            return
        if not _in_notebook():
            error = f" ({task.error})" if task.error else ""
            out = self._file or sys.stdout
            out.write(f"{task.agent} [{task.index}]: {task.event}{error}\n")
        elif self._handle is None:
            from IPython.display import display

            self._handle = display(self, display_id=True)
            self._shown_at = time.monotonic()
        elif time.monotonic() - self._shown_at >= _PACE:
            self._refresh()

    def _refresh(self) -> None:
        if self._handle is not None:
            self._handle.update(self)
            self._shown_at = time.monotonic()

    def _task_of(self, event: object) -> _Task | None:
        """Return the task of an event, as it is after it; None if it isn't an event of a spawn."""
        if not isinstance(event, Mapping) or event.get("type") != _EVENT:
            return None
        agent, index, step = event.get("agent"), event.get("index"), event.get("event")
        if type(agent) is not str or type(index) is not int or type(step) is not str:
            return None
        if step not in _STEPS:
            return None
        agent = _line(agent, _MAX_NAME)
        task = self._newest.get((agent, index))
        if task is None or (step == "spawned" and task.event != "spawned"):
            # Another spawn of the run has tasks of the same numbers.
            task = self._newest[agent, index] = _Task(agent, index, step)
            self._tasks.append(task)
        task.event = step
        task.error = _line(str(event.get("error") or ""), _MAX_ERROR)
        return task

    def __repr__(self) -> str:
        return "\n".join(
            [self._summary(), *(f"{_title(each)}: {each.event}" for each in self._rows())]
        )

    def _repr_html_(self) -> str:
        rows = "".join(map(_row, self._rows()))
        left_out = len(self._tasks) - len(self._rows())
        more = f"<div>and {left_out} more tasks</div>" if left_out else ""
        return (
            "<div style='overflow-x:auto;max-width:100%'>"
            f"<div><b>{self._summary()}</b></div><table><tbody>{rows}</tbody></table>{more}</div>"
        )

    def _rows(self) -> list[_Task]:
        return self._tasks[:_MAX_ROWS]

    def _summary(self) -> str:
        done = sum(_STEPS[each.event] == _DONE for each in self._tasks)
        verified = sum(each.event == "verified" for each in self._tasks)
        counted = f"{done} of {len(self._tasks)} tasks done"
        return f"{counted}, {verified} verified" if done else counted


def follow(graph: _Streams, input: Any, config: Any = None) -> Any:  # noqa: A002 - as of invoke
    """Run a graph as ``invoke`` does, and display how far its spawned tasks are.

    Args:
        graph: A compiled graph with a ``spawn_and_await`` node, or that node itself.
        input: Its input, or a ``Command``.
        config: Its configuration.

    Returns:
        What ``invoke`` returns: the last state, with ``__interrupt__`` if the graph waits for a
        person.

    Example:
        ```python
        state = follow(graph, {"tasks": tasks})
        state["results"]
        ```
    """
    run = _Run()
    with run.progress:
        for mode, chunk in graph.stream(input, config, stream_mode=_MODES):
            run.take(mode, chunk)
    return run.state()


async def afollow(graph: _StreamsAsync, input: Any, config: Any = None) -> Any:  # noqa: A002 - as of ainvoke
    """Do the same as ``follow`` on the event loop, with ``astream``.

    Args:
        graph: A compiled graph with a ``spawn_and_await`` node, or that node itself.
        input: Its input, or a ``Command``.
        config: Its configuration.

    Returns:
        What ``ainvoke`` returns.
    """
    run = _Run()
    with run.progress:
        async for mode, chunk in graph.astream(input, config, stream_mode=_MODES):
            run.take(mode, chunk)
    return run.state()


_MODES: Final = ["custom", "updates", "values"]
_INTERRUPT: Final = "__interrupt__"


class _Run:
    """What is kept of the stream of one run."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._values: Any = None
        self._interrupts: list[Any] = []

    def take(self, mode: str, chunk: Any) -> None:
        if mode == "custom":
            self.progress.update(chunk)
        elif mode == "values":
            self._values = chunk
        elif isinstance(chunk, dict) and _INTERRUPT in chunk:
            self._interrupts.extend(chunk[_INTERRUPT])

    def state(self) -> Any:
        if not self._interrupts:
            return self._values
        values = self._values if isinstance(self._values, dict) else {}
        return {**values, _INTERRUPT: self._interrupts}


def _in_notebook() -> bool:
    """Return whether IPython runs in a kernel; a terminal's IPython can't update what it showed."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _line(text: str, most: int) -> str:
    shown = printable(text[:most]).replace("\n", " ")
    return shown if len(text) <= most else f"{shown}…"


def _title(task: _Task) -> str:
    return f"{task.agent} [{task.index}]"


def _row(task: _Task) -> str:
    step = _STEPS[task.event]
    colour = _BLUE if step < _DONE else GOOD if task.event == "verified" else BAD
    share = round(100 * step / _DONE)
    bar = (
        "<div style='width:120px;height:8px;border-radius:4px;background:rgba(128,128,128,.3)'>"
        f"<div style='width:{share}%;height:8px;border-radius:4px;background:{colour}'></div></div>"
    )
    error = f"<br>{escape(task.error)}" if task.error else ""
    return (
        f"<tr><td style='{_CELL}'>{escape(_title(task))}</td><td style='{_CELL}'>{bar}</td>"
        f"<td style='{_CELL}'>{status_html(task.event)}{error}</td></tr>"
    )
