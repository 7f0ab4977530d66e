"""For whom the running code acts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from internals import database_of
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import InvalidUsername
from pipelit_agents.identity.acting import acting_person, acts_for, claimed_person


def test_it_ends_with_its_block_also_after_an_error(pipelit: Pipelit) -> None:
    """Nobody acts for a person before the block, after it, or after one that raised."""
    database = database_of(pipelit)
    assert acting_person(database) is None
    seen: list[str | None] = []

    def act() -> None:
        with pipelit.acting_for("alice"):
            seen.append(acting_person(database))
            with pipelit.acting_for("bob"):
                seen.append(acting_person(database))
            seen.append(acting_person(database))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        act()
    assert seen == ["alice", "bob", "alice"]
    assert acting_person(database) is None


def test_a_person_of_another_database_is_nobody_here(pipelit: Pipelit) -> None:
    """Two databases may both have an alice."""
    other = Pipelit(database_url="sqlite://", encryption_keys=[Keyring.generate_key()])
    with other.acting_for("alice"):
        assert acting_person(database_of(pipelit)) is None


def test_only_a_username_is_taken(pipelit: Pipelit) -> None:
    """A name in another form is refused where it is given."""
    with pytest.raises(InvalidUsername):
        pipelit.acting_for("Alice").__enter__()


async def test_tasks_that_overlap_act_for_their_own_person(pipelit: Pipelit) -> None:
    """Two tasks at one moment don't see each other's person."""
    seen: dict[str, str | None] = {}

    async def act(name: str) -> None:
        with pipelit.acting_for(name):
            await asyncio.sleep(0)
            seen[name] = await asyncio.to_thread(acting_person, database_of(pipelit))

    await asyncio.gather(act("alice"), act("bob"))
    assert seen == {"alice": "alice", "bob": "bob"}


def test_a_copy_of_an_ended_block_is_no_person(pipelit: Pipelit) -> None:
    """A thread's or task's copy acts for nobody; within it, another block counts."""
    database = database_of(pipelit)
    with pipelit.acting_for("alice"):
        copy = copy_context()
        assert copy.run(acting_person, database) == "alice"
    assert copy.run(acting_person, database) is None
    assert not copy.run(acts_for, database, "alice")
    assert copy.run(claimed_person, database) == ("alice", True, True)

    def act() -> str | None:
        with pipelit.acting_for("bob"):
            return acting_person(database)

    assert copy.run(act) == "bob"
    assert claimed_person(database) is None


def test_a_block_for_another_database_hides_nothing(pipelit: Pipelit) -> None:
    """The innermost block for a database counts there."""
    other = Pipelit(database_url="sqlite://", encryption_keys=[Keyring.generate_key()])
    with pipelit.acting_for("alice"), other.acting_for("bob"):
        assert acting_person(database_of(pipelit)) == "alice"
        assert acting_person(database_of(other)) == "bob"


def test_two_handles_of_one_database_are_one(pipelit: Pipelit, settings: dict[str, Any]) -> None:
    """A graph's module and an application may each have a Pipelit of the same settings."""
    with Pipelit(**settings) as other, other.acting_for("alice"):
        assert acting_person(database_of(pipelit)) == "alice"


class Found(TypedDict, total=False):
    """What a node finds out."""

    acting: str | None
    claimed: str | None


@pytest.mark.parametrize("by", ["the person", "a cron", "a cron in a thread of the block"])
def test_a_cron_counts_for_credentials_alone(pipelit: Pipelit, by: str) -> None:
    """The person who made it isn't there, and can't type a code; an ended block is nobody's."""
    database = database_of(pipelit)

    def node(state: Found) -> Found:
        claim = claimed_person(database)
        claimed = None if claim is None or claim.ended else claim.username
        assert acts_for(database, "alice") == (acting_person(database) == "alice")
        return {"acting": acting_person(database), "claimed": claimed}

    graph = StateGraph(Found).add_node("node", node).add_edge(START, "node").compile()
    user = SimpleNamespace(identity="alice", is_authenticated=True)
    cron = {} if by == "the person" else {"cron_id": "0197"}
    config: RunnableConfig = {"configurable": {"langgraph_auth_user": user, **cron}}
    if "thread" in by:
        with pipelit.acting_for("alice"):
            copy = copy_context()
        assert copy.run(graph.invoke, {}, config) == {"acting": None, "claimed": None}
        return
    acting = "alice" if by == "the person" else None
    assert graph.invoke({}, config) == {"acting": acting, "claimed": "alice"}


def streamed(pipelit: Pipelit, name: str) -> Iterator[str | None]:
    """A stream that is made in a block, as an endpoint would."""
    with pipelit.acting_for(name):
        while True:
            yield acting_person(database_of(pipelit))


async def astreamed(pipelit: Pipelit, name: str) -> AsyncIterator[str | None]:
    """As `streamed`."""
    for each in streamed(pipelit, name):
        yield each


async def test_mixed_generators_are_refused(pipelit: Pipelit) -> None:
    """A stream never goes on for the person of another one that began after it."""
    first = streamed(pipelit, "alice")
    assert next(first) == "alice"
    with pytest.raises(RuntimeError, match=r"generator .* waits"):
        next(streamed(pipelit, "bob"))
    with pytest.raises(RuntimeError), pipelit.acting_for("bob"):
        next(first)
    assert next(first) == "alice"
    first.close()
    assert next(streamed(pipelit, "bob")) == "bob"
    assert acting_person(database_of(pipelit)) is None

    asynchronous = astreamed(pipelit, "alice")
    assert await anext(asynchronous) == "alice"
    with pytest.raises(RuntimeError):
        await anext(astreamed(pipelit, "bob"))


async def test_generators_apart_are_not_mixed(pipelit: Pipelit) -> None:
    """Each in a context or task of its own; a closed one is harmless in any."""
    names = ("alice", "bob")
    streams = [(copy_context(), streamed(pipelit, name)) for name in names]
    for _ in range(2):
        assert [context.run(next, stream) for context, stream in streams] == list(names)
    for _, stream in streams:
        stream.close()

    async def read(name: str) -> list[str | None]:
        found = []
        async for each in astreamed(pipelit, name):
            found.append(each)
            await asyncio.sleep(0)
            if len(found) == 3:
                return found
        return []

    assert await asyncio.gather(*map(read, names)) == [[name] * 3 for name in names]


@pytest.mark.parametrize("way", ["contextmanager", "ExitStack"])
def test_a_block_that_is_entered_for_somebody_else_is_none_of_a_generator(
    pipelit: Pipelit, way: str
) -> None:
    """A context manager of one's own may have a block, and another one inside of it."""

    @contextmanager
    def logged_in(name: str) -> Iterator[None]:
        with pipelit.acting_for(name):
            yield

    with ExitStack() as stack:
        enter: Callable[[str], AbstractContextManager[None]]
        enter = logged_in if way == "contextmanager" else pipelit.acting_for
        for name in ("alice", "bob"):
            stack.enter_context(enter(name))
            assert acting_person(database_of(pipelit)) == name
    assert acting_person(database_of(pipelit)) is None


class LoggedIn:
    """A context manager of one's own that is a class."""

    def __init__(self, pipelit: Pipelit, name: str) -> None:
        self._block = pipelit.acting_for(name)

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)


@pytest.mark.parametrize("way", ["contextmanager", "class"])
def test_generators_with_a_block_in_a_context_manager_are_not_mixed(
    pipelit: Pipelit, way: str
) -> None:
    """The block is in the generator that uses a helper, and not in the helper."""

    @contextmanager
    def logged_in(name: str) -> Iterator[None]:
        with pipelit.acting_for(name):
            yield

    def streamed_by(name: str) -> Iterator[str | None]:
        with logged_in(name) if way == "contextmanager" else LoggedIn(pipelit, name):
            while True:
                yield acting_person(database_of(pipelit))

    first = streamed_by("alice")
    assert next(first) == "alice"
    with pytest.raises(RuntimeError, match=r"generator .* waits"):
        next(streamed_by("bob"))
    assert next(first) == "alice"
    first.close()


async def test_a_task_of_an_async_generator_may_have_a_block_of_its_own(pipelit: Pipelit) -> None:
    """The generator waits for the task then, and not at a yield."""

    async def act(name: str) -> str | None:
        await asyncio.sleep(0)
        with pipelit.acting_for(name):
            return await asyncio.to_thread(acting_person, database_of(pipelit))

    async def stream() -> AsyncIterator[list[str | None]]:
        with pipelit.acting_for("alice"):
            yield await asyncio.gather(act("alice"), act("bob"))
            yield [await act("bob"), acting_person(database_of(pipelit))]

    assert [each async for each in stream()] == [["alice", "bob"], ["bob", "alice"]]


def test_no_generator_begins_in_another_persons_block(pipelit: Pipelit) -> None:
    """Its consumer is in that block, and would act for the generator's person."""
    with pipelit.acting_for("bob"):
        with pytest.raises(RuntimeError, match=r"'alice'\) is read here .*'bob'"):
            next(streamed(pipelit, "alice"))
        assert acting_person(database_of(pipelit)) == "bob"
        own = streamed(pipelit, "bob")
        assert next(own) == "bob"
        own.close()


def test_a_block_is_no_decorator_and_begins_once(pipelit: Pipelit) -> None:
    """An async function that is decorated would run when the block has ended."""
    block = pipelit.acting_for("alice")
    with pytest.raises(TypeError):
        block(print)  # type: ignore[operator]
    with block:
        assert acting_person(database_of(pipelit)) == "alice"
    with pytest.raises(RuntimeError, match="begun before"), block:
        pass
    assert claimed_person(database_of(pipelit)) is None


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
@pytest.mark.parametrize("way", ["a block", "a served run"])
def test_a_forked_process_acts_for_nobody(pipelit: Pipelit, way: str) -> None:
    """It may be a pool's worker, which has the context of its fork for as long as it lasts."""
    database = database_of(pipelit)

    def node(state: Found) -> Found:
        child = os.fork()
        if child == 0:
            claim = claimed_person(database)
            with pipelit.acting_for("bob"):
                own = acts_for(database, "bob")
            os._exit(0 if own and (claim is None or claim.ended) else 1)
        assert os.waitpid(child, 0)[1] == 0
        claim = claimed_person(database)
        return {"claimed": claim.username if claim and not claim.ended else None}

    graph = StateGraph(Found).add_node("node", node).add_edge(START, "node").compile()
    user = SimpleNamespace(identity="alice", is_authenticated=True)
    if way == "a block":
        with pipelit.acting_for("alice"):
            assert node({}) == {"claimed": "alice"}
    else:
        assert graph.invoke({}, {"configurable": {"langgraph_auth_user": user}}) == {
            "claimed": "alice"
        }
