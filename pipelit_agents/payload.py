"""Payloads: the exact bytes of a request or an answer, and the strict way back from them.

A payload is UTF-8 JSON. What was verified is what is parsed: nothing is repaired, nothing is read
that another reader could read otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipelit_agents.errors import PayloadError

__all__ = ["MAX_DEPTH", "decode", "encode"]

MAX_DEPTH: Final = 64
# What is as it is wherever it stands, if it isn't too deep.
_LEAVES: Final[frozenset[type]] = frozenset({str, int, bool, type(None)})
_OPENING: Final = frozenset("{[")
_NONE: Final[frozenset[type]] = frozenset()


def encode(value: Any, *, convert: Callable[[Any], Any] | None = None) -> bytes:
    """The bytes of a value: compact JSON in UTF-8, the same for equal values in equal order.

    Args:
        value: Of dicts with text keys, lists, tuples, text, numbers, booleans and None.
        convert: Turns anything else into such a value, or raises TypeError.

    Raises:
        PayloadError: Something in it can't be carried; the message names the place.
    """
    plain = _plain(value, "", 0, convert)
    try:
        return _ENCODER.encode(plain).encode()
    except UnicodeEncodeError:
        raise PayloadError("text with a lone surrogate can't be carried as UTF-8") from None
    except ValueError:
        # An integer that Python itself refuses to write out, or to read back.
        raise PayloadError("an integer has more digits than can be carried") from None


def decode(data: bytes, *, limit: int) -> Any:
    """Parses a payload that was received.

    Args:
        data: The bytes.
        limit: How many there may be.

    Raises:
        PayloadError: It is too long or too deep, isn't strict UTF-8 JSON, repeats a key, or holds
            NaN, an infinity or a lone surrogate.
    """
    if len(data) > limit:
        raise PayloadError(f"the payload has {len(data)} bytes, and {limit} are allowed")
    try:
        value = _parsed(data.decode("utf-8"))
    except PayloadError:
        raise
    except (ValueError, RecursionError):
        # The parser's own words would repeat a piece of what wasn't verified.
        raise PayloadError("the payload is not strict UTF-8 JSON") from None
    # A lone surrogate can only be escaped, and what is deep opens as many brackets.
    if b"\\u" in data or data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check(value)
    return value


def _parsed(text: str) -> Any:
    if text[:1] in _OPENING:
        # As this module writes it, without the space around it that `decode` looks for.
        value, end = _DECODER.raw_decode(text)
        if end == len(text):
            return value
    return _DECODER.decode(text)


def _plain(value: Any, path: str, depth: int, convert: Callable[[Any], Any] | None) -> Any:
    if depth > MAX_DEPTH:
        raise PayloadError(f"{path[:80]}… is nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PayloadError(f"{path or 'the value'} is {value}, which JSON can't carry")
        return value
    leaves = _LEAVES if depth < MAX_DEPTH else _NONE
    if isinstance(value, Mapping):
        # Read once: it may say something else the next time.
        pairs = list(value.items())
        for key, _ in pairs:
            if not isinstance(key, str):
                raise PayloadError(
                    f"{path or 'the value'} has a key of type {type(key).__name__}; "
                    "JSON carries text keys only"
                )
        return {
            key: each
            if type(each) in leaves
            else _plain(each, f"{path}.{key}" if path else key, depth + 1, convert)
            for key, each in pairs
        }
    if isinstance(value, list | tuple):
        return [
            each
            if type(each) in leaves
            else _plain(each, f"{path}[{position}]", depth + 1, convert)
            for position, each in enumerate(value)
        ]
    if convert is not None:
        try:
            converted = convert(value)
        except TypeError as error:
            raise PayloadError(f"{path or 'the value'}: {error}") from None
        return _plain(converted, path, depth + 1, convert)
    raise PayloadError(
        f"{path or 'the value'} is of type {type(value).__name__}, which JSON can't carry"
    )


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PayloadError("the payload repeats a key")
    return found


def _no_constant(_: str) -> Any:
    raise PayloadError("the payload holds NaN or an infinity")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise PayloadError("the payload holds a number too large to be one")
    return number


# Kept, as ``json`` would make one for every payload.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_twice, parse_constant=_no_constant, parse_float=_finite
)


def _check(value: Any) -> None:
    # Without recursion: what is checked here is how deep it goes.
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, str):
                _check_text(each)
            elif isinstance(each, dict):
                for key in each:
                    _check_text(key)
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
        if not below:
            return
        level = below
    raise PayloadError(f"the payload is nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PayloadError("the payload holds a lone surrogate") from None
