from __future__ import annotations

import json
import subprocess
from pathlib import Path

import fresh
import pytest
from openai_server import chat_server

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import ConfigurationError, CredentialNotFound
from pipelit_agents.graphs.demo.run import run


@pytest.mark.slow
def test_the_demonstration_keeps_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """Answers are verified, attacks refused, the key is in no file, and a payment is made once."""
    assert run(as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert [result["status"] for result in told["results"]] == ["verified"] * 3
    assert [attack["status"] for attack in told["attacks"]] == ["refused"] * 3
    assert told["key_found_in_files"] == 0
    assert told["key_found_without_pipelit_agents"] > 0
    assert [each["paid"] for each in told["payment"]] == [[]] * 5 + [[90]] * 2
    asked = ["asks about 90", "asks about 90", "asks about 900", "paid 90", "asks about 90"]
    assert [each["result"] for each in told["payment"] if "refused" not in each["result"]] == asked


@pytest.mark.slow
def test_the_users_own_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --input the children analyse these files, as many as there are."""
    mine = tmp_path / "mine.txt"
    mine.write_text("Otters otters otters. Rivers.\n")
    assert run(inputs=[mine], as_json=True) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["output"]["words"] == 4
    assert result["output"]["frequent"][0] == "otters"


@pytest.mark.slow
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


@pytest.mark.process
def test_the_command_runs_it_without_a_terminal() -> None:
    """`pipelit-agents demo` ends well and shows progress, refusals and the verdict."""
    command = [*fresh.command(), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "reader_1: verified" in done.stdout
    assert done.stdout.count("refused:") == 5
    refusals = done.stdout.partition("5. The refusals")[2]
    assert [refusals.count(each) for each in ("wrong proof", "wrong code", "not asked")] == [
        2,
        1,
        1,
    ]
    assert "All as promised" in done.stdout


@pytest.mark.slow
def test_a_real_chat_model_gets_its_key_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --model the children ask a real client, whose key was sealed and is in no output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", Keyring.generate_key())
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{tmp_path}/own.db")
    key = "sk-0123456789abcdef"
    with chat_server(lambda _: "It is about otters.", key) as chat:
        with Pipelit.from_env() as own:
            own.create_schema()
            public = {"base_url": chat.base_url}
            own.credentials.put("openai", key, kind="llm", created_by="me", public=public)
        assert run(model="openai:m", as_json=True) == 0
    told = capsys.readouterr().out
    assert chat.shown == [key] * 3
    results = json.loads(told)["results"]
    assert [result["output"]["summary"] for result in results] == ["It is about otters."] * 3
    folder = Path(json.loads(told)["folder"])
    assert not [path for path in folder.iterdir() if key.encode() in path.read_bytes()]
    assert key not in told


def test_a_model_without_a_key_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose key isn't in the store says how to put it there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", Keyring.generate_key())
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{tmp_path}/own.db")
    with Pipelit.from_env() as own:
        own.create_schema()
    with pytest.raises(CredentialNotFound, match="pipelit-agents credentials put openai"):
        run(model="openai:m")
