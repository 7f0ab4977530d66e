"""How states travel: LangChain messages and models as JSON, and messages back again.

Nothing is loaded by name: a payload can only become the message classes of LangChain itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
from pydantic import BaseModel, SecretStr

from pipelit_agents.errors import PayloadError
from pipelit_agents.payload import decode, encode

__all__ = ["state_from_bytes", "state_to_bytes"]

MARK: Final = "__pipelit_message__"
_MARKED: Final = MARK.encode()


def state_to_bytes(value: Any) -> bytes:
    """The bytes of a graph's input or output.

    Messages keep their class; other pydantic models and dataclasses become dicts.

    Raises:
        PayloadError: Something in it can't be carried; the message names the place.
    """
    return encode(value, convert=_convert)


def state_from_bytes(data: bytes, *, limit: int) -> Any:
    """The way back; messages come out as LangChain messages.

    Raises:
        PayloadError: The bytes are no payload, or a message in them is none.
    """
    value = decode(data, limit=limit)
    # A message's mark may also be written with escapes.
    return _revive(value) if _MARKED in data or b"\\u" in data else value


def _convert(value: Any) -> Any:
    if isinstance(value, SecretStr):
        raise TypeError("a secret doesn't leave its node; open it where it is used")
    if isinstance(value, BaseMessage):
        return {MARK: message_to_dict(value)}
    if isinstance(value, BaseModel):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(
        f"a value of type {type(value).__name__} can't be carried: give text, numbers, lists, "
        "dicts or messages"
    )


def _revive(value: Any) -> Any:
    if isinstance(value, list):
        return [_revive(each) for each in value]
    if not isinstance(value, dict):
        return value
    if MARK not in value:
        return {key: _revive(each) for key, each in value.items()}
    content = value[MARK]
    if len(value) != 1 or not isinstance(content, dict) or set(content) != {"type", "data"}:
        raise PayloadError("the payload holds a message of unknown form")
    try:
        return messages_from_dict([content])[0]
    except Exception:
        # Whatever LangChain's classes stumble over in what a child made up.
        raise PayloadError("the payload holds a message of unknown form") from None
