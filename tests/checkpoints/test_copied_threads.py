"""``copy_thread`` of a sealed saver: all of a thread, encrypted again, or nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
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
from pipelit_agents.checkpoints.capabilities import in_thread
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


@pytest.mark.slow
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


def nothing(_: int) -> None:
    """Change nothing."""


class Disturbed(InMemorySaver):
    """A saver during whose writes something else happens, or which fails."""

    def __init__(self) -> None:
        super().__init__()
        # A sealed saver uses a copy of the saver, which shares these.
        self.hooks = SimpleNamespace(before=nothing, after=nothing)
        self.puts: list[str] = []

    def put(self, config: Any, *args: Any) -> Any:
        """Write a checkpoint."""
        self.puts.append(config["configurable"]["thread_id"])
        number = self.puts.count("target")
        if self.puts[-1] == "target":
            self.hooks.before(number)
        done = super().put(config, *args)
        if self.puts[-1] == "target":
            self.hooks.after(number)
        return done


async def copy(saver: SealedSaver, source: str = "source", *, is_async: bool) -> None:
    """Copy a thread to ``target``."""
    if is_async:
        await saver.acopy_thread(source, "target")
    else:
        saver.copy_thread(source, "target")


BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def sealed_over(below: Disturbed, keyring: Keyring) -> tuple[SealedSaver, Any]:
    """A sealed saver with threads to copy, and the saver below."""
    sealed = SealedSaver(below, keyring)
    graph = paying(sealed)
    graph.invoke({"text": "x", "log": ["x"]}, at("source"))
    graph.invoke({"text": "y", "log": ["y"]}, at("other"))
    return sealed, below


@BOTH
@pytest.mark.parametrize("number", [1, 3])
async def test_a_copy_that_fails_leaves_what_others_wrote(
    keyring: Keyring, number: int, is_async: bool
) -> None:
    """Somebody began the new thread meanwhile: it isn't deleted, and the error says so."""
    saver, below = sealed_over(Disturbed(), keyring)
    config: Any = {"configurable": {"thread_id": "target", "checkpoint_ns": "theirs"}}

    def begin_and_fail(found: int) -> None:
        if found == number:
            below.hooks.before = nothing
            saver.put(config, empty_checkpoint(), {"source": "input"}, {})
            raise OSError("disk full")

    below.hooks.before = begin_and_fail
    with pytest.raises(OSError, match="disk full") as caught:
        await copy(saver, is_async=is_async)
    assert "is still there: target_thread_id 'target' was written to" in caught.value.__notes__[0]
    assert saver.get_tuple(config)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("source", ["source", "other"])
async def test_two_copies_at_once_are_not_mixed(
    keyring: Keyring, source: str, is_async: bool
) -> None:
    """One that finds another's checkpoints beside its first one stops, and leaves the other's."""
    saver, below = sealed_over(Disturbed(), keyring)

    def copy_too(_: int) -> None:
        below.hooks.before = nothing
        saver.copy_thread(source, "target")

    below.hooks.before = copy_too
    with pytest.raises(ValueError, match="was written to by somebody else"):
        await copy(saver, is_async=is_async)
    assert below.puts.count("target") == below.puts.count(source) + 1
    graph = paying(saver)
    assert graph.get_state(at("target")).values == graph.get_state(at(source)).values


@BOTH
async def test_what_others_write_at_the_end_is_noticed(keyring: Keyring, is_async: bool) -> None:
    """A run that begins in the new thread before the copy is done isn't taken for part of it."""
    saver, below = sealed_over(Disturbed(), keyring)
    count = len([*saver.list(at("source"))])

    def run(number: int) -> None:
        if number == count - 1:
            below.hooks.after = nothing
            paying(saver).invoke({"text": "theirs"}, at("target"))

    below.hooks.after = run
    with pytest.raises(ValueError, match="was written to by somebody else") as caught:
        await copy(saver, is_async=is_async)
    assert "is still there" in caught.value.__notes__[0]
    assert any(each.metadata["source"] == "input" for each in saver.list(at("target")))


@BOTH
async def test_what_is_deleted_of_a_copy_meanwhile_is_noticed(
    keyring: Keyring, is_async: bool
) -> None:
    """The copy isn't said to be done, and its rest is deleted."""
    saver, below = sealed_over(Disturbed(), keyring)

    def delete(number: int) -> None:
        if number == 3:
            below.storage["target"].popitem()

    below.hooks.after = delete
    with pytest.raises(UnsealError, match="a part of the copy is missing"):
        await copy(saver, is_async=is_async)
    assert [*saver.list(at("target"))] == []


@BOTH
@pytest.mark.parametrize("thread", ["source", "other"])
async def test_planted_writes_are_no_part_of_the_copy(
    sqlite: SqliteSaver, asqlite: AsyncSqliteSaver, keyring: Keyring, thread: str, is_async: bool
) -> None:
    """Rows that waited in the new thread for the checkpoint to which they belong are refused."""
    saver = SealedSaver(sqlite, keyring)
    graph = paying(saver)
    for each in ("source", "other"):
        graph.invoke({"text": "x", "log": ["x"]}, at(each))
    newest = "(SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = 'source')"
    row = "task_id, idx, channel, type, value, task_path"
    planted = sqlite.conn.execute(
        f"INSERT INTO writes (thread_id, checkpoint_ns, checkpoint_id, {row}) "  # noqa: S608
        f"SELECT 'target', '', {newest}, {row} FROM writes "
        f"WHERE thread_id = '{thread}' AND channel = 'log' LIMIT 1"
    )
    assert planted.rowcount
    sqlite.conn.commit()
    with pytest.raises(UnsealError, match="was not encrypted for this checkpoint") as caught:
        await copy(SealedSaver(asqlite if is_async else sqlite, keyring), is_async=is_async)
    assert "Look at that thread and delete it" in caught.value.__notes__[0]
    saver.delete_thread("target")
    saver.copy_thread("source", "target")
    assert history(graph, "target") == history(graph, "source")


@BOTH
def test_earlier_rows_of_the_thread_are_no_part_of_the_copy(
    sqlite: SqliteSaver, keyring: Keyring, is_async: bool
) -> None:
    """Writes of a deleted copy under the same id, put back before the next one, are noticed."""
    saver = SealedSaver(sqlite, keyring)
    paying(saver).invoke({"text": "x", "log": ["x"]}, at("source"))
    saver.copy_thread("source", "target")
    sqlite.conn.execute("CREATE TABLE kept AS SELECT * FROM writes WHERE thread_id = 'target'")
    saver.delete_thread("target")
    sqlite.conn.execute("INSERT INTO writes SELECT * FROM kept WHERE idx >= 0")
    sqlite.conn.commit()
    with pytest.raises(ValueError, match="was written to by somebody else"):
        asyncio.run(copy(saver, is_async=is_async))


class DeletesAsync(Disturbed):
    """A saver that deletes on an event loop only."""

    delete_thread = BaseCheckpointSaver.delete_thread

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread."""
        InMemorySaver.delete_thread(self, thread_id)


class DeletesSync(Disturbed):
    """A saver that deletes in its synchronous form only."""

    adelete_thread = BaseCheckpointSaver.adelete_thread


class DeletesNothing(DeletesSync):
    """A saver that doesn't delete threads."""

    delete_thread = BaseCheckpointSaver.delete_thread


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("kind", [DeletesAsync, DeletesSync], ids=lambda kind: kind.__name__)
async def test_a_copy_that_fails_is_deleted_in_the_form_that_there_is(
    keyring: Keyring, kind: type[Disturbed], is_async: bool
) -> None:
    """A saver has one of two methods, and either deletes the part."""
    saver, below = sealed_over(kind(), keyring)

    def fail(number: int) -> None:
        if number == 3:
            raise OSError("disk full")

    below.hooks.before = fail
    with pytest.raises(OSError, match="disk full") as caught:
        await copy(saver, is_async=is_async)
    assert not hasattr(caught.value, "__notes__")
    assert [*below.list(at("target"))] == []


@BOTH
async def test_a_part_that_cannot_be_deleted_is_named(keyring: Keyring, is_async: bool) -> None:
    """The error of the copy stays, with a note."""
    saver, below = sealed_over(DeletesNothing(), keyring)

    def fail(number: int) -> None:
        if number == 3:
            raise OSError("disk full")

    below.hooks.before = fail
    with pytest.raises(OSError, match="disk full") as caught:
        await copy(saver, is_async=is_async)
    assert "DeletesNothing can't delete threads" in caught.value.__notes__[0]
    assert len([*saver.list(at("target"))]) == 2


class SyncOnly(Disturbed):
    """A saver that doesn't work on an event loop."""

    aget_tuple = BaseCheckpointSaver.aget_tuple
    alist = BaseCheckpointSaver.alist
    aput = BaseCheckpointSaver.aput
    aput_writes = BaseCheckpointSaver.aput_writes


async def test_a_copy_that_is_cancelled_stops_over_a_synchronous_saver_too(
    keyring: Keyring,
) -> None:
    """The call that is running ends, none follows, and what was written is deleted."""
    saver, below = sealed_over(SyncOnly(), keyring)
    running, cancelled = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        if number == 2:
            running.set()
            assert cancelled.wait(10)

    below.hooks.before = wait
    task = asyncio.create_task(saver.acopy_thread("source", "target"))
    await asyncio.to_thread(running.wait)
    task.cancel()
    asyncio.get_running_loop().call_soon(cancelled.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert below.puts.count("target") == 2
    assert [*below.list(at("target"))] == []
    below.hooks.before = nothing
    await saver.acopy_thread("source", "target")
    graph = paying(saver)
    assert history(graph, "target") == history(graph, "source")


async def test_a_call_that_is_cancelled_is_waited_for() -> None:
    """What a thread still writes never comes after what is done about the cancellation."""
    running, go_on = threading.Event(), threading.Event()
    done = []

    def write() -> None:
        running.set()
        assert go_on.wait(10)
        done.append("written")
        raise OSError("disk full")

    task = asyncio.create_task(in_thread(write))
    await asyncio.to_thread(running.wait)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["written"]


def test_nothing_is_copied_of_no_thread(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """A thread without checkpoints has none to copy."""
    SealedSaver(sqlite, keyring).copy_thread("nowhere", "target")
    assert list(sqlite.list(None)) == []
