# ruff: noqa: DTZ001, DTZ901 - naive moments are carried too
"""Values that JSON has no form for: each arrives as itself, or is named."""

from __future__ import annotations

import collections
import dataclasses
import enum
import ipaddress
import json
import os
import pathlib
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from time import thread_time
from typing import Annotated, Any, Literal, NamedTuple, NotRequired
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import START, StateGraph
from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from spawning import CANARY, NAME, Work, graph_of, parent_of, tasks
from typing_extensions import TypedDict

from pipelit_agents import Agent, Secret
from pipelit_agents.errors import PayloadError, SpawnError
from pipelit_agents.graphs import verified_child
from pipelit_agents.graphs.codec import state_from_bytes, state_to_bytes
from pipelit_agents.graphs.objects import class_name
from pipelit_agents.graphs.schemas import known_classes
from pipelit_agents.tools import SpawnAndAwait

LIMIT = 2**20
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Urgency(enum.Enum):
    """An enum of text."""

    LOW = "low"
    HIGH = "high"


class Colour(enum.StrEnum):
    """An enum that is text."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum that is a number."""

    TOP = 3


class Right(enum.Flag):
    """An enum of bits."""

    READ = 1
    WRITE = 2


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: Decimal


@dataclasses.dataclass
class Item:
    """A dataclass with an enum and a tuple in it."""

    name: str
    urgency: Urgency
    at: Point


class Ticket(BaseModel):
    """A model with dates, an enum and another model in it."""

    due: datetime
    urgency: Urgency
    tags: set[str] = set()
    parent: Ticket | None = None


def there_and_back(value: Any, **options: Any) -> Any:
    """What arrives of a value."""
    return state_from_bytes(state_to_bytes(value), limit=LIMIT, **options)


def same(first: Any, second: Any) -> bool:
    """Equal, of one type, and written alike all the way down."""
    return type(first) is type(second) and first == second and repr(first) == repr(second)


VALUES: list[Any] = [
    datetime(2026, 11, 28, 10, 0),
    datetime(2026, 11, 28, 10, 0, 0, 1),
    datetime(1, 1, 1),
    datetime.max,
    datetime(2026, 11, 28, 10, 0, tzinfo=UTC),
    datetime(2026, 11, 28, 10, 0, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, fold=1),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
    datetime(1890, 1, 1, tzinfo=BERLIN),
    date(2026, 11, 28),
    time(10, 30),
    time(10, 30, 1, 5, fold=1),
    time(10, 30, tzinfo=UTC),
    time(10, 30, tzinfo=BERLIN),
    timedelta(days=-1, seconds=3, microseconds=5),
    timedelta.max,
    UTC,
    timezone(timedelta(hours=-3), "X"),
    BERLIN,
    UUID(int=1),
    Decimal("9.90"),
    Decimal("-0"),
    Decimal("1E+30"),
    Decimal("0.1000"),
    {"a", "b"},
    frozenset({1, (2, 3)}),
    (1, "a", (None, [2])),
    (),
    b"\0\xff",
    b"",
    bytearray(b"\1"),
    pathlib.Path("/a/b c"),
    pathlib.PurePosixPath("a/b"),
    pathlib.PureWindowsPath("c:\\x"),
    ipaddress.ip_address("10.0.0.1"),
    ipaddress.ip_address("::1"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_interface("fe80::1/64"),
    collections.deque([1, 2], 5),
    {1: "a", None: "b", (1, 2): "c", date(2026, 1, 1): {2.5: b"x"}},
    {True: 1, "1": 2},
    {"__pipelit_date__": "2026-01-01"},
    {"__pipelit_message__": {"type": "ai", "data": {"content": "x"}}},
    {"a": {"__pipelit_other__": 1, 5: {"__pipelit_dict__": []}}},
    -0.0,
    5e-324,
    2**200,
    -(10**4299),
    "é\0\u2028",
    {"deep": [{"list": [{1, 2}, (3, {"set": {UUID(int=2)}})]}]},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_arrives_as_itself(value: Any) -> None:
    """With its type, its zone and its fold, at the top and inside."""
    assert same(there_and_back(value), value)
    (back,) = there_and_back({"a": [value]})["a"]
    assert same(back, value)
    if isinstance(value, datetime | time):
        assert (back.tzname(), back.utcoffset(), back.fold) == (
            value.tzname(),
            value.utcoffset(),
            value.fold,
        )


@pytest.mark.process
def test_a_set_has_the_same_bytes_in_each_process() -> None:
    """Python's own order of text differs from process to process; what is asked is digested."""
    value = [{*map(str, range(40)), (1, frozenset("abcdefghijklmnopqrstuvwxyz"))}]
    code = (
        "from pipelit_agents.graphs.codec import state_to_bytes; "
        "print(state_to_bytes([{*map(str, range(40)), "
        "(1, frozenset('abcdefghijklmnopqrstuvwxyz'))}]))"
    )
    # Another order than here, with one of so many.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
    )
    assert done.stdout == f"{state_to_bytes(value)!r}\n"


_SCALARS = st.one_of(
    st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.binary(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.ip_addresses(),
    st.booleans(),
    st.none(),
)
_HASHABLE = st.recursive(
    _SCALARS, lambda inner: st.tuples(inner) | st.frozensets(inner), max_leaves=4
)
_VALUES = st.recursive(
    _HASHABLE,
    lambda inner: (
        st.lists(inner) | st.dictionaries(_HASHABLE, inner) | st.sets(_HASHABLE) | st.tuples(inner)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(_VALUES)
def test_whatever_is_carried_arrives_as_itself(value: Any) -> None:
    """Any of them, in any of them."""
    try:
        data = state_to_bytes(value)
    except PayloadError:
        return
    assert state_from_bytes(data, limit=2**24) == value


CLASSES = known_classes([Ticket, Item, Point, Urgency, Colour, Level, Right])
OBJECTS: list[tuple[Any, Any]] = [
    (Urgency.HIGH, "high"),
    (Colour.RED, "red"),
    (Level.TOP, 3),
    (Right.READ | Right.WRITE, 3),
    (Point(1, Decimal("2.5")), (1, Decimal("2.5"))),
    (
        Item("a", Urgency.LOW, Point(1, Decimal(2))),
        {"name": "a", "urgency": "low", "at": (1, Decimal(2))},
    ),
    (
        Ticket(
            due=datetime(2026, 1, 1, tzinfo=UTC),
            urgency=Urgency.HIGH,
            tags={"x"},
            parent=Ticket(due=datetime(2025, 1, 1), urgency=Urgency.LOW),
        ),
        {
            "due": datetime(2026, 1, 1, tzinfo=UTC),
            "urgency": "high",
            "tags": {"x"},
            "parent": {
                "due": datetime(2025, 1, 1),
                "urgency": "low",
                "tags": set(),
                "parent": None,
            },
        },
    ),
    (Document("text", metadata={"at": date(2026, 1, 1)}), None),
]


@pytest.mark.parametrize(("value", "form"), OBJECTS, ids=lambda part: repr(part)[:30])
def test_an_object_arrives_as_itself_where_its_class_is_known(value: Any, form: Any) -> None:
    """And as its values, each of them as itself, where it isn't."""
    assert same(there_and_back({"a": [value]}, known=CLASSES)["a"][0], value)
    if form is not None:
        assert there_and_back({"a": [value]})["a"][0] == form
        assert type(there_and_back([value])[0]) is type(form)


class Hashing(BaseModel):
    """A model that makes other data of what it is given."""

    password: str

    @field_validator("password")
    @classmethod
    def hashed(cls, value: str) -> str:
        """Something else each time."""
        return f"#{value}"


class Counting(BaseModel):
    """A model whose validation has effects, and which needs more than there is."""

    n: int

    def model_post_init(self, _: Any) -> None:
        """Fails for a number that nobody sends by accident."""
        if self.n == 13:
            raise RuntimeError("post init")


def test_a_class_that_would_change_the_value_leaves_it_as_values() -> None:
    """What is revived says what was sent, or stays a dict: no validator has a say."""
    known = known_classes([Hashing, Counting, Item, Urgency])
    hashing = Hashing.model_construct(password="x")
    assert there_and_back([hashing], known=known) == [{"password": "x"}]
    failing = Counting(n=1)
    failing.n = 13
    assert there_and_back([failing], known=known) == [{"n": 13}]
    assert there_and_back([Counting.model_construct(n="7")], known=known) == [{"n": "7"}]
    odd = Item(5, "no urgency", None)  # type: ignore[arg-type]
    assert there_and_back([odd], known=known) == [{"name": 5, "urgency": "no urgency", "at": None}]


class Approved(BaseModel):
    """One of two models with the same fields."""

    by: str


class Denied(BaseModel):
    """The other one."""

    by: str


@dataclasses.dataclass
class Yes:
    """One of two dataclasses with the same fields."""

    n: int


@dataclasses.dataclass
class No:
    """The other one."""

    n: int


class Pair(NamedTuple):
    """A named tuple of the same form as any other pair."""

    first: Any
    second: Any


class Decision(BaseModel):
    """A model with a choice of classes in it, by itself and in containers."""

    outcome: Approved | Denied | None = None
    either: Yes | No | Pair | None = None
    many: dict[str, tuple[Approved | Denied, ...]] = {}
    anything: Any = None

    @computed_field
    def first(self) -> Any:
        """An object that isn't written in a field."""
        return self.outcome


class Outcomes(RootModel[list[Approved | Denied]]):
    """A model that is one value."""


DECISIONS: list[Any] = [
    Decision(outcome=Denied(by="bob")),
    Decision(outcome=Approved(by="bob")),
    Decision(either=No(1)),
    Decision(either=Yes(1)),
    Decision(either=Pair(1, 2)),
    Decision(many={"a": (Denied(by="a"), Approved(by="b"))}),
    Decision(anything=[No(1), Denied(by="c"), Pair(Yes(1), {Urgency.LOW: Urgency.HIGH})]),
    Outcomes([Denied(by="a"), Approved(by="b")]),
    Yes(Denied(by="x")),  # type: ignore[arg-type]
    Pair(Denied(by="x"), No(1)),
]


@pytest.mark.parametrize("value", DECISIONS, ids=repr)
def test_an_object_in_an_object_keeps_its_class(value: Any) -> None:
    """Where a class with the same fields would do too; or it all arrives as values."""
    known = known_classes([Decision, Outcomes, Pair, Urgency])
    back = there_and_back([value], known=known)[0]
    if type(value) is Yes:
        assert back == {"n": Denied(by="x")}
    else:
        assert same(back, value)


class Redacting(BaseModel):
    """A model whose serializers hide something."""

    card: str
    inner: Annotated[Denied | None, PlainSerializer(lambda _: "hidden")] = None

    @field_serializer("card")
    def last(self, value: str) -> str:
        """The last digits."""
        return f"…{value[-4:]}"


class Hiding(BaseModel):
    """A model that excludes a field, and has private attributes."""

    by: str
    note: str = Field(default="", exclude=True)
    _seen: list[str] = PrivateAttr(default_factory=list)


@pydantic_dataclass
class Folding:
    """A dataclass of pydantic's that excludes a field."""

    by: str
    note: str = Field(default="", exclude=True)


@dataclasses.dataclass
class Growing:
    """A dataclass that gets more attributes."""

    by: str


def _with(value: Any, name: str, given: Any) -> Any:
    setattr(value, name, given)
    return value


LOST: list[tuple[Any, Any, list[str]]] = [
    (
        Redacting(card="1111222233334444", inner=Denied(by="x")),
        {"card": "…4444", "inner": "hidden"},
        [
            "a.card: a value that its serializer changes",
            "a.inner: a value that its serializer changes",
        ],
    ),
    (Hiding(by="x", note="y"), {"by": "x"}, ["a.note: a field that is excluded"]),
    (_with(Hiding(by="x"), "_seen", ["z"]), {"by": "x"}, ["a._seen: a private attribute"]),
    (Hiding(by="x"), Hiding(by="x"), []),
    (Folding(by="x", note="y"), {"by": "x"}, ["a.note: a field that is excluded"]),
    (Folding(by="x"), Folding(by="x"), []),
    (_with(Growing("x"), "more", 1), {"by": "x"}, ["a.more: an attribute that isn't a field"]),
    (
        Decision(anything=[Hiding(by="x", note="y")]),
        {
            "outcome": None,
            "either": None,
            "many": {},
            "anything": [{"by": "x"}],
            "first": None,
        },
        ["a.anything[0].note: a field that is excluded"],
    ),
]


@pytest.mark.parametrize(("value", "form", "told"), LOST, ids=lambda part: repr(part)[:40])
def test_what_an_object_loses_is_said(
    lead: Agent, researcher: Agent, value: Any, form: Any, told: list[str]
) -> None:
    """It arrives as its fields, as its class serializes them, and never as another object."""
    child = verified_child(graph_of(lambda _: {"a": value}), researcher)
    types = [Redacting, Hiding, Folding, Growing]
    (result,) = parent_of(lead, {NAME: child}, answer_types=types).invoke(tasks("x"))["results"]
    assert same(result["output"]["a"], form)
    assert result.get("omitted", []) == told


class Wide(BaseModel):
    """A model with a number."""

    n: int | None = None
    amount: Any = None


class Emptying(BaseModel):
    """A model that changes the list that it is given."""

    items: list[Any]

    @field_validator("items", mode="before")
    @classmethod
    def emptied(cls, value: list[Any]) -> list[Any]:
        """Takes out what it was given, in place."""
        value.clear()
        return value


def test_equal_values_of_another_type_are_a_change() -> None:
    """A validator may make 1 of True, or change in place what its result is compared with."""
    known = known_classes([Wide, Yes, Point, Level, Emptying])
    assert same(there_and_back([Wide.model_construct(n=True)], known=known)[0]["n"], True)
    assert same(there_and_back([Yes(True)], known=known), [{"n": True}])
    assert same(there_and_back([Point(True, Decimal(1))], known=known), [(True, Decimal(1))])
    value = Wide(amount=[Decimal("1.0"), -0.0, {1: True}])
    assert same(there_and_back([value], known=known), [value])
    emptying = Emptying.model_construct(items=[1, 2])
    assert there_and_back([emptying], known=known) == [{"items": [1, 2]}]
    forged = {"__pipelit_object__": ["enum", f"{__name__}.Level", 3.0]}
    assert same(state_from_bytes(json.dumps(forged).encode(), limit=LIMIT, known=known), 3.0)


FORGED: list[Any] = [
    {"__pipelit_object__": ["model", "x", {}, []]},
    {"__pipelit_object__": ["model", "x", {}, [5]]},
    {"__pipelit_object__": ["model", "x", {}, "lost"]},
    {"__pipelit_object__": ["model", "x", {}, ["a"], ["b"]]},
    {"__pipelit_date__": "2026-13-01"},
    {"__pipelit_date__": "20260101"},
    {"__pipelit_date__": 5},
    {"__pipelit_date__": None},
    {"__pipelit_datetime__": "2026-01-01"},
    {"__pipelit_datetime__": "2026-01-01T00:00:00Z"},
    {"__pipelit_datetime__": {"iso": "2026-01-01T00:00:00", "fold": True}},
    {"__pipelit_datetime__": {"iso": "2026-01-01T00:00:00", "zone": "Europe/Berlin"}},
    {"__pipelit_datetime__": {"iso": "2026-01-01T00:00:00+01:00", "zone": "../../etc/passwd"}},
    {"__pipelit_datetime__": {"iso": "2026-01-01T00:00:00+01:00", "zone": "/etc/passwd"}},
    {"__pipelit_datetime__": {"iso": "2026-01-01T00:00:00+01:00", "more": 1}},
    {"__pipelit_time__": "25:00:00"},
    {"__pipelit_timedelta__": [1, 2]},
    {"__pipelit_timedelta__": [1, 86400, 0]},
    {"__pipelit_timedelta__": [10**12, 0, 0]},
    {"__pipelit_timedelta__": [1.0, 0, 0]},
    {"__pipelit_timezone__": [3600, None]},
    {"__pipelit_zone__": "Nowhere/Land"},
    {"__pipelit_zone__": "../x"},
    {"__pipelit_uuid__": "x"},
    {"__pipelit_uuid__": "{00000000-0000-0000-0000-000000000001}"},
    {"__pipelit_decimal__": "NaN"},
    {"__pipelit_decimal__": "Infinity"},
    {"__pipelit_decimal__": "1E+999999999"},
    {"__pipelit_decimal__": "1_0"},
    {"__pipelit_decimal__": "\u0661"},
    {"__pipelit_decimal__": "0" * 20_000},
    {"__pipelit_bytes__": "YQ=="},
    {"__pipelit_bytes__": "YR"},
    {"__pipelit_bytes__": [1]},
    {"__pipelit_set__": [1, 1]},
    {"__pipelit_set__": [1, True]},
    {"__pipelit_set__": [[1]]},
    {"__pipelit_set__": {"a": 1}},
    {"__pipelit_set__": "ab"},
    {"__pipelit_tuple__": {}},
    {"__pipelit_deque__": [[1, 2], 1]},
    {"__pipelit_deque__": [[1], -1]},
    {"__pipelit_path__": ["Path", "x"]},
    {"__pipelit_path__": ["__class__", "x"]},
    {"__pipelit_path__": [["PosixPath"], "x"]},
    {"__pipelit_ip__": ["IPv4Address", "1"]},
    {"__pipelit_ip__": ["IPv4Address", 1]},
    {"__pipelit_dict__": [[1, 2], [1, 3]]},
    {"__pipelit_dict__": [[1, 2], [True, 3]]},
    {"__pipelit_dict__": [[[], 2]]},
    {"__pipelit_dict__": [[1]]},
    {"__pipelit_dict__": {"a": 1}},
    {"__pipelit_object__": ["model", "os.system"]},
    {"__pipelit_object__": ["call", "os.system", {}]},
    {"__pipelit_object__": ["model", 5, {}]},
    {"__pipelit_object__": ["namedtuple", "x", 5]},
    {"__pipelit_object__": []},
    {"__pipelit_unknown__": 1},
    {"__pipelit_": 1},
    {"__pipelit_date__": "2026-01-01", "more": 1},
    {"__pipelit_date__": "2026-01-01", "__pipelit_set__": []},
]


@pytest.mark.parametrize("value", FORGED, ids=lambda value: json.dumps(value)[:60])
def test_a_forged_value_is_refused(value: Any) -> None:
    """One form for each value, and nothing beside it."""
    for data in (value, {"a": [value]}, {"messages": [value]}):
        with pytest.raises(PayloadError, match="of unknown form"):
            state_from_bytes(json.dumps(data).encode(), limit=LIMIT)


# All multiples of this number have one hash, in each process.
MODULUS = sys.hash_info.modulus
COLLIDING: list[Any] = [
    {"__pipelit_set__": [each * MODULUS for each in range(1, 100)]},
    {"__pipelit_frozenset__": [each * MODULUS for each in range(1, 100)]},
    {"__pipelit_dict__": [[each * MODULUS, 0] for each in range(1, 100)]},
    {"__pipelit_set__": [*range(1000), *(each * MODULUS + 5 for each in range(1, 100))]},
    {"__pipelit_set__": [{"__pipelit_decimal__": str(each * MODULUS)} for each in range(1, 100)]},
    {"__pipelit_set__": [{"__pipelit_tuple__": [each * MODULUS]} for each in range(1, 100)]},
    {
        "__pipelit_dict__": [
            [{"__pipelit_uuid__": str(UUID(int=each * MODULUS))}, 0] for each in range(1, 100)
        ]
    },
]


@pytest.mark.parametrize("value", COLLIDING, ids=lambda value: json.dumps(value)[:60])
def test_values_that_would_be_compared_with_each_other_are_refused(value: Any) -> None:
    """An answer within the limit of size could otherwise keep its reader busy for hours."""
    for data in (value, {"a": [value]}, {"messages": [value]}):
        with pytest.raises(PayloadError, match="of unknown form"):
            state_from_bytes(json.dumps(data).encode(), limit=LIMIT)


@pytest.mark.parametrize(
    "value",
    [
        {-1, -2},
        set(range(5_000)),
        {2**64 - each for each in range(5_000)},
        {each * MODULUS for each in range(30)},
        {each * MODULUS: "x" for each in range(30)},
        [MODULUS] * 500,
    ],
    ids=["of one hash", "small", "large", "some of one hash", "keys", "equal"],
)
def test_values_that_have_one_hash_by_chance_arrive(value: Any) -> None:
    """A few of them, and equal ones, cost nothing."""
    assert there_and_back({"a": value})["a"] == value


class Numbers(BaseModel):
    """A class that makes a set of a list."""

    of: set[int] = set()
    listed: list[int] = []


def test_no_class_is_given_values_that_it_would_compare_with_each_other() -> None:
    """They arrive as the values that they are, soon; equal ones are no reason."""
    known, name = known_classes([Numbers]), class_name(Numbers)
    listed = [each * MODULUS for each in range(30_000)]
    forged = {"__pipelit_object__": ["model", name, {"of": listed, "listed": []}]}
    began = thread_time()
    back = state_from_bytes(json.dumps(forged).encode(), limit=LIMIT, known=known)
    assert thread_time() - began < 1
    assert back == {"of": listed, "listed": []}
    honest = Numbers(of={1, 2}, listed=[-1, -2] * 100)
    assert there_and_back({"a": honest}, known=known)["a"] == honest


@dataclasses.dataclass
class Uncountable:
    """A class whose hash isn't ready."""

    name: str

    def __hash__(self) -> int:
        raise RuntimeError(self.name)


class Listing(BaseModel):
    """A class with a list of such objects."""

    listed: list[Uncountable]


def test_objects_whose_hash_fails_arrive_in_a_list() -> None:
    """Only a set or a key needs the hash."""
    sent = Listing(listed=[Uncountable("a"), Uncountable("b")])
    known = known_classes([Listing, Uncountable])
    assert there_and_back({"a": sent}, known=known)["a"] == sent


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "subprocess.Popen", "test_values.Ticket", "", "a" * 9999]
)
@pytest.mark.parametrize("form", ["enum", "model", "dataclass", "namedtuple"])
def test_a_class_is_never_found_by_its_name(name: str, form: str) -> None:
    """A payload that names one is read as values, and no module is imported for it."""
    given = [{"x": 1}] if form != "namedtuple" else [1, 2]
    forged = {"__pipelit_object__": [form, name, given]}
    back = state_from_bytes(
        json.dumps(forged).encode(), limit=LIMIT, known=known_classes([Urgency])
    )
    assert back == (tuple(given) if form == "namedtuple" else given)


def test_a_zone_that_is_not_known_here_keeps_its_moment() -> None:
    """Its name stays too; where a zone's rule differs, the moment counts."""
    for zone in ("Atlantis/Capital", "Europe/Berlin"):
        data = {"__pipelit_datetime__": {"iso": "2026-01-01T00:00:00+05:00", "zone": zone}}
        back = state_from_bytes(json.dumps(data).encode(), limit=LIMIT)
        assert back == datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5)))
        assert back.tzname() == zone


class Text(str):
    """Text of another class."""


class Moment(datetime):
    """A moment of another class."""


class Lying:
    """An object that says it is text."""

    @property
    def __class__(self) -> Any:
        return str


class Failing(BaseModel):
    """A model that can't be read."""

    def model_dump(self, **_: Any) -> Any:
        """Raises."""
        raise RuntimeError(CANARY)


BASES: list[tuple[Any, Any]] = [
    (Text("a"), "a"),
    ({Text("a"): 1}, {"a": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.Counter("aa"), {"a": 2}),
    (Moment(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    (pd.Timestamp("2026-01-01T10:00Z"), datetime(2026, 1, 1, 10, tzinfo=UTC)),
    (np.int64(5), 5),
    (np.float64(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("x"), "x"),
    (np.array([[1, 2]]), [[1, 2]]),
    (memoryview(b"ab"), b"ab"),
]


@pytest.mark.parametrize(("value", "base"), BASES, ids=lambda part: type(part).__name__)
def test_another_class_travels_as_what_it_is_underneath(value: Any, base: Any) -> None:
    """Where that is the same value."""
    assert same(there_and_back(value), base)


_CYCLE: list[Any] = []
_CYCLE.append({"x": _CYCLE})
UNCARRIED: list[tuple[Any, str]] = [
    (float("nan"), r"q\.x\[0\] is nan"),
    (float("-inf"), r"q\.x\[0\] is -inf"),
    (np.float64("nan"), r"q\.x\[0\] is nan"),
    (np.array([1.0, np.inf]), r"q\.x\[0\]\[1\] is inf"),
    (np.array([object()]), r"q\.x\[0\]: a value of type ndarray"),
    (Decimal("NaN"), r"q\.x\[0\]: NaN can't be carried"),
    (Decimal("-Infinity"), r"q\.x\[0\]: -Infinity can't"),
    (Decimal("sNaN"), r"q\.x\[0\]: sNaN can't"),
    (Decimal("1E+9999"), r"q\.x\[0\]: a Decimal with an exponent"),
    (10**5000, r"q\.x\[0\] is an integer with more digits"),
    ("\ud800", r"q\.x\[0\] is text with a lone surrogate"),
    ({"\udfff": 1}, r"q\.x\[0\] has a key with a lone surrogate"),
    (pathlib.Path("\udcff"), r"q\.x\[0\]\[1\] is text with a lone surrogate"),
    (pd.Timestamp("2026-01-01T00:00:00.000000001"), r"q\.x\[0\]: a value of type Timestamp"),
    (pd.NaT, r"q\.x\[0\]: "),
    (pd.DataFrame(), r"q\.x\[0\]: a value of type DataFrame"),
    (np.datetime64("2026-01-01"), r"q\.x\[0\]: a value of type datetime64"),
    (1j, r"q\.x\[0\]: a value of type complex"),
    (object, r"q\.x\[0\]: a value of type type"),
    (len, r"q\.x\[0\]: a value of type builtin_function_or_method"),
    (ValueError("x"), r"q\.x\[0\]: a value of type ValueError"),
    (threading.Lock(), r"q\.x\[0\]: a value of type lock"),
    (range(3), r"q\.x\[0\]: a value of type range"),
    (Lying(), r"q\.x\[0\]: a value of type Lying"),
    (Failing(), r"q\.x\[0\]: reading a value of type Failing raised RuntimeError"),
    (memoryview(b"abcd").cast("I"), r"q\.x\[0\]: a memoryview"),
    ({1: {2: object()}}, r"q\.x\[0\]\[0\]\[1\]\[0\]\[1\]: a value of type object"),
    ({frozenset({1j}): 1}, r"q\.x\[0\]\[0\]\[0\]\[0\]: a value of type complex"),
    (_CYCLE, r"q\.x\[0\].* is nested deeper than 64 levels"),
]


@pytest.mark.parametrize(("value", "says"), UNCARRIED, ids=[says for _, says in UNCARRIED])
def test_what_cannot_be_carried_is_named_by_its_path(value: Any, says: str) -> None:
    """With its type, and without its value."""
    with pytest.raises(PayloadError, match=f"^{says}") as caught:
        state_to_bytes({"q": {"x": [value]}})
    assert CANARY not in str(caught.value)


def test_two_keys_of_one_text_are_refused() -> None:
    """A class of text that says it differs would lose one of them."""

    class Other(str):
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(PayloadError, match=r"^q has two keys that are the same text"):
        state_to_bytes({"q": {Other("a"): 1, "a": 2}})


def test_the_depth_counts_marks_too() -> None:
    """The deepest that is written can be read, whatever it is made of."""
    for wrap in (lambda v: [v], lambda v: (v,), lambda v: {1: v}, lambda v: {"a": (v,)}):
        value: Any = 1
        while _is_written(value):
            value = wrap(value)
        with pytest.raises(PayloadError, match="nested deeper"):
            state_to_bytes(value)


def _is_written(value: Any) -> bool:
    try:
        data = state_to_bytes(value)
    except PayloadError:
        return False
    assert state_from_bytes(data, limit=LIMIT) == value
    return True


# Of messages


class Figure:
    """What nothing can carry."""


def test_what_cannot_be_carried_of_a_message_is_left_out_and_told() -> None:
    """An artifact, metadata and additional arguments never fail an answer; a secret in one does."""
    message = ToolMessage(
        "found",
        tool_call_id="1",
        artifact=[Document("x", metadata={"at": date(2026, 1, 1), "figure": Figure()})],
        response_metadata={"model": "m", "raw": Figure(), "at": datetime(2026, 1, 1)},
        additional_kwargs={"a": {"b": [Figure()]}, "c": 1},
    )
    data = state_to_bytes({"messages": [message]})
    (back,) = state_from_bytes(data, limit=LIMIT)["messages"]
    assert (back.content, back.artifact) == ("found", None)
    assert back.response_metadata == {"model": "m", "at": datetime(2026, 1, 1)}
    assert back.additional_kwargs == {"c": 1}
    told = json.loads(data)["messages"][0]["__pipelit_message__"]["omitted"]
    assert [each.split(":")[0] for each in told] == [
        "messages[0].additional_kwargs.a.b[0]",
        "messages[0].response_metadata.raw",
        "messages[0].artifact[0].metadata.figure",
    ]
    for kind in (SecretStr, Secret):
        with pytest.raises(PayloadError, match="a secret doesn't leave"):
            state_to_bytes([ToolMessage("x", tool_call_id="1", artifact=[kind(CANARY)])])


def test_an_artifact_with_dates_and_scores_arrives_whole(lead: Agent, researcher: Agent) -> None:
    """As a retriever gives it: documents as dicts, everything in them as itself."""
    artifact = [Document("x", metadata={"at": date(2026, 1, 1), "score": np.float32(0.5)})]
    message = ToolMessage("found", tool_call_id="1", artifact=artifact)
    child = verified_child(graph_of(lambda _: {"a": [message]}), researcher)
    (result,) = parent_of(lead, {NAME: child}).invoke(tasks("x"))["results"]
    (back,) = result["output"]["a"]
    assert back.artifact[0]["metadata"] == {"at": date(2026, 1, 1), "score": 0.5}
    assert "omitted" not in result


async def test_the_result_says_what_was_left_out(lead: Agent, researcher: Agent) -> None:
    """And the child may leave out artifacts and metadata on purpose; sync and async."""
    message = AIMessage("hello", response_metadata={"raw": Figure(), "model": "m"})
    child = verified_child(graph_of(lambda _: {"a": [message]}), researcher)
    graph = parent_of(lead, {NAME: child})
    for state in (graph.invoke(tasks("x")), await graph.ainvoke(tasks("x"))):
        (result,) = state["results"]
        assert result["status"] == "verified"
        assert result["omitted"] == [
            "a[0].response_metadata.raw: a value of type Figure can't be carried: use text, "
            "numbers, dates, lists, sets, dicts, messages, or models and dataclasses of them"
        ]
    quiet = verified_child(
        graph_of(lambda _: {"a": [message, ToolMessage("x", tool_call_id="1", artifact=1)]}),
        researcher,
        leave_out=["artifact", "response_metadata"],
    )
    for child in (quiet, quiet.copy()):
        (result,) = parent_of(lead, {NAME: child}).invoke(tasks("x"))["results"]
        first, second = result["output"]["a"]
        assert (first.response_metadata, second.artifact) == ({}, None)
        assert "omitted" not in result


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("artifact", TypeError, "leave_out must be a list"),
        (["content"], ValueError, "'content' can't be left out; artifact and response_metadata"),
    ],
)
def test_wrong_parts_are_named(researcher: Agent, given: Any, error: Any, says: str) -> None:
    """What can be left out is said."""
    with pytest.raises(error, match=says):
        verified_child(graph_of(), researcher, leave_out=given)


# Through a spawn


async def test_values_go_to_a_child_and_come_back(lead: Agent, researcher: Agent) -> None:
    """In its input and its output, sync and async, and in a model's answer of a tool."""
    seen: list[Any] = []

    def work(state: Work) -> Work:
        seen.append(state["q"])
        return {"a": state["q"]}

    graph = parent_of(lead, {NAME: verified_child(graph_of(work), researcher)})
    for state in (graph.invoke(tasks(VALUES)), await graph.ainvoke(tasks(VALUES))):
        (result,) = state["results"]
        assert all(map(same, seen[-1], VALUES))
        assert all(map(same, result["output"]["a"], VALUES))
    tool = SpawnAndAwait(
        agent=lead, children={NAME: verified_child(graph_of(lambda _: {"a": VALUES}), researcher)}
    )
    told = tool.invoke({"tasks": [{"agent": NAME, "input": {"q": 1}}]})
    assert json.loads(told)[0]["answer"]["a"][:2] == [
        "2026-11-28T10:00:00",
        "2026-11-28T10:00:00.000001",
    ]


class Answer(TypedDict, total=False):
    """An output with classes in it."""

    q: Any
    ticket: Annotated[Ticket, "a ticket"]
    items: list[Item] | None
    level: Literal[Level.TOP]
    inside: NotRequired[dict[str, Point]]


def test_a_local_childs_schema_says_what_its_answers_become(lead: Agent, researcher: Agent) -> None:
    """The classes in it come back, and go in, as themselves; others as values."""
    ticket = OBJECTS[6][0]
    item = OBJECTS[5][0]
    output = {
        "ticket": ticket,
        "items": [item],
        "level": Level.TOP,
        "inside": {"p": Point(1, Decimal(2))},
    }
    seen: list[Any] = []
    builder = StateGraph(Answer)
    builder.add_node("work", lambda state: seen.append(state) or output)
    builder.add_edge(START, "work")
    graph = parent_of(lead, {NAME: verified_child(builder.compile(), researcher)})
    given: Any = {"tasks": [{"agent": NAME, "input": {"q": [Colour.RED], "ticket": ticket}}]}
    (result,) = graph.invoke(given)["results"]
    assert result["output"] == {"q": ["red"], **output}
    assert all(same(result["output"][key], output[key]) for key in output)
    assert same(seen[0]["ticket"], ticket)


def test_a_parent_may_name_the_classes_itself(lead: Agent, researcher: Agent) -> None:
    """With answer_types, for a schema that says nothing; what is no such class is named."""
    ticket = OBJECTS[6][0]
    child = verified_child(graph_of(lambda _: {"a": ticket}), researcher)
    for types, back in (([], OBJECTS[6][1]), ([Ticket], ticket)):
        (result,) = parent_of(lead, {NAME: child}, answer_types=types).invoke(tasks("x"))["results"]
        assert result["output"]["a"] == back
    for wrong in (int, "Ticket", threading.Lock):
        with pytest.raises(TypeError, match=r"answer_types: .* must be an Enum, a pydantic"):
            parent_of(lead, {NAME: child}, answer_types=[wrong])


class Plain:
    """A class that nothing can carry."""


class Holder(BaseModel, arbitrary_types_allowed=True):
    """A model with one in it."""

    plain: Plain
    unseen: Plain = Field(exclude=True)


@dataclasses.dataclass
class Nested:
    """A dataclass that holds itself and such a model."""

    holders: list[Holder]
    next: Nested | None = None


def _schema(hint: Any) -> Any:
    return TypedDict("State", {"q": Any, "out": hint}, total=False)  # type: ignore[operator]


SHOWN: list[tuple[Any, str]] = [
    (Plain, "out is of type Plain: it can't be carried"),
    (threading.Thread, "out is of type Thread"),
    (pd.DataFrame, "out is of type DataFrame"),
    (Annotated[Plain, "x"], "out is of type Plain"),
    (list[Plain], r"out\[\*\] is of type Plain"),
    (dict[str, list[Plain]], r"out\[\*\]\[\*\] is of type Plain"),
    (Holder, r"out\.plain is of type Plain"),
    (Nested, r"out\.holders\[\*\]\.plain is of type Plain"),
    (Plain | threading.Thread, "out is of type Plain.*out is of type Thread"),
    (SecretStr, "out is of type SecretStr: a secret doesn't leave its node"),
    (Callable[[], int], "out is of type .*Callable"),
    (type[int], r"out is of type type\[int\]"),
    (complex, "out is of type complex"),
]


@pytest.mark.parametrize(("hint", "says"), SHOWN, ids=lambda part: str(part)[:30])
def test_what_the_schema_shows_is_named_before_any_work(
    researcher: Agent, hint: Any, says: str
) -> None:
    """When the child is made, by its path, and with what to do."""
    builder = StateGraph(_schema(hint))
    builder.add_node("work", lambda _: {})
    builder.add_edge(START, "work")
    with pytest.raises(TypeError, match=f"^graph: its output can't be carried.*{says}") as caught:
        verified_child(builder.compile(), researcher)
    assert "output_schema=" in str(caught.value)
    narrowed = StateGraph(_schema(hint), output_schema=Work)
    narrowed.add_node("work", lambda _: {})
    narrowed.add_edge(START, "work")
    verified_child(narrowed.compile(), researcher)


@pytest.mark.parametrize(
    "hint",
    [
        *(Any, object, None, int, Plain | None, list[Plain] | str, Ticket, Item),
        *(Urgency, Point, np.float64, datetime, set[UUID], tuple[int, ...], pathlib.Path),
        *(dict[Urgency, Decimal], Document, HumanMessage, list[AIMessage], collections.Counter),
        *(Literal["a"], collections.abc.Mapping[str, int], "Plain | None"),
    ],
    ids=str,
)
def test_what_may_be_carried_is_taken(researcher: Agent, hint: Any) -> None:
    """Where a value of the type could be carried, the work decides."""
    builder = StateGraph(_schema(hint))
    builder.add_node("work", lambda _: {})
    builder.add_edge(START, "work")
    verified_child(builder.compile(), researcher)


def test_what_the_schema_hides_is_named_after_the_work(lead: Agent, researcher: Agent) -> None:
    """By its path and type, in an error that the child proves."""
    child = verified_child(graph_of(lambda _: {"a": {"deep": [Plain()]}}), researcher)
    (result,) = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))["results"]
    assert (result["status"], result["bound"]) == ("failed", True)
    assert result["error"].startswith("PayloadError: a.deep[0]: a value of type Plain can't")
    with pytest.raises(SpawnError, match=r"tasks\[0\]\.input: q\.x: a value of type Plain"):
        parent_of(lead, {NAME: child}).invoke(tasks({"x": Plain()}))


def test_what_goes_to_another_machine_is_readable_in_any_language() -> None:
    """Lists for tuples, values for enums and named tuples, no names of classes."""
    given = {
        "messages": [("user", "hi")],
        "u": Urgency.HIGH,
        "p": Point(1, Decimal(2)),
        "i": OBJECTS[5][0],
    }
    assert state_to_bytes(given, portable=True) == (
        b'{"messages":[["user","hi"]],"u":"high","p":[1,{"__pipelit_decimal__":"2"}],'
        b'"i":{"name":"a","urgency":"low","at":[1,{"__pipelit_decimal__":"2"}]}}'
    )
