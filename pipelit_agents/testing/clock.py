"""A clock that a test turns."""

from __future__ import annotations

from typing import Final

__all__ = ["Clock"]

# At the beginning of a time step, in January 2027.
START: Final = 1_800_000_000.0


class Clock:
    """A clock that moves only when a test turns it; ``Pipelit(clock=…)`` takes it.

    Args:
        now: The first moment, Unix seconds.

    Attributes:
        now: The present moment, Unix seconds; it can be set.
    """

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the present moment, Unix seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Turn the clock on, or back by a negative number.

        Args:
            seconds: By how much. A time step of a code has 30 seconds.
        """
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Turn the clock on instead of waiting; ``Pipelit`` calls this for a code's next step.

        Args:
            seconds: By how much.
        """
        self.advance(seconds)

    def __repr__(self) -> str:
        return f"Clock({self.now!r})"
