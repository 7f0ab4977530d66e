"""Search a text for the forms of open secrets, and mask them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import cached_property
from typing import AnyStr, Final

from pipelit_agents.credentials.leak_guard.beginnings import beginnings
from pipelit_agents.credentials.leak_guard.forms import Forms
from pipelit_agents.credentials.leak_guard.spellings import text_of, texts_of

__all__ = ["MASK", "Patterns"]

# What a secret is replaced by.
MASK: Final = "****"

# With more forms, finding out which of them contain others takes longer than searching for all.
_MAX_COMPARED: Final = 1000
# Characters or bytes that are searched for all forms before the next ones are read from memory.
_CACHED: Final = 2**16


class Patterns:
    """The forms of the open secrets, compiled once.

    Args:
        revealed: Credential names by plaintext. Values shorter than eight characters aren't
            searched for.

    Attributes:
        forms: Credential names by the forms of their secrets, as UTF-8 or as the bytes that a
            secret encodes; longest first.
        texts: The forms as text, longest first.
        names: The names of all credentials, for an error that can't name a single one.
    """

    def __init__(self, revealed: Mapping[str, str]) -> None:
        self.names: str = ", ".join(sorted(set(revealed.values())))
        self._revealed = dict(revealed)
        # Known forms are searched for too: the duration must not reveal which forms are known.
        self._known: list[bytes] = []
        self._known_texts: list[str] = []
        sought = {form for secret in revealed for form in Forms(secret).sought()}
        ordered = sorted(sought, key=len)
        self._shortest: list[bytes] = []
        self._shortest_texts: list[str] = []
        if len(ordered) > _MAX_COMPARED:
            self._shortest, self._shortest_texts = ordered, texts_of(ordered)
            return
        # A form that contains another one needn't be searched for. Texts come first: one may
        # contain bytes that aren't text, but these aren't searched for in texts.
        binary: list[bytes] = []
        for form in ordered:
            if not (text := text_of(form)):
                binary.append(form)
            elif not self.in_text(text):
                self._shortest_texts.append(text)
                self._shortest.append(form)
        for form in binary:
            if not self.in_bytes(form):
                self._shortest.append(form)

    # Computed on first use: a node that opens no secret never needs these.

    @cached_property
    def forms(self) -> Mapping[bytes, str]:
        """Credential names by the forms of their secrets; see the class."""
        every = {form: name for name, alike in self._forms_by_secret for form in alike}
        # Mask longer forms first, so that no rest of them is left.
        return {form: every[form] for form in sorted(every, key=len, reverse=True)}

    @cached_property
    def _forms_by_secret(self) -> list[tuple[str, set[bytes]]]:
        """The forms of each secret and of each of its parts, with the credential's name."""
        return [
            (name, forms)
            for secret, name in self._revealed.items()
            for forms in Forms(secret).by_part()
        ]

    @cached_property
    def texts(self) -> Sequence[str]:
        """The forms as text, longest first."""
        return sorted(set(texts_of(self.forms)), key=len, reverse=True)

    @cached_property
    def beginnings(self) -> Mapping[str, int]:
        """The forms as text, each with the least length of a beginning that a stream holds back.

        Anything shorter is the public beginning of that kind of secret and a few characters. So
        watching what a stream holds back doesn't reveal a secret character by character.
        """
        known, found = set(self.texts), dict[str, int]()
        for secret in self._revealed:
            for form, least in beginnings(secret):
                if form in known:
                    found[form] = min(least, found.get(form, least))
        return found

    @property
    def count(self) -> int:
        """The number of texts and byte strings to search for."""
        return len(self._shortest) + len(self._known)

    def without(self, known: Set[bytes]) -> Patterns:
        """Return these patterns without the secrets that are known already.

        Args:
            known: Forms that may be emitted. The other forms of the same secret, or of the same
                part of a secret, are removed with them.

        Returns:
            Patterns whose searches take as long as with these.
        """
        removed = {form for _, alike in self._forms_by_secret if alike & known for form in alike}
        left = Patterns({})
        left.names = self.names
        left._revealed = self._revealed
        left.forms = {form: name for form, name in self.forms.items() if form not in removed}
        lost = [each for each in self._shortest if each in removed]
        # A form that contains a removed form was covered by it, and is now searched for itself. Do
        # the same work if no form was removed, so that the duration doesn't reveal it.
        within = lost or self._shortest[:1]
        found = [form for form in left.forms if any(each in form for each in within)]
        kept = [each for each in self._shortest if each not in removed]
        left._shortest = list(dict.fromkeys(kept + found if lost else kept))
        left._shortest_texts = texts_of(left._shortest)
        left._known = lost
        left._known_texts = texts_of(lost)
        return left

    def in_text(self, text: str) -> bool:
        """Return whether a text contains one of the secrets."""
        for known in self._known_texts:
            text.count(known)
        return _has_any(text, self._shortest_texts)

    def in_bytes(self, data: bytes) -> bool:
        """Return whether bytes contain one of the secrets."""
        for known in self._known:
            data.count(known)
        return _has_any(data, self._shortest)

    def owner_in(self, text: str | bytes) -> str:
        """Return the name of the credential whose secret is in a text; all names if unclear."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return next((name for form, name in self.forms.items() if form in data), self.names)

    def mask(self, text: str) -> str:
        """Replace each secret in a text by a mask."""
        for each in self.texts:
            text = text.replace(each, MASK)
        return text


def _has_any(text: AnyStr, forms: Sequence[AnyStr]) -> bool:
    if len(text) <= _CACHED:
        return any(each in text for each in forms)
    # Piece by piece, because a large value takes longer to be read than to be searched. A form may
    # begin in a piece and end after it.
    return any(
        text.find(each, start, start + _CACHED + len(each) - 1) >= 0
        for start in range(0, len(text), _CACHED)
        for each in forms
    )
