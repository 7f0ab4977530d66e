"""The pictures of README and of the benchmarks: what they show, and that it can be read."""

from __future__ import annotations

import re
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from paths import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = ["docs/images/overview.svg", "benchmarks/results.svg"]
# Of a letter, on average, in a font of this size; `make chromium` has one of the wide ones.
LETTER = 0.57


def drawing(path: str) -> Any:
    """The document."""
    return ElementTree.fromstring((ROOT / path).read_text())  # noqa: S314 - our own file


def picture() -> Any:
    """The module that draws the benchmarks, which isn't in a package."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import picture
    finally:
        sys.path.pop(0)
    return picture


@pytest.mark.parametrize("path", PICTURES)
def test_a_picture_is_readable_on_a_phone_and_in_both_themes(path: str) -> None:
    """It has its own background in both; on 400 pixels the text has 11, and doesn't overlap."""
    root = drawing(path)
    width = float(root.get("viewBox").split()[2])
    size = float(root.get("font-size"))
    assert size * min(1, 400 / width) >= 11
    style = next(root.iter(f"{SVG}style")).text
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    assert set(re.findall(r"\.([a-z]+) \{", light)) == set(re.findall(r"\.([a-z]+) \{", dark))
    first = next(root.iter(f"{SVG}rect"))
    assert (first.get("class"), float(first.get("width"))) == ("panel", width - 1)
    lines: dict[str, list[tuple[float, float]]] = {}
    for text in root.iter(f"{SVG}text"):
        wide = len(text.text) * float(text.get("font-size", size)) * LETTER
        left = float(text.get("x"))
        left -= {"end": wide, "middle": wide / 2}.get(text.get("text-anchor"), 0.0)
        lines.setdefault(text.get("y"), []).append((left, left + wide))
    for spans in lines.values():
        ends = [at for span in sorted(spans) for at in span]
        assert ends == sorted(ends)
        assert ends[0] > 8
        assert ends[-1] < width - 8


def test_the_benchmarks_are_drawn_from_their_table() -> None:
    """Each row with a goal, and as the table says whether it was met."""
    results = (ROOT / "benchmarks/RESULTS.md").read_text()
    bars = picture().bars_of(results)
    assert picture().drawn(bars) == (ROOT / "benchmarks/results.svg").read_text()
    goals = re.findall(r"\| ≤ [\d.]+ \| (met|missed) \|", results)
    assert ["met" if each.met else "missed" for each in bars] == goals
    assert "](results.svg)" in results


def test_a_bar_ends_at_the_line_where_the_goal_is_just_met() -> None:
    """And no bar leaves the picture, whatever was measured."""
    module = picture()
    bars = [module.Bar("<b>", ratio, 2) for ratio in (2.0, 0.001, 4000.0)]
    root = ElementTree.fromstring(module.drawn(bars))  # noqa: S314 - made by this process
    drawn = [each for each in root.iter(f"{SVG}rect") if each.get("class") in ("met", "missed")]
    ends = [float(each.get("x", "")) + float(each.get("width", "")) for each in drawn]
    (line,) = {float(each.get("d", "")[1:].split()[0]) for each in root.iter(f"{SVG}path")}
    assert ends == [line, module.MARGIN, module.WIDTH - module.MARGIN]
    assert [each.get("class") for each in drawn] == ["met", "met", "missed"]
