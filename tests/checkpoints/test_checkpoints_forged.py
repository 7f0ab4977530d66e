"""Checkpoints that somebody changed in the database, without the key: refused, every one."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from operator import add
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.shallow import AsyncShallowPostgresSaver, ShallowPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from psycopg import Connection
from psycopg.types.json import Jsonb
from typing_extensions import TypedDict

from pipelit_agents import Keyring
from pipelit_agents.checkpoints.saver import SealedSaver
from pipelit_agents.checkpoints.serializer import SealedSerializer
from pipelit_agents.errors import UnsealError


def joined(old: Any, new: Sequence[Any]) -> list[str]:
    """What DeltaChannel applies to its changes."""
    return [*old, *(line for each in new for line in each)]


class State(TypedDict, total=False):
    """An order, and whether a person approved it."""

    text: str
    other: str
    payload: Any
    approved: bool
    paid: str
    raw: bytearray
    seen: Annotated[list[str], add]
    log: Annotated[list[str], DeltaChannel(joined, list, snapshot_frequency=3)]


def paying(saver: Any, *, without: str = "", as_delta: bool = False) -> Any:
    """A graph that asks a person before it pays."""
    fields: dict[str, Any] = {**State.__annotations__}
    fields.pop(without, None)
    if as_delta:
        fields["seen"] = Annotated[list[str], DeltaChannel(joined, list, snapshot_frequency=50)]

    def work(state: Any) -> Any:
        made = {"text": f"{state['text']}!", "other": "b", "raw": bytearray(b"r"), "log": ["w"]}
        made["seen"] = ["work"]
        return {name: value for name, value in made.items() if name in fields}

    def ask(state: Any) -> Any:
        return {"approved": interrupt(f"pay for {state['text']}?") == "yes", "log": ["a"]}

    def pay(state: Any) -> Any:
        return {"paid": state["text"], "log": ["p"]}

    builder: Any = StateGraph(TypedDict("Fields", fields, total=False))  # type: ignore[operator]
    for node in (work, ask, pay):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "work")
    builder.add_edge("work", "ask")
    builder.add_conditional_edges(
        "ask", lambda state: "pay" if state["approved"] else "__end__", ["pay", "__end__"]
    )
    return builder.compile(checkpointer=saver)


def at(thread: Any) -> Any:
    """The configuration of a thread."""
    return {"configurable": {"thread_id": thread}}


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteSaver]:
    """A saver whose database can be changed behind its back."""
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        yield saver


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[PostgresSaver]:
    """The same, in PostgreSQL."""
    with PostgresSaver.from_conn_string(postgres_url) as saver:
        saver.setup()
        yield saver


@pytest.fixture
def database(postgres: PostgresSaver, postgres_url: str) -> Iterator[Connection[Any]]:
    """A connection of somebody who may write, and has no key."""
    with Connection.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def keyring(key: str) -> Keyring:
    """The keyring of FIELD_ENCRYPTION_KEY."""
    return Keyring(key)


def newest(database: Connection[Any], thread: str) -> Any:
    """The newest checkpoint's JSON."""
    return database.execute(  # type: ignore[index]
        "SELECT checkpoint FROM checkpoints WHERE thread_id = %s "
        "ORDER BY checkpoint_id DESC LIMIT 1",
        (thread,),
    ).fetchone()[0]


def put_back(database: Connection[Any], checkpoint: Any) -> None:
    """Writes a checkpoint's JSON over it."""
    database.execute(
        "UPDATE checkpoints SET checkpoint = %s WHERE checkpoint_id = %s",
        (Jsonb(checkpoint), checkpoint["id"]),
    )


@pytest.mark.parametrize(
    "planted",
    [
        "EVIL",
        ["EVIL"],
        {"evil": True},
        True,
        None,
        {"__pipelit_box__": "EVIL"},
        ["tag", [], "EVIL", False],
    ],
    ids=repr,
)
def test_json_in_a_checkpoint_is_not_believed(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring, planted: Any
) -> None:
    """No JSON stands for a value, whatever its shape: not even null."""
    graph = paying(SealedSaver(postgres, keyring))
    graph.invoke({"text": "x"}, at("1"))
    checkpoint = newest(database, "1")
    checkpoint["channel_values"]["text"] = planted
    put_back(database, checkpoint)
    database.execute("DELETE FROM checkpoint_blobs WHERE channel = 'text'")
    with pytest.raises(UnsealError, match="'text' was not encrypted for this checkpoint"):
        graph.get_state(at("1"))


def test_json_planted_with_new_versions_is_not_believed(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring
) -> None:
    """Versions that lead past the sealed values to planted ones are refused."""
    graph = paying(SealedSaver(postgres, keyring))
    graph.invoke({"text": "x"}, at("1"))
    checkpoint = newest(database, "1")
    checkpoint["channel_values"] = {"text": {"__pipelit_box__": "EVIL"}, "seen": ["EVIL"]}
    for name in checkpoint["channel_values"]:
        checkpoint["channel_versions"][name] = f"{99:032}.0"
    put_back(database, checkpoint)
    with pytest.raises(UnsealError):
        graph.get_state(at("1"))
    with pytest.raises(UnsealError):
        graph.invoke(Command(resume="yes"), at("1"))


def test_json_is_no_seed_of_a_delta_channel(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring
) -> None:
    """The value that a channel of changes starts from is read from an older checkpoint: checked."""
    graph = paying(SealedSaver(postgres, keyring))
    graph.invoke({"text": "x", "log": ["in"]}, at("1"))
    assert graph.get_state(at("1")).values["log"] == ["in", "w"]
    database.execute("DELETE FROM checkpoint_blobs WHERE channel = 'log'")
    database.execute(
        "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{channel_values,log}', "
        "'[\"EVIL\"]') WHERE checkpoint_id < (SELECT max(checkpoint_id) FROM checkpoints)"
    )
    with pytest.raises(UnsealError, match="'log' was not encrypted for this checkpoint"):
        graph.get_state(at("1"))


def test_a_node_is_not_skipped_by_changed_versions(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring
) -> None:
    """Versions and a channel without a value, planted so that ``pay`` runs next, are refused."""
    graph = paying(SealedSaver(postgres, keyring))
    graph.invoke({"text": "x"}, at("1"))
    checkpoint = newest(database, "1")
    checkpoint["channel_values"] = {"branch:to:pay": None}
    checkpoint["channel_versions"]["branch:to:pay"] = f"{9:032}.0"
    checkpoint["channel_versions"].pop("branch:to:ask")
    checkpoint["updated_channels"] = ["branch:to:pay"]
    put_back(database, checkpoint)
    database.execute("DELETE FROM checkpoint_writes")
    with pytest.raises(UnsealError):
        graph.invoke(None, at("1"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 3),
        ("ts", "2020-01-01T00:00:00+00:00"),
        ("id", "00000000-0000-6000-8000-000000000000"),
        ("channel_versions", {}),
        ("versions_seen", {}),
        ("updated_channels", ["branch:to:pay"]),
    ],
)
def test_each_field_of_a_checkpoint_is_authenticated(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring, field: str, value: Any
) -> None:
    """What PostgresSaver keeps in clear beside the values can't be changed."""
    graph = paying(SealedSaver(postgres, keyring))
    graph.invoke({"text": "x"}, at("1"))
    checkpoint = newest(database, "1")
    database.execute(
        "UPDATE checkpoints SET checkpoint = %s WHERE checkpoint_id = %s",
        (Jsonb({**checkpoint, field: value}), checkpoint["id"]),
    )
    with pytest.raises(UnsealError):
        graph.get_state(at("1"))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE checkpoint_blobs SET type = 'empty', blob = NULL WHERE channel = 'text'",
        "DELETE FROM checkpoint_blobs WHERE channel = 'text'",
        "UPDATE checkpoint_blobs SET blob = (SELECT blob FROM checkpoint_blobs "
        "WHERE thread_id = '1' AND channel = 'other') WHERE channel = 'text'",
        "UPDATE checkpoint_blobs SET blob = (SELECT max(blob) FROM checkpoint_blobs "
        "WHERE thread_id = '2' AND channel = 'text') WHERE thread_id = '1' AND channel = 'text'",
        "UPDATE checkpoint_blobs b SET blob = a.blob FROM checkpoint_blobs a WHERE a.channel = "
        "'text' AND b.channel = 'text' AND a.version < b.version",
        "UPDATE checkpoint_blobs SET blob = NULL",
        "UPDATE checkpoint_writes SET type = NULL",
        "UPDATE checkpoints SET metadata = '[]'",
        "UPDATE checkpoints SET checkpoint = '[]'",
        "UPDATE checkpoints SET parent_checkpoint_id = '1'",
    ],
    ids=[
        "emptied", "deleted", "of another channel", "of another thread", "of another version",
        "null", "untyped write", "metadata is a list", "checkpoint is a list", "parent",
    ],
)  # fmt: skip
def test_a_value_is_missed_where_it_was_and_refused_elsewhere(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring, change: str
) -> None:
    """A value can't be taken away, nor replaced by another that the same key has sealed."""
    graph = paying(SealedSaver(postgres, keyring))
    graph.invoke({"text": "small"}, at("1"))
    graph.invoke({"text": "huge"}, at("2"))
    database.execute(change)
    with pytest.raises(UnsealError):
        graph.get_state(at("1"))


@pytest.mark.parametrize(
    "change", ['{"about": "EVIL"}', '{"step": -5}', '{"team": "blue"}', '{"new": 1}']
)
def test_metadata_in_clear_must_be_what_was_sealed(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring, change: str
) -> None:
    """A changed copy in clear, and one that was never made, are refused."""
    saver = SealedSaver(postgres, keyring, clear_metadata=["team"])
    graph = paying(saver)
    graph.invoke({"text": "x"}, {**at("1"), "metadata": {"about": "me", "team": "red"}})
    database.execute("UPDATE checkpoints SET metadata = metadata || %s::jsonb", (change,))
    with pytest.raises(UnsealError, match="in clear"):
        graph.get_state(at("1"))


def test_metadata_comes_from_the_seal(
    postgres: PostgresSaver, database: Connection[Any], keyring: Keyring
) -> None:
    """Copies in clear are for the filter: without them, and with fewer, the same is read back."""
    saver = SealedSaver(postgres, keyring, clear_metadata=["team"])
    graph = paying(saver)
    graph.invoke({"text": "x"}, {**at("1"), "metadata": {"about": "me", "team": "red"}})
    before = graph.get_state(at("1")).metadata
    assert (before["about"], before["team"], before["step"]) == ("me", "red", 1)
    database.execute("UPDATE checkpoints SET metadata = metadata - 'step'")
    assert paying(SealedSaver(postgres, keyring)).get_state(at("1")).metadata == before


def test_a_state_value_is_never_a_checkpoint(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """What a user writes into the state, shaped as a checkpoint, doesn't pass for one."""
    graph = paying(SealedSaver(sqlite, keyring))
    forged_id = "1fffffff-ffff-6fff-8003-ffffffffffff"
    versions = dict.fromkeys(("text", "approved", "branch:to:pay"), f"{9:032}.1")
    forged = {
        "v": 4,
        "id": forged_id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {"text": "FORGED", "approved": True, "branch:to:pay": None},
        "channel_versions": versions,
        "versions_seen": {},
        "updated_channels": ["branch:to:pay"],
    }
    for payload in (forged, [forged_id, {}], ["digest", "", [], {}]):
        graph.invoke({"text": "mine", "payload": payload}, at("user"))
    rows = sqlite.conn.execute(
        "SELECT type, value FROM writes WHERE thread_id = 'user' AND channel = 'payload'"
    ).fetchall()
    assert len(rows) == 3
    for kind, value in rows:
        for meta_kind, meta in rows:
            metadata = {"source": "loop", "pipelit_sealed": f"{meta_kind} {meta.decode()}"}
            sqlite.conn.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES ('victim', '', ?, NULL, ?, ?, ?)",
                (forged_id, kind, value, json.dumps(metadata).encode()),
            )
            with pytest.raises(UnsealError):
                graph.get_state(at("victim"))


def test_a_state_value_is_never_metadata(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """Nor does it pass for the metadata of a checkpoint that is genuine."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "x", "payload": ["", "", [], {"source": "loop"}]}, at("1"))
    kind, value = sqlite.conn.execute(
        "SELECT type, value FROM writes WHERE channel = 'payload'"
    ).fetchone()
    sqlite.conn.execute(
        "UPDATE checkpoints SET metadata = ?",
        (json.dumps({"pipelit_sealed": f"{kind} {value.decode()}"}).encode(),),
    )
    with pytest.raises(UnsealError):
        graph.get_state(at("1"))


def test_an_older_checkpoint_is_no_newer_one(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """A row that is copied over the newest one of its thread is refused."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "x"}, at("1"))
    graph.invoke(Command(resume="no"), at("1"))
    ids = [
        row[0] for row in sqlite.conn.execute("SELECT checkpoint_id FROM checkpoints ORDER BY 1")
    ]
    sqlite.conn.execute(
        "UPDATE checkpoints SET (type, checkpoint, metadata) = (SELECT type, checkpoint, metadata "
        "FROM checkpoints WHERE checkpoint_id = ?) WHERE checkpoint_id = ?",
        (ids[1], ids[-1]),
    )
    with pytest.raises(UnsealError):
        graph.get_state(at("1"))


@pytest.mark.parametrize("column", ["thread_id", "checkpoint_ns", "checkpoint_id"])
def test_a_checkpoint_belongs_to_its_place(
    sqlite: SqliteSaver, keyring: Keyring, column: str
) -> None:
    """It isn't read as another thread's, another namespace's or another checkpoint's."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "x"}, at("1"))
    for table in ("checkpoints", "writes"):
        sqlite.conn.execute(f"UPDATE {table} SET {column} = '2' || {column}")  # noqa: S608
    found = list(sqlite.conn.execute("SELECT thread_id, checkpoint_ns FROM checkpoints LIMIT 1"))
    [(thread, ns)] = found
    with pytest.raises(UnsealError):
        SealedSaver(sqlite, keyring).get_tuple(
            {"configurable": {"thread_id": thread, "checkpoint_ns": ns}}
        )


def test_an_approval_is_not_replayed(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """The answer that resumed one thread doesn't resume another."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "small"}, at("a"))
    graph.invoke({"text": "HUGE"}, at("b"))
    graph.invoke(Command(resume="yes"), at("a"))
    [(checkpoint, task)] = sqlite.conn.execute(
        "SELECT checkpoint_id, task_id FROM writes "
        "WHERE thread_id = 'b' AND channel = '__interrupt__'"
    )
    copied = sqlite.conn.execute(
        "INSERT INTO writes SELECT 'b', '', ?, ?, '', idx, channel, type, value FROM writes "
        "WHERE thread_id = 'a' AND channel = '__resume__' LIMIT 1",
        (checkpoint, task),
    )
    assert copied.rowcount == 1
    with pytest.raises(UnsealError, match="__resume__"):
        graph.invoke(None, at("b"))


@pytest.mark.parametrize(
    "change",
    [
        "thread_id = 'b', checkpoint_id = :b",
        "checkpoint_id = :newest",
        "task_id = '00000000-0000-0000-0000-000000000000'",
        "channel = 'payload'",
    ],
)
def test_a_write_belongs_to_its_place(sqlite: SqliteSaver, keyring: Keyring, change: str) -> None:
    """Each write of a task is bound to thread, checkpoint, task and channel."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "x"}, at("a"))
    graph.invoke({"text": "x"}, at("b"))
    ids = {
        name: sqlite.conn.execute(
            "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ?", (thread,)
        ).fetchone()[0]
        for name, thread in (("newest", "a"), ("b", "b"))
    }
    moved = sqlite.conn.execute(
        f"UPDATE OR REPLACE writes SET {change} WHERE thread_id = 'a' AND channel = 'other'",  # noqa: S608
        ids,
    )
    assert moved.rowcount == 1
    with pytest.raises(UnsealError):
        list(SealedSaver(sqlite, keyring).list(None))


def test_the_order_of_writes_is_read_from_the_seal(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """Columns that savers sort by decide nothing: neither about writes nor about a channel."""
    saver = SealedSaver(sqlite, keyring)

    class Log(TypedDict):
        log: Annotated[list[str], DeltaChannel(joined, list, snapshot_frequency=9)]

    builder = StateGraph(Log)
    for name in ("a", "b", "c"):
        builder.add_node(name, lambda state, name=name: {"log": [name]})
        builder.add_edge(START, name)
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"log": ["in"]}, at("1"))
    before = [each.pending_writes for each in saver.list(at("1"))]
    changed = "UPDATE writes SET idx = 9 - idx, task_path = 9 - unicode(substr(task_path, -1))"
    assert sqlite.conn.execute(changed).rowcount > 3
    assert [each.pending_writes for each in saver.list(at("1"))] == before
    assert graph.get_state(at("1")).values["log"] == ["in", "a", "b", "c"]


def test_a_write_is_not_applied_twice(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """Its row, copied beside it under another number, is refused: as a write and as a change."""
    saver = SealedSaver(sqlite, keyring)
    graph = paying(saver)
    graph.invoke({"text": "x", "log": ["in"]}, at("1"))
    assert graph.get_state(at("1")).values["log"] == ["in", "w"]
    copied = sqlite.conn.execute(
        "INSERT INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, "
        "value, task_path) SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, 90, channel, "
        "type, value, task_path FROM writes WHERE channel = 'log'"
    )
    assert copied.rowcount
    with pytest.raises(UnsealError, match="'log' is stored twice"):
        graph.get_state(at("1"))
    with pytest.raises(UnsealError, match="'log' is stored twice"):
        list(saver.list(at("1")))


@pytest.mark.parametrize("column", ["thread_id", "channel", "task_id"])
def test_a_change_of_a_delta_channel_belongs_to_its_place(
    sqlite: SqliteSaver, keyring: Keyring, column: str
) -> None:
    """The changes that such a channel is rebuilt from are bound to thread, channel and task."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "x"}, at("1"))
    graph.invoke({"text": "x", "seen": ["mine"]}, at("2"))
    assert graph.get_state(at("1")).values["log"] == ["w"]
    value = {
        "thread_id": "SELECT value FROM writes WHERE thread_id = '2' AND channel = 'log'",
        "channel": "SELECT value FROM writes WHERE thread_id = '1' AND channel = 'seen'",
        "task_id": "SELECT value FROM writes WHERE thread_id = '1' AND channel = 'log'",
    }[column]
    task = ", task_id = '0' || substr(task_id, 2) || 'x'" if column == "task_id" else ""
    sqlite.conn.execute(
        f"UPDATE writes SET value = ({value} LIMIT 1){task} "  # noqa: S608
        "WHERE thread_id = '1' AND channel = 'log'"
    )
    with pytest.raises(UnsealError):
        graph.get_state(at("1"))


@pytest.mark.parametrize(
    "change",
    [
        "checkpoints SET type = NULL",
        "checkpoints SET type = x'00ff'",
        "checkpoints SET checkpoint = NULL",
        "checkpoints SET checkpoint = 'hello'",
        "checkpoints SET checkpoint = 900000000",
        "checkpoints SET checkpoint = 1.5",
        "checkpoints SET (type, checkpoint) = (SELECT type, value FROM writes LIMIT 1)",
        "checkpoints SET metadata = NULL",
        "checkpoints SET metadata = '[1]'",
        "checkpoints SET metadata = '{{'",
        "checkpoints SET metadata = '{\"pipelit_sealed\": 5}'",
        "checkpoints SET metadata = '{\"pipelit_sealed\": [1]}'",
        "checkpoints SET metadata = json_object('pipelit_sealed', type || ' ' || checkpoint)",
        "writes SET type = NULL",
        "writes SET type = 'pickle+pipelit'",
        "writes SET value = NULL",
        "writes SET value = 900000000",
        "writes SET (type, value) = (SELECT type, checkpoint FROM checkpoints LIMIT 1)",
    ],
)
def test_a_malformed_row_is_refused(sqlite: SqliteSaver, keyring: Keyring, change: str) -> None:
    """Whatever a column holds, the error is of this package and the memory stays."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "x"}, at("1"))
    sqlite.conn.execute(f"UPDATE {change}")
    tracemalloc.start()
    try:
        with pytest.raises(UnsealError, match="thread '1'"):
            graph.get_state(at("1"))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_key_that_is_missing_is_named_with_its_checkpoint(sqlite: SqliteSaver) -> None:
    """Where a history meets a checkpoint of a removed key, it says which, and the fix."""
    old, new = Keyring.generate_key(), Keyring.generate_key()
    paying(SealedSaver(sqlite, Keyring(old))).invoke({"text": "x"}, at("1"))
    rotated = paying(SealedSaver(sqlite, Keyring(new, old)))
    rotated.invoke(Command(resume="no"), at("1"))
    graph = paying(SealedSaver(sqlite, Keyring(new)))
    last = rotated.get_state(at("1")).config["configurable"]["checkpoint_id"]
    with pytest.raises(UnsealError, match=f"{last}.*thread '1'.*FIELD_ENCRYPTION_KEY.*deleted"):
        list(graph.get_state_history(at("1")))


def test_the_keyring_that_is_given_is_the_one_used() -> None:
    """A serializer or saver that seals already is sealed under the new keyring, not the old."""
    first, second = Keyring(Keyring.generate_key()), Keyring(Keyring.generate_key())
    allowed = [("some.module", "Some")]
    inner = InMemorySaver(serde=SealedSerializer(first, allowed_msgpack_modules=allowed))
    saver = SealedSaver(inner, second)
    paying(SealedSaver(saver, second)).invoke({"text": "x"}, at("1"))
    assert paying(saver).get_state(at("1")).values["text"] == "x!"
    with pytest.raises(UnsealError):
        paying(SealedSaver(saver, first)).get_state(at("1"))
    assert vars(saver.serde)["_allowed_msgpack_modules"] == {*allowed}
    assert saver.serde is not inner.serde


class Cipher:
    """A cipher that isn't one."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        """Nothing is done."""
        return "none", plaintext

    def decrypt(self, name: str, ciphertext: bytes) -> bytes:
        """Nothing was done."""
        return ciphertext


@dataclasses.dataclass
class Unlisted:
    """A type that a strict allow-list doesn't have."""

    text: str


def test_an_allow_list_inside_a_cipher_is_kept(keyring: Keyring) -> None:
    """What another cipher wrapped may rebuild no more under the seal than it could before."""
    strict = EncryptedSerializer(Cipher(), JsonPlusSerializer(allowed_msgpack_modules=None))
    sealed = SealedSaver(InMemorySaver(serde=strict), keyring).serde
    assert sealed.loads_typed(sealed.dumps_typed(Unlisted("x"))) == {"text": "x"}


class Own(JsonPlusSerializer):
    """A serializer with a way of its own."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Marks what it wrote."""
        kind, data = super().dumps_typed(obj)
        return kind, data


def wrapped() -> JsonPlusSerializer:
    """A serializer whose method was replaced on the instance."""
    made = JsonPlusSerializer()
    vars(made)["dumps_typed"] = made.dumps_typed
    vars(made)["loads_typed"] = lambda data: None
    return made


@pytest.mark.parametrize("make", [Own, wrapped, lambda: EncryptedSerializer(Cipher(), Own())])
def test_a_serializer_of_its_own_kind_is_not_dropped(
    keyring: Keyring, make: Callable[[], Any]
) -> None:
    """What would be lost under the seal is refused, with the fix."""
    with pytest.raises(TypeError, match="JsonPlusSerializer"):
        SealedSaver(InMemorySaver(serde=make()), keyring)


def sealed_and_not(keyring: Keyring) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """A saver under the seal, and alone."""
    return (lambda saver: SealedSaver(saver, keyring)), (lambda saver: saver)


def lived(graph: Any, *durabilities: Any) -> list[Any]:
    """A thread's life, for each durability: all that is read back."""
    seen: list[Any] = []
    for durability in durabilities:
        config = at(durability)
        for answer in ("no", "yes"):
            graph.invoke({"text": answer, "log": ["in"]}, config, durability=durability)
            seen.append([each.value for each in graph.get_state(config).interrupts])
            graph.invoke(Command(resume=answer), config, durability=durability)
            seen.append(graph.get_state(config).values)
        graph.update_state(config, {"text": "updated", "log": ["u"]}, as_node="pay")
        graph.update_state(config, None, as_node="__copy__")
        seen.append(graph.get_state(config).values)
        history = list(graph.get_state_history(config))
        seen += [(each.values, each.next, each.metadata["step"]) for each in history]
    return seen


async def alived(graph: Any) -> list[Any]:
    """As :func:`lived`."""
    seen: list[Any] = []
    for answer in ("no", "yes"):
        await graph.ainvoke({"text": answer, "log": ["in"]}, at("1"), durability="sync")
        await graph.ainvoke(Command(resume=answer), at("1"), durability="sync")
        seen.append((await graph.aget_state(at("1"))).values)
    await graph.aupdate_state(at("1"), {"text": "updated", "log": ["u"]}, as_node="pay")
    seen.append((await graph.aget_state(at("1"))).values)
    return [*seen, *[each.values async for each in graph.aget_state_history(at("1"))]]


@pytest.mark.slow
@pytest.mark.parametrize("saver_name", ["memory", "sqlite", "postgres"])
def test_every_saver_gives_back_what_inmemorysaver_does(
    request: pytest.FixtureRequest, keyring: Keyring, saver_name: str
) -> None:
    """Delta channels, every durability, updates, copies and history: as without the seal."""
    inner = InMemorySaver() if saver_name == "memory" else request.getfixturevalue(saver_name)
    every = ("sync", "async", "exit")
    expected = lived(paying(InMemorySaver()), *every)
    assert lived(paying(SealedSaver(inner, keyring)), *every) == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_saver_of_the_newest_alone_gives_back_what_it_does_alone(
    postgres_url: str, keyring: Keyring
) -> None:
    """ShallowPostgresSaver overwrites values and keeps no parents: the seal agrees with that."""
    # Not "async": there its own deletions race with the writes that it is given.
    results = []
    for seal in sealed_and_not(keyring):
        with ShallowPostgresSaver.from_conn_string(postgres_url) as saver:
            saver.setup()
            results.append(lived(paying(seal(saver)), "sync", "exit"))
        with Connection.connect(postgres_url, autocommit=True) as connection:
            connection.execute("TRUNCATE checkpoints, checkpoint_blobs, checkpoint_writes")
    assert results[0] == results[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "saver_class", [AsyncSqliteSaver, AsyncPostgresSaver, AsyncShallowPostgresSaver]
)
async def test_every_async_saver_gives_back_what_it_does_alone(
    request: pytest.FixtureRequest, keyring: Keyring, saver_class: Any
) -> None:
    """The same through the async methods."""
    local = saver_class is AsyncSqliteSaver
    url = ":memory:" if local else request.getfixturevalue("postgres_url")
    results = []
    for seal in sealed_and_not(keyring):
        async with saver_class.from_conn_string(url) as saver:
            await saver.setup()
            results.append(await alived(paying(seal(saver))))
        if not local:
            with Connection.connect(url, autocommit=True) as connection:
                connection.execute("TRUNCATE checkpoints, checkpoint_blobs, checkpoint_writes")
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("saver_name", ["memory", "sqlite", "postgres"])
@pytest.mark.parametrize(
    "change", [{"without": "seen"}, {"without": "payload"}, {"as_delta": True}]
)
def test_a_thread_outlives_a_change_of_its_graph(
    request: pytest.FixtureRequest, keyring: Keyring, saver_name: str, change: dict[str, Any]
) -> None:
    """A channel that the graph lost, or that became one of changes, leaves the thread readable."""
    results = []
    for thread, seal in zip("12", sealed_and_not(keyring), strict=True):
        inner = InMemorySaver() if saver_name == "memory" else request.getfixturevalue(saver_name)
        before, after = paying(seal(inner)), paying(seal(inner), **change)
        before.invoke({"text": "x", "payload": None}, at(thread))
        after.invoke(Command(resume="yes"), at(thread))
        after.invoke({"text": "y"}, at(thread))
        history = [each.values for each in after.get_state_history(at(thread))]
        results.append((after.get_state(at(thread)).values, history))
    assert results[0] == results[1]


def test_a_pruned_thread_goes_on(postgres: PostgresSaver, keyring: Keyring) -> None:
    """A checkpoint whose parent was pruned is read, and continued."""
    saver = SealedSaver(postgres, keyring)
    builder: Any = StateGraph(TypedDict("Plain", {"text": str}))  # type: ignore[operator]
    builder.add_node("ask", lambda state: {"text": state["text"] + interrupt("?")})
    builder.add_edge(START, "ask")
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"text": "x"}, at("1"))
    saver.prune(["1"])
    assert len(list(saver.list(at("1")))) == 1
    assert graph.invoke(Command(resume="!"), at("1"))["text"] == "x!"


def test_a_thread_id_may_be_a_number(sqlite: SqliteSaver, keyring: Keyring) -> None:
    """It is bound in the form in which savers store it."""
    graph = paying(SealedSaver(sqlite, keyring))
    graph.invoke({"text": "x"}, at(5))
    assert graph.get_state(at("5")).values["text"] == "x!"
    assert next(graph.get_state_history(at(5))).values["text"] == "x!"


def test_the_kinds_of_bytes_stay_what_they_are(keyring: Keyring) -> None:
    """A bytearray at the top of the state comes back as one, as it does without the seal."""
    graph = paying(SealedSaver(InMemorySaver(), keyring))
    graph.invoke({"text": "x"}, at("1"))
    assert type(graph.get_state(at("1")).values["raw"]) is bytearray


def test_without_the_seal_the_same_is_believed(sqlite: SqliteSaver) -> None:
    """The saver alone is resumed by a copied approval: so the test above would find it."""
    graph = paying(sqlite)
    graph.invoke({"text": "small"}, at("a"))
    graph.invoke({"text": "HUGE"}, at("b"))
    graph.invoke(Command(resume="yes"), at("a"))
    [(checkpoint, task)] = sqlite.conn.execute(
        "SELECT checkpoint_id, task_id FROM writes "
        "WHERE thread_id = 'b' AND channel = '__interrupt__'"
    )
    sqlite.conn.execute(
        "INSERT INTO writes SELECT 'b', '', ?, ?, '', idx, channel, type, value FROM writes "
        "WHERE thread_id = 'a' AND channel = '__resume__' LIMIT 1",
        (checkpoint, task),
    )
    assert graph.invoke(None, at("b"))["paid"] == "HUGE!"
