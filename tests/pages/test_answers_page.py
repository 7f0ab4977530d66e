"""docs/answers.md: its code runs as it stands, and its marks are those that are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration_pages import follow, read, set_up
from paths import ROOT

from pipelit_agents.graphs.standard import READERS

DOCS = ROOT / "docs"


@pytest.mark.process
def test_its_code_prints_what_it_says(tmp_path: Path) -> None:
    """In the folder of the set-up."""
    follow(read("answers", folder=DOCS), set_up(tmp_path))


def test_the_protocol_lists_each_mark() -> None:
    """A child in another language has to know all that may be in a task."""
    page = (DOCS / "protocol.md").read_text()
    for mark in (*READERS, "__pipelit_message__", "__pipelit_object__"):
        assert mark in page
