"""What of a child's message or value reaches the lead's model: text, and images and files inline.

A proof says whose bytes these are, and doesn't make them harmless. A link in an image block is
fetched by the lead's process or by its model's provider, and a block that a provider refuses makes
every later call with the conversation fail. So nothing of a child's block is passed on as it is:
each is written again, from a few fields with checked values.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from mimetypes import MimeTypes
from typing import Final, TypeAlias

from langchain_core.messages import BaseMessage
from pydantic_core import to_jsonable_python

__all__ = [
    "MEDIA_TYPES",
    "Attachments",
    "Content",
    "Part",
    "as_json",
    "is_words",
    "parts_of_message",
    "required_media_types",
    "text_block",
]

# The content of a message that the lead's model receives.
Content: TypeAlias = str | list[str | dict[str, object]]
# A text, or a block that isn't one.
Part: TypeAlias = str | Mapping[str, object]

# Every provider takes these in tool messages, if it takes any.
MEDIA_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf")

# How the data begins. A provider refuses a call with an image that isn't one.
_BEGINS: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "image/png": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": lambda data: data.startswith(b"\xff\xd8\xff"),
    "image/gif": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "image/webp": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
    "application/pdf": lambda data: data.startswith(b"%PDF-"),
}
# Limits of one message. Providers refuse images of 5 MB in base64, calls with about 100 images, and
# calls of about 20 to 30 MB.
_MAX_ATTACHMENTS: Final = 20
_MAX_BASE64: Final = 5_000_000
_MAX_BASE64_IN_ALL: Final = 10_000_000
# LangChain turns a tool message's content into text if it has a block of another type.
_ATTACHABLE: Final = ("image", "file")
_TEXTS: Final = ("text", "text-plain", "output_text")
# Images and files in forms that LangChain reads as no common one.
_OTHER_MEDIA: Final = frozenset(
    {
        *("audio", "video", "image_url", "input_image", "input_file", "input_audio", "media"),
        *("document", "guard_content"),
    }
)
_MEDIA_TYPE: Final = re.compile(r"[a-z]+/[A-Za-z0-9][A-Za-z0-9.+-]{0,100}")
_LINK: Final = re.compile(r"https?://[!-~]{1,2000}")
# Without the types that a machine adds.
_FILES: Final = MimeTypes()


def required_media_types(media_types: object) -> tuple[str, ...]:
    """Validate the media types of images and files that a model receives.

    Raises:
        TypeError: They aren't a list.
        ValueError: One isn't a media type.
    """
    if isinstance(media_types, str) or not isinstance(media_types, Collection):
        raise TypeError("attachments must be a list of media types: ['image/png']")
    for each in media_types:
        if not isinstance(each, str) or not _MEDIA_TYPE.fullmatch(each):
            raise ValueError(f"attachments: {each!r} isn't a media type, such as 'image/png'")
    return tuple(media_types)


@dataclass
class Attachments:
    """The images and files of one message.

    Attributes:
        media_types: The accepted media types.
        blocks: Each accepted block, after the agent that it is of.
    """

    media_types: Collection[str]
    blocks: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    _length: int = 0

    def add(self, agent: str, block: Mapping[str, object]) -> dict[str, object]:
        """Return the JSON that takes the place of an image or file in the answer."""
        about = _about(block)
        made = self._accepted(block)
        if made is None:
            return {"left_out": about}
        number = len(self.blocks) + 1
        if made["type"] == "file":
            # A name of the child's would be a text outside of the JSON.
            ending = _FILES.guess_extension(str(made["mime_type"])) or ""
            made["extras"] = {"filename": f"attachment-{number}{ending}"}
        self._length += len(str(made["base64"]))
        self.blocks.append((agent, made))
        return {"attachment": number, **about}

    def _accepted(self, block: Mapping[str, object]) -> dict[str, object] | None:
        """Return a block with only the fields that hold an image or a file, or None.

        Links and ids of files are left out: the model's provider, or this process, would fetch what
        a child names.
        """
        kind, data, media_type = block.get("type"), block.get("base64"), block.get("mime_type")
        if kind not in _ATTACHABLE or not isinstance(data, str) or not data:
            return None
        if not isinstance(media_type, str) or media_type not in self.media_types:
            return None
        if len(self.blocks) >= _MAX_ATTACHMENTS or len(data) > _MAX_BASE64:
            return None
        if self._length + len(data) > _MAX_BASE64_IN_ALL or not _is_valid(data, media_type):
            return None
        return {"type": kind, "base64": data, "mime_type": media_type}


def _is_valid(data: str, media_type: str) -> bool:
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return False
    begins = _BEGINS.get(media_type)
    return begins is None or begins(raw)


def _about(block: Mapping[str, object]) -> dict[str, object]:
    """Return the type, media type and link of an image or file, as text."""
    found: dict[str, object] = {"type": block.get("type")}
    media_type = block.get("mime_type")
    if isinstance(media_type, str) and _MEDIA_TYPE.fullmatch(media_type):
        found["mime_type"] = media_type
    link = block.get("url", block.get("file_uri", block.get("image_url")))
    if isinstance(link, Mapping):
        link = link.get("url")
    if isinstance(link, str) and _LINK.fullmatch(link):
        found["url"] = link
    return found


def parts_of_message(message: BaseMessage) -> list[Part]:
    """Return the texts of a message and its images and files, in order.

    Whatever else is in it, such as reasoning, calls and citations, is no part of an answer.
    """
    if isinstance(message.content, str):
        return [message.content]
    try:
        blocks: Sequence[object] = message.content_blocks
    except Exception:
        # A child may have filled a provider's form with anything.
        blocks = message.content
    return [part for block in blocks if (part := _part(block)) is not None]


def _part(block: object) -> Part | None:
    if isinstance(block, str):
        return block
    if not isinstance(block, Mapping):
        return None
    inner = block.get("value")
    if block.get("type") == "non_standard" and isinstance(inner, Mapping):
        block = inner
    kind = block.get("type")
    if not isinstance(kind, str):
        return None
    text = block.get("refusal" if kind == "refusal" else "text")
    if kind in _TEXTS or kind == "refusal":
        return text if isinstance(text, str) else None
    return block if kind in _ATTACHABLE or kind in _OTHER_MEDIA else None


def is_words(part: Part) -> bool:
    """Return whether a part is more than an empty text."""
    return not isinstance(part, str) or bool(part.strip())


def text_block(text: str) -> dict[str, object]:
    """Return a block with a text."""
    return {"type": "text", "text": text}


def as_json(value: object) -> object:
    """Return a verified value as JSON: dates, sets, objects and similar values too.

    Whatever a child put together, the lead's run doesn't end with it.
    """
    try:
        return _as_json(value)
    except Exception as error:
        return f"a {type(value).__name__} that isn't JSON: {type(error).__name__}"


def _named(value: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    """Return the values of a dict by text: of the keys 1 and "1", the first is "1 (int)"."""
    taken = {key for key in value if isinstance(key, str)}
    for key, each in value.items():
        name = str(key)
        if not isinstance(key, str):
            while name in taken:
                name += f" ({type(key).__name__})"
            taken.add(name)
        yield name, each


def _as_json(value: object) -> object:
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, BaseMessage):
        return {"type": value.type, "content": _as_json(value.content)}
    if isinstance(value, Mapping):
        return {name: _as_json(each) for name, each in _named(value)}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [_as_json(each) for each in value]
    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="null", fallback=str)
