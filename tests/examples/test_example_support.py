"""examples/support: each run uses the CRM key of the customer who asks."""

from __future__ import annotations

import re
from pathlib import Path

import example_runs
import pytest


@pytest.mark.process
def test_each_request_is_sent_with_the_key_of_its_customer(tmp_path: Path) -> None:
    """The README says whose key arrived at the CRM, also for a customer who lies."""
    done = example_runs.run("support/support.py", tmp_path)
    assert done.returncode == 0, done.stderr
    (block,) = example_runs.blocks("support")
    assert re.fullmatch(example_runs.pattern(block), done.stdout.strip()), done.stdout
