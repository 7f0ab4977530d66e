"""docs/concepts.md prints what it says, and docs/glossary.md is sorted."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration_pages import follow, read, set_up
from paths import ROOT

DOCS = ROOT / "docs"


@pytest.mark.process
def test_its_code_prints_what_it_says(tmp_path: Path) -> None:
    """In the folder of the set-up."""
    follow(read("concepts", folder=DOCS), set_up(tmp_path))


def test_the_glossary_is_sorted_and_links_each_term() -> None:
    """Each term has one entry, which links to where it is explained."""
    _, *entries = (DOCS / "glossary.md").read_text().split("\n## ")
    terms = [entry.partition("\n")[0] for entry in entries]
    assert terms == sorted({*terms}, key=str.casefold)
    assert [term for term, entry in zip(terms, entries, strict=True) if "](" not in entry] == []
