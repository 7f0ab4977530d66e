"""How states travel: as JSON, with marks for what JSON has no form for, and back again.

Nothing is loaded by name: a payload becomes the message classes of LangChain, the standard
library's scalars and containers, and classes that the reader knows by itself. Which messages of a
proven answer come back as messages is the reader's choice: a proof says who sent them, not what
they do to a state that they are put into.
"""

from __future__ import annotations

import copy
import hashlib
import operator
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
    message_chunk_to_message,
    messages_from_dict,
)

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import (
    RESERVED,
    SecretInPayload,
    WrittenInParts,
    decode,
    encode,
)

from .values import Known, converted, keyed, lost_parts, object_form, parts_of, rebuilt

__all__ = [
    "DEFAULT_MESSAGES",
    "MARK",
    "MESSAGE_PARTS",
    "Acceptance",
    "Read",
    "read_state",
    "required_kinds",
    "sent_messages",
    "state_from_bytes",
    "state_to_bytes",
]

MARK: Final = f"{RESERVED}message__"
_DICT: Final = f"{RESERVED}dict__"
_OBJECT: Final = f"{RESERVED}object__"
MESSAGE_PARTS: Final = frozenset({"artifact", "response_metadata"})
DEFAULT_MESSAGES: Final = ("ai", "human", "tool")
_RESERVED: Final = RESERVED.encode()
# WrittenInParts of a message that nobody needs to read the answer by.
_OPTIONAL_PARTS: Final[dict[str, Any]] = {
    "artifact": None,
    "additional_kwargs": {},
    "response_metadata": {},
}
_MAX_LISTED_OMISSIONS: Final = 20
_MAX_OMISSION_LENGTH: Final = 300

_KINDS: Final[Mapping[type, str]] = {
    AIMessage: "ai",
    HumanMessage: "human",
    ToolMessage: "tool",
    SystemMessage: "system",
    ChatMessage: "chat",
    FunctionMessage: "function",
    RemoveMessage: "remove",
}
# Content that is to be read. Others call a tool, or answer one, at some provider.
_READABLE: Final = frozenset(
    {
        *("text", "output_text", "text-plain", "refusal", "reasoning", "thinking"),
        *("redacted_thinking", "image", "image_url", "input_image", "audio", "input_audio"),
        *("video", "file", "input_file", "input_text", "document", "media", "search_result"),
        *("citation", "guard_content"),
    }
)
_CALLS: Final = ("tool_call", "function_call", "tool_use", "toolUse")
# Where providers say which call it is, and what a call passes to its tool.
_CALL_IDS: Final = frozenset({"call_id", "tool_call_id", "tool_use_id", "toolUseId"})
_ARGUMENTS: Final = frozenset({"args", "arguments", "input"})
_TOOL_STOP_REASONS: Final = frozenset({"tool_calls", "tool_use", "function_call"})
# LangGraph's reducers take a dict of either form for an order to replace all of a channel. It has
# no public name.
_OVERWRITE: Final = "__overwrite__"
_OMITTED: Final[Any] = object()


def state_to_bytes(
    value: Any, *, portable: bool = False, leave_out: Collection[str] = frozenset()
) -> bytes:
    """The bytes of a graph's input or output.

    Args:
        value: What travels.
        portable: For a reader in any language: without the names of classes, and with lists in
            place of tuples.
        leave_out: WrittenInParts of messages that stay here: ``artifact``, ``response_metadata``.

    Raises:
        PayloadError: Something in it can't be carried; the message names the place. What can't be
            carried of a message's artifact, metadata or additional arguments is left out instead,
            and listed with the message.
    """

    def convert(given: Any) -> Any:
        if issubclass(type(given), BaseMessage):
            return WrittenInParts(lambda walk: _written_message(given, walk, leave_out))
        return converted(given, portable=portable)

    return encode(value, convert=convert, pairs=keyed)


@dataclass(frozen=True)
class Acceptance:
    """Which messages of an answer come back as messages.

    Attributes:
        kinds: The types, as LangChain names them.
        tool_calls: Whether they may call tools.
        seed: Makes the ids of an answer its own; None leaves them as they are.
        sent: The messages that were sent to the child, by their id.
    """

    kinds: frozenset[str]
    tool_calls: bool
    seed: bytes | None = None
    sent: Callable[[], Mapping[str, BaseMessage]] = dict


class Read(NamedTuple):
    """What was read of a payload.

    Attributes:
        value: The value.
        omitted: What was left out, by path.
    """

    value: Any
    omitted: list[str]


def state_from_bytes(data: bytes, *, limit: int, known: Known | None = None) -> Any:
    """The way back; messages come out as LangChain messages, all of them.

    Args:
        data: The bytes.
        limit: How many there may be.
        known: Classes that values may become again.

    Raises:
        PayloadError: The bytes are no payload, or a value in them is none.
    """
    value = decode(data, limit=limit)
    return _Reader(known or {}, None).read(value) if _is_marked(data) else value


def read_state(data: bytes, *, limit: int, known: Known, accept: Acceptance) -> Read:
    """Reads an answer: as :func:`state_from_bytes`, with the messages that are accepted.

    Raises:
        PayloadError: The bytes are no payload, or a value in them is none.
    """
    value = decode(data, limit=limit)
    reader = _Reader(known, accept)
    if _is_marked(data) or b'"messages"' in data or _OVERWRITE.encode() in data:
        value = reader.read(value)
    return Read(value, reader.omitted[:_MAX_LISTED_OMISSIONS])


def sent_messages(data: bytes) -> dict[str, BaseMessage]:
    """The messages of a request, by their id."""
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
    # A mark may also be written with escapes.
    return _RESERVED in data or b"\\u" in data


def _written_message(
    message: BaseMessage, walk: Callable[[Any, str, int], Any], leave_out: Collection[str]
) -> Any:
    left: list[str] = []
    data: dict[str, Any] = {}
    for name, part in message.model_dump().items():
        if name in leave_out:
            data[name] = _OPTIONAL_PARTS[name]
        elif name not in _OPTIONAL_PARTS:
            data[name] = walk(part, name, 3)
        elif isinstance(part, dict):
            kept = [
                _written_or_omitted(walk, {key: each}, name, 3, left) for key, each in part.items()
            ]
            data[name] = {}
            for one in kept:
                if one is not _OMITTED and not next(iter(one)).startswith(RESERVED):
                    data[name] |= one
                elif one is not _OMITTED:
                    left.append(f"{name}: a key that isn't text, or that is reserved")
        else:
            kept_part = _written_or_omitted(walk, part, name, 3, left)
            data[name] = _OPTIONAL_PARTS[name] if kept_part is _OMITTED else kept_part
    content = {"type": walk(message.type, "type", 2), "data": data}
    if left:
        content["omitted"] = walk(
            [each[:_MAX_OMISSION_LENGTH] for each in left[:_MAX_LISTED_OMISSIONS]], "", 2
        )
    return {MARK: content}


def _written_or_omitted(
    walk: Callable[[Any, str, int], Any], part: Any, name: str, down: int, left: list[str]
) -> Any:
    try:
        return walk(part, name, down)
    except SecretInPayload:
        raise
    except PayloadError as error:
        left.append(str(error))
        return _OMITTED


@dataclass
class _Reader:
    """Makes values of JSON that was verified."""

    known: Known
    accept: Acceptance | None
    omitted: list[str] = field(default_factory=list)
    # Whether an outer value will be filtered, with all that is in it.
    inside: bool = False

    def read(self, value: Any) -> Any:
        found = self._value(value, "")
        return None if found is _OMITTED else found

    def _value(self, value: Any, path: str) -> Any:
        cls = type(value)
        if cls is list:
            return self._list(value, path)
        if cls is not dict:
            return value
        if any(key.startswith(RESERVED) for key in value):
            return self._tagged(value, path)
        return self._dict(value.items(), path)

    def _list(self, value: list[Any], path: str) -> list[Any]:
        def read() -> list[Any]:
            found = [self._value(each, f"{path}[{at}]") for at, each in enumerate(value)]
            return [each for each in found if each is not _OMITTED]

        # A list with one message holds messages.
        if any(type(each) is dict and MARK in each for each in value):
            return cast(list[Any], self._read_messages(read, path))
        return read()

    def _dict(self, pairs: Iterable[tuple[Any, Any]], path: str) -> Any:
        found: dict[Any, Any] = {}
        for key, each in pairs:
            inner = f"{path}.{key}" if path else str(key)
            read = partial(self._value, each, inner)
            made = self._read_messages(read, inner) if key == "messages" else read()
            if made is not _OMITTED:
                found[key] = made
        if self.accept is not None and _is_overwrite(found):
            return self._omit(path, "dict that LangGraph takes for an order to overwrite")
        return found

    def _read_messages(self, read: Callable[[], Any], path: str) -> Any:
        """Read a value and judge all in it as messages.

        The outermost one judges what is in it. Otherwise each level would judge the same again.
        """
        if self.inside:
            return read()
        self.inside = True
        try:
            found = read()
        finally:
            self.inside = False
        return self._filter(found, path, listed=True)

    def _filter(self, value: Any, path: str, *, listed: bool = False) -> Any:
        """Judge a value, and what it contains, as messages; an unchanged one is the same object.

        Args:
            value: What was read.
            path: Where it is.
            listed: Whether a list of two texts is two messages, not one by its role and its text.
        """
        if self.accept is None or value is _OMITTED or isinstance(value, BaseMessage):
            return value
        if not (listed and type(value) is list):
            is_message, filtered = self._like_message(value, path)
            if is_message:
                return filtered
        cls = type(value)
        if cls is dict:
            return self._filter_dict(value, path)
        if cls in (list, tuple, set, frozenset, deque):
            return self._filter_items(value, path)
        form = object_form(cls)
        if form in ("", "enum"):
            return value
        data = parts_of(value)
        found = self._filter(data, path, listed=True)
        if found is data:
            return value
        # Its class may need what was left out, so it becomes its values.
        return tuple(found) if form == "namedtuple" and type(found) is list else found

    def _filter_dict(self, value: dict[Any, Any], path: str) -> Any:
        found = {}
        for key, each in value.items():
            inner = f"{path}.{key}" if type(key) is str else path
            filtered_key = key if type(key) is str else self._filter(key, path)
            # Text by a key is a part of something, as a title.
            is_part = type(each) is str and key != "messages"
            filtered = each if is_part else self._filter(each, inner, listed=True)
            if filtered_key is not _OMITTED and filtered is not _OMITTED:
                found[filtered_key] = filtered
        same = len(found) == len(value) and all(
            one is other for one, other in zip(found.values(), value.values(), strict=True)
        )
        return value if same and all(map(operator.is_, found, value)) else found

    def _filter_items(self, value: Any, path: str) -> Any:
        items = list(value)
        filtered = [self._filter(each, f"{path}[{at}]") for at, each in enumerate(items)]
        found = [each for each in filtered if each is not _OMITTED]
        if len(found) == len(items) and all(map(operator.is_, found, items)):
            return value
        if isinstance(value, deque):
            return deque(found, value.maxlen)
        try:
            return type(value)(found)
        except TypeError:
            # A message can't be in a set.
            return found

    def _tagged(self, value: dict[str, Any], path: str) -> Any:
        if len(value) != 1:
            what = "message" if MARK in value else "value"
            raise PayloadError(f"the payload holds a {what} of unknown form")
        ((tag, data),) = value.items()
        if tag == MARK:
            return self._message(data, path)
        if tag == _DICT:
            pairs = rebuilt(tag, [[self._value(k, path), v] for k, v in _pairs(data)], {})
            return self._dict(pairs.items(), path)
        if tag == _OBJECT and type(data) is list and len(data) in (3, 4):
            # Its content may be left out, and then the object is.
            inside = self._value(data[2], path)
            if inside is _OMITTED:
                return _OMITTED
            made = rebuilt(tag, [*data[:2], inside, *data[3:]], self.known)
            for each in lost_parts(data[3:]) if data[3:] else ():
                self.omitted.append(f"{path}.{each}" if path else each)
            return made
        return rebuilt(tag, self._value(data, path), self.known)

    def _message(self, content: Any, path: str) -> Any:
        if not isinstance(content, dict) or not (
            {"type", "data"} <= content.keys() <= {"type", "data", "omitted"}
        ):
            raise PayloadError("the payload holds a message of unknown form")
        # What is in a message isn't filtered with those around it.
        inside, self.inside = self.inside, False
        data = self._value(content["data"], path)
        self.inside = inside
        listed = content.get("omitted", [])
        if type(listed) is not list or set(map(type, listed)) - {str}:
            raise PayloadError("the payload holds a message of unknown form")
        self.omitted.extend(each[:_MAX_OMISSION_LENGTH] for each in listed[:_MAX_LISTED_OMISSIONS])
        try:
            (made,) = messages_from_dict([{"type": content["type"], "data": data}])
        except Exception:
            # Whatever LangChain's classes stumble over in what a child made up.
            raise PayloadError("the payload holds a message of unknown form") from None
        return self._filter_message(made, path)[0]

    def _like_message(self, value: Any, path: str) -> tuple[bool, Any]:
        """Judge a value as the message that `add_messages` would make of it, where it makes one."""
        # One level of a copy: what is made has parts of its own, and each level is tried.
        given = {k: copy.copy(v) for k, v in value.items()} if type(value) is dict else value
        try:
            (made,) = convert_to_messages([given])
        except Exception:
            # Nothing makes a message of it.
            return False, value
        filtered, changed = self._filter_message(made, path)
        # As it came, where it may be one: a reader may want dicts.
        return True, filtered if changed else value

    def _filter_message(self, message: BaseMessage, path: str) -> tuple[Any, bool]:
        """What comes in of a message that was made here, and whether it was changed."""
        if self.accept is None:
            return message, False
        if isinstance(message, BaseMessageChunk):
            message = message_chunk_to_message(message)
        kind = _KINDS.get(type(message), "")
        if not self._is_accepted(kind):
            return self._omit(path, f"{kind or 'other'} message"), True
        update: dict[str, Any] = {}
        if not self.accept.tool_calls:
            update = _without_calls(message)
            if update:
                self._omit(path, "call of a tool")
        was_sent = message.id is not None and self.accept.sent().get(message.id) == message
        if was_sent and update:
            # The reader's own, and it has it.
            return _OMITTED, True
        named = message.id is not None and kind != "remove"
        if self.accept.seed is not None and not was_sent:
            if named:
                update["id"] = _derived_id("message", self.accept.seed, str(message.id))
            update |= _with_derived_call_ids(
                message, update, partial(_derived_id, "call", self.accept.seed)
            )
        for name, part in update.items():
            setattr(message, name, part)
        return message, bool(update)

    def _is_accepted(self, kind: str) -> bool:
        return self.accept is None or kind in self.accept.kinds

    def _omit(self, path: str, what: str) -> Any:
        self.omitted.append(f"{path[:_MAX_OMISSION_LENGTH] or 'the answer'}: a {what}")
        return _OMITTED


def _is_overwrite(value: dict[str, Any]) -> bool:
    return value.keys() == {_OVERWRITE} or (value.get("type") == _OVERWRITE and "value" in value)


def _pairs(data: Any) -> list[Any]:
    if type(data) is not list or any(type(e) is not list or len(e) != 2 for e in data):
        raise PayloadError("the payload holds a value of unknown form")
    return data


def _derived_id(of: str, seed: bytes, given: str) -> str:
    # An id that a child chooses could be one of the parent's: it would replace that message, or
    # answer that call of a tool in the tool's place.
    start = f"pipelit-agents/{of}-id/v1\0".encode()
    digest = hashlib.sha256(start + seed + given.encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _with_derived_call_ids(
    message: BaseMessage, changed: Mapping[str, Any], own: Callable[[str], str]
) -> dict[str, Any]:
    """The fields of a message that differ with other ids for calls of tools.

    Args:
        message: The message.
        changed: Fields that have another value already.
        own: Makes an id of one; the same of the same, so that an answer still has its call.
    """
    update: dict[str, Any] = {}
    if isinstance(message, ToolMessage):
        update["tool_call_id"] = own(message.tool_call_id)
    for name in ("tool_calls", "invalid_tool_calls", "content", "additional_kwargs"):
        part = changed.get(name, getattr(message, name, None))
        if part and not isinstance(part, str):
            other = _with_call_ids(part, own, in_call=name.endswith("tool_calls"))
            if other != part:
                update[name] = other
    return update


def _with_call_ids(value: Any, own: Callable[[str], str], *, in_call: bool) -> Any:
    """A part of a message with other ids of calls."""
    if isinstance(value, list):
        return [_with_call_ids(each, own, in_call=in_call) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    in_call = in_call or (isinstance(kind, str) and _names_call(kind))
    found: dict[Any, Any] = {}
    for key, each in value.items():
        if isinstance(each, str):
            is_id = key in _CALL_IDS or (in_call and key == "id")
            found[key] = own(each) if is_id else each
        elif key in _ARGUMENTS:
            found[key] = each
        else:
            found[key] = _with_call_ids(
                each, own, in_call=isinstance(key, str) and _names_call(key)
            )
    return found


def _names_call(name: str) -> bool:
    return any(each in name for each in _CALLS)


def _without_calls(message: BaseMessage) -> dict[str, Any]:
    """The fields of a message that differ without calls of tools."""
    update: dict[str, Any] = {}
    for name in ("tool_calls", "invalid_tool_calls"):
        if getattr(message, name, None):
            update[name] = []
    for name in ("additional_kwargs", "response_metadata"):
        fields = getattr(message, name)
        kept = {key: each for key, each in fields.items() if not _is_call(key, each)}
        if len(kept) != len(fields):
            update[name] = kept
    if not isinstance(message.content, str):
        blocks = [each for each in message.content if _is_readable(each)]
        if len(blocks) != len(message.content):
            update["content"] = blocks or ""
    for key, each in (message.model_extra or {}).items():
        if _is_call(key, each) and each:
            update[key] = [] if isinstance(each, list) else None
    return update


def _is_call(key: str, value: Any) -> bool:
    stopped = key in ("finish_reason", "stop_reason") and value in _TOOL_STOP_REASONS
    return stopped or _names_call(key)


def _is_readable(block: Any) -> bool:
    if not isinstance(block, dict):
        return isinstance(block, str)
    return block.get("type") in _READABLE or block.keys() == {"text"}


def required_kinds(kinds: Iterable[str]) -> frozenset[str]:
    """The kinds of messages that a parent names.

    Raises:
        TypeError: It is one text.
        ValueError: There is no such kind.
    """
    if isinstance(kinds, str):
        raise TypeError("accept_messages is a list of kinds, not one: ['ai', 'human', 'tool']")
    found = frozenset(kinds)
    if wrong := found - set(_KINDS.values()):
        raise ValueError(
            f"accept_messages: {sorted(map(str, wrong))[0]!r} is no kind of message; there are "
            f"{', '.join(sorted(_KINDS.values()))}"
        )
    return found
