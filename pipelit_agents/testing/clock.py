"""A clock that a test turns."""

from __future__ import annotations

from typing import Final

__all__ = ["Clock"]

# At the beginning of a time step, in January 2027.
START: Final = 1_800_000_000.0


class Clock:
    """A clock that moves only when a test moves it. Pass it as ``Pipelit(clock=…)``.

    Args:
        now: The time at which it begins, in Unix seconds.

    Attributes:
        now: The current time in Unix seconds. You can set it.
    """

    def __init__(self, now: float = START) -> None:
        self.now: float = now

    def __call__(self) -> float:
        """Return the present moment, Unix seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward, or back by a negative number.

        Args:
            seconds: The number of seconds. A time step of a code has 30.
        """
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Move the clock forward instead of waiting, when ``Pipelit`` waits for a time step.

        Args:
            seconds: By how much.
        """
        self.advance(seconds)

    def __repr__(self) -> str:
        return f"Clock({self.now!r})"
