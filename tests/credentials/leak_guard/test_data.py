"""Data that a node can change is masked in place, wherever the secret is in it."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from pipelit_agents.credentials.leak_guard.data import Found, values_in
from pipelit_agents.credentials.leak_guard.masking import scrub

KEY = "sk-Canary0123456789-end"
NUMBER = "12345678901"
SOUGHT = {KEY: "service", NUMBER: "pin"}


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    text: Any


class Client:
    """Neither a container nor data."""

    def __init__(self, key: str) -> None:
        self.key = key


Pair = collections.namedtuple("Pair", "a b")
shared = (KEY, [KEY])


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: KEY, "****"),
        (lambda: [1, KEY], [1, "****"]),
        (lambda: {KEY: KEY}, {"****": "****"}),
        (lambda: {KEY: {KEY: (KEY,)}}, {"****": {"****": ("****",)}}),
        (lambda: {"a": shared, "b": shared}, dict.fromkeys("ab", ("****", ["****"]))),
        (lambda: Pair(1, (KEY, KEY)), Pair(1, ("****", "****"))),
        (lambda: {KEY, "x"}, {"****", "x"}),
        (lambda: frozenset([KEY]), frozenset(["****"])),
        (lambda: collections.deque([KEY]), collections.deque(["****"])),
        (lambda: collections.ChainMap({}, {"a": KEY}).maps, [{}, {"a": "****"}]),
        (lambda: bytearray(KEY.encode()), bytearray(b"****")),
        (lambda: list(KEY.encode()), "****"),
        (lambda: [int(NUMBER), 7], ["****", 7]),
        (lambda: Model(text=[KEY], more=KEY), Model(text=["****"], more="****")),  # type: ignore[call-arg]
        (lambda: Frozen(KEY), Frozen("****")),
        (lambda: [2, Client(KEY)], [2, "****"]),
    ],
)
def test_a_state_is_masked_in_place(make: Callable[[], Any], left: Any) -> None:
    """Each reference to the secret is replaced, and the containers stay the same objects."""
    inner = make()
    state = {"x": inner}
    scrub(state, SOUGHT)
    assert state["x"] == left
    if not isinstance(left, str | tuple | frozenset):
        assert state["x"] is inner


def test_what_holds_no_secret_stays() -> None:
    """Objects, numbers and what can't be changed are left alone."""
    client = Client("another")
    state = {"a": client, "b": (1, client), "c": types.MappingProxyType({"k": 2})}
    before = dict(state)
    scrub(state, SOUGHT)
    assert all(state[key] is before[key] for key in before)


def test_data_that_holds_itself_ends() -> None:
    """A value that contains itself is walked once, and a hostile one doesn't end the walk."""

    class Lies:
        __class__ = property(lambda self: 1 / 0)  # type: ignore[assignment]

    state: dict[str, Any] = {"lies": Lies(), "x": [KEY]}
    state["self"] = state
    found = [each.path for each in values_in(Found("", state, None)) if each.value == KEY]
    assert found == ["['x'][0]"]


class Counted(list[Any]):
    """A list that counts the items that were read."""

    read = 0

    def __iter__(self) -> Iterator[Any]:
        for each in super().__iter__():
            self.read += 1
            yield each


def test_a_limit_also_holds_for_the_parts_of_one_container() -> None:
    """The outer parts come first: a key beside a large value is found."""
    large = Counted([number] for number in range(5000))
    found = list(values_in(Found("", {"x": large, "y": KEY}, None), 50))
    assert ("['y']", KEY) in [each[:2] for each in found]
    assert large.read <= 51
