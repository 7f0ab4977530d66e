"""Run the notebooks and store their outputs, without what depends on the machine or the moment.

Run it after a change of a notebook, or of what a notebook displays; then read the outputs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from paths import ROOT

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path) -> None:
    """Run one notebook from top to bottom, and write it again."""
    notebook: Any = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=60, record_timing=False, resources=resources).execute()
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02}", {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def joined(outputs: list[Any]) -> list[Any]:
    """Return the outputs with the pieces of a stream joined, as their number is chance."""
    found: list[Any] = []
    for output in outputs:
        last = found[-1] if found else None
        if last and output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            found.append(output)
    return found


if __name__ == "__main__":
    for each in sys.argv[1:] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        run(Path(each))
        print(each)
