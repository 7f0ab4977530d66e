"""The input of a node, which the node may return.

If a search also refused texts from the input, anyone who can write to a thread could test guesses
of a secret. So a text from the input counts as known, in every form: a node may quote, cut, join
or encode it. A secret that the node adds can't be distinguished from such a copy, but the person
who sent the input knows that text already.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.written import Written, written

__all__ = ["NodeInput"]

# Characters times forms of secrets. A smaller input is always searched, whether or not the output
# holds a secret, so that the duration of a node reveals nothing about that.
_MAX_ALWAYS_SEARCHED: Final = 20_000_000


class NodeInput:
    """The texts in the input of a node, and in the inputs of the nodes that it runs in.

    Args:
        outer: The input of the node that this one runs in.
    """

    def __init__(self, outer: NodeInput | None = None) -> None:
        self._outer = outer
        self._parts: list[Written] = []
        self._unsearchable: list[object] = []
        self._size = 0
        # By patterns, how many parts were searched for them, and what was found. A node may read
        # thousands of items from a store one by one, and send something after each.
        self._found: WeakKeyDictionary[Patterns, tuple[int, set[bytes]]] = WeakKeyDictionary()

    def add(self, value: object) -> Written:
        """Record a value in its current state; later changes to it have no effect here."""
        found = written(value)
        if found.texts or found.data or found.unknown:
            self._parts.append(found)
            self._size += found.size
            self._unsearchable += [each for each, _ in found.unknown]
        return found

    def known(self, patterns: Patterns) -> set[bytes]:
        """Return the forms of secrets that the input contains."""
        forms = list(patterns.forms)
        done, found = self._found.get(patterns, (0, set[bytes]()))
        for part in self._parts[done:]:
            done, found = done + 1, found | part.forms_in(forms)
        self._found[patterns] = done, found
        return found if self._outer is None else found | self._outer.known(patterns)

    def contains(self, text: str) -> bool:
        """Return whether the input contains exactly this text."""
        form = [text.encode("utf-8", "surrogatepass")]
        within = any(part.forms_in(form) for part in list(self._parts))
        return within or (self._outer is not None and self._outer.contains(text))

    def is_small(self, patterns: Patterns) -> bool:
        """Return whether the input is small enough to be searched every time."""
        return self._length() * patterns.count <= _MAX_ALWAYS_SEARCHED

    def unsearchable(self) -> list[object]:
        """Return the objects in the input that can't be searched."""
        outer = [] if self._outer is None else self._outer.unsearchable()
        return outer + self._unsearchable

    def _length(self) -> int:
        return self._size + (0 if self._outer is None else self._outer._length())
