"""A child on Aegra that takes its time, and keeps a note of what it works on, for test_aegra."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.graphs import verified_child


class Text(TypedDict):
    """What a task has."""

    text: str


def note(text: str) -> None:
    """Keep a note, in one write."""
    with Path(os.environ["RAN"]).open("a") as file:
        file.write(f"{text}\n")


async def read(state: Text) -> Text:
    """Wait, if the task says so, until a file is there."""
    await asyncio.to_thread(note, state["text"])
    go = Path(os.environ["RAN"]).with_name("go")
    while not await asyncio.to_thread(go.exists):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.1)
    return {"text": state["text"].upper()}


builder = StateGraph(Text)
builder.add_node("read", read)
builder.add_edge(START, "read")
builder.add_edge("read", END)
pipelit = Pipelit.from_env()
slow = verified_child(builder.compile(), pipelit.agent("agent_reader"), accept_from=["agent_lead"])
