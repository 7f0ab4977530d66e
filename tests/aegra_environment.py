"""Make the environment in which the tests run Aegra, which needs Python 3.12 or newer.

Run by ``make aegra``, and so by ``make test``. Where no such Python is, it says so, and the tests
that need Aegra are skipped with the same words.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from smoke import ROOT, claimed, find, run

HOME = ROOT / ".venv-aegra"
READY = HOME / ".ready"
OLDEST = (3, 12)
EXTRAS = "postgres,redis"


def interpreter() -> Path | str:
    """A Python that Aegra works on, the newest one, or why there is none."""
    if sys.version_info[:2] >= OLDEST:
        return Path(sys.executable)
    whys = []
    for version in sorted(claimed(), reverse=True):
        if version >= OLDEST:
            found = find(version, os.environ)
            if isinstance(found, Path):
                return found
            whys.append(found)
    return "; ".join(whys)


def is_ready() -> bool:
    """Whether the environment is there, and made from the present ``pyproject.toml``."""
    project = ROOT / "pyproject.toml"
    return READY.exists() and READY.stat().st_mtime >= project.stat().st_mtime


def main() -> None:
    """Make it, if it isn't ready."""
    if is_ready():
        return
    python = interpreter()
    if isinstance(python, str):
        print(f"aegra: {python}; skipped")
        return
    # The packages that are there already are kept.
    run([python, "-m", "venv", "--without-pip", HOME], ROOT)
    pip = [sys.executable, "-m", "pip", "--python", HOME / "bin" / "python", "install"]
    quiet = ("--no-compile", "--quiet", "--disable-pip-version-check")
    group = ("--group", ROOT / "pyproject.toml:aegra")
    run([*pip, *quiet, "--editable", f"{ROOT}[{EXTRAS}]", *group], ROOT)
    READY.touch()
    print(f"aegra: {HOME.name}, of {python}")


if __name__ == "__main__":
    main()
