"""A small HTTP server on a port of this machine, for a test's own handler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    # Tests connect by the hundred at one moment.
    request_queue_size = 128
    daemon_threads = True


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve for the length of the block.

    Args:
        handler: Answers the requests. None is written to standard error.

    Yields:
        The server's address, without a path.
    """
    quiet = type(handler.__name__, (handler,), {"log_message": lambda *_: None})
    with _Server(("127.0.0.1", 0), quiet) as running:
        thread = threading.Thread(target=running.serve_forever, args=[0.02])
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()
