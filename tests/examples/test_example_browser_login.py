"""examples/browser_login: the agent logs in, and its model sees neither password nor code."""

from __future__ import annotations

import re
from pathlib import Path

import example_runs
import pytest
from browser import MISSING, path_of_chromium

SCRIPT = "browser_login/log_in.py"


@pytest.mark.process
def test_the_agent_logs_in_and_a_page_that_repeats_the_password_is_kept_from_it(
    tmp_path: Path,
) -> None:
    """The README says what is printed, and a second run in the same folder works at once."""
    block, stopped = example_runs.blocks("browser_login")
    done = example_runs.run(SCRIPT, tmp_path, "--forms")
    assert re.fullmatch(example_runs.pattern(block), done.stdout.strip()), done.stdout + done.stderr
    done = example_runs.run(SCRIPT, tmp_path, "--forms", "--nosy")
    assert "code: accepted" in done.stdout, done.stdout + done.stderr
    assert stopped.strip() in done.stdout
    assert "   the password in 0 messages" in done.stdout


@pytest.mark.process
@pytest.mark.everywhere
@pytest.mark.parametrize("nosy", [False, True])
def test_a_browser_logs_in_too(tmp_path: Path, nosy: bool) -> None:
    """With a Chromium, the tool fills in the page, and the model sees the same."""
    if path_of_chromium() is None:
        pytest.skip(MISSING)
    done = example_runs.run(SCRIPT, tmp_path, *["--nosy"] * nosy)
    assert "without a browser" not in done.stdout
    assert "code: accepted" in done.stdout, done.stdout + done.stderr
    assert ("stopped |" in done.stdout) is nosy
    assert "   the password in 0 messages" in done.stdout
