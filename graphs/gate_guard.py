"""Refuse tools that run without the gate that an agent's tools of that name have.

deepagents hands an agent's tools to its sub-agents, and the agent's middleware to none of them. So
a model could ask a sub-agent to make a call that needs an approval. Middleware behind the gate can
choose another tool, change a call, or make it twice. Callbacks are what LangChain calls for
everything that runs inside of a tool, and just before a tool runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, Callbacks
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.tracers.context import register_configure_hook

from pipelit_agents.approvals.digest import canonical
from pipelit_agents.errors import ConfigurationError, PayloadError

from .types import Json

__all__ = ["GateGuard", "guarded_config", "guarded_tool", "running_gated", "watched_by"]


class _Admission:
    """One run of one tool that its gate has admitted."""

    def __init__(self, tool: str, arguments: Mapping[str, Json] | None) -> None:
        self._tool = tool
        self._arguments = arguments
        self._run: UUID | None = None

    def covers(self, tool: str, run: UUID, inputs: object) -> bool:
        """Return whether this is the run: the first one of that tool, with those arguments."""
        if tool != self._tool or self._run not in (None, run):
            return False
        if self._arguments is not None and not _are_same(self._arguments, inputs):
            return False
        self._run = run
        return True


_ADMISSION: ContextVar[_Admission | None] = ContextVar("pipelit_admission", default=None)
# LangChain adds the handler to all that runs in the context, whatever callbacks it is passed.
_WATCHING: ContextVar[GateGuard | None] = ContextVar("pipelit_gate_guard", default=None)
register_configure_hook(_WATCHING, inheritable=True)


@contextmanager
def running_gated(tool: str, arguments: Mapping[str, Json] | None = None) -> Iterator[None]:
    """Mark what runs in this block as one run of a tool that its gate has admitted.

    Args:
        tool: The tool's name.
        arguments: The arguments with which the tool has to start; None if the gate passes them.
    """
    token = _ADMISSION.set(_Admission(tool, arguments))
    try:
        yield
    finally:
        _ADMISSION.reset(token)


@contextmanager
def watched_by(guard: GateGuard) -> Iterator[None]:
    """Let a guard, and those around it, watch all tools that run in this block."""
    outer = _WATCHING.get()
    token = _WATCHING.set(guard if outer is None else outer.with_tools_of(guard))
    try:
        yield
    finally:
        _WATCHING.reset(token)


def _are_same(arguments: Mapping[str, Json], inputs: object) -> bool:
    with suppress(PayloadError):
        return isinstance(inputs, Mapping) and canonical(dict(inputs)) == canonical(dict(arguments))
    return False


class GateGuard(BaseCallbackHandler):
    """Raise an error when a tool starts that should have a gate and has none.

    Args:
        tools: The names of the tools that need a gate.
    """

    raise_error = True
    run_inline = True

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = frozenset(tools)

    def with_tools_of(self, other: GateGuard) -> GateGuard:
        """Return a guard of the tools of both."""
        return GateGuard(self._tools | other._tools)

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
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        inputs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Refuse the tool unless its gate has admitted this run.

        Raises:
            ConfigurationError: The tool has no gate.
        """
        name, admission = (serialized or {}).get("name"), _ADMISSION.get()
        if name not in self._tools:
            return
        if admission is not None and admission.covers(name, run_id, inputs):
            return
        raise ConfigurationError(
            f"{name} needs a person's approval, but it is run without its gate: by a sub-agent, "
            "which doesn't inherit middleware, or by middleware behind ApprovalMiddleware that "
            "chose another tool, changed the call or made it twice. Use "
            f"approved_tool(pipelit, {name}, Approvers(…)) in place of the tool everywhere; or "
            "give each sub-agent an ApprovalMiddleware of its own, and list it after other "
            "middleware that changes calls"
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
