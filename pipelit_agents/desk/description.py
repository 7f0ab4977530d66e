"""The description of the API (OpenAPI): each answer that an operation can give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from pipelit_agents.desk.problems import PROBLEM_TYPE, ProblemDocument

__all__ = ["described"]

_REF: Final = "#/components/schemas/{model}"
_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch"})
# What the guards answer to any request, before and beside an endpoint.
_ALWAYS: Final = (400, 401, 414, 422, 429, 431, 500, 503)
_WITH_BODY: Final = (408, 413, 415)
_DESCRIPTIONS: Final = {
    400: "The host name isn't the desk's, or the path or a header has more than one meaning.",
    401: "There is no valid API key. The words are the same for every reason.",
    403: "The caller's role may not do this, or a code of the second factor is missing or wrong.",
    404: "It doesn't exist, or it isn't the caller's. The words are the same for both.",
    408: "The body didn't arrive in time.",
    409: "The stored state doesn't allow it.",
    412: "An entry of this name already exists.",
    413: "The body is too large.",
    414: "The path or the query is too long.",
    415: "The body isn't `application/json`.",
    422: "The request can't be read, or has fields that can't be accepted.",
    429: "There were too many attempts; `retry_after` says when to try again.",
    431: "There are too many headers, or they are too large.",
    500: "The request failed in the server. The answer doesn't contain the reason.",
    503: "The database, the encryption key or the ledger isn't available.",
}


def described(document: Mapping[str, Any]) -> dict[str, Any]:
    """Complete what FastAPI says of the endpoints.

    Each operation gets the problems that the guards and its parameters can lead to, beside those
    that it names itself. All of them are problem documents.

    Args:
        document: The OpenAPI document; it isn't changed.
    """
    schemas = dict(document.get("components", {}).get("schemas", {}))
    # FastAPI's own form of a 422, which the desk doesn't use.
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _, ours = models_json_schema([(ProblemDocument, "serialization")], ref_template=_REF)
    schemas |= ours["$defs"]
    components = dict(document.get("components", {})) | {"schemas": schemas}
    paths = {
        path: {
            method: _operation(path, operation) if method in _METHODS else operation
            for method, operation in item.items()
        }
        for path, item in document.get("paths", {}).items()
    }
    return dict(document) | {"paths": paths, "components": components}


def _operation(path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    named = {
        status: response
        for status, response in operation.get("responses", {}).items()
        if not status.startswith(("4", "5"))
    }
    statuses = {*_statuses(path, operation), *_named_problems(operation)}
    problems = {
        str(each): {
            "description": _DESCRIPTIONS.get(each, HTTPStatus(each).phrase),
            "content": {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="ProblemDocument")}}},
            **({"headers": _HEADERS[each]} if each in _HEADERS else {}),
        }
        for each in sorted(statuses)
    }
    return dict(operation) | {"responses": named | problems}


_HEADERS: Final = {
    401: {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
}


def _statuses(path: str, operation: Mapping[str, Any]) -> Iterator[int]:
    yield from _ALWAYS
    if "requestBody" in operation:
        yield from _WITH_BODY
    # The roles that may call it; one for every role says nothing.
    if any(roles for each in operation.get("security", ()) for roles in each.values()):
        yield 403
    if "{" in path:
        yield 404


def _named_problems(operation: Mapping[str, Any]) -> Iterator[int]:
    for status in operation.get("responses", {}):
        if status.isdigit() and int(status) >= 400:
            yield int(status)
