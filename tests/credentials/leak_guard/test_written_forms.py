"""Whatever a value could be written as is searched, of types that nobody here knows too."""

from __future__ import annotations

import argparse
import array
import ctypes
import dataclasses
import datetime
import decimal
import fractions
import io
import ipaddress
import re
import threading
import time
import types
import weakref
from collections import ChainMap, UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.graph import START, StateGraph
from pydantic import (
    AnyUrl,
    BaseModel,
    HttpUrl,
    PlainSerializer,
    PostgresDsn,
    SecretStr,
    WrapSerializer,
    computed_field,
    create_model,
)
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents._threads import Stuck
from pipelit_agents.credentials.leak_guard import own_forms
from pipelit_agents.credentials.leak_guard.masking import masked, redact, scrub
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.errors import SecretLeakError

KEY = "sk-Canary0123456789-end"
OTHER = "sk-nothing-of-the-kind-0"
LARGE = [{"n": n} for n in range(400)]


class State(TypedDict, total=False):
    x: Any
    y: Any


class Zone(datetime.tzinfo):
    """Of somebody's, with a text."""

    def __init__(self, name: str) -> None:
        self.name = name

    def utcoffset(self, _: object) -> datetime.timedelta:
        return datetime.timedelta(0)

    dst = utcoffset

    def tzname(self, _: object) -> str:
        return "Z"


class Client:
    """Keeps its key as clients do."""

    def __init__(self, key: str) -> None:
        self.api_key = key

    def search(self) -> None: ...


class Pickled:
    """Keeps nothing that is seen, and pickles it."""

    __slots__ = ("__weakref__",)
    kept: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def __init__(self, key: str) -> None:
        self.kept[self] = key

    def __reduce__(self) -> Any:
        return (Pickled, (self.kept[self],))


class Stateful(Pickled):
    """The same by the other of pickle's methods."""

    __slots__ = ()
    __reduce__ = object.__reduce__

    def __getstate__(self) -> Any:
        return {"deep": [self.kept[self]]}


class Shown(Pickled):
    """The same by its text."""

    __slots__ = ()
    __reduce__ = object.__reduce__

    def __repr__(self) -> str:
        return f"Shown({self.kept[self]})"


class Dumped(Pickled):
    """The same by what LangGraph's serializer asks for."""

    __slots__ = ()
    __reduce__ = object.__reduce__

    def model_dump(self) -> dict[str, str]:
        return {"k": self.kept[self]}


class Opened(Pickled):
    """The same by the other method that the serializer calls."""

    __slots__ = ()
    __reduce__ = object.__reduce__

    def get_secret_value(self) -> str:
        return self.kept[self]


class Lazy(Mapping[str, str]):
    """Makes its items when they are asked for."""

    def __init__(self, key: str) -> None:
        self._make = partial(str.join, "", list(key))

    def __getitem__(self, _: str) -> str:
        return self._make()

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Text(str):
    """A text with attributes."""


def _text(key: str) -> Text:
    made = Text("x")
    made.more = key  # type: ignore[attr-defined]
    return made


def _local_class(key: str) -> Any:
    class Local:
        def __repr__(self) -> str:
            return key

    return Local


def _closure(key: str) -> Any:
    return lambda: key


def _default(key: str) -> Any:
    def call(key: str = key) -> str:
        return key

    return call


def _waiting(key: str) -> Any:
    def steps() -> Iterator[str]:
        held = key
        yield ""
        yield held

    made = steps()
    next(made)
    return made


def _computed(key: str) -> Any:
    class Computed(BaseModel):
        n: int = 1

        @computed_field  # type: ignore[prop-decorator]
        @property
        def url(self) -> str:
            return Pickled.kept[holder]

    holder = Pickled(key)
    return Computed()


CARRIERS: dict[str, Callable[[str], Any]] = {
    "a URL": lambda s: AnyUrl(f"https://maps.example/?key={s}"),
    "what is in a URL": lambda s: AnyUrl(f"https://maps.example/?key={s}")._url,
    "a URL of a type of its own": lambda s: PostgresDsn(f"postgresql://app:{s}@db/app"),
    "a long pattern": lambda s: re.compile("x" * 300 + s),
    "a match": lambda s: re.match("x", "x" * 300 + s),
    "a zone": lambda s: datetime.timezone(datetime.timedelta(0), s),
    "a moment in a zone": lambda s: datetime.datetime(2026, 1, 1, tzinfo=Zone(s)),
    "a time in a zone": lambda s: datetime.time(1, tzinfo=Zone(s)),
    "a slice": slice,
    "a slice of more": lambda s: slice(None, {"a": [s]}),
    "an array of characters": lambda s: array.array("u", s),
    "an array of code points": lambda s: array.array("I", map(ord, s)),
    "bytes as numbers": lambda s: np.frombuffer(s.encode().ljust(32), dtype=np.uint32),
    "names of columns": lambda s: np.zeros(1, dtype=[(s, int)]),
    "memory of C": lambda s: ctypes.create_string_buffer(s.encode()),
    "a reader of C": lambda s: io.BufferedReader(io.BytesIO(s.encode())),
    "a proxy": lambda s: types.MappingProxyType({"a": s}),
    "a default": lambda s: defaultdict(partial(str, s)),
    "a dictionary of the library's": lambda s: UserDict(a=s),
    "a chain": lambda s: ChainMap({}, {"a": s}),
    "an iterator": lambda s: map(str, zip([s], strict=True)),
    "a type with a parameter": lambda s: list[Literal[s]],  # type: ignore[valid-type]
    "a bound method": lambda s: Client(s).search,
    "a method of C": lambda s: [s].append,
    "a partial of a method": lambda s: partial(Client(s).search),
    "a function's closure": _closure,
    "a function's default": _default,
    "a generator": _waiting,
    "a class of the node's": _local_class,
    "an object of such a class": lambda s: _local_class(s)(),
    "a model's default": lambda s: create_model("Made", a=(str, s)),
    "a computed field": _computed,
    "a text's attribute": _text,
    "what pickle writes": Pickled,
    "what pickle keeps": Stateful,
    "what repr shows": Shown,
    "what the serializer writes": Dumped,
    "what the serializer opens": Opened,
    "items that are made": Lazy,
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_form_is_searched(carrier: str) -> None:
    """What is kept outside Python's attributes, computed, or held by code, is found."""
    carry = CARRIERS[carrier]
    with pytest.raises(SecretLeakError) as caught:
        refuse_leak({"x": carry(KEY)}, {KEY: "service"})
    assert caught.value.credential == "service"
    # A large state is searched by another way.
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": carry(KEY), "y": LARGE}, {KEY: "service"})
    refuse_leak({"x": carry(OTHER), "y": LARGE}, {KEY: "service"})


@pytest.mark.parametrize("among", [[], LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("secret", "value"),
    [
        ("203.0.113.77", ipaddress.ip_address("203.0.113.77")),
        ("1234567890.12", decimal.Decimal("1234567890.12")),
        ("12345678/7", fractions.Fraction(12345678, 7)),
        ("2026-11-28", datetime.date(2026, 11, 28)),
        ("12345678", 12345678),
        ("12345678", [1, 12345678] * 5000),
    ],
)
def test_what_is_a_number_is_searched_by_its_text(secret: str, value: Any, among: Any) -> None:
    """A secret of digits is found where it was made a number, an address or a date."""
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": value, "y": among}, {secret: "service"})
    refuse_leak({"x": value, "y": among}, {secret + "0": "service"})


def test_a_node_cannot_return_a_url_with_its_key(pipelit: Pipelit) -> None:
    """A pydantic URL in a model, returned or raised, holds no key outside the node."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")

    class Call(BaseModel):
        url: HttpUrl

    @pipelit.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        url = f"https://maps.example/geo?key={key.get_secret_value()}"
        if state["x"]:
            raise ConnectionError("no answer from", Call(url=url).url)
        return {"y": Call(url=url)}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
    with pytest.raises(SecretLeakError) as caught:
        graph.invoke({"x": 0})
    assert caught.value.path.startswith("y.url")
    with pytest.raises(ConnectionError) as failed:
        graph.invoke({"x": 1})
    assert KEY not in repr(failed.value)


def test_what_is_shown_of_it_is_masked() -> None:
    """Logs and exceptions lose what only its text shows."""
    url = AnyUrl(f"https://maps.example/?key={KEY}")
    assert KEY not in repr(masked([url, Client(KEY).search, Shown(KEY)], {KEY: "service"}))
    error = ValueError("no", url, Client(KEY).search)
    assert KEY not in repr(redact(error, {KEY: "service"}))


class _Raises:
    def __repr__(self) -> str:
        raise SystemExit


class _Recurses:
    def __repr__(self) -> str:
        return repr(self)

    def __reduce__(self) -> Any:
        return (_Recurses, (_Recurses(),))


class _Lies:
    __class__ = property(lambda self: 1 / 0)  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError


@pytest.mark.parametrize("kind", [_Raises, _Recurses, _Lies])
def test_what_an_object_does_when_it_is_asked_is_its_own_affair(kind: type) -> None:
    """An object that raises, ends the program, recurses or lies disturbs no honest node."""
    for value in ({"x": kind()}, {"x": kind(), "y": LARGE}):
        refuse_leak(value, {KEY: "service"})
        with pytest.raises(SecretLeakError) as caught:
            refuse_leak({**value, "z": [KEY]}, {KEY: "service"})
        assert caught.value.path == "z[0]"


class _Hangs:
    """Its text takes for ever, in Python or in C."""

    def __init__(self, wait: Callable[[], object], **kept: Any) -> None:
        _WAITS[type(self)] = wait
        vars(self).update(kept)

    def __repr__(self) -> str:
        _WAITS[type(self)]()
        return ""


_WAITS: dict[type, Callable[[], object]] = {}


def _for_ever() -> None:
    while True:
        pass


def test_what_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an object that says nothing in time, what it keeps is searched; else it is refused."""
    monkeypatch.setattr(own_forms, "VALUE_TIMEOUT", 0.05)
    release = threading.Event()
    try:
        for wait in (_for_ever, release.wait):
            with pytest.raises(SecretLeakError, match=r"can't be searched .* doesn't end"):
                refuse_leak({"x": _Hangs(wait)}, {KEY: "service"})
            refuse_leak({"x": _Hangs(wait, kept=1)}, {KEY: "service"})
            with pytest.raises(SecretLeakError, match=r"at y\.kept"):
                refuse_leak({"x": 1, "y": _Hangs(wait, kept=KEY)}, {KEY: "service"})
            # It doesn't keep others from being asked.
            with pytest.raises(SecretLeakError):
                refuse_leak([_Hangs(wait, kept=1), Shown(KEY)], {KEY: "service"})
    finally:
        release.set()


def test_what_could_not_be_searched_may_be_given_back(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that says nothing and was in the input passes; one that the node makes doesn't."""
    monkeypatch.setattr(own_forms, "VALUE_TIMEOUT", 0.05)
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")

    @pipelit.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        return {"y": [state["x"][0] if state["x"] else _Hangs(_for_ever)]}

    hangs = _Hangs(_for_ever)
    assert node({"x": [hangs]})["y"] == [hangs]
    with pytest.raises(SecretLeakError, match="can't be searched"):
        node({"x": []})


class _Row:
    """Its text takes a moment; it keeps something that can be searched."""

    seconds = 0.02

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        time.sleep(self.seconds)
        return f"Row({self.number})"


class _Halves:
    """It keeps a key in two parts, and displays it whole."""

    def __init__(self, key: str) -> None:
        self.parts = key[:9], key[9:]

    def __repr__(self) -> str:
        return "".join(self.parts)


@pytest.mark.slow
@pytest.mark.parametrize("rows_first", [True, False])
@pytest.mark.parametrize("number", [5, 100])
def test_slow_values_use_up_only_the_time_of_their_type(
    monkeypatch: pytest.MonkeyPatch, number: int, rows_first: bool
) -> None:
    """What other values display is searched, however many slow ones are beside them."""
    monkeypatch.setattr(own_forms, "VALUE_TIMEOUT", 0.2)
    kind = type("Row", (_Row,), {})
    rows: list[Any] = [kind(each) for each in range(number)]
    began = time.monotonic()
    refuse_leak(rows, {KEY: "service"})
    with pytest.raises(SecretLeakError):
        refuse_leak([*rows, kind(KEY)], {KEY: "service"})
    for halves, leaks in ((_Halves(KEY), True), (_Halves(OTHER), False)):
        with pytest.raises(SecretLeakError) if leaks else nullcontext():
            refuse_leak([*rows, halves] if rows_first else [halves, *rows], {KEY: "service"})
    assert time.monotonic() - began < 1.5


@pytest.mark.slow
def test_what_nobody_had_time_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time of a search is over, a value whose code was not run is unknown."""
    monkeypatch.setattr(own_forms, "VALUE_TIMEOUT", 0.3)
    monkeypatch.setattr(own_forms, "SEARCH_TIMEOUT", 0.5)
    slow = [type(f"Row{each}", (_Row,), {"seconds": 0.2})(each) for each in range(8)]
    for halves in (_Halves(KEY), _Halves(OTHER)):
        with pytest.raises(SecretLeakError, match="together take longer than"):
            refuse_leak([halves, *slow], {KEY: "service"})
    # What has no code of its own, or is searched in time, isn't concerned.
    refuse_leak([*slow[:1], {"a": [1, "b"]}], {KEY: "service"})
    with pytest.raises(SecretLeakError, match="at \\[1\\]"):
        refuse_leak([slow, KEY], {KEY: "service"})


def test_values_that_no_thread_can_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as many threads hang as are allowed, nothing passes that was not searched."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise Stuck

    monkeypatch.setattr(own_forms._WORKERS, "run", full)
    for value in (_Halves(KEY), _Halves(OTHER), _Row(1)):
        with pytest.raises(SecretLeakError, match="no thread could be started"):
            refuse_leak([value], {KEY: "service"})
    refuse_leak({"a": [1, "b"]}, {KEY: "service"})


def test_what_was_unsearchable_in_the_input_is_searched_for_what_the_node_adds(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that the input's search had no time for may be returned, but not with the key."""
    monkeypatch.setattr(own_forms, "SEARCH_TIMEOUT", -1)
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")

    @pipelit.credentials.inject(key="service")
    def node(state: State, *, key: SecretStr) -> Any:
        if state["y"]:
            state["x"][0].number = key.get_secret_value()
        return {"y": state["x"]}

    row = _Row(1)
    assert node({"x": [row], "y": False})["y"] == [row]
    with pytest.raises(SecretLeakError):
        node({"x": [_Row(1)], "y": True})
    with pytest.raises(SecretLeakError, match="can't be searched"):
        pipelit.credentials.inject(key="service")(lambda state, *, key: [_Row(2)])({"x": 1})


PIN = "490151234567890"
NUMBERS: dict[str, Callable[[str], Any]] = {
    "whole": int,
    "negative": lambda pin: -int(pin),
    "float": float,
    "negative float": lambda pin: -float(pin),
    "numpy": lambda pin: np.float64(pin),
    "in a mapping": lambda pin: {"account": float(pin), "n": -3},
    "a key": lambda pin: {-int(pin): 1},
    "in an object": lambda pin: types.SimpleNamespace(x=float(pin)),
}


@pytest.mark.parametrize("much", [[], LARGE, ["x" * 300] * 400])
@pytest.mark.parametrize("form", NUMBERS)
def test_digits_are_found_in_numbers_of_any_kind(form: str, much: Any) -> None:
    """A number shows its digits with a sign or a fraction too; another number is honest."""
    make = NUMBERS[form]
    for pin in (PIN, "49015123"):
        for digits, leaks in ((pin, True), (pin[:-1] + "7", False), ("12345678", False)):
            with pytest.raises(SecretLeakError) if leaks else nullcontext():
                refuse_leak([make(digits), much], {pin: "service"})
        assert pin not in repr(masked([make(pin)], {pin: "service"}))
        assert repr(masked([make("12345678")], {pin: "service"})) == repr([make("12345678")])
        changed = {"x": [make(pin)]}
        scrub(changed, {pin: "service"})
        assert pin not in repr(changed)


def test_other_floats_are_honest() -> None:
    """What isn't finite, has a fraction or is very large is no row of digits."""
    others = (float("nan"), float("inf"), -float("inf"), 4.5, 1e300, 490151234567890.5, -(10**30))
    for value in others:
        refuse_leak([value, np.float64(value), {"a": value}], {PIN: "service"})
        refuse_leak([*LARGE, value], {PIN: "service"})
        assert repr(masked([value], {PIN: "service"})) == repr([value])


class _Sub(BaseModel):
    """Its halves are joined when it is written."""

    parts: Annotated[list[str], PlainSerializer("".join)]


ANNOTATED: dict[str, Any] = {
    "plain": Annotated[list[str], PlainSerializer("".join)],
    "wrapped": Annotated[list[str], WrapSerializer(lambda value, handler: "".join(value))],
    "optional": Annotated[list[str], PlainSerializer("".join)] | None,
    "in a list": list[Annotated[list[str], PlainSerializer("".join)]],
    "in a mapping": dict[str, Annotated[list[str], PlainSerializer("".join)]],
    "in a model": _Sub,
    "in models": list[_Sub],
}


@pytest.mark.slow
@pytest.mark.parametrize("many", [1, 500])
@pytest.mark.parametrize("form", ANNOTATED)
def test_what_an_annotation_serializes_is_searched(form: str, many: int) -> None:
    """A function in an annotation writes what no field stores."""
    kind: Any = create_model("Made", x=(ANNOTATED[form], ...))
    for key, leaks in ((KEY, True), (OTHER, False)):
        parts = [key[:9], key[9:]]
        value: Any = {"in a list": [parts], "in a mapping": {"a": parts}}.get(form, parts)
        if "model" in form:
            value = _Sub(parts=parts) if form == "in a model" else [_Sub(parts=parts)]
        values = [kind(x=value) for _ in range(many)]
        with pytest.raises(SecretLeakError) if leaks else nullcontext():
            refuse_leak(values, {KEY: "service"})


@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, AIMessageChunk, ToolMessage, Document])
def test_messages_are_plain_models(kind: type) -> None:
    """Most of a large state is of these, and they write what they store."""
    assert own_forms.is_plain_model(kind)


class _Plain:
    """It has what attributes it is given."""


class _Failed(Exception):
    """So has this."""


class _Open(BaseModel, extra="allow"):
    """It takes any field."""


def _with(made: Any, name: str) -> Any:
    vars(made)[name] = 1
    return made


NAMED: dict[str, Callable[[str], Any]] = {
    "a namespace": lambda name: types.SimpleNamespace(**{name: 1}),
    "a namespace of arguments": lambda name: argparse.Namespace(**{name: 1}),
    "an object": lambda name: _with(_Plain(), name),
    "an exception": lambda name: _with(_Failed(), name),
    "a model": lambda name: _Open(**{name: 1}),
    "a function": lambda name: _with(lambda: None, name),
    "a class": lambda name: type("Made", (), {name: 1}),
    "a mapping in an object": lambda name: _with(UserDict({name: 1}), "other"),
    "objects in objects": lambda name: [{"a": _with(_Plain(), "b"), "c": (_with(_Plain(), name),)}],
}


@pytest.mark.parametrize("much", [[], LARGE])
@pytest.mark.parametrize("form", NAMED)
def test_the_names_of_attributes_are_searched(form: str, much: Any) -> None:
    """They are pickled and displayed as the values are."""
    for key, leaks in ((KEY, True), (KEY[:-1], False), ("other_name", False)):
        with pytest.raises(SecretLeakError) if leaks else nullcontext():
            refuse_leak([NAMED[form](key), much], {KEY: "service"})


def test_the_names_of_attributes_are_masked() -> None:
    """An exception loses them, and what a node changed in its input does."""
    error = redact(_with(_Failed("x"), KEY), {KEY: "service"})
    assert vars(error) == {"****": 1}
    assert vars(redact(_with(_Failed("x"), "other_name"), {KEY: "service"})) == {"other_name": 1}
    kept = [_with(_Plain(), KEY)]
    error = redact(_Failed(kept), {KEY: "service"})
    assert [vars(each) for each in error.args[0]] == [{"****": 1}]

    @dataclasses.dataclass
    class Changed:
        a: int = 1

    changed = _with(Changed(), KEY)
    scrub([changed], {KEY: "service"})
    assert vars(changed) == {"a": 1, "****": 1}


def test_a_view_that_was_released_shows_nothing() -> None:
    """It is no error of the node's."""
    view = memoryview(b"abc")
    view.release()
    refuse_leak({"x": view, "y": KEY[:-1]}, {KEY: "service"})
    refuse_leak({"x": view, "y": LARGE}, {KEY: "service"})


def test_an_endless_loop_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that a value's endless code ran on is ended."""
    monkeypatch.setattr(own_forms, "VALUE_TIMEOUT", 0.05)
    reader = own_forms._Reader([(_Hangs(_for_ever), (own_forms._of_a_text,))], own_forms.Budget())
    thread = threading.Thread(target=reader, daemon=True)
    thread.start()
    while not reader._thread:
        time.sleep(0.001)
    reader.end()
    thread.join(20)
    assert not thread.is_alive()


class _Endless(Lazy):
    def __iter__(self) -> Iterator[str]:
        while True:
            yield "a"


def test_items_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes items for as long as it is asked can't be searched, and the error says so."""
    monkeypatch.setattr(own_forms, "_MAX_PARTS", 1000)
    with pytest.raises(SecretLeakError, match="more than 1,000 parts"):
        refuse_leak({"x": _Endless(OTHER)}, {KEY: "service"})
    refuse_leak({"x": Lazy(OTHER)}, {KEY: "service"})


def test_objects_that_refer_to_each_other_often_are_searched_once() -> None:
    """Models that share their parts, or are parts of themselves, don't take for ever."""

    class Pair(BaseModel):
        a: Any = None
        b: Any = None

    pair = Pair(a="x")
    for _ in range(60):
        pair = Pair(a=pair, b=pair)
    refuse_leak([pair, *LARGE], {KEY: "service"})
    refuse_leak([*LARGE, pair], {KEY: "service"})
    loop = Pair(a=KEY)
    loop.b = [*LARGE, loop]
    with pytest.raises(SecretLeakError):
        refuse_leak(loop, {KEY: "service"})


class Program:
    """A class of a module."""

    api_key = KEY


def _program(key: str = KEY) -> str:
    return key


def test_the_program_is_no_data() -> None:
    """A function or class of a module is written by its name; what it refers to isn't searched."""
    refuse_leak({"x": [_program, Program, Client.search, re, print]}, {KEY: "service"})


@pytest.mark.slow
def test_a_type_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are searched by what they keep and otherwise say, and refused as before."""
    monkeypatch.setattr(own_forms, "VALUE_TIMEOUT", 0.2)
    released = threading.Event()
    asked: list[Any] = []

    class Hanging:
        def __init__(self, **kept: Any) -> None:
            self.__dict__.update(kept)

        def __repr__(self) -> str:
            asked.append(self)
            released.wait(30)
            return "x"

        def __reduce__(self) -> Any:
            return (Hanging, (KEY if "pickled" in self.__dict__ else "",))

    class Empty:
        __slots__ = ()
        __repr__ = Hanging.__repr__

    try:
        for _ in range(3):
            refuse_leak({"x": [Hanging(a=1)]}, {KEY: "service"})
        assert len(asked) == 1
        for kept in ({"a": KEY}, {"pickled": 1}):
            with pytest.raises(SecretLeakError):
                refuse_leak({"x": Hanging(**kept)}, {KEY: "service"})
        for _ in range(2):
            with pytest.raises(SecretLeakError, match="doesn't end within"):
                refuse_leak({"x": Empty()}, {KEY: "service"})
        assert len(asked) == 2
    finally:
        released.set()
