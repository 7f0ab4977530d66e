"""Find lines and names that were meant to be a setting but don't set it.

An env file is read line by line. A damaged line is skipped, so its setting keeps the default: for a
database URL, an empty database instead of the operator's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from dotenv.parser import Binding

__all__ = ["misspelt_setting"]

# What may be the name in a line: its first word, or all before a sign. A line that can't be parsed
# has no name of its own, and a colon belongs to the name where the parser expects the sign.
_NAMES: Final = (re.compile(r"\s*(?:export\s+)?([\w.$-]+)"), re.compile(r"\s*([^:=\n]+?)\s*[:=]"))
_ASSIGNED: Final = re.compile(r"\s*(?:export\s+)?(\w+)\s*=")


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
        repeats nothing else of the line, which may be a key.
    """
    for each in lines:
        if problem := _problem_of(each, wanted, file):
            return problem
    for name in names:
        setting = _meant(name, wanted)
        if setting is not None and name.upper() != setting:
            return (
                f"the environment sets {name}. If it is the setting {setting}, correct the name; "
                f"otherwise set {setting} too"
            )
    return None


def _problem_of(line: Binding, wanted: Collection[str], file: object) -> str | None:
    text = line.original.string
    blank = text[: len(text) - len(text.lstrip())].count("\n")
    # The parser counts blank lines before a setting to it.
    number = line.original.line + blank
    is_setting = line.error or line.key is not None  # and no comment
    written = [found[1] for pattern in _NAMES if (found := pattern.match(text))]
    setting = next(filter(None, (_meant(name, wanted) for name in written)), None)
    if is_setting and setting is not None:
        where = f"line {number} of {file}"
        if line.error or line.value is None or line.key not in written:
            return f"{where} can't be read, so {setting} isn't set: write {setting}=VALUE"
        if written[0].upper() != setting:
            return (
                f"{where} sets a name that is almost {setting}. If it is this setting, correct the "
                f"name; otherwise set {setting} too"
            )
    # A quote that is closed further down takes the lines in between.
    for below, inner in enumerate(text.strip().splitlines()[1:], 1):
        found = _ASSIGNED.match(inner)
        if found is not None and found[1].upper() in wanted:
            return (
                f"line {number + below} of {file} is within the quotes that line {number} opens, "
                f"so {found[1].upper()} isn't set: close them"
            )
    return None


def _meant(name: str, wanted: Collection[str]) -> str | None:
    """Return the setting that a name was meant to be: the same words, with a typo in each at most.

    Other applications have settings with some of these words, such as ``FIELD_ENCRYPTION_KEY_ID``
    or ``PIPELINE_DATABASE_URL``.
    """
    words = re.findall(r"[A-Z0-9]+", name.upper())
    for setting in wanted:
        others = setting.split("_")
        if "".join(words) == "".join(others) or (
            len(words) == len(others) and all(map(_is_typo, words, others))
        ):
            return setting
    return None


def _is_typo(word: str, right: str) -> bool:
    """Return whether two words differ by one letter at most, or by two that changed places."""
    if len(word) > len(right):
        word, right = right, word
    start = next((at for at, letter in enumerate(word) if letter != right[at]), len(word))
    rest, other = word[start:], right[start:]
    if len(word) < len(right):
        return rest == other[1:]
    swapped = rest[1:2] + rest[:1] + rest[2:]
    return rest[1:] == other[1:] or swapped == other
