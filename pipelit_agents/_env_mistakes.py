"""Find lines and names that were meant to be a setting but don't set it.

An env file is read line by line. A damaged line is skipped, so its setting keeps the default: for a
database URL, an empty database instead of the operator's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from typing import Final

from dotenv.parser import Binding

__all__ = ["misspelt_setting"]

# How similar a name has to be: a few wrong, missing or additional letters.
_SIMILAR: Final = 0.88
# What may be the name in a line that can't be parsed: its first word, or all before a sign.
_NAMES: Final = (re.compile(r"\s*(?:export\s+)?([\w.$-]+)"), re.compile(r"\s*([^:=\n]+)[:=]"))


def misspelt_setting(
    wanted: Collection[str], lines: Iterable[Binding], names: Iterable[str], file: object
) -> str | None:
    """Return what is wrong with a line or a variable that was meant to be one of the settings.

    Args:
        wanted: The settings that nothing sets, in upper case.
        lines: The parsed lines of the env file.
        names: The names of the variables in the environment.
        file: The env file, for the message.

    Returns:
        A message that names the line and the setting, or None if nothing is similar to them. It
        never has a value, because a value may be a key.
    """
    for each in lines:
        text = each.original.string
        if each.error:
            written = [found[1] for pattern in _NAMES if (found := pattern.match(text))]
        else:
            written = [each.key or ""]
        setting = next(filter(None, (_most_similar(name, wanted) for name in written)), None)
        if setting is None:
            continue
        line = f"line {each.original.line + _blank_lines(text)} of {file}"
        if each.error:
            return (
                f"{line} can't be read, so {setting} isn't set: write {setting}=VALUE in one line"
            )
        if each.value is None:
            return f"{line} has no value: write {setting}=VALUE"
        if written[0].upper() != setting:
            return f"{line} sets {written[0]}. If it is the setting {setting}, correct the name"
    for name in names:
        setting = _most_similar(name, wanted)
        if setting is not None and name.upper() != setting:
            return f"the environment sets {name}. If it is the setting {setting}, correct the name"
    return None


def _most_similar(name: str, wanted: Collection[str]) -> str | None:
    letters, found = _letters(name), {}
    for setting in wanted:
        matcher = SequenceMatcher(None, letters, _letters(setting), autojunk=False)
        if min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= _SIMILAR:
            found[setting] = matcher.ratio()
    best = max(found, key=found.__getitem__, default=None)
    return best if best is not None and found[best] >= _SIMILAR else None


def _letters(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())


def _blank_lines(text: str) -> int:
    # The parser counts blank lines before a setting to it.
    return text[: len(text) - len(text.lstrip())].count("\n")
