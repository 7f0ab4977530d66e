"""Type a command of pipelit-agents in a terminal, as a person does."""

from __future__ import annotations

import os
import pty
import select
import sys

from command_line import root


class Terminal:
    """A command that runs in a terminal of its own, in a fork of this process."""

    def __init__(self, *words: str) -> None:
        sys.stdout.flush()
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            try:
                for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"))):
                    setattr(sys, name, os.fdopen(os.dup(number), mode, encoding="utf-8"))
                sys.stderr = sys.stdout
                root().main(list(words), "pipelit-agents")
            except SystemExit as ended:
                sys.stdout.flush()
                os._exit(ended.code if isinstance(ended.code, int) else 0)
            finally:
                os._exit(99)
        self.seen = ""

    def until(self, text: str) -> str:
        """What it prints up to a text; of a command that ends, all."""
        began = len(self.seen)
        while text not in self.seen[began:]:
            ready, _, _ = select.select([self.file], [], [], 30)
            assert ready, self.seen
            try:
                more = os.read(self.file, 65_536).decode()
            except OSError:
                break
            self.seen += more.replace("\r\n", "\n")
        return self.seen[began:]

    def type(self, text: str) -> None:
        """Type a line, or a key."""
        os.write(self.file, text.encode())

    def end(self) -> tuple[int, str]:
        """Its exit code, and the rest of what it prints."""
        rest = self.until("\0")
        _, status = os.waitpid(self.pid, 0)
        os.close(self.file)
        return os.waitstatus_to_exitcode(status), rest
