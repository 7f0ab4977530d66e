"""Checkpoints at rest: nothing of the state in clear, and all of it back."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from operator import add
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import pytest
from canary import count
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from psycopg import Connection
from typing_extensions import TypedDict

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.checkpoints.saver import SealedSaver
from pipelit_agents.checkpoints.serializer import SealedSerializer
from pipelit_agents.errors import ConfigurationError, UnsealError

# The canary suite's key, so that its search finds it in every form.
from canary import KEY as CANARY  # isort: skip

CONFIG: Any = {
    "configurable": {"thread_id": "1", "tenant": f"t-{CANARY}", "level": 7},
    "metadata": {"about": CANARY, "team": "red"},
}


class State(TypedDict, total=False):
    """Values of every kind."""

    text: str
    number: int
    flag: bool
    ratio: float
    nothing: None
    nested: dict[str, Any]
    messages: Annotated[list[Any], add]
    boxlike: dict[str, Any]


FILLED: State = {
    "text": CANARY,
    "number": 7,
    "flag": True,
    "ratio": 0.5,
    "nothing": None,
    "nested": {"deep": [CANARY, {"b": CANARY.encode()}]},
    "messages": [HumanMessage(CANARY), AIMessage("ok")],
    "boxlike": {"__pipelit_box__": CANARY},
}


class Sub(TypedDict, total=False):
    """A subgraph's state."""

    text: str


def graph_of(saver: BaseCheckpointSaver[Any] | None) -> Any:
    """Two parallel tasks, a subgraph and a question, over values of every kind."""
    inner = StateGraph(Sub)
    inner.add_node("deep", lambda state: {"text": state["text"] + "!"})
    inner.add_edge(START, "deep")

    def ask(state: State) -> State:
        return {"messages": [AIMessage(interrupt(f"is it {state['text']}?"))]}

    builder = StateGraph(State)
    builder.add_node("work", lambda state: {"number": state["number"] + 1})
    builder.add_node("each", lambda state: {"messages": [HumanMessage(state["text"])]})
    builder.add_node("inner", inner.compile())
    builder.add_node("ask", ask)
    builder.add_edge(START, "work")
    builder.add_conditional_edges(
        "work",
        lambda state: [Send("each", {"text": CANARY}), Send("each", {"text": "b"})],
        ["each"],
    )
    builder.add_edge("each", "inner")
    builder.add_edge("inner", "ask")
    return builder.compile(checkpointer=saver)


def failing(saver: BaseCheckpointSaver[Any]) -> Any:
    """A graph whose node writes nothing and raises the canary."""

    def node(state: State) -> State:
        raise ValueError(CANARY)

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(checkpointer=saver)


class Kept:
    """A saver, and all that it has written."""

    def __init__(self, saver: Any, read: Callable[[], Any]) -> None:
        self.saver = saver
        self.read = read


def sqlite_bytes(path: Path) -> bytes:
    """A database's files, also what its log still holds."""
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


def postgres_rows(url: str) -> list[Any]:
    """All rows of all tables."""
    with Connection.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        return [
            connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
            for (table,) in tables
        ]


@pytest.fixture(params=["InMemorySaver", "SqliteSaver", "PostgresSaver"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    """Each of the savers."""
    with ExitStack() as stack:
        if request.param == "InMemorySaver":
            saver = InMemorySaver()
            yield Kept(saver, lambda: [dict(saver.storage), dict(saver.blobs), dict(saver.writes)])
        elif request.param == "SqliteSaver":
            path = tmp_path / "checkpoints.db"
            opened = stack.enter_context(SqliteSaver.from_conn_string(str(path)))
            yield Kept(opened, lambda: sqlite_bytes(path))
        else:
            url = request.getfixturevalue("postgres_url")
            made = stack.enter_context(PostgresSaver.from_conn_string(url))
            made.setup()
            yield Kept(made, lambda: postgres_rows(url))


@pytest.fixture(params=["AsyncSqliteSaver", "AsyncPostgresSaver"])
async def akept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    """Each of the savers that are only async."""
    async with AsyncExitStack() as stack:
        if request.param == "AsyncSqliteSaver":
            path = tmp_path / "checkpoints.db"
            opened = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(path)))
            yield Kept(opened, lambda: sqlite_bytes(path))
        else:
            url = request.getfixturevalue("postgres_url")
            made = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(url))
            await made.setup()
            yield Kept(made, lambda: postgres_rows(url))


@pytest.fixture
def keyring(key: str) -> Keyring:
    """The keyring of FIELD_ENCRYPTION_KEY."""
    return Keyring(key)


def plain(values: Any) -> Any:
    """A state in a form that compares: messages get ids as they are added."""
    return {**values, "messages": [(type(m).__name__, m.content) for m in values["messages"]]}


def through(graph: Any) -> list[Any]:
    """A run with an interrupt, a resume, an update, a fork and a failure: all that is read back."""
    seen: list[Any] = []
    graph.invoke(FILLED, CONFIG)
    state = graph.get_state(CONFIG, subgraphs=True)
    seen += [plain(state.values), state.next, state.interrupts[0].value, state.metadata["about"]]
    graph.invoke(Command(resume="yes"), CONFIG)
    graph.update_state(CONFIG, {"text": f"{CANARY} again", "number": 40})
    seen.append(plain(graph.get_state(CONFIG).values))
    history = list(graph.get_state_history(CONFIG))
    seen += [plain({"messages": [], **each.values}) for each in history]
    seen += [{k: v for k, v in each.metadata.items() if k != "parents"} for each in history]
    early = next(each for each in history if each.next == ("work",))
    graph.invoke(None, early.config)
    seen.append(plain(graph.get_state(CONFIG).values))
    return seen


def test_a_sealed_saver_writes_nothing_in_clear(kept: Kept, keyring: Keyring) -> None:
    """State, writes, interrupts, errors, configurable and metadata: no form of them is stored."""
    saver = SealedSaver(kept.saver, keyring)
    through(graph_of(saver))
    with pytest.raises(ValueError, match="Canary"):
        failing(saver).invoke(FILLED, {"configurable": {"thread_id": "2"}})
    assert count(kept.read()) == 0


def test_without_it_all_of_that_is_in_clear(kept: Kept) -> None:
    """The saver alone stores the canary many times: so the search above would find it."""
    through(graph_of(kept.saver))
    assert count(kept.read()) > 10


def test_a_sealed_saver_reads_back_what_the_saver_alone_does(kept: Kept, keyring: Keyring) -> None:
    """Values, metadata, history, interrupts, subgraphs, updates and forks are the same."""
    assert through(graph_of(SealedSaver(kept.saver, keyring))) == through(graph_of(InMemorySaver()))


async def test_async_savers_are_sealed_too(akept: Kept, keyring: Keyring) -> None:
    """The async methods close and open what the sync ones do."""
    saver = SealedSaver(akept.saver, keyring)
    graph = graph_of(saver)
    await graph.ainvoke(FILLED, CONFIG)
    await graph.ainvoke(Command(resume="yes"), CONFIG)
    await graph.aupdate_state(CONFIG, {"text": f"{CANARY} again"})
    state = await graph.aget_state(CONFIG)
    assert state.values["text"] == f"{CANARY} again"
    assert state.values["number"] == 8
    history = [each.metadata["about"] async for each in graph.aget_state_history(CONFIG)]
    assert len(history) > 5
    assert set(history) == {CANARY}
    assert [each async for each in saver.alist(CONFIG, filter={"source": "update"})]
    assert count(akept.read()) == 0
    await saver.adelete_thread("1")
    assert (await graph.aget_state(CONFIG)).values == {}


async def test_a_saver_without_async_methods_serves_an_event_loop(
    kept: Kept, keyring: Keyring
) -> None:
    """SqliteSaver and PostgresSaver, which LangGraph runs in threads only, run in threads here."""
    graph = graph_of(SealedSaver(kept.saver, keyring))
    await graph.ainvoke(FILLED, CONFIG)
    await graph.ainvoke(Command(resume="yes"), CONFIG)
    state = await graph.aget_state(CONFIG)
    history = [each.metadata["about"] async for each in graph.aget_state_history(CONFIG)]
    assert (state.values["number"], set(history)) == (8, {CANARY})
    assert count(kept.read()) == 0


def test_the_serializer_alone_seals_the_state(kept: Kept, pipelit: Pipelit) -> None:
    """With the serializer alone, nested values are sealed, and metadata is not."""
    saver = copy.copy(kept.saver)
    saver.serde = pipelit.checkpoint_serializer()
    graph = graph_of(saver)
    config: Any = {"configurable": {"thread_id": "1"}}
    graph.invoke({**FILLED, "text": "no canary"}, config)
    assert count(kept.read()) == 0
    assert plain(graph.get_state(config).values)["nested"] == FILLED["nested"]
    graph.update_state({"configurable": {"thread_id": "1", "tenant": CANARY}}, {"number": 1})
    shown = count(kept.read())
    # InMemorySaver sends its metadata through the serializer.
    assert shown == 0 if isinstance(saver, InMemorySaver) else shown > 0


def test_keys_rotate(kept: Kept) -> None:
    """Rows of the old key open behind a newer one; new rows don't open under the old key."""
    old, new = Keyring.generate_key(), Keyring.generate_key()
    graph_of(SealedSaver(kept.saver, Keyring(old))).invoke(FILLED, CONFIG)
    rotated = graph_of(SealedSaver(kept.saver, Keyring(new, old)))
    assert rotated.get_state(CONFIG).values["text"] == f"{CANARY}!"
    with pytest.raises(UnsealError):
        graph_of(SealedSaver(kept.saver, Keyring(new))).get_state(CONFIG)
    rotated.invoke(Command(resume="yes"), CONFIG)
    with pytest.raises(UnsealError):
        graph_of(SealedSaver(kept.saver, Keyring(old))).get_state(CONFIG)


def test_rows_in_clear_are_refused(kept: Kept, keyring: Keyring) -> None:
    """A thread that was written without the seal isn't believed, nor continued."""
    graph_of(kept.saver).invoke(FILLED, CONFIG)
    with pytest.raises(UnsealError, match=r"not (encrypted|written by)"):
        graph_of(SealedSaver(kept.saver, keyring)).get_state(CONFIG)
    with pytest.raises(UnsealError):
        list(SealedSaver(kept.saver, keyring).list(CONFIG))
    saver = copy.copy(kept.saver)
    saver.serde = SealedSerializer(keyring)
    with pytest.raises(UnsealError, match="is not encrypted"):
        graph_of(saver).get_state(CONFIG)


def another_thread_reads(saver: Any) -> bool:
    """Whether it gets a checkpoint within half a minute."""
    found: list[Any] = []
    thread = Thread(target=lambda: found.append(saver.get_tuple(CONFIG)), daemon=True)
    thread.start()
    thread.join(30)
    return bool(found and found[0])


def test_a_list_that_fails_gives_the_saver_back(kept: Kept, keyring: Keyring) -> None:
    """While the error of a list is held, another thread reads, and a second list begins."""
    # With the serializer alone the values open, and it is the SealedSaver that refuses them.
    saver = copy.copy(kept.saver)
    saver.serde = SealedSerializer(keyring)
    graph_of(saver).invoke(FILLED, CONFIG)
    sealed = SealedSaver(kept.saver, keyring)
    with pytest.raises(UnsealError, match="not written by") as held:
        list(sealed.list(CONFIG))
    assert another_thread_reads(saver)
    with pytest.raises(UnsealError, match="not written by"):
        next(sealed.list(None))
    assert held.value.__traceback__


def test_a_list_that_is_left_early_gives_the_saver_back(kept: Kept, keyring: Keyring) -> None:
    """Closed after its first checkpoint, it keeps nothing of the saver's."""
    sealed = SealedSaver(kept.saver, keyring)
    graph_of(sealed).invoke(FILLED, CONFIG)
    listed: Any = sealed.list(CONFIG)
    next(listed)
    listed.close()
    assert another_thread_reads(sealed)


async def test_an_async_list_that_fails_gives_the_saver_back(akept: Kept, keyring: Keyring) -> None:
    """While its error is held, the saver reads."""
    saver = copy.copy(akept.saver)
    saver.serde = SealedSerializer(keyring)
    await graph_of(saver).ainvoke(FILLED, CONFIG)
    with pytest.raises(UnsealError, match="not written by") as held:
        [each async for each in SealedSaver(akept.saver, keyring).alist(CONFIG)]
    assert await asyncio.wait_for(saver.aget_tuple(CONFIG), 30)
    assert held.value.__traceback__


def test_a_changed_or_exchanged_value_is_refused(keyring: Keyring) -> None:
    """A value doesn't open as another kind, nor after a change, nor as a credential."""
    serializer = SealedSerializer(keyring)
    kind, token = serializer.dumps_typed({"x": 1})
    assert serializer.loads_typed((kind, token)) == {"x": 1}
    bent = token[:-5] + (b"A" if token[-5:-4] != b"A" else b"B") + token[-4:]
    for changed in (("bytes+pipelit", token), (kind, bent), (kind, b"x"), ("msgpack", token)):
        with pytest.raises(UnsealError):
            serializer.loads_typed(changed)
    with pytest.raises(UnsealError):
        keyring.unseal(token.decode(), "checkpoint:msgpack")
    sealed = keyring.seal(b"x", "checkpoint:bytes")
    with pytest.raises(UnsealError):
        serializer.loads_typed(("bytes+pipelit", sealed.encode()))


def test_metadata_of_another_checkpoint_is_refused(tmp_path: Path, keyring: Keyring) -> None:
    """Sealed metadata that is copied to another row doesn't open there."""
    path = tmp_path / "checkpoints.db"
    with SqliteSaver.from_conn_string(str(path)) as inner:
        graph = graph_of(SealedSaver(inner, keyring))
        graph.invoke(FILLED, CONFIG)
        inner.conn.execute(
            "UPDATE checkpoints SET metadata = (SELECT metadata FROM checkpoints "
            "ORDER BY checkpoint_id LIMIT 1)"
        )
        with pytest.raises(UnsealError):
            graph.get_state(CONFIG)


def test_threads_can_be_deleted_through_it(kept: Kept, keyring: Keyring) -> None:
    """The other methods are the saver's own."""
    saver = SealedSaver(kept.saver, keyring)
    graph = graph_of(saver)
    graph.invoke(FILLED, CONFIG)
    saver.delete_thread("1")
    assert graph.get_state(CONFIG).values == {}
    assert saver.config_specs == kept.saver.config_specs


def test_the_saver_that_was_given_stays_as_it_was(keyring: Keyring) -> None:
    """Wrapping changes nothing of the saver, and a wrapped one is wrapped once."""
    inner = InMemorySaver()
    saver = SealedSaver(inner, keyring)
    assert type(inner.serde) is JsonPlusSerializer
    again = SealedSaver(saver, keyring)
    assert again.serde is saver.serde


def test_it_shows_and_pickles_no_key(keyring: Keyring, key: str) -> None:
    """Neither the serializer nor the saver gives its key away."""
    serializer = SealedSerializer(keyring)
    assert key not in repr(serializer) + repr(vars(serializer))
    with pytest.raises((TypeError, AttributeError)):
        pickle.dumps(serializer)


def test_no_key_is_asked_for_before_it_is_needed() -> None:
    """A graph's module can be imported without FIELD_ENCRYPTION_KEY; its first run says so."""
    pipelit = Pipelit(database_url="sqlite://", encryption_keys=[])
    graph = graph_of(pipelit.sealed_saver(InMemorySaver()))
    with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY"):
        graph.invoke(FILLED, CONFIG)


class Log(TypedDict, total=False):
    """A channel that is stored as its changes, and now and then whole."""

    lines: Annotated[
        list[str],
        DeltaChannel(
            lambda old, new: [*old, *(x for each in new for x in each)], list, snapshot_frequency=2
        ),
    ]


def test_delta_channels_are_sealed(kept: Kept, keyring: Keyring) -> None:
    """A channel of changes comes back from its snapshots and writes, all sealed."""
    builder = StateGraph(Log)
    builder.add_node("node", lambda state: {"lines": [CANARY]})
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=SealedSaver(kept.saver, keyring))
    for _ in range(5):
        graph.invoke({"lines": ["in"]}, CONFIG)
    assert graph.get_state(CONFIG).values["lines"] == ["in", CANARY] * 5
    assert count(kept.read()) == 0


STRICT = """
import dataclasses, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from pipelit_agents import Keyring
from pipelit_agents.checkpoints import SealedSaver, SealedSerializer
from typing_extensions import TypedDict

@dataclasses.dataclass
class Known:
    text: str

@dataclasses.dataclass
class Unknown:
    text: str

class State(TypedDict, total=False):
    known: Known
    other: object

path, key, how = sys.argv[1:]
builder = StateGraph(State)
made = {"known": Known("canary-known"), "other": Unknown("canary-other")}
builder.add_node("node", lambda state: made)
builder.add_edge(START, "node")
with SqliteSaver.from_conn_string(path) as inner:
    if how == "saver":
        saver = SealedSaver(inner, Keyring(key))
    else:
        inner.serde = SealedSerializer(Keyring(key))
        saver = inner
    graph = builder.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "1"}}
    graph.invoke({}, config)
    values = graph.get_state(config).values
    print(type(values["known"]).__name__, type(values["other"]).__name__)
"""


@pytest.mark.process
@pytest.mark.parametrize("how", ["saver", "serializer"])
def test_strict_msgpack_stays_strict_and_sealed(tmp_path: Path, key: str, how: str) -> None:
    """Under LANGGRAPH_STRICT_MSGPACK the state's own types come back, others don't, all sealed."""
    path = tmp_path / "checkpoints.db"
    done = subprocess.run(
        [sys.executable, "-c", STRICT, str(path), key, how],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["Known", "dict"]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint")
    found = sqlite_bytes(path)
    assert b"canary" not in found
    assert b"msgpack+pipelit" in found


async def test_the_loop_is_not_entered_twice(keyring: Keyring) -> None:
    """InMemorySaver's async methods call its sync ones: what is sealed is sealed once."""
    graph = graph_of(SealedSaver(InMemorySaver(), keyring))
    await asyncio.gather(
        *(
            graph.ainvoke(FILLED, {"configurable": {"thread_id": str(number)}})
            for number in range(5)
        )
    )
    for number in range(5):
        state = await graph.aget_state({"configurable": {"thread_id": str(number)}})
        assert plain(state.values)["boxlike"] == FILLED["boxlike"]
