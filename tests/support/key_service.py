"""A service of somebody else's that is asked with a key, and notes whose key each request had."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class KeyService:
    """What the service knows, and what it was sent.

    Args:
        owners: Whose each key is.

    Attributes:
        url: Its address. The path of a request says for which run it is.
        received: How many requests there were of each run and each owner; "nobody" without a key
            that the service knows.
    """

    def __init__(self, owners: Mapping[str, str]) -> None:
        self.url = ""
        self.owners = dict(owners)
        self.received: Counter[tuple[str, str]] = Counter()
        self._counting = threading.Lock()

    def note(self, run: str, header: str) -> str:
        """Count a request, and return whose key it had."""
        owner = self.owners.get(header.removeprefix("Bearer "), "nobody")
        with self._counting:
            self.received[run, owner] += 1
        return owner

    def seen_of(self, run: str) -> dict[str, int]:
        """Return how many requests of a run had whose key."""
        with self._counting:
            return {owner: count for (each, owner), count in self.received.items() if each == run}


@contextmanager
def key_service(owners: Mapping[str, str]) -> Iterator[KeyService]:
    """Serve on a port of this machine, for the length of the block.

    Args:
        owners: Whose each key is.
    """
    service = KeyService(owners)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            owner = service.note(self.path.strip("/"), self.headers.get("Authorization", ""))
            body = owner.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as running:
        service.url = f"http://127.0.0.1:{running.server_port}/"
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=[0.02])
        thread.start()
        try:
            yield service
        finally:
            running.shutdown()
            thread.join()
