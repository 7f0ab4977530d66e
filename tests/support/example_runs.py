"""Run an application of examples/ as its reader does, and compare it with its README."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import fresh
from integration_pages import environment
from paths import ROOT

EXAMPLES = ROOT / "examples"
# As the interpreter runs a script: its own folder comes first.
SCRIPT = (
    "import runpy, sys; from pathlib import Path; sys.argv = sys.argv[1:]; "
    "sys.path[0] = str(Path(sys.argv[0]).parent); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def run(script: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``EXAMPLE/SCRIPT.py`` with a folder for its data."""
    path = str(EXAMPLES / script)
    return fresh.run(SCRIPT, environment(), path, "--folder", str(folder), *words)


def blocks(example: str) -> list[str]:
    """Return what the README of an example says that it prints."""
    readme = (EXAMPLES / example / "README.md").read_text()
    return re.findall(r"^```text\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)


def pattern(block: str) -> str:
    """Return the regular expression of a block, in which ``…`` is any text within a line."""
    return ".*".join(map(re.escape, block.strip().split("…")))
