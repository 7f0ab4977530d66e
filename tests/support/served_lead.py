"""The graphs of the lead's server in test_remote, which ask a child on another server."""

from __future__ import annotations

import os

from langgraph.graph import END, START, StateGraph
from spawning import Lead

from pipelit_agents import Pipelit
from pipelit_agents.graphs import remote_child, spawn_and_await, verified_agent

pipelit = Pipelit.from_env()
child = remote_child(
    "agent_researcher", url=os.environ["RESEARCH_URL"], credential="research-server"
)
builder = StateGraph(Lead)
builder.add_node(
    "delegate", spawn_and_await(pipelit.agent("agent_lead"), {"agent_researcher": child})
)
builder.add_edge(START, "delegate")
builder.add_edge("delegate", END)
graph = builder.compile()
agent = verified_agent(pipelit.agent("agent_lead"), child)
