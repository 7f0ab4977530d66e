"""Read texts of several lines: INI, .env, YAML, netrc, XML, and lines without names."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from pipelit_agents.credentials.leak_guard.formats.connection_strings import is_pairs
from pipelit_agents.credentials.leak_guard.formats.lines import (
    COOKIE,
    assignment,
    of_line,
    of_quoted,
    setting_value,
)
from pipelit_agents.credentials.leak_guard.formats.values import (
    MAX_LINES,
    MIN_LINE,
    STRUCTURED,
    At,
    Found,
    Inside,
    value_at,
)
from pipelit_agents.credentials.leak_guard.recognition import Level, Part

__all__ = ["of_lines"]

_OPENING: Final = ("", "{", "[")


def of_lines(at: At, text: str) -> Iterator[Found]:
    """Yield the values of settings, and lines without names."""
    # Each line is tried by itself, so its blanks are those up to its end.
    if re.search(r"^[^\S\n]*(?:machine|default)\s", text, re.MULTILINE):
        yield from of_line(at, " ".join(text.split()))
        return
    if "</" in text or "/>" in text:
        yield from of_quoted(at, text)
        return
    lines = _lines(text)
    kubernetes = (0, "kind: Secret") in lines
    # The enclosing names of a line, by indentation.
    above: list[tuple[int, At]] = [(-1, at)]
    called, unnamed, named = "", list[str](), False
    while lines:
        indent, line = lines.popleft()
        if line.startswith("[") and line.endswith("]") and line.strip("[]"):
            above, named = [(-1, at.under(line.strip("[]\"' "), at.level))], True
            continue
        while len(above) > 1 and above[-1][0] >= indent:
            above.pop()
        outer = above[-1][1]
        item = line.removeprefix("- ").strip()
        pair = None if is_pairs(item) or COOKIE.match(item) else assignment(item)
        if pair is None:
            if item != line:
                yield from value_at(outer, item.strip("\"'"))
            elif STRUCTURED.search(item):
                yield Inside(outer, item)
            if not re.search(r"\s|://", item):
                unnamed.append(item)
            continue
        named = True
        name, value = pair
        here = outer.under(name)
        if kubernetes and name in ("data", "stringData"):
            here = outer.under(name, Level.SECRET)
        if name in ("name", "key"):
            called = setting_value(value)[0]
        elif name == "value" and called:
            here, called = outer.under(called), ""
        if re.fullmatch(r"[|>][+-]?\d?", value):
            block = list[str]()
            while lines and lines[0][0] > indent:
                block.append(lines.popleft()[1])
            yield from value_at(here, "\n".join(block))
            yield here.part("".join(block))
        elif value in _OPENING:
            above.append((indent, here))
        else:
            yield from value_at(here, *setting_value(value))
    yield from _of_unnamed(at._replace(level=Level.LIKELY if named else Level.SECRET), unnamed)


def _lines(text: str) -> deque[tuple[int, str]]:
    """Return lines with their indentation, without comments and PEM blocks."""
    found, pem = deque[tuple[int, str]](), False
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("-----"):
            pem = bare.startswith("-----BEGIN")
        elif bare and not pem and ("=" in bare or not bare.startswith(("# ", "// ", "; "))):
            # A setting that is commented out may still be a secret.
            bare = bare.lstrip("# ") if bare.startswith("#") else bare
            indent = len(line) - len(line.lstrip())
            found.append((indent + 2 if bare.startswith("- ") else indent, bare))
    return found


def _of_unnamed(at: At, lines: Sequence[str]) -> Iterator[Found]:
    """Yield lines without names: one value that is broken into lines, or one value per line."""
    whole = "".join(lines)
    even = len({len(line) for line in lines[:-1]}) == 1 and len(lines[-1]) <= len(lines[0])
    if even and len(lines[0]) >= 2 * MIN_LINE and re.fullmatch(r"[\w+/=-]+", whole):
        yield from value_at(at._replace(level=Level.CERTAIN), whole)
        for line in lines[:MAX_LINES]:
            yield Part(at.path, line, Level.CERTAIN, encodes=False)
        return
    for number, line in enumerate(lines, 1):
        yield at.under(f"line {number}", at.level).part(line)
