"""Ask the program of ``fresh.py`` for a process, and stand for it: its streams, signals and end.

Run as a program of its own, by ``fresh.command``: whoever starts a command, a shell or a client of
a library, starts this one, which imports almost nothing, and so starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Start the process with our streams, folder and environment, and end as it does."""
    path, *words = sys.argv[1:]
    here = os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than all of this
    request = {"words": words, "folder": here, "environment": dict(os.environ)}
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    socket.send_fds(connection, [b"."], [0, 1, 2])
    connection.sendall(json.dumps(request).encode() + b"\n")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    # It knows the end of what it started by the end of the streams as well, so let go of them.
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    told = b""
    while more := connection.recv(64):
        told += more
    code = int(told or b"70")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


main()
