"""States that a leaked secret is searched for in, for ``side_by_side.py``."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import HumanMessage

SECRET = "sk-" + "Zq8" * 16
PAGE = "The otter sleeps on its back, and holds a paw so as not to drift away. " * 28


def page(number: int) -> str:
    """A text of its own, as each would be that was fetched or said."""
    return f"{number}. {PAGE}"


def documents(megabytes: int) -> dict[str, Any]:
    """A state of retrieved pages with their metadata, about 2 KB each."""
    return {
        "documents": [
            {"id": f"doc-{number}", "page": page(number), "score": number / 7, "tags": ["a", "b"]}
            for number in range(megabytes * 2**20 // (len(PAGE) + 60))
        ]
    }


def rows(megabytes: int) -> dict[str, Any]:
    """A state of many small values, about 60 bytes a row."""
    return {
        "rows": [
            {"n": n, "x": n / 3, "ok": True, "name": f"row {n}"}
            for n in range(megabytes * 2**20 // 60)
        ]
    }


def messages(megabytes: int) -> dict[str, Any]:
    """A state of LangChain messages, about 2 KB each."""
    return {
        "messages": [
            HumanMessage(page(n), id=str(n)) for n in range(megabytes * 2**20 // (len(PAGE) + 40))
        ]
    }


def dumped(state: Any) -> str:
    """The same state as JSON; messages by their fields, as a stream or trace shows them."""
    return json.dumps(state, default=lambda message: message.model_dump())
