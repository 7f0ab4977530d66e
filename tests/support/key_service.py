"""A service of somebody else's that is asked with a key, and notes whose key each request had."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from local_http import served


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

    with served(Handler) as address:
        service.url = f"{address}/"
        yield service
