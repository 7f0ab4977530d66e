"""docs/operations.md, followed as it stands; the operator's commands, and their help pages."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import fresh
import pyotp
import pytest
import zxingcpp
from command_line import root
from commands_page import PAGE, commands, page
from paths import ROOT
from PIL import Image
from postgres import programs
from pydantic import SecretStr
from sqlalchemy import make_url
from test_cli import Run, folder, ready, run, told
from test_stolen_database import opened

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.accounts.second_factor import Mfa
from pipelit_agents.cli import mfa as mfa_commands
from pipelit_agents.cli import prompts
from pipelit_agents.errors import CodeRejected, MalformedCode, PeerLocked

__all__ = ["folder", "ready", "run"]

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = [
    (language, code)
    for language, code in re.findall(r"```(sh|python)\n(.*?)```", OPERATIONS, re.DOTALL)
    if not code.startswith("pip install")
]
OF_POSTGRES = "pg_dump"
BASH = shutil.which("bash") or "/bin/bash"


def shell(script: str, folder: Path, **environment: str) -> str:
    """What a block of the page prints."""
    ours = ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL", "PIPELIT_REDIS_URL")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    with tempfile.TemporaryDirectory() as first:
        fresh.on_path(Path(first))
        usual = (str(Path(sys.executable).parent), str(programs()), kept["PATH"])
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=kept | {"PATH": os.pathsep.join([first, *usual])} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.process
def test_the_page_can_be_followed(ready: Run, folder: Path) -> None:
    """All blocks after each other, in a folder that was set up; the old key goes at the end."""
    ready("credentials", "put", "x", "--kind", "llm", "--created-by", "alice", stdin="s3cret-12345")
    shown = [code for language, code in BLOCKS if language == "sh"]
    blocks = [code for code in shown if not code.startswith(OF_POSTGRES)]
    assert len(blocks) == 8
    check, rotate, _, enroll, register, tested, audit, copy = blocks
    assert "fix: pipelit-agents mfa enroll alice" in shell(f"{check.strip()} || true", folder)
    rotated = shell(rotate, folder)
    assert "under an older: 0" in rotated
    assert "older keys can go: not known" in rotated
    assert "not counted" in rotated
    assert "next: pipelit-agents mfa confirm alice" in shell(enroll, folder)
    assert shell(register, folder).count("whole: yes") == 2
    seed = "otpauth://totp/crm?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    ready("credentials", "put", "crm", "--kind", "totp", "--created-by", "alice", stdin=seed)
    assert "outcome: good" in shell(tested, folder)
    assert "whole: yes" in shell(audit, folder)
    shell(copy, folder)
    new, _ = (folder / ".env").read_text().partition("=")[2].strip().split(",")
    copied = f"sqlite:///{folder}/agents-copy.db"
    with Pipelit(database_url=copied, encryption_keys=[new]) as pipelit:
        assert opened(pipelit, "x") == "s3cret-12345"
    assert sorted(path.name for path in folder.glob(".env*")) == [".env"]


@pytest.mark.process
def test_the_pages_accounts_are_made(ready: Run, folder: Path) -> None:
    """The file of the page is applied as it is, and then there is nothing to do."""
    (declared,) = re.findall(r"```yaml\n(.*?)```", OPERATIONS, re.DOTALL)
    (commands_,) = [code for _, code in BLOCKS if "pipelit-agents apply" in code]
    (folder / "accounts.yaml").write_text(declared)
    said = shell(commands_, folder, CRM_PASSWORD="s3cret-of-the-crm")
    assert said.rstrip().endswith("Everything fits: there is nothing to do.")
    keys = sorted(str(each.relative_to(folder / "keys")) for each in folder.rglob("keys/*/*"))
    assert keys == [
        "agent_reader/provisioning.uri", "agent_sender/reader-server.key", "alice/laptop.key",
    ]  # fmt: skip


@pytest.mark.process
def test_the_pages_code_runs(ready: Run, folder: Path) -> None:
    """The node of the page is made as it says, and what acts refuses without an approval."""
    _, node, acting = [code for language, code in BLOCKS if language == "python"]
    refused = (
        "from pipelit_agents.errors import NotPermitted\ntry:\n    pay({'amount': 1})\nexcept "
    )
    refused += "NotPermitted as refusal:\n    print(refusal)"
    said = shell(f"python - <<'END'\n{node}\n{acting}\n{refused}\nEND", folder)
    assert "none of the approvers has approved this" in said


@pytest.mark.process
def test_the_pages_keys_from_a_manager(ready: Run, folder: Path) -> None:
    """The example runs as it is, with a stand-in for the manager's client."""
    example, *_ = [code for language, code in BLOCKS if language == "python"]
    ready("credentials", "put", "x", "--kind", "llm", "--created-by", "alice", stdin="s3cret-12345")
    key = (folder / ".env").read_text().strip().partition("=")[2]
    (folder / ".env").unlink()
    answer = f"""
        class client:
            def __init__(self, service, config): assert service == "secretsmanager"
            def get_secret_value(self, SecretId): return {{"SecretString": "{key}"}}
    """
    (folder / "boto3.py").write_text(dedent(answer))
    (folder / "botocore").mkdir()
    (folder / "botocore" / "config.py").write_text("Config = dict\n")
    used = "print(pipelit.credentials.get('x').masked)\n"
    assert "…2345" in shell(f"python - <<'END'\n{example}\n{used}\nEND", folder)


def test_a_dump_of_postgres_is_restored(postgres_url: str, tmp_path: Path) -> None:
    """By the page's two commands, into another database, which opens with the same key."""
    (dump,) = [code for _, code in BLOCKS if code.startswith(OF_POSTGRES)]
    key = Keyring.generate_key()
    source = make_url(postgres_url)
    with Pipelit(database_url=postgres_url, encryption_keys=[key]) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        pipelit.credentials.put("x", "s3cret-12345", kind="llm", created_by="alice")
        pipelit.audit.seal()
    name = f"{source.database}_restored"
    environment = {
        "PGHOST": str(source.query["host"]),
        "PGUSER": str(source.username),
        "PGDATABASE": str(source.database),
    }
    shell(dump.replace("agents_restored", name), tmp_path, **environment)
    restored = source.set(database=name).render_as_string(hide_password=False)
    with Pipelit(database_url=restored, encryption_keys=[key]) as pipelit:
        assert opened(pipelit, "x") == "s3cret-12345"
        assert pipelit.audit.verify().problems == ()


@pytest.mark.slow
def test_what_is_left_when_the_key_is_lost(ready: Run, folder: Path) -> None:
    """Accounts, API keys and names are there; secrets aren't, and the check says so."""
    ready("credentials", "put", "x", "--kind", "llm", "--created-by", "alice", stdin="s3cret-12345")
    (folder / ".env").write_text(f"FIELD_ENCRYPTION_KEY={Keyring.generate_key()}\n")
    assert ready("users", "list").exit_code == 0
    assert told(ready("agents", "show", "agent_writer", "--json"))["username"] == "agent_writer"
    done = ready("check")
    assert done.exit_code == 1
    assert "no key can decrypt" in done.stdout
    assert ready("code", "agent_writer").exit_code == 1
    # Nothing is sealed beside what another key has sealed, until that is given up.
    put = ("credentials", "put", "y", "--kind", "llm", "--created-by", "alice")
    assert "another one's" in ready(*put, stdin="s3cret-67890").stderr
    assert "another one's" in ready("agents", "rotate-totp", "agent_writer").stderr
    gone = told(ready("keys", "forget", "--yes", "--json"))["forgotten"]
    assert gone == ["users agent_editor", "users agent_writer", "credentials x"]
    assert ready(*put, stdin="s3cret-67890").exit_code == 0
    assert ready("agents", "rotate-totp", "agent_writer").exit_code == 0
    assert ready("code", "agent_writer").exit_code == 0
    assert ready("check").exit_code == 0


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
    assert ready("mfa", "disable", "alice", stdin=fresh[0].replace("-", " ").lower()).exit_code == 0
    for command in ("disable", "recovery-codes"):
        assert "has no second factor" in ready("mfa", command, "alice", stdin="000000").stderr
    assert "doesn't exist yet" in ready("mfa", "enroll", "alice", "--png", "alice.png").stderr


# Keys and audit


def test_checkpoints_under_an_older_key_are_counted(ready: Run, folder: Path) -> None:
    """The file of a checkpointer is named, and the older key can't go."""
    from langgraph.checkpoint.sqlite import SqliteSaver
    from test_rotation import run as checkpoints

    old = (folder / ".env").read_text().partition("=")[2].strip()
    with SqliteSaver.from_conn_string("threads.db") as saver, Pipelit.from_env() as pipelit:
        checkpoints(pipelit.sealed_saver(saver), "1")
    (folder / ".env").write_text(f"FIELD_ENCRYPTION_KEY={Keyring.generate_key()},{old}\n")
    done = told(ready("keys", "rotate", "--checkpoints", "threads.db", "--json"))
    assert done["checkpoints_under_an_older"] > 0
    assert (done["under_an_older"], done["older_keys_can_go"]) == (0, False)
    for address, says in (
        ("nothing.db", "isn't a file of SqliteSaver"),
        (".env", "isn't a file of SqliteSaver"),
        (".pipelit/agents.db", "isn't a file of SqliteSaver"),
        ("postgresql://u:pw@h/d", "env:NAME"),
        ("env:NOTHING", "has no postgresql:// address"),
    ):
        done = ready("keys", "status", "--checkpoints", address)
        assert (done.exit_code, says in done.stderr) == (1, True), done.output
    assert told(ready("keys", "status", "--json"))["older_keys_can_go"] is None


def test_a_key_that_is_purged_leaves_nothing(ready: Run, folder: Path) -> None:
    """Keys rotate --purge rewrites the file."""
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
    """JSON Lines for machines, short times for people, filters for both."""
    lines = ready("audit", "--json", "--action", "agent.").stdout.splitlines()
    assert [json.loads(line)["subject"] for line in lines] == ["agent_writer", "agent_editor"]
    table = ready("audit", "--subject", "alice").stdout
    assert re.search(r"(today|\d{4}-\d\d-\d\d) \d\d:\d\d ", table)
    assert "agent_writer" not in table
    assert ready("audit", "--since", "1h", "--json").stdout
    assert ready("audit", "--since", "2100-01-01", "--json").stdout == ""
    assert "isn't a time" in ready("audit", "--since", "2026-99-99").stderr


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


def test_heads_are_kept_while_they_fit(ready: Run, folder: Path) -> None:
    """Each line of the file has to fit; over a rewritten trail no head is added."""
    for name in ("a", "b"):
        ready("users", "create", name)
        assert ready("audit", "head", "--append", "heads").exit_code == 0
    assert ready("audit", "verify", "--head", "heads").exit_code == 0
    with sqlite3.connect(folder / ".pipelit" / "agents.db") as file:
        file.execute("DELETE FROM pipelit_audit_seals")
        file.execute("UPDATE pipelit_audit SET subject = 'x' WHERE id = 1")
    file.close()
    ready("audit", "seal")
    assert ready("audit", "verify").exit_code == 0
    assert ready("audit", "verify", "--head", "heads").exit_code == 1
    assert "was changed" in ready("audit", "head", "--append", "heads").stderr
    assert len((folder / "heads").read_text().splitlines()) == 2


def test_a_key_is_added_before_the_old_one(ready: Run, folder: Path) -> None:
    """In place, privately, also of a quoted line; where there is none it is said."""
    env = folder / ".env"
    old = env.read_text().partition("=")[2].strip()
    env.write_text(f'OTHER=1\nexport FIELD_ENCRYPTION_KEY="{old}"\nLAST=2\n')
    assert ready("keys", "add").exit_code == 0
    first, line, last = env.read_text().splitlines()
    assert (first, last) == ("OTHER=1", "LAST=2")
    new, kept = line.removeprefix("FIELD_ENCRYPTION_KEY=").split(",")
    assert (kept, new != old) == (old, True)
    assert env.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.glob(".env*")] == [".env"]
    env.write_text("OTHER=1\n")
    assert "pipelit-agents init" in ready("keys", "add").stderr


def test_a_second_factor_is_reset_by_an_operator(ready: Run) -> None:
    """Without a code, asked for, and in the audit."""
    uri = told(ready("mfa", "enroll", "alice", "--json"))["provisioning_uri"]
    app = pyotp.parse_uri(uri)
    assert isinstance(app, pyotp.TOTP)
    assert ready("mfa", "confirm", "alice", stdin=app.now()).exit_code == 0
    assert ready("mfa", "reset", "alice").exit_code == 1
    assert ready("mfa", "reset", "alice", "--yes").exit_code == 0
    assert not told(ready("mfa", "status", "alice", "--json"))["on"]
    assert ready("audit", "--action", "mfa.reset", "--json").stdout
    assert "in a folder that exists" in ready("mfa", "enroll", "alice", "--png", "no/x.png").stderr


@pytest.mark.slow
def test_at_a_terminal_the_first_code_is_asked_for_until_it_is_right(
    ready: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where too many first codes were wrong: the secret was shown here."""
    shown: list[pyotp.TOTP] = []
    enroll = Mfa.enroll

    def scanned(self: Mfa, username: str) -> SecretStr:
        uri = enroll(self, username)
        app = pyotp.parse_uri(uri.get_secret_value())
        assert isinstance(app, pyotp.TOTP)
        shown.append(app)
        return uri

    def typed(_name: str) -> str:
        return next(codes)()

    monkeypatch.setattr(Mfa, "enroll", scanned)
    monkeypatch.setattr(mfa_commands, "at_a_terminal", lambda: True)
    monkeypatch.setattr(prompts, "read_secret", typed)
    far = [lambda each=each: shown[-1].at(time.time() + each) for each in (4e6, 5e6, 6e6, 7e6, 8e6)]
    for _ in range(7):
        with Pipelit.from_env() as pipelit:
            pipelit.mfa.enroll("alice")
            for each in far:
                with pytest.raises((CodeRejected, PeerLocked)):
                    pipelit.mfa.confirm("alice", each())
    codes = iter(far)
    ended = ready("mfa", "enroll", "alice")
    assert (ended.exit_code, "enrol again" in ended.stderr) == (1, True)
    codes = iter(
        [
            far[0],
            lambda: "no code",
            lambda: shown[-1].at(time.time() - 300),
            lambda: shown[-1].now(),
        ]
    )
    done = ready("mfa", "enroll", "alice")
    assert done.exit_code == 0, done.stderr
    for said in ("4 more wrong codes", "6 digits", "5 minutes behind"):
        assert said in done.stderr
    assert "Recovery codes" in done.stdout


def test_what_a_name_holds_drives_no_terminal(ready: Run) -> None:
    """An escape sequence or a line's end in what was refused as a name isn't recorded."""
    with Pipelit.from_env() as pipelit, pytest.raises(MalformedCode):
        pipelit.agent("agent_writer").verify_peer("\x1b]0;x\x07\n2026 forged", "12345678")
    said = ready("audit", "--subject", "(may be a secret)", "--json").stdout
    assert "malformed" in said
    assert "forged" not in said
    assert "\x1b" not in said


@pytest.mark.process
@pytest.mark.parametrize("planted", [None, 2**63 - 1, 2**62], ids=str)
def test_following_shows_what_comes(ready: Run, folder: Path, planted: int | None) -> None:
    """A line for each entry as it is written, whatever number somebody has put at the end."""
    ready("check")
    if planted is not None:
        with closing(sqlite3.connect(folder / ".pipelit" / "agents.db")) as connection, connection:
            connection.execute(
                "INSERT INTO pipelit_audit SELECT ?, at, actor, 'planted', 'agent.x', outcome, "
                "reason, run, node, thread, '' FROM pipelit_audit WHERE id = 1",
                [planted],
            )
    words = ("audit", "--follow", "--json", "--action", "agent.")
    follower = subprocess.Popen(
        [*fresh.command(), *words], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    try:
        there = 2 if planted is None else 3
        seen = [json.loads(follower.stdout.readline())["subject"] for _ in range(there)]
        ready("agents", "create", "agent_late", "--owner", "alice", "--purpose", "comes later")
        seen.append(json.loads(follower.stdout.readline())["subject"])
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()
    assert [each for each in seen if each != "planted"] == [
        "agent_writer", "agent_editor", "agent_late",
    ]  # fmt: skip


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
    for path, command in commands(root()):
        if path and not hasattr(command, "commands"):
            section = text.split(f"### {' '.join(path)}\n")[1].split("\n##")[0]
            for parameter in command.params:
                assert f"`{parameter.opts[0]}`" in section or str(parameter.metavar) in section
