"""Which thread, run and node the code is in, as LangChain's context says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

__all__ = ["RunContext", "run_context", "running"]


class RunContext(NamedTuple):
    """Where something happened; empty where nothing was running.

    Attributes:
        run: The run.
        node: The LangGraph node.
        thread: The LangGraph thread, of graphs with a checkpointer.
    """

    run: str
    node: str
    thread: str


@cache
def _reads_runtime() -> Callable[[], Any]:
    from langgraph.runtime import get_runtime

    return get_runtime


def _config() -> Mapping[str, Any]:
    # As it is: LangChain's own reader copies it, for each check. Nothing is running where LangChain
    # isn't imported, or is being imported by what a signal handler or finalizer interrupted.
    module = sys.modules.get("langchain_core.runnables.config")
    variable = getattr(module, "var_child_runnable_config", None)
    return (None if variable is None else variable.get()) or {}


def running() -> object | None:
    """What tells the running runnable from others, or None where nothing is running."""
    callbacks = _config().get("callbacks")
    return getattr(callbacks, "parent_run_id", None) or callbacks


def run_context() -> RunContext:
    """Return where the running node or tool is, for the audit.

    The run id is the one that the run was started with; without one, the id that traces give
    to this node's or tool's own run. A tool outside a graph has no node name.
    """
    config = _config()
    callbacks, metadata = config.get("callbacks"), config.get("metadata") or {}
    node = metadata.get("langgraph_node")
    run = config.get("run_id") or metadata.get("run_id")
    if node and not run:
        # None where a tool or graph is driven by hand, with a node's metadata but no runtime.
        run = getattr(getattr(_reads_runtime()(), "execution_info", None), "run_id", None)
    thread = (config.get("configurable") or {}).get("thread_id") or metadata.get("thread_id")
    run = run or getattr(callbacks, "parent_run_id", None)
    return RunContext(str(run or ""), str(node or ""), str(thread or ""))
