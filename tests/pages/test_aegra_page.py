"""docs/integrations/aegra.md: its blocks are the files of the example, which test_aegra starts."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

EXAMPLE = ROOT / "examples" / "compose"
PAGE = (ROOT / "docs" / "integrations" / "aegra.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = {
    "json": "aegra.json",
    "yaml": "accounts.yaml",
    "python reader": "graphs/reader.py",
    "python lead": "lead.py",
}


@pytest.mark.parametrize("kind", FILES)
def test_a_block_is_a_file_of_the_example(kind: str) -> None:
    """As it is: what the tests start on Aegra is what a reader copies."""
    language, _, word = kind.partition(" ")
    (block,) = [code for each, code in BLOCKS if each == language and f"{word}" in code[:60]]
    assert block == (EXAMPLE / FILES[kind]).read_text()


def test_every_block_is_a_file_or_a_command() -> None:
    """A block that is added to the page must be run by a test."""
    assert sorted(each for each, _ in BLOCKS) == sorted(
        ["json", "yaml", "python", "python", "sh", "sh", "sh", "sh", "text"]
    )


def test_the_page_and_the_example_say_the_same() -> None:
    """What the lead prints, which test_aegra sees, and the version of Aegra."""
    readme = (EXAMPLE / "README.md").read_text()
    printed = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert printed == re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    wanted = re.findall(r'"(aegra-api[^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert re.findall(r'"(aegra-api[^"]*)"', PAGE) == wanted
