"""What is committed of the notebooks; `make notebooks` runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[Any]:
    """The code cells."""
    found = json.loads(path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_there_are_four() -> None:
    """One for each of the things that somebody begins with."""
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_and_say_nothing_of_a_machine(path: Path) -> None:
    """They were run in order, without an error; no folder and no secret is in them."""
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert len(outputs) >= 3
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps(outputs)
    assert not re.search(r"/(tmp|home|root|Users)/|plit_|otpauth:|sk-live|wk-2718", text)


def test_the_leak_table_shows_what_it_promises() -> None:
    """With a key in `configurable` each mistake leaves it somewhere; injected, none does."""
    (table,) = [
        "".join(output["text"])
        for cell in cells(NOTEBOOKS[2])
        for output in cell["outputs"]
        if "in configurable" in "".join(output.get("text", ""))
    ]
    rows = [line.split() for line in table.splitlines()[1:]]
    assert len(rows) == 6
    assert all(int(plain) > 0 and int(injected) == 0 for _, plain, injected in rows)
