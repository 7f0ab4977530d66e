"""What a child takes as its input: checked before it is asked, and described to the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from langchain_core.messages import HumanMessage
from langgraph.channels.base import BaseChannel
from langgraph.pregel import Pregel
from pydantic import BaseModel, TypeAdapter

from pipelit_agents._words import quoted

from .schema_values import is_message_class, problem_with
from .strict_schemas import (
    JsonSchema,
    accepts_null,
    kind_in_words,
    nullable,
    strict_object,
    strict_schema,
)

__all__ = [
    "ANY_INPUT",
    "UNKNOWN_INPUT",
    "ChildInput",
    "InputRefused",
    "declared_input",
    "input_of",
]

_MESSAGES: Final = "messages"
_REFERENCE: Final = re.compile(r"\$defs/(\w+)")
# LangGraph reads an object with this key as a value that replaces the state's, without its reducer.
_OVERWRITE: Final = "__overwrite__"
_MAX_LISTED: Final = 12
_TEXT: Final[Mapping[str, object]] = {"type": "string", "description": "The text for the agent."}
_JSON: Final[Mapping[str, object]] = {
    "type": "string",
    "description": "The agent's input: a JSON object, as text.",
}


class InputRefused(Exception):
    """A task has an input that its agent doesn't take. The message is for the model."""


@dataclass(frozen=True)
class ChildInput:
    """What one child takes from a model.

    A model sends the fields that the tool's schema shows, and no others. It never writes messages:
    it could write a system message, or the result of a tool. It sends a text, which becomes one
    human message.

    Attributes:
        fields: The JSON schemas of its fields by name; None for a JSON object with any fields.
        required: The fields that have to be there.
        definitions: The schemas that the fields refer to, by name.
        is_text: Whether the input is itself a text, as of a function that is an ``entrypoint``.
        is_declared: Whether the developer named the fields, so that a model may fill all of them.
    """

    fields: Mapping[str, object] | None
    required: frozenset[str] = frozenset()
    definitions: JsonSchema = field(default_factory=dict)
    is_text: bool = False
    is_declared: bool = False

    @property
    def takes_message(self) -> bool:
        """Whether a model sends a text and nothing else: a message, or the input itself.

        The other fields of a state with ``messages`` are the program's, such as the files of a
        deep agent, unless a message alone isn't a whole input.
        """
        if self.is_text or self.fields is None or not self._holds_messages(_MESSAGES):
            return self.is_text
        others = self.fields.keys() if self.is_declared else self.required
        return others <= {_MESSAGES}

    def _holds_messages(self, name: str) -> bool:
        if self.fields is None:
            return name == _MESSAGES
        return name in self.fields and _is_of_messages(name, self.fields[name])

    def task_fields(self) -> dict[str, object]:
        """Return the strict JSON schemas of a task's fields besides ``agent``."""
        if self.takes_message:
            return {"message": dict(_TEXT)}
        fields: dict[str, object] = {}
        for name, schema in (self.fields or {}).items():
            if self._holds_messages(name):
                found: dict[str, object] | None = dict(_TEXT)
            else:
                found = strict_schema(schema, self.definitions)
            if found is None:
                # A model can't fill this field in strict mode, but it can write it as text.
                return {"input": dict(_JSON)}
            fields[name] = found if name in self.required else nullable(found)
        return {"input": strict_object(fields) if fields else dict(_JSON)}

    def in_words(self) -> str:
        """Return what the child takes, for the model."""
        if self.takes_message:
            return "a message"
        if not self.fields:
            return "JSON, whose fields aren't known here"
        listed = [
            self._field_in_words(name, schema)
            for name, schema in list(self.fields.items())[:_MAX_LISTED]
        ]
        if len(self.fields) > _MAX_LISTED:
            listed.append(f"and {len(self.fields) - _MAX_LISTED} more")
        return ", ".join(listed)

    def _field_in_words(self, name: str, schema: object) -> str:
        is_message = self._holds_messages(name)
        kind = "text" if is_message else kind_in_words(schema, self.definitions)
        about = [*([kind] if kind else []), *([] if name in self.required else ["optional"])]
        return f"{name} ({', '.join(about)})" if about else name

    def from_message(self, message: str) -> object:
        """Return the input for a text.

        Raises:
            InputRefused: The child takes something else, or the text is empty. The message begins
                with the word after the child's name.
        """
        if self.fields is not None and not self.takes_message:
            raise InputRefused(f"takes {self.in_words()}, as input; not message")
        if not message.strip():
            raise InputRefused("takes a message, and this one is empty")
        return message if self.is_text else {_MESSAGES: [HumanMessage(message)]}

    def from_fields(self, values: Mapping[str, object]) -> object:
        """Return the input for values by field.

        Raises:
            InputRefused: A field is unknown, missing or of another type. The message begins with
                the word after the child's name.
        """
        if self.is_text:
            raise InputRefused("takes a message; not input")
        shown = [_MESSAGES] if self.takes_message else self.fields
        unknown = [quoted(name) for name in values if shown is not None and name not in shown]
        if unknown:
            raise InputRefused(f"takes {self._accepted()}; not {', '.join(unknown[:_MAX_LISTED])}")
        # A strict schema requires every field, so a model leaves one out as null.
        found = {name: each for name, each in values.items() if not self._left_out(name, each)}
        missing = sorted(self.required - found.keys())
        if missing:
            raise InputRefused(f"takes {self._accepted()}; missing: {', '.join(missing)}")
        if not found and self.fields:
            raise InputRefused(f"takes {self._accepted()}; input is empty")
        return {name: self._value(name, each) for name, each in found.items()}

    def _value(self, name: str, value: object) -> object:
        schema = True if self.fields is None else self.fields[name]
        if self._holds_messages(name):
            if not isinstance(value, str) or not value.strip():
                raise InputRefused(
                    f"takes {self._accepted()}; {name} must be a text, and not empty"
                )
            message = HumanMessage(value)
            return message if _is_one_message(schema) else [message]
        problem = problem_with(value, schema, self.definitions, name)
        if isinstance(value, dict) and _OVERWRITE in value:
            problem = f"{name} has no field {_OVERWRITE!r}"
        if problem:
            raise InputRefused(f"takes {self._accepted()}; {problem}")
        return value

    def _left_out(self, name: str, value: object) -> bool:
        return (
            value is None
            and name not in self.required
            and self.fields is not None
            and not accepts_null(self.fields[name], self.definitions)
        )

    def _accepted(self) -> str:
        return f"{_MESSAGES} (or message, a text)" if self.takes_message else self.in_words()


ANY_INPUT: Final = ChildInput(None)
"""A JSON object with any fields."""

UNKNOWN_INPUT: Final = ChildInput({_MESSAGES: {}})
"""What a child takes of which nothing is known, as of most remote ones: a message alone."""


def input_of(child: object) -> ChildInput:
    """Return what a child takes, as far as this side knows."""
    if not isinstance(child, Pregel):
        return UNKNOWN_INPUT
    builder = getattr(getattr(child, "graph", child), "builder", None)
    # Of a state that is also the input, a caller may leave out what the nodes write. A pydantic
    # model refuses that by itself.
    whole = getattr(builder, "input_schema", None)
    state = getattr(builder, "state_schema", None)
    partial = whole is not None and whole is state and not _is_model(whole)
    try:
        schema = child.get_input_jsonschema()
    except Exception:
        # Pydantic has no schema for the state, as for a plain TypedDict on Python 3.11.
        return _of_channels(builder, partial)
    return _of_schema(schema, partial=partial)


def declared_input(name: str, kind: Any) -> ChildInput:
    """Return what a child takes, from the type that a developer names.

    Args:
        name: The child, for the error.
        kind: A pydantic model, ``TypedDict`` or dataclass with the fields; ``str``, or ``dict`` for
            a JSON object with any fields.

    Raises:
        TypeError: There is no schema for the type.
    """
    try:
        found = _of_schema(TypeAdapter(kind).json_schema(), partial=False)
    except Exception as error:
        raise TypeError(
            f"inputs[{name!r}] must be a pydantic model, a dataclass, a TypedDict of "
            f"typing_extensions, str or dict: {type(error).__name__}"
        ) from error
    if found is UNKNOWN_INPUT:
        raise TypeError(f"inputs[{name!r}] must have fields, or be str or dict; not {kind!r}")
    return replace(found, is_declared=True)


def _of_schema(schema: JsonSchema, *, partial: bool) -> ChildInput:
    definitions = schema.get("$defs")
    definitions = definitions if isinstance(definitions, Mapping) else {}
    if "$ref" in schema:
        schema = definitions.get(str(schema["$ref"]).rpartition("/")[2], {})
    if schema.get("type") == "string":
        return ChildInput(None, is_text=True)
    fields = schema.get("properties")
    if not isinstance(fields, Mapping):
        return ANY_INPUT if schema.get("additionalProperties") else UNKNOWN_INPUT
    required = schema.get("required")
    listed = required if isinstance(required, list) and not partial else []
    return ChildInput(dict(fields), frozenset(map(str, listed)), definitions)


def _of_channels(builder: Any, partial: bool) -> ChildInput:
    kind = getattr(builder, "input_schema", None)
    channels = getattr(builder, "schemas", {}).get(kind)
    if not channels:
        return UNKNOWN_INPUT
    fields = {
        name: _channel_schema(channel)
        for name, channel in channels.items()
        if isinstance(channel, BaseChannel)
    }
    required: frozenset[str] = frozenset()
    if not partial:
        required = getattr(kind, "__required_keys__", required)
    return ChildInput(fields, required & fields.keys())


def _channel_schema(channel: BaseChannel[Any, Any, Any]) -> object:
    try:
        return TypeAdapter(channel.ValueType).json_schema()
    except Exception:
        # Pydantic doesn't know the type either, so the field has a name only.
        return {}


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_of_messages(name: str, schema: object) -> bool:
    """Return whether a field holds messages, so that a model fills it with a text."""
    if any(map(is_message_class, _REFERENCE.findall(str(schema)))):
        return True
    if name != _MESSAGES:
        return False
    # Of this name, also a list of values that could be messages.
    if not isinstance(schema, Mapping) or not schema.keys() - {"title", "description", "default"}:
        return True
    items = schema.get("items")
    is_open = not items or (
        isinstance(items, Mapping) and items.get("type") == "object" and "properties" not in items
    )
    return schema.get("type") == "array" and is_open


def _is_one_message(schema: object) -> bool:
    return bool(_REFERENCE.search(str(schema))) and "array" not in str(schema)
