"""Run code in a new process that has imported LangGraph already, which takes seconds.

A program that has imported what most blocks of the pages import waits for requests, and forks a
process for each. The code runs as with ``python -c``: it has a module ``__main__`` of its own, a
working directory, an environment and standard streams.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = ("langchain.agents", "langgraph.graph", "pipelit_agents.cli", "pipelit_agents.graphs")


class _Program:
    """The program that forks; one for each test process, started when it is first used."""

    process: subprocess.Popen[str] | None = None

    def ask(self, **request: Any) -> int:
        """Start a process, or wait for one: its number, or its exit code."""
        if self.process is None:
            # Imported late: the program runs this file without the tests' other modules.
            from keeper import ends_with_us

            self.process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            ends_with_us(self.process)
            atexit.register(self.close)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.communicate()
            self.process = None


_program = _Program()


def run(
    code: str,
    environment: Mapping[str, str],
    *words: str,
    folder: Path | None = None,
    typed: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run code as ``python -c`` does.

    Args:
        code: The code.
        environment: All of its environment.
        words: Its ``sys.argv`` after the first.
        folder: The working directory, if it isn't that of the test.
        typed: What it reads from its standard input.

    Returns:
        Exit code, negative for a signal, and output.
    """
    with _streams() as streams:
        streams[0].write_text(typed)
        done = _program.ask(wait=_start(code, environment, words, folder, streams))
        said = [each.read_text() for each in streams[1:]]
    return subprocess.CompletedProcess(words, done, *said)


def killed_after_a_line(code: str, *words: str) -> str:
    """Run code, and kill it when it has printed a line, which is returned."""
    with _streams() as streams:
        os.mkfifo(streams[1])
        process = _start(code, os.environ, words, None, streams)
        with streams[1].open() as said:
            line = said.readline()
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
) -> int:
    return _program.ask(
        code=code,
        folder=str(folder or Path.cwd()),
        environment=dict(environment),
        words=["-c", *words],
        streams=[str(each) for each in streams],
    )


# The program


def _behave(request: dict[str, Any]) -> NoReturn:
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2)
    for number, (path, how) in enumerate(zip(request["streams"], flags, strict=True)):
        opened = os.open(path, how, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["words"]
    # As with -c: the working directory first, and not the folder of this file.
    sys.path[0] = ""
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8") for number, mode in enumerate("rww")
    )
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    code = 0
    try:
        exec(compile(request["code"], "<string>", "exec"), main.__dict__)  # noqa: S102 - a test's
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    import threading

    # Threads and functions for the end of the interpreter, as without a fork.
    threading._shutdown()  # type: ignore[attr-defined] # no public name
    atexit._run_exitfuncs()  # no public name
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _answer(request: dict[str, Any]) -> int:
    if "wait" in request:
        _, status = os.waitpid(request["wait"], 0)
        return os.waitstatus_to_exitcode(status)
    child = os.fork()
    if child == 0:
        try:
            _behave(request)
        finally:
            os._exit(70)
    return child


def main() -> None:
    """Start processes, or wait for them, as the lines of the standard input say."""
    for name in IMPORTED:
        __import__(name)
    for line in sys.stdin:
        sys.stdout.write(f"{_answer(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
