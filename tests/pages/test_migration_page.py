"""docs/migration.md: the code of before and after, followed from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration_pages import follow, missing, read, set_up, write_files
from paths import ROOT


@pytest.mark.process
def test_the_code_before_and_after_does_what_the_page_says(tmp_path: Path) -> None:
    """Each block runs in the folder of the set-up, and prints what the page prints."""
    page = read("migration", folder=ROOT / "docs")
    assert missing(page) == []
    write_files(page, set_up(tmp_path))
    follow(page, tmp_path)
