"""Identify the machine's current boot."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache
from pathlib import Path

__all__ = ["boot_id"]


@cache
def boot_id() -> str:
    """Return the id of the machine's current boot, or an empty string if there is none."""
    if sys.platform == "linux":
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return ""
    if sys.platform == "darwin":
        command_line = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        done = subprocess.run(command_line, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
        return done.stdout.strip()
    return ""


def machine_uptime() -> float:
    """Return the seconds since the machine's start."""
    # Both clocks run while the machine sleeps, and changes of the wall clock don't affect them.
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
