"""Run the desk in several processes, which listen on one port."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, NamedTuple, NoReturn, TypeAlias

from pipelit_agents.errors import ConfigurationError

__all__ = ["Workers", "listen_for", "require_forks"]

# What a worker does: it serves on a socket, calls the function once it accepts connections, and
# ends when the file descriptor can be read, because then the process that started it is gone.
Work: TypeAlias = Callable[[socket.socket, Callable[[], None], int], None]

_LOG: Final = logging.getLogger(__name__)
# Seconds. A worker that ends sooner after its start is started again later, and not forever.
_SHORT_LIFE: Final = 5.0
_MAX_SHORT_LIVES: Final = 5
RESTART_DELAY: Final = 1.0
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def require_forks(count: int) -> None:
    """Require a system on which several processes can share a port.

    Raises:
        ConfigurationError: There is none, and more than one is wanted.
    """
    if count > 1 and not hasattr(os, "fork"):
        raise ConfigurationError(
            "several processes of the desk need a system with fork: set PIPELIT_DESK_WORKERS=1"
        )


def listen_for(
    count: int, address: tuple[str, int], family: socket.AddressFamily, *, backlog: int
) -> list[socket.socket]:
    """Return a listening socket for each worker, all of one port.

    Where the system shares out connections among sockets, each worker has its own, because of
    several that accept from one the fastest would get nearly all.

    Raises:
        OSError: The address can't be listened on, also if another program listens on it.
    """
    first = socket.create_server(address, family=family, backlog=backlog)
    if count == 1 or not sys.platform.startswith("linux"):
        return [first] * count
    # The first one didn't share the port, so it failed if anything else has it.
    address = (address[0], first.getsockname()[1])
    first.close()
    return [
        socket.create_server(address, family=family, backlog=backlog, reuse_port=True)
        for _ in range(count)
    ]


class _Worker(NamedTuple):
    """A process that serves.

    Attributes:
        process: Its number in the system.
        number: Which of the workers it is, from 0.
        since: When it started, of a monotonic clock.
    """

    process: int
    number: int
    since: float


class Workers:
    """Processes that serve until this one is stopped; one that ends by itself is started again.

    Args:
        work: What each does.
        listeners: The socket of each.
    """

    def __init__(self, work: Work, listeners: Sequence[socket.socket]) -> None:
        self._work = work
        self._listeners = listeners
        # By the end of a pipe whose other end only the worker has: it can be read when the worker
        # is ready, and ends with the worker. This process may have other children, too.
        self._running: dict[int, _Worker] = {}
        self._short_lives = 0
        self._stopping = False
        # Nothing is written to it: it ends with this process, also if that is killed.
        self._alive, self._living = os.pipe()

    def run(self, started: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT, and return when all workers have ended.

        Args:
            started: Called once all workers accept connections.

        Raises:
            ConfigurationError: The workers end again and again; the log says why.
        """
        before = {each: signal.signal(each, self._stop) for each in _STOP_SIGNALS}
        try:
            for number in range(len(self._listeners)):
                self._start(number)
            waiting = len(self._listeners)
            while self._running:
                for report in select.select([*self._running], [], [])[0]:
                    if not os.read(report, 1):
                        self._ended(report)
                    elif waiting:
                        waiting -= 1
                        if not waiting:
                            started()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
            os.close(self._alive)
            os.close(self._living)
        if self._short_lives > _MAX_SHORT_LIVES:
            raise ConfigurationError("the desk's processes ended again and again: the log says why")

    def _start(self, number: int) -> None:
        report, theirs = os.pipe()
        process = os.fork()
        if not process:
            for each in _STOP_SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            for other in (report, *self._running):
                os.close(other)
            self._serve(number, theirs)
        os.close(theirs)
        self._running[report] = _Worker(process, number, time.monotonic())
        if self._stopping:
            # The signal came between the fork and here.
            self._signal(process)

    def _serve(self, number: int, report: int) -> NoReturn:
        # So that only the first process has it; what closes it later closes the copy.
        os.dup2(self._alive, self._living)
        self._work(self._listeners[number], lambda: _write(report), self._alive)
        # The blocks around the caller end in this process too, and close what it has opened.
        raise SystemExit(0)

    def _ended(self, report: int) -> None:
        worker = self._running.pop(report)
        os.close(report)
        _, status = os.waitpid(worker.process, 0)
        if self._stopping:
            return
        lived = time.monotonic() - worker.since
        self._short_lives = self._short_lives + 1 if lived < _SHORT_LIFE else 0
        code = os.waitstatus_to_exitcode(status)
        _LOG.error("process %d of the desk ended (%d)", worker.number + 1, code)
        if self._short_lives > _MAX_SHORT_LIVES:
            self._stop_all()
            return
        if self._short_lives:
            time.sleep(RESTART_DELAY)
        if not self._stopping:
            self._start(worker.number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stop_all()

    def _stop_all(self) -> None:
        self._stopping = True
        for worker in [*self._running.values()]:
            self._signal(worker.process)

    @staticmethod
    def _signal(process: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def _write(report: int) -> None:
    os.write(report, b"1")
