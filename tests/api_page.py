"""Writes docs/api.md from the desk's own OpenAPI: ``python tests/api_page.py``."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.desk import make_app

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
PREFIX = "/api/v1"
HEAD = f"""# HTTP API of the desk

Written by `make api` from the OpenAPI document of the [desk](desk.md), which serves it at
`{PREFIX}/openapi.json` to those who have a key. All paths below begin with `{PREFIX}`, except where
a path is given in full.

- Every request needs `Authorization: Bearer plit_…`.
- Bodies and answers are JSON. Times are in UTC, as in `2026-01-31T09:00:00Z`. A field that isn't
  listed is refused.
- Lists are pages of at most `limit` entries and `next`. Pass that as `after` for the next page. It
  is `null` on the last one.
- For an endpoint that asks for the second factor, a person who has one sends `Pipelit-Code:
  123456`: a code that her authenticator app shows, or one of her recovery codes. The code is
  spent.
- Errors are problems as in RFC 9457 (`application/problem+json`): `type`, `title`, `status` and
  `detail`; `errors` with the fields that are wrong; `retry_after` in seconds.
"""
_METHODS = ("get", "post", "put", "patch", "delete")


def document() -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    with Pipelit(database_url="sqlite://", encryption_keys=[Keyring.generate_key()]) as pipelit:
        return dict(make_app(pipelit).openapi())


def operations(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return each method, path and operation in the order of the document."""
    for path, item in spec["paths"].items():
        for method in _METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def page(spec: Mapping[str, Any]) -> str:
    """Return the page as it must be."""
    usual = _usual_problems(spec)
    of_all = set.intersection(*(set(_described(each)) for _, _, each in operations(spec)))
    by_tag: dict[str, list[str]] = {}
    for method, path, operation in operations(spec):
        tag = (operation.get("tags") or ["other"])[0]
        section = _operation(spec, method, path, operation)
        by_tag.setdefault(tag, []).append(section + _problems(operation, usual, of_all))
    described = {each["name"]: each.get("description", "") for each in spec.get("tags", [])}
    found = [HEAD, *_table(("status", "problem"), [*usual.items()])]
    found += [f"Any request can lead to {', '.join(sorted(of_all))}. The others are listed.\n"]
    for tag, sections in by_tag.items():
        title = tag[:1].upper() + tag[1:].replace("-", " ")
        found += [f"## {title}\n", *([described[tag] + "\n"] if described.get(tag) else [])]
        found += sections
    return "\n".join(found)


def _roles(operation: Mapping[str, Any]) -> str:
    """Return who may send a request, and whether it asks for a code."""
    if not operation.get("security"):
        return "Needs no API key."
    named = [role for each in operation["security"] for roles in each.values() for role in roles]
    said = f"For {', '.join(f'{each}s' for each in named)}." if named else "For everybody."
    codes = any(each["name"] == "Pipelit-Code" for each in operation.get("parameters", []))
    return said + (" Asks for the second factor." if codes else "")


def _operation(
    spec: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]
) -> str:
    lines = [f"### {method} {path.removeprefix(PREFIX) or path}", ""]
    said = operation.get("description") or operation.get("summary") or ""
    lines += [_text(said), ""] if said else []
    lines += [_roles(operation), ""]
    rows = [
        (f"`{each['name']}` {_where(each)}", _type(spec, each["schema"]), _about(each))
        for each in operation.get("parameters", [])
        if each["in"] != "header"
    ]
    lines += _table(("parameter", "type", "meaning"), rows)
    body = operation.get("requestBody")
    if body:
        schema = next(iter(body["content"].values()))["schema"]
        lines += _schema(spec, "The body", schema)
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            lines += _success(spec, status, answer)
    return "\n".join(lines)


def _success(spec: Mapping[str, Any], status: str, answer: Mapping[str, Any]) -> list[str]:
    content = answer.get("content", {})
    kind, media = next(iter(content.items()), ("", {}))
    words = f"Answer {status}" + (f", `{kind}`" if kind not in ("", "application/json") else "")
    fields = _schema(spec, words, media.get("schema", {})) if media else []
    return fields or [words + ("." if media else ", without a body."), ""]


def _usual_problems(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return what most endpoints say about each status that is a problem."""
    said: dict[str, Counter[str]] = {}
    for _, _, operation in operations(spec):
        for status, words in _described(operation).items():
            said.setdefault(status, Counter())[words] += 1
    return {status: said[status].most_common(1)[0][0] for status in sorted(said)}


def _described(operation: Mapping[str, Any]) -> dict[str, str]:
    return {
        status: _cell(each["description"])
        for status, each in operation["responses"].items()
        if not status.startswith("2")
    }


def _problems(operation: Mapping[str, Any], usual: Mapping[str, str], of_all: set[str]) -> str:
    """Return the problems of an endpoint, and what it says of them that others don't."""
    found = {each: words for each, words in _described(operation).items() if each not in of_all}
    if not found:
        return ""
    own = [f"- {each}: {words}" for each, words in found.items() if words != usual[each]]
    return "\n".join([f"\nProblems: {', '.join(sorted(found))}.", "", *own, *([""] if own else [])])


def _where(parameter: Mapping[str, Any]) -> str:
    needed = parameter.get("required") and parameter["in"] != "path"
    return f"in the {parameter['in']}" + (", needed" if needed else "")


def _schema(spec: Mapping[str, Any], title: str, schema: Mapping[str, Any]) -> list[str]:
    """Return a table of the fields of a body, and of what is in its list if it is a page."""
    found = _resolved(spec, schema)
    items = found.get("properties", {}).get("items")
    if items and set(found["properties"]) == {"items", "next"}:
        return _schema(spec, f"{title} is a page; each of `items`", items["items"])
    if found.get("type") == "array":
        return _schema(spec, f"{title} is a list; each entry", found["items"])
    needed = found.get("required", [])
    rows = [
        (
            f"`{name}`",
            _type(spec, each) + ("" if name in needed else ", optional"),
            _about(each),
        )
        for name, each in found.get("properties", {}).items()
    ]
    return [f"{title}:", "", *_table(("field", "type", "meaning"), rows)] if rows else []


def _resolved(spec: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = spec["components"]["schemas"][name]
    return schema


def _type(spec: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> str:
    """Return a type in words; of what is nested, its fields."""
    found = _resolved(spec, schema)
    choices = found.get("anyOf") or found.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_type(spec, each, depth) for each in choices))
    if "const" in found:
        return f"`{json.dumps(found['const'])}`"
    if "enum" in found:
        return " or ".join(f"`{json.dumps(each)}`" for each in found["enum"])
    kind = str(found.get("type", "anything"))
    if kind == "array":
        return f"list of {_type(spec, found.get('items', {}), depth)}"
    if kind == "object" and found.get("properties") and depth < 2:
        named = (f"`{name}`" for name in found["properties"])
        return f"object: {', '.join(named)}"
    form = f" ({found['format']})" if found.get("format") not in (None, "password") else ""
    return kind + form + _bounds(found)


def _bounds(schema: Mapping[str, Any]) -> str:
    low = schema.get("minLength", schema.get("minimum"))
    high = schema.get("maxLength", schema.get("maximum"))
    of = " characters" if schema.get("type") == "string" else ""
    if low is not None and high is not None:
        return f", {low}{of}" if low == high else f", {low} to {high}{of}"
    if high is not None:
        return f", at most {high}{of}"
    return f", at least {low}{of}" if low is not None else ""


def _about(described: Mapping[str, Any]) -> str:
    schema = described.get("schema", described)
    said = _cell(described.get("description") or schema.get("description") or "")
    default = schema.get("default")
    return said if default in (None, "") else f"{said} Default: {json.dumps(default)}.".strip()


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("``", "`")


def _text(text: str) -> str:
    return text.strip().replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(document()))
