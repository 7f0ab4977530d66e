"""Serialize graph states as JSON, with tags for values that JSON can't represent.

Nothing is loaded by name. A payload becomes LangChain's message classes, the standard library's
scalars and containers, and classes that the reader already knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeAlias, cast

from langchain_core.messages import BaseMessage, messages_from_dict

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import (
    RESERVED,
    SecretInPayload,
    WrittenInParts,
    decode,
    encode,
)

from .messages import (
    MAX_OMISSION_LENGTH,
    OMITTED,
    OVERWRITE,
    Acceptance,
    MessageFilter,
    Omitted,
    is_overwrite,
)
from .objects import Known, is_a, lost_parts
from .types import Json
from .values import converted, keyed, rebuilt

__all__ = [
    "MARK",
    "MESSAGE_PARTS",
    "Read",
    "read_state",
    "sent_messages",
    "state_from_bytes",
    "state_to_bytes",
]

# Writes a part of a value: the part, its name, and the number of levels that it is deeper.
_Walk: TypeAlias = Callable[[object, str, int], Json]

MARK: Final = f"{RESERVED}message__"
_DICT: Final = f"{RESERVED}dict__"
_OBJECT: Final = f"{RESERVED}object__"
MESSAGE_PARTS: Final = frozenset({"artifact", "response_metadata"})
_RESERVED: Final = RESERVED.encode()
# Parts of a message that an answer can be read without, with their empty values.
_OPTIONAL_PARTS: Final[Mapping[str, Json]] = {
    "artifact": None,
    "additional_kwargs": {},
    "response_metadata": {},
}
_MAX_LISTED_OMISSIONS: Final = 20


def state_to_bytes(
    value: object, *, portable: bool = False, leave_out: Collection[str] = frozenset()
) -> bytes:
    """Serialize a graph's input or output.

    Args:
        value: The input or output.
        portable: Write a form for readers in any language, without class names and with lists
            instead of tuples.
        leave_out: Parts of messages to leave out: ``artifact``, ``response_metadata``.

    Raises:
        PayloadError: A value can't be carried. The error names its path. A value in a message's
            artifact, metadata or additional arguments is left out instead, and listed with the
            message.
    """

    def convert(part: object) -> object:
        if is_a(part, BaseMessage):
            return WrittenInParts(lambda walk: _written_message(part, walk, leave_out))
        return converted(part, portable=portable)

    return encode(value, convert=convert, pairs=keyed)


class Read(NamedTuple):
    """The value of a payload.

    Attributes:
        value: The value.
        omitted: The omitted parts, by path.
    """

    value: object
    omitted: list[str]


def state_from_bytes(data: bytes, *, limit: int, known: Known | None = None) -> object:
    """Read a payload with all its messages, as LangChain messages.

    Args:
        data: The payload.
        limit: The maximum size in bytes.
        known: Classes that values may be rebuilt as.

    Raises:
        PayloadError: The bytes aren't a payload, or hold an invalid value.
    """
    value: Json = decode(data, limit=limit)
    return _Reader(known or {}, []).read(value) if _is_marked(data) else value


def read_state(data: bytes, *, limit: int, known: Known, accept: Acceptance) -> Read:
    """Read an answer as ``state_from_bytes`` does, but keep only accepted messages.

    Raises:
        PayloadError: The bytes aren't a payload, or hold an invalid value.
    """
    value: object = decode(data, limit=limit)
    omitted: list[str] = []
    if _is_marked(data) or b'"messages"' in data or OVERWRITE.encode() in data:
        value = _Reader(known, omitted, MessageFilter(accept, omitted)).read(value)
    return Read(value, omitted[:_MAX_LISTED_OMISSIONS])


def sent_messages(data: bytes) -> dict[str, BaseMessage]:
    """Return the messages of a request by id."""
    found: dict[str, BaseMessage] = {}
    waiting = [state_from_bytes(data, limit=len(data))]
    while waiting:
        value = waiting.pop()
        if isinstance(value, BaseMessage):
            if value.id is not None:
                found[value.id] = value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    return found


def _is_marked(data: bytes) -> bool:
    # A tag may also be written with escapes.
    return _RESERVED in data or b"\\u" in data


def _written_message(message: BaseMessage, walk: _Walk, leave_out: Collection[str]) -> Json:
    left: list[str] = []
    data: dict[str, Json] = {}
    for name, part in message.model_dump().items():
        if name in leave_out:
            data[name] = _OPTIONAL_PARTS[name]
        elif name not in _OPTIONAL_PARTS:
            data[name] = walk(part, name, 3)
        elif isinstance(part, dict):
            data[name] = _written_fields(part, walk, name, left)
        else:
            kept = _written_or_omitted(walk, part, name, left)
            data[name] = _OPTIONAL_PARTS[name] if kept is OMITTED else kept
    content: dict[str, Json] = {"type": walk(message.type, "type", 2), "data": data}
    if left:
        content["omitted"] = walk(
            [each[:MAX_OMISSION_LENGTH] for each in left[:_MAX_LISTED_OMISSIONS]], "", 2
        )
    return {MARK: content}


def _written_fields(
    part: Mapping[object, object], walk: _Walk, name: str, left: list[str]
) -> dict[str, Json]:
    fields: dict[str, Json] = {}
    for one in [_written_or_omitted(walk, {key: each}, name, left) for key, each in part.items()]:
        if not isinstance(one, dict):
            continue
        if next(iter(one)).startswith(RESERVED):
            left.append(f"{name}: a key that isn't text or is reserved")
        else:
            fields |= one
    return fields


def _written_or_omitted(walk: _Walk, part: object, name: str, left: list[str]) -> Json | Omitted:
    try:
        return walk(part, name, 3)
    except SecretInPayload:
        raise
    except PayloadError as error:
        left.append(str(error))
        return OMITTED


@dataclass
class _Reader:
    """A reader that builds values from verified JSON."""

    known: Known
    omitted: list[str]
    # None keeps all messages.
    messages: MessageFilter | None = None
    # Whether an enclosing value will be filtered, including this one.
    inside: bool = False

    def read(self, value: object) -> object:
        found = self._value(value, "")
        return None if found is OMITTED else found

    def _value(self, value: object, path: str) -> object:
        if type(value) is list:
            return self._list(value, path)
        if type(value) is not dict:
            return value
        if any(key.startswith(RESERVED) for key in value):
            return self._tagged(value, path)
        return self._dict(value.items(), path)

    def _list(self, value: list[object], path: str) -> object:
        def read() -> list[object]:
            found = [self._value(each, f"{path}[{at}]") for at, each in enumerate(value)]
            return [each for each in found if each is not OMITTED]

        # A list with at least one message is a list of messages.
        if any(type(each) is dict and MARK in each for each in value):
            return self._read_messages(read, path)
        return read()

    def _dict(self, pairs: Iterable[tuple[object, object]], path: str) -> object:
        found: dict[object, object] = {}
        for key, each in pairs:
            inner = f"{path}.{key}" if path else str(key)
            read = partial(self._value, each, inner)
            made = self._read_messages(read, inner) if key == "messages" else read()
            if made is not OMITTED:
                found[key] = made
        if self.messages is not None and is_overwrite(found):
            return self.messages.omit(
                path, "dict that LangGraph treats as an instruction to overwrite"
            )
        return found

    def _read_messages(self, read: Callable[[], object], path: str) -> object:
        """Read a value and filter everything inside it as messages.

        Only the outermost call filters. Otherwise each level would filter the same values again.
        """
        if self.inside:
            return read()
        self.inside = True
        try:
            found = read()
        finally:
            self.inside = False
        return found if self.messages is None else self.messages.filtered(found, path, listed=True)

    def _tagged(self, value: dict[str, object], path: str) -> object:
        if len(value) != 1:
            what = "message" if MARK in value else "value"
            raise PayloadError(f"the payload holds a {what} of unknown form")
        ((tag, data),) = value.items()
        if tag == MARK:
            return self._message(data, path)
        if tag == _DICT:
            pairs = rebuilt(tag, [[self._value(k, path), v] for k, v in _pairs(data)], {})
            return self._dict(cast(dict[object, object], pairs).items(), path)
        if tag == _OBJECT and type(data) is list and len(data) in (3, 4):
            # If its content is omitted, the object is omitted too.
            inside = self._value(data[2], path)
            if inside is OMITTED:
                return OMITTED
            made = rebuilt(tag, [*data[:2], inside, *data[3:]], self.known)
            for each in lost_parts(data[3:]) if data[3:] else ():
                self.omitted.append(f"{path}.{each}" if path else each)
            return made
        return rebuilt(tag, self._value(data, path), self.known)

    def _message(self, content: object, path: str) -> object:
        if not isinstance(content, dict) or not (
            {"type", "data"} <= content.keys() <= {"type", "data", "omitted"}
        ):
            raise PayloadError("the payload holds a message of unknown form")
        # A message's content isn't filtered together with the enclosing value.
        inside, self.inside = self.inside, False
        data = self._value(content["data"], path)
        self.inside = inside
        listed = content.get("omitted", [])
        if type(listed) is not list or set(map(type, listed)) - {str}:
            raise PayloadError("the payload holds a message of unknown form")
        self.omitted.extend(each[:MAX_OMISSION_LENGTH] for each in listed[:_MAX_LISTED_OMISSIONS])
        try:
            (made,) = messages_from_dict([{"type": content["type"], "data": data}])
        except Exception:
            # LangChain's classes may raise anything about data that a child made up.
            raise PayloadError("the payload holds a message of unknown form") from None
        return made if self.messages is None else self.messages.filter_message(made, path)[0]


def _pairs(data: object) -> list[list[object]]:
    if type(data) is not list or any(type(e) is not list or len(e) != 2 for e in data):
        raise PayloadError("the payload holds a value of unknown form")
    return data
