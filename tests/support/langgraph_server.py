"""A real LangGraph Server, as ``langgraph dev`` starts it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import fresh
from keeper import ends_with_us
from redis_server import free_port, until

HTTP = {
    "disable_meta": True,
    "disable_mcp": True,
    "disable_a2a": True,
    "disable_ui": True,
    "cors": {"allow_origins": []},
}


# What a server imports and doesn't set up by its environment, which a fork has afterwards.
IMPORTED = (
    *("langgraph_cli.cli", "langchain_core.tracers.event_stream", "langgraph_sdk", "uvicorn"),
    *("starlette.applications", "langgraph_grpc_common.checkpointer", "structlog"),
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
)
FORKED = "import sys; sys.argv[0] = 'langgraph'; from langgraph_cli.cli import cli; sys.exit(cli())"


class LangGraphServer:
    """A server.

    It is a new interpreter, so that what it imports late is seen to block, if it does. One that
    is forked is as good for all else, and costs half.

    Args:
        directory: Where it runs, and keeps its files.
        graphs: The graphs by name, ``/path/file.py:graph`` or ``module:graph``.
        env: Its settings.
        app: An application of our own beside the server's, ``./file.py:app``.
        forked: From a process that has imported what a server is made of.
    """

    forked = False

    def __init__(
        self,
        directory: Path,
        graphs: Mapping[str, str],
        env: Mapping[str, str],
        *,
        app: str | None = None,
    ) -> None:
        config = {
            "dependencies": ["."],
            "graphs": dict(graphs),
            "auth": {"path": "pipelit_agents.server:auth", "disable_studio_auth": True},
            "http": HTTP if app is None else HTTP | {"app": app},
        }
        (directory / "langgraph.json").write_text(json.dumps(config))
        options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "10"]
        self._prepare(directory, env, free_port(), options)

    @classmethod
    def of(
        cls, directory: Path, env: Mapping[str, str], *, port: int, options: Sequence[str]
    ) -> LangGraphServer:
        """A server of a folder that has a ``langgraph.json``."""
        made = cls.__new__(cls)
        made.forked = True
        made._prepare(directory, env, port, options)
        return made

    def _prepare(
        self, directory: Path, env: Mapping[str, str], port: int, options: Sequence[str]
    ) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._words = ["dev", "--port", str(port), *options]
        ours = ("LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "PIPELIT_", "FIELD_", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self._env = kept | {
            "LANGSMITH_TRACING": "false",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGGRAPH_NO_VERSION_CHECK": "true",
            **env,
        }

    def log(self) -> str:
        """All that it has written."""
        return (self.directory / "server.log").read_text(errors="replace")

    def start(self, *, forked: bool | None = None) -> None:
        """Starts it, and waits until it answers."""
        self._forked = self.forked if forked is None else forked
        if self._forked:
            self._pid = fresh.start(
                FORKED,
                self._env,
                *self._words,
                folder=self.directory,
                says=self.directory / "server.log",
                imports=",".join(IMPORTED),
            )
        else:
            with (self.directory / "server.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "langgraph_cli", *self._words],
                    cwd=self.directory,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            ends_with_us(self._process)
        until(self._answers)

    def _ended(self) -> bool:
        return fresh.ended(self._pid) if self._forked else self._process.poll() is not None

    def _answers(self) -> bool:
        if self._ended():
            raise RuntimeError(self.log()[-3000:])
        # Asked every moment, so without a client that makes a TLS context each time.
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
        try:
            connection.request("GET", "/ok")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends it with all that it started."""
        if self._forked:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            fresh.wait(self._pid)
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> LangGraphServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
