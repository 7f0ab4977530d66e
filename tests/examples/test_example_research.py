"""examples/research: an impostor is refused, and nothing is published without Alice."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import example_runs
import fresh
import pytest
from integration_pages import environment
from redis_server import until

SCRIPT = "research/research.py"


@pytest.mark.process
def test_an_impostor_is_refused_and_the_report_is_published(tmp_path: Path) -> None:
    """The README says what is printed, and the published report has nothing of the lie."""
    done = example_runs.run(SCRIPT, tmp_path, "--impostor")
    assert done.returncode == 0, done.stderr
    (block,) = example_runs.blocks("research")
    block = block.replace(".data", tmp_path.name)
    assert re.fullmatch(example_runs.pattern(block), done.stdout.strip()), done.stdout
    report = (tmp_path / "report.md").read_text()
    assert "No proven answer came from agent_figures." in report
    assert "300 kg" not in report + done.stdout


@pytest.mark.process
def test_alice_approves_from_another_terminal(tmp_path: Path) -> None:
    """Until she has entered the code that the README's command prints, there is no report."""
    said = tmp_path / "said"
    said.touch()
    process = fresh.start(
        example_runs.SCRIPT,
        environment(),
        *(str(example_runs.EXAMPLES / SCRIPT), "--folder", str(tmp_path), "--wait"),
        folder=tmp_path,
        says=said,
        imports="",
    )
    try:
        until(lambda: fresh.ended(process) or "--user alice" in said.read_text())
        assert not (tmp_path / "report.md").exists(), said.read_text()
        _approve(tmp_path, said.read_text())
        until(lambda: fresh.ended(process))
        assert "7 to 11 kg" in (tmp_path / "report.md").read_text(), said.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        fresh.wait(process)


def _approve(folder: Path, said: str) -> None:
    code = example_runs.run(SCRIPT, folder, "--code").stdout
    (question,) = re.findall(r"apr_[0-9a-f]+", said)
    approve = ("approvals", "approve", question, "--user", "alice", "--json")
    done = fresh.run(fresh.AGENTS, environment(), *approve, folder=folder, typed=code)
    assert json.loads(done.stdout)["decision"] == "approved", done.stderr


@pytest.mark.process
def test_a_model_without_a_provider_is_named(tmp_path: Path) -> None:
    """What is typed wrongly is explained, without a traceback."""
    done = example_runs.run(SCRIPT, tmp_path, "--model", "gpt")
    assert done.returncode == 2
    assert "provider:name, such as openai:gpt-5-mini" in done.stderr
    done = example_runs.run(SCRIPT, tmp_path, "--model", "openai:gpt-5-mini")
    assert done.returncode == 1
    assert "there is no credential 'openai'" in done.stderr
    assert "Traceback" not in done.stderr
