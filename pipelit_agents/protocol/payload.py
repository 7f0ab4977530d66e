"""Encode requests and answers as the exact bytes of a payload, and decode them strictly.

A payload is UTF-8 JSON. The parser reads exactly the verified bytes. It repairs nothing, and
refuses any input that another parser could read differently.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from pipelit_agents.errors import PayloadError

__all__ = [
    "Json",
    "SecretFound",
    "SecretInPayload",
    "Tagged",
    "WrittenInParts",
    "decode",
    "encode",
]

# A value that JSON can represent, as `decode` returns it.
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_DEPTH: Final = 64
# Keys with this prefix name the type of a value; see docs/protocol.md.
RESERVED: Final = "__pipelit_"
# Values that need no conversion, unless they are nested too deeply.
_LEAVES: Final[frozenset[type]] = frozenset({str, int, bool, type(None)})
_NONE: Final[frozenset[type]] = frozenset()


class Tagged(dict[str, object]):
    """A dict that ``convert`` returned; its key begins with ``RESERVED`` on purpose."""


class SecretFound(TypeError):
    """The error that ``convert`` raises for a secret."""


class SecretInPayload(PayloadError):
    """A payload would contain a secret. The encoding fails; the secret isn't just left out."""


class WrittenInParts(NamedTuple):
    """The result of ``convert`` for a value that is encoded part by part.

    Attributes:
        build: Returns the JSON value. Its argument is a function that converts one part. That
            function takes the part, its name and the number of levels that it is deeper. It raises
            PayloadError.
    """

    build: Callable[[Callable[[object, str, int], Json]], Any]


def encode(
    value: object,
    *,
    convert: Callable[[Any], object] | None = None,
    pairs: Callable[[list[tuple[Any, Any]]], object] | None = None,
) -> bytes:
    """Encode a value as compact JSON in UTF-8; equal values in equal order give equal bytes.

    Args:
        value: Dicts with text keys, lists, tuples, text, numbers, booleans and None. An instance
            of a subclass is encoded as the base type.
        convert: Converts any other value to such a value. It raises TypeError if it can't, or
            returns its argument to leave it unchanged.
        pairs: Converts the items of a dict that JSON can't represent: one with a key that isn't
            text, or that begins with ``RESERVED``. Without it, the former are refused and
            the latter are encoded unchanged.

    Raises:
        PayloadError: A value can't be encoded; the message has its path.
    """
    try:
        plain = _plain(value, "", 0, _Hooks(convert, pairs))
    except SecretInPayload as error:
        raise PayloadError(str(error)) from None
    try:
        return _ENCODER.encode(plain).encode()
    except ValueError:
        # Located only after a failure, because it takes another walk through the payload.
        raise PayloadError(_why_unwritable(plain, "")) from None


def decode(data: bytes, *, limit: int) -> Any:
    """Decode a received payload.

    Args:
        data: The bytes.
        limit: The maximum number of bytes.

    Raises:
        PayloadError: It is too long or nested too deeply, isn't strict UTF-8 JSON, repeats a key,
            or contains NaN, an infinity or a lone surrogate.
    """
    if len(data) > limit:
        raise PayloadError(f"the payload has {len(data)} bytes, and {limit} are allowed")
    try:
        value: Json = _DECODER.decode(data.decode("utf-8"))
    except PayloadError:
        raise
    except (ValueError, RecursionError):
        # The parser's own message would repeat a part of the unverified input.
        raise PayloadError("the payload is not strict UTF-8 JSON") from None
    # A deep value needs as many brackets, and a lone surrogate can only occur as an escape.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _require_depth(value)
    if b"\\u" in data and not _is_writable(value):
        raise PayloadError("the payload holds a lone surrogate")
    return value


class _Hooks(NamedTuple):
    convert: Callable[[Any], object] | None
    pairs: Callable[[list[tuple[Any, Any]]], object] | None


def _plain(value: Any, path: str, depth: int, hooks: _Hooks) -> Json:
    # By the exact type: `isinstance` also trusts an object's own `__class__`.
    kind = type(value)
    if depth > MAX_DEPTH:
        raise PayloadError(f"{path[:80]}… is nested deeper than {MAX_DEPTH} levels")
    # Returned unchanged if its type allows that.
    plain: Json = value
    if kind in _LEAVES:
        return plain
    if kind is float:
        if not math.isfinite(value):
            raise PayloadError(f"{path or 'the value'} is {value}, which JSON can't carry")
        return plain
    if kind is dict or kind is Tagged:
        return _plain_dict(value, path, depth, hooks)
    if kind is list:
        return _plain_list(value, path, depth, hooks)
    if hooks.convert is not None:
        try:
            converted = hooks.convert(value)
        except SecretFound as error:
            raise SecretInPayload(f"{path or 'the value'}: {error}") from None
        except TypeError as error:
            raise PayloadError(f"{path or 'the value'}: {error}") from None
        except Exception as error:
            # The value's class may run its own code, such as a model's serializer.
            raise PayloadError(
                f"{path or 'the value'}: reading a value of type {kind.__name__} raised "
                f"{type(error).__name__}"
            ) from None
        if type(converted) is WrittenInParts:
            plain = converted.build(
                lambda part, name, down: _plain(part, _joined(path, name), depth + down, hooks)
            )
            return plain  # noqa: RET504 - build returns Any
        if converted is not value:
            return _plain(converted, path, depth + 1, hooks)
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return _plain(float.__float__(value), path, depth, hooks)
    if issubclass(kind, Mapping):
        return _plain_dict(value, path, depth, hooks)
    if issubclass(kind, list | tuple):
        return _plain_list(value, path, depth, hooks)
    raise PayloadError(f"{path or 'the value'} is of type {kind.__name__}, which JSON can't carry")


def _joined(path: str, name: str) -> str:
    return f"{path}{name}" if not path or name.startswith("[") else f"{path}.{name}"


def _plain_dict(value: Any, path: str, depth: int, hooks: _Hooks) -> Json:
    # Read once: a second read may return something else.
    pairs = list(value.items())
    for position, (key, each) in enumerate(pairs):
        kind = type(key)
        if kind is not str:
            if issubclass(kind, str):
                pairs[position] = (key := str.__str__(key)), each
            elif hooks.pairs is not None:
                return _plain(hooks.pairs(pairs), path, depth, hooks)
            else:
                raise PayloadError(
                    f"{path or 'the value'} has a key of type {kind.__name__}; "
                    "JSON carries text keys only"
                )
        if key.startswith(RESERVED) and hooks.pairs is not None and type(value) is not Tagged:
            return _plain(hooks.pairs(pairs), path, depth, hooks)
    leaves = _LEAVES if depth < MAX_DEPTH else _NONE
    # A tag's key isn't part of the path as the author of the value knows it.
    prefix = f"{path}." if path else ""
    tagged = type(value) is Tagged
    found = {
        key: each
        if type(each) in leaves
        else _plain(each, path if tagged else f"{prefix}{key}", depth + 1, hooks)
        for key, each in pairs
    }
    if len(found) != len(pairs):
        raise PayloadError(f"{path or 'the value'} has two keys that are the same text")
    return found


def _plain_list(value: Any, path: str, depth: int, hooks: _Hooks) -> Json:
    leaves = _LEAVES if depth < MAX_DEPTH else _NONE
    return [
        each if type(each) in leaves else _plain(each, f"{path}[{position}]", depth + 1, hooks)
        for position, each in enumerate(value)
    ]


def _why_unwritable(value: Json, path: str) -> str:
    """Return why a value can't be encoded, with the path; an empty string if it can be."""
    # Only texts and numbers are tried, because each part of a list would be tried at each level.
    where = path or "the value"
    parts: Iterable[tuple[str, Json]] = ()
    if isinstance(value, list):
        parts = ((f"{path}[{position}]", each) for position, each in enumerate(value))
    elif isinstance(value, dict):
        if not all(map(_is_writable, value)):
            return f"{where} has a key with a lone surrogate"
        prefix = f"{path}." if path else ""
        parts = (
            (path if key.startswith(RESERVED) else f"{prefix}{key}", each)
            for key, each in value.items()
        )
    elif not _is_writable(value):
        if isinstance(value, str):
            return f"{where} is text with a lone surrogate, which UTF-8 can't carry"
        # Python itself refuses to convert such an integer to text or back.
        return f"{where} is an integer with more digits than can be carried"
    return next(filter(None, (_why_unwritable(each, inner) for inner, each in parts)), "")


def _is_writable(value: Json) -> bool:
    try:
        _ENCODER.encode(value).encode()
    except ValueError:
        return False
    return True


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PayloadError("the payload repeats a key")
    return found


def _no_constant(_: str) -> NoReturn:
    raise PayloadError("the payload holds NaN or an infinity")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise PayloadError("the payload holds a number too large to be one")
    return number


# Created once, because `json` would create one for every payload.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)


def _require_depth(value: Json) -> None:
    # Without recursion, because the depth itself is being checked.
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Json] = []
        for each in level:
            if isinstance(each, dict):
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
        if not below:
            return
        level = below
    raise PayloadError(f"the payload is nested deeper than {MAX_DEPTH} levels")
