"""Mask the words of the command line in messages, because each of them may be a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from pipelit_agents._words import has_code_form, is_wordy
from pipelit_agents.protocol.usernames import is_username

__all__ = ["may_be_typed_secret", "typed_words", "unsaid"]

# The arguments of the command that is running.
typed_words: ContextVar[tuple[str, ...]] = ContextVar("typed_words", default=())
# Characters; shorter words are never masked.
_MIN_SECRET_LENGTH: Final = 4
# Characters at the beginning of a word that are enough to mask it in a message.
_PREFIX_LENGTH: Final = 8
# The same for a quoted word without the form of a secret: `'agent_lead'` isn't `'agent_lead2'`.
_QUOTED_PREFIX_LENGTH: Final = 40
# The id of a question to people. It permits nothing, so messages may repeat it.
_QUESTION_ID: Final = re.compile(r"apr_[0-9a-f]{32}")


def unsaid(message: str, *, unfit: bool = False) -> str:
    """Mask the words of the command line in a message that may be a secret or a code.

    People sometimes type a secret in the position of a name, and the program that ran the command
    may log its output.

    Args:
        message: The message.
        unfit: Whether a word was refused for its form. It may then be anything, such as a
            password, so all quoted words are masked. Otherwise valid names are kept.
    """
    kept = message
    for word in typed_words.get():
        for piece in {word, word.partition("=")[2]} - {""}:
            if unfit or not is_username(piece):
                message = _cut(message, repr(piece), _QUOTED_PREFIX_LENGTH)
    for word in sorted(set(_typed()), key=len, reverse=True):
        for form in {word, repr(word)[1:-1], ascii(word)[1:-1], json.dumps(word)[1:-1]}:
            message = _cut(message, form)
    if message == kept:
        return message
    return f"{message} (… is what you typed, which may be a secret)"


def may_be_typed_secret(word: str) -> bool:
    """Return whether a word of the command line may be a secret or a code."""
    return not _QUESTION_ID.fullmatch(word) and (has_code_form(word) or not is_wordy(word))


def _typed() -> Iterator[str]:
    for word in typed_words.get():
        # Its parts too, because a message may contain the word as part of a path or an address.
        for piece in (word, *word.split("=", 1), *re.split(r"[/?&=:,;@\s]", word)):
            if len(piece) >= _MIN_SECRET_LENGTH and may_be_typed_secret(piece):
                yield piece


def _cut(message: str, form: str, prefix: int = _PREFIX_LENGTH) -> str:
    # The message may contain only the beginning of the word.
    start, at = form[:prefix], 0
    while (at := message.find(start, at)) >= 0:
        end = at + len(start)
        while end < len(message) and message[end : end + 1] == form[end - at : end - at + 1]:
            end += 1
        message = f"{message[:at]}…{message[end:]}"
        at += 1
    return message
