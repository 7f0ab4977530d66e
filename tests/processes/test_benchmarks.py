"""The benchmarks run against the present code.

What django-otp is compared with needs the group `bench`, and large stores and thousands of children
take minutes. The other rows are run once, so that a change that breaks them is seen at once.
"""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = ["verify_redis", "verify_proof", "inject", "authenticate", "flooded"]


@pytest.mark.everywhere
def test_the_rows_of_the_benchmarks_run() -> None:
    """Each row measures both sides and prints a line of the table."""
    found = subprocess.run(
        [sys.executable, "side_by_side.py", "--times", "1", "--only", *ROWS],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    printed = [line for line in found.stdout.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in printed] == [
        "work",
        "`verify_peer`, Redis ledger",
        "`verify_proof`, with its audit row",
        "`averify_proof`, 100 at once",
        "a node with `inject`, SqliteSaver",
        "`authenticate(bearer)`",
        "a valid key in a flood, p99",
    ]
