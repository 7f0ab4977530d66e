"""A graph that is no child, for test_server: it says who called, and keeps a note of it."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    """Who called."""

    who: str


async def answer(state: State, runtime: Runtime[Any]) -> State:
    """Says who called, and keeps it."""
    info = runtime.server_info
    assert info is not None
    assert info.user is not None
    assert runtime.store is not None
    who = info.user.identity
    await runtime.store.aput(("everyone",), "caller", {"who": who})
    await runtime.store.aput((f"user:{who.replace('.', ':')}", "notes"), "caller", {"who": who})
    return {"who": who}


builder = StateGraph(State)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = builder.compile()
