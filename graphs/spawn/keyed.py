"""Resume any graph that a node, tool or task calls by its input."""

from __future__ import annotations

import hashlib
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.pregel import Pregel

from ..codec import state_to_bytes
from ..types import AnyGraph
from .calls import Call

__all__ = ["keyed_by_input"]


class _KeyedByInput(Runnable[object, object]):
    """Call a graph in a namespace that depends on its input."""

    def __init__(self, graph: AnyGraph) -> None:
        self.name = graph.get_name()
        self._graph = graph

    def invoke(self, input: object, config: RunnableConfig | None = None, **options: Any) -> object:  # noqa: A002 - the name that LangChain calls it by
        """Invoke the graph."""
        call = self._call_of(input, config)
        if call.resuming:
            saved = self._graph.get_state(call.record_config())
            call.withhold_resume_value(input, saved, call.parent())
        return self._graph.invoke(input, call.config(config), **options)

    async def ainvoke(
        self,
        input: object,  # noqa: A002 - the name that LangChain calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> object:
        """Async form of ``invoke``."""
        call = self._call_of(input, config)
        if call.resuming:
            saved = await self._graph.aget_state(call.record_config())
            call.withhold_resume_value(input, saved, await call.aparent())
        return await self._graph.ainvoke(input, call.config(config), **options)

    def _call_of(self, graph_input: object, config: RunnableConfig | None) -> Call:
        def digest() -> bytes:
            name = self._graph.get_name().encode()
            head = b"pipelit-agents/graph-call/v1\0" + len(name).to_bytes(8, "big") + name
            return hashlib.sha256(head + state_to_bytes(graph_input)).digest()

        call = Call(self._graph, config)
        call.assign_namespace(digest)
        return call


def keyed_by_input(graph: AnyGraph) -> Runnable[Any, Any]:
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
