"""The input of a node, which the node may return.

If a search also refused texts from the input, anyone who can write to a thread could test guesses
of a secret. So a text from the input counts as known, in every form: a node may quote, cut, join
or encode it. A secret that the node adds can't be distinguished from such a copy, but the person
who sent the input knows that text already.
"""

from __future__ import annotations

from typing import Final

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

    def add(self, value: object) -> Written:
        """Record a value in its current state; later changes to it have no effect here."""
        found = written(value)
        if found.texts or found.data or found.unknown:
            self._parts.append(found)
        return found

    def known(self, patterns: Patterns) -> set[bytes]:
        """Return the forms of secrets that the input contains."""
        forms = list(patterns.forms)
        found: set[bytes] = set()
        for part in self._all():
            found |= part.forms_in(forms)
        return found

    def contains(self, text: str) -> bool:
        """Return whether the input contains exactly this text."""
        form = [text.encode("utf-8", "surrogatepass")]
        return any(part.forms_in(form) for part in self._all())

    def is_small(self, patterns: Patterns) -> bool:
        """Return whether the input is small enough to be searched every time."""
        return sum(part.size for part in self._all()) * patterns.count <= _MAX_ALWAYS_SEARCHED

    def unsearchable(self) -> list[object]:
        """Return the objects in the input that can't be searched."""
        return [each for part in self._all() for each, _ in part.unknown]

    def _all(self) -> list[Written]:
        outer = self._outer._all() if self._outer is not None else []
        return outer + list(self._parts)
