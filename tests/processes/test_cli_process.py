"""The command as a process: its exit codes, its streams, and a terminal.

Most run in a process that is forked from one that has imported the command, with streams,
environment and folder of its own; where the start matters, the installed command is started.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fresh
import pytest

from pipelit_agents import Keyring, Pipelit

COMMAND = str(Path(sys.executable).with_name("pipelit-agents"))
PATIENCE = 60.0

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def environment(**more: str) -> dict[str, str]:
    """What the command finds: nothing of ours, and no colours."""
    ours = ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL", "FORCE_COLOR", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "TERM": "dumb", "NO_COLOR": "1", **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Starts the command in an empty folder, without a terminal."""

    def started(*words: str, stdin: bytes = b"", **more: str) -> Any:
        return subprocess.run(
            [*fresh.command(), *words],
            cwd=tmp_path,
            env=environment(**more),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )

    return started


@pytest.fixture
def ready(run: Run, tmp_path: Path, key: str) -> Run:
    """A folder that was set up, with alice and two agents of hers."""
    (tmp_path / ".env").write_text(f"FIELD_ENCRYPTION_KEY={key}\n")
    database_url = f"sqlite:///{tmp_path}/.pipelit/agents.db"
    with Pipelit(database_url=database_url, encryption_keys=[key]) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        for name in ("agent_writer", "agent_editor"):
            pipelit.users.create_agent(name, owner="alice", purpose="tests")
    return run


def told(done: subprocess.CompletedProcess[bytes]) -> Any:
    """The one JSON document that a command printed, and nothing beside it."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return json.loads(done.stdout)


def typed(folder: Path, words: list[str], answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Starts the command on a terminal and types each answer when its question is there."""
    ours, theirs = pty.openpty()
    screen = b""
    process = subprocess.Popen(
        [*fresh.command(), *words],
        cwd=folder,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)

    def read() -> bytes:
        assert select.select([ours], [], [], PATIENCE)[0], screen
        try:
            return os.read(ours, 4096)
        except OSError:  # Linux says EIO when the last process has closed the terminal.
            return b""

    try:
        for question, answer in answers:
            while question.encode() not in screen:
                more = read()
                assert more, screen
                screen += more
            os.write(ours, answer.encode())
        while more := read():
            screen += more
        return process.wait(PATIENCE), screen.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_from_an_empty_folder_to_a_sealed_credential(run: Run, tmp_path: Path) -> None:
    """Set up, two agents, a code that is good once, and a secret that is listed masked."""
    # The installed command itself, once.
    begun = subprocess.run(
        [COMMAND, "init", "--json"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert "database" in told(begun)
    key = (tmp_path / ".env").read_text().strip().partition("=")[2]
    Keyring(key)
    assert told(run("users", "create", "alice", "--json"))["api_key"].startswith("plit_")
    for name in ("agent_writer", "agent_editor"):
        create = ("agents", "create", name, "--owner", "alice", "--purpose", "tests", "--json")
        assert told(run(*create))["provisioning_uri"].startswith("otpauth://")

    made = told(run("code", "agent_writer", "--audience", "agent_editor", "--json"))
    assert 0 <= made["seconds_left"] <= 30
    verify = ("verify", "agent_editor", "agent_writer", "--json")
    assert told(run(*verify, stdin=made["code"].encode()))["peer"] == "agent_writer"
    again = run(*verify, stdin=made["code"].encode())
    assert again.returncode == 1
    assert json.loads(again.stdout)["error"]["type"] == "CodeRejected"

    put = ("credentials", "put", "openai", "--kind", "llm", "--created-by", "alice", "--json")
    assert told(run(*put, stdin=b"sk-abcdefghijklmnop\n"))["masked"] == "…mnop"
    (listed,) = told(run("credentials", "list", "--json"))
    assert listed["masked"] == "…mnop"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"sk-abcdefgh" not in path.read_bytes()
        if path.name != ".env":
            assert path.is_dir() or key.encode() not in path.read_bytes()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_a_secret_is_typed_blind(ready: Run, tmp_path: Path) -> None:
    """On a terminal the secret is asked for, and what is typed doesn't appear."""
    words = ["credentials", "put", "openai", "--kind", "llm", "--created-by", "alice"]
    status, screen = typed(tmp_path, words, [("Value", "sk-abcdefghijklmnop\n")])
    assert status == 0, screen
    assert "sk-abcdef" not in screen
    assert told(ready("credentials", "show", "openai", "--json"))["masked"] == "…mnop"


def test_each_field_is_asked_for(ready: Run, tmp_path: Path) -> None:
    """On a terminal several fields are several questions, each with its name."""
    words = ["credentials", "put", "db", "--kind", "sql", "--created-by", "alice"]
    words += ["--field", "user", "--field", "password"]
    answers = [("Value of user", "bob\n"), ("Value of password", "hunter2hunter2\n")]
    status, screen = typed(tmp_path, words, answers)
    assert status == 0, screen
    masked = told(ready("credentials", "show", "db", "--json"))["masked"]
    assert masked == "user=…, password=…ter2"


def test_a_code_is_typed_blind(ready: Run, tmp_path: Path) -> None:
    """On a terminal the code to verify is asked for."""
    code = told(ready("code", "agent_writer", "--audience", "agent_editor", "--json"))["code"]
    words = ["verify", "agent_editor", "agent_writer"]
    status, screen = typed(tmp_path, words, [("Code", f"{code}\n")])
    assert status == 0, screen
    assert code not in screen


@pytest.mark.parametrize(("answer", "active"), [("n\n", True), ("\n", True), ("y\n", False)])
def test_what_cannot_be_undone_is_asked_first(
    ready: Run, tmp_path: Path, answer: str, active: bool
) -> None:
    """On a terminal only a plain yes deactivates; anything else leaves all as it is."""
    words = ["agents", "deactivate", "agent_writer"]
    status, screen = typed(tmp_path, words, [("[y/N]", answer)])
    assert status == int(active), screen
    assert ("error: stopped" in screen) == active
    assert told(ready("agents", "show", "agent_writer", "--json"))["active"] is active


def test_no_as_an_answer_is_json_too(ready: Run, tmp_path: Path) -> None:
    """With --json a refused question still ends in one document."""
    words = ["credentials", "put", "k", "--kind", "llm", "--created-by", "alice"]
    told(ready(*words, "--json", stdin=b"s"))
    status, screen = typed(tmp_path, ["credentials", "delete", "k", "--json"], [("[y/N]", "n\n")])
    assert status == 1
    assert json.loads(screen[screen.index("{") :])["error"]["type"] == "Abort"


def test_a_key_in_several_lines_stays_whole(ready: Run, tmp_path: Path) -> None:
    """A single secret is all of standard input, without the end of its last line."""
    key = "-----BEGIN KEY-----\nabcdefghijkl\n-----END KEY-----"
    put = ("credentials", "put", "pem", "--kind", "tls", "--created-by", "alice")
    assert ready(*put, stdin=f"{key}\n".encode()).returncode == 0
    look = (
        "from pipelit_agents import Pipelit\n"
        "pipelit = Pipelit.from_env()\n"
        "@pipelit.credentials.inject(key='pem')\n"
        "def look(*, key): print(repr(key.get_secret_value()))\n"
        "look()\n"
    )
    found = subprocess.run(
        fresh.command(look),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert found.stdout.strip() == repr(key)


def test_standard_input_may_be_closed(ready: Run, tmp_path: Path) -> None:
    """Without any standard input a secret is missing, and a question can't be asked."""
    for words in (
        ["credentials", "put", "k", "--kind", "llm", "--created-by", "alice"],
        ["users", "deactivate", "alice"],
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{shlex.join([COMMAND, *words])} <&-"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_a_narrow_screen_cuts_no_name(ready: Run) -> None:
    """However narrow it is, ids and names are whole, so that they can be typed again."""
    (known,) = told(ready("users", "keys", "list", "alice", "--json"))
    shown = ready("users", "keys", "list", "alice", COLUMNS="40").stdout.decode()
    for column in ("id", "name", "masked"):
        assert known[column] in shown


def test_the_module_is_the_command(tmp_path: Path) -> None:
    """``python -m pipelit_agents.cli`` answers as the command does."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelit_agents.cli", "--version"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.strip()[0].isdigit()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to show")
@pytest.mark.parametrize(
    ("shell", "code", "says"),
    [
        ("users create bob >/dev/full", 1, "standard output can't be written"),
        ("users show nobody --json >/dev/full", 1, "standard output can't be written"),
        ("users nothing 2>/dev/full", 2, ""),
        ("users list >/dev/full 2>&1", 1, ""),
        ("users list --json >&-", 0, ""),
        ("users list --json | true", 0, ""),
    ],
)
def test_an_output_that_cannot_be_written_takes_one_line(
    ready: Run, tmp_path: Path, shell: str, code: int, says: str
) -> None:
    """A full disk is one line and a failure; a reader that has seen enough is no error."""
    # Only a new interpreter knows what is closed.
    command = COMMAND if ">&-" in shell else shlex.join(fresh.command())
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} {shell}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == bool(says)
