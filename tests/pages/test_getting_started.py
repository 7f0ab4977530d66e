"""docs/getting-started.md, from an empty folder to its application."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import fresh
import pyotp
import pytest
from integration_pages import environment, read, write_files
from openai_server import ChatServer, chat_server
from paths import ROOT
from secured import answer

DOCS = ROOT / "docs"
TEXT = (DOCS / "getting-started.md").read_text()
KEYS = {"weather": "wk-2718281828459045", "openai": "sk-0123456789-abcdef"}
# A command and the indented block that shows what it prints, if there is one before the next fence.
_STEP = re.compile(r"^```sh\n(.*?)^```\n(.*?)(?=^```)", re.DOTALL | re.MULTILINE)
_OUTPUT = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)


def steps() -> Iterator[tuple[list[str], list[str]]]:
    """The commands of each block, and the blocks of what they print."""
    for code, rest in _STEP.findall(f"{TEXT}```"):
        lines = code.splitlines()
        commands = [line for line in lines if line.startswith(("pipelit-agents ", "python "))]
        yield commands, _OUTPUT.findall(rest)


class Reader:
    """Somebody who types what the page says, and whose phone shows Alice's codes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.question = ""
        self.codes: list[str] = []

    def types(self, line: str, typed: str = "", **variables: str) -> str:
        """Type a command; what it prints, without the questions of an earlier run."""
        words = shlex.split(line.replace("ID", self.question))
        code = fresh.AGENTS
        if words[0] == "python":
            code = f"import runpy, sys; runpy.run_path({words[1]!r}, run_name='__main__')"
            words = words[1:]
        if words[1:3] == ["credentials", "put"]:
            typed = KEYS[words[3]]
        if words[1:3] == ["approvals", "approve"]:
            typed = self.codes.pop()
        done = fresh.run(
            code, environment(**variables), *words[1:], folder=self.folder, typed=f"{typed}\n"
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        if words[1:3] == ["mfa", "enroll"]:
            self.enrols(done.stdout)
        self.question = "".join(re.findall(r"(?:question|alice): (apr_\w+)", done.stdout)[-1:])
        return done.stderr + done.stdout

    def enrols(self, said: str) -> None:
        """Turn Alice's second factor on; she approves with recovery codes, at any time."""
        (uri,) = re.findall(r"otpauth://\S+", said)
        phone = pyotp.parse_uri(uri)
        assert isinstance(phone, pyotp.TOTP)
        told = self.types("pipelit-agents mfa confirm alice", phone.now())
        self.codes = re.findall(r"\b(?:[A-Z2-7]{4}-){3}[A-Z2-7]{4}\b", told)


def is_said(shown: str, said: str) -> bool:
    """Whether all lines that the page shows were printed, in their order."""
    shown = re.sub(r"today \d\d:\d\d", "…", shown)
    lines = [re.escape(" ".join(line.split())).replace("…", ".*") for line in shown.splitlines()]
    wanted = ".*".join(line for line in lines if line)
    return bool(re.search(wanted, " ".join(said.split()), re.DOTALL))


@pytest.mark.process
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Each command prints what the page shows, and the application goes on after Alice's yes."""
    reader = Reader(tmp_path)
    write_files(read("getting-started", folder=DOCS), tmp_path)
    shown = 0
    for commands, outputs in steps():
        said = [reader.types(line) for line in commands]
        for output in outputs:
            shown += 1
            assert is_said(output, "\n".join(said)), f"{said} isn't\n{output}"
    assert shown == 13

    with chat_server(answer, KEYS["openai"]) as chat:
        assert with_a_real_model(reader, chat) == "hello from the model\n"
    assert set(chat.shown) == {KEYS["openai"]}


def with_a_real_model(reader: Reader, chat: ChatServer) -> str:
    """What the application prints with the lines of the page's last block."""
    (piece,) = read("getting-started", folder=DOCS).pieces
    _, imported, _, *changed = piece.code.splitlines(keepends=True)
    file = reader.folder / "app.py"
    code, replaced = re.subn(r"^model = .*\nresearcher_model = .*\n", "", file.read_text(), flags=8)
    assert replaced == 1
    ends = "pipelit = Pipelit.from_env()\n"
    file.write_text(imported + code.replace(ends, "".join(changed)))
    return reader.types("python app.py second", OPENAI_BASE_URL=chat.base_url)


def test_its_set_up_is_that_of_the_readme() -> None:
    """The pages that continue from it are followed in a folder of README's set-up."""
    readme = (ROOT / "README.md").read_text()
    setup = next(commands for commands, _ in steps() if "pipelit-agents init" in commands)
    assert "\n## Set up\n" in TEXT
    assert setup == [
        line.partition("#")[0].strip()
        for line in readme.splitlines()
        if line.startswith(("pipelit-agents init", *setup))
    ]
