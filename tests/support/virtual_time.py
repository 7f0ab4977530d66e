"""An event loop whose clock goes on only when nothing else is to be done."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for a timer, turns the clock; for threads and sockets it really waits."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout and not self.loop.at_work:
            self.loop.now += timeout
            timeout = 0
        elif timeout:
            timeout = None
        return super().select(timeout)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, seconds; work in threads takes none of them."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 1000.0
        self.at_work = 0
        super().__init__(selector)

    def time(self) -> float:
        """The present moment."""
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """As it is, but counted."""
        self.at_work += 1
        done = super().run_in_executor(executor, func, *args)
        done.add_done_callback(self._one_less)
        return done

    def _one_less(self, _done: Any) -> None:
        self.at_work -= 1


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on such a loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
