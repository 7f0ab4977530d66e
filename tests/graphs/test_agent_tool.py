"""An agent as a tool: its name, and the question that it takes."""

from __future__ import annotations

import json
import re

import pytest
from langchain_core.messages import AIMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph

from pipelit_agents import Agent
from pipelit_agents.graphs import VerifiedAgent, verified_agent, verified_child

BACKENDS = False


@pytest.fixture
def agent(lead: Agent, researcher: Agent) -> VerifiedAgent:
    """A lead's agent that says one thing."""
    builder = StateGraph(MessagesState).add_node("work", lambda _: {"messages": [AIMessage("yes")]})
    return verified_agent(
        lead, verified_child(builder.add_edge(START, "work").compile(), researcher)
    )


@pytest.mark.parametrize(
    "names",
    [("lead.helper", "lead_helper", "lead-helper"), ("x" * 64 + "a", "x" * 64 + "b", "x" * 64)],
    ids=["characters", "length"],
)
def test_no_two_names_give_the_same_tool(agent: VerifiedAgent, names: tuple[str, ...]) -> None:
    """Where a name isn't a provider's, the tool's has a digest of the whole one."""
    tools = [agent.as_tool(name=name).name for name in names]
    assert len(set(tools)) == 3
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", each) for each in tools)
    assert tools[-1] == names[-1]


async def test_a_blank_question_is_refused_by_the_tool(agent: VerifiedAgent) -> None:
    """In words, as the schema has no length: OpenAI's strict mode doesn't know the keyword."""
    tool = agent.as_tool()
    assert "minLength" not in json.dumps(convert_to_openai_tool(tool, strict=True))
    said = "Not done, and no agent was asked: message is empty."
    for blank in ("", " \n"):
        assert tool.invoke({"message": blank}) == said
        assert await tool.ainvoke({"message": blank}) == said
