"""docs/desk.md is followed as its reader does, and docs/api.md is what the desk's OpenAPI says."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pyotp
import pytest
from api_page import PAGE, document, operations, page
from desk_server import DeskServer
from integration_pages import follow, missing, read, set_up, write_files
from keeper import ends_with_us
from paths import ROOT
from test_contributing import rows, section

from pipelit_agents import Pipelit
from pipelit_agents.desk import DeskSettings

DOCS = ROOT / "docs"


@pytest.mark.process
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """Its program prints what it says; what it installs is installed here."""
    found = read("desk", folder=DOCS)
    assert missing(found) == []
    assert [each.split()[0] for each in found.commands] == ["pipelit-agents", "curl"]
    write_files(found, set_up(tmp_path))
    follow(dataclasses.replace(found, commands=[]), tmp_path)


@pytest.mark.process
def test_the_commands_do_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The desk of the set-up has an operator, and the request in the page makes a member."""
    folder = set_up(tmp_path)
    monkeypatch.chdir(folder)
    with Pipelit.from_env() as pipelit, monkeypatch.context() as at_home:
        key = pipelit.users.issue_api_key("alice", name="curl").api_key.get_secret_value()
        app = pyotp.parse_uri(pipelit.mfa.enroll("alice").get_secret_value())
        assert isinstance(app, pyotp.TOTP)
        (recovery, *_) = pipelit.mfa.confirm("alice", app.now())
        at_home.setenv("DESK_KEY", key)
        at_home.setenv("NO_PROXY", "*")
        with DeskServer(folder, forked=True, of_folder=True, started=ends_with_us) as desk:
            assert desk.url in desk.log
            assert "plit_setup_" not in desk.log
            (line,) = [each for each in read("desk", folder=DOCS).commands if "curl" in each]
            for code, answer in (("", "second-factor-required"), (recovery, '"username":"bob"')):
                at_home.setenv("DESK_CODE", code.get_secret_value() if code else "")
                said = _typed(line.replace("http://127.0.0.1:8440", desk.url))
                assert answer in said.replace('": "', '":"')
        assert pipelit.users.get("bob").role == "member"


def _typed(line: str) -> str:
    """What a command prints, with the variables of the environment in their places."""
    words = [os.path.expandvars(each) for each in shlex.split(line)]
    words[0] = shutil.which(words[0]) or pytest.skip(f"{words[0]} isn't installed")
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_its_settings_behind_a_proxy_can_be_used(tmp_path: Path) -> None:
    """They allow the name that people use, and believe the proxy."""
    file = tmp_path / "desk.env"
    file.write_text(read("desk", folder=DOCS).files["desk.env"])
    found = DeskSettings(_env_file=file)
    assert found.is_https
    assert "desk.example.com" in found.hosts
    assert [str(each) for each in found.proxies] == ["127.0.0.1/32"]


def test_the_page_lists_each_setting_with_its_default() -> None:
    """A new setting, or another default, must be described."""
    text = (DOCS / "desk.md").read_text()
    listed = {
        name.strip("`"): default.strip("`")
        for name, default, *_ in rows(section(text, "Settings"))
        if name.startswith("`")
    }
    settings = DeskSettings(_env_file=None)
    wanted = {
        f"PIPELIT_DESK_{name.upper()}": _written(getattr(settings, name))
        for name in DeskSettings.model_fields
    }
    assert listed == wanted


def _written(value: object) -> str:
    """Return a value as it is written into `.env`; none, if it isn't."""
    if value in ((), "", None):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def test_the_api_page_is_current() -> None:
    """`make api` would write what is there."""
    assert page(document()) == PAGE.read_text(), "run `make api`"


def test_each_request_says_who_may_send_it_and_what_it_answers() -> None:
    """Everything but the set-up, which takes a token, needs a key; and all is described."""
    spec = document()
    for method, path, operation in operations(spec):
        where = f"{method} {path}"
        assert bool(operation.get("security")) == (path != "/api/v1/setup"), where
        assert operation["description"], where
        assert operation["tags"], where
        for status, answer in operation["responses"].items():
            if not status.startswith("2"):
                assert answer["description"], f"{where} {status}"
                assert [*answer["content"]] == ["application/problem+json"], f"{where} {status}"


def test_the_api_page_names_every_request() -> None:
    """As a heading, so that it can be linked to."""
    headings = re.findall(r"^### (\w+) (\S+)$", PAGE.read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings)) == len(list(operations(document())))


def test_the_pictures_are_small() -> None:
    """They are in a repository and on a page."""
    shown = re.findall(r"\((images/[\w-]+\.png)\)", (DOCS / "desk.md").read_text())
    assert shown
    assert all((DOCS / each).stat().st_size < 150_000 for each in shown)
