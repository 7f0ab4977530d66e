"""The lead: it has each text read by a child on Aegra, and uses proven answers only.

Run it with texts: ``python lead.py "Otters swim in rivers." "Owls hunt at night."``
"""

from __future__ import annotations

import asyncio
import os
import sys

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.graphs import SpawnResult, SpawnTask, remote_child, spawn_and_await


class State(TypedDict, total=False):
    """Tasks and their results."""

    tasks: list[SpawnTask]
    results: list[SpawnResult]


def lead_graph(pipelit: Pipelit, url: str) -> CompiledStateGraph[State, None, State, State]:
    """Make the graph of the lead, whose child is served at a URL."""
    child = remote_child("agent_reader", url=url, credential="reader-server")
    builder = StateGraph(State)
    builder.add_node(
        "delegate",
        spawn_and_await(
            pipelit.agent("agent_lead"),
            {"agent_reader": child},
            timeout=120,
            # Two processes of Aegra work on sixty runs at a time.
            max_concurrency=40,
            on_failure="collect",
        ),
    )
    builder.add_edge(START, "delegate")
    builder.add_edge("delegate", END)
    return builder.compile()


def main(texts: list[str]) -> None:
    """Print a line for each text."""
    tasks: list[SpawnTask] = [{"agent": "agent_reader", "input": {"text": text}} for text in texts]
    with Pipelit.from_env() as pipelit:
        graph = lead_graph(pipelit, os.environ["READER_URL"])
        # `invoke` would ask as few children at a time as the machine has processors.
        found = asyncio.run(graph.ainvoke({"tasks": tasks}))
    for result in found["results"]:
        print(result["status"], "|", result["output"] or result["error"])


if __name__ == "__main__":
    main(sys.argv[1:])
