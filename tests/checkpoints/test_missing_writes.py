"""A write that somebody deleted from the database: the others of its call are refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from operator import add
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from pipelit_agents import Keyring
from pipelit_agents.checkpoints import SealedSaver
from pipelit_agents.errors import UnsealError


class State(TypedDict, total=False):
    """What was done, in order."""

    log: Annotated[list[str], add]
    checked: bool


def asking(saver: Any) -> Any:
    """Asks a person beside a node that is done, and that checks must follow."""
    builder = StateGraph(State)
    builder.add_node("plan", lambda _: {"log": ["plan"], "checked": False})
    builder.add_node("ask", lambda _: {"log": [f"ask {interrupt('pay?')}"]})
    builder.add_node("check", lambda _: {"log": ["CHECK"], "checked": True})
    builder.add_node("each", lambda state: {"log": [f"EACH {state['item']}"]})
    builder.add_node("pay", lambda _: {"log": ["pay"]}, defer=True)
    builder.add_edge(START, "plan")
    builder.add_edge(START, "ask")
    builder.add_edge("plan", "check")
    builder.add_conditional_edges("plan", lambda _: [Send("each", {"item": 1})], ["each"])
    for name in ("ask", "check", "each"):
        builder.add_edge(name, "pay")
    return builder.compile(checkpointer=saver)


def at(thread: str) -> Any:
    """The configuration of a thread."""
    return {"configurable": {"thread_id": thread}}


@pytest.fixture
def keyring(key: str) -> Keyring:
    """The keyring of FIELD_ENCRYPTION_KEY."""
    return Keyring(key)


@pytest.fixture
def sqlite() -> Iterator[SqliteSaver]:
    """A saver whose database can be changed behind its back."""
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        yield SqliteSaver(connection)


def delete(saver: SqliteSaver, where: str) -> int:
    """Delete rows of writes, as somebody without a key may."""
    return saver.conn.execute(f"DELETE FROM writes WHERE {where}").rowcount  # noqa: S608


@pytest.mark.parametrize("channel", ["branch:to:check", "__pregel_tasks", "log", "checked"])
def test_no_node_is_skipped_by_deleting_a_write(
    sqlite: SqliteSaver, keyring: Keyring, channel: str
) -> None:
    """The edge, the Send or a value of a task that is done: the run stops, nothing is copied."""
    saver = SealedSaver(sqlite, keyring)
    graph = asking(saver)
    graph.invoke({"log": []}, at("1"))
    of_plan = "task_id = (SELECT task_id FROM writes WHERE channel = 'branch:to:check')"
    assert delete(sqlite, f"channel = '{channel}' AND {of_plan}") == 1
    with pytest.raises(UnsealError, match=r"a write of task .* is missing"):
        graph.invoke(Command(resume="yes"), at("1"))
    with pytest.raises(UnsealError, match="is missing"):
        list(saver.list(at("1")))
    with pytest.raises(UnsealError, match="is missing"):
        saver.copy_thread("1", "2")
    assert list(sqlite.list(at("2"))) == []


def test_a_task_without_any_of_its_writes_runs_again(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """Then nothing is skipped: what follows it runs too."""
    graph = asking(SealedSaver(sqlite, keyring))
    graph.invoke({"log": []}, at("1"))
    assert delete(
        sqlite, "task_id = (SELECT task_id FROM writes WHERE channel = 'branch:to:check')"
    )
    done = graph.invoke(Command(resume="yes"), at("1"))
    assert sorted(done["log"]) == ["CHECK", "EACH 1", "ask yes", "pay", "plan"]


def failing(saver: Any, *, fails: list[str]) -> Any:
    """The first try of a node fails after its values were written, at its conditional edge."""

    def route(_: State) -> str:
        if fails:
            raise OSError(fails.pop())
        return "check"

    builder = StateGraph(State)
    builder.add_node("plan", lambda _: {"log": ["plan"]})
    builder.add_node("ask", lambda _: {"log": [f"ask {interrupt('pay?')}"]})
    builder.add_node("check", lambda _: {"log": ["CHECK"]})
    builder.add_edge(START, "plan")
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("plan", route, ["check"])
    return builder.compile(checkpointer=saver)


def test_a_task_that_failed_is_read_as_without_the_seal(
    sqlite: SqliteSaver, keyring: Keyring
) -> None:
    """Its values and its error are whole, in the thread and in a copy."""
    histories = []
    sealed = SealedSaver(sqlite, keyring)
    for saver in (InMemorySaver(), sealed):
        graph = failing(saver, fails=["down"])
        with pytest.raises(OSError, match="down"):
            graph.invoke({"log": []}, at("1"))
        done = graph.invoke(Command(resume="yes"), at("1"))
        histories.append([(each.values, each.next) for each in graph.get_state_history(at("1"))])
        assert histories[-1][0][0] == done
    assert histories[0] == histories[1]
    sealed.copy_thread("1", "2")
    copied = [(each.values, each.next) for each in graph.get_state_history(at("2"))]
    assert copied == histories[1]


@pytest.mark.parametrize("channel", ["__error__", "log"])
@pytest.mark.parametrize("thread", ["1", "2"], ids=["thread", "copy"])
def test_a_task_that_failed_does_not_look_done(
    sqlite: SqliteSaver, keyring: Keyring, channel: str, thread: str
) -> None:
    """Its error can't be deleted from beside its values, nor from a copy; nor can they."""
    saver = SealedSaver(sqlite, keyring)
    graph = failing(saver, fails=["down"])
    with pytest.raises(OSError, match="down"):
        graph.invoke({"log": []}, at("1"))
    saver.copy_thread("1", "2")
    of_plan = "task_id = (SELECT task_id FROM writes WHERE channel = '__error__')"
    assert delete(sqlite, f"channel = '{channel}' AND {of_plan} AND thread_id = '{thread}'") == 1
    with pytest.raises(UnsealError, match="is missing"):
        graph.get_state(at(thread))


# The channels of each call of put_writes for one task, and the numbers of the rows that may be
# missing: without such a row, nothing is left of a call.
CALLS: dict[str, tuple[list[list[str]], set[int]]] = {
    "one call": ([["a", "b", "c"]], set()),
    "one write": ([["a"]], {0}),
    "a question and its answer": ([["__interrupt__"], ["__resume__", "a", "b"]], {-3}),
    "two questions": ([["__interrupt__"], ["__interrupt__", "__resume__"]], set()),
    "answers before and between": ([["__resume__", "a", "__resume__", "b"]], set()),
    "an error": ([["a", "__error__"]], set()),
    "an error, and again": ([["a", "__error__"], ["a", "b"]], {1}),
    "an error with a handler": ([["__error__", "__error_source_node__"]], set()),
    "one more with each call": ([["a"], ["a", "b"], ["a", "b", "c"]], {2}),
    "an answer at the end": ([["a"], ["a", "b", "__resume__"]], set()),
    "fewer the second time": ([["a", "b"], ["a"]], set()),
    "in another place": ([["__resume__", "a"], ["a", "b"]], {0}),
}


@pytest.mark.parametrize("path", ["", "~__pregel_pull, a"], ids=["one path", "two paths"])
@pytest.mark.parametrize(("calls", "apart"), CALLS.values(), ids=CALLS)
def test_the_rows_of_a_call_are_there_together(
    sqlite: SqliteSaver, keyring: Keyring, calls: list[list[str]], apart: set[int], path: str
) -> None:
    """Whatever LangGraph writes for a task is read, and copied with its numbers; all or none."""
    saver = SealedSaver(sqlite, keyring)
    config: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
    config = saver.put(config, empty_checkpoint(), {}, {})
    for number, call in enumerate(calls):
        writes = [(name, f"{name} {number}") for name in call]
        saver.put_writes(config, writes, "task", path if number else "")
    saver.copy_thread("1", "2")
    rows = "SELECT idx, channel, task_path FROM writes WHERE thread_id = ? ORDER BY idx"
    source, target = (sqlite.conn.execute(rows, thread).fetchall() for thread in "12")
    assert source == target
    found = saver.get_tuple(at("1"))
    copied = saver.get_tuple(at("2"))
    assert found is not None
    assert copied is not None
    assert found.pending_writes == copied.pending_writes
    assert len(source) == len(found.pending_writes or [])
    for thread in "12":
        for number, _, _ in source:
            sqlite.conn.execute("SAVEPOINT before")
            assert delete(sqlite, f"idx = {number} AND thread_id = '{thread}'") == 1
            if number in apart:
                assert saver.get_tuple(at(thread))
            else:
                with pytest.raises(UnsealError, match="is missing"):
                    saver.get_tuple(at(thread))
            sqlite.conn.execute("ROLLBACK TO before")
