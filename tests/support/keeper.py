"""Own the servers that the test processes of one run share, and end whatever they leave behind.

The first process of a run (pytest, or the controller of pytest-xdist) starts a keeper: this file,
run as a program in a folder of its own. Test processes ask it for a server over a socket in that
folder. The keeper starts each server once, because it answers one request after the other, so no
lock file is needed, and nothing is shared with other runs or other users of the machine.

Nothing counts users, so nobody can count wrong after a crash. The keeper reads a pipe that only the
first process holds: when that process ends, in whatever way, the keeper ends its servers, removes
the folder and exits. A test process keeps its connection open: when it ends, the keeper kills the
servers that it started for itself.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import pytest

ENDS_WITHIN = 30.0  # Seconds that the keeper is given to end its servers.


class Keeper:
    """A run's keeper, as one of the run's processes sees it. It is started when it is first used.

    Args:
        folder: The run's folder, told to pytest-xdist's workers; None in the run's first process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: BinaryIO | None = None
        self._lock = threading.RLock()

    @property
    def folder(self) -> Path:
        """The run's folder. Its path is short enough for sockets, and it ends with the run."""
        with self._lock:
            if self._folder is None:
                self._folder = self._start()
            return self._folder

    def server(self, name: str) -> Path:
        """Return the folder of the shared server: ``postgres`` or ``redis``.

        Raises:
            RuntimeError: It doesn't start; the message says why.
        """
        return Path(self._ask(start=name))

    def end_with_us(self, pid: int) -> None:
        """Have a process and its children killed when this process has ended."""
        self._ask(watch=pid)

    @contextmanager
    def own_folder(self) -> Iterator[Path]:
        """Make a folder for a test, with a short path, that goes at the latest with the run."""
        with tempfile.TemporaryDirectory(prefix="own-", dir=self.folder) as folder:
            yield Path(folder)

    def close(self) -> None:
        """Leave the keeper; in the process that started it, end it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._process is None:
                return
            process, self._process = self._process, None
            assert process.stdin
            # A word, not only the end of the pipe, which a forked child may still hold.
            with process.stdin as pipe, suppress(BrokenPipeError):
                pipe.write(b"end\n")
                pipe.flush()
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDS_WITHIN)
            # Nothing is left of its group, unless somebody killed it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="pipelit-tests-", dir=_temporary()))
        if os.geteuid() == 0:
            # PostgreSQL runs as another user then, who passes through to a folder of its own.
            folder.chmod(0o711)
        with socket.socket(socket.AF_UNIX) as listener:
            # It listens before it is started, so whoever connects needn't try again.
            listener.bind(str(folder / "keeper"))
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), str(folder)],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                # Ctrl-C is for pytest, which ends the keeper afterwards.
                start_new_session=True,
            )
        return folder

    def _ask(self, **request: object) -> str:
        with self._lock:
            try:
                if self._connection is None:
                    with socket.socket(socket.AF_UNIX) as connection:
                        connection.connect(str(self.folder / "keeper"))
                        self._connection = connection.makefile("rwb", buffering=0)
                self._connection.write(json.dumps(request).encode() + b"\n")
                answer = self._connection.readline()
            except OSError as error:
                raise RuntimeError(f"the keeper of the tests' servers is gone: {error}") from error
        if not answer:
            raise RuntimeError("the keeper of the tests' servers has ended")
        found = json.loads(answer)
        if "error" in found:
            raise RuntimeError(found["error"])
        return str(found["answer"])


def _temporary() -> Path:
    """A folder for temporary files that every user may pass through, if we are root."""
    usual = Path(tempfile.gettempdir())
    for folder in (usual, Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp is used in it
        ways = (folder, *folder.resolve().parents)
        if os.geteuid() != 0 or all(each.stat().st_mode & stat.S_IXOTH for each in ways):
            return folder
    return usual


# The keeper of this process's run. Outside pytest, as in the benchmarks, there is none.
_current: Keeper | None = None


def ends_with_us(process: subprocess.Popen[Any]) -> None:
    """Have a server that a test started for itself killed when the test process is killed."""
    if _current is not None:
        _current.end_with_us(process.pid)


def pytest_configure(config: pytest.Config) -> None:
    """Take the settings of the user's own PostgreSQL away, and the keeper that xdist told us."""
    global _current
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so, and our processes would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [each for each in os.environ if each.startswith("PG")]:
        del os.environ[name]
    told = getattr(config, "workerinput", {}).get("keeper")
    _current = Keeper(Path(told) if told else None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where its run's keeper is."""
    assert _current
    node.workerinput["keeper"] = str(_current.folder)


def pytest_unconfigure() -> None:
    """End the keeper with the run."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


@pytest.fixture(scope="session")
def keeper() -> Keeper:
    """The keeper of this run."""
    assert _current
    return _current


# The program


class _Program:
    def __init__(self, folder: Path, listener: socket.socket, stack: ExitStack) -> None:
        self._folder = folder
        self._listener = listener
        self._stack = stack
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._servers: dict[str, Path] = {}

    def serve(self) -> None:
        """Answer until the run's first process says so or is gone."""
        self._selector.register(sys.stdin.buffer, selectors.EVENT_READ, None)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin.buffer:
                    return
                if key.fileobj is self._listener:
                    with self._listener.accept()[0] as accepted:
                        connection = accepted.makefile("rwb", buffering=0)
                    self._selector.register(connection, selectors.EVENT_READ, [])
                else:
                    self._answer(key.fileobj, key.data)

    def end_watched(self) -> None:
        """Kill what test processes have started that are there yet, or ended this moment."""
        for key in list(self._selector.get_map().values()):
            for each in key.data or ():
                _kill(each)

    def _answer(self, connection: Any, watched: list[psutil.Process]) -> None:
        try:
            line = connection.readline()
        except OSError:
            line = b""
        if not line:
            self._selector.unregister(connection)
            connection.close()
            for each in watched:
                _kill(each)
            return
        try:
            answer = {"answer": str(self._done(json.loads(line), watched))}
        except Exception:  # Whatever it is, the test process is to show it.
            answer = {"error": traceback.format_exc()}
        with suppress(OSError):
            connection.write(json.dumps(answer).encode() + b"\n")

    def _done(self, request: dict[str, Any], watched: list[psutil.Process]) -> Path | None:
        if "watch" in request:
            with suppress(psutil.NoSuchProcess):
                watched.append(psutil.Process(request["watch"]))
            return None
        name = request["start"]
        if name not in self._servers:
            folder = self._folder / name
            folder.mkdir()
            try:
                self._start(name, folder)
            except BaseException:
                shutil.rmtree(folder)
                raise
            self._servers[name] = folder
        return self._servers[name]

    def _start(self, name: str, folder: Path) -> None:
        # Imported late: they import this module, too.
        if name == "postgres":
            from postgres import SHARED, PostgresServer

            server = self._stack.enter_context(PostgresServer(folder, *SHARED))
            server.start()
        else:
            from redis_server import RedisServer

            redis = RedisServer(folder)
            self._stack.callback(redis.close)
            redis.start()


def _kill(process: psutil.Process) -> None:
    # psutil knows a process by its start as well, so another one with its number is safe.
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def _end(*_: object) -> None:
    sys.exit()


def main() -> None:
    """Keep servers, until the pipe that is our standard input ends."""
    number, name = sys.argv[1:]
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _end)
    folder = Path(name)
    with ExitStack() as stack, socket.socket(fileno=int(number)) as listener:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        program = _Program(folder, listener, stack)
        stack.callback(program.end_watched)
        program.serve()


if __name__ == "__main__":
    main()
