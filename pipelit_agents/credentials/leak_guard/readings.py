"""Put the pieces of a stream together in each of the ways in which a reader may do it.

A piece is held back if, in one of these ways, it may end with the beginning of a secret.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from pipelit_agents.credentials.leak_guard.patterns import Patterns

__all__ = ["Beginnings", "Readings"]

# Possible secrets are looked up by their first characters. No beginning is shorter than this.
_HEAD_LENGTH: Final = 4
# How many earlier characters are searched with each piece; more if a secret is longer.
_TAIL_LENGTH: Final = 4096
# How many texts are compared to find their frame: two may have more in common by chance.
_COMPARED: Final = (1, 3)
_RECENT: Final = 16
_MAX_FRAMES: Final = 4
_MAX_FRAME: Final = 512
# How many different texts may grow by turns.
_MAX_GROWN: Final = 2
# How many further pieces can show that a beginning of a secret was before the end of a frame.
_MAX_UNSURE: Final = 4

_Frame = tuple[str, str]


class Beginnings:
    """Find text at the end of a stream that may be the beginning of a secret."""

    def __init__(self, patterns: Patterns, is_from_input: Callable[[str], bool]) -> None:
        self.patterns: Patterns = patterns
        self.longest: int = max(map(len, patterns.texts), default=0)
        self._is_from_input = is_from_input
        self._by_head: dict[str, list[tuple[str, int]]] = {}
        for each, least in patterns.beginnings.items():
            self._by_head.setdefault(each[:_HEAD_LENGTH], []).append((each, least))
        heads = "|".join(map(re.escape, self._by_head))
        self._heads = re.compile(f"(?=({heads}))", re.DOTALL)

    def find(self, text: str, after: int = 0) -> int | None:
        """Return the offset at which a secret may begin, or None.

        Args:
            text: The text, which ends with the beginning of a secret.
            after: How many further characters may be after it.
        """
        if not self._by_head:
            return None
        begin = max(0, len(text) - self.longest + 1 - after)
        for found in self._heads.finditer(text, begin):
            rest = text[found.start() :]
            for each, least in self._by_head[found[1]]:
                some = rest if not after else _common_start([rest, each])
                if (
                    len(some) >= least
                    and each.startswith(some)
                    and len(rest) - len(some) <= after
                    and not self._is_from_input(some)
                ):
                    return found.start()
        return None


class _Line:
    """A text that grows by the pieces of a stream; the number of a piece is its place in it.

    Attributes:
        text: The text; of a long one, the end.
        held_from: The first piece with characters of what may be a secret; None if there is none.
    """

    def __init__(self) -> None:
        self.text = ""
        self.held_from: int | None = None
        # Where pieces end, counted from the end of the text.
        self._ends: deque[tuple[int, int]] = deque()
        self._length = 0

    def extend(self, text: str, number: int, beginnings: Beginnings | None = None) -> None:
        """Continue with a text that begins with the last one.

        Args:
            text: The whole text.
            number: The number of the piece.
            beginnings: The secrets to search for; None for a text that was searched before.
        """
        self._length += len(text) - len(self.text)
        self._ends.append((self._length, number))
        self.text = text
        self.held_from = None
        if beginnings is not None:
            begins = beginnings.find(text)
            offset = inf if begins is None else self._length - (len(text) - begins)
            while self._ends and self._ends[0][0] <= offset:
                self._ends.popleft()
            self.held_from = self._ends[0][1] if self._ends else None


class Readings:
    """The ways in which a consumer may put the texts of one path together.

    A consumer may append each text to the one before. It may take each text as the whole text so
    far, which then grows. Or it may append only the part of each text between a frame: a beginning
    and an end that all texts have in common, as lines of server-sent events do.
    """

    def __init__(self) -> None:
        self._joined = _Line()
        self._framed: dict[_Frame, _Line] = {}
        # By what follows the text so far, such as a cursor.
        self._grown: dict[str, list[_Line]] = {"": []}
        self._recent: deque[tuple[int, str]] = deque(maxlen=_RECENT)
        self._unsure: int | None = None

    def held_from(self, added: int) -> int:
        """Return the number of the first piece that is held back, or of the next piece."""
        lines = [self._joined, *self._framed.values()]
        for each in self._grown.values():
            lines += each
        held = [each.held_from for each in lines if each.held_from is not None]
        if self._unsure is not None and added - self._unsure <= _MAX_UNSURE:
            held.append(self._unsure)
        return min(held, default=added)

    def after(self, text: str) -> list[tuple[_Line, str]]:
        """Return the lines that a text continues, each with its text afterwards."""
        self._learn(text)
        found = [(self._joined, self._joined.text + text)]
        for (start, end), line in self._framed.items():
            if _is_framed(text, start, end):
                found.append((line, line.text + text[len(start) : len(text) - len(end)]))
        for end, lines in self._grown.items():
            if text.endswith(end):
                bare = text[: len(text) - len(end)]
                grown = next((each for each in lines if bare.startswith(each.text)), None)
                line = _Line() if grown is None else grown
                lines[:] = [*(each for each in lines if each is not grown), line][-_MAX_GROWN:]
                found.append((line, bare))
        return found

    def add(
        self,
        text: str,
        number: int,
        lines: list[tuple[_Line, str]],
        beginnings: Beginnings,
    ) -> None:
        """Add a text, after ``after`` has returned its lines."""
        grown = {id(each) for some in self._grown.values() for each in some if each.text}
        grows = any(id(line) in grown for line, _ in lines)
        for line, whole in lines:
            line.extend(whole, number, beginnings)
        self._joined.text = self._joined.text[-max(_TAIL_LENGTH, beginnings.longest) :]
        for line in self._framed.values():
            line.text = line.text[-beginnings.longest :]
        # Where a beginning is followed by other text, only the next text shows whether that is the
        # end of a frame. A text that grows has shown it.
        unsure = not grows and beginnings.find(text, _MAX_FRAME) is not None
        self._unsure = number if unsure else None
        self._recent.append((number, text))

    def _learn(self, text: str) -> None:
        """Find the frames that a text has in common with the texts before it."""
        for last in _COMPARED:
            some = [each for _, each in self._recent][-last:]
            if len(some) < last or all(each == text for each in some):
                continue
            start, end = _common_frame([*some, text])
            frame = self._framed.pop((start, end), None)
            if frame is None and (start or end):
                frame = _Line()
                for number, each in self._recent:
                    if _is_framed(each, start, end):
                        frame.extend(frame.text + each[len(start) : len(each) - len(end)], number)
            if frame is not None:
                self._framed[start, end] = frame
            if end not in self._grown:
                self._grown[end] = [_Line()]
                number, each = self._recent[-1]
                self._grown[end][0].extend(each[: len(each) - len(end)], number)
        while len(self._framed) > _MAX_FRAMES:
            del self._framed[next(iter(self._framed))]
        ends = {"", *(end for _, end in self._framed)}
        self._grown = {end: lines for end, lines in self._grown.items() if end in ends}


def _common_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((index for index, (a, b) in pairs if a != b), len(first))]


def _is_framed(text: str, start: str, end: str) -> bool:
    return len(text) >= len(start) + len(end) and text.startswith(start) and text.endswith(end)


def _common_frame(texts: list[str]) -> _Frame:
    """Return what texts begin and end with; letters and digits next to the rest belong to it."""
    start = _common_start([each[:_MAX_FRAME] for each in texts])
    while start and start[-1].isalnum():
        start = start[:-1]
    end = _common_start([each[len(start) :][: -_MAX_FRAME - 1 : -1] for each in texts])[::-1]
    while end and end[0].isalnum():
        end = end[1:]
    return start, end
