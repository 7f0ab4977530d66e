"""Draw `results.svg` from the table in `RESULTS.md`: how each row's ratio compares with its goal.

Run it after a change of the drawing; ``make bench`` runs it after it has measured. It is readable
in both themes and on a phone: the picture has a background of its own, and each bar is below its
label.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(
    r"^\| (?P<work>.+?) \| .+? \| .+? \| .+? \| (?P<ratio>[\d.]+) \| .+? \| ≤ (?P<goal>[\d.]+) \|",
    re.MULTILINE,
)
WIDTH = 480
MARGIN = 18
TOP = 86
STEP = 37
# The ends of the axis, in goals.
LEAST, MOST = 0.1, 10.0
STYLE = """
  .panel { fill: #ffffff; stroke: #d1d9e0 } .ink { fill: #1f2328 } .faint { fill: #59636e }
  .track { fill: #eaeef2 } .line { stroke: #1f2328 }
  .met { fill: #1a7f37 } .missed { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #0d1117; stroke: #3d444d } .ink { fill: #f0f6fc } .faint { fill: #b1bac4 }
    .track { fill: #21262d } .line { stroke: #f0f6fc }
    .met { fill: #3fb950 } .missed { fill: #f85149 }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One row of the table that has a goal.

    Attributes:
        work: What was measured.
        ratio: Ours, divided by the other side's.
        goal: The largest ratio that was hoped for.
    """

    work: str
    ratio: float
    goal: float

    @property
    def met(self) -> bool:
        """Whether the goal was met."""
        return self.ratio <= self.goal


def bars_of(results: str) -> list[Bar]:
    """Return the rows with a goal of the table in RESULTS.md."""
    return [
        Bar(found["work"].replace("`", ""), float(found["ratio"]), float(found["goal"]))
        for found in ROW.finditer(results)
    ]


def drawn(bars: list[Bar]) -> str:
    """Return the picture: a bar for each row, to the left of the line if the goal is met."""
    inner = WIDTH - 2 * MARGIN
    height = TOP + STEP * len(bars) + 40

    def across(goals: float) -> float:
        share = math.log(min(max(goals, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
        return MARGIN + inner * share

    line = across(1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * 1.25:.0f}" '
        f'height="{height * 1.25:.0f}" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="title" font-family="ui-sans-serif, system-ui, \'Segoe UI\', Helvetica, '
        'Arial, sans-serif" font-size="14">',
        f'<title id="title">{sum(each.met for each in bars)} of {len(bars)} goals are met</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="panel" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        f'<text class="ink" x="{MARGIN}" y="32" font-size="17" font-weight="600">'
        f"{sum(each.met for each in bars)} of {len(bars)} goals are met</text>",
        f'<text class="faint" x="{MARGIN}" y="54">A bar is the ratio of a row, divided by its '
        "goal.</text>",
        f'<text class="faint" x="{MARGIN}" y="73">It ends left of the line if the goal is '
        "met.</text>",
    ]
    for number, bar in enumerate(bars):
        top = TOP + STEP * number
        look = "met" if bar.met else "missed"
        sign = "✓" if bar.met else "✗"
        parts += [
            f'<text class="ink" x="{MARGIN}" y="{top + 15}">{escape(bar.work)}</text>',
            f'<text class="{look}" x="{WIDTH - MARGIN}" y="{top + 15}" text-anchor="end">'
            f"{bar.ratio:.2f}, goal {bar.goal:g} {sign}</text>",
            f'<rect class="track" x="{MARGIN}" y="{top + 21}" width="{inner}" height="8" rx="2"/>',
            f'<rect class="{look}" x="{MARGIN}" y="{top + 21}" '
            f'width="{across(bar.ratio / bar.goal) - MARGIN:.1f}" height="8" rx="2"/>',
            # Only beside the bar: through the labels, it would strike them out.
            f'<path class="line" d="M{line:.1f} {top + 18}V{top + 32}" stroke-width="2"/>',
        ]
    bottom = TOP + STEP * len(bars) + 20
    for goals, anchor, label in (
        (LEAST, "start", "a tenth of the goal"),
        (1, "middle", "the goal"),
        (MOST, "end", "10 times the goal"),
    ):
        parts.append(
            f'<text class="faint" x="{across(goals):.1f}" y="{bottom}" text-anchor="{anchor}">'
            f"{label}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Draw the picture again from the numbers that RESULTS.md has."""
    results = (HERE / "RESULTS.md").read_text(encoding="utf-8")
    (HERE / "results.svg").write_text(drawn(bars_of(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
