"""Which life of which machine this is."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["boot_id"]


@cache
def boot_id() -> str:
    """What names this life of the machine, or an empty string where nothing does."""
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
    # Both count while the machine sleeps, and no setting of the wall clock moves them.
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
