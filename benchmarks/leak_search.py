"""How long the search of a node's result takes, beside ``json.dumps`` of the same state.

Run it with ``make bench``. It prints medians of one run, and their ratio.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from langchain_core.messages import HumanMessage

from pipelit_agents.credentials.boundary import refuse_leak

SECRET = "sk-" + "Zq8" * 16
PAGE = "The otter sleeps on its back, and holds a paw so as not to drift away. " * 28


def documents(megabytes: int) -> dict[str, Any]:
    """A state of retrieved pages with their metadata, about 2 KB each."""
    return {
        "documents": [
            {"id": f"doc-{number}", "page": PAGE, "score": number / 7, "tags": ["a", "b"]}
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
            HumanMessage(PAGE, id=str(n)) for n in range(megabytes * 2**20 // (len(PAGE) + 40))
        ]
    }


def timed(call: Callable[[], Any], times: int) -> float:
    """The median time of a call, in milliseconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1000)
    return median(found)


def dumped(state: Any) -> str:
    """The same state as JSON; messages by their fields, as a stream or trace shows them."""
    return json.dumps(state, default=lambda message: message.model_dump())


def main() -> None:
    """Prints the table."""
    print(f"{'state':<16}{'search ms':>12}{'json.dumps ms':>15}{'ratio':>8}")
    for make in (documents, rows, messages):
        for size, times in ((1, 21), (50, 5)):
            state = make(size)
            ours = timed(lambda state=state: refuse_leak(state, {SECRET: "openai"}), times)
            theirs = timed(lambda state=state: dumped(state), times)
            name = f"{make.__name__} {size} MB"
            print(f"{name:<16}{ours:>12.2f}{theirs:>15.2f}{ours / theirs:>8.2f}")


if __name__ == "__main__":
    main()
