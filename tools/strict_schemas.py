"""Write JSON schemas in the form that strict tool calls need.

OpenAI's strict mode accepts objects that list all their fields as required and allow no others, and
no keywords that limit the length or the form of a value. Other providers accept this form too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

__all__ = [
    "JsonSchema",
    "accepts_null",
    "kind_in_words",
    "nullable",
    "strict_object",
    "strict_schema",
]

JsonSchema: TypeAlias = Mapping[str, object]

# OpenAI accepts ten levels, of which the tool's own arguments take four.
_MAX_DEPTH: Final = 6
_MAX_LISTED_VALUES: Final = 6
_SCALARS: Final[Mapping[object, str]] = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}
_JSON_TYPES: Final[Mapping[type, str]] = {
    bool: "boolean",
    float: "number",
    int: "integer",
    str: "string",
    type(None): "null",
}


class _NotStrict(Exception):
    """The schema has no strict form."""


def strict_schema(schema: object, definitions: JsonSchema) -> dict[str, object] | None:
    """Return the strict form of a schema without references.

    Args:
        schema: A JSON schema, as pydantic writes it.
        definitions: The schemas that it refers to, by name.

    Returns:
        The strict form. None if there is none, for example for a dict with any keys, or for a
        schema that contains itself.
    """
    try:
        return _strict(schema, definitions, 0)
    except _NotStrict:
        return None


def strict_object(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the strict schema of an object with exactly these fields, all required."""
    return {
        "type": "object",
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
    }


def nullable(schema: dict[str, object]) -> dict[str, object]:
    """Return a strict schema that accepts null too."""
    return schema if accepts_null(schema, {}) else {"anyOf": [schema, {"type": "null"}]}


def accepts_null(schema: object, definitions: JsonSchema) -> bool:
    """Return whether a schema accepts null. One that doesn't limit the type does."""
    return _accepts_null(schema, definitions, 0)


def kind_in_words(schema: object, definitions: JsonSchema) -> str:
    """Return the type of a schema's values in words for a model; empty if it has no type."""
    return _kind(schema, definitions, 0)


def _strict(schema: object, definitions: JsonSchema, depth: int) -> dict[str, object]:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        raise _NotStrict
    found = _strict_alternatives(schema, definitions, depth)
    if found is None:
        values = _values(schema)
        if values is not None:
            found = _strict_values(values)
        elif schema.get("type") in _SCALARS:
            found = {"type": schema["type"]}
        elif schema.get("type") == "array" and "prefixItems" not in schema:
            found = {"type": "array", "items": _strict(schema.get("items"), definitions, depth + 1)}
        elif schema.get("type") == "object":
            found = _strict_fields(schema, definitions, depth)
        else:
            raise _NotStrict
    about = schema.get("description")
    return found | {"description": about} if isinstance(about, str) else found


def _strict_alternatives(
    schema: JsonSchema, definitions: JsonSchema, depth: int
) -> dict[str, object] | None:
    if "$ref" in schema:
        return _strict(_referred(schema, definitions), definitions, depth + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        parts = schema.get(keyword)
        if isinstance(parts, list):
            found = [_strict(each, definitions, depth + 1) for each in parts]
            if len(found) == 1:
                return found[0]
            if keyword == "allOf" or not found:
                raise _NotStrict
            return {"anyOf": found}
    return None


def _strict_fields(schema: JsonSchema, definitions: JsonSchema, depth: int) -> dict[str, object]:
    fields = schema.get("properties")
    if not isinstance(fields, Mapping) or not fields or schema.get("additionalProperties"):
        raise _NotStrict
    return strict_object(
        {name: _strict(each, definitions, depth + 1) for name, each in fields.items()}
    )


def _values(schema: JsonSchema) -> list[object] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _strict_values(values: list[object]) -> dict[str, object]:
    kinds = {_JSON_TYPES.get(type(each)) for each in values}
    if len(kinds) != 1 or None in kinds:
        raise _NotStrict
    return {"type": kinds.pop(), "enum": values}


def _referred(schema: JsonSchema, definitions: JsonSchema) -> object:
    return definitions.get(str(schema["$ref"]).rpartition("/")[2])


def _accepts_null(schema: object, definitions: JsonSchema, depth: int) -> bool:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return True
    if "$ref" in schema:
        return _accepts_null(_referred(schema, definitions), definitions, depth + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := schema.get(keyword), list):
            return any(_accepts_null(each, definitions, depth + 1) for each in parts)
    values = _values(schema)
    if values is not None:
        return None in values
    return bool(schema.get("type", "null") == "null")


def _kind(schema: object, definitions: JsonSchema, depth: int) -> str:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return ""
    if "$ref" in schema:
        return _kind(_referred(schema, definitions), definitions, depth + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := schema.get(keyword), list):
            kinds = [_kind(each, definitions, depth + 1) for each in parts]
            return " or ".join(dict.fromkeys(kinds)) if all(kinds) else ""
    values = _values(schema)
    if values is not None and len(values) <= _MAX_LISTED_VALUES:
        return " or ".join(repr(each) for each in values)
    kind = schema.get("type")
    if kind == "array":
        inside = _kind(schema.get("items"), definitions, depth + 1)
        return f"list of {inside}" if inside else "list"
    return "object" if kind == "object" else _SCALARS.get(kind, "")
