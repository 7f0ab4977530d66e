"""Types that several modules of this building use."""

from __future__ import annotations

from typing import Any, TypeAlias

from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

from pipelit_agents.protocol.payload import Json

__all__ = ["AnyGraph", "AnyStateGraph", "Json"]

# A compiled graph, whatever its state, context, input and output are.
AnyGraph: TypeAlias = Pregel[Any, Any, Any, Any]
AnyStateGraph: TypeAlias = CompiledStateGraph[Any, Any, Any, Any]
