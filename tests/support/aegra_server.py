"""Aegra, as many processes behind one address, without Docker."""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from aegra_environment import HOME
from keeper import ends_with_us
from redis_server import free_port, until

PYTHON = HOME / "bin" / "python"


class AegraServer:
    """One process of Aegra.

    Args:
        folder: A folder with an ``aegra.json``.
        env: Its settings.
        name: What its log is called.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], name: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"{name}.log"
        ours = ("LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "PIPELIT_", "FIELD_", "PYTEST_")
        # Its modules' bytecode is stored, so that only the first process has to compile them.
        ours += ("PYTHONDONTWRITEBYTECODE",)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self._env = kept | {"LANGSMITH_TRACING": "false", "LOG_LEVEL": "WARNING"} | dict(env)
        self._folder = folder

    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--no-access-log")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "uvicorn", "aegra_api.main:app", *options],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        ends_with_us(self.process)
        until(self._answers)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(self.log()[-3000:])
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


class Balancer:
    """What the gateway of the Compose file does: it spreads connections over living servers.

    Args:
        ports: Those of the servers.
    """

    def __init__(self, *ports: int) -> None:
        self._ports = list(ports)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self.url = ""

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._pass_on, "127.0.0.1", 0, backlog=1024)
        )
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for each in left:
            each.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def __enter__(self) -> Balancer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order = list(self._ports)
        self._ports.append(self._ports.pop(0))
        for port in order:
            try:
                near, far = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            both = asyncio.gather(self._copy(reader, far), self._copy(near, writer))
            with suppress(OSError, asyncio.CancelledError):
                await both
            far.close()
            break
        writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # When one side ends, so does the other: each client opens its connections for itself.
        with suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()
