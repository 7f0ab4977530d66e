"""Approvals of tool calls by people, for agents of LangChain's ``create_agent``.

This module is above the graphs. So ``pipelit_agents.middleware`` loads it when
``ApprovalMiddleware`` is first used, after it has required LangChain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, cast

from langchain.agents.middleware import (
    AgentMiddleware,
    ModelRequest,
    ModelResponse,
    ToolCallRequest,
)
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt import ToolRuntime
from langgraph.types import Command

from pipelit_agents.approvals.rules import Approvers
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.graphs.gate_guard import (
    GateGuard,
    guarded_config,
    guarded_tool,
    watched_by,
)
from pipelit_agents.graphs.gated_tool import gated_tool, is_gated
from pipelit_agents.graphs.tool_gate import Gate
from pipelit_agents.identity.agent import Agent
from pipelit_agents.operations.approval_notices import OnRequest
from pipelit_agents.pipelit import Pipelit

__all__ = ["ApprovalMiddleware"]

_Request: TypeAlias = ModelRequest[Any]
_ToolResult: TypeAlias = ToolMessage | Command[Any]


class ApprovalMiddleware(AgentMiddleware[Any, Any, Any]):
    """Let an agent's tools run only what people approved.

    Each call of a tool in ``rules`` is a question of its own, for exactly its arguments, and
    interrupts the agent; see ``pipelit_agents.tools.approved_tool`` for how it is answered and what
    the model receives. What other middleware changes about a call is what people are asked: also
    arguments that ``HumanInTheLoopMiddleware`` edited, and another tool that its reviewer chose.

    Sub-agents don't inherit middleware. If a sub-agent of this agent, such as a deep agent's
    ``general-purpose``, runs a tool of that name without an approval, the tool is refused with a
    ``ConfigurationError``. Give each sub-agent an ``ApprovalMiddleware`` of its own, or give the
    agent tools made by ``approved_tool``, which sub-agents inherit.

    Args:
        pipelit: The Pipelit with the approvers' accounts.
        rules: By the tool's name, the people who are asked.
        agent: The agent that calls the tools, as its handle; the questions name it.
        on_request: Receives a notice of each question: a function, or a webhook.

    Raises:
        TypeError: An argument is of another type.
        ValueError: There are no rules.

    Example:
        ```python
        asking = ApprovalMiddleware(
            pipelit, {"send_money": Approvers(["alice", "bob"], expires_in=900)}
        )
        agent = create_agent(model, [send_money], middleware=[asking], checkpointer=saver)
        ```
    """

    def __init__(
        self,
        pipelit: Pipelit,
        rules: Mapping[str, Approvers],
        *,
        agent: Agent | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(rules, Mapping):
            raise TypeError('rules has to map tools to rules: {"send_money": Approvers(["alice"])}')
        if not rules:
            raise ValueError("rules is empty: name the tools that need an approval")
        self._gates = {
            name: Gate(pipelit, rule, agent=agent, on_request=on_request)
            for name, rule in rules.items()
        }
        self._guard = GateGuard(self._gates)
        self._found = False

    @property
    def name(self) -> str:
        """The unique name in the agent's graph: one agent may have several."""
        return f"ApprovalMiddleware({', '.join(self._gates)})"

    def wrap_model_call(
        self, request: _Request, handler: Callable[[_Request], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Require at the first model call that the agent has the tools.

        Raises:
            ConfigurationError: A name in ``rules`` is no tool of this agent, or the tool asks for
                approvals already.
        """
        self._require_tools(request.tools)
        return handler(request)

    async def awrap_model_call(
        self,
        request: _Request,
        handler: Callable[[_Request], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """As ``wrap_model_call``."""
        self._require_tools(request.tools)
        return await handler(request)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], _ToolResult]
    ) -> _ToolResult:
        """Run a tool only if people approved this call, or if it needs no approval.

        Raises:
            ConfigurationError: The agent has no checkpointer, its run has no thread, or a
                sub-agent runs a tool without an approval.
        """
        gate = self._gate_before(request)
        request = self._gated(request)
        with watched_by(self._guard):
            if gate is None:
                return handler(request)
            admit = partial(gate.admit_request, request.tool_call)
            return cast(_ToolResult, gate.run(admit, lambda: handler(request)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[_ToolResult]]
    ) -> _ToolResult:
        """As ``wrap_tool_call``; the database is read off the event loop."""
        gate = self._gate_before(request)
        request = self._gated(request)
        with watched_by(self._guard):
            if gate is None:
                return await handler(request)
            admit = partial(gate.admit_request, request.tool_call)
            return cast(_ToolResult, await gate.arun(admit, lambda: handler(request)))

    def _gate_before(self, request: ToolCallRequest) -> Gate | None:
        # Other middleware provides this tool, behind this one.
        return self._gates.get(request.tool_call["name"]) if request.tool is None else None

    def _gated(self, request: ToolCallRequest) -> ToolCallRequest:
        tool, runtime = request.tool, request.runtime
        if tool is not None:
            tool = self._gated_tool(tool, self._gates.get(request.tool_call["name"]))
        if isinstance(runtime, ToolRuntime):
            runtime = replace(runtime, config=guarded_config(runtime.config, self._guard))
            # Other middleware may choose another tool from this list. Older versions of LangGraph
            # don't have it.
            if hasattr(runtime, "tools"):
                tools = [self._gated_tool(each) for each in runtime.tools]
                runtime = replace(runtime, tools=tools)
        return replace(request, tool=tool, runtime=runtime)

    def _gated_tool(self, tool: BaseTool, called: Gate | None = None) -> BaseTool:
        gate = self._gates.get(tool.name, called)
        made: BaseTool = guarded_tool(tool if gate is None else gated_tool(tool, gate), self._guard)
        return made

    def _require_tools(self, tools: Sequence[object]) -> None:
        # An agent may have no tools in a call that returns structured output.
        if self._found or not tools:
            return
        named = {each.name: each for each in tools if isinstance(each, BaseTool)}
        for name in self._gates:
            if name not in named:
                raise ConfigurationError(
                    f"ApprovalMiddleware: rules names {name!r}, which is not a tool of this agent; "
                    f"its tools are {', '.join(named)}. List ApprovalMiddleware after middleware "
                    "that adds tools, and before middleware that selects some"
                )
            if is_gated(named[name]):
                raise ConfigurationError(
                    f"ApprovalMiddleware: {name!r} asks for approvals already, as approved_tool "
                    "made it: name it in one place only"
                )
        self._found = True
