from __future__ import annotations

import contextlib
import enum
import json
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import MAX_DEPTH, decode, encode

LIMIT = 2**20
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@pytest.mark.slow
@given(JSON)
def test_a_value_comes_back_as_it_went(value: Any) -> None:
    """Whatever JSON can say is read as it was written."""
    assert decode(encode(value), limit=LIMIT) == value


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode("utf-16-le")))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    """Arbitrary bytes raise nothing but PayloadError."""
    with contextlib.suppress(PayloadError):
        decode(data, limit=LIMIT)


@given(st.text('[]{}":,\\u0dD8e+-.19nulNaIfity ', max_size=60))
def test_text_near_json_is_a_value_or_refused(text: str) -> None:
    """What looks like JSON raises nothing but PayloadError, and what is read can be written."""
    try:
        value = decode(text.encode(), limit=LIMIT)
    except PayloadError:
        return
    assert decode(encode(value), limit=LIMIT) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf1",
        b"1 2",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b'{"a":1,"a":1}',
        b'{"x":[{"a":1,"a":1}]}',
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\n"',
        b"'a'",
        b"[1,]",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    """Nothing is repaired, and nothing is read that another reader could read otherwise."""
    with pytest.raises(PayloadError) as caught:
        decode(data, limit=LIMIT)
    assert caught.value.__cause__ is None


def test_a_refusal_repeats_nothing_of_what_it_refuses() -> None:
    """The words of a refusal are our own."""
    for data in (b'{"canary":1,"canary":2}', b'["canary"', b'"canary\\ud800"', b'{"canary":NaN}'):
        with pytest.raises(PayloadError) as caught:
            decode(data, limit=LIMIT)
        assert "canary" not in str(caught.value)


def test_the_limit_is_exact() -> None:
    """As many bytes as allowed are read, one more is refused."""
    assert decode(b'"abc"', limit=5) == "abc"
    with pytest.raises(PayloadError, match="has 5 bytes, and 4 are allowed"):
        decode(b'"abc"', limit=4)


def test_writer_and_reader_agree_how_deep_is_too_deep() -> None:
    """The deepest value that can be written can be read, and one level more can't be either."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert decode(encode(value), limit=LIMIT) == value
    with pytest.raises(PayloadError, match="nested deeper"):
        encode([value])
    with pytest.raises(PayloadError, match="nested deeper"):
        decode(json.dumps([value]).encode(), limit=LIMIT)


def test_a_value_that_holds_itself_is_refused() -> None:
    """A cycle is too deep, not endless."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(PayloadError, match="nested deeper"):
        encode(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [0, {"b": object()}]}, r"a\[1\]\.b is of type object"),
        ({"a": {1: 2}}, "a has a key of type int"),
        ({"a": float("nan")}, "a is nan"),
        ([float("inf")], r"\[0\] is inf"),
        ("\ud800", "lone surrogate"),
        ({"\ud800": 1}, "lone surrogate"),
        (10**5000, "more digits"),
        (b"bytes", "is of type bytes"),
        ({1, 2}, "is of type set"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_be_carried_is_named(value: Any, says: str) -> None:
    """The message names the place and the type."""
    with pytest.raises(PayloadError, match=says):
        encode(value)


def test_a_text_that_cannot_be_carried_is_found_in_one_walk() -> None:
    """Its depth doesn't matter: each text is tried once, and not at each level of lists."""
    flat: Any = ["x" * 100] * 3000 + ["\ud800"]
    deep = flat
    for _ in range(60):
        deep = [deep]

    def written(value: Any) -> int:
        """The characters that functions returned while the error was looked for."""
        total = 0

        def note(frame: FrameType, event: str, returned: object) -> None:
            nonlocal total
            if event == "return" and isinstance(returned, str):
                total += len(returned)

        sys.setprofile(note)
        try:
            with pytest.raises(PayloadError, match=r"\[3000\] is text with a lone surrogate"):
                encode(value)
        finally:
            sys.setprofile(None)
        return total

    assert written(deep) < 2 * written(flat)


def test_subclasses_travel_as_what_they_are_underneath() -> None:
    """A subclass of text or number can't say something else of itself when it is written."""

    class Text(str):
        def __str__(self) -> str:
            return "other"

        def encode(self, *_: Any) -> bytes:
            return b"other"

    class Number(int):
        def __repr__(self) -> str:
            return "[]"

    class Colour(enum.StrEnum):
        RED = "red"

    assert encode([Text("a"), Number(1), Colour.RED]) == b'["a",1,"red"]'
    assert encode({Text("a"): 1}) == b'{"a":1}'


def test_a_mapping_is_read_once() -> None:
    """A mapping that answers otherwise the second time is written as it answered the first."""

    class Fickle(Mapping[str, Any]):
        reads = 0

        def __getitem__(self, key: str) -> Any:
            self.reads += 1
            return self.reads

        def __iter__(self) -> Iterator[str]:
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    assert encode(Fickle()) == b'{"a":1}'


def test_equal_values_have_equal_bytes() -> None:
    """Tuples are lists, there is no white space, and text isn't escaped more than it must be."""
    assert encode({"a": (1, "é"), "b": None}) == '{"a":[1,"é"],"b":null}'.encode()
