"""``copy_thread`` of a sealed saver: all of a thread, encrypted again, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict
from whole_saver import WholeSaver

from pipelit_agents import Keyring
from pipelit_agents.checkpoints import SealedSaver
from pipelit_agents.errors import UnsealError


def joined(old: Any, new: Sequence[Any]) -> list[str]:
    """What the channel applies to its changes: their order matters."""
    return [*old, *(line for each in new for line in each)]


class State(TypedDict, total=False):
    """An order, and what was done, in order."""

    text: str
    approved: bool
    log: Annotated[list[str], DeltaChannel(joined, list, snapshot_frequency=4)]


def paying(saver: Any) -> Any:
    """Asks a person beside a node that is done, with a subgraph before."""
    inner = StateGraph(State).add_node("deep", lambda state: {"text": f"{state['text']}!"})
    inner.add_edge(START, "deep")

    def ask(state: State) -> State:
        return {"approved": interrupt(f"pay for {state['text']}?") == "yes", "log": ["asked"]}

    builder = StateGraph(State)
    builder.add_node("inner", inner.compile())
    builder.add_node("ask", ask)
    builder.add_node("beside", lambda state: {"log": ["beside"]})
    builder.add_node("pay", lambda state: {"log": [f"paid {state['approved']}"]})
    builder.add_edge(START, "inner")
    for name in ("ask", "beside"):
        builder.add_edge("inner", name)
        builder.add_edge(name, "pay")
    return builder.compile(checkpointer=saver)


def at(thread: str) -> Any:
    """The configuration of a thread."""
    return {"configurable": {"thread_id": thread}, "metadata": {"about": "an order"}}


def history(graph: Any, thread: str) -> list[Any]:
    """All that a graph reads of a thread, but for the thread's id."""
    return [
        (each.values, each.next, each.metadata, each.created_at, each.interrupts)
        for each in graph.get_state_history(at(thread))
    ]


@pytest.fixture
def keyring(key: str) -> Keyring:
    """The keyring of FIELD_ENCRYPTION_KEY."""
    return Keyring(key)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteSaver]:
    """A saver whose database can be changed behind its back."""
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        yield saver


@pytest.fixture
async def asqlite(tmp_path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    """The same database, for the event loop."""
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        yield saver


@pytest.fixture(params=[InMemorySaver, SqliteSaver, PostgresSaver], ids=lambda kind: kind.__name__)
def saver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each kind of saver."""
    with ExitStack() as stack:
        if request.param is InMemorySaver:
            yield InMemorySaver()
        elif request.param is SqliteSaver:
            yield stack.enter_context(SqliteSaver.from_conn_string(":memory:"))
        else:
            url = request.getfixturevalue("postgres_url")
            made = stack.enter_context(PostgresSaver.from_conn_string(url))
            made.setup()
            yield made


def test_a_copy_reads_and_goes_on_like_its_source(saver: Any, keyring: Keyring) -> None:
    """History, changes of channels, metadata, a question and its answer; the source stays there."""
    sealed = SealedSaver(saver, keyring)
    graph = paying(sealed)
    for line in ("first", "second"):
        graph.invoke({"text": line, "log": [line]}, at("source"))
        graph.invoke(Command(resume="no"), at("source"))
    graph.invoke({"text": "third", "log": ["third"]}, at("source"))
    before = history(graph, "source")
    namespaces = [each.config["configurable"]["checkpoint_ns"] for each in sealed.list(None)]

    sealed.copy_thread("source", "target")

    assert history(graph, "target") == history(graph, "source") == before
    assert len(before) > 10
    found = [each.config["configurable"] for each in sealed.list(None)]
    copied = [each["checkpoint_ns"] for each in found if each["thread_id"] == "target"]
    assert sorted(copied) == sorted(namespaces)
    done = graph.invoke(Command(resume="yes"), at("target"))
    # In the order of the tasks, though one of them was done before the copy.
    assert done["log"][-3:] == ["asked", "beside", "paid True"]
    assert graph.get_state(at("target")).values["log"] == done["log"]
    assert history(graph, "source") == before
    assert graph.invoke(Command(resume="yes"), at("source")) == done


async def test_an_async_copy_reads_and_goes_on_like_its_source(
    asqlite: AsyncSqliteSaver, keyring: Keyring
) -> None:
    """As on the sync saver."""
    sealed = SealedSaver(asqlite, keyring)
    graph = paying(sealed)
    await graph.ainvoke({"text": "x", "log": ["x"]}, at("source"))
    await sealed.acopy_thread("source", "target")
    copied = [each async for each in graph.aget_state_history(at("target"))]
    kept = [each async for each in graph.aget_state_history(at("source"))]
    assert [each.values for each in copied] == [each.values for each in kept]
    assert (await graph.ainvoke(Command(resume="yes"), at("target")))["log"][-1] == "paid True"
    assert (await graph.aget_state(at("source"))).next == ("ask",)


def test_a_copy_shares_no_ciphertext_with_its_source(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """Each value is encrypted again, for the new thread."""
    sealed = SealedSaver(sqlite, keyring)
    paying(sealed).invoke({"text": "x", "log": ["x"]}, at("source"))
    sealed.copy_thread("source", "target")
    for column, table in (
        ("checkpoint", "checkpoints"),
        ("metadata", "checkpoints"),
        ("value", "writes"),
    ):
        rows = sqlite.conn.execute(f"SELECT {column} FROM {table}").fetchall()  # noqa: S608
        assert len(set(rows)) == len(rows) > 4


def test_the_writes_of_a_copy_have_their_numbers(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """A task that is run again in the copy finds its earlier writes in their places."""
    sealed = SealedSaver(sqlite, keyring)
    graph = paying(sealed)
    graph.invoke({"text": "x", "log": ["x"]}, at("source"))
    graph.invoke(Command(resume="yes"), at("source"))
    sealed.copy_thread("source", "target")
    query = (
        "SELECT checkpoint_ns, checkpoint_id, task_id, idx, channel, type FROM writes "
        "WHERE thread_id = ? ORDER BY 1, 2, 3, 4"
    )
    source, target = (
        sqlite.conn.execute(query, (thread,)).fetchall() for thread in ("source", "target")
    )
    assert source == target
    assert {"__resume__", "__interrupt__", "log"} < {row[4] for row in source}


def test_a_copy_is_under_the_newest_key(sqlite: SqliteSaver) -> None:
    """It opens when the key of its source is gone."""
    old, new = Keyring.generate_key(), Keyring.generate_key()
    paying(SealedSaver(sqlite, Keyring(old))).invoke({"text": "x"}, at("source"))
    SealedSaver(sqlite, Keyring(new, old)).copy_thread("source", "target")
    graph = paying(SealedSaver(sqlite, Keyring(new)))
    assert graph.get_state(at("target")).next == ("ask",)
    with pytest.raises(UnsealError):
        graph.get_state(at("source"))


def test_the_saver_below_copies_no_rows(keyring: Keyring) -> None:
    """Its own ``copy_thread`` would copy ciphertexts, which don't open in another thread."""
    whole = WholeSaver()
    sealed = SealedSaver(whole, keyring)
    graph = paying(sealed)
    graph.invoke({"text": "x"}, at("source"))
    sealed.copy_thread("source", "target")
    assert graph.get_state(at("target")).next == ("ask",)
    whole.copy_thread("source", "rows")
    with pytest.raises(UnsealError):
        graph.get_state(at("rows"))


# By somebody who writes to the database, in its newest checkpoint.
FORGED = {
    "a checkpoint of another thread": "checkpoints SET (type, checkpoint, metadata) = "
    "(SELECT type, checkpoint, metadata FROM checkpoints WHERE thread_id = 'other' LIMIT 1)",
    "a write of another thread": "writes SET value = (SELECT value FROM writes "
    "WHERE thread_id = 'other' AND channel = 'log' LIMIT 1)",
    "a parent": "checkpoints SET parent_checkpoint_id = 'x'",
    "metadata in clear": "checkpoints SET metadata = json_set(metadata, '$.step', 7)",
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
async def test_of_a_forged_thread_nothing_is_copied(
    sqlite: SqliteSaver, asqlite: AsyncSqliteSaver, keyring: Keyring, change: str
) -> None:
    """A change, also in the last row that is read, is refused before the first one is written."""
    sealed = SealedSaver(sqlite, keyring)
    for thread in ("source", "other"):
        paying(sealed).invoke({"text": "x", "log": ["x"]}, at(thread))
    newest = "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = 'source'"
    changed = sqlite.conn.execute(f"UPDATE {change} WHERE checkpoint_id = ({newest})")
    assert changed.rowcount
    sqlite.conn.execute(
        "CREATE TRIGGER written BEFORE INSERT ON checkpoints WHEN NEW.thread_id = 'target' "
        "BEGIN SELECT RAISE(ABORT, 'written'); END"
    )
    sqlite.conn.commit()
    with pytest.raises(UnsealError):
        sealed.copy_thread("source", "target")
    with pytest.raises(UnsealError):
        await SealedSaver(asqlite, keyring).acopy_thread("source", "target")


@pytest.mark.parametrize("target", ["other", "source"])
async def test_a_thread_is_copied_to_a_new_one_only(
    sqlite: SqliteSaver, asqlite: AsyncSqliteSaver, keyring: Keyring, target: str
) -> None:
    """So an answer in one thread is never added to a question in another."""
    sealed = SealedSaver(sqlite, keyring)
    graph = paying(sealed)
    for thread in ("source", "other"):
        graph.invoke({"text": "x"}, at(thread))
    before = history(graph, "other")
    with pytest.raises(ValueError, match="target_thread_id"):
        sealed.copy_thread("source", target)
    with pytest.raises(ValueError, match="target_thread_id"):
        await SealedSaver(asqlite, keyring).acopy_thread("source", target)
    assert history(graph, "other") == before


def test_rows_that_were_planted_in_the_target_stop_the_copy(
    sqlite: SqliteSaver, keyring: Keyring
) -> None:
    """Somebody who writes to the database can't have them taken for part of the copy."""
    sealed = SealedSaver(sqlite, keyring)
    paying(sealed).invoke({"text": "x"}, at("source"))
    sqlite.conn.execute(
        "INSERT INTO checkpoints SELECT 'target', 'x', checkpoint_id, NULL, type, checkpoint, "
        "metadata FROM checkpoints LIMIT 1"
    )
    with pytest.raises(ValueError, match="target_thread_id"):
        sealed.copy_thread("source", "target")


async def test_a_copy_that_fails_leaves_nothing(
    sqlite: SqliteSaver, asqlite: AsyncSqliteSaver, keyring: Keyring
) -> None:
    """A full disk, say, in the middle; the next try copies everything."""
    sealed = SealedSaver(sqlite, keyring)
    graph = paying(sealed)
    graph.invoke({"text": "x"}, at("source"))
    sqlite.conn.execute(
        "CREATE TRIGGER full BEFORE INSERT ON checkpoints WHEN NEW.thread_id = 'target' AND "
        "(SELECT count(*) FROM checkpoints WHERE thread_id = 'target') = 2 "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    sqlite.conn.commit()
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        sealed.copy_thread("source", "target")
    assert list(sqlite.list(at("target"))) == []
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        await SealedSaver(asqlite, keyring).acopy_thread("source", "target")
    assert list(sqlite.list(at("target"))) == []
    sqlite.conn.execute("DROP TRIGGER full")
    sealed.copy_thread("source", "target")
    assert history(graph, "target") == history(graph, "source")


def test_nothing_is_copied_of_no_thread(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """A thread without checkpoints has none to copy."""
    SealedSaver(sqlite, keyring).copy_thread("nowhere", "target")
    assert list(sqlite.list(None)) == []
