"""Which other versions of Python ``make smoke`` tries, and how it finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from smoke import ROOT, SELECTED, TESTS, claimed, find

OTHER = (3, 77)


def interpreter(file: Path, code: str) -> Path:
    """Write a program that stands for an interpreter."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{code}\n")
    file.chmod(0o755)
    return file


def test_the_versions_are_those_that_the_project_names() -> None:
    """But for our own, and as numbers: 3.9 would be before 3.11."""
    assert claimed((3, 11)) == [(3, 12), (3, 13)]
    assert claimed((3, 12)) == [(3, 11), (3, 13)]
    assert claimed((9, 9)) == [(3, 11), (3, 12), (3, 13)]
    assert sys.version_info[:2] not in claimed()


def test_the_selected_tests_are_there() -> None:
    """A file that was renamed isn't left out in silence."""
    assert [each for each in SELECTED if not list(TESTS.rglob(f"{each}.py"))] == []


def test_one_on_the_path_is_found(tmp_path: Path) -> None:
    """The first that starts and is what its name says; one that doesn't start is passed over."""
    broken = interpreter(tmp_path / "a" / "python3.77", "echo 'command not found' >&2; exit 127")
    liar = interpreter(tmp_path / "b" / "python3.77", "echo 3 76")
    right = interpreter(tmp_path / "c" / "python3.77", "echo 3 77")
    interpreter(tmp_path / "d" / "python3.77", "echo 3 77")
    path = os.pathsep.join(str(tmp_path / each) for each in "abcd")
    assert find(OTHER, {"PATH": path, "HOME": str(tmp_path)}) == right
    for each, why in ((broken, "command not found"), (liar, "3 76")):
        found = find(OTHER, {"PATH": str(each.parent), "HOME": str(tmp_path)})
        assert isinstance(found, str)
        assert str(each) in found
        assert why in found


@pytest.mark.process
@pytest.mark.parametrize("how", ["shims", "root", "home"])
def test_pyenvs_versions_are_found(tmp_path: Path, how: str) -> None:
    """Beside the shims on the path, in PYENV_ROOT and at home; a shim alone starts nothing."""
    pyenv = tmp_path / ".pyenv"
    shim = interpreter(pyenv / "shims" / "python3.77", "echo 'pyenv: no version' >&2; exit 127")
    real = interpreter(pyenv / "versions" / "3.77.0" / "bin" / "python3.77", "echo 3 77")
    environ = {
        "shims": {"PATH": str(shim.parent)},
        "root": {"PATH": "", "PYENV_ROOT": str(pyenv)},
        "home": {"PATH": "/nonexistent", "HOME": str(tmp_path)},
    }[how]
    assert find(OTHER, environ) == real


def test_none_is_said(tmp_path: Path) -> None:
    """Neither a folder of that name nor a file that can't be started is one."""
    (tmp_path / "python3.77").mkdir()
    environ = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    assert "python3.77" in str(find(OTHER, environ))
    (tmp_path / "python3.77").rmdir()
    interpreter(tmp_path / "python3.77", "echo 3 77").chmod(0o644)
    assert find(OTHER, environ) == "python3.77 isn't on this machine"


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """What ``make`` would do, without what a ``make`` that runs us has told us."""
    program = shutil.which("make")
    if program is None:
        pytest.skip("make isn't installed here")
    return subprocess.run(
        [program, "-n", "lint", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "venv"),
    [
        ([], ".venv"),
        ([f"PYTHON={sys.executable}"], ".venv-{}.{}".format(*sys.version_info[:2])),
    ],
)
def test_make_gives_each_python_an_environment(words: list[str], venv: str) -> None:
    """The default is in ``.venv``; one that is named gets another folder, by its version."""
    assert f"\n{venv}/bin/ruff check" in f"\n{make(*words).stdout}"


@pytest.mark.process
def test_make_says_that_a_python_does_not_start() -> None:
    """Before it has made anything."""
    done = make("PYTHON=python3.77")
    assert done.returncode != 0
    assert "python3.77 doesn't start" in done.stderr
