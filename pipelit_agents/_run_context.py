"""The thread, run and node of the running code, from LangChain's context."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

__all__ = ["NOWHERE", "RunContext", "is_cron_run", "run_context", "running"]


class RunContext(NamedTuple):
    """The place of the running code in a graph; fields are empty outside of a run.

    Attributes:
        run: The run.
        node: The LangGraph node.
        thread: The LangGraph thread, of graphs with a checkpointer.
    """

    run: str
    node: str
    thread: str


# Outside of a run.
NOWHERE: Final = RunContext("", "", "")


@cache
def _reads_runtime() -> Callable[[], Any]:
    from langgraph.runtime import get_runtime

    return get_runtime


def _config() -> Mapping[str, Any]:
    # Read directly, because LangChain's own function copies it each time. If LangChain isn't
    # imported, or its import was interrupted by a signal handler or finalizer, nothing is running.
    module = sys.modules.get("langchain_core.runnables.config")
    variable = getattr(module, "var_child_runnable_config", None)
    return (None if variable is None else variable.get()) or {}


def running() -> object | None:
    """Return an object that identifies the running runnable, or None if nothing is running."""
    callbacks = _config().get("callbacks")
    return getattr(callbacks, "parent_run_id", None) or callbacks


def is_cron_run() -> bool:
    """Return whether a server's scheduler started the run.

    The server puts the cron's id into ``configurable``. A client that puts one there too only loses
    what counts for a person who is present.
    """
    return bool((_config().get("configurable") or {}).get("cron_id"))


def _node_of(configurable: Mapping[str, Any]) -> str:
    # A runnable that is called with metadata of its own has lost the name of its node there. The
    # namespace has it: "outer:<id>|node:<id>".
    return str(configurable.get("checkpoint_ns") or "").rpartition("|")[2].partition(":")[0]


def run_context() -> RunContext:
    """Return the run, node and thread of the running node or tool, for the audit.

    The run id is the id that the run was started with. Without one, it is the id of this node's or
    tool's own run in traces. A tool outside a graph has no node name.
    """
    config = _config()
    if not config:
        return NOWHERE
    callbacks, metadata = config.get("callbacks"), config.get("metadata") or {}
    node = metadata.get("langgraph_node") or _node_of(config.get("configurable") or {})
    run = config.get("run_id") or metadata.get("run_id")
    if node and not run:
        # None if a tool or graph is called by hand, with a node's metadata but no runtime.
        run = getattr(getattr(_reads_runtime()(), "execution_info", None), "run_id", None)
    thread = (config.get("configurable") or {}).get("thread_id") or metadata.get("thread_id")
    run = run or getattr(callbacks, "parent_run_id", None)
    return RunContext(str(run or ""), str(node or ""), str(thread or ""))
