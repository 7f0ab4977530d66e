"""The tool form of an agent: a model sends one text and receives the proven answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, ConfigDict, Field

from pipelit_agents.errors import SpawnError

from .answer_message import ANSWER_KEY
from .types import AnyGraph

__all__ = ["agent_tool"]

# Model providers accept no other characters, and 64 of them.
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME: Final = 64

# The content of a tool message, and its artifact.
_Answer: TypeAlias = tuple[str | list[str | dict[str, object]], object]


class _Question(BaseModel):
    """The arguments of the tool."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(
        min_length=1,
        description="The whole question or task. The agent sees nothing else of this conversation.",
    )


def agent_tool(agent: AnyGraph, *, name: str, description: str) -> BaseTool:
    """Return a tool that asks a verified agent.

    Args:
        agent: The agent.
        name: The name of the tool. Characters that providers don't accept are replaced.
        description: What the agent is for.
    """

    def ask(message: str, config: RunnableConfig) -> _Answer:
        return _answer_in(agent.invoke({"messages": [HumanMessage(message)]}, config))

    async def aask(message: str, config: RunnableConfig) -> _Answer:
        return _answer_in(await agent.ainvoke({"messages": [HumanMessage(message)]}, config))

    return StructuredTool.from_function(
        ask,
        aask,
        name=_NOT_IN_A_NAME.sub("_", name)[:_MAX_NAME],
        description=description,
        args_schema=_Question,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _answer_in(output: Mapping[str, Sequence[BaseMessage]]) -> _Answer:
    message = output["messages"][-1]
    metadata = message.response_metadata.get(ANSWER_KEY)
    if metadata is None:
        raise SpawnError(
            "the child was interrupted and waits for a person's answer, but the tool was called "
            "outside a graph: call it in a graph that has a checkpointer"
        )
    if metadata["status"] != "verified":
        raise ToolException(message.text)
    return message.content, metadata
