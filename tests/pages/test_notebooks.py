"""What is committed of the notebooks; `make notebooks` runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from paths import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
INSTALL = re.compile(r'pip install "?pipelit-agents(\[[a-z,]+\])?"? jupyterlab')


def cells(path: Path, kind: str = "code") -> list[Any]:
    """The cells of a kind."""
    found = json.loads(path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def texts(path: Path) -> list[str]:
    """The text between the code, a cell each."""
    return ["".join(cell["source"]) for cell in cells(path, "markdown")]


def outputs(path: Path) -> list[Any]:
    """What the cells displayed."""
    return [output for cell in cells(path) for output in cell["outputs"]]


def displayed(path: Path, mime: str) -> Iterator[str]:
    """The outputs in one form."""
    for output in outputs(path):
        if mime in output.get("data", {}):
            yield "".join(output["data"][mime])


def test_there_are_five_and_the_table_lists_them() -> None:
    """In order, each with the line that installs what it needs and the time that it says itself."""
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    rows = re.findall(r"\| \[(\d)\..*?\]\((\S+)\) \| .* \| (.*) \| `(.*)` \|", readme())
    assert [(number, name) for number, name, _, _ in rows] == [
        (path.stem[1], path.name) for path in NOTEBOOKS
    ]
    for path, (*_, time, install) in zip(NOTEBOOKS, rows, strict=True):
        assert f"**Time:** {time}." in texts(path)[0]
        assert install in texts(path)[0]


def readme() -> str:
    """The table of all notebooks."""
    return (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_says_what_it_is_for(path: Path) -> None:
    """It begins with what is learned and what is installed, sets up, and ends with what is next."""
    first, *_, last = texts(path)
    number = path.stem[1]
    assert re.match(rf"# {number}\. ", first)
    assert "**You will learn**" in first
    assert INSTALL.search(first)
    assert texts(path)[1].startswith("## Set up")
    assert last.startswith("## Next")
    following = [each.name for each in NOTEBOOKS if each.stem[1] == str(int(number) + 1)]
    assert all(name in last for name in following)


def test_what_they_link_to_is_there() -> None:
    """Links lead to other notebooks and pages of the repository."""
    for text in [readme(), *(text for path in NOTEBOOKS for text in texts(path))]:
        for target in LINK.findall(text):
            assert (FOLDER / target).is_file(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_and_say_nothing_of_a_machine(path: Path) -> None:
    """They were run in order, without an error; no folder and no secret is in them."""
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert len(outputs(path)) >= 3
    assert not [each for each in outputs(path) if each["output_type"] == "error"]
    text = json.dumps(outputs(path))
    assert not re.search(r"/(tmp|home|root|Users|work|dev)/|plit_|otpauth:", text)
    # The made-up keys are in the source; what is displayed has at most their last four characters.
    keys = re.findall(r"\b(?:sk|wk|gh)-[\w-]{8,}", path.read_text())
    assert not [key for key in keys if key in text]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_run_changes_few_outputs(path: Path) -> None:
    """Times are those of the fixed clock, and nothing else tells when or where it was run."""
    text = json.dumps(outputs(path))
    assert set(re.findall(r"20\d\d-\d\d-\d\d", text)) <= {"2027-01-15"}
    document = json.loads(path.read_text())
    assert document["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not [cell for cell in document["cells"] if cell["metadata"]]


def test_pictures_and_tables_are_committed() -> None:
    """Drawings are whole SVG documents with a theme each; nothing is fetched from anywhere."""
    pictures = [each for path in NOTEBOOKS for each in displayed(path, "image/svg+xml")]
    assert len(pictures) >= 4
    for picture in pictures:
        root = ElementTree.fromstring(picture)  # noqa: S314 - our own file
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme:dark" in picture
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", picture)
    for path in NOTEBOOKS:
        assert any("<table>" in each for each in displayed(path, "text/html")), path
    (progress,) = [each for each in displayed(NOTEBOOKS[1], "text/html") if "tasks done" in each]
    assert "2 of 2 tasks done, 2 verified" in progress


def test_the_leak_table_shows_what_it_promises() -> None:
    """With a key in `configurable` each mistake leaves it somewhere; injected, none does."""
    (text,) = [
        each for each in displayed(NOTEBOOKS[2], "text/plain") if each.startswith("the node")
    ]
    rows = [line.split() for line in text.splitlines()[1:]]
    assert len(rows) == 6
    assert all(int(plain) > 0 and int(injected) == 0 for _, plain, injected in rows)
