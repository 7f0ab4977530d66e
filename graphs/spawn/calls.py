"""Identify the calls of a spawn graph by their input.

LangGraph stores a nested run under the namespace of the calling task and a number: the first graph
that the task calls, the second, and so on. A resumed nested run ignores its input. After an
interrupt, a crash or a retry, a task that calls its graphs in another order, or leaves one out,
would therefore get the recorded answer of another call. This module derives the number from the
input, so that a call finds its own record or none.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, TypeAlias, cast
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.config import get_config
from langgraph.types import StateSnapshot

from pipelit_agents.errors import ConfigurationError

from ..types import AnyGraph
from .internals import (
    ANCESTORS,
    CHECKPOINT_ID,
    NAMESPACE,
    REPLAYING,
    RESUMING,
    RUNTIME,
    SAVER,
    SCRATCHPAD,
    SEPARATOR,
    TASK_ID,
    THREAD_ID,
    Configurable,
    Scratchpad,
    is_the_node,
)
from .resume_values import waiting_tasks, without_resume_value

__all__ = ["Call"]

_ADDRESS: Final = (THREAD_ID, NAMESPACE, CHECKPOINT_ID, ANCESTORS)

# For each run of a task: how often it made each request, by attempt. The key lives as long as the
# task runs. A retry has the same key.
_Counts: TypeAlias = dict[tuple[int, bytes], Iterator[int]]
_COUNTS: Final[WeakKeyDictionary[Callable[[bool], object], _Counts]] = WeakKeyDictionary()
# For each run of a task: the graph that made a request first, by digest.
_FIRST_GRAPHS: Final[WeakKeyDictionary[Callable[[bool], object], dict[bytes, AnyGraph]]] = (
    WeakKeyDictionary()
)


class Call:
    """One call of a graph, and how LangGraph will run it.

    Args:
        graph: The graph.
        config: The configuration of the call.

    Attributes:
        configurable: The ``configurable`` of the call.
        keyed: Whether the call has a namespace of its own, which depends on its input.
    """

    def __init__(self, graph: AnyGraph, config: RunnableConfig | None) -> None:
        self._graph = graph
        self.keyed: bool = False
        self.configurable: dict[str, Any] = _effective(graph.config, config)

    @property
    def nested(self) -> bool:
        """Whether a task of another graph makes the call."""
        return TASK_ID in self.configurable

    @property
    def saver(self) -> BaseCheckpointSaver[Any] | None:
        """The saver with the record of an earlier run, if there is one."""
        if self._graph.checkpointer is False:
            return None
        found = self.configurable.get(SAVER) or self._graph.checkpointer
        return found if isinstance(found, BaseCheckpointSaver) else None

    @property
    def resuming(self) -> bool:
        """Whether LangGraph would continue from a record and ignore the input.

        A root run also continues if the run's id is that of the record.
        """
        conf = self.configurable
        if self.saver is None or conf.get(REPLAYING):
            return False
        return bool(conf.get(RESUMING)) if self.nested else conf.get(THREAD_ID) is not None

    def assign_namespace(
        self, digest: Callable[[], bytes], same: Callable[[AnyGraph], bool] = lambda _: True
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
        pad = cast(Scratchpad, conf.get(SCRATCHPAD))
        try:
            counts = _COUNTS.setdefault(pad.get_null_resume, {})
            # A separate counter for this call: its number doesn't depend on other graphs' numbers.
            conf[SCRATCHPAD] = replace(pad, subgraph_counter=itertools.count().__next__)
        except (AttributeError, TypeError) as error:
            raise ConfigurationError(
                "pipelit-agents can't distinguish nested runs with this version of LangGraph: "
                "install a version that it supports (see pyproject.toml)"
            ) from error
        attempt = self._attempt()
        if is_the_node(self._graph, conf) and _next(counts, (attempt, b"")) == 0:
            return
        request = digest()
        first = _FIRST_GRAPHS.setdefault(pad.get_null_resume, {}).setdefault(request, self._graph)
        if first is not self._graph and not same(first):
            raise ConfigurationError(
                f"two spawn graphs with the name {self._graph.get_name()!r} and the same lead get "
                "the same tasks in one node, so a resumed run couldn't find its own record: give "
                "each graph a different name, spawn_and_await(…, name=…) or "
                "verified_agent(…, name=…)"
            )
        nth = _next(counts, (attempt, request))
        number = hashlib.sha256(b"%b\0%d" % (request, nth)).digest()
        # Only digits, like LangGraph's own numbers: it ignores such parts of a namespace when it
        # looks for a node.
        own = str(int.from_bytes(number, "big"))
        conf[NAMESPACE] = SEPARATOR.join((conf[NAMESPACE], own))
        self.keyed = True

    def withhold_resume_value(
        self, given: object, saved: StateSnapshot, parent: CheckpointTuple | None
    ) -> None:
        """Keep a plain resume value from this call, unless its interrupt was the displayed one.

        Args:
            given: The input of the call.
            saved: Its record.
            parent: The checkpoint of the enclosing graph, if it is known.
        """
        if not waiting_tasks(self.configurable, given, saved, parent):
            self.configurable |= without_resume_value(self.configurable)

    def restart(self) -> None:
        """Make LangGraph use the input and ignore the record."""
        self.configurable[RESUMING] = False

    def config(self, config: RunnableConfig | None) -> RunnableConfig:
        """Return a configuration with the ``configurable`` of this call."""
        return cast(RunnableConfig, {**(config or {}), "configurable": self.configurable})

    def record_config(self) -> RunnableConfig:
        """Return the configuration with which ``get_state`` finds this call's record."""
        conf = {key: value for key, value in self.configurable.items() if key != CHECKPOINT_ID}
        chosen = self.configurable.get(CHECKPOINT_ID) or (
            self.configurable.get(ANCESTORS) or {}
        ).get(conf.get(NAMESPACE))
        if chosen:
            conf[CHECKPOINT_ID] = chosen
        return RunnableConfig(configurable=conf)

    def parent(self) -> CheckpointTuple | None:
        """Return the checkpoint of the enclosing graph, if there is one."""
        for config in self._parents():
            if self.saver is not None and (found := self.saver.get_tuple(config)) is not None:
                return found
        return None

    async def aparent(self) -> CheckpointTuple | None:
        """Async form of ``parent``."""
        for config in self._parents():
            if self.saver is None:
                continue
            if (found := await self.saver.aget_tuple(config)) is not None:
                return found
        return None

    def _parents(self) -> Iterator[RunnableConfig]:
        # The configurations where it may be, nearest first.
        ancestors = self.configurable.get(ANCESTORS) or {}
        parts = str(self.configurable.get(NAMESPACE, "")).split(SEPARATOR)
        while parts:
            parts.pop()
            namespace = SEPARATOR.join(parts)
            # A `@task` has its caller's namespace, without a checkpoint, before its loop's.
            if namespace in ancestors:
                yield RunnableConfig(
                    configurable={
                        THREAD_ID: self.configurable.get(THREAD_ID),
                        NAMESPACE: namespace,
                        CHECKPOINT_ID: ancestors[namespace],
                    }
                )

    def _attempt(self) -> int:
        info = getattr(self.configurable.get(RUNTIME), "execution_info", None)
        return getattr(info, "node_attempt", 1)


def _next(counts: _Counts, key: tuple[int, bytes]) -> int:
    # Several threads may call this; setdefault and next are atomic in CPython.
    return next(counts.setdefault(key, itertools.count()))


def _effective(*configs: RunnableConfig | None) -> dict[str, Any]:
    """Return the ``configurable`` that LangGraph will use.

    It inherits the caller's, unless the configuration addresses another checkpoint.
    """
    passed = [(each or {}).get("configurable") or {} for each in configs]
    inherited: Configurable = {}
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


def _is_set(value: object) -> bool:
    return bool(value) if isinstance(value, list | tuple | dict) else value is not None
