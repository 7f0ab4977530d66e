"""Team A's graph: its lead sends texts to team B's reader, and uses proven answers only."""

from __future__ import annotations

import os

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.graphs import SpawnResult, SpawnTask, remote_child, spawn_and_await


class State(TypedDict, total=False):
    """Tasks and their results."""

    tasks: list[SpawnTask]
    results: list[SpawnResult]


pipelit = Pipelit.from_env()
# An account of team B. It is a peer in team A's database, and its server takes team A's API key.
reader = remote_child("agent_reader", url=os.environ["READER_URL"], credential="reader-server")
delegate = spawn_and_await(
    pipelit.agent("agent_lead"), {"agent_reader": reader}, timeout=120, on_failure="collect"
)
lead = StateGraph(State).add_node("delegate", delegate).add_edge(START, "delegate").compile()
