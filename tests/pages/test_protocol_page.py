"""docs/protocol.md: its worked example, which recomputes docs/proof-vectors.json by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from integration_pages import follow, read
from paths import ROOT

DOCS = ROOT / "docs"


@pytest.mark.process
def test_the_worked_example_prints_each_value(tmp_path: Path) -> None:
    """The blocks use the standard library alone, and print what the page prints."""
    page = read("protocol", folder=DOCS)
    assert "pipelit_agents" not in "".join(each.code for each in page.pieces)
    shutil.copy(DOCS / "proof-vectors.json", tmp_path)
    follow(page, tmp_path)


def test_the_worked_example_is_the_published_one() -> None:
    """Each value of the first vector is printed on the page."""
    prints = "".join(each.prints for each in read("protocol", folder=DOCS).pieces)
    printed = "".join(prints.split())
    first = json.loads((DOCS / "proof-vectors.json").read_text())["examples"][0]
    for value in (*first["encoded_fields"].values(), first["message"], first["ocra_data_input"]):
        assert value in printed
    for value in (first["question"], first["response"]):
        assert value in printed
