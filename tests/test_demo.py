from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.graphs.demo import run


def test_the_demonstration_keeps_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """Three answers are verified, three attacks refused, and the key is in no file."""
    assert run(as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert [result["status"] for result in told["results"]] == ["verified"] * 3
    assert [attack["status"] for attack in told["attacks"]] == ["refused"] * 3
    assert told["key_found_in_files"] == 0
    assert told["key_found_without_pipelit_agents"] > 0


def test_the_users_own_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --input the children analyse these files, as many as there are."""
    mine = tmp_path / "mine.txt"
    mine.write_text("Otters otters otters. Rivers.\n")
    assert run(inputs=[mine], as_json=True) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["output"]["words"] == 4
    assert result["output"]["frequent"][0] == "otters"


def test_an_empty_file_is_analysed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without a word is no reason to fail."""
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert run(inputs=[empty], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["output"]["words"] == 0


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00binary"])
def test_an_unreadable_input_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A missing or binary file is refused with its name, before anything is spawned."""
    path = tmp_path / "input.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"--input .*input\.bin"):
        run(inputs=[path])


def test_a_model_needs_its_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model without a provider is refused with the form it has to have."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="provider:name"):
        run(model="gpt")


def test_the_command_runs_it_without_a_terminal() -> None:
    """`pipelit-agents demo` ends well and shows progress, refusals and the verdict."""
    command = [sys.executable, "-m", "pipelit_agents.cli", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "reader_1: verified" in done.stdout
    assert done.stdout.count("refused:") == 3
    assert "All as promised" in done.stdout
