"""Compare a value that a model wrote with the JSON schema that the model was given.

LangGraph validates a state only if it is a pydantic model, so this side does it for the others too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pipelit_agents._words import quoted

from .strict_schemas import JsonSchema, kind_in_words

__all__ = ["is_message_class", "problem_with"]

_MAX_DEPTH: Final = 64
# A reference to one of LangChain's classes. Pydantic adds the module if two have the same name.
_MESSAGE_CLASS: Final = re.compile(
    r"(?:.*__)?(?:Human|AI|System|Tool|Function|Chat|Remove|Base|Any)Message(?:Chunk)?"
)
_ARTICLES: Final = {"whole number": "a ", "number": "a ", "list": "a ", "object": "an "}
_TYPES: Final[Mapping[object, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def problem_with(value: object, schema: object, definitions: JsonSchema, path: str) -> str | None:
    """Return what is wrong with a value, in words for a model; None if the schema allows it.

    An object has only the fields that its schema names, unless the schema names none. LangChain's
    messages are refused wherever they are: a model could write a system message, or the result of
    a tool.

    Args:
        value: The value, as read from JSON.
        schema: Its JSON schema, as pydantic writes it.
        definitions: The schemas that it refers to, by name.
        path: The name of the value, for the words.
    """
    return _problem(value, schema, definitions, path, 0)


def is_message_class(name: str) -> bool:
    """Return whether the name of a definition is that of one of LangChain's message classes."""
    return _MESSAGE_CLASS.fullmatch(name) is not None


def _problem(
    value: object, schema: object, definitions: JsonSchema, path: str, depth: int
) -> str | None:
    if depth > _MAX_DEPTH:
        return f"{path} is nested too deeply"
    if not isinstance(schema, Mapping):
        # JSON schema knows true for any value, and false for none.
        return f"{path} can't be filled" if schema is False else None
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        if is_message_class(name):
            return f"{path} holds messages, which can't be sent"
        return _problem(value, definitions.get(name, False), definitions, path, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(parts := schema.get(keyword), list):
            found = [_problem(value, each, definitions, path, depth + 1) for each in parts]
            return None if None in found else _of_alternatives(found, schema, definitions, path)
    if isinstance(parts := schema.get("allOf"), list):
        found = [_problem(value, each, definitions, path, depth + 1) for each in parts]
        return next(filter(None, found), None)
    if not _is_of_type(value, schema):
        return f"{path} must be {_kind_of(schema, definitions)}"
    if isinstance(value, list):
        return _problem_in_list(value, schema, definitions, path, depth)
    if isinstance(value, dict):
        return _problem_in_object(value, schema, definitions, path, depth)
    return None


def _of_alternatives(
    problems: list[str | None], schema: JsonSchema, definitions: JsonSchema, path: str
) -> str | None:
    # The alternative to null says more than that the value isn't null.
    useful = dict.fromkeys(each for each in problems if each and not each.endswith("be null"))
    return (
        next(iter(useful))
        if len(useful) == 1
        else f"{path} must be {_kind_of(schema, definitions)}"
    )


def _kind_of(schema: JsonSchema, definitions: JsonSchema) -> str:
    kind = kind_in_words(schema, definitions) or "of another type"
    article = next((_ARTICLES[each] for each in _ARTICLES if kind.startswith(each)), "")
    return article + kind


def _is_of_type(value: object, schema: JsonSchema) -> bool:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        # In Python true equals 1.
        return any(type(each) is type(value) and each == value for each in values)
    kinds = schema.get("type")
    if kinds is None:
        return True
    allowed = [_TYPES.get(each, ()) for each in (kinds if isinstance(kinds, list) else [kinds])]
    return any(type(value) in each for each in allowed)


def _problem_in_list(
    value: list[object], schema: JsonSchema, definitions: JsonSchema, path: str, depth: int
) -> str | None:
    first = schema.get("prefixItems")
    first = first if isinstance(first, list) else []
    for index, each in enumerate(value):
        items = first[index] if index < len(first) else schema.get("items", True)
        problem = _problem(each, items, definitions, f"{path}[{index}]", depth + 1)
        if problem:
            return problem
    return None


def _problem_in_object(
    value: dict[str, object], schema: JsonSchema, definitions: JsonSchema, path: str, depth: int
) -> str | None:
    fields = schema.get("properties")
    fields = fields if isinstance(fields, Mapping) else {}
    others = schema.get("additionalProperties", not fields)
    required = schema.get("required")
    for name in required if isinstance(required, list) else []:
        if name not in value:
            return f"{path} lacks {name}"
    for name, each in value.items():
        if name not in fields and (fields or others is False):
            return f"{path} has no field {quoted(name)}"
        inner = f"{path}.{name}" if name in fields else f"{path}[…]"
        problem = _problem(each, fields.get(name, others), definitions, inner, depth + 1)
        if problem:
            return problem
    return None
