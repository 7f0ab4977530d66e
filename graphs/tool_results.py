"""The result of an approved tool call as bytes, for a task that LangGraph runs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import langgraph.errors
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphInterrupt
from langgraph.types import Command

__all__ = ["SUSPENDING", "error_to_bytes", "is_suspended", "result_from_bytes", "result_to_bytes"]

_SERIALIZER: Final = JsonPlusSerializer()
_ERROR: Final = "error"
_SEPARATOR: Final = b"\0"

# Older versions of LangGraph don't have both of these names.
SUSPENDING: Final = (GraphInterrupt, getattr(langgraph.errors, "GraphDrained", GraphInterrupt))
_is_invalid_resume: Final[Callable[[BaseException], bool]] = getattr(
    langgraph.errors, "is_invalid_resume", lambda _: False
)


def is_suspended(error: Exception) -> bool:
    """Return whether LangGraph will continue the tool later: it asked a question of its own."""
    return isinstance(error, SUSPENDING) or _is_invalid_resume(error)


def result_to_bytes(result: object) -> bytes | None:
    """Return a tool's result as bytes, or None if it can't be rebuilt from bytes.

    Args:
        result: A tool message, a command, or a list of both.
    """
    parts = result if isinstance(result, list) else [result]
    if not all(isinstance(each, ToolMessage | Command) for each in parts):
        return None
    try:
        kind, data = _SERIALIZER.dumps_typed(result)
    except Exception:
        # The tool has run, so a value of a user's class that can't be serialized isn't an error.
        return None
    return kind.encode() + _SEPARATOR + data


def error_to_bytes(error: Exception) -> bytes:
    """Return the kind of a tool's error as bytes; its text may hold anything."""
    return _ERROR.encode() + _SEPARATOR + type(error).__name__[:100].encode(errors="replace")


def result_from_bytes(data: bytes) -> object:
    """Return a result that ``result_to_bytes`` wrote, or the name of an error as text.

    Returns:
        None if the result can't be rebuilt here.
    """
    kind, _, content = data.partition(_SEPARATOR)
    if kind.decode() == _ERROR:
        return content.decode()
    try:
        return _SERIALIZER.loads_typed((kind.decode(), content))
    except Exception:
        # Another version of the application wrote it, with a class that this one doesn't have.
        return None
