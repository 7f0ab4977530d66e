"""Exceptions: they keep their type and chain, lose the secret, and leave the program as it was."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from traceback import walk_tb
from typing import Any

import httpx
import numpy as np
import pytest
import requests
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy
from pydantic import BaseModel, SecretStr, ValidationError, field_validator
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard import own_forms
from pipelit_agents.credentials.leak_guard.frames import frames_hold_secret
from pipelit_agents.credentials.leak_guard.masking import masked, redact
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.errors import SecretLeakError

KEY = "sk-Canary/+8wZq_0123456789-end"


class State(TypedDict, total=False):
    x: Any


class Settings(BaseModel):
    api_key: str
    timeout: int

    @field_validator("timeout")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError(f"not with {KEY}")
        return value


@pytest.fixture
def keyed(pipelit: Pipelit) -> Pipelit:
    """A credential is in the store."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")
    return pipelit


@pytest.fixture(scope="module")
def unavailable() -> Iterator[str]:
    """A server that answers 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def raised(keyed: Pipelit, fail: Callable[[str], Any]) -> BaseException:
    """What comes out of a node that fails like that."""

    @keyed.credentials.inject(key="service")
    def node(*, key: SecretStr) -> None:
        fail(key.get_secret_value())

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        node()
    return caught.value


def shown(error: BaseException) -> str:
    """Everything that a log, an error tracker with local variables or a debugger prints of it."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    found = "".join(told.format())
    links: list[BaseException | None] = [error]
    seen: set[int] = set()
    while links:
        each = links.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            found += repr((each, each.args, vars(each)))
            links += [each.__cause__, each.__context__]
    return found


def _in_a_list(key: str) -> None:
    raise RuntimeError("all failed", [ValueError(key), KeyError(key)])


def _as_its_argument(key: str) -> None:
    last: Exception = ValueError(f"bad {key}")
    last.__cause__ = KeyError(key)
    raise RuntimeError(last)


def _after_a_model(key: str) -> None:
    try:
        Settings(api_key=key)  # type: ignore[call-arg]
    except ValidationError as error:
        raise RuntimeError("no settings") from error


def _in_a_closure(key: str) -> None:
    class Told(Exception):
        def __str__(self) -> str:
            return f"told {key}"

    raise Told


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (lambda key: Settings(api_key=key), ValidationError),
        (lambda key: Settings(api_key=key, timeout="soon"), ValidationError),
        (lambda key: Settings(api_key=1, timeout=key), ValidationError),
        (lambda key: Settings(api_key="x", timeout=-1), ValidationError),
        (_after_a_model, RuntimeError),
        (_in_a_list, RuntimeError),
        (_as_its_argument, RuntimeError),
        (lambda key: int(key), ValueError),
        (lambda key: Path(f"/nowhere/{key}").read_text(), FileNotFoundError),
        (lambda key: {}[key], KeyError),
        (lambda key: f"{key}é".encode().decode("ascii"), UnicodeDecodeError),
        (lambda key: getattr(key, "nothing"), AttributeError),  # noqa: B009 - it is to fail
    ],
)
def test_an_exception_keeps_its_type_and_loses_the_key(
    keyed: Pipelit, fail: Callable[[str], Any], kind: type[BaseException]
) -> None:
    """Wherever an exception has it: text, input, nested exceptions, members, local variables."""
    error = raised(keyed, fail)
    assert type(error) is kind
    assert KEY not in shown(error)


def test_a_validation_error_still_says_what_was_wrong(keyed: Pipelit) -> None:
    """Field, kind of error and the other inputs stay; the input that held the key is masked."""
    error = raised(keyed, lambda key: Settings(api_key=key, timeout="soon"))
    assert isinstance(error, ValidationError)
    (line,) = error.errors()
    assert (line["loc"], line["type"], line["input"]) == (("timeout",), "int_parsing", "soon")
    missing = raised(keyed, lambda key: Settings(api_key=key))  # type: ignore[call-arg]
    assert isinstance(missing, ValidationError)
    (line,) = missing.errors()
    assert (line["loc"], line["type"]) == (("timeout",), "missing")
    assert line["input"] == {"api_key": "****"}


def test_a_chain_keeps_its_links(keyed: Pipelit) -> None:
    """A cause that had to be made anew is the cause still, and of its type."""
    error = raised(keyed, _after_a_model)
    assert isinstance(error.__cause__, ValidationError)
    assert error.__context__ is error.__cause__


def test_what_can_not_be_mended_is_replaced(keyed: Pipelit) -> None:
    """An exception whose text comes from out of reach becomes a SecretLeakError."""
    error = raised(keyed, _in_a_closure)
    assert isinstance(error, SecretLeakError)
    assert error.credential == "service"
    assert KEY not in shown(error)


@pytest.mark.slow
@pytest.mark.parametrize("client", [requests, httpx])
def test_errors_of_http_clients_come_out_and_are_retried(
    keyed: Pipelit, unavailable: str, tmp_path: Path, client: Any
) -> None:
    """A 503 is its client's own error with its status, is retried, and shows no key."""
    tries: list[int] = []

    @keyed.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> State:
        tries.append(1)
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
        query = {"key": key.get_secret_value()}
        client.get(unavailable, headers=headers, params=query).raise_for_status()
        return {}

    again = RetryPolicy(initial_interval=0.001, max_attempts=3, retry_on=Exception)
    builder = StateGraph(State)
    builder.add_node("node", node, retry_policy=again)
    builder.add_edge(START, "node")
    path = tmp_path / "checkpoints.db"
    kind = requests.HTTPError if client is requests else httpx.HTTPStatusError
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = builder.compile(checkpointer=saver)
        with pytest.raises(kind) as caught:
            graph.invoke({}, {"configurable": {"thread_id": "1"}})
    assert len(tries) == 3
    assert caught.value.response.status_code == 503
    response = caught.value.response
    assert KEY not in shown(caught.value) + repr((response.request.headers, response.url))
    assert KEY.encode() not in b"".join(p.read_bytes() for p in tmp_path.glob("checkpoints.db*"))


def test_a_live_object_stays_as_it_was(keyed: Pipelit) -> None:
    """A client that an AttributeError refers to goes on working."""

    class Client:
        auth = ""

        def __init__(self, key: str) -> None:
            self.auth = key

    kept: list[Client] = []

    def fail(key: str) -> None:
        kept.append(Client(key))
        kept[0].complet()  # type: ignore[attr-defined]

    error = raised(keyed, fail)
    assert isinstance(error, AttributeError)
    assert kept[0].auth == KEY
    assert KEY not in repr(vars(error.obj)) + shown(error)


def test_inside_a_node_a_fallback_finds_its_client_intact(keyed: Pipelit) -> None:
    """What a failed runnable in a node refers to isn't emptied before the next one uses it."""
    from langchain_core.runnables import RunnableLambda

    @keyed.credentials.inject(key="service")
    def node(*, key: SecretStr) -> int:
        client = {"auth": key.get_secret_value()}

        def fail(_: Any) -> None:
            raise ValueError("no", client)

        first = RunnableLambda(fail)
        return first.with_fallbacks([RunnableLambda(lambda _: len(client["auth"]))]).invoke(1)

    assert node() == len(KEY)


def _tree(depth: int) -> Any:
    tree: Any = {"v": KEY}
    for _ in range(depth):
        tree = {"l": tree, "r": tree}
    return tree


def _ring() -> Any:
    ring: dict[str, Any] = {"v": KEY}
    ring["a"] = ring["b"] = [ring, ring]
    return ring


@pytest.mark.parametrize("make", [lambda: _tree(80), _ring])
def test_shared_and_circular_data_are_masked_once(make: Callable[[], Any]) -> None:
    """A structure of two to the eighty paths ends, and so does one that holds itself."""
    error = ValueError("bad", make())
    assert redact(error, {KEY: "service"}) is error
    assert error.args[1].get("v", "****") == "****"
    assert masked(make(), {KEY: "service"}).get("v", "****") == "****"


def test_what_holds_no_secret_stays_the_same_object() -> None:
    """Arguments and attributes without it aren't rebuilt."""
    tree = _tree(80)
    error = ValueError("bad", tree)
    error.kept = tree  # type: ignore[attr-defined]
    redact(error, {"another-secret": "service"})
    assert error.args[1] is tree
    assert error.kept is tree  # type: ignore[attr-defined]


def test_what_refuses_to_be_looked_into_is_searched_by_what_it_shows() -> None:
    """A collection that can't be iterated neither ends the search nor hides the key."""

    class Closed(collections.abc.Mapping[str, str]):
        def __getitem__(self, key: str) -> str:
            raise NotImplementedError

        def __iter__(self) -> Iterator[str]:
            raise NotImplementedError

        def __len__(self) -> int:
            return 1

        def __repr__(self) -> str:
            return f"Closed({KEY})"

    error = ValueError("x", Closed())
    redact(error, {KEY: "service"})
    assert KEY not in repr(error)
    honest = ValueError("x", Closed())
    redact(honest, {"another-secret": "service"})
    assert isinstance(honest.args[1], Closed)


def test_an_exception_that_can_not_say_what_it_is_stays() -> None:
    """What can't be shown shows nothing: it is no leak, and neither is what it refers to."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError

        __repr__ = __str__

    error = Mute("x")
    error.kept = mute = Mute()  # type: ignore[attr-defined]
    assert redact(error, {KEY: "service"}) is error
    assert error.kept is mute  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenInSlots(Exception):
    text: str


class Immutable(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise RuntimeError("immutable")


class Closed(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("closed")


class Property(Exception):
    @property
    def __cause__(self) -> Any:
        raise RuntimeError("no cause")


REFUSING = [Frozen, FrozenInSlots, Immutable, Closed, Property]


def all_of(error: BaseException) -> str:
    """Everything that C keeps of an exception, its chain and its parts."""
    found, waiting = "", [error]
    while waiting:
        each = waiting.pop()
        links: list[Any] = [
            BaseException.__dict__[name].__get__(each) for name in ("__cause__", "__context__")
        ]
        found += repr([BaseException.__repr__(each), BaseException.__dict__["args"].__get__(each)])
        found += repr(BaseException.__dict__["__dict__"].__get__(each))
        if type(each) is FrozenInSlots:
            found += each.text
        for frame, _ in walk_tb(BaseException.__dict__["__traceback__"].__get__(each)):
            if frame.f_globals is not globals():
                found += repr(frame.f_locals)
        waiting += [link for link in links if link is not None]
        waiting += each.exceptions if issubclass(type(each), BaseExceptionGroup) else ()
    return found


def _cause(error: Exception) -> None:
    raise ValueError("outer") from error


def _itself(error: Exception) -> None:
    raise error


def _in_a_group(error: Exception) -> None:
    raise ExceptionGroup("several", [ValueError("x"), ExceptionGroup("inner", [error])])


@pytest.mark.parametrize("way", [_itself, _cause, _in_a_group])
@pytest.mark.parametrize("kind", REFUSING)
def test_an_exception_that_can_not_be_set_loses_the_key_and_keeps_its_type(
    keyed: Pipelit, kind: Any, way: Callable[[Exception], None]
) -> None:
    """Whatever its class does with attributes, what Python keeps of it is masked."""
    made: list[Any] = []

    def fail(key: str) -> None:
        made.append(kind(f"bad {key}"))
        way(made[0])

    error = raised(keyed, fail)
    assert type(error) is {_itself: kind, _cause: ValueError}.get(way, ExceptionGroup)
    assert KEY not in all_of(error)
    assert all_of(error).count("bad ****") >= 1
    honest = kind("bad")
    assert redact(honest, {KEY: "service"}) is honest


def test_an_exception_that_fails_to_be_masked_is_replaced_without_its_chain() -> None:
    """A failure of the masking itself shows nothing of what was to be masked."""

    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError

    class Strange(Exception):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.__dict__ = Odd(key=KEY)

    strange = Strange(KEY)
    strange.__cause__ = KeyError(KEY)
    outer = ValueError("x")
    outer.__cause__ = strange
    for error in (strange, outer):
        assert KEY not in all_of(redact(error, {KEY: "service"}))


def test_a_cause_that_is_replaced_late_is_replaced_everywhere() -> None:
    """No order of links keeps an exception that shows the key by itself."""

    class Told(Exception):
        def __str__(self) -> str:
            return f"told {KEY}"

    told, middle, last = Told(), ValueError("middle"), ValueError("last")
    middle.__cause__, last.__cause__, last.__context__ = told, middle, told
    told.__context__ = group = ExceptionGroup("group", [ExceptionGroup("inner", [told])])
    for error in (last, told, group, middle):
        waiting: list[Any] = [redact(error, {KEY: "service"})]
        seen: set[int] = set()
        while waiting:
            each = waiting.pop()
            if each is not None and id(each) not in seen:
                seen.add(id(each))
                assert not isinstance(each, Told)
                waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


@pytest.mark.slow
def test_a_chain_may_be_longer_than_python_calls_deep() -> None:
    """Five thousand causes are masked, and stay what they are."""
    first = error = ValueError(KEY)
    for number in range(5000):
        error.__cause__ = ValueError(f"{number} {KEY}")
        error = error.__cause__
    assert redact(first, {KEY: "service"}) is first
    length = 0
    link: BaseException | None = first
    while link is not None:
        assert KEY not in str(link)
        link, length = link.__cause__, length + 1
    assert length == 5001


def test_local_variables_without_the_key_stay(keyed: Pipelit) -> None:
    """Only frames that hold it lose what they hold."""

    def deeper(number: int) -> None:
        kind = "honest"
        raise LookupError(kind, number)

    def fail(key: str) -> None:
        deeper(len(key))

    error = raised(keyed, fail)
    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in walk_tb(error.__traceback__)}
    assert frames["deeper"]["kind"] == "honest"
    assert "key" not in frames["fail"]


VARIABLES: dict[str, Callable[[str, int], Any]] = {
    "a header": lambda key, n: {"Authorization": f"Bearer {key}"},
    "a request": lambda key, n: {"url": "https://x", "headers": {"Authorization": f"Bearer {key}"}},
    "the last of many": lambda key, n: [*([each] for each in range(n)), [key]],
    "an array of text": lambda key, n: np.array([key]),
    "an array of bytes": lambda key, n: np.frombuffer(key.encode(), np.uint8),
    "an array of objects": lambda key, n: np.array([key, None]),
}


@pytest.mark.parametrize("number", [1, 130, 499, 500, 600, 5000])
@pytest.mark.parametrize("form", VARIABLES)
def test_many_objects_in_a_frame_hide_no_key(keyed: Pipelit, form: str, number: int) -> None:
    """Where there are more than can be searched, the frame is cleared; the others stay."""

    def deeper(number: int) -> None:
        kind = "honest"
        raise LookupError(kind, number)

    def fail(key: str) -> None:
        messages = [HumanMessage(f"message {each}") for each in range(number)]
        held = VARIABLES[form](key, number)
        del key
        deeper(len(messages) + len(held))

    error = raised(keyed, fail)
    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in walk_tb(error.__traceback__)}
    assert frames["fail"] == {}
    assert frames["deeper"]["kind"] == "honest"


def _of_exec(key: str) -> None:
    exec("head = 'Bearer ' + key\nprint(1 / 0)", {"key": key})  # noqa: S102


def _of_exec_with_locals(key: str) -> None:
    exec("head = 'Bearer ' + key\nprint(1 / 0)", {}, {"key": key})  # noqa: S102


def _of_a_class(key: str) -> None:
    class Settings:
        token = [key]
        port = 1 / 0


def _of_a_class_in_exec(key: str) -> None:
    exec("class A:\n class B:\n  token = key\n  print(1 / 0)", {"key": key})  # noqa: S102


def _of_eval(key: str) -> None:
    eval("[each / 0 for each in (1,)] if key else 0", {"key": key})  # noqa: S307


def _of_a_function_in_exec(key: str) -> None:
    exec("def f(a):\n  b = a\n  return 1 / 0\nf(key)", {"key": key})  # noqa: S102


@pytest.mark.parametrize(
    "fail",
    [
        *(_of_exec, _of_exec_with_locals, _of_a_class, _of_a_class_in_exec, _of_eval),
        _of_a_function_in_exec,
    ],
)
def test_a_frame_that_cannot_be_cleared_is_left_out(
    keyed: Pipelit, fail: Callable[[str], Any]
) -> None:
    """A namespace of exec() or of a class keeps its variables; the traceback goes on after it."""
    for error in (raised(keyed, fail), raised(keyed, partial(_wrapped, fail))):
        link: BaseException | None = error
        while link is not None:
            frames = [frame for frame, _ in walk_tb(link.__traceback__)]
            assert not any(KEY in repr(each.f_locals) for each in frames)
            link = link.__cause__
        assert KEY not in all_of(error)
        assert fail.__name__ in [each.f_code.co_name for each in frames]


def _wrapped(fail: Callable[[str], Any], key: str) -> None:
    try:
        fail(key)
    except ZeroDivisionError as error:
        raise LookupError from error


def test_a_namespace_of_exec_is_not_changed(keyed: Pipelit) -> None:
    """It may be an interpreter's, which goes on; without the key, its frame stays too."""
    namespace: dict[str, Any] = {}

    def fail(key: str) -> None:
        namespace["key"] = key
        exec("other = key[:3]\nprint(1 / 0)", namespace)  # noqa: S102

    raised(keyed, fail)
    assert namespace["key"] == KEY

    def honest(key: str) -> None:
        exec("other = 1\nprint(1 / 0)", {})  # noqa: S102

    frames = [frame for frame, _ in walk_tb(raised(keyed, honest).__traceback__)]
    assert frames[-1].f_locals["other"] == 1


@pytest.mark.parametrize("number", [1, 1500, 3000])
def test_many_objects_in_a_logged_frame_hide_no_key(number: int) -> None:
    """A log shows a frame's variables only where all of them were searched."""

    def fail(key: str) -> None:
        rows, held = [[each] for each in range(number)], [[key]]
        del key
        raise LookupError(len(rows), len(held))

    for key, secret in ((KEY, True), ("honest", number > 2000)):
        with pytest.raises(LookupError) as caught:
            fail(key)
        here = caught.value.__traceback__
        assert here is not None
        assert frames_hold_secret(here.tb_next, Patterns({KEY: "service"})) is secret


@pytest.mark.parametrize("number", [1, 100])
def test_some_objects_in_a_frame_without_the_key_stay(keyed: Pipelit, number: int) -> None:
    """A frame with as many objects as can be searched keeps them."""

    def deeper(rows: list[Any]) -> None:
        raise LookupError

    def fail(key: str) -> None:
        deeper([{"row": each} for each in range(number)])

    error = raised(keyed, fail)
    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in walk_tb(error.__traceback__)}
    assert len(frames["deeper"]["rows"]) == number


def test_slow_variables_hide_no_key(keyed: Pipelit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that there was no time to search is cleared."""
    monkeypatch.setattr(own_forms, "SEARCH_TIMEOUT", 0.05)

    class Slow:
        def __repr__(self) -> str:
            time.sleep(0.1)
            return "slow"

    class Halves:
        def __init__(self, key: str) -> None:
            self.parts = key[:9], key[9:]

        def __repr__(self) -> str:
            return "".join(self.parts)

    def fail(key: str) -> None:
        slow, held = Slow(), [Halves(key)]
        del key
        raise LookupError(len(held), type(slow))

    error = raised(keyed, fail)
    assert not any(KEY in repr(frame.f_locals) for frame, _ in walk_tb(error.__traceback__))


def test_large_local_variables_are_not_read(keyed: Pipelit) -> None:
    """An array of a terabyte in a failing frame is left alone."""

    def fail(key: str) -> None:
        array = np.broadcast_to(np.uint8(1), (2**40,))
        raise LookupError(array.nbytes)

    assert isinstance(raised(keyed, fail), LookupError)


@pytest.mark.slow
async def test_the_event_loop_is_left_alone() -> None:
    """An asynchronous request's error refers to the loop, from which all that runs is in reach."""
    loop = asyncio.get_running_loop()
    error = ConnectionError(f"401: {KEY}")
    vars(error).update(loop=loop, header=[KEY])
    vars(loop)["of_another_task"] = KEY
    try:
        clean = redact(error, {KEY: "service"})
        assert vars(clean) == {"loop": loop, "header": ["****"]}
    finally:
        del vars(loop)["of_another_task"]
    assert KEY not in str(clean)
