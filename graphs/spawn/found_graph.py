"""The graph of a spawn whose children a function finds when the spawn runs.

The nodes of a compiled graph are fixed. So each run gets a graph of the children that its tasks
name, and everything in a run, its record and its streams is as with a dict of these children.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.graph import START
from langgraph.pregel.protocol import PregelProtocol
from langgraph.types import Command, StateSnapshot

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._threads import Apart, aside

from .calls import Call
from .finding import Finder, Found, named_agents
from .graph import SpawnGraph
from .internals import SEPARATOR
from .possession import MAX_HUNG_CALLS
from .results import Child
from .run import Run
from .tasks import tasks_of

__all__ = ["FoundGraphs", "FoundSpawnGraph"]

# How many graphs are kept for the next run with the same children.
_MAX_GRAPHS: Final = 16
# The attributes in which the graphs of two sets of children differ. All others are the node's.
_STRUCTURE: Final = frozenset(
    {
        "builder",
        "channels",
        "node_error_handler_map",
        "nodes",
        "schema_to_mapper",
        "terms",
        "trigger_to_nodes",
    }
)


class FoundGraphs:
    """Makes the graph of the children that were found, and keeps those of the last runs.

    Args:
        make: Makes a graph. Its second argument runs the children's calls apart. It is the same in
            each graph, so that a child's hung calls are counted together.
    """

    def __init__(self, make: Callable[[Found, Apart], SpawnGraph]) -> None:
        self._make = make
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Start without graphs in a forked child, with a lock that no thread holds."""
        self._lock = threading.Lock()
        # With the children, which the key names by their ids: no other object has these meanwhile.
        self._graphs: OrderedDict[object, tuple[SpawnGraph, dict[str, Child]]] = OrderedDict()
        self._apart = Apart(MAX_HUNG_CALLS)

    def graph_of(self, found: Found) -> SpawnGraph:
        """Return the graph of these children."""
        children = tuple((name, id(each)) for name, each in sorted(found.children.items()))
        key = (children, tuple(sorted(found.unfit.items())))
        with self._lock:
            if key in self._graphs:
                self._graphs.move_to_end(key)
                return self._graphs[key][0]
        graph = self._make(found, self._apart)
        with self._lock:
            self._graphs[key] = graph, found.children
            if len(self._graphs) > _MAX_GRAPHS:
                self._graphs.popitem(last=False)
        return graph

    def only(self, name: str) -> SpawnGraph | None:
        """Return a graph with a child of this name, if all that are kept have the same form of it.

        A function may return another child in each thread. Which thread is meant isn't known here.
        """
        with self._lock:
            kept = [graph for graph, children in self._graphs.values() if name in children]
        forms = {graph.terms.forms[name] for graph in kept}
        return kept[-1] if len(forms) == 1 else None


class FoundSpawnGraph(SpawnGraph):
    """The compiled node. Create one with ``spawn_and_await``.

    It has no node for a child. It calls the graph that has.

    Args:
        finder: Asks the function for children.
        graphs: Makes the graphs of the children that were found.
        spawn_graph: Arguments of ``SpawnGraph``.
    """

    def __init__(self, *, finder: Finder, graphs: FoundGraphs, **spawn_graph: Any) -> None:
        super().__init__(**spawn_graph)
        self.finder = finder
        self.graphs = graphs

    def stream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Stream as LangGraph does.

        Raises:
            SpawnError: A child failed. The error is raised when its siblings have finished.
            TypeError: The function that finds the children is async.
        """
        call, run = self._begin(input, config)
        tasks = _tasks_to_do(run, input)
        if tasks is None and call.resuming and call.saver is not None:
            tasks = _tasks_in(call.saver.get_tuple(call.record_config()))
        found = self.finder.find(named_agents(_with_update(tasks, input)))
        graph = self._prepare(found, run)
        yield from graph.proceed(call, run, input, config, options)

    async def astream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Async form of ``stream``."""
        call, run = self._begin(input, config)
        tasks = _tasks_to_do(run, input)
        if tasks is None and call.resuming and call.saver is not None:
            tasks = _tasks_in(await call.saver.aget_tuple(call.record_config()))
        found = await self.finder.afind(named_agents(_with_update(tasks, input)))
        graph = await aside(self._prepare, found, run)
        async for chunk in graph.aproceed(call, run, input, config, options):
            yield chunk

    def get_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """Return the state. The function is asked for the children of the recorded tasks."""
        call = Call(self, config)
        if call.saver is None:
            return super().get_state(config, subgraphs=subgraphs)
        tasks = _tasks_in(call.saver.get_tuple(call.record_config()))
        graph = self._graph_of(self.finder.find(named_agents(tasks)))
        return graph.get_state(config, subgraphs=subgraphs)

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """Async form of ``get_state``."""
        call = Call(self, config)
        if call.saver is None:
            return await super().aget_state(config, subgraphs=subgraphs)
        tasks = _tasks_in(await call.saver.aget_tuple(call.record_config()))
        found = await self.finder.afind(named_agents(tasks))
        graph = await aside(self._graph_of, found)
        return await graph.aget_state(config, subgraphs=subgraphs)

    def get_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> Iterator[tuple[str, PregelProtocol[Any, Any, Any, Any]]]:
        """Yield the graph of a namespace, if its child was found lately. Nothing is asked here.

        LangGraph calls this on the event loop when a configuration addresses a child. It doesn't
        say whose thread it is, so a child that has several graphs isn't shown.
        """
        graph = None if namespace is None else self.graphs.only(namespace.partition(SEPARATOR)[0])
        if graph is not None:
            yield from graph.get_subgraphs(namespace=namespace, recurse=recurse)

    def _prepare(self, found: Found, run: Run) -> SpawnGraph:
        self.finder.note_refusals(found)
        # They were read for the digest, before there were children.
        run.read = None
        return self._graph_of(found)

    def _graph_of(self, found: Found) -> SpawnGraph:
        graph = self.graphs.graph_of(found)
        structure = {key: value for key, value in vars(graph).items() if key in _STRUCTURE}
        own = {key: value for key, value in vars(self).items() if key not in ("finder", "graphs")}
        return SpawnGraph(**{**own, **structure})


def _tasks_to_do(run: Run, given: object) -> object:
    """Return the tasks in the input; none if an earlier turn did them; None if it has none."""
    return [] if run.repeats else tasks_of(given)


def _with_update(tasks: object, given: object) -> object:
    """Return the recorded tasks, and those that a command writes to the state."""
    update = given.update if isinstance(given, Command) else None
    try:
        new = dict(update or ()).get("tasks")
    except (TypeError, ValueError):
        # LangGraph also takes an object with annotations.
        new = getattr(update, "tasks", None)
    lists = [each for each in (tasks, new) if isinstance(each, list | tuple)]
    return [task for each in lists for task in each]


def _tasks_in(saved: CheckpointTuple | None) -> object:
    if saved is None:
        return None
    values = saved.checkpoint["channel_values"]
    # The input of a root run that ended before its first step. It replaces the recorded tasks.
    given = tasks_of(values.get(START))
    return values.get("tasks") if given is None else given
