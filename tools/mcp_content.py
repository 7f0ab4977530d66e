"""Write a tool's answer in the types of content that the Model Context Protocol has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from langchain_core.messages import ToolMessage

__all__ = ["mcp_content", "text_content"]

# The kinds of blocks that the protocol has with data of their own.
_MEDIA: Final = ("image", "audio")


def mcp_content(answer: ToolMessage) -> list[dict[str, object]]:
    """Return the content of a tool's answer, by the names of the protocol.

    Texts, images, sounds and files with their bytes stay what they are. Any other block, such as a
    link, becomes JSON as text, so that no client fetches what it names.
    """
    if isinstance(answer.content, str):
        return [text_content(answer.content)]
    return [_content(each) for each in answer.content_blocks] or [text_content("")]


def text_content(text: str) -> dict[str, object]:
    """Return a text."""
    # A lone surrogate can't be encoded, and would end the server.
    return {"type": "text", "text": text.encode(errors="backslashreplace").decode()}


def _content(block: Mapping[str, object]) -> dict[str, object]:
    kind, text = block.get("type"), block.get("text")
    if kind == "text" and isinstance(text, str):
        return text_content(text)
    data, media_type = block.get("base64"), block.get("mime_type")
    if isinstance(data, str) and isinstance(media_type, str) and data.isascii():
        if kind in _MEDIA:
            return {"type": kind, "data": data, "mimeType": media_type}
        if kind == "file":
            extras = block.get("extras")
            name = extras.get("filename") if isinstance(extras, Mapping) else None
            path = quote(name if isinstance(name, str) else "file", safe="", errors="replace")
            resource = {"uri": f"attachment:///{path}", "mimeType": media_type, "blob": data}
            return {"type": "resource", "resource": resource}
    return text_content(json.dumps(block, ensure_ascii=False, default=str))
