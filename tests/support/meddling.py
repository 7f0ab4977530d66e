"""A machine in the middle: it passes HTTP on to a server, and may change what goes by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
from local_http import served


@dataclass
class Passing:
    """One request with its answer, as the machine in the middle sees them."""

    method: str
    path: str
    body: Any
    status: int = 0
    answer: Any = None
    # Sent instead of the answer.
    raw: bytes | None = None
    headers: dict[str, str] | None = None
    cut: bool = False


class Meddler:
    """Passes requests on.

    Args:
        url: Of the server behind it.
        going: Changes a request on its way there.
        coming: Changes the answer on its way back.
    """

    def __init__(
        self,
        url: str,
        *,
        going: Callable[[Passing], None] = lambda _: None,
        coming: Callable[[Passing], None] = lambda _: None,
    ) -> None:
        self.seen: list[Passing] = []
        # Beside the status.
        self.reason: str | None = None
        meddler = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                passing = Passing(self.command, self.path, json.loads(body) if body else None)
                meddler.seen.append(passing)
                going(passing)
                content = b"" if passing.body is None else json.dumps(passing.body).encode()
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() in ("authorization", "content-type")
                }
                with httpx.Client(base_url=url, timeout=60) as client:
                    response = client.request(
                        passing.method, passing.path, content=content, headers=headers
                    )
                passing.status = response.status_code
                passing.answer = response.json() if response.content.strip() else None
                empty = not response.content.strip()
                coming(passing)
                if passing.cut:
                    self.close_connection = True
                    self.send_response(200)
                    self.send_header("content-length", "1000")
                    self.end_headers()
                    self.wfile.write(b"{")
                    return
                answer = passing.raw
                if answer is None:
                    unchanged = empty and passing.answer is None
                    answer = b"" if unchanged else json.dumps(passing.answer).encode()
                self.send_response(passing.status, meddler.reason)
                self.send_header("content-length", str(len(answer)))
                for name, value in (passing.headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            do_DELETE = do_GET = do_POST = pass_on  # noqa: N815 - the names that http.server calls

        self._serving = served(Handler)

    def __enter__(self) -> Meddler:
        self.url = self._serving.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._serving.__exit__(*error)
