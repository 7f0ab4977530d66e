"""tests/chromium.sh: Chromium is installed as root on Debian, and else it is said to be missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from paths import TESTS

TOOLS = ("grep", "mktemp", "rm", "sh", "tail", "timeout")
WORKS = 'echo "$@" >> "$CALLS"; case "$*" in *install*) cp "$0" "${0%/*}/chromium";; esac'
FAILS = 'echo "$@" >> "$CALLS"; echo "E: Temporary failure resolving deb.debian.org"; exit 100'


def set_up(folder: Path, *, apt: str, user: str = "0", **variables: str) -> tuple[str, list[str]]:
    """Run the script where there is nothing but this; what it and apt-get said."""
    for each in TOOLS:
        (folder / each).symlink_to(str(shutil.which(each)))
    (folder / "cp").symlink_to(str(shutil.which("cp")))
    (folder / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (folder / "apt-get").write_text(f"#!/bin/sh\n{apt}\n")
    for each in ("id", "apt-get"):
        (folder / each).chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    environment = {"PATH": str(folder), "CALLS": str(calls), "TMPDIR": str(folder), **variables}
    done = subprocess.run(
        [str(folder / "sh"), str(TESTS / "chromium.sh")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, calls.read_text().splitlines()


def is_debian() -> bool:
    """Whether this machine is one that the script installs on."""
    release = Path("/etc/os-release")
    return release.exists() and "ID=debian" in release.read_text().splitlines()


def test_one_that_is_there_is_used(tmp_path: Path) -> None:
    """Nothing is said and nothing is installed."""
    assert set_up(tmp_path, apt=WORKS, CHROMIUM="/bin/sh") == ("", [])


@pytest.mark.skipif(not is_debian(), reason="the script installs on Debian only")
def test_it_is_installed_as_root_on_debian(tmp_path: Path) -> None:
    """With the fonts, and a line says so; the second time there is nothing to do."""
    said, calls = set_up(tmp_path, apt=WORKS)
    assert said == "Chromium is installed, for the tests of the desk's pages.\n"
    assert [each.split()[-1] for each in calls] == ["update", "fonts-dejavu-core"]
    again = subprocess.run(
        [str(tmp_path / "sh"), str(TESTS / "chromium.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (again.returncode, again.stdout) == (0, "")


@pytest.mark.skipif(not is_debian(), reason="the script installs on Debian only")
def test_offline_one_line_says_what_failed(tmp_path: Path) -> None:
    """The tests go on without it."""
    said, calls = set_up(tmp_path, apt=FAILS)
    assert len(calls) == 1
    assert said.count("\n") == 1
    assert "skipped: E: Temporary failure resolving deb.debian.org" in said


def test_somebody_who_is_not_root_is_told_what_to_do(tmp_path: Path) -> None:
    """Nothing is installed, and the line names the variable."""
    said, calls = set_up(tmp_path, apt=WORKS, user="1000")
    assert calls == []
    assert said.count("\n") == 1
    assert "Install it, or set CHROMIUM" in said
