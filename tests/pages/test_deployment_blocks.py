"""The files and commands of docs/deployment.md: they can be read, and name only what is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import root
from paths import ROOT

from pipelit_agents.desk import DeskSettings
from pipelit_agents.desk.serving import require_private
from pipelit_agents.settings import Settings

# A block, and the name of its file in the line before it.
FENCE = re.compile(r"(?:^`([\w.-]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = FENCE.findall((ROOT / "docs" / "deployment.md").read_text())
FILES = {path: code for path, _, code in BLOCKS if path}
SYSTEMD = shutil.which("systemd-analyze")
_OF_THE_LIBRARY = {str(field.alias) for field in Settings.model_fields.values()}
SETTINGS = {
    *_OF_THE_LIBRARY,
    *(f"{each}_FILE" for each in _OF_THE_LIBRARY),
    *(f"PIPELIT_DESK_{each.upper()}" for each in DeskSettings.model_fields),
}


def documents() -> Iterator[Any]:
    """Each YAML document of the page."""
    for path, code in FILES.items():
        if path.endswith(".yaml"):
            yield from yaml.safe_load_all(code)


def words_of_commands() -> Iterator[list[str]]:
    """The words after `pipelit-agents` of each command, wherever it is written."""
    for path, language, code in BLOCKS:
        if language == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                for part in re.split(r"[;|>]|\$\(", line):
                    words = part.split("#")[0].replace("'", " ").split()
                    at = [i for i, each in enumerate(words) if each.endswith("pipelit-agents")]
                    yield from (words[i + 1 :] for i in at)
        elif path.endswith(".service"):
            (line,) = re.findall(r"^ExecStart=.*pipelit-agents (.*)$", code, re.MULTILINE)
            yield shlex.split(line)
    for document in documents():
        containers = [
            *document.get("services", {}).values(),
            *(document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])),
        ]
        for each in containers:
            if each.get("command", [""])[0] == "pipelit-agents":
                yield each["command"][1:]


def test_every_setting_is_one() -> None:
    """A setting that is renamed is renamed on the page."""
    text = "".join(code for _, _, code in BLOCKS)
    named = set(re.findall(r"\b(?:PIPELIT_|FIELD_ENCRYPTION_)[A-Z_]+", text))
    assert len(named) > 7
    assert named <= SETTINGS


def test_every_command_is_one() -> None:
    """With its options."""
    found = list(words_of_commands())
    assert len(found) > 10
    for words in found:
        command: Any = root()
        for word in words:
            if word.startswith("--"):
                assert word in {opt for each in command.params for opt in each.opts}, words
            elif hasattr(command, "commands"):
                assert word in command.commands, words
                command = command.commands[word]


def test_an_operator_exists_before_the_desk_starts() -> None:
    """So that no log has a set-up token; and no image has the folder of the secrets."""
    scripts = [code for _, language, code in BLOCKS if language == "sh"]
    for start in ("docker compose up", "systemctl enable"):
        (script,) = [each for each in scripts if start in each]
        assert script.index("users create alice") < script.index(start)
    (script,) = [each for each in scripts if "docker compose build" in each]
    assert "echo secrets > .dockerignore" in script


def test_the_secrets_of_each_file_are_declared() -> None:
    """A file that a setting or a command names is mounted there, and made by the script."""
    compose, *_ = documents()
    (script,) = [code for _, _, code in BLOCKS if "docker compose build" in code]
    made = set(re.findall(r"> secrets/(\w+)", script))
    assert made == set(compose["secrets"])
    used = set()
    for each in compose["services"].values():
        read = str([each.get("command"), each.get("environment")])
        named = set(re.findall(r"/run/secrets/(\w+)", read))
        assert named <= set(each.get("secrets", []))
        used |= named
    assert used == made


def test_the_redis_of_compose_has_a_password() -> None:
    """On the page and in the example; the clients have the same one."""
    compose, *_ = documents()
    assert "requirepass" in str(compose["services"]["redis"]["command"])
    example = yaml.safe_load((ROOT / "examples" / "compose" / "compose.yaml").read_text())
    (word,) = [each for each in example["services"]["redis"]["command"] if "PASSWORD" in each]
    assert f":{word}@redis:" in example["x-aegra"]["REDIS_URL"]


def test_the_secrets_of_kubernetes_are_declared() -> None:
    """A file that a `_FILE` setting names is mounted by the same document."""
    _, job, deployment, service, policy = documents()
    for each in (job, deployment):
        spec = each["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        (folder,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "secrets"]
        files = [e["value"] for e in container["env"] if e["name"].endswith("_FILE")]
        assert len(files) == 3
        assert all(value.startswith(f"{folder}/") for value in files)
        assert {m["name"] for m in container["volumeMounts"]} == {
            v["name"] for v in spec["volumes"]
        }
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert labels == policy["spec"]["podSelector"]["matchLabels"]
    unit = FILES["pipelit-desk.service"]
    loaded = set(re.findall(r"^LoadCredential=(\w+):", unit, re.MULTILINE))
    assert loaded == set(re.findall(r"_FILE=%d/(\w+)$", unit, re.MULTILINE))


def test_the_desk_agrees_to_be_served_so() -> None:
    """On all addresses of a container, only behind the proxy that the settings name."""
    compose, _, deployment, *_ = documents()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for variables in (
        compose["services"]["desk"]["environment"],
        {each["name"]: each["value"] for each in container["env"]},
    ):
        given = {
            name.removeprefix("PIPELIT_DESK_").lower(): value
            for name, value in variables.items()
            if name.startswith("PIPELIT_DESK_")
        }
        settings = DeskSettings(_env_file=None, **given)
        require_private(settings)
        assert settings.is_https
    subnet = compose["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert compose["services"]["desk"]["environment"]["PIPELIT_DESK_TRUSTED_PROXIES"] == subnet


@pytest.mark.skipif(SYSTEMD is None, reason="systemd isn't installed")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    """Without a word about an unknown setting or a missing program."""
    program = Path(sys.executable).parent / "pipelit-agents"
    unit = FILES["pipelit-desk.service"].replace("/opt/agents/bin/pipelit-agents", str(program))
    (tmp_path / "pipelit-desk.service").write_text(unit)
    done = subprocess.run(
        [str(SYSTEMD), "verify", "--man=no", "./pipelit-desk.service"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
