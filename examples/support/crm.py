"""A CRM of another company, on this machine. It notes whose key each request had."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ORDERS = {
    1001: {"customer": "alice", "item": "a red kettle", "state": "on its way"},
    2001: {"customer": "bob", "item": "a blue lamp", "state": "delivered"},
}


@dataclass
class Crm:
    """What the CRM knows, and what it has seen.

    Attributes:
        customers: The customer of each key.
        url: Its address.
        arrived: A line for each request: whose key came, for what, and the answer's status.
    """

    customers: dict[str, str]
    url: str = ""
    arrived: list[str] = field(default_factory=list)

    def answer(self, path: str, key: str) -> tuple[int, dict[str, str]]:
        """Answer a request: a customer may read their own orders."""
        customer = self.customers.get(key)
        number = path.removeprefix("/orders/")
        order = ORDERS.get(int(number)) if number.isdecimal() else None
        if customer is None:
            status, said = 401, {"error": "unknown key"}
        elif order is None:
            status, said = 404, {"error": "there is no such order"}
        elif order["customer"] != customer:
            status, said = 403, {"error": "this is another customer's order"}
        else:
            status, said = 200, order
        self.arrived.append(f"{customer or 'nobody'}'s key, GET {path}, {status}")
        return status, said


@contextmanager
def serve_crm(customers: dict[str, str]) -> Iterator[Crm]:
    """Serve the CRM on a free port of this machine, for the length of the block."""
    crm = Crm(customers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, said = crm.answer(self.path, key)
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing: the example prints what arrived."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        crm.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield crm
        finally:
            server.shutdown()
