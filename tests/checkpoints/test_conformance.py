"""LangGraph's own conformance suite, on sealed savers over each saver.

``pytest -n 0 -s`` of this file prints the reports.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
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
def test_a_method_is_overridden_where_the_saver_below_overrides_it(below: type[AnySaver]) -> None:
    """Neither more nor fewer, also for a subclass, for a copy, and for a class that was made."""
    saver = below.__new__(below)
    expected = {
        each for each in OPTIONAL if overridden(below, each) or overridden(below, f"a{each}")
    }
    for kind in (SealedSaver, Own):
        sealed = kind.__new__(kind, saver)
        for each in (sealed, copy.copy(sealed), kind.__new__(type(sealed), saver)):
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


@pytest.mark.parametrize("change", [copy.copy, lambda saver: saver.with_allowlist([("a", "B")])])
def test_a_copy_has_the_same_capabilities(
    change: Callable[[SealedSaver], SealedSaver], keyring: Keyring
) -> None:
    """LangGraph makes copies of a checkpointer for graphs with types of their own."""
    saver = SealedSaver(WholeSaver(), keyring)
    assert type(change(saver)) is type(saver)
