"""docs/examples/child.ts, asked by a real lead: they share the protocol and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from spawning import parent_of

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.graphs import remote_child

SOURCE = ROOT / "docs" / "examples" / "child.ts"
NPM = shutil.which("npm")
PACKAGES = ["@langchain/langgraph@1", "@langchain/core@1", "tsx@4"]
# Stands in for LangGraph.js's own server, which no test needs: it keeps one process of the child.
SERVE = """
import { createInterface } from "node:readline";
import { graph } from "./child.ts";
for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify(await graph.invoke(JSON.parse(line))));
  } catch (error) {
    console.log(JSON.stringify({ __error__: String(error) }));
  }
}
"""

pytestmark = pytest.mark.skipif(NPM is None, reason="Node isn't installed here")


class Child:
    """The child's process, behind as much of LangGraph's API as a lead uses."""

    def __init__(self, folder: Path, child_uri: str, parent_uri: str) -> None:
        self.requests: list[Any] = []
        environment = {"CHILD_URI": child_uri, "PARENT_URI": parent_uri, "PATH": "/usr/bin:/bin"}
        node = shutil.which("node")
        assert node is not None
        environment["PATH"] = f"{Path(node).parent}:{environment['PATH']}"
        self.process = subprocess.Popen(
            [str(folder / "node_modules" / ".bin" / "tsx"), "serve.mts"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        answers: dict[str, Any] = {}
        child = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                child.requests.append(body["input"])
                run = str(uuid.uuid4())
                answers[run] = child.ask(body["input"])
                self.reply({"run_id": run})

            def do_GET(self) -> None:
                run = self.path.split("/")[4]
                joined = self.path.endswith("/join")
                self.reply(answers[run] if joined else {"run_id": run, "status": "success"})

            def reply(self, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ask(self, given: Any) -> Any:
        """What the child answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self.server.shutdown()
        self.server.server_close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pipelit, Child]]:
    """A lead's domain, and a child that knows two URIs."""
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    install = [str(NPM), "install", "--silent", "--no-fund", "--no-audit", *PACKAGES]
    subprocess.run(install, cwd=folder, check=True, timeout=300)
    shutil.copy(SOURCE, folder / "child.ts")
    (folder / "serve.mts").write_text(SERVE)
    made = []
    for name in ("here", "there"):
        url = f"sqlite:///{folder}/{name}.db"
        made.append(Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]))
        made[-1].create_schema()
        made[-1].users.create("alice")
    here, there = made
    here.users.create_agent("agent_lead", owner="alice", purpose="leads")
    there.users.create_agent("agent_counter", owner="alice", purpose="counts")
    child_uri = there.users.issue_peering("agent_counter", domain="here")
    here.users.enroll_peer(child_uri, name="agent_counter", domain="there")
    parent_uri = here.users.issue_peering("agent_lead", domain="there")
    child = Child(folder, child_uri.get_secret_value(), parent_uri.get_secret_value())
    yield here, child
    child.close()
    for each in made:
        each.close()


def ask(here: Pipelit, child: Child, text: str) -> Any:
    """What the lead gets."""
    counter = remote_child("agent_counter", url=child.url, credential=None)
    lead = parent_of(here.agent("agent_lead"), {"agent_counter": counter}, on_failure="collect")
    task = {"agent": "agent_counter", "input": {"text": text}}
    (result,) = lead.invoke({"tasks": [task]})["results"]
    return result


@pytest.mark.process
@pytest.mark.everywhere
def test_its_answer_is_verified(world: tuple[Pipelit, Child]) -> None:
    """A child in another language, written by docs/protocol.md, is believed."""
    result = ask(*world, "otters sleep in holts ✓")
    assert (result["status"], result["error"]) == ("verified", None)
    assert result["output"] == {"text": "otters sleep in holts ✓", "words": 5}
    assert result["bound"]


@pytest.mark.process
@pytest.mark.everywhere
def test_it_works_for_its_lead_and_once(world: tuple[Pipelit, Child]) -> None:
    """A request that comes again, a changed one and another caller's get an error."""
    here, child = world
    ask(here, child, "once")
    sent = child.requests[-1]
    assert "__error__" in child.ask(sent)
    for change in ({"depth": 2}, {"parent": "agent_boss"}, {"payload": "eyJ0ZXh0IjoiRVZJTCJ9"}):
        assert "__error__" in child.ask({"request": sent["request"] | change})


def test_the_example_is_short() -> None:
    """What somebody has to write is a page: under 75 lines, the types and comments among them."""
    assert len(SOURCE.read_text().splitlines()) < 80
