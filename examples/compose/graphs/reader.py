"""The reader, a child that Aegra serves: it says what a text is about, and proves its answer."""

from __future__ import annotations

import re
from collections import Counter

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.graphs import verified_child


class Text(TypedDict):
    """What a task has."""

    text: str


class Reading(TypedDict):
    """What an answer has."""

    words: int
    about: list[str]


def read(state: Text) -> Reading:
    """Count the words, and find the most frequent ones."""
    words = re.findall(r"[a-z]{4,}", state["text"].lower())
    frequent = Counter(words).most_common(3)
    return {"words": len(words), "about": [word for word, _ in frequent]}


builder = StateGraph(Text, input_schema=Text, output_schema=Reading)
builder.add_node("read", read)
builder.add_edge(START, "read")
builder.add_edge("read", END)

pipelit = Pipelit.from_env()
reader = verified_child(
    builder.compile(), pipelit.agent("agent_reader"), accept_from=["agent_lead"]
)
