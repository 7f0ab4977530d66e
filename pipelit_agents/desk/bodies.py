"""Bodies of requests: received within a size and a time, and JSON that has one meaning."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from email.message import Message
from typing import Final

from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope

from pipelit_agents.desk.problems import Problem

__all__ = ["Disconnected", "has_body", "read_body", "replayed", "require_json"]

_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_MAX_DEPTH: Final = 32
# The last quotation mark is optional: otherwise a text without an end would be read again from each
# escaped quotation mark in it, and the event loop would wait minutes for one request.
_STRUCTURE: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
# A body that no model of an endpoint accepts: it is passed on in place of one that can't be read,
# so that an endpoint's other refusals come first.
UNREADABLE: Final = b'"unreadable"'


class Disconnected(Exception):
    """The client went away while its request arrived."""


def has_body(scope: Scope) -> bool:
    """Return whether a request announces a body.

    Raises:
        Problem: Its length isn't a number, or it has two lengths.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise Problem(400, "bad-request", "Content-Length isn't a number")
    if b"content-length" in headers and b"transfer-encoding" in headers:
        # A proxy and the server may each believe another one, and see another next request.
        raise Problem(400, "bad-request", "Content-Length and Transfer-Encoding are both there")
    return int(length) > 0 or b"transfer-encoding" in headers


async def read_body(scope: Scope, receive: Receive, *, most: int, within: float) -> bytes:
    """Receive a request's body.

    Args:
        scope: The request.
        receive: What it is received from.
        most: The maximum size in bytes.
        within: The time for all of it, in seconds.

    Raises:
        Problem: It is too large or too slow, of another type than JSON, or the method takes none.
        Disconnected: The client went away.
    """
    headers = dict(scope["headers"])
    announced = int(headers.get(b"content-length", b"0"))
    if announced > most:
        raise _too_large(most)
    if scope["method"] in _WITHOUT_BODY:
        raise Problem(400, "bad-request", f"{scope['method']} takes no body")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(415, "unsupported-type", "a compressed body isn't accepted: send it as it is")
    if not _is_json(headers.get(b"content-type", b"").decode("latin-1")):
        raise Problem(
            415, "unsupported-type", "the body must be JSON: send Content-Type: application/json"
        )
    parts, size = [], 0
    try:
        async with asyncio.timeout(within):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Problem(
            408, "too-slow", f"the body didn't arrive within {within:g} seconds"
        ) from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return what an application receives a body from that was read already."""
    waiting: list[AsgiMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> AsgiMessage:
        return waiting.pop() if waiting else await receive()

    return again


def require_json(body: bytes) -> None:
    """Require that a body is JSON that every program reads alike.

    Raises:
        Problem: It isn't UTF-8 or JSON, has a name twice in an object, a number that JSON doesn't
            have, or a character that no text has; or it is nested too deep.
    """
    try:
        text = body.decode("utf-8")
        # json's own recursion is in C, and ends with an error only after hundreds of levels.
        if text.count("[") + text.count("{") > _MAX_DEPTH:
            _require_shallow(text)
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise _unreadable("it isn't UTF-8") from None
    except (ValueError, RecursionError) as error:
        # The message of json repeats nothing of the text but a position.
        raise _unreadable(str(error) or "it is nested too deep") from None
    if "\\u" in text and any(map(_is_no_text, _texts(found))):
        raise _unreadable("a text has the character NUL or half a character")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _no_number(_: str) -> object:
    raise ValueError("JSON has no NaN and no Infinity")


def _require_shallow(text: str) -> None:
    depth = 0
    for found in _STRUCTURE.finditer(text):
        first = found[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _is_no_text(text: str) -> bool:
    return "\0" in text or any("\ud800" <= each <= "\udfff" for each in text)


def _is_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type
    charset = message.get_param("charset", "utf-8")
    return (
        message.get_content_type() == "application/json"
        and isinstance(charset, str)
        and charset.lower() in ("utf-8", "utf8")
    )


def _too_large(most: int) -> Problem:
    return Problem(413, "too-large", f"a body has at most {most:,} bytes")


def _unreadable(why: str) -> Problem:
    return Problem(422, "invalid", f"the body can't be read as JSON: {why}")
