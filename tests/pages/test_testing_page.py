"""docs/testing.md and ``pipelit_agents.testing``: the blocks run as they stand, and leaks fail."""

from __future__ import annotations

import base64
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fresh
import pytest
from langchain_core.messages import AIMessage
from paths import ROOT
from pydantic import SecretStr

from pipelit_agents import Pipelit
from pipelit_agents.testing import assert_no_leak

PAGE = (ROOT / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)
PLAIN = "sk-Plain/+8wZq_0123456789-end"

LEAKING = """
import logging

def test_state(fake_credential, assert_no_leak):
    assert_no_leak({"answer": fake_credential("service")["value"]})

def test_log(fake_credential, assert_no_leak):
    logging.getLogger("a").warning("sent %s", fake_credential("service", "token")["token"])

def test_nothing(fake_credential, assert_no_leak):
    fake_credential("service")
    logging.getLogger("a").warning("sent")
    assert_no_leak({"answer": "sunny"})

def test_fixtures(pipelit, clock, encryption_key, tmp_path):
    before = clock()
    clock.advance(30)
    assert clock() - before == 30
    assert pipelit.users.list() == []
    assert (tmp_path / "pipelit" / "agents.db").stat().st_mode & 0o77 == 0
"""


RUN = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
# Plugins of packages that this package is tested with; loading them takes as long as most tests.
UNUSED = ("anyio", "benchmark", "codspeed", "langsmith_plugin", "nbmake", "recording", "socket")


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run pytest in a folder, in a process of its own."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    without = [word for each in ("cacheprovider", *UNUSED) for word in ("-p", f"no:{each}")]
    # The process has imported plugins' packages before pytest can rewrite their asserts.
    quiet = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    done = fresh.run(RUN, os.environ, "-q", "-n0", *quiet, *without, *arguments, folder=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.process
def test_each_block_of_the_page_runs(tmp_path: Path) -> None:
    """Written into the files that they name, they pass, with all tests of the suite."""
    assert len(BLOCKS) == PAGE.count("```python") == 6
    for name, code in BLOCKS:
        (tmp_path / name).write_text(code)
    code, said = run(tmp_path)
    assert code == 0, said
    assert int(re.findall(r"(\d+) passed", said)[0]) > 20


@pytest.mark.process
def test_a_leak_fails_a_users_test(tmp_path: Path) -> None:
    """In the state at once, in the log at the end of the test; the message shows no secret."""
    (tmp_path / "conftest.py").write_text(BLOCKS[0][1])
    (tmp_path / "test_leaking.py").write_text(LEAKING)
    code, said = run(tmp_path, "--tb=line", "--show-capture=no")
    assert code == 1, said
    assert "1 failed, 3 passed, 1 error" in said
    assert "fake-" not in said
    assert "'service'" in said
    assert "service:token" in said


@pytest.fixture
def stored(pipelit: Pipelit) -> Pipelit:
    """A Pipelit with a credential in it."""
    pipelit.credentials.put("service", PLAIN, kind="api", created_by="alice")
    return pipelit


def record(message: str, *arguments: Any, **more: Any) -> logging.LogRecord:
    """A log record."""
    made = logging.LogRecord("a.logger", logging.INFO, "f.py", 1, message, arguments, None)
    vars(made).update(more)
    return made


@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        PLAIN.encode(),
        {"messages": [AIMessage(f"it is {PLAIN}")]},
        [1, ("a", {"b": base64.b64encode(f"me:{PLAIN}".encode()).decode()})],
        SecretStr(PLAIN),
        record(f"sent {PLAIN}"),
        record("sent %s", PLAIN),
        record("sent", header=f"Bearer {PLAIN}"),
    ],
)
def test_a_secret_is_found_wherever_it_is(stored: Pipelit, value: Any) -> None:
    """In text, bytes, messages, encoded, in log records; the error shows none of it."""
    with pytest.raises(AssertionError, match="service") as caught:
        assert_no_leak(value, stored)
    assert PLAIN not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_secret_is_found_in_an_exception_of_a_record(stored: Pipelit) -> None:
    """What a handler would write of a traceback is searched."""
    error = ValueError(PLAIN)
    made = record("failed", exc_info=(ValueError, error, None))
    with pytest.raises(AssertionError, match=r"a log record of 'a\.logger'"):
        assert_no_leak([made], stored)


def test_a_secret_is_found_in_files(stored: Pipelit, tmp_path: Path) -> None:
    """In a file, and in a file of a folder; the database itself holds it encrypted."""
    assert_no_leak(tmp_path, stored)
    file = tmp_path / "a" / "b" / "state.json"
    file.parent.mkdir(parents=True)
    file.write_text(f'{{"key": "{PLAIN}"}}')
    for each in (file, tmp_path, [tmp_path]):
        with pytest.raises(AssertionError, match=r"state\.json"):
            assert_no_leak(each, stored)


def test_honest_values_pass(stored: Pipelit, tmp_path: Path) -> None:
    """And the search is in no audit."""
    before = stored.audit.list()
    for value in ({"answer": "sunny"}, [], None, "", 7, tmp_path, record("sent %s", "nothing")):
        assert_no_leak(value, stored)
    assert stored.audit.list() == before


def test_each_secret_of_a_credential_is_searched_for(pipelit: Pipelit) -> None:
    """The error names the field."""
    pipelit.credentials.put(
        "pair", {"user": "user-8wZq01234567", "token": PLAIN}, kind="api", created_by="alice"
    )
    with pytest.raises(AssertionError, match="pair:token"):
        assert_no_leak([f"x{PLAIN}"], pipelit)
    with pytest.raises(AssertionError, match="pair:user"):
        assert_no_leak("user-8wZq01234567", pipelit)


def test_a_persons_own_secret_and_a_seed_are_searched_for(pipelit: Pipelit) -> None:
    """Beside the shared credential of the name; of an authenticator, the seed is."""
    pipelit.credentials.put("service", "another-8wZq0123", kind="api", created_by="alice")
    pipelit.credentials.put(
        "service", PLAIN, kind="api", created_by="alice", public={"a": 1}, person="alice"
    )
    seed = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    pipelit.credentials.put("login", seed, kind="totp", created_by="alice", person="alice")
    with pytest.raises(AssertionError, match="service"):
        assert_no_leak([f"x{PLAIN}"], pipelit)
    with pytest.raises(AssertionError, match="login:code"):
        assert_no_leak(f"otpauth://totp/x?secret={seed}", pipelit)


def test_an_open_secret_is_searched_for_after_it_was_replaced(stored: Pipelit) -> None:
    """A node that has the old value is still a place that it could leak from."""

    @stored.credentials.inject(key="service")
    def node(*, key: SecretStr) -> None:
        plain = key.get_secret_value()
        stored.credentials.delete("service")
        assert_no_leak(f"the key is {plain}", stored)

    with pytest.raises(AssertionError, match="service"):
        node()


@pytest.mark.process
def test_the_library_never_imports_its_tests(tmp_path: Path) -> None:
    """Neither pytest nor the package is loaded by what users import."""
    code = (
        "import sys, pipelit_agents.pipelit, pipelit_agents.graphs, pipelit_agents.tools, "
        "pipelit_agents.ledger, pipelit_agents.cli; "
        "print([m for m in sys.modules if m in ('pytest', 'pipelit_agents.testing')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
