"""Graphs that open the credential of who runs them, for test_server."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.graphs import SpawnResult, SpawnTask, spawn_and_await, verified_child

pipelit = Pipelit.from_env()


class State(TypedDict, total=False):
    """What was asked, and whose credential was opened."""

    ask: bool
    lie: Any
    opened: str
    tasks: list[SpawnTask]
    results: list[SpawnResult]


@pipelit.credentials.inject(token="github", per_person=True)
async def open_own(state: State, *, token: SecretStr) -> State:
    """Says whose it is, which each value begins with."""
    if state.get("ask"):
        interrupt("?")
    return {"opened": token.get_secret_value().partition("-")[0]}


graph = StateGraph(State).add_node("open_own", open_own).add_edge(START, "open_own").compile()


async def call(state: State) -> State:
    """Calls it as a sub-graph with a configuration of its own."""
    found = await graph.ainvoke({"lie": state.get("lie")}, {"configurable": {"x": 1}})
    return {"opened": found["opened"]}


def plan(state: State) -> State:
    """Gives it to a child."""
    return {"tasks": [{"agent": "agent_researcher", "input": {"lie": state.get("lie")}}]}


def gather(state: State) -> State:
    """Takes what the child opened."""
    output: Any = state["results"][0]["output"]
    return {"opened": output["opened"]}


child = verified_child(graph, pipelit.agent("agent_researcher"))
children = spawn_and_await(pipelit.agent("agent_lead"), {"agent_researcher": child})
builder = StateGraph(State).add_sequence(
    [("call", call), ("plan", plan), ("children", children), ("gather", gather)]
)
nested = builder.add_edge(START, "call").compile()
