"""Which cases of the tests a short run takes, as ``make test`` does with ``--cases``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

STORES = ("sqlite", "postgres", "redis")
TESTS = """
import pytest

@pytest.mark.parametrize("number", range(9))
def test_plain(number): ...

@pytest.mark.parametrize("number", range(9))
def test_costly(tmp_path, number): ...

@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("saver_name", ["sqlite", "postgres", "redis"])
def test_stores_one(tmp_path, saver_name, number): ...

@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("saver_name", ["sqlite", "postgres", "redis"])
def test_stores_two(tmp_path, saver_name, number): ...

@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("saver_name", ["sqlite", "postgres", "redis"])
def test_stores_three(tmp_path, saver_name, number): ...

@pytest.mark.all_cases
@pytest.mark.parametrize("number", range(9))
def test_kept(tmp_path, number): ...

@pytest.mark.slow
def test_slow(): ...

@pytest.mark.slow
@pytest.mark.parametrize("number", range(9))
def test_slow_costly(tmp_path, number): ...

@pytest.mark.everywhere
def test_long(): ...
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--cases", "2"],
            {"plain": 9, "costly": 2, "stores": 6, "kept": 9, "slow": 1, "slow_costly": 1},
        ),
        # Each starts an interpreter with everything that the fixtures import.
        pytest.param(
            [],
            {"plain": 9, "costly": 9, "stores": 81, "kept": 9, "slow": 1, "slow_costly": 9},
            marks=pytest.mark.everywhere,
        ),
        pytest.param(
            ["-m", "not process"],
            {"plain": 2, "costly": 1, "stores": 3, "kept": 1},
            marks=pytest.mark.everywhere,
        ),
        pytest.param(
            ["--everywhere"],
            {
                "plain": 9,
                "costly": 9,
                "stores": 81,
                "kept": 9,
                "slow": 1,
                "slow_costly": 9,
                "long": 1,
            },
            marks=pytest.mark.everywhere,
        ),
    ],
    ids=["make test", "alone", "make quick", "make everywhere"],
)
def test_a_run_takes_so_many_cases(
    tmp_path: Path, options: list[str], expected: dict[str, int]
) -> None:
    """Few of what needs a folder, all of the rest; each store has its turn."""
    (tmp_path / "test_it.py").write_text(TESTS)
    words = ["-q", "--collect-only", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", *words, "--confcutdir", str(ROOT / "tests"),
         "-p", "conftest", str(tmp_path / "test_it.py"), *options],
        cwd=ROOT / "tests", capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = [line.partition("::test_")[2] for line in done.stdout.splitlines() if "::" in line]
    names = [re.sub(r"(_one|_two|_three)?(\[.*)?$", "", each) for each in found]
    assert {name: names.count(name) for name in names} == expected
    if options == ["--cases", "2"]:
        stores = [each for each in found if each.startswith("stores")]
        assert {each for name in stores for each in STORES if each in name} == {*STORES}
