"""Run code in a new process that has imported LangGraph already, which takes seconds.

A program that has imported what most blocks of the pages import waits for requests, and forks a
process for each. The code runs as with ``python -c``: it has a module ``__main__`` of its own, a
working directory, an environment and standard streams. With ``command``, that is a command, which
anybody can start.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

# The command, as the script that is installed for it calls it.
AGENTS = (
    "import sys; sys.argv[0] = 'pipelit-agents'; from pipelit_agents.cli import app; "
    "sys.exit(app())"
)
IMPORTED = ("langchain.agents", "langgraph.graph", "pipelit_agents.cli", "pipelit_agents.graphs")


class _Program:
    """The program that forks; one for each test process, started when it is first used."""

    process: subprocess.Popen[str] | None = None
    folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def socket(self) -> str:
        """Where commands ask it."""
        sys.audit("fresh.start")
        self.start()
        assert self.folder
        return f"{self.folder.name}/socket"

    def ask(self, **request: Any) -> int:
        """Start a process, or wait for one: its number, or its exit code."""
        sys.audit("fresh.start")
        self.start()
        assert self.process
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self) -> None:
        """Start it, if it isn't."""
        if self.process is not None:
            return
        # Imported late: the program runs this file without the tests' other modules.
        from keeper import ends_with_us

        self.folder = tempfile.TemporaryDirectory(prefix="fresh-")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{self.folder.name}/socket")
            listener.listen(64)
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[listener.fileno()],
            )
        ends_with_us(self.process)
        atexit.register(self.close)

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.communicate()
            self.process = None
        if self.folder is not None:
            self.folder.cleanup()


_program = _Program()


def run(
    code: str,
    environment: Mapping[str, str],
    *words: str,
    folder: Path | None = None,
    typed: str = "",
    hidden: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run code as ``python -c`` does.

    Args:
        code: The code.
        environment: All of its environment.
        words: Its ``sys.argv`` after the first.
        folder: The working directory, if it isn't that of the test.
        typed: What it reads from its standard input.
        hidden: Modules that it can't import, and packages with all that is in them, as if they
            weren't installed.

    Returns:
        Exit code, negative for a signal, and output.
    """
    with _streams() as streams:
        streams[0].write_text(typed)
        started = _start(code, environment, words, folder, streams, hidden=[*hidden])
        done = _program.ask(wait=started)
        said = [each.read_text() for each in streams[1:]]
    return subprocess.CompletedProcess(words, done, *said)


def command(code: str = AGENTS, *imports: str) -> list[str]:
    """The words that start a command in a process that is forked.

    Args:
        code: What it runs; its ``sys.argv`` has what is added to these words.
        imports: What the program imports before it forks, beside the usual.
    """
    script = str(Path(__file__).with_name("forked.py"))
    return [sys.executable, "-IS", script, _program.socket, code, ",".join(imports)]


def on_path(folder: Path) -> None:
    """Put a ``pipelit-agents`` into a folder, to be found there by a shell."""
    script = folder / "pipelit-agents"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    script.chmod(0o755)


def start(
    code: str, environment: Mapping[str, str], *words: str, folder: Path, says: Path, imports: str
) -> int:
    """Start code that goes on; its number, for ``ended`` and ``wait``.

    Args:
        code: The code.
        environment: All of its environment.
        words: Its ``sys.argv`` after the first.
        folder: The working directory.
        says: A file that gets what it prints.
        imports: What the program imports before it forks, beside the usual, with commas.
    """
    streams = [Path(os.devnull), says, says]
    return _start(code, environment, words, folder, streams, imports=imports)


def ended(process: int) -> bool:
    """Whether it has ended. It must be waited for all the same."""
    return bool(_program.ask(ended=process))


def wait(process: int) -> int:
    """Wait until it ends; its exit code, negative for a signal."""
    return _program.ask(wait=process)


def killed_after_a_line(code: str, *words: str, lines: int = 1) -> str:
    """Run code, and kill it when it has printed a line, or more; the last is returned."""
    with _streams() as streams:
        os.mkfifo(streams[1])
        process = _start(code, os.environ, words, None, streams)
        with streams[1].open() as said:
            line = [said.readline() for _ in range(lines)][-1]
            # It isn't waited for yet, so the number is still its own.
            os.kill(process, signal.SIGKILL)
        _program.ask(wait=process)
    return line


@contextmanager
def _streams() -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory() as name:
        streams = [Path(name) / each for each in ("stdin", "stdout", "stderr")]
        streams[0].touch()
        yield streams


def _start(
    code: str,
    environment: Mapping[str, str],
    words: Sequence[str],
    folder: Path | None,
    streams: list[Path],
    **more: Any,
) -> int:
    return _program.ask(
        **more,
        code=code,
        folder=str(folder or Path.cwd()),
        environment=dict(environment),
        words=["-c", *words],
        streams=[str(each) for each in streams],
    )


# The program


class _Hiding:
    """A finder of modules that doesn't find some."""

    def __init__(self, finder: Any, hidden: frozenset[str]) -> None:
        self._finder, self._hidden = finder, hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return None for a module that is hidden, as if it weren't installed."""
        return None if _is_in(name, self._hidden) else self._finder.find_spec(name, path, target)


def _is_in(name: str, packages: frozenset[str]) -> bool:
    while name:
        if name in packages:
            return True
        name = name.rpartition(".")[0]
    return False


def _hide(packages: frozenset[str]) -> None:
    """Make packages unknown here, and forget those that were imported, and ours that use them."""
    gone = {name for name in sys.modules if _is_in(name, packages)}
    ours = [name for name in sys.modules if name.partition(".")[0] == "pipelit_agents"]
    more = True
    while more:
        more = {name for name in ours if name not in gone and _uses(sys.modules[name], gone)}
        gone |= more
    for name in gone:
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).pop(last, None)
    for name in gone:
        del sys.modules[name]
    sys.meta_path[:] = [_Hiding(each, packages) for each in sys.meta_path]


def _uses(module: Any, gone: set[str]) -> bool:
    for each in vars(module).values():
        if isinstance(each, types.ModuleType):
            # A package knows its own modules without using them.
            used = each.__name__ in gone and not each.__name__.startswith(f"{module.__name__}.")
        else:
            used = isinstance(each, type | types.FunctionType) and each.__module__ in gone
        if used:
            return True
    return False


def _behave(request: dict[str, Any]) -> NoReturn:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # It may have been asked for under another environment.
    tempfile.tempdir = None
    sys.argv = request["words"]
    # As with -c: the working directory first, and not the folder of this file.
    sys.path[0] = ""
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", errors=errors)
        for number, (mode, errors) in enumerate(
            [("r", "strict"), ("w", "strict"), ("w", "backslashreplace")]
        )
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = (  # type: ignore[misc] # as at a start
        *(sys.stdin, sys.stdout, sys.stderr),
    )
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if request.get("hidden"):
        _hide(frozenset(request["hidden"]))
    code = 0
    try:
        exec(compile(request["code"], "<string>", "exec"), main.__dict__)  # noqa: S102 - a test's
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    import threading

    # Threads and functions for the end of the interpreter, as without a fork.
    threading._shutdown()  # type: ignore[attr-defined] # no public name
    atexit._run_exitfuncs()  # no public name
    try:
        sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"Exception ignored while flushing sys.stdout: {error!r}\n")
        code = 120
    with suppress(OSError):
        sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _open(paths: list[str]) -> None:
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2)
    for number, (path, how) in enumerate(zip(paths, flags, strict=True)):
        opened = os.open(path, how, 0o600)
        os.dup2(opened, number)
        os.close(opened)


def _answer(request: dict[str, Any]) -> int:
    if "wait" in request:
        _, status = os.waitpid(request["wait"], 0)
        return os.waitstatus_to_exitcode(status)
    if "ended" in request:
        found = os.waitid(os.P_PID, request["ended"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return int(found is not None)
    _import(request.get("imports", ""))
    child = os.fork()
    if child == 0:
        try:
            _open(request["streams"])
            _behave(request)
        finally:
            os._exit(70)
    return child


def _import(names: str) -> None:
    for name in filter(None, names.split(",")):
        __import__(name)


def _serve(connection: socket.socket) -> int:
    """Start the process that a command stands for, and one that stands between them: its number."""
    # One byte, as the streams come with it, and the rest is a line.
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = json.loads(connection.makefile("r").readline())
    request["code"], imports, *words = request["words"]
    request["words"] = ["-c", *words]
    _import(imports)
    between = os.fork()
    if between == 0:
        try:
            _stand_between(connection, streams, request)
        finally:
            os._exit(70)
    for each in streams:
        os.close(each)
    return between


def _stand_between(connection: socket.socket, streams: list[int], request: dict[str, Any]) -> None:
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        connection.close()
        for number, each in enumerate(streams):
            os.dup2(each, number)
            os.close(each)
        # A terminal, if it is one, is its own: /dev/tty.
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        _behave(request)
    for each in (theirs, *streams):
        os.close(each)
    # Nor do we hold the ends of the pipes by which the tests ask our parent.
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    with selectors.DefaultSelector() as selector:
        for readable in (connection.fileno(), ours):
            selector.register(readable, selectors.EVENT_READ)
        while ours not in {key.fd for key, _ in selector.select()}:
            number = connection.recv(1)
            # Who asked for it may send it a signal, or is gone, and then it goes as well.
            os.kill(child, number[0] if number else signal.SIGKILL)
            if not number:
                selector.unregister(connection.fileno())
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def main() -> None:
    """Start processes, or wait for them, as the lines of the standard input say, or commands."""
    _import(",".join(IMPORTED))
    between: set[int] = set()
    with (
        socket.socket(fileno=int(sys.argv[1])) as listener,
        selectors.DefaultSelector() as selector,
    ):
        for each in (sys.stdin, listener):
            selector.register(each, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    with listener.accept()[0] as connection:
                        between.add(_serve(connection))
                elif line := sys.stdin.readline():
                    sys.stdout.write(f"{_answer(json.loads(line))}\n")
                    sys.stdout.flush()
                else:
                    return
            between -= {each for each in between if os.waitpid(each, os.WNOHANG)[0]}


if __name__ == "__main__":
    main()
