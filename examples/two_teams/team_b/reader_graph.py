"""Team B's graph: a reader that proves each answer, and works for team A's lead alone."""

from __future__ import annotations

import os
import re
from collections import Counter

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.graphs import verified_child


class Text(TypedDict):
    """The input."""

    text: str


class Summary(TypedDict):
    """The output."""

    summary: str


def read(state: Text) -> Summary:
    """Say what the text is about: by the model, or by its most frequent words."""
    if chat is not None:
        asked = f"Say in one sentence what this text is about:\n\n{state['text']}"
        return {"summary": chat.invoke(asked).text}
    words = Counter(re.findall(r"[a-z]{4,}", state["text"].lower()))
    return {"summary": "about " + ", ".join(word for word, _ in words.most_common(3))}


pipelit = Pipelit.from_env()
chat = None
if model := os.environ.get("READER_MODEL"):
    from pipelit_agents.middleware import CredentialMiddleware

    # The key is opened for each call, from the credential with the provider's name.
    provider = model.partition(":")[0]
    chat = CredentialMiddleware(pipelit.credentials, model=model, credential=provider).model
builder = StateGraph(Text, input_schema=Text, output_schema=Summary)
builder.add_node(read)
builder.add_edge(START, "read")
reader = verified_child(
    builder.compile(), pipelit.agent("agent_reader"), accept_from=["agent_lead"]
)
