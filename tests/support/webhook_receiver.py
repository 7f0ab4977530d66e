"""A receiver of webhooks on a port of this machine, which a test tells what to answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

import pytest
from local_http import served

# The secret and its credential.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOOK = "approvals-hook"


class Received(NamedTuple):
    """One request: its headers by their lower-case names, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """The notice in the body."""
        found = json.loads(self.body)["data"]
        assert isinstance(found, dict)
        return found


class Receiver:
    """Keeps what it is sent.

    Attributes:
        url: Its address, with a token in the path as chat services have it.
        seen: The requests.
        status: What it answers.
        headers: The headers of its answers.
        way: ``whole``, ``late`` (it answers when the test ends), ``endless`` or ``drip``.
        stop: Set when the test ends.
    """

    def __init__(self) -> None:
        self.url = ""
        self.stop = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Begin again, for the next test."""
        self.stop.set()
        self.stop = threading.Event()
        self.seen: list[Received] = []
        self.status = 204
        self.headers: dict[str, str] = {}
        self.way = "whole"


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serve for the length of the block."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            receiver.seen.append(Received(self.path, headers, body))
            self.close_connection = True
            stop = receiver.stop
            with suppress(OSError):
                if receiver.way == "late":
                    stop.wait(5)
                if receiver.way == "drip":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while not stop.wait(0.01):
                        self.wfile.write(b"x-more: 1\r\n")
                    return
                self.send_response(receiver.status, SECRET)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                while receiver.way == "endless" and not stop.is_set():
                    self.wfile.write(SECRET.encode() * 1000)

        def do_GET(self) -> None:
            self.do_POST()

    with served(Handler) as url:
        receiver.url = f"{url}/services/T0KEN-1a2b3c4d5e"
        try:
            yield receiver
        finally:
            receiver.stop.set()


@pytest.fixture(scope="session")
def running_receiver() -> Iterator[Receiver]:
    """One server for all tests of a process."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def receiver(running_receiver: Receiver) -> Iterator[Receiver]:
    """The server, as new."""
    running_receiver.reset()
    yield running_receiver
    running_receiver.stop.set()
