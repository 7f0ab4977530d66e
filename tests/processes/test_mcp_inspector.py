"""Our MCP server as the MCP project's own inspector sees it, for ``make everywhere``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from test_cli import Run, folder, ready, run
from test_mcp import command

from pipelit_agents import Pipelit

__all__ = ["folder", "ready", "run"]
BACKENDS = False
INSPECTOR = ROOT / ".node" / "node_modules" / ".bin" / "mcp-inspector"


@pytest.fixture
def inspector(request: pytest.FixtureRequest) -> Path:
    """The inspector, which takes seconds a call."""
    if not request.config.getoption("everywhere"):
        pytest.skip("`make everywhere` tries the MCP server with the inspector")
    if shutil.which("npm") is None or not INSPECTOR.exists():
        pytest.skip("the MCP inspector isn't installed: it needs npm, and `make everywhere`")
    return INSPECTOR


def inspect(inspector: Path, folder: Path, *words: str) -> Any:
    """What the inspector prints of our server."""
    done = subprocess.run(
        [str(inspector), "--cli", *command("agent_writer"), *words],
        cwd=folder,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.process
def test_the_inspector_lists_and_calls_the_tools(inspector: Path, ready: Run, folder: Path) -> None:
    """Another implementation of the protocol: schemas, a code that verifies, a refusal in words."""
    tools = inspect(inspector, folder, "--method", "tools/list")["tools"]
    assert [each["name"] for each in tools] == [
        "get_totp_code",
        "verify_peer",
        "create_agent_user",
    ]
    call = ("--method", "tools/call", "--tool-name", "get_totp_code", "--tool-arg")
    said = inspect(inspector, folder, *call, "audience=agent_editor")
    assert not said["isError"]
    with Pipelit.from_env() as pipelit:
        pipelit.agent("agent_editor").verify_peer("agent_writer", said["content"][0]["text"])
    refused = inspect(inspector, folder, *call, "agent=agent_editor")
    assert refused["isError"]
    assert "audience: Field required" in refused["content"][0]["text"]
