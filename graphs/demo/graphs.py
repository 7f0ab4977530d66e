"""The demonstration's graphs: readers that analyse a text, and a lead that signs a report."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from langgraph.graph import END, START, StateGraph
from pydantic import SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import ConfigurationError

from ..spawn.node import spawn_and_await
from ..spawn.results import Child, SpawnResult, SpawnTask
from ..types import AnyGraph

__all__ = ["CREDENTIAL", "lead_graph", "reader_graph", "sign"]

CREDENTIAL: Final = "report-service"
_WORD: Final = re.compile(r"[A-Za-z][a-z']{3,}")
_MODEL_CHARACTERS: Final = 8_000


class Document(TypedDict):
    """The input of a reader."""

    name: str
    text: str


class Reading(TypedDict, total=False):
    """The output of a reader."""

    name: str
    words: int
    lines: int
    frequent: list[str]
    longest_sentence: int
    summary: str


class ReaderState(Reading, total=False):
    """The state of a reader."""

    text: str


class LeadState(TypedDict, total=False):
    """The state of the lead."""

    tasks: list[SpawnTask]
    results: list[SpawnResult]
    report: str
    signature: str


def reader_graph(model: str | None = None, own: Pipelit | None = None) -> AnyGraph:
    """Create a graph that analyses a text.

    Args:
        model: A chat model, ``provider:name``, that summarises. Its API key is read from the
            credential store, under the provider's name. Without a model the summary is computed.
        own: The Pipelit with that store, which the caller closes. By default it is created from
            the environment.

    Raises:
        ConfigurationError: The model isn't available.
    """

    def analyse(state: ReaderState) -> ReaderState:
        text = state["text"]
        words = _WORD.findall(text)
        frequent = [word for word, _ in Counter(word.lower() for word in words).most_common(5)]
        sentences = re.split(r"(?<=[.!?])\s+", text)
        return {
            "words": len(text.split()),
            "lines": text.count("\n"),
            "frequent": frequent,
            "longest_sentence": max(len(sentence.split()) for sentence in sentences),
        }

    def summarise(state: ReaderState) -> ReaderState:
        return {"summary": f"mostly about {', '.join(state['frequent'][:3])}"}

    builder = StateGraph(ReaderState, input_schema=Document, output_schema=Reading)
    builder.add_node("analyse", analyse)
    builder.add_node(
        "summarise", _summary_by_model(model, own or Pipelit.from_env()) if model else summarise
    )
    builder.add_edge(START, "analyse")
    builder.add_edge("analyse", "summarise")
    builder.add_edge("summarise", END)
    return builder.compile(name="reader")


def _summary_by_model(model: str, own: Pipelit) -> Any:
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError:
        raise ConfigurationError(
            "--model needs the langchain package: pip install 'pipelit-agents[langchain]' and the "
            "package of the provider, for example langchain-openai"
        ) from None
    provider, _, name = model.partition(":")
    if not provider or not name:
        raise ConfigurationError(
            "--model has the form provider:name, for example openai:gpt-5-mini"
        )
    public = own.credentials.get(provider).public

    @own.credentials.inject(api_key=provider)
    def summarise(state: ReaderState, *, api_key: SecretStr) -> ReaderState:
        text = state["text"][:_MODEL_CHARACTERS]
        chat = init_chat_model(name, model_provider=provider, api_key=api_key, **public)
        answer = chat.invoke(f"Summarise in one sentence what this document is about:\n\n{text}")
        return {"summary": answer.text}

    return summarise


def lead_graph(
    pipelit: Pipelit, lead: Agent, children: Mapping[str, Child]
) -> StateGraph[Any, Any, Any, Any]:
    """Create a graph that sends texts to readers and signs a report of their proven answers.

    Args:
        pipelit: The Pipelit with the credential ``report-service``, which holds the signing key.
        lead: The agent that sends the requests.
        children: The readers by name.
    """

    @pipelit.credentials.inject(key=CREDENTIAL)
    def report(state: LeadState, *, key: SecretStr) -> LeadState:
        lines = [
            f"{result['output']['name']}: {result['output']['summary']}"
            for result in state["results"]
            if result["status"] == "verified"
        ]
        text = "\n".join(lines)
        return {"report": text, "signature": sign(text, key.get_secret_value())}

    builder = StateGraph(LeadState)
    builder.add_node("delegate", spawn_and_await(lead, children, timeout=120, on_failure="collect"))
    builder.add_node("report", report)
    builder.add_edge(START, "delegate")
    builder.add_edge("delegate", "report")
    builder.add_edge("report", END)
    return builder


def sign(text: str, key: str) -> str:
    """Return the report's signature: HMAC-SHA256 in hexadecimal."""
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
