"""Identify the calls of a spawn graph by their input.

LangGraph stores a nested run under the namespace of the calling task and a number: the first graph
that the task calls, the second, and so on. A resumed nested run ignores its input. After an
interrupt, a crash or a retry, a task that calls its graphs in another order, or leaves one out,
would therefore get the recorded answer of another call. This module derives the number from the
input, so that a call finds its own record or none.

LangGraph has no public names for a task's internal data. All such keys are in this module, and
``tests/test_spawn_calls.py`` fails if a version of LangGraph changes their meaning.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.config import get_config
from langgraph.constants import START
from langgraph.pregel import Pregel
from langgraph.types import Command, StateSnapshot

from pipelit_agents.errors import ConfigurationError

from ..codec import state_to_bytes
from ..interrupts import RENAMED, RESUMED, is_interrupt_id
from ..steps import GraphStep

__all__ = ["Call", "keyed_by_input", "without_resume_value"]

# Keys of `configurable`. The first four are documented, and address a checkpoint.
_THREAD_ID: Final = "thread_id"
_NAMESPACE: Final = "checkpoint_ns"
_CHECKPOINT_ID: Final = "checkpoint_id"
_ANCESTORS: Final = "checkpoint_map"
_ADDRESS: Final = (_THREAD_ID, _NAMESPACE, _CHECKPOINT_ID, _ANCESTORS)
_TASK_ID: Final = "__pregel_task_id"
_SAVER: Final = "__pregel_checkpointer"
_RESUMING: Final = "__pregel_resuming"
_REPLAYING: Final = "__pregel_replay_state"
_RUNTIME: Final = "__pregel_runtime"
# Counters of a task: of its interrupts, and of the graphs that it called.
_SCRATCHPAD: Final = "__pregel_scratchpad"
# The function with which a task calls `@task` functions: a partial with the task and its loop.
_CALL: Final = "__pregel_call"
# The channel of a task's interrupt among the pending writes.
_INTERRUPT: Final = "__interrupt__"
# The first item of the path of a task that `Send` made.
_PUSH: Final = "__pregel_push"
# The id under which LangGraph stores a plain resume value among the pending writes.
_NULL_TASK: Final = "00000000-0000-0000-0000-000000000000"
_RESUME: Final = "__resume__"
_SEPARATOR: Final = "|"

# For each run of a task: how often it made each request, by attempt. The key lives as long as the
# task runs. A retry has the same key.
_COUNTS: Final[weakref.WeakKeyDictionary[Any, dict[Any, Iterator[int]]]] = (
    weakref.WeakKeyDictionary()
)
# For each run of a task: the graph that made a request first, by digest.
_FIRST_GRAPHS: Final[weakref.WeakKeyDictionary[Any, dict[bytes, Any]]] = weakref.WeakKeyDictionary()

# For each loop that runs a graph: whether the tasks of a version were done in an earlier turn.
_DONE: Final[weakref.WeakKeyDictionary[Any, dict[Any, bool]]] = weakref.WeakKeyDictionary()


class Call:
    """One call of a graph, and how LangGraph will run it.

    Args:
        graph: The graph.
        config: The configuration of the call.
    """

    def __init__(self, graph: Any, config: RunnableConfig | None) -> None:
        self._graph = graph
        self.configurable = _effective(graph.config, config)

    @property
    def nested(self) -> bool:
        """Whether a task of another graph makes the call."""
        return _TASK_ID in self.configurable

    @property
    def saver(self) -> BaseCheckpointSaver[Any] | None:
        """The saver with the record of an earlier run, if there is one."""
        if self._graph.checkpointer is False:
            return None
        found = self.configurable.get(_SAVER) or self._graph.checkpointer
        return found if isinstance(found, BaseCheckpointSaver) else None

    @property
    def resuming(self) -> bool:
        """Whether LangGraph would continue from a record and ignore the input.

        A root run also continues if the run's id is that of the record.
        """
        conf = self.configurable
        if self.saver is None or conf.get(_REPLAYING):
            return False
        return bool(conf.get(_RESUMING)) if self.nested else conf.get(_THREAD_ID) is not None

    def assign_namespace(
        self, digest: Callable[[], bytes], same: Callable[[Any], bool] = lambda _: True
    ) -> None:
        """Give a nested call a namespace that depends on its input.

        A graph that is itself the node keeps the task's namespace, where
        ``get_state(subgraphs=True)`` looks. A task makes only one such call, with its own input.

        Args:
            digest: Returns a digest of the call's input. Called only if it is needed.
            same: Whether another graph, to which this task made the same request, may share a
                record with this one.

        Raises:
            ConfigurationError: LangGraph's counters have moved; or the same request was made to
                another graph, so that only the order of calls distinguishes them.
        """
        if not self.nested or self.saver is None:
            return
        conf = self.configurable
        pad: Any = conf.get(_SCRATCHPAD)
        try:
            counts = _COUNTS.setdefault(pad.get_null_resume, {})
            # A separate counter for this call: its number doesn't depend on other graphs' numbers.
            conf[_SCRATCHPAD] = replace(pad, subgraph_counter=itertools.count().__next__)
        except (AttributeError, TypeError) as error:
            raise ConfigurationError(
                "pipelit-agents can't distinguish nested runs with this version of LangGraph: "
                "install a version that it supports (see pyproject.toml)"
            ) from error
        attempt = self._attempt()
        if self._is_the_node() and _next(counts, (attempt, b"")) == 0:
            return
        request = digest()
        first = _FIRST_GRAPHS.setdefault(pad.get_null_resume, {}).setdefault(request, self._graph)
        if first is not self._graph and not same(first):
            raise ConfigurationError(
                f"two spawn graphs with the name {self._graph.get_name()!r} and the same lead get "
                "the same tasks in one node, so a resumed run couldn't find its own record: give "
                "each graph a different name, spawn_and_await(…, name=…)"
            )
        nth = _next(counts, (attempt, request))
        number = hashlib.sha256(b"%b\0%d" % (request, nth)).digest()
        # Only digits, like LangGraph's own numbers: it ignores such parts of a namespace when it
        # looks for a node.
        own = str(int.from_bytes(number, "big"))
        conf[_NAMESPACE] = _SEPARATOR.join((conf[_NAMESPACE], own))

    def restart(self) -> None:
        """Make LangGraph use the input and ignore the record."""
        self.configurable[_RESUMING] = False

    def withhold_resume_value(self) -> None:
        """Keep a plain resume value, which answers another interrupt, from this call."""
        self.configurable.update(
            without_resume_value(RunnableConfig(configurable=self.configurable))
        )

    def record_config(self) -> RunnableConfig:
        """Return the configuration with which ``get_state`` finds this call's record."""
        conf = {key: value for key, value in self.configurable.items() if key != _CHECKPOINT_ID}
        chosen = self.configurable.get(_CHECKPOINT_ID) or (
            self.configurable.get(_ANCESTORS) or {}
        ).get(conf.get(_NAMESPACE))
        if chosen:
            conf[_CHECKPOINT_ID] = chosen
        return RunnableConfig(configurable=conf)

    def is_repeat(self) -> bool:
        """Return whether the node would repeat tasks that a node did in an earlier turn.

        That is so if a new input arrived since, and the tasks weren't written since then. A loop
        within one turn isn't a repeat, nor is a ``Send``, which carries its own tasks. A graph that
        is a node gets its tasks from the enclosing graph, which is examined if no node inside wrote
        tasks.
        """
        if not self._is_the_node():
            return False
        for conf in self._levels():
            loop, task = _loop_of(conf), _task_of(conf)
            if task is None or task.path[:1] == (_PUSH,):
                return False
            if not isinstance(_first_step(task.proc), Pregel):
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

    def waiting(
        self, graph_input: Any, saved: StateSnapshot, parent: CheckpointTuple | None
    ) -> frozenset[str]:
        """Return the ids of recorded tasks that may consume the plain resume value.

        These are the tasks whose interrupt was displayed. There are none if the run was resumed by
        interrupt ids or without a value: a plain value that LangGraph still stores then belongs to
        an earlier run.

        Args:
            graph_input: The input of the graph.
            saved: The record.
            parent: The checkpoint of the enclosing graph, if it is known.
        """
        if not self._has_plain_answer(graph_input):
            return frozenset()
        displayed: set[str] | None = None
        if parent is not None:
            mine = self.configurable.get(_TASK_ID)
            displayed = {
                getattr(each, "id", "")
                for task_id, channel, value in parent.pending_writes or ()
                if channel == _INTERRUPT and task_id == mine
                for each in (value if isinstance(value, list | tuple) else (value,))
            }
        # If this spawn is the graph of another spawn's child, the other one displays its own ids.
        renamed: Callable[[str], str] = self.configurable.get(RENAMED) or str
        return frozenset(
            task.id
            for task in saved.tasks
            if any(
                displayed is None or not displayed.isdisjoint((each.id, renamed(each.id)))
                for each in task.interrupts
            )
        )

    def _has_plain_answer(self, graph_input: Any) -> bool:
        # Whether the plain resume value that LangGraph stores came with this run.
        if not self.nested or isinstance(graph_input, Command):
            return _is_plain_resume(graph_input, None)
        for conf in self._levels():
            loop = _loop_of(conf)
            writes = getattr(loop, "checkpoint_pending_writes", ())
            if any(each[0] == _NULL_TASK and each[1] == _RESUME for each in writes):
                # LangGraph uses the value that is nearest to the call.
                mapped = loop.config.get("configurable", {}).get(RESUMED)
                return _is_plain_resume(loop.input, mapped)
        return False

    def _levels(self) -> Iterator[Mapping[str, Any]]:
        # The configuration of the task that makes this call, of the enclosing task, and so on.
        conf: Mapping[str, Any] = self.configurable
        while (loop := _loop_of(conf)) is not None:
            yield conf
            conf = (getattr(loop, "config", None) or {}).get("configurable") or {}

    def parent(self) -> CheckpointTuple | None:
        """Return the checkpoint of the enclosing graph, if there is one."""
        for config in self._parents():
            if self.saver is not None and (found := self.saver.get_tuple(config)) is not None:
                return found
        return None

    async def aparent(self) -> CheckpointTuple | None:
        """Async form of :meth:`parent`."""
        for config in self._parents():
            if self.saver is None:
                continue
            if (found := await self.saver.aget_tuple(config)) is not None:
                return found
        return None

    def _parents(self) -> Iterator[RunnableConfig]:
        # The configurations where it may be, nearest first.
        ancestors = self.configurable.get(_ANCESTORS) or {}
        parts = str(self.configurable.get(_NAMESPACE, "")).split(_SEPARATOR)
        while parts:
            parts.pop()
            namespace = _SEPARATOR.join(parts)
            # A `@task` has its caller's namespace, without a checkpoint, before its loop's.
            if namespace in ancestors:
                yield RunnableConfig(
                    configurable={
                        _THREAD_ID: self.configurable.get(_THREAD_ID),
                        _NAMESPACE: namespace,
                        _CHECKPOINT_ID: ancestors[namespace],
                    }
                )

    def _attempt(self) -> int:
        info = getattr(self.configurable.get(_RUNTIME), "execution_info", None)
        return getattr(info, "node_attempt", 1)

    def _is_the_node(self) -> bool:
        first = _first_step(getattr(_task_of(self.configurable), "proc", None))
        if type(first) is GraphStep:
            # A child's step calls its graph once.
            return first.deps == [self._graph]
        return first is self._graph


class _KeyedByInput(Runnable[Any, Any]):
    """Call a graph in a namespace that depends on its input."""

    def __init__(self, graph: Pregel[Any, Any, Any, Any]) -> None:
        self.name = graph.get_name()
        self._graph = graph

    def invoke(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002 - the name that LangChain calls it by
        """Invoke the graph."""
        call = self._call_of(input, config)
        if call.resuming:
            saved = self._graph.get_state(call.record_config())
            if not call.waiting(input, saved, call.parent()):
                call.withhold_resume_value()
        return self._graph.invoke(input, _call_config(config, call), **options)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - the name that LangChain calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Any:
        """Async form of :meth:`invoke`."""
        call = self._call_of(input, config)
        if call.resuming:
            saved = await self._graph.aget_state(call.record_config())
            if not call.waiting(input, saved, await call.aparent()):
                call.withhold_resume_value()
        return await self._graph.ainvoke(input, _call_config(config, call), **options)

    def _call_of(self, graph_input: Any, config: RunnableConfig | None) -> Call:
        def digest() -> bytes:
            name = self._graph.get_name().encode()
            head = b"pipelit-agents/graph-call/v1\0" + len(name).to_bytes(8, "big") + name
            return hashlib.sha256(head + state_to_bytes(graph_input)).digest()

        call = Call(self._graph, config)
        call.assign_namespace(digest)
        return call


def keyed_by_input(graph: Pregel[Any, Any, Any, Any]) -> Runnable[Any, Any]:
    """Make LangGraph resume a graph, which a node, tool or task calls, by its input.

    LangGraph finds such a run by the order of calls, and a resumed run ignores its input. If a call
    is left out or moved when its node runs again, another call gets its state, including the
    results of a spawn inside it. Spawn graphs and graphs that are nodes don't need this wrapper.

    Args:
        graph: A compiled graph. If one node calls two graphs with equal inputs, give them different
            names: ``builder.compile(name=…)``.

    Returns:
        A runnable with ``invoke`` and ``ainvoke``. They raise ``PayloadError`` if the input can't
        be written as JSON or messages.

    Raises:
        TypeError: ``graph`` isn't a compiled graph.

    Example:
        ```python
        research = keyed_by_input(builder.compile())


        def node(state):
            return {"found": [research.invoke({"q": q})["a"] for q in state["questions"]]}
        ```
    """
    if not isinstance(graph, Pregel):
        raise TypeError(f"graph must be a compiled graph, not {type(graph).__name__}")
    return _KeyedByInput(graph)


def _call_config(config: RunnableConfig | None, call: Call) -> RunnableConfig:
    return cast(RunnableConfig, {**(config or {}), "configurable": call.configurable})


def without_resume_value(config: RunnableConfig) -> Mapping[str, Any]:
    """Return keys for ``configurable`` that keep a plain resume value from nested runs.

    LangGraph passes such a value to the first interrupt, whichever it is.

    Args:
        config: The configuration of a task.
    """
    pad: Any = config.get("configurable", {}).get(_SCRATCHPAD)
    if not hasattr(pad, "get_null_resume") or pad.get_null_resume(False) is None:
        # There is no resume value.
        return {}
    # A new function for each task, because calls are counted by it.
    return {_SCRATCHPAD: replace(pad, get_null_resume=partial(_no_resume_value))}


def _is_plain_resume(graph_input: Any, mapped: Any) -> bool:
    # LangGraph treats a dict whose keys are all interrupt ids as answers by id.
    resume = graph_input.resume if isinstance(graph_input, Command) else None
    if resume is None or resume is mapped:
        return False
    return not isinstance(resume, dict) or not all(map(is_interrupt_id, resume))


def _caller_of(conf: Mapping[str, Any]) -> partial[Any] | None:
    call = conf.get(_CALL)
    while inspect.isfunction(call):
        # A node with a timeout wraps it in a function that checks the time.
        call = inspect.getclosurevars(call).nonlocals.get("call")
    return call if isinstance(call, partial) else None


def _task_of(conf: Mapping[str, Any]) -> Any:
    call = _caller_of(conf)
    return call.args[0]() if call is not None and call.args else None


def _loop_of(conf: Mapping[str, Any]) -> Any:
    call = _caller_of(conf)
    return None if call is None else getattr(call.keywords.get("schedule_task"), "__self__", None)


def _was_done(
    loop: Any, seen: Mapping[str, Mapping[str, Any]], versions: Mapping[str, Any], written: Any
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


def _number(version: Any) -> int:
    # Savers count versions. Some append more after a dot.
    return int(str(version).partition(".")[0])


def _does_tasks(runnable: Any) -> bool:
    # Whether a node is a spawn, or a graph with such a node.
    graph = _first_step(runnable)
    if not isinstance(graph, Pregel):
        return False
    return hasattr(graph, "terms") or any(
        "tasks" in node.channels and _does_tasks(node.bound) for node in graph.nodes.values()
    )


def _first_step(runnable: Any) -> Runnable[Any, Any] | None:
    return next(iter(getattr(runnable, "steps", (runnable,))), None)


def _no_resume_value(consume: bool = False) -> None:
    return None


def _next(counts: dict[Any, Iterator[int]], key: Any) -> int:
    # Several threads may call this; setdefault and next are atomic in CPython.
    return next(counts.setdefault(key, itertools.count()))


def _effective(*configs: RunnableConfig | None) -> dict[str, Any]:
    """Return the ``configurable`` that LangGraph will use.

    It inherits the caller's, unless the configuration addresses another checkpoint.
    """
    passed = [(each or {}).get("configurable") or {} for each in configs]
    inherited: Mapping[str, Any] = {}
    if not any(_is_set(each.get(key)) for each in passed for key in _ADDRESS):
        try:
            inherited = get_config().get("configurable") or {}
        except RuntimeError:
            # The call is outside any runnable.
            inherited = {}
    merged = dict(inherited)
    for each in passed:
        merged.update(each)
    return merged


def _is_set(value: Any) -> bool:
    return bool(value) if isinstance(value, list | tuple | dict) else value is not None
