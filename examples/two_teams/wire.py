"""A proxy between the teams. While `meddles` is set, it changes the answers that pass."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

# What the proxy changes in an answer, and into what.
OLD, NEW = b'"summary":"', b'"summary":"not '


class Proxy:
    """The proxy.

    Attributes:
        url: Its address.
        meddles: Whether it changes answers.
        changed: How many answers it has changed.
    """

    def __init__(self) -> None:
        self.url = ""
        self.meddles = False
        self.changed = 0

    def pass_on(self, body: bytes) -> bytes:
        """Return what the lead receives. The proof beside the answer stays as it is."""
        try:
            envelope = json.loads(body)["envelope"]
            answer = base64.urlsafe_b64decode(envelope["payload"] + "==")
        except (ValueError, KeyError, TypeError):
            return body
        if not self.meddles or OLD not in answer:
            return body
        self.changed += 1
        changed = base64.urlsafe_b64encode(answer.replace(OLD, NEW)).decode().rstrip("=")
        return json.dumps({"envelope": {**envelope, "payload": changed}}).encode()


@contextmanager
def serve_proxy(proxy: Proxy, server: str) -> Iterator[None]:
    """Stand in front of a server, on a free port of this machine, for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() in ("authorization", "content-type", "accept")
            }
            answer = httpx.request(
                self.command, server + self.path, content=body, headers=kept, timeout=120
            )
            said = proxy.pass_on(answer.content)
            self.send_response(answer.status_code)
            for name in ("content-type", "location", "content-location"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            if answer.status_code != 204:
                self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_DELETE = forward  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            """Write nothing: the example prints what happens."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        proxy.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield
        finally:
            listening.shutdown()
