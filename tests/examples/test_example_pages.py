"""The READMEs of examples/: what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import example_runs
import pytest

PAGES = sorted(example_runs.EXAMPLES.glob("**/README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_readme_links_relatively_to_what_is_there(page: Path) -> None:
    """Files beside a README exist, and each link works in a checkout and on a web page of it."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    ours = [each for each in links if not re.match(r"https?:|.*\bdocs/", each)]
    assert links
    assert not [each for each in ours if not (page.parent / each).is_file()]
    assert not [each for each in links if each.startswith("/")]


def test_each_example_is_in_the_table() -> None:
    """examples/README.md has a row for each folder."""
    table = (example_runs.EXAMPLES / "README.md").read_text()
    assert all(f"]({page.parent.name}/README.md)" in table for page in PAGES[1:])
    assert len(PAGES) == 6
