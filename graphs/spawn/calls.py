"""Tells the calls of a spawn graph apart by what they ask.

LangGraph keeps a nested run under the namespace of the task that calls it, and a number: the first
graph that the task calls, the second, and so on. A nested run that is resumed ignores its input. So
after an interrupt, a crash or a retry, a task that calls its graphs in another order, or leaves one
out, would get another call's recorded answer. Here the number follows from the question, so that
a call finds its own record or none.

LangGraph has no public names for what a task knows about itself. All such keys are in this module,
and ``tests/test_spawn_calls.py`` fails where a version of LangGraph changes what they mean.
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

from ..child import ShowingStep
from ..codec import state_to_bytes
from ..interrupts import RENAMED, RESUMED, is_interrupt_id

__all__ = ["Call", "keyed_by_input", "without_an_answer"]

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
# What a task calls `@task` functions by: a partial that knows the task and the loop that runs it.
_CALL: Final = "__pregel_call"
# Where a task's question is kept among the pending writes.
_INTERRUPT: Final = "__interrupt__"
# The first item of the path of a task that `Send` made.
_PUSH: Final = "__pregel_push"
# Under this task LangGraph keeps a plain resume value among the pending writes.
_NULL_TASK: Final = "00000000-0000-0000-0000-000000000000"
_RESUME: Final = "__resume__"
_SEPARATOR: Final = "|"

# For each run of a task: how often it asked each question, by attempt. The key lives as long as
# the task runs, and a retry has the same one.
_COUNTS: Final[weakref.WeakKeyDictionary[Any, dict[Any, Iterator[int]]]] = (
    weakref.WeakKeyDictionary()
)
# For each run of a task: which graph asked a question first.
_ASKED: Final[weakref.WeakKeyDictionary[Any, dict[bytes, Any]]] = weakref.WeakKeyDictionary()

# For each loop that runs a graph: whether tasks, by their version, were done in an earlier turn.
_DONE: Final[weakref.WeakKeyDictionary[Any, dict[Any, bool]]] = weakref.WeakKeyDictionary()


class Call:
    """One call of a graph: where it happens, and what LangGraph will make of it.

    Args:
        graph: The graph.
        config: What it was called with.
    """

    def __init__(self, graph: Any, config: RunnableConfig | None) -> None:
        self._graph = graph
        self.configurable = _effective(graph.config, config)

    @property
    def nested(self) -> bool:
        """Whether a task of another graph calls it."""
        return _TASK_ID in self.configurable

    @property
    def saver(self) -> BaseCheckpointSaver[Any] | None:
        """Where it would be resumed from."""
        if self._graph.checkpointer is False:
            return None
        found = self.configurable.get(_SAVER) or self._graph.checkpointer
        return found if isinstance(found, BaseCheckpointSaver) else None

    @property
    def resuming(self) -> bool:
        """Whether LangGraph would go on from a record, and ignore what is asked now.

        A root run goes on also where the id of the run is that of the record.
        """
        conf = self.configurable
        if self.saver is None or conf.get(_REPLAYING):
            return False
        return bool(conf.get(_RESUMING)) if self.nested else conf.get(_THREAD_ID) is not None

    def take_place(
        self, question: Callable[[], bytes], same: Callable[[Any], bool] = lambda _: True
    ) -> None:
        """Gives a nested call its own namespace.

        A graph that is the node by itself keeps the task's own namespace, where
        ``get_state(subgraphs=True)`` looks: there is one such call in a task, and its input is
        that of the task.

        Args:
            question: A digest of what the call asks; called where it is needed.
            same: Whether another graph that this task asked the same question is as good as this
                one.

        Raises:
            ConfigurationError: LangGraph's own counters aren't where they were; or another graph
                was asked the same question, and nothing but the order of calls tells them apart.
        """
        if not self.nested or self.saver is None:
            return
        conf = self.configurable
        pad: Any = conf.get(_SCRATCHPAD)
        try:
            counts = _COUNTS.setdefault(pad.get_null_resume, {})
            # Only for this call: the numbers of other graphs don't depend on it, nor it on them.
            conf[_SCRATCHPAD] = replace(pad, subgraph_counter=itertools.count().__next__)
        except (AttributeError, TypeError) as error:
            raise ConfigurationError(
                "this version of LangGraph doesn't let nested runs be told apart: install one that "
                "pipelit-agents supports (see pyproject.toml)"
            ) from error
        attempt = self._attempt()
        if self._is_the_node() and _next(counts, (attempt, b"")) == 0:
            return
        digest = question()
        asked = _ASKED.setdefault(pad.get_null_resume, {}).setdefault(digest, self._graph)
        if asked is not self._graph and not same(asked):
            raise ConfigurationError(
                f"two spawn graphs that are called {self._graph.get_name()!r} and have the same "
                "lead are asked the same in one node, so that a resumed run couldn't tell whose "
                "record it finds: give each a name of its own, spawn_and_await(…, name=…)"
            )
        nth = _next(counts, (attempt, digest))
        number = hashlib.sha256(b"%b\0%d" % (digest, nth)).digest()
        # Of digits alone, as LangGraph's own: it knows these parts of a namespace, and leaves them
        # out where it looks for a node.
        own = str(int.from_bytes(number, "big"))
        conf[_NAMESPACE] = _SEPARATOR.join((conf[_NAMESPACE], own))

    def begin_again(self) -> None:
        """Has LangGraph take the input, whatever is recorded."""
        self.configurable[_RESUMING] = False

    def take_no_answer(self) -> None:
        """Lets a plain resume value, which is to another question, answer none of this call."""
        self.configurable.update(without_an_answer(RunnableConfig(configurable=self.configurable)))

    def recorded(self) -> RunnableConfig:
        """Where this call's record is, for ``get_state``."""
        conf = {key: value for key, value in self.configurable.items() if key != _CHECKPOINT_ID}
        chosen = self.configurable.get(_CHECKPOINT_ID) or (
            self.configurable.get(_ANCESTORS) or {}
        ).get(conf.get(_NAMESPACE))
        if chosen:
            conf[_CHECKPOINT_ID] = chosen
        return RunnableConfig(configurable=conf)

    def is_repeat(self) -> bool:
        """Whether a node would do the same tasks again that a node did in an earlier turn.

        So it is where a new input came since, and nothing wrote the tasks since then. A loop within
        one turn isn't a repeat, nor is a ``Send``, which brings its own tasks. A graph that is a
        node takes its tasks from the graph around it, which is asked where nothing in it wrote any.
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
            asked, turn = versions.get("tasks"), versions.get(START)
            if asked is None or turn is None:
                return False
            if asked < turn:
                seen = checkpoint.get("versions_seen", {})
                return _was_done(loop, seen, versions, asked)
            if asked > turn:
                # A node of this graph wrote them, and not its input.
                return False
        return False

    def waiting(
        self, given: Any, saved: StateSnapshot, parent: CheckpointTuple | None
    ) -> frozenset[str]:
        """The tasks of a record that may take the plain value that the run was resumed with.

        Their question was shown. There are none where the run was resumed by interrupt ids or with
        nothing: a plain value that LangGraph still keeps is then an earlier run's.

        Args:
            given: What the graph is called with.
            saved: The record.
            parent: The checkpoint of the graph around it, if it is known.
        """
        if not self._is_answered(given):
            return frozenset()
        shown: set[str] | None = None
        if parent is not None:
            mine = self.configurable.get(_TASK_ID)
            shown = {
                getattr(each, "id", "")
                for task_id, channel, value in parent.pending_writes or ()
                if channel == _INTERRUPT and task_id == mine
                for each in (value if isinstance(value, list | tuple) else (value,))
            }
        # Where a spawn is the graph of another one's child, the other shows ids of its own.
        renamed: Callable[[str], str] = self.configurable.get(RENAMED) or str
        return frozenset(
            task.id
            for task in saved.tasks
            if any(
                shown is None or not shown.isdisjoint((each.id, renamed(each.id)))
                for each in task.interrupts
            )
        )

    def _is_answered(self, given: Any) -> bool:
        # Whether the plain value that LangGraph holds came with this run.
        if not self.nested or isinstance(given, Command):
            return _resumes_plainly(given, None)
        for conf in self._levels():
            loop = _loop_of(conf)
            writes = getattr(loop, "checkpoint_pending_writes", ())
            if any(each[0] == _NULL_TASK and each[1] == _RESUME for each in writes):
                # The value nearest to the call is the one that LangGraph takes.
                mapped = loop.config.get("configurable", {}).get(RESUMED)
                return _resumes_plainly(loop.input, mapped)
        return False

    def _levels(self) -> Iterator[Mapping[str, Any]]:
        # The configuration of the task that makes this call, of the one around it, and so on.
        conf: Mapping[str, Any] = self.configurable
        while (loop := _loop_of(conf)) is not None:
            yield conf
            conf = (getattr(loop, "config", None) or {}).get("configurable") or {}

    def parent(self) -> CheckpointTuple | None:
        """The checkpoint of the graph around, if there is one."""
        for place in self._parents():
            if self.saver is not None and (found := self.saver.get_tuple(place)) is not None:
                return found
        return None

    async def aparent(self) -> CheckpointTuple | None:
        """As :meth:`parent`, for the event loop."""
        for place in self._parents():
            if self.saver is not None and (found := await self.saver.aget_tuple(place)) is not None:
                return found
        return None

    def _parents(self) -> Iterator[RunnableConfig]:
        # Where it may be, the nearest first.
        ancestors = self.configurable.get(_ANCESTORS) or {}
        parts = str(self.configurable.get(_NAMESPACE, "")).split(_SEPARATOR)
        while parts:
            parts.pop()
            namespace = _SEPARATOR.join(parts)
            # A `@task` names its caller's namespace, where no checkpoint is, before its loop's.
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
        if type(first) is ShowingStep:
            # A child's: it calls its graph once.
            return first.deps == [self._graph]
        return first is self._graph


class _KeyedByInput(Runnable[Any, Any]):
    """Calls a graph, under a place that follows from its input."""

    def __init__(self, graph: Pregel[Any, Any, Any, Any]) -> None:
        self.name = graph.get_name()
        self._graph = graph

    def invoke(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002 - the name that LangChain calls it by
        """As the graph's."""
        call = self._placed(input, config)
        if call.resuming:
            saved = self._graph.get_state(call.recorded())
            if not call.waiting(input, saved, call.parent()):
                call.take_no_answer()
        return self._graph.invoke(input, _with(config, call), **options)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - the name that LangChain calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Any:
        """As the graph's."""
        call = self._placed(input, config)
        if call.resuming:
            saved = await self._graph.aget_state(call.recorded())
            if not call.waiting(input, saved, await call.aparent()):
                call.take_no_answer()
        return await self._graph.ainvoke(input, _with(config, call), **options)

    def _placed(self, given: Any, config: RunnableConfig | None) -> Call:
        def question() -> bytes:
            name = self._graph.get_name().encode()
            head = b"pipelit-agents/graph-call/v1\0" + len(name).to_bytes(8, "big") + name
            return hashlib.sha256(head + state_to_bytes(given)).digest()

        call = Call(self._graph, config)
        call.take_place(question)
        return call


def keyed_by_input(graph: Pregel[Any, Any, Any, Any]) -> Runnable[Any, Any]:
    """Makes a graph of your own that a node, a tool or a task calls be resumed by its input.

    LangGraph finds such a run by the order of calls, and a resumed run ignores its input: where a
    call is left out or moved when its node runs again, it gets the state of another call, with the
    results of a spawn inside it. Spawn graphs need no such wrapper, nor do graphs that are nodes.

    Args:
        graph: A compiled graph. Two that one node calls with equal inputs need names of their own:
            ``builder.compile(name=…)``.

    Returns:
        A runnable with ``invoke`` and ``ainvoke``. They raise ``PayloadError`` for an input that
        can't be written as JSON or messages.

    Raises:
        TypeError: It isn't a compiled graph.

    Example:
        ```python
        research = keyed_by_input(builder.compile())


        def node(state):
            return {"found": [research.invoke({"q": q})["a"] for q in state["questions"]]}
        ```
    """
    if not isinstance(graph, Pregel):
        raise TypeError(f"graph has to be a compiled graph, not {type(graph).__name__}")
    return _KeyedByInput(graph)


def _with(config: RunnableConfig | None, call: Call) -> RunnableConfig:
    return cast(RunnableConfig, {**(config or {}), "configurable": call.configurable})


def without_an_answer(config: RunnableConfig) -> Mapping[str, Any]:
    """What to add to ``configurable`` so that a plain resume value answers no question below.

    LangGraph gives such a value to the first question that is asked, whichever it is.

    Args:
        config: Of a task.
    """
    pad: Any = config.get("configurable", {}).get(_SCRATCHPAD)
    if not hasattr(pad, "get_null_resume") or pad.get_null_resume(False) is None:
        # Nothing came that could be taken.
        return {}
    # A function of this task's own: calls are counted by it.
    return {_SCRATCHPAD: replace(pad, get_null_resume=partial(_no_answer))}


def _resumes_plainly(given: Any, mapped: Any) -> bool:
    # LangGraph takes a dict whose keys are all ids for answers by id.
    resume = given.resume if isinstance(given, Command) else None
    if resume is None or resume is mapped:
        return False
    return not isinstance(resume, dict) or not all(map(is_interrupt_id, resume))


def _caller_of(conf: Mapping[str, Any]) -> partial[Any] | None:
    call = conf.get(_CALL)
    while inspect.isfunction(call):
        # A node with a timeout has it in a function that checks the time.
        call = inspect.getclosurevars(call).nonlocals.get("call")
    return call if isinstance(call, partial) else None


def _task_of(conf: Mapping[str, Any]) -> Any:
    call = _caller_of(conf)
    return call.args[0]() if call is not None and call.args else None


def _loop_of(conf: Mapping[str, Any]) -> Any:
    call = _caller_of(conf)
    return None if call is None else getattr(call.keywords.get("schedule_task"), "__self__", None)


def _was_done(
    loop: Any, seen: Mapping[str, Mapping[str, Any]], versions: Mapping[str, Any], asked: Any
) -> bool:
    """Whether tasks that were written before this turn were done before it too.

    Args:
        loop: What runs the graph.
        seen: For each node the versions of channels that it last ran with.
        versions: Those of the channels now.
        asked: That of the tasks.
    """
    known = _DONE.setdefault(loop, {})
    if asked in known:
        return known[asked]
    turn = versions[START]
    before = again = False
    for name, node in loop.nodes.items():
        if not seen.get(name) or "tasks" not in node.channels or not _does_tasks(node.bound):
            continue
        last = max(seen[name].values())
        again = again or last > turn
        # A graph that does them writes them back with its results, at the end of its step.
        echoed = versions.get("results") == asked and _number(asked) == _number(last) + 1
        before = before or ((asked <= last or echoed) and last < turn)
    if again and not before:
        # A node did them, or nothing, in this turn before the run was broken off.
        results = loop.channels.get("results")
        before = results is not None and results.is_available() and not results.get()
    known[asked] = before
    return before


def _number(version: Any) -> int:
    # Savers count versions; some put more behind a point.
    return int(str(version).partition(".")[0])


def _does_tasks(runnable: Any) -> bool:
    # Whether a node is a spawn by itself, or a graph with such a node.
    graph = _first_step(runnable)
    if not isinstance(graph, Pregel):
        return False
    return hasattr(graph, "terms") or any(
        "tasks" in node.channels and _does_tasks(node.bound) for node in graph.nodes.values()
    )


def _first_step(runnable: Any) -> Runnable[Any, Any] | None:
    return next(iter(getattr(runnable, "steps", (runnable,))), None)


def _no_answer(consume: bool = False) -> None:
    return None


def _next(counts: dict[Any, Iterator[int]], key: Any) -> int:
    # Atomic in CPython: calls come from several threads.
    return next(counts.setdefault(key, itertools.count()))


def _effective(*configs: RunnableConfig | None) -> dict[str, Any]:
    """What LangGraph will take for ``configurable``: the caller's, unless another is addressed."""
    given = [(each or {}).get("configurable") or {} for each in configs]
    inherited: Mapping[str, Any] = {}
    if not any(_is_set(each.get(key)) for each in given for key in _ADDRESS):
        try:
            inherited = get_config().get("configurable") or {}
        except RuntimeError:
            # In no runnable at all.
            inherited = {}
    merged = dict(inherited)
    for each in given:
        merged.update(each)
    return merged


def _is_set(value: Any) -> bool:
    return bool(value) if isinstance(value, list | tuple | dict) else value is not None
