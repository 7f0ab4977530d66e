"""An engine with the runs of LangGraph Server, whose answers a test writes.

It runs in the test's own process, behind real HTTP, so that each behaviour of an engine that takes
long or needs a killed process is shown in milliseconds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_http import served

Json = Any
# What an answer is: a status and a document; None cuts the line.
Answer = tuple[int, Json] | None


@dataclass
class Engine:
    """The server of one graph.

    Attributes:
        work: Returns a run's output for its input; None if no answer may be had from it.
        statuses: What is said of a run, one after the other; the last is repeated. None is 500.
        join: Answers a join, for its number from 1; by default when the run is over.
        start: Answers a start, after the run was made.
        delete: Answers a deletion.
        calls: What was asked for: a method and the last part of the path.
        threads: The threads that are there.
        url: Its address, within the block.
    """

    work: Callable[[Json], Json]
    statuses: list[str | None] = field(default_factory=lambda: ["success"])
    join: Callable[[int], Answer] | None = None
    start: Callable[[Json], Answer] | None = None
    delete: Callable[[], Answer] = lambda: (204, None)
    calls: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    cancelled: bool = False

    def __post_init__(self) -> None:
        self._asked: Iterator[str | None] = iter(self.statuses)
        self._joins = 0
        self._output: Json = None
        self._lock = threading.Lock()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                found = engine._answer(self.command, self.path, json.loads(body or b"null"))
                if found is None:
                    self.close_connection = True
                    return
                status, document = found
                content = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_DELETE = do_GET = do_POST = answer  # noqa: N815 - the names that http.server calls

        self._serving = served(Handler)

    def __enter__(self) -> Engine:
        """Serve until the end of the block."""
        self.url = self._serving.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """End it."""
        self._serving.__exit__(*error)

    def _answer(self, method: str, path: str, body: Json) -> Answer:
        _, _, thread, *rest = path.split("/")
        with self._lock:
            self.calls.append(f"{method} {rest[-1] if rest[1:2] else 'runs' if rest else 'thread'}")
        match method, rest:
            case "POST", ["runs"]:
                self.threads.add(thread)
                record = {"run_id": "00000000-0000-4000-8000-000000000001", "status": "pending"}
                self._output = self.work(body["input"])
                return self.start(record) if self.start else (200, record)
            case "GET", ["runs"]:
                runs = [{"run_id": "00000000-0000-4000-8000-000000000001"}]
                return (200, runs if thread in self.threads else [])
            case "GET", ["runs", _, "join"]:
                with self._lock:
                    self._joins += 1
                    number = self._joins
                answer = (200, self._output) if self.join is None else self.join(number)
                return (200, self._output) if answer == (200, ...) else answer
            case "GET", ["runs", _]:
                status = "interrupted" if self.cancelled else self._status()
                return (200, {"run_id": "1", "status": status}) if status else (500, None)
            case "POST", ["runs", _, "cancel"]:
                self.cancelled = True
                return (200, None)
            case "DELETE", []:
                answer = self.delete()
                if answer is not None and answer[0] < 300:
                    self.threads.discard(thread)
                return answer
        return (404, None)

    def _status(self) -> str | None:
        with self._lock:
            return next(self._asked, self.statuses[-1])
