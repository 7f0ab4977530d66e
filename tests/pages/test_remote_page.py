"""docs/remote.md is followed: its commands, its files, its servers, its script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fresh
import httpx
import pytest
from integration_pages import read
from langgraph_server import LangGraphServer
from paths import ROOT
from redis_server import free_port

PAGE = (ROOT / "docs" / "remote.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
READ = read("remote", folder=ROOT / "docs")
(SCRIPT,) = READ.pieces
FILES = [READ.files[f"{each}/langgraph.json"] for each in ("research", "acme")]
SERVED = ["research", "acme"]


@dataclass
class Typed:
    """The page with two free ports in the place of its own."""

    folder: Path
    ports: dict[str, str]

    def text(self, code: str) -> str:
        """What is typed."""
        for port, free in self.ports.items():
            code = code.replace(port, free)
        return code

    def run(self, *command: str, **more: str) -> str:
        """What a command prints."""
        ours = ("FIELD_", "PIPELIT_", "LANGSMITH_", "LANGGRAPH_", "LANGCHAIN_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        with tempfile.TemporaryDirectory() as first:
            fresh.on_path(Path(first))
            usual = (str(Path(sys.executable).parent), kept["PATH"])
            kept["PATH"] = os.pathsep.join([first, *usual])
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=kept | more,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _start(typed: Typed, block: str, config: str) -> LangGraphServer:
    # Its own words: a folder, settings, and a command whose options stand on the page.
    change, start = typed.text(block).splitlines()
    folder = typed.folder / change.removeprefix("cd ")
    *settings, langgraph, dev = start.split(" --port ")[0].split()
    assert (langgraph, dev) == ("langgraph", "dev")
    port, *options = start.split(" --port ")[1].split()
    (folder / "langgraph.json").write_text(config)
    env = dict(setting.split("=", 1) for setting in settings)
    return LangGraphServer.of(folder, env, port=int(port), options=options)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Typed, str]]:
    """What the page's script prints when all before it was typed."""
    typed = Typed(
        tmp_path_factory.mktemp("page"), {"2024": str(free_port()), "2025": str(free_port())}
    )
    commands = [block for block in SHELL if "langgraph dev" not in block]
    starts = [block for block in SHELL if "langgraph dev" in block]
    *commands, export = [re.sub(r"^pip install .*\n", "", block) for block in commands]
    typed.run("bash", "-euo", "pipefail", "-c", "\n".join(commands))
    key = typed.run("bash", "-euo", "pipefail", "-c", f"{export}\necho $ALICE_KEY").strip()
    with (
        _start(typed, starts[0], FILES[0]),
        _start(typed, starts[1], FILES[1]),
    ):
        yield typed, typed.run(*fresh.command(typed.text(SCRIPT.code)), ALICE_KEY=key)


@pytest.mark.process
def test_the_page_ends_with_a_verified_answer(answered: tuple[Typed, str]) -> None:
    """Who types all of it sees what the page says that it prints."""
    assert answered[1] == SCRIPT.prints


@pytest.mark.process
def test_both_domains_wrote_down_what_was_proven(answered: tuple[Typed, str]) -> None:
    """Research has verified the lead's request, and acme the reader's answer."""
    show = (
        "from pipelit_agents import Pipelit; "
        "print([e.action for e in Pipelit.from_env().audit.list() if e.outcome == 'ok'])"
    )
    typed, _ = answered
    for domain, action in (("research", "verify.request"), ("acme", "verify.proof")):
        said = Typed(typed.folder / domain, {}).run(*fresh.command(show))
        assert action in said


@pytest.mark.process
def test_what_a_studio_asks_for_is_there(answered: tuple[Typed, str]) -> None:
    """The served lead is drawn with its children's names, and has schemas to fill in."""
    typed, _ = answered
    key = typed.run(
        "bash", "-c", "cd acme && pipelit-agents users keys issue alice --name studio"
    ).strip()
    with httpx.Client(
        base_url=f"http://127.0.0.1:{typed.ports['2025']}",
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    ) as client:
        (found,) = client.post("/assistants/search", json={"graph_id": "lead"}).json()
        path = f"/assistants/{found['assistant_id']}"
        drawn = client.get(f"{path}/graph", params={"xray": True}).json()
        schemas = client.get(f"{path}/schemas").json()
    names = " ".join(str(node["id"]) for node in drawn["nodes"])
    assert all(word in names for word in ("delegate", "agent_reader", "report"))
    assert "tasks" in schemas["input_schema"]["properties"]


def test_the_repositorys_own_file_serves_both_graphs() -> None:
    """langgraph.json is the two of the page in one."""
    whole = json.loads((ROOT / "langgraph.json").read_text())
    research, acme = map(json.loads, FILES)
    assert whole == research | {"graphs": acme["graphs"] | research["graphs"]}
    assert acme | {"graphs": {}} == research | {"graphs": {}}


@pytest.mark.process
@pytest.mark.parametrize("side", SERVED)
def test_the_graphs_of_the_page_can_be_served(answered: tuple[Typed, str], side: str) -> None:
    """The child and the parent of one's own are made in the folders of the page."""
    folder = answered[0].folder / side
    (name,) = [each for each in READ.files if each.startswith(side) and each.endswith(".py")]
    (folder / Path(name).name).write_text(READ.files[name])
    show = f"from {Path(name).stem} import reader; print(type(reader))"
    assert "Child" in Typed(folder, {}).run(*fresh.command(show))


def test_every_block_is_used() -> None:
    """A block that is added to the page must be run by a test here."""
    assert len(SHELL) == 7
    assert len(READ.files) == 4
