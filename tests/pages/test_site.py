"""mkdocs.yml: the theme follows the system, and a page loads nothing from another host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import material
import yaml
from paths import ROOT

SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
THEME = SITE["theme"]


def test_the_theme_follows_the_system_first() -> None:
    """Then a reader chooses light or dark; each state says what its button does."""
    media = [each["media"] for each in THEME["palette"]]
    schemes = [each.get("scheme") for each in THEME["palette"]]
    assert media[0] == "(prefers-color-scheme)"
    assert media[1:] == ["(prefers-color-scheme: light)", "(prefers-color-scheme: dark)"]
    assert schemes == [None, "default", "slate"]
    assert all(each["toggle"]["name"] for each in THEME["palette"])


def test_a_page_loads_nothing_from_another_host() -> None:
    """No font, script or style sheet, and not the script that asks GitHub for its stars."""
    assert THEME["font"] is False
    for each in (*SITE.get("extra_css", []), *SITE.get("extra_javascript", [])):
        assert (ROOT / "docs" / each).is_file(), each
    for file in (ROOT / "docs" / "stylesheets").glob("*.css"):
        assert not re.search(r"@import|url\(|//", file.read_text()), file
    # Our link to the repository, where the theme's own has the mark by which its script finds it.
    mark = 'data-md-component="source"'
    theirs = Path(material.__file__).parent / "templates" / "partials" / "source.html"
    ours = ROOT / THEME["custom_dir"] / "partials" / "source.html"
    assert mark in theirs.read_text()
    assert mark not in ours.read_text()


def test_a_broken_link_or_a_page_that_is_not_listed_stops_the_build() -> None:
    """Warnings are errors, and all of these are warnings."""
    assert SITE["strict"] is True
    kinds = [*SITE["validation"]["nav"].values(), *SITE["validation"]["links"].values()]
    assert {*kinds} == {"warn"}
    assert {"omitted_files", "not_found"} <= {*SITE["validation"]["nav"]}
    assert "anchors" in SITE["validation"]["links"]


def test_each_block_names_one_language() -> None:
    """With a second word, the site would print the block as a line of text."""
    for page in (ROOT / "docs").rglob("*.md"):
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
        assert not [each for each in fences if not re.fullmatch(r"[a-z]*", each)], page
