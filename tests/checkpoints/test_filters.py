"""``list(filter=…)`` of a sealed saver: by any metadata, read page by page, and never deceived."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import cache
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from pipelit_agents import Keyring
from pipelit_agents.checkpoints import SealedSaver
from pipelit_agents.errors import UnsealError

IDS = [str(uuid6(clock_seq=-1)) for _ in range(8)]
# Of the checkpoints of one namespace, from the oldest on.
METADATA: list[Any] = [
    {
        "source": "input" if number % 3 == 0 else "loop",
        "step": number,
        "parents": {"": "x"} if number % 2 else {},
        "about": "otters" if number % 2 else "holts",
        "team": "red" if number < 4 else "blue",
        "score": number % 4,
        "tags": ["a", number % 2],
        "nested": {"b": number, "a": 1},
        "nothing": None,
        "a.b": number % 2,
        "it's": "odd" if number % 2 else "even",
    }
    for number in range(8)
]
FILTERS: dict[str, dict[str, Any]] = {
    "in clear": {"source": "input"},
    "in clear, number": {"step": 3},
    "in clear, named": {"team": "red"},
    "in clear, object": {"parents": {}},
    "in clear, null": {"source": None},
    "in clear, a path": {"a.b": 1},
    "in clear, a quote": {"it's": "odd"},
    "sealed": {"about": "otters"},
    "sealed, number": {"score": 1},
    "sealed, list": {"tags": ["a", 1]},
    "sealed, object": {"nested": {"a": 1, "b": 5}},
    "sealed, null": {"nothing": None},
    "missing is null": {"never": None},
    "both": {"source": "loop", "about": "otters"},
    "no match": {"source": "loop", "about": "dams"},
    "another type": {"step": "3"},
}
IN_CLEAR = ["team", "a.b", "it's"]
LIMITS = (None, 0, 2, 100)


def at(thread: str, ns: str | None = "", checkpoint_id: str = "") -> Any:
    """The configuration of a thread, a namespace or a checkpoint."""
    found = {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
    return {"configurable": {name: value for name, value in found.items() if value is not None}}


def filled(saver: BaseCheckpointSaver[Any]) -> BaseCheckpointSaver[Any]:
    """A saver with eight checkpoints in two namespaces of two threads."""
    for thread in ("1", "2"):
        for ns in ("", "inner:1"):
            for checkpoint_id, metadata in zip(IDS, METADATA, strict=True):
                saver.put(at(thread, ns), {**empty_checkpoint(), "id": checkpoint_id}, metadata, {})
    return saver


def found(listed: list[CheckpointTuple]) -> list[Any]:
    """What is compared of a list."""
    return [(each.config["configurable"], each.metadata) for each in listed]


@cache
def plain() -> BaseCheckpointSaver[Any]:
    """An InMemorySaver that holds everything in clear."""
    return filled(InMemorySaver())


def as_plain(config: Any, wanted: Any, before: Any, limit: int | None) -> list[Any]:
    """What is expected of a list."""
    return found([*plain().list(config, filter=wanted, before=before, limit=limit)])


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    """A keyring."""
    return Keyring(Keyring.generate_key())


@pytest.fixture(params=[InMemorySaver, SqliteSaver, PostgresSaver], ids=lambda kind: kind.__name__)
def saver(request: pytest.FixtureRequest, keyring: Keyring) -> Iterator[Any]:
    """A sealed saver over each kind, with checkpoints in it."""
    with ExitStack() as stack:
        below: Any = InMemorySaver()
        if request.param is SqliteSaver:
            below = stack.enter_context(SqliteSaver.from_conn_string(":memory:"))
        elif request.param is PostgresSaver:
            url = request.getfixturevalue("postgres_url")
            below = stack.enter_context(PostgresSaver.from_conn_string(url))
            below.setup()
        yield filled(SealedSaver(below, keyring, clear_metadata=IN_CLEAR))


@pytest.fixture(params=[AsyncSqliteSaver, AsyncPostgresSaver], ids=lambda kind: kind.__name__)
async def asaver(request: pytest.FixtureRequest, keyring: Keyring) -> AsyncIterator[Any]:
    """The same over savers for the event loop."""
    async with AsyncExitStack() as stack:
        url = ":memory:"
        if request.param is AsyncPostgresSaver:
            url = request.getfixturevalue("postgres_url")
        below: Any = await stack.enter_async_context(request.param.from_conn_string(url))
        await below.setup()
        made = SealedSaver(below, keyring, clear_metadata=IN_CLEAR)
        for ns in ("", "inner:1"):
            for checkpoint_id, metadata in zip(IDS, METADATA, strict=True):
                checkpoint = {**empty_checkpoint(), "id": checkpoint_id}
                await made.aput(at("1", ns), checkpoint, metadata, {})  # type: ignore[arg-type]
        yield made


@pytest.mark.slow
def test_it_lists_what_a_saver_with_everything_in_clear_lists(saver: Any) -> None:
    """Each filter, with each limit, before a checkpoint or not: the same, in the same order."""
    for wanted in FILTERS.values():
        for limit in LIMITS:
            for config, before in (
                (at("1"), None),
                (at("2", "inner:1"), at("1", "", IDS[5])),
                (at("1", "", IDS[3]), None),
            ):
                listed = found([*saver.list(config, filter=wanted, before=before, limit=limit)])
                assert listed == as_plain(config, wanted, before, limit), (wanted, limit)


@pytest.mark.slow
def test_it_finds_in_all_namespaces_and_threads(saver: Any) -> None:
    """Where ids occur more than once, nothing is left out at the end of a page."""
    for wanted in FILTERS.values():
        for config in (at("1", None), None):
            listed = found([*saver.list(config, filter=wanted)])
            expected = as_plain(config, wanted, None, None)
            assert sorted(listed, key=str) == sorted(expected, key=str)
            some = found([*saver.list(config, filter=wanted, limit=5)])
            assert len(some) == min(5, len(expected))
            assert all(each in expected for each in some)


async def test_an_async_list_finds_the_same(asaver: Any) -> None:
    """As on the sync savers."""
    for wanted in FILTERS.values():
        for limit in LIMITS:
            before = at("1", "", IDS[6])
            asked = asaver.alist(at("1"), filter=wanted, before=before, limit=limit)
            listed = found([each async for each in asked])
            assert listed == as_plain(at("1"), wanted, before, limit), (wanted, limit)


class Counting(InMemorySaver):
    """Notes how many checkpoints each call reads; a copy of it notes them in the same list."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Any = []

    def list(self, *args: Any, **kwargs: Any) -> Iterator[CheckpointTuple]:
        """As its base."""
        # PostgresSaver reads all that it lists at once.
        found = [*super().list(*args, **kwargs)]
        self.read.append(len(found))
        return iter(found)


@pytest.fixture(scope="module")
def long_thread(keyring: Keyring) -> tuple[SealedSaver, Counting]:
    """300 checkpoints, of which the 100th and the 250th from the newest on are about otters."""
    below = Counting()
    saver = SealedSaver(below, keyring)
    for number in range(300, 0, -1):
        metadata: Any = {"source": "loop", "about": "otters" if number in (100, 250) else "dams"}
        checkpoint: Any = {**empty_checkpoint(), "id": str(uuid6(clock_seq=-1))}
        saver.put(at("1"), checkpoint, metadata, {})
    return saver, below


@pytest.mark.parametrize(
    ("wanted", "limit", "most", "hits"),
    [
        ({"about": "dams"}, 1, 16, 1),
        ({"about": "otters"}, 1, 240, 1),
        ({"about": "otters"}, 2, 300, 2),
        ({"about": "otters", "source": "input"}, 1, 0, 0),
        ({"source": "loop"}, 1, 1, 1),
        ({"about": "otters"}, None, 300, 2),
    ],
    ids=["at once", "some pages", "to the end", "none in clear", "in clear", "no limit"],
)
def test_a_limit_is_read_page_by_page(
    long_thread: tuple[SealedSaver, Counting], wanted: Any, limit: int | None, most: int, hits: int
) -> None:
    """No more of a thread is read than the pages that it takes to find so many."""
    saver, below = long_thread
    below.read.clear()
    assert len([*saver.list(at("1"), filter=wanted, limit=limit)]) == hits
    assert sum(below.read) <= most
    # Each page is longer than the one before.
    assert len(below.read) <= 5


def test_a_namespace_that_comes_later_is_not_left_out(keyring: Keyring) -> None:
    """InMemorySaver lists one namespace after another: newer checkpoints follow older ones."""
    saver = SealedSaver(InMemorySaver(), keyring)
    for ns, about in (("", "dams"), ("inner:1", "otters")):
        for _ in range(20):
            checkpoint: Any = {**empty_checkpoint(), "id": str(uuid6(clock_seq=-1))}
            saver.put(at("1", ns), checkpoint, {"about": about}, {})  # type: ignore[typeddict-unknown-key]
    assert len([*saver.list(at("1", None), filter={"about": "otters"}, limit=15)]) == 15
    assert len([*saver.list(at("1", ""), filter={"about": "otters"}, limit=15)]) == 0


@pytest.fixture
def sqlite() -> Iterator[SqliteSaver]:
    """A saver whose rows can be changed behind its back."""
    with SqliteSaver.from_conn_string(":memory:") as saver:
        yield saver


def change(sqlite: SqliteSaver, number: int, **changed: Any) -> None:
    """Write over the metadata in clear of a checkpoint; None takes a name out."""
    query = "SELECT metadata FROM checkpoints WHERE thread_id = '1' AND checkpoint_id = ?"
    (text,) = sqlite.conn.execute(query, (IDS[number],)).fetchone()
    stored = {**json.loads(text), **changed}
    written = json.dumps({name: value for name, value in stored.items() if value is not None})
    sqlite.conn.execute(
        "UPDATE checkpoints SET metadata = ? WHERE thread_id = '1' AND checkpoint_id = ?",
        (written.encode(), IDS[number]),
    )


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"source": "update"}, {"source": "update"}),
        ({"source": "update"}, {"about": "holts"}),
        ({"about": "otters"}, {"about": "otters"}),
        ({"step": True}, {"about": "dams"}),
        ({"pipelit_sealed": "json x"}, {"about": "dams"}),
        ({"pipelit_sealed": None}, {"about": "dams"}),
    ],
    ids=["found by it", "found by another", "planted", "type", "forged", "gone"],
)
def test_a_checkpoint_whose_metadata_was_changed_is_refused(
    sqlite: SqliteSaver, keyring: Keyring, changed: Any, wanted: Any
) -> None:
    """It is not listed for what it claims, and not passed over if the filter has to read it."""
    saver = filled(SealedSaver(sqlite, keyring))
    change(sqlite, 4, **changed)
    for limit in (None, 8):
        with pytest.raises(UnsealError, match=IDS[4]):
            list(saver.list(at("1", ""), filter=wanted, limit=limit))


def test_a_copy_in_clear_that_is_missing_lists_nothing_that_differs(
    sqlite: SqliteSaver, keyring: Keyring
) -> None:
    """The decrypted metadata decides: without the copy, it isn't found as having none."""
    saver = filled(SealedSaver(sqlite, keyring))
    change(sqlite, 4, source=None)
    assert list(saver.list(at("1", ""), filter={"source": None})) == []
    assert len(list(saver.list(at("1", "")))) == 8


def test_sealed_metadata_of_another_checkpoint_is_refused(
    sqlite: SqliteSaver, keyring: Keyring
) -> None:
    """Metadata that would match, copied onto a checkpoint that doesn't."""
    saver = filled(SealedSaver(sqlite, keyring))
    sqlite.conn.execute(
        "UPDATE checkpoints SET metadata = (SELECT metadata FROM checkpoints "
        "WHERE thread_id = '1' AND checkpoint_ns = '' AND checkpoint_id = ?) "
        "WHERE checkpoint_id = ?",
        (IDS[1], IDS[0]),
    )
    with pytest.raises(UnsealError, match=IDS[0]):
        list(saver.list(at("1", ""), filter={"about": "otters"}))


SPOILED = pytest.mark.parametrize(
    "metadata", ["nonsense{", "", b"\x00"], ids=["text", "empty", "bytes"]
)
SPOIL = "UPDATE checkpoints SET metadata = ? WHERE thread_id = '1' AND checkpoint_id = ?"
# The saver below filters by the first one, or by both.
BY_STEP: list[Any] = [{"step": 0, "about": "holts"}, {"step": 0}]


@SPOILED
@pytest.mark.parametrize("limit", [None, 2])
async def test_metadata_that_the_database_cannot_read_is_refused(
    sqlite: SqliteSaver, keyring: Keyring, metadata: object, limit: int | None
) -> None:
    """The checkpoint is named, instead of the error of the database's own filter."""
    sealed = filled(SealedSaver(sqlite, keyring))
    sqlite.conn.execute(SPOIL, (metadata, IDS[0]))
    sqlite.conn.commit()
    for wanted in BY_STEP:
        with pytest.raises(UnsealError, match="is malformed"):
            list(sealed.list(at("1", ""), filter=wanted, limit=limit))
        with pytest.raises(UnsealError, match="is malformed"):
            [each async for each in sealed.alist(at("1", ""), filter=wanted, limit=limit)]
    # A thread that nobody spoiled is listed.
    assert len(list(sealed.list(at("2", ""), filter=BY_STEP[0], limit=limit))) == 1


@SPOILED
@pytest.mark.parametrize("asaver", [AsyncSqliteSaver], indirect=True)
async def test_metadata_that_an_async_database_cannot_read_is_refused(
    asaver: Any, metadata: object
) -> None:
    """As of a synchronous one, and an error of the database stays what it is."""
    await asaver.conn.execute(SPOIL, (metadata, IDS[0]))
    for wanted in BY_STEP:
        with pytest.raises(UnsealError, match="is malformed"):
            [each async for each in asaver.alist(at("1", ""), filter=wanted)]
    await asaver.conn.execute("DROP TABLE checkpoints")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        [each async for each in asaver.alist(at("1", ""), filter=BY_STEP[0])]


def test_an_error_of_the_database_stays_what_it_is(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """It isn't taken for a forged checkpoint."""
    sealed = filled(SealedSaver(sqlite, keyring))
    sqlite.conn.execute("DROP TABLE checkpoints")
    for wanted in (None, BY_STEP[0]):
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            list(sealed.list(None, filter=wanted))


def test_only_what_is_named_is_in_clear(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """The metadata that a filter can decrypt is nowhere in the rows."""
    filled(SealedSaver(sqlite, keyring, clear_metadata=["team"]))
    for (text,) in sqlite.conn.execute("SELECT metadata FROM checkpoints"):
        assert json.loads(text).keys() == {"source", "step", "parents", "team", "pipelit_sealed"}
