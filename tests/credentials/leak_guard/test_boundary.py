from __future__ import annotations

import base64
import dataclasses
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Overwrite, Send
from pydantic import BaseModel, ConfigDict, SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard.masking import redact
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.errors import SecretLeakError

KEY = "sk-Zq/+8w_Canary-0123456789é"


class State(TypedDict, total=False):
    """A node's state."""

    x: Any


class Model(BaseModel):
    """A model that takes more than it names."""

    model_config = ConfigDict(extra="allow")
    text: str = ""


@dataclasses.dataclass
class Thing:
    """A dataclass."""

    text: str


class Slotted:
    """An object without a dict."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


CARRIERS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "inside text": lambda s: f"the key is {s}, so",
    "bytes": lambda s: s.encode(),
    "a list": lambda s: [1, [s]],
    "a key": lambda s: {s: 1},
    "a set": lambda s: {s},
    "a dataclass": Thing,
    "slots": Slotted,
    "a model": lambda s: Model(text=s),
    "a model's extra": lambda s: Model(more=[s]),  # type: ignore[call-arg]
    "a message": AIMessage,
    "content blocks": lambda s: AIMessage([{"type": "text", "text": s}]),
    "a tool call": lambda s: AIMessage("", tool_calls=[{"name": "f", "args": {"k": s}, "id": "1"}]),
    "an artifact": lambda s: ToolMessage("ok", tool_call_id="1", artifact={"raw": s}),
    "additional kwargs": lambda s: AIMessage("", additional_kwargs={"k": s}),
    "a document": lambda s: Document("x", metadata={"k": s}),
    "an overwrite": Overwrite,
    "an exception": lambda s: ValueError("no", {"k": s}),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 of more": lambda s: base64.b64encode(f"ab{s}cd".encode()).decode(),
    "url-safe base64": lambda s: base64.urlsafe_b64encode(f"u:{s}".encode()).decode(),
    "a URL": lambda s: f"https://x.example/?k={quote(s, safe='')}",
    "JSON": lambda s: json.dumps({"k": s}),
    "hexadecimal": lambda s: s.encode().hex(),
    "a repr": lambda s: repr([s]),
}


@pytest.fixture
def keyed(pipelit: Pipelit) -> Pipelit:
    """A credential is in the store."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")
    return pipelit


@pytest.mark.parametrize("carrier", CARRIERS)
def test_state_that_holds_a_key_is_refused(keyed: Pipelit, tmp_path: Path, carrier: str) -> None:
    """Whatever carries it, a returned key ends the node, and stands in no checkpoint."""
    path = tmp_path / "checkpoints.db"
    carried: list[Any] = []

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        carried.append(CARRIERS[carrier](key.get_secret_value()))
        return {"x": carried[0]}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = builder.compile(checkpointer=saver)
        with pytest.raises(SecretLeakError) as caught:
            graph.invoke({}, {"configurable": {"thread_id": "1"}})
    assert caught.value.credential == "service"
    assert caught.value.path.startswith("x")
    assert KEY not in "".join(traceback.format_exception(caught.value))
    found = b"".join(each.read_bytes() for each in tmp_path.glob("checkpoints.db*"))
    needle = KEY.encode()
    for form in (needle, base64.b64encode(needle)[:20], needle.hex().encode()):
        assert form not in found


@pytest.mark.parametrize(
    "leave",
    [
        lambda s: Command(update={"x": s}),
        lambda s: Command(goto=Send("node", {"x": s})),
        lambda s: [Send("node", {"x": s})],
        lambda s: Command(resume=s),
    ],
)
def test_commands_and_sends_are_searched(keyed: Pipelit, leave: Callable[[str], Any]) -> None:
    """A key in a Command's update, in a Send or in a resume is refused."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        return leave(key.get_secret_value())

    with pytest.raises(SecretLeakError):
        node({})


def test_the_secret_itself_is_refused(keyed: Pipelit) -> None:
    """A Secret in the state is named before any serializer sees it, also an inner one."""

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        return {"x": {"deep": [key]}}

    @keyed.credentials.inject(key="service")
    def inner(state: State, *, key: SecretStr) -> State:
        with keyed.credentials.reveal("service") as again:
            pass
        return {"x": again}

    with pytest.raises(SecretLeakError) as caught:
        node({})
    assert caught.value.path == "x.deep[0]"
    with pytest.raises(SecretLeakError):
        inner({})


async def test_every_kind_of_function_is_guarded(keyed: Pipelit) -> None:
    """Async functions, generators and async generators are searched as functions are."""

    @keyed.credentials.inject(key="service")
    async def node(*, key: SecretStr) -> str:
        return key.get_secret_value()

    @keyed.credentials.inject(key="service")
    def generator(*, key: SecretStr) -> Any:
        yield "good"
        yield key.get_secret_value()

    @keyed.credentials.inject(key="service")
    def returning(*, key: SecretStr) -> Any:
        yield "good"
        return key.get_secret_value()

    @keyed.credentials.inject(key="service")
    async def agenerator(*, key: SecretStr) -> Any:
        yield "good"
        yield key.get_secret_value()

    with pytest.raises(SecretLeakError):
        await node()
    for steps in (generator(), returning()):
        assert next(steps) == "good"
        with pytest.raises(SecretLeakError):
            next(steps)
    asteps = agenerator()
    assert await anext(asteps) == "good"
    with pytest.raises(SecretLeakError):
        await anext(asteps)


def test_a_tool_that_returns_its_key_is_refused(keyed: Pipelit) -> None:
    """What a tool would tell the model is searched too."""

    @tool
    @keyed.credentials.inject(key="service")
    def fetch(query: str, *, key: SecretStr) -> str:
        """Fetches."""
        return f"asked {query} with {key.get_secret_value()}"

    with pytest.raises(SecretLeakError):
        fetch.invoke({"query": "x"})


def connect(address: str) -> None:
    """Fails as a client does, with the address in its words."""
    raise ConnectionError(f"GET {address}")


class Refused(Exception):
    """An exception that keeps what it was given."""

    def __init__(self, message: str, **kept: Any) -> None:
        super().__init__(message, kept)
        self.kept = kept


def test_an_exception_loses_the_key_and_keeps_all_else(keyed: Pipelit, tmp_path: Path) -> None:
    """Args, notes, attributes, cause, context and groups lose it; type and chain stay."""
    path = tmp_path / "checkpoints.db"

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        plain = key.get_secret_value()
        try:
            try:
                connect(f"https://x.example/?k={quote(plain, safe='')}")
            except ConnectionError as first:
                first.add_note(f"with {plain}")
                raise ExceptionGroup("all", [KeyError(plain)]) from first
        except ExceptionGroup as second:
            raise Refused(f"bad key {plain!r}", header={"a": [plain.encode()]}) from second

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    with SqliteSaver.from_conn_string(str(path)) as saver, pytest.raises(Refused) as caught:
        builder.compile(checkpointer=saver).invoke({}, {"configurable": {"thread_id": "1"}})
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert KEY not in shown
    assert quote(KEY, safe="") not in shown
    assert "bad key '****'" in shown
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert isinstance(caught.value.__cause__.__cause__, ConnectionError)
    found = b"".join(each.read_bytes() for each in tmp_path.glob("checkpoints.db*"))
    assert KEY.encode() not in found


def test_what_an_exception_carries_is_masked_if_it_shows_the_key() -> None:
    """An object that holds the key gives its place to a copy without it, and stays as it was."""
    good, bad, worse = object(), Thing(KEY), Slotted(KEY)
    error = Refused("x", good=good, bad=bad, worse=worse)
    assert redact(error, {KEY: "service"}) is error
    assert error.kept["good"] is good
    assert error.kept["bad"] == Thing("****")
    assert (type(error.kept["worse"]), error.kept["worse"].text) == (Slotted, "****")
    assert (bad.text, worse.text) == (KEY, KEY)


def test_a_node_that_keeps_its_key_to_itself_is_not_disturbed(keyed: Pipelit) -> None:
    """An honest node's result passes, as the same object."""
    made = {"x": AIMessage("an answer", response_metadata={"model": "m"})}

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        return made

    assert node({}) is made


@pytest.mark.slow
def test_no_depth_hides_a_secret() -> None:
    """Nested deeper than Python can follow by calls, a secret is refused all the same."""
    value: Any = KEY
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SecretLeakError, match="service"):
        refuse_leak(value, {KEY: "service"})


def test_a_value_that_holds_itself_ends() -> None:
    """A cycle is walked once."""
    value: list[Any] = ["x"]
    value.append(value)
    refuse_leak(value, {KEY: "service"})


def _update(value: Any) -> Command[Any]:
    return Command(update={"x": value})


secrets = st.text(st.characters(codec="utf-8"), min_size=8, max_size=40)
places = st.recursive(
    st.just(None),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=3),
        st.tuples(st.sampled_from([Thing, Slotted, _update]), inner),
    ),
    max_leaves=6,
)


def _fill(place: Any, value: Any) -> Any:
    if place is None:
        return value
    if isinstance(place, list):
        return [_fill(each, value) for each in place]
    if isinstance(place, dict):
        return {key: _fill(each, value) for key, each in place.items()}
    make, inside = place
    return make(_fill(inside, value))


@given(secrets, places, st.sampled_from(sorted(CARRIERS)), st.text(max_size=5))
def test_a_secret_is_found_wherever_it_hides(
    secret: str, place: Any, carrier: str, before: str
) -> None:
    """In any nesting, encoding and position the secret is found."""
    value = _fill(place, CARRIERS[carrier](secret))
    with pytest.raises(SecretLeakError):
        refuse_leak([before, value], {secret: "service"})


@pytest.mark.slow
@given(secrets, st.recursive(st.text(max_size=20) | st.binary(max_size=20) | st.none(), st.lists))
def test_a_state_without_it_is_never_refused(secret: str, value: Any) -> None:
    """What doesn't hold the secret, in any form, passes."""
    forms = [secret, quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]]
    if not any(form in repr(value) or form in str(value) for form in forms):
        refuse_leak(value, {secret + "x": "service"} if secret in repr(value) else {secret: "s"})
