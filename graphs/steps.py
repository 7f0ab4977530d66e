"""The nodes of this building's graphs: plain functions that LangGraph runs directly."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from .types import AnyGraph

__all__ = ["GraphStep", "Step"]

_Run: TypeAlias = Callable[..., object]
_AsyncRun: TypeAlias = Callable[..., Awaitable[object]]


class Step(RunnableLambda[object, object]):
    """A node's function, run directly as the node.

    ``RunnableLambda`` would add another run to traces and callbacks at each call.

    Args:
        run: The function.
        arun: Its async form. None for a function that doesn't block: it is called on the event
            loop, where LangGraph would use a thread.
        name: The name of the step.

    Raises:
        TypeError: A function has no parameter ``config``. When events are streamed, LangChain calls
            it without the step, and passes the config only to a parameter of that name.
    """

    def __init__(
        self, run: Callable[..., object], arun: Callable[..., Awaitable[object]] | None, name: str
    ) -> None:
        for function in (run, arun):
            if function and "config" not in inspect.signature(function).parameters:
                raise TypeError(f"the function of step {name!r} must have a parameter 'config'")
        super().__init__(run, afunc=arun, name=name)
        self._run, self._arun = run, arun

    def invoke(self, input: object, config: RunnableConfig | None = None, **_: object) -> object:  # noqa: A002 - the name that LangChain calls it by
        """Call the function."""
        return self._run(input, config)

    def replaced(self, run: _Run, arun: _AsyncRun) -> Step:
        """Return this step with other functions."""
        return Step(run, arun, str(self.name))

    @property
    def deps(self) -> list[Runnable[Any, Any]]:
        """None: a step runs no graph that LangGraph should show; see ``GraphStep``.

        ``RunnableLambda`` reads them from the source of the function, which takes milliseconds. On
        Python 3.11 it holds a lock of all instances meanwhile, which would stay held in a child
        that another thread forks then.
        """
        return []

    async def ainvoke(
        self,
        input: object,  # noqa: A002 - the name that LangChain calls it by
        config: RunnableConfig | None = None,
        **_: object,
    ) -> object:
        """Call the async form."""
        return self._run(input, config) if self._arun is None else await self._arun(input, config)


class GraphStep(Step):
    """A step that runs a graph, and exposes it to LangGraph for state and drawing.

    By default LangGraph would use the first graph in the function's closure, which is the enclosing
    child.

    Args:
        run: The function.
        arun: Its async form.
        graph: The graph that both of them run.
    """

    def __init__(self, run: _Run, arun: _AsyncRun, graph: AnyGraph) -> None:
        super().__init__(run, arun, graph.name)
        self._graph = graph

    def replaced(self, run: _Run, arun: _AsyncRun) -> GraphStep:
        """Return this step with other functions, which run the same graph."""
        return GraphStep(run, arun, self._graph)

    @property
    def deps(self) -> list[Runnable[Any, Any]]:
        """The graph that the step runs."""
        return [self._graph]
