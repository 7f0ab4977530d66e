"""Look into the two files of a release, and run tests from the source archive.

Run by ``make wheel`` and ``make sdist`` with the name of a file. The wheel has the packages, and
nothing else. The source archive has each file of the repository, and its tests run from it alone.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
# The packages of the wheel, and where they are in the repository.
PACKAGES = {
    "pipelit_agents": "pipelit_agents",
    "pipelit_agents/tools": "tools",
    "pipelit_agents/graphs": "graphs",
}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
# Some of what isn't Python, to be missed also if it is in no folder any more.
NEEDED = {
    "pipelit_agents/py.typed",
    "pipelit_agents/ledger/decide.lua",
    "pipelit_agents/desk/static/index.html",
}
# What setuptools adds to the files of the repository.
ADDED = {"PKG-INFO", "setup.cfg"}
# Tests of several folders, also of those that aren't in the wheel. They take a few seconds.
SELECTED = ("test_layout", "test_otp", "test_contributing", "test_keyring", "test_verification")


def in_wheel(wheel: Path) -> None:
    """Compare the wheel's files with those of the packages' folders.

    Raises:
        SystemExit: They differ.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {each for each in archive.namelist() if not each.endswith("/")}
    (info,) = {each.split("/")[0] for each in names if ".dist-info/" in each}
    expected = {f"{info}/{each}" for each in METADATA} | NEEDED
    for name, home in PACKAGES.items():
        for file in (ROOT / home).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                expected.add(f"{name}/{file.relative_to(ROOT / home).as_posix()}")
    _compare(wheel, names, expected)


def in_source(archive: Path) -> Path:
    """Compare the source archive's files with git's, unpack it, and return its folder.

    Raises:
        SystemExit: They differ.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {each for each in done.stdout.splitlines() if (ROOT / each).is_file()}
    with tarfile.open(archive) as opened:
        top = opened.getnames()[0].split("/")[0]
        names = {each.name.removeprefix(f"{top}/") for each in opened if each.isfile()}
        opened.extractall(BUILD, filter="data")
    _compare(archive, {each for each in names if ".egg-info/" not in each}, expected | ADDED)
    return BUILD / top


def _compare(archive: Path, names: set[str], expected: set[str]) -> None:
    missing, more = sorted(expected - names), sorted(names - expected)
    if missing or more:
        sys.exit(f"{archive.name} misses {missing}, and has {more} too much")


def test(folder: Path) -> None:
    """Make an environment of what the unpacked archive names, and run tests in it."""
    home = BUILD / "source-venv"
    venv.create(home, clear=True)
    python = home / "bin" / "python"
    install = [sys.executable, ROOT / "tests" / "install.py", "--python", python]
    groups = ["--group", f"{folder / 'pyproject.toml'}:dev"]
    subprocess.run([*install, "--editable", f"{folder}[all]", *groups], cwd=folder, check=True)
    files = [next((folder / "tests").rglob(f"{each}.py")) for each in SELECTED]
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--cases", "1"]
    subprocess.run([python, "-m", "pytest", *options, *files], cwd=folder, check=True)


if __name__ == "__main__":
    given = Path(sys.argv[1]).resolve()
    if given.suffix == ".whl":
        in_wheel(given)
    else:
        test(in_source(given))
