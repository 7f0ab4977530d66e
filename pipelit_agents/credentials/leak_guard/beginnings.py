"""Tell how much of a secret's beginning a stream may pass on: what is public, or can be guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pipelit_agents.credentials.leak_guard.forms import searched_parts
from pipelit_agents.credentials.leak_guard.recognition import Level, Part
from pipelit_agents.credentials.leak_guard.spellings import spellings, texts_of

__all__ = ["beginnings"]

# The public beginnings of secrets: a URL's scheme and host, the first line of a PEM file and the
# start of its data, a JWT's header, the prefix of a service's tokens.
_PUBLIC: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(?:[A-Za-z0-9.:-]+/(?:[a-z]+/)*)?"
    r"|-----BEGIN [A-Z0-9 ]+-----\s*(?:M[A-Za-z0-9+/]{50}|b3BlbnNz[A-Za-z0-9+/]{44})?"
    r"|M[HI][A-Z][A-Za-z0-9+/]{48}|b3BlbnNz[A-Za-z0-9+/]{44}"
    r"|eyJ[A-Za-z0-9_-]*\.eyJ"
    r"|A[KS]IA|AIza|(?:Basic|Bearer) "
    r"|(?:[A-Za-z][A-Za-z0-9]{1,6}[_.-]){1,3}"
)
# How many further characters must be right before the guard's behavior confirms a guess; at least
# _MIN_GUESS for short secrets.
_GUESS_LENGTH: Final = 8
_MIN_GUESS: Final = 4


def beginnings(secret: str) -> Iterator[tuple[str, int]]:
    """Yield each form of a secret and its parts as text, with the least length held back."""
    found = searched_parts(secret)
    # The beginning of a document is public, up to its first secret part.
    within = [
        secret.index(each.value)
        for each in found
        if isinstance(each.value, str) and each.value != secret and each.value in secret
    ]
    for part in (Part("", secret, Level.CERTAIN), *found):
        value = part.value
        if isinstance(value, str):
            public = _public_length(value)
            if value == secret and within:
                public = max(public, min(within))
            head: str | bytes = value[: public + _guess_length(len(value) - public)]
        else:
            head = value[: _guess_length(len(value))]
        share = len(head) / max(1, len(value))
        # The form of a beginning is the beginning of the form, except for short beginnings and
        # for decoded secrets.
        heads = texts_of(spellings(head, encodes=False))
        for text in texts_of(spellings(value, encodes=part.encodes)):
            lengths = [len(each) for each in heads if text.startswith(each)]
            least = max(lengths) if lengths else int(len(text) * share + 1)
            yield text, max(_MIN_GUESS, least)


def _public_length(value: str) -> int:
    """Return the length of the public beginning; at most a third of a value that may be words.

    A token's prefix can't be distinguished from the first word of a passphrase.
    """
    found = _PUBLIC.match(value)
    if found is None:
        return 0
    return found.end() if found.end() > _GUESS_LENGTH * 3 else min(found.end(), len(value) // 3)


def _guess_length(rest: int) -> int:
    """Return how many of the remaining characters an attacker must guess at once."""
    return min(_GUESS_LENGTH, max(_MIN_GUESS, rest // 2))
