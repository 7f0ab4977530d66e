"""The tool form of an agent: a model sends one text and receives the proven answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, ConfigDict, Field

from pipelit_agents._wording import json_line
from pipelit_agents.errors import SpawnError

from .answer_choice import STRUCTURED
from .answer_message import ANSWER_KEY
from .types import AnyGraph

__all__ = ["agent_tool", "has_invisible_characters", "is_tool_name"]

# Model providers accept no other characters in the name of a tool, and 64 of them.
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME: Final = 64
# In hexadecimal digits: agents choose names for their helpers, so no two may be found that collide.
_DIGEST: Final = 12

# The content of a tool message, and its artifact.
_Answer: TypeAlias = tuple[str | list[str | dict[str, object]], object]


class _Question(BaseModel):
    """The arguments of the tool."""

    model_config = ConfigDict(extra="forbid")

    # OpenAI's strict mode doesn't know minLength, so the tool itself refuses a blank text.
    message: str = Field(
        description="The whole question or task. The agent sees nothing else of this conversation.",
    )


def agent_tool(agent: AnyGraph, *, name: str, description: str) -> BaseTool:
    """Return a tool that asks a verified agent.

    Args:
        agent: The agent.
        name: The name of the tool. If it isn't one that providers accept, characters are replaced,
            and a digest of the whole name is added, so that names that differ give tools that do.
        description: What the agent is for.
    """

    def ask(message: str, config: RunnableConfig) -> _Answer:
        return _answer_in(agent.invoke(_question(message), config))

    async def aask(message: str, config: RunnableConfig) -> _Answer:
        return _answer_in(await agent.ainvoke(_question(message), config))

    return StructuredTool.from_function(
        ask,
        aask,
        name=_tool_name(name),
        description=description,
        args_schema=_Question,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def has_invisible_characters(name: str) -> bool:
    """Return whether a name has characters that aren't displayed, or isn't in Unicode's form NFC.

    Such a name can look like another one.
    """
    return json_line(name) != json.dumps(name, ensure_ascii=False)


def is_tool_name(name: str) -> bool:
    """Return whether model providers accept a name for a tool."""
    return 0 < len(name) <= _MAX_NAME and _NOT_IN_A_NAME.search(name) is None


def _tool_name(name: str) -> str:
    if is_tool_name(name):
        return name
    replaced = _NOT_IN_A_NAME.sub("_", name)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
    return f"{replaced[: _MAX_NAME - _DIGEST - 1]}_{digest}"


def _question(message: str) -> dict[str, list[HumanMessage]]:
    if not message.strip():
        raise ToolException("Not done, and no agent was asked: message is empty.")
    return {"messages": [HumanMessage(message)]}


def _answer_in(output: Mapping[str, Any]) -> _Answer:
    message: BaseMessage = output["messages"][-1]
    metadata = message.response_metadata.get(ANSWER_KEY)
    if metadata is None:
        raise SpawnError(
            "the child was interrupted and waits for a person's answer, but the tool was called "
            "outside a graph: call it in a graph that has a checkpointer"
        )
    if metadata["status"] != "verified":
        raise ToolException(message.text)
    if (structured := output.get(STRUCTURED)) is not None:
        metadata = {**metadata, STRUCTURED: structured}
    return message.content, metadata
