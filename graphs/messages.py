"""Filter the messages of a proven answer: keep those that the reader accepts as messages.

A proof authenticates the sender, but doesn't make a message harmless to the state that it is added
to. A message could act as another type, call tools, or have the id of the reader's own message.
"""

from __future__ import annotations

import copy
import hashlib
import operator
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    MessageLikeRepresentation,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
    message_chunk_to_message,
)

from .objects import object_form, parts_of

__all__ = [
    "DEFAULT_MESSAGES",
    "MAX_OMISSION_LENGTH",
    "OMITTED",
    "OVERWRITE",
    "Acceptance",
    "MessageFilter",
    "Omitted",
    "is_overwrite",
    "is_readable",
    "required_kinds",
]

DEFAULT_MESSAGES: Final = ("ai", "human", "tool")
# In characters.
MAX_OMISSION_LENGTH: Final = 300


class Omitted(Enum):
    """The type of ``OMITTED``."""

    OMITTED = "omitted"


OMITTED: Final = Omitted.OMITTED
"""What is left of a value that isn't accepted."""

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
OVERWRITE: Final = "__overwrite__"
_KINDS: Final[Mapping[type, str]] = {
    AIMessage: "ai",
    HumanMessage: "human",
    ToolMessage: "tool",
    SystemMessage: "system",
    ChatMessage: "chat",
    FunctionMessage: "function",
    RemoveMessage: "remove",
}


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


@dataclass
class MessageFilter:
    """A filter for the values of one answer.

    Attributes:
        accept: Which messages to keep.
        omitted: The omitted parts, by path. The filter adds to it.
    """

    accept: Acceptance
    omitted: list[str]

    def filtered(self, value: object, path: str, *, listed: bool = False) -> object:
        """Filter a value and its contents as messages. Return the same object if unchanged.

        Args:
            value: The value.
            path: Its path.
            listed: Whether a list of two texts is two messages, and not one role and its text.
        """
        if value is OMITTED or isinstance(value, BaseMessage):
            return value
        if not (listed and type(value) is list):
            is_message, filtered = self._like_message(value, path)
            if is_message:
                return filtered
        if type(value) is dict:
            return self._filter_dict(value, path)
        cls = type(value)
        if cls in (list, tuple, set, frozenset, deque):
            return self._filter_items(cast(Collection[object], value), path)
        form = object_form(cls)
        if form in ("", "enum"):
            return value
        data = parts_of(value)
        found = self.filtered(data, path, listed=True)
        if found is data:
            return value
        # The class may require the omitted part, so the object becomes its values.
        return tuple(found) if form == "namedtuple" and type(found) is list else found

    def _filter_dict(self, value: dict[object, object], path: str) -> object:
        found: dict[object, object] = {}
        for key, each in value.items():
            inner = f"{path}.{key}" if type(key) is str else path
            filtered_key = key if type(key) is str else self.filtered(key, path)
            # Text under a key is a field, such as a title, and not a message.
            is_part = type(each) is str and key != "messages"
            filtered = each if is_part else self.filtered(each, inner, listed=True)
            if filtered_key is not OMITTED and filtered is not OMITTED:
                found[filtered_key] = filtered
        same = len(found) == len(value) and all(
            one is other for one, other in zip(found.values(), value.values(), strict=True)
        )
        return value if same and all(map(operator.is_, found, value)) else found

    def _filter_items(self, value: Collection[object], path: str) -> object:
        items = list(value)
        filtered = [self.filtered(each, f"{path}[{at}]") for at, each in enumerate(items)]
        found = [each for each in filtered if each is not OMITTED]
        if len(found) == len(items) and all(map(operator.is_, found, items)):
            return value
        if isinstance(value, deque):
            return deque(found, value.maxlen)
        try:
            rebuild: Callable[[list[object]], object] = type(value)
            return rebuild(found)
        except TypeError:
            # Messages aren't hashable, so they can't be in a set.
            return found

    def _like_message(self, value: object, path: str) -> tuple[bool, object]:
        """Filter a value as the message that `add_messages` would convert it to, if any."""
        # Conversion may change the parts of a dict. A shallow copy of them suffices, because each
        # level is tried.
        copied = {k: copy.copy(v) for k, v in value.items()} if type(value) is dict else value
        try:
            # Any value: LangChain raises if it isn't in one of the forms of a message.
            (made,) = convert_to_messages([cast(MessageLikeRepresentation, copied)])
        except Exception:
            # The value can't be converted to a message.
            return False, value
        filtered, changed = self.filter_message(made, path)
        # Keep the original value if the message is accepted: a reader may expect a dict.
        return True, filtered if changed else value

    def filter_message(self, message: BaseMessage, path: str) -> tuple[object, bool]:
        """Return the accepted form of a message, and whether it differs from the message."""
        if isinstance(message, BaseMessageChunk):
            message = message_chunk_to_message(message)
        kind = _KINDS.get(type(message), "")
        if kind not in self.accept.kinds:
            return self.omit(path, f"{kind or 'other'} message"), True
        update: dict[str, object] = {}
        if not self.accept.tool_calls:
            update = _without_calls(message)
            if update:
                self.omit(path, "tool call")
        was_sent = message.id is not None and self.accept.sent().get(message.id) == message
        if was_sent and update:
            # The reader sent this message itself, so it already has it.
            return OMITTED, True
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

    def omit(self, path: str, what: str) -> Omitted:
        """Note that a part was left out, and return what is left of it."""
        self.omitted.append(f"{path[:MAX_OMISSION_LENGTH] or 'the answer'}: a {what}")
        return OMITTED


def is_overwrite(value: dict[object, object]) -> bool:
    """Return whether LangGraph's reducers treat a dict as an instruction to overwrite a channel."""
    return value.keys() == {OVERWRITE} or (value.get("type") == OVERWRITE and "value" in value)


def _derived_id(of: str, seed: bytes, original: str) -> str:
    # A child could choose an id of the parent's. Its message would then replace the parent's
    # message, or answer the parent's tool call instead of the tool.
    start = f"pipelit-agents/{of}-id/v1\0".encode()
    digest = hashlib.sha256(start + seed + original.encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _with_derived_call_ids(
    message: BaseMessage, changed: Mapping[str, object], own: Callable[[str], str]
) -> dict[str, object]:
    """Return the fields of a message that change with new ids for tool calls.

    Args:
        message: The message.
        changed: Fields that already have a new value.
        own: Derives a new id. Equal ids get equal new ids, so that an answer still matches its
            call.
    """
    update: dict[str, object] = {}
    if isinstance(message, ToolMessage):
        update["tool_call_id"] = own(message.tool_call_id)
    for name in ("tool_calls", "invalid_tool_calls", "content", "additional_kwargs"):
        part = changed.get(name, getattr(message, name, None))
        if part and not isinstance(part, str):
            other = _with_call_ids(part, own, in_call=name.endswith("tool_calls"))
            if other != part:
                update[name] = other
    return update


def _with_call_ids(value: object, own: Callable[[str], str], *, in_call: bool) -> object:
    """Return a part of a message with new ids for tool calls."""
    if isinstance(value, list):
        return [_with_call_ids(each, own, in_call=in_call) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    in_call = in_call or (isinstance(kind, str) and _names_call(kind))
    found: dict[object, object] = {}
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


def _without_calls(message: BaseMessage) -> dict[str, object]:
    """Return the fields of a message that change when its tool calls are removed."""
    update: dict[str, object] = {}
    for name in ("tool_calls", "invalid_tool_calls"):
        if getattr(message, name, None):
            update[name] = []
    for name in ("additional_kwargs", "response_metadata"):
        fields = getattr(message, name)
        kept = {key: each for key, each in fields.items() if not _is_call(key, each)}
        if len(kept) != len(fields):
            update[name] = kept
    if not isinstance(message.content, str):
        blocks = [each for each in message.content if is_readable(each)]
        if len(blocks) != len(message.content):
            update["content"] = blocks or ""
    for key, each in (message.model_extra or {}).items():
        if _is_call(key, each) and each:
            update[key] = [] if isinstance(each, list) else None
    return update


def _is_call(key: str, value: object) -> bool:
    stopped = key in ("finish_reason", "stop_reason") and value in _TOOL_STOP_REASONS
    return stopped or _names_call(key)


def is_readable(block: object) -> bool:
    """Return whether a block of a message's content holds only text or media."""
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
