"""A real desk: the process that ``pipelit-agents desk`` starts, on a free port of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import fresh
import httpx
import psutil
from redis_server import free_port, until

from pipelit_agents import Keyring, Pipelit

# Settings of whoever runs the tests.
_OURS = ("FIELD_", "PIPELIT_", "LANGSMITH_", "UVICORN_")
_TOKEN = re.compile(r"plit_setup_[\w-]{43}")


@cache
def client() -> httpx.Client:
    """A client for all desks of a process: each new one would read the system's certificates."""
    # Each request has a connection of its own, so that it says who listens now.
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(trust_env=False, verify=False, limits=limits)  # noqa: S501 - HTTP only


class DeskServer:
    """A desk with a database of its own.

    Args:
        folder: Where it runs, with its database and its log.
        database_url: Its database; by default a new SQLite file.
        key: Its encryption key; by default a new one.
        settings: More environment variables.
        forked: Whether it is forked from a process that has imported its modules. Its ``memory``
            and its ``processes`` aren't known then.
        of_folder: Whether it has the settings of the folder's ``.env``, and no others.
        started: Called with each process that is started, for example to have it end with others.

    Attributes:
        url: Its address.
        environment: All of its environment variables.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str = "",
        key: str = "",
        forked: bool = False,
        of_folder: bool = False,
        started: Callable[[subprocess.Popen[bytes]], object] = lambda _: None,
        **settings: str,
    ) -> None:
        self.folder = folder
        self.key = key or Keyring.generate_key()
        self.database_url = database_url or f"sqlite:///{folder / 'agents.db'}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        own = {"FIELD_ENCRYPTION_KEY": self.key, "PIPELIT_DATABASE_URL": self.database_url}
        self.environment: Mapping[str, str] = kept | ({} if of_folder else own) | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._forked = started, forked
        self._log = folder / "desk.log"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()

    def pipelit(self) -> Pipelit:
        """Return the library on the same database, as an operator's process would have it."""
        return Pipelit(database_url=self.database_url, encryption_keys=[self.key])

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            RuntimeError: It ended. The message is its log.
        """
        command = [sys.executable, "-m", "pipelit_agents.cli"]
        if self._forked:
            command = fresh.command(fresh.AGENTS, "pipelit_agents.desk.serving")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "desk", "--port", str(self.port)],
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started(self._process)
        until(self._is_ready)

    def _is_ready(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise RuntimeError(self.log)
        try:
            return client().get(f"{self.url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        """What it has printed and logged."""
        return self._log.read_text(errors="replace")

    @property
    def token(self) -> str:
        """The one-time token that it printed last."""
        return _TOKEN.findall(self.log)[-1]

    @property
    def memory(self) -> int:
        """How much memory its processes have, bytes."""
        return sum(int(each.memory_info().rss) for each in self.processes)

    @property
    def cpu(self) -> float:
        """How much CPU time its processes have used, seconds."""
        used = [each.cpu_times() for each in self.processes]
        return sum(each.user + each.system for each in used)

    @property
    def processes(self) -> list[psutil.Process]:
        """Its process, and those that it has started."""
        assert self._process
        first = psutil.Process(self._process.pid)
        return [first, *first.children()]

    def kill(self) -> None:
        """End it at once, as the kernel does that runs out of memory."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        impatient = threading.Timer(30, self._process.kill)
        impatient.start()
        self._process.wait()
        impatient.cancel()
        self._process = None
