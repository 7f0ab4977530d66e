"""Find secrets that are streamed in pieces: a model's tokens, stream writes, a runnable's chunks.

A piece is passed on at once, unless its end may be the beginning of a secret. Then it is held back
until further text rules that out, or until the stream ends.

Readers of the stream can notice the delay. So text from the node's input is never held back, and
neither is a beginning so short that it could be guessed. Readers may therefore receive the public
beginning of a secret, such as ``sk-proj-``, and up to seven further characters (of a short secret,
less than half).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from pipelit_agents.credentials.leak_guard.guard import Guard
from pipelit_agents.credentials.leak_guard.readings import Beginnings, Readings
from pipelit_agents.credentials.leak_guard.streamed_texts import Path, current_source, texts_by_path

__all__ = ["DelayedCall", "Held", "Pieces"]

T = TypeVar("T")


class Pieces:
    """The texts of one stream so far, and how many of its pieces may be passed on.

    Texts are put together by their path within the pieces: the content of a message, a content
    block or the arguments of a tool call by its index, a field by its name. Streams with different
    ids are put together separately, and also in order of arrival.

    Args:
        guard: Knows the open secrets.
        where: What the stream is, for error messages.
    """

    def __init__(self, guard: Guard, where: str) -> None:
        self._guard = guard
        self._where = where
        self._readings: dict[Path, Readings] = {}
        # Those that hold pieces back: each item of a stream may have an id, and so its own path.
        self._holding: dict[Path, Readings] = {}
        # The number of pieces that were added, and of those that may be passed on.
        self._added = 0
        self._safe = 0
        self._beginnings: Beginnings | None = None

    def search(self, value: object) -> None:
        """Search a whole value of the stream, which may contain more than its piece does.

        Raises:
            SecretLeakError: The value contains a secret. What was held back is never passed on.
        """
        try:
            self._guard.search(value, self._where)
        except BaseException:
            self.refuse()
            raise
        finally:
            # Error trackers display the local variables of this frame.
            del value

    def take(self, value: object, source: int | None = None) -> int:
        """Add the next piece.

        Args:
            value: The piece.
            source: The task or thread that streams it, if several share the stream.

        Returns:
            How many of the pieces held back so far, this one included, may be passed on now.

        Raises:
            SecretLeakError: The piece completes a secret.
        """
        patterns = self._guard.sought()
        if self._beginnings is None or self._beginnings.patterns is not patterns:
            self._beginnings = Beginnings(patterns, self._guard.is_from_input)
        changed = []
        for path, text in texts_by_path(value, source).items():
            readings = self._readings.setdefault(path, Readings())
            self._holding[path] = readings
            changed.append((readings, text, readings.after(text)))
        self.search(list(dict.fromkeys(text for _, _, lines in changed for _, text in lines)))
        for readings, text, lines in changed:
            readings.add(text, self._added, lines, self._beginnings)
        self._added += 1
        before, held = self._safe, self._added
        for path, each in list(self._holding.items()):
            if (first := each.held_from(self._added)) == self._added:
                self._holding.pop(path, None)
            held = min(held, first)
        self._safe = max(before, held)
        return self._safe - before

    def refuse(self) -> None:
        """Forget the pieces that were held back: a secret was found, so they are never safe."""
        self._readings.clear()
        self._holding.clear()
        self._safe = self._added


class Held(Pieces, Generic[T]):
    """The items of a stream that can't be passed on yet.

    Args:
        guard: Knows the open secrets.
        where: What the stream is, for error messages.
    """

    def __init__(self, guard: Guard, where: str) -> None:
        super().__init__(guard, where)
        self._kept: deque[T] = deque()

    def add(self, item: T, piece: object, source: int | None = None) -> list[T]:
        """Add the next item, and return those that may be passed on now.

        Args:
            item: The item.
            piece: The part of the item to search.
            source: The task or thread that streams it, if several share the stream.

        Raises:
            SecretLeakError: The piece completes a secret. What was held back is never passed on.
        """
        safe = self.take(piece, source)
        self._kept.append(item)
        return [self._kept.popleft() for _ in range(safe)]

    def rest(self) -> list[T]:
        """Return what was held back: the stream has ended, so it can't become a secret."""
        rest = list(self._kept)
        self._kept.clear()
        return rest

    def refuse(self) -> None:
        """Forget what was held back: a secret was found, so it is never passed on."""
        super().refuse()
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)


class DelayedCall(Held[Callable[[], object]]):
    """Call a function for each piece of a stream, in order, but hold back beginnings of secrets.

    Args:
        call: The function that passes a piece on.
        guard: Knows the open secrets.
        where: What the stream is, for error messages.
    """

    def __init__(self, call: Callable[..., object], guard: Guard, where: str) -> None:
        super().__init__(guard, where)
        self._call = call
        # A node may write from several threads. ``search`` doesn't take the lock: a value's own
        # code may write, too.
        self._lock = threading.RLock()

    def refuse(self) -> None:
        """Forget what was held back: a secret was found, so it is never passed on."""
        with self._lock:
            super().refuse()

    def __call__(
        self, value: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        """Pass a piece on, now or later.

        Args:
            value: The part of the piece to search.
            args: The positional arguments for the function.
            kwargs: The keyword arguments for the function.

        Returns:
            The function's return value; None if it is called later.

        Raises:
            SecretLeakError: The piece completes a secret. What was held back is not passed on.
        """
        with self._lock:
            result = None
            call = partial(self._call, *args, **kwargs)
            for each in self.add(call, value, current_source()):
                result = each()
            return None if len(self) else result

    def flush(self) -> None:
        """Pass on what was held back: the stream has ended, so it can't become a secret."""
        with self._lock:
            for each in self.rest():
                each()
