"""Let the lead of one team ask the agent of another team, on two servers of this machine.

Run ``python two_teams.py``; ``python two_teams.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from langgraph_sdk import get_sync_client
from teams import HERE, introduce, open_team
from wire import Proxy, serve_proxy

from pipelit_agents.errors import PipelitError

TEXT = "Otters swim in rivers. Rivers feed otters. Otters sleep."


def main() -> None:
    """Run the example, as the command line says."""
    options = _options()
    try:
        with (
            open_team(options.folder, "team_a") as team_a,
            open_team(options.folder, "team_b") as team_b,
        ):
            if options.model:
                team_b.credentials.get(options.model.partition(":")[0])
            introduce(team_a, team_b)
            issued = team_a.users.issue_api_key("alice", name="two_teams example")
            try:
                play(options, issued.api_key.get_secret_value())
            finally:
                team_a.users.revoke_api_key(issued.id)
    except (PipelitError, OSError, RuntimeError) as error:
        sys.exit(f"two_teams.py: {error}\n(team B's database is in {options.folder / 'team_b'})")
    except KeyboardInterrupt:
        sys.exit("\ntwo_teams.py: stopped")


def play(options: argparse.Namespace, alice_key: str) -> None:
    """Start both servers, ask three times, and stop them."""
    proxy = Proxy()
    print("1. Two servers start (each takes some seconds):", flush=True)
    of_b = {"READER_MODEL": options.model or ""}
    with served(options.folder / "team_b", of_b) as url_b, serve_proxy(proxy, url_b):
        with served(options.folder / "team_a", {"READER_URL": proxy.url}) as url_a:
            print("\n2. alice asks team A's lead, which asks team B's reader:")
            ask(url_a, alice_key, options.text)
            print("\n3. A proxy between the teams writes 'not' into the answer:")
            proxy.meddles = True
            ask(url_a, alice_key, options.text)
            print(f"   answers that the proxy changed: {proxy.changed}")
        print("\n4. A stranger asks team B's server without a key:")
        answer = httpx.post(f"{url_b}/runs/wait", json={"assistant_id": "agent_reader"})
        print(f"   {answer.status_code}")


def ask(url: str, key: str, text: str) -> None:
    """Send a text to team A's lead, and print the result."""
    client = get_sync_client(url=url, headers={"Authorization": f"Bearer {key}"})
    tasks: Any = [{"agent": "agent_reader", "input": {"text": text}}]
    state = client.runs.wait(None, "lead", input={"tasks": tasks})
    (result,) = state["results"] if isinstance(state, dict) else []
    print(f"   status  {result['status']}")
    print(f"   answer  {result['output'] and result['output']['summary']}")
    print(f"   error   {result['error']}")


@contextmanager
def served(home: Path, settings: dict[str, str]) -> Iterator[str]:
    """Serve a team's folder with ``langgraph dev``, for the length of the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Of this shell, no setting of pipelit-agents: each team has its own, in its .env.
    kept = {name: value for name, value in os.environ.items() if name[:5] not in ("FIELD", "PIPEL")}
    command = ["dev", "--port", str(port), "--no-browser", "--no-reload"]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "langgraph_cli", *command],
            cwd=home,
            env=kept | settings | {"LANGSMITH_TRACING": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(process, url, home / "server.log")
        print(f"   {home.name} at {url}", flush=True)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    while process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/ok").is_success:
                return
        time.sleep(0.2)
    raise RuntimeError(f"a server ended: see {log}\n{log.read_text()[-500:]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", nargs="?", default=TEXT, help="what the reader reads")
    parser.add_argument("--model", help="a chat model, such as openai:gpt-5-mini; default: none")
    parser.add_argument(
        "--folder", type=Path, default=HERE / ".data", help="the folder of both teams"
    )
    options = parser.parse_args()
    if options.model and not all(options.model.partition(":")):
        parser.error("--model is provider:name, such as openai:gpt-5-mini")
    options.folder = options.folder.absolute()
    return options


if __name__ == "__main__":
    main()
