"""LangGraph's own conformance suite, on sealed savers over each saver.

``pytest -n 0 -s`` of this file prints the reports.
"""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, closing
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.shallow import ShallowPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from whole_saver import WholeSaver

from pipelit_agents import Keyring
from pipelit_agents.checkpoints import SealedSaver

AnySaver = BaseCheckpointSaver[Any]
EVERY_SAVER_HAS = {"put", "put_writes", "get_tuple", "list", "delete_thread"}
# A sealed saver copies threads itself, and does not need the other saver for it.
HAS = {
    InMemorySaver: {*EVERY_SAVER_HAS, "copy_thread"},
    WholeSaver: {*EVERY_SAVER_HAS, "copy_thread", "delete_for_runs", "prune"},
    SqliteSaver: {*EVERY_SAVER_HAS, "copy_thread"},
    AsyncSqliteSaver: {*EVERY_SAVER_HAS, "copy_thread"},
    PostgresSaver: {*EVERY_SAVER_HAS, "copy_thread", "prune"},
    AsyncPostgresSaver: {*EVERY_SAVER_HAS, "copy_thread", "prune"},
}


@pytest.fixture
def keyring(key: str) -> Keyring:
    """The keyring of FIELD_ENCRYPTION_KEY."""
    return Keyring(key)


@pytest.fixture
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[AnySaver]:
    """A saver of the class that the test names, with its tables."""
    async with AsyncExitStack() as stack:
        kind = request.param
        if issubclass(kind, InMemorySaver):
            yield kind()
            return
        url = ":memory:"
        if "Postgres" in kind.__name__:
            url = request.getfixturevalue("postgres_url")
        manager = kind.from_conn_string(url)
        if "Async" in kind.__name__:
            saver = await stack.enter_async_context(manager)
            await saver.setup()
        else:
            saver = stack.enter_context(manager)
            saver.setup()
        yield saver


@pytest.mark.slow
@pytest.mark.all_cases
@pytest.mark.parametrize(
    ("saver_class", "opened"),
    [(each, each) for each in HAS],
    ids=[each.__name__ for each in HAS],
    indirect=["opened"],
)
async def test_a_sealed_saver_conforms(
    saver_class: type[AnySaver], opened: AnySaver, keyring: Keyring
) -> None:
    """LangGraph's report says FULL, over just the capabilities that the saver below has."""

    @checkpointer_test(name=f"SealedSaver({saver_class.__name__})")
    async def sealed() -> AsyncGenerator[AnySaver, None]:
        yield SealedSaver(opened, keyring)

    report = await validate(sealed)
    report.print_report()
    assert [each.failures for each in report.results.values() if each.failures] == []
    assert report.conformance_level() == "FULL"
    found = {name for name, each in report.results.items() if each.detected and each.passed}
    assert found == HAS[saver_class]


async def test_the_saver_with_everything_conforms_by_itself() -> None:
    """So that what the suite says about the sealed saver over it means something."""

    @checkpointer_test(name="WholeSaver")
    async def whole() -> AsyncGenerator[AnySaver, None]:
        yield WholeSaver()

    report = await validate(whole)
    assert all(each.passed for each in report.results.values())


OPTIONAL = ("delete_thread", "delete_for_runs", "prune")


def overridden(kind: type[AnySaver], name: str) -> bool:
    """Whether a class overrides a method."""
    return getattr(kind, name) is not getattr(BaseCheckpointSaver, name)


class Own(SealedSaver):
    """A class of the application's own."""


@pytest.mark.parametrize(
    "below", [*HAS, ShallowPostgresSaver, BaseCheckpointSaver], ids=lambda kind: kind.__name__
)
def test_a_method_is_overridden_where_the_saver_below_overrides_it(
    below: type[AnySaver], keyring: Keyring
) -> None:
    """Neither more nor fewer, also for a subclass, for a copy, and for a class that was made."""
    saver = below.__new__(below)
    expected = {
        each for each in OPTIONAL if overridden(below, each) or overridden(below, f"a{each}")
    }
    for kind in (SealedSaver, Own):
        sealed = kind(saver, keyring)
        for each in (sealed, copy.copy(sealed), type(sealed)(saver, keyring)):
            assert isinstance(each, kind)
            assert {name for name in OPTIONAL if overridden(type(each), name)} == expected
            assert {name for name in OPTIONAL if overridden(type(each), f"a{name}")} == expected


class OnlySync(WholeSaver):
    """A saver whose optional methods are synchronous."""

    adelete_for_runs = BaseCheckpointSaver.adelete_for_runs
    aprune = BaseCheckpointSaver.aprune


class Kept(SealedSaver):
    """An application's own class, which prunes nothing."""

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep everything."""


async def test_an_async_method_uses_the_synchronous_one_if_there_is_no_other(
    keyring: Keyring,
) -> None:
    """A capability that is announced works, whichever of its two methods the saver below has."""

    @checkpointer_test(name="OnlySync")
    async def sealed() -> AsyncGenerator[AnySaver, None]:
        yield SealedSaver(OnlySync(), keyring)

    report = await validate(sealed, capabilities={"prune", "delete_for_runs"})
    assert report.results["prune"].passed
    assert report.results["delete_for_runs"].passed


def test_a_subclass_keeps_what_it_overrides(keyring: Keyring) -> None:
    """The saver's capabilities are added behind the application's own methods."""
    saver = Kept(WholeSaver(), keyring)
    assert type(saver).prune is Kept.prune
    assert isinstance(SealedSaver(saver, keyring), SealedSaver)
    assert not isinstance(SealedSaver(saver, keyring), Kept)


class ByUrl(SealedSaver):
    """An application's own class, which opens the saver itself."""

    def __init__(self, url: str, keyring: Keyring) -> None:
        super().__init__(SqliteSaver(sqlite3.connect(url, check_same_thread=False)), keyring)


class KeyFirst(SealedSaver):
    """An application's own class, whose arguments are in another order."""

    def __init__(self, keyring: Keyring, saver: AnySaver) -> None:
        super().__init__(saver, keyring)


@pytest.mark.parametrize("kind", [ByUrl, KeyFirst], ids=lambda kind: kind.__name__)
async def test_a_subclass_with_a_constructor_of_its_own_has_the_capabilities(
    kind: type[SealedSaver], keyring: Keyring
) -> None:
    """Whatever its constructor takes: it deletes threads, and runs graphs on an event loop."""
    sync_only = SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
    saver = ByUrl(":memory:", keyring) if kind is ByUrl else KeyFirst(keyring, sync_only)
    graph = StateGraph(dict).add_node("n", lambda state: {"x": 1}).add_edge(START, "n")
    at: Any = {"configurable": {"thread_id": "1"}}
    await graph.compile(checkpointer=saver).ainvoke({"x": 0}, at)
    assert await saver.aget_tuple(at)
    saver.delete_thread("1")
    assert await saver.aget_tuple(at) is None
    assert isinstance(saver, kind)
    with closing(saver.conn):
        assert type(copy.copy(saver)) is type(saver)
    sync_only.conn.close()


class Audited(SealedSaver):
    """An application's own class, which notes each call."""

    called: set[str]

    async def aget_tuple(self, config: Any) -> Any:
        """Note the call."""
        self.called.add("aget_tuple")
        return await super().aget_tuple(config)

    async def alist(self, config: Any, **options: Any) -> AsyncIterator[Any]:
        """Note the call."""
        self.called.add("alist")
        async for each in super().alist(config, **options):
            yield each

    async def aput(self, *args: Any) -> Any:
        """Note the call."""
        self.called.add("aput")
        return await super().aput(*args)

    async def aput_writes(self, *args: Any) -> None:
        """Note the call."""
        self.called.add("aput_writes")
        await super().aput_writes(*args)

    def put(self, *args: Any) -> Any:
        """Note the call."""
        self.called.add("put")
        return super().put(*args)


@pytest.mark.parametrize("opened", [InMemorySaver, SqliteSaver], indirect=True)
async def test_an_async_method_of_a_subclass_is_called(opened: AnySaver, keyring: Keyring) -> None:
    """Also over a saver with synchronous methods only, where it calls the synchronous ones."""
    saver = Audited(opened, keyring)
    saver.called = called = set()
    graph = StateGraph(dict).add_node("n", lambda state: {"x": 1}).add_edge(START, "n")
    at: Any = {"configurable": {"thread_id": "1"}}
    await graph.compile(checkpointer=saver).ainvoke({"x": 0}, at)
    assert [each async for each in saver.alist(at)]
    expected = {"aget_tuple", "alist", "aput", "aput_writes"}
    assert called == (expected | {"put"} if isinstance(opened, SqliteSaver) else expected)


class OnlyAsyncPrune(WholeSaver):
    """A saver that prunes on an event loop only."""

    prune = BaseCheckpointSaver.prune

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Prune."""
        WholeSaver.prune(self, thread_ids, strategy=strategy)


async def test_a_sync_method_uses_the_async_one_if_there_is_no_other(keyring: Keyring) -> None:
    """Also where an event loop runs."""
    saver = SealedSaver(OnlyAsyncPrune(), keyring)
    graph = StateGraph(dict).add_node("n", lambda state: {"x": 1}).add_edge(START, "n")
    at: Any = {"configurable": {"thread_id": "1"}}
    graph.compile(checkpointer=saver).invoke({"x": 0}, at)
    assert len(list(saver.list(at))) > 1
    saver.prune(["1"])
    assert len(list(saver.list(at))) == 1


@pytest.mark.parametrize("change", [copy.copy, lambda saver: saver.with_allowlist([("a", "B")])])
def test_a_copy_has_the_same_capabilities(
    change: Callable[[SealedSaver], SealedSaver], keyring: Keyring
) -> None:
    """LangGraph makes copies of a checkpointer for graphs with types of their own."""
    saver = SealedSaver(WholeSaver(), keyring)
    assert type(change(saver)) is type(saver)
