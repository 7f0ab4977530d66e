"""A tool that asks people before each call."""

from __future__ import annotations

from langchain_core.tools import BaseTool

from pipelit_agents import Agent, Approvers, Pipelit
from pipelit_agents.graphs.gated_tool import gated_tool
from pipelit_agents.graphs.tool_gate import Gate
from pipelit_agents.operations.approval_notices import OnRequest

__all__ = ["approved_tool"]


def approved_tool(
    pipelit: Pipelit,
    tool: BaseTool,
    rule: Approvers,
    *,
    agent: Agent | None = None,
    on_request: OnRequest | None = None,
) -> BaseTool:
    """Return a copy of a tool that runs only what people approved, wherever it is used.

    Pass the copy to a ``ToolNode``, to ``create_agent``, or to ``create_deep_agent``, whose
    sub-agents get it too. When a model calls it, the question is stored, and the graph is
    interrupted with it. Each call is a question of its own, for exactly its arguments. People
    answer it with ``pipelit.approvals.decide`` or ``deny``, or at the command line. Any resume
    wakes the graph, as ``graph.invoke(None, config)``: the answer is read from the database, and
    what a client passes as the resume value isn't looked at. If the question is still open, the
    graph is interrupted again.

    After an approval, the tool runs once with the approved arguments. Its approval is used up
    before it starts. If the process is killed then, the tool isn't run again, and the model
    receives an error that says so. A denial, an expired question and every other refusal is an
    error message for the model, with the reason.

    A tool can interrupt the graph by itself after it was approved. LangGraph then runs it again
    from its start, and so does the gate, as often as the tool interrupts itself.

    People approve the arguments as the tool's schema reads them: each value once, in the form that
    the function receives. Values that the tool hides from the model (injected state, store, runtime
    and secrets) aren't displayed and aren't part of what is approved. Parameters that the model
    left out are displayed with the tool's default values. A call that the schema refuses isn't
    asked.

    Args:
        pipelit: The Pipelit with the approvers' accounts.
        tool: The tool.
        rule: The people who are asked, how many must approve, and until when.
        agent: The agent that calls the tool, as its handle; the question names it.
        on_request: Receives a notice of each question: a function, or a webhook.

    Returns:
        The copy. The tool itself isn't changed, and still runs without an approval.

    Raises:
        TypeError: An argument is of another type.
        ConfigurationError: The tool asks for approvals already, has an ``invoke`` of its own, or a
            schema that is a class of ``pydantic.v1``.

    Example:
        ```python
        rule = Approvers(["alice", "bob"], expires_in=900)
        builder.add_node("tools", ToolNode([approved_tool(pipelit, send_money, rule)]))
        ```
    """
    if not isinstance(tool, BaseTool):
        raise TypeError(
            f"tool must be a LangChain tool, not {type(tool).__name__}: decorate the function with "
            "@tool"
        )
    made: BaseTool = gated_tool(tool, Gate(pipelit, rule, agent=agent, on_request=on_request))
    return made
