"""Serialize graph states as JSON, with tags for values that JSON can't represent.

Nothing is loaded by name. A payload becomes LangChain's message classes, the standard library's
scalars and containers, and classes that the reader already knows. The reader chooses which messages
of a proven answer it accepts as messages: a proof authenticates the sender, but doesn't make a
message harmless to the state that it is added to.
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
# Parts of a message that an answer can be read without, with their empty values.
_OPTIONAL_PARTS: Final[dict[str, Any]] = {
    "artifact": None,
    "additional_kwargs": {},
    "response_metadata": {},
}
_MAX_LISTED_OMISSIONS: Final = 20
# In characters.
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
# Types of content that only hold text or media. Others call a provider's tool, or answer it.
_READABLE: Final = frozenset(
    {
        *("text", "output_text", "text-plain", "refusal", "reasoning", "thinking"),
        *("redacted_thinking", "image", "image_url", "input_image", "audio", "input_audio"),
        *("video", "file", "input_file", "input_text", "document", "media", "search_result"),
        *("citation", "guard_content"),
    }
)
_CALLS: Final = ("tool_call", "function_call", "tool_use", "toolUse")
# The keys of a call's id, and of the arguments that a call passes to its tool.
_CALL_IDS: Final = frozenset({"call_id", "tool_call_id", "tool_use_id", "toolUseId"})
_ARGUMENTS: Final = frozenset({"args", "arguments", "input"})
_TOOL_STOP_REASONS: Final = frozenset({"tool_calls", "tool_use", "function_call"})
# LangGraph's reducers treat a dict with this key or type as an instruction to replace the whole
# channel. It has no public name.
_OVERWRITE: Final = "__overwrite__"
_OMITTED: Final[Any] = object()


def state_to_bytes(
    value: Any, *, portable: bool = False, leave_out: Collection[str] = frozenset()
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

    def convert(part: Any) -> Any:
        if issubclass(type(part), BaseMessage):
            return WrittenInParts(lambda walk: _written_message(part, walk, leave_out))
        return converted(part, portable=portable)

    return encode(value, convert=convert, pairs=keyed)


@dataclass(frozen=True)
class Acceptance:
    """The messages of an answer that a reader accepts as messages.

    Attributes:
        kinds: The accepted types, as LangChain names them.
        tool_calls: Whether they may call tools.
        seed: A secret from which new ids are derived. None keeps the ids.
        sent: Returns the messages that were sent to the child, by id.
    """

    kinds: frozenset[str]
    tool_calls: bool
    seed: bytes | None = None
    sent: Callable[[], Mapping[str, BaseMessage]] = dict


class Read(NamedTuple):
    """The value of a payload.

    Attributes:
        value: The value.
        omitted: The omitted parts, by path.
    """

    value: Any
    omitted: list[str]


def state_from_bytes(data: bytes, *, limit: int, known: Known | None = None) -> Any:
    """Read a payload with all its messages, as LangChain messages.

    Args:
        data: The payload.
        limit: The maximum size in bytes.
        known: Classes that values may be rebuilt as.

    Raises:
        PayloadError: The bytes aren't a payload, or hold an invalid value.
    """
    value = decode(data, limit=limit)
    return _Reader(known or {}, None).read(value) if _is_marked(data) else value


def read_state(data: bytes, *, limit: int, known: Known, accept: Acceptance) -> Read:
    """Read an answer as :func:`state_from_bytes` does, but keep only accepted messages.

    Raises:
        PayloadError: The bytes aren't a payload, or hold an invalid value.
    """
    value = decode(data, limit=limit)
    reader = _Reader(known, accept)
    if _is_marked(data) or b'"messages"' in data or _OVERWRITE.encode() in data:
        value = reader.read(value)
    return Read(value, reader.omitted[:_MAX_LISTED_OMISSIONS])


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
                    left.append(f"{name}: a key that isn't text or is reserved")
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
    """A reader that builds values from verified JSON."""

    known: Known
    accept: Acceptance | None
    omitted: list[str] = field(default_factory=list)
    # Whether an enclosing value will be filtered, including this one.
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

        # A list with at least one message is a list of messages.
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
            return self._omit(path, "dict that LangGraph treats as an instruction to overwrite")
        return found

    def _read_messages(self, read: Callable[[], Any], path: str) -> Any:
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
        return self._filter(found, path, listed=True)

    def _filter(self, value: Any, path: str, *, listed: bool = False) -> Any:
        """Filter a value and its contents as messages. Return the same object if unchanged.

        Args:
            value: The value.
            path: Its path.
            listed: Whether a list of two texts is two messages, and not one role and its text.
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
        # The class may require the omitted part, so the object becomes its values.
        return tuple(found) if form == "namedtuple" and type(found) is list else found

    def _filter_dict(self, value: dict[Any, Any], path: str) -> Any:
        found = {}
        for key, each in value.items():
            inner = f"{path}.{key}" if type(key) is str else path
            filtered_key = key if type(key) is str else self._filter(key, path)
            # Text under a key is a field, such as a title, and not a message.
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
            # Messages aren't hashable, so they can't be in a set.
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
            # If its content is omitted, the object is omitted too.
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
        # A message's content isn't filtered together with the enclosing value.
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
            # LangChain's classes may raise anything about data that a child made up.
            raise PayloadError("the payload holds a message of unknown form") from None
        return self._filter_message(made, path)[0]

    def _like_message(self, value: Any, path: str) -> tuple[bool, Any]:
        """Filter a value as the message that `add_messages` would convert it to, if any."""
        # Conversion may change the parts of a dict. A shallow copy of them suffices, because each
        # level is tried.
        copied = {k: copy.copy(v) for k, v in value.items()} if type(value) is dict else value
        try:
            (made,) = convert_to_messages([copied])
        except Exception:
            # The value can't be converted to a message.
            return False, value
        filtered, changed = self._filter_message(made, path)
        # Keep the original value if the message is accepted: a reader may expect a dict.
        return True, filtered if changed else value

    def _filter_message(self, message: BaseMessage, path: str) -> tuple[Any, bool]:
        """Return the accepted form of a message, and whether it differs from the message."""
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
                self._omit(path, "tool call")
        was_sent = message.id is not None and self.accept.sent().get(message.id) == message
        if was_sent and update:
            # The reader sent this message itself, so it already has it.
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


def _derived_id(of: str, seed: bytes, original: str) -> str:
    # A child could choose an id of the parent's. Its message would then replace the parent's
    # message, or answer the parent's tool call instead of the tool.
    start = f"pipelit-agents/{of}-id/v1\0".encode()
    digest = hashlib.sha256(start + seed + original.encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _with_derived_call_ids(
    message: BaseMessage, changed: Mapping[str, Any], own: Callable[[str], str]
) -> dict[str, Any]:
    """Return the fields of a message that change with new ids for tool calls.

    Args:
        message: The message.
        changed: Fields that already have a new value.
        own: Derives a new id. Equal ids get equal new ids, so that an answer still matches its
            call.
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
    """Return a part of a message with new ids for tool calls."""
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
    """Return the fields of a message that change when its tool calls are removed."""
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
    """Validate the types of messages that a parent accepts.

    Raises:
        TypeError: ``kinds`` is one text instead of a list.
        ValueError: A type is unknown.
    """
    if isinstance(kinds, str):
        raise TypeError("accept_messages must be a list of types, not one: ['ai', 'human', 'tool']")
    found = frozenset(kinds)
    if wrong := found - set(_KINDS.values()):
        raise ValueError(
            f"accept_messages: {sorted(map(str, wrong))[0]!r} isn't a type of message; the types "
            f"are {', '.join(sorted(_KINDS.values()))}"
        )
    return found
