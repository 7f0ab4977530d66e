"""``pipelit-agents approvals notify``: send what is due once, or go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from approval_home import Home
from command_line import typed
from conftest import Clock
from typer.testing import Result
from webhook_receiver import HOOK, SECRET, Receiver

from pipelit_agents import Pipelit
from pipelit_agents.errors import StorageError
from pipelit_agents.operations.approval_notices import ApprovalNotices


@pytest.fixture(scope="module")
def home(migrated_file: Path, shared_key: str, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Enrolling takes longer than most tests, which get a copy."""
    file = tmp_path_factory.mktemp("notified") / "agents.db"
    copyfile(migrated_file, file)
    return Home(file, shared_key)


@pytest.fixture
def ask(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Set up what the commands read, and return a function that asks alice something."""
    url = home.copy(tmp_path / "agents.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", home.key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", url)

    def asked() -> str:
        # The commands use this machine's clock.
        with Pipelit(
            database_url=url, encryption_keys=[home.key], clock=Clock(time.time())
        ) as pipelit:
            return pipelit.approvals.request({"pay": 90}, approvers=["alice"]).id

    return asked


def notify(receiver: Receiver, *words: str) -> Result:
    """Type the command."""
    named = ("--webhook", receiver.url, "--credential", HOOK)
    return typed("approvals", "notify", *named, *words)


def test_what_is_due_is_sent_once(ask: Callable[[], str], receiver: Receiver) -> None:
    """In one JSON document; the second run has nothing to do."""
    identifier = ask()
    done = notify(receiver, "--json")
    assert done.exit_code == 0
    (sent,) = json.loads(done.stdout)
    assert (sent["id"], sent["delivered"], sent["next_at"]) == (identifier, True, None)
    assert "arguments" not in receiver.seen[0].data
    assert json.loads(notify(receiver, "--json").stdout) == []
    assert "No notice is due." in notify(receiver).stdout
    assert len(receiver.seen) == 1


def test_arguments_are_an_option(ask: Callable[[], str], receiver: Receiver) -> None:
    """They are sent only with it."""
    ask()
    assert notify(receiver, "--include-arguments").exit_code == 0
    assert receiver.seen[0].data["arguments"] == {"pay": 90}


def test_a_secret_that_is_not_there_costs_no_attempt(
    ask: Callable[[], str], receiver: Receiver
) -> None:
    """Otherwise each notice would wait longer, although nothing was sent."""
    ask()
    words = ("--webhook", receiver.url, "--credential")
    done = typed("approvals", "notify", *words, f"{HOOK}s")
    assert done.exit_code == 1
    assert f"there is no credential '{HOOK}s' (did you mean {HOOK}?)" in done.stderr
    (sent,) = json.loads(notify(receiver, "--json").stdout)
    assert (sent["delivered"], sent["attempt"]) == (True, 1)


def test_a_failure_ends_with_1(ask: Callable[[], str], receiver: Receiver) -> None:
    """It says why and what to do, and neither the secret nor the token in the address."""
    ask()
    receiver.status = 500
    done = notify(receiver, "--json")
    assert done.exit_code == 1
    (failed,) = json.loads(done.stdout)
    assert "can't take the notice now (500)" in failed["reason"]
    assert failed["next_at"] is not None
    assert SECRET not in done.output
    assert "T0KEN" not in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--webhook", "http://hooks.example.com", "--credential", HOOK), "https://"),
        (("--webhook", "", "--credential", HOOK), "--webhook is empty"),
        (("--webhook", "https://hooks.example.com", "--credential", SECRET), "secret"),
        (
            ("--webhook", "https://hooks.example.com", "--credential", HOOK, "--timeout", "0"),
            "timeout must be more than 0",
        ),
    ],
    ids=["unencrypted", "empty", "secret-itself", "timeout"],
)
def test_what_cannot_be_used_is_said(
    ask: Callable[[], str], words: tuple[str, ...], says: str
) -> None:
    """In one line, which doesn't repeat a secret that was typed by mistake."""
    done = typed("approvals", "notify", *words)
    assert done.exit_code == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert SECRET not in done.output


def test_a_watch_goes_on_until_it_is_stopped(
    ask: Callable[[], str], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends what was asked meanwhile, also after the database was away; a round is a line."""
    waited: list[float] = []
    questions = [ask()]
    send_due = ApprovalNotices.send_due

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            questions.append(ask())
        if len(waited) == 3:
            raise KeyboardInterrupt

    def sending(notices: ApprovalNotices, on_request: Any) -> Any:
        if len(waited) == 1:
            raise StorageError("the database is away")
        return send_due(notices, on_request)

    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setattr(ApprovalNotices, "send_due", sending)
    done = notify(receiver, "--watch", "--every", "7", "--json")
    assert done.exit_code == 0
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[each["id"] for each in sent] for sent in rounds] == [[each] for each in questions]
    assert waited == [7, 7, 7]
    assert "warning: the database is away" in done.stderr
