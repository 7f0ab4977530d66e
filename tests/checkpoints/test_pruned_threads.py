"""``prune`` of a sealed saver: the saver below finds what it needs in what is in clear."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from pipelit_agents import Keyring
from pipelit_agents.checkpoints import SealedSaver


class State(TypedDict, total=False):
    """What is asked and answered."""

    text: str
    number: int
    answer: str


def joined(old: Any, new: Any) -> list[str]:
    """What the channel applies to its changes."""
    return [*old, *(line for each in new for line in each)]


class Log(TypedDict, total=False):
    """A channel that is rebuilt from its changes, which pruning would delete."""

    log: Annotated[list[str], DeltaChannel(joined, list)]


def asking(saver: Any) -> Any:
    """A subgraph that asks a question."""
    inner = StateGraph(State)
    inner.add_node("ask", lambda state: {"answer": interrupt(state["text"])})
    inner.add_edge(START, "ask")
    builder = StateGraph(State)
    builder.add_node("count", lambda state: {"number": state.get("number", 0) + 1})
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "count")
    builder.add_edge("count", "inner")
    return builder.compile(checkpointer=saver)


def at(thread: str) -> Any:
    """The configuration of a thread."""
    return {"configurable": {"thread_id": thread}}


def read(graph: Any, thread: str) -> Any:
    """The state of a thread and of its subgraph."""
    state = graph.get_state(at(thread), subgraphs=True)
    inner = state.tasks[0].state
    return state.values, state.next, state.interrupts, inner.values, inner.next


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[PostgresSaver]:
    """The saver that prunes, and that refuses what it can't prune."""
    with PostgresSaver.from_conn_string(postgres_url) as saver:
        saver.setup()
        yield saver


@pytest.fixture
def keyring(key: str) -> Keyring:
    """The keyring of FIELD_ENCRYPTION_KEY."""
    return Keyring(key)


def test_a_pruned_thread_goes_on_where_it_was(postgres: PostgresSaver, keyring: Keyring) -> None:
    """As many checkpoints are left as of a thread in clear, and the question is still open."""
    sealed = SealedSaver(postgres, keyring)
    left = {}
    for thread, saver in (("clear", postgres), ("sealed", sealed)):
        graph = asking(saver)
        graph.invoke({"text": "first"}, at(thread))
        graph.invoke(Command(resume="yes"), at(thread))
        graph.invoke({"text": "second"}, at(thread))
        before = read(graph, thread)
        saver.prune([thread], strategy="keep_latest")
        assert read(graph, thread) == before
        found = [each.config["configurable"] for each in saver.list(at(thread))]
        left[thread] = sorted(each["checkpoint_ns"].partition(":")[0] for each in found)
        assert graph.invoke(Command(resume="no"), at(thread))["answer"] == "no"
    assert left["sealed"] == left["clear"] == ["", "inner"]


def test_a_channel_of_changes_is_not_pruned(postgres: PostgresSaver, keyring: Keyring) -> None:
    """PostgresSaver recognizes it in a sealed thread too, where its changes would be lost."""
    sealed = SealedSaver(postgres, keyring)
    builder = StateGraph(Log).add_node("node", lambda state: {"log": ["node"]})
    graph = builder.add_edge(START, "node").compile(checkpointer=sealed)
    graph.invoke({"log": ["in"]}, at("1"))
    with pytest.raises(NotImplementedError, match="DeltaChannel"):
        sealed.prune(["1"])
    assert graph.get_state(at("1")).values["log"] == ["in", "node"]
    sealed.prune(["1"], strategy="delete")
    assert graph.get_state(at("1")).values == {}


def test_a_strategy_that_is_not_known_prunes_nothing(
    postgres: PostgresSaver, keyring: Keyring
) -> None:
    """The saver below refuses it by its name."""
    sealed = SealedSaver(postgres, keyring)
    graph = asking(sealed)
    graph.invoke({"text": "x"}, at("1"))
    with pytest.raises(ValueError, match="keep_all"):
        sealed.prune(["1"], strategy="keep_all")
    assert graph.get_state(at("1")).next == ("inner",)
