"""A real LangGraph Server, as ``langgraph dev`` starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from keeper import ends_with_us
from redis_server import free_port, until

HTTP = {
    "disable_meta": True,
    "disable_mcp": True,
    "disable_a2a": True,
    "disable_ui": True,
    "cors": {"allow_origins": []},
}


class LangGraphServer:
    """A server of its own process group.

    Args:
        directory: Where it runs, and keeps its files.
        graphs: The graphs by name, ``/path/file.py:graph`` or ``module:graph``.
        env: Its settings.
    """

    def __init__(self, directory: Path, graphs: Mapping[str, str], env: Mapping[str, str]) -> None:
        config = {
            "dependencies": ["."],
            "graphs": dict(graphs),
            "auth": {"path": "pipelit_agents.server:auth", "disable_studio_auth": True},
            "http": HTTP,
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
        made._prepare(directory, env, port, options)
        return made

    def _prepare(
        self, directory: Path, env: Mapping[str, str], port: int, options: Sequence[str]
    ) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "langgraph_cli", "dev", "--port", str(port)]
        self._command += options
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

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ends_with_us(self._process)
        until(self._answers)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(self.log()[-3000:])
        try:
            return httpx.get(f"{self.url}/ok", timeout=1).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Ends it with all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> LangGraphServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
