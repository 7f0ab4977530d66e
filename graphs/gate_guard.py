"""Refuse tools that an agent's sub-agents run without the gate that the agent's own tools have.

deepagents hands an agent's tools to its sub-agents, and the agent's middleware to none of them. So
a model could ask a sub-agent to make a call that needs an approval. Callbacks are what LangChain
passes on to everything that runs inside of a tool.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, Callbacks
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from pipelit_agents.errors import ConfigurationError

__all__ = ["GateGuard", "guarded_config", "guarded_tool", "running_gated"]


class _Admission:
    """One run of one tool that its gate has admitted."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._run: UUID | None = None

    def covers(self, tool: str, run: UUID) -> bool:
        """Return whether this is the run: the first one of that tool."""
        if tool != self._tool or self._run not in (None, run):
            return False
        self._run = run
        return True


_ADMISSION: ContextVar[_Admission | None] = ContextVar("pipelit_admission", default=None)


@contextmanager
def running_gated(tool: str) -> Iterator[None]:
    """Mark what runs in this block as one run of a tool that its gate has admitted."""
    token = _ADMISSION.set(_Admission(tool))
    try:
        yield
    finally:
        _ADMISSION.reset(token)


class GateGuard(BaseCallbackHandler):
    """Raise an error when a tool starts that should have a gate and has none.

    Args:
        tools: The names of the tools that need a gate.
    """

    raise_error = True
    run_inline = True

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = frozenset(tools)

    # LangChain converts the messages of each model call to text for handlers that don't ignore it.
    @property
    def ignore_llm(self) -> bool:
        """Models are none of its business."""
        return True

    @property
    def ignore_chat_model(self) -> bool:
        """Models are none of its business."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """Retrievers are none of its business."""
        return True

    def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **_: Any
    ) -> None:
        """Refuse the tool unless its gate has admitted this run.

        Raises:
            ConfigurationError: The tool has no gate.
        """
        name = (serialized or {}).get("name")
        admission = _ADMISSION.get()
        if name not in self._tools or (admission is not None and admission.covers(name, run_id)):
            return
        raise ConfigurationError(
            f"{name} needs a person's approval, but a sub-agent runs it without its gate, because "
            "sub-agents don't inherit middleware. Give the agent and its sub-agents "
            f"approved_tool(pipelit, {name}, Approvers(…)) in place of the tool, or give each "
            "sub-agent an ApprovalMiddleware of its own"
        )


def guarded_tool(tool: BaseTool, guard: GateGuard) -> BaseTool:
    """Return a copy of a tool in which the guard watches the tools that run inside of it."""
    made = tool.model_copy()

    def run(tool_input: Any, *args: Any, **kwargs: Any) -> object:
        return tool.run(tool_input, *args, **_guarded(kwargs, guard))

    async def arun(tool_input: Any, *args: Any, **kwargs: Any) -> object:
        return await tool.arun(tool_input, *args, **_guarded(kwargs, guard))

    vars(made).update(run=run, arun=arun)
    return made


def guarded_config(config: RunnableConfig, guard: GateGuard) -> RunnableConfig:
    """Return a configuration with the guard among the callbacks."""
    made = config.copy()
    made["callbacks"] = _with_guard(config.get("callbacks"), guard)
    return made


def _guarded(kwargs: dict[str, Any], guard: GateGuard) -> dict[str, Any]:
    made = {**kwargs, "callbacks": _with_guard(kwargs.get("callbacks"), guard)}
    if kwargs.get("config") is not None:
        made["config"] = guarded_config(kwargs["config"], guard)
    return made


def _with_guard(callbacks: Callbacks, guard: GateGuard) -> Callbacks:
    if not isinstance(callbacks, BaseCallbackManager):
        return [guard, *(callbacks or [])]
    manager = callbacks.copy()
    manager.add_handler(guard, inherit=True)
    return manager
