"""docs/troubleshooting.md: its messages are the source's, and its commands and links exist."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from command_line import root
from paths import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
HEADINGS = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)
# The end of a piece of a text, and the beginning of the next one.
BREAK = re.compile(r"""["']\s*\n\s*f?["']""")
SETTING = re.compile(r"FIELD_ENCRYPTION_KEY|PIPELIT_[A-Z_]+")
# What the source fills in.
VALUE = r"\{[^{}\n]+\}"


@cache
def source() -> str:
    """The modules as one text, in which the pieces of each message are joined."""
    files = [each for room in ("pipelit_agents", "graphs") for each in (ROOT / room).rglob("*.py")]
    return BREAK.sub("", "\0".join(each.read_text() for each in files))


def is_in_the_source(heading: str) -> bool:
    """Whether a message has the fixed parts of a heading, in their order."""
    fixed = [
        SETTING.sub(lambda name: f"(?:{name[0]}|{VALUE})", re.escape(part))
        for part in heading.strip("… ").split("…")
    ]
    return re.search(r"[^\0\n]{1,150}?".join(fixed), source()) is not None


def test_each_heading_is_what_is_printed() -> None:
    """A message that is reworded is reworded on the page."""
    assert [each for each in HEADINGS if not is_in_the_source(each)] == []


@pytest.mark.parametrize(
    "heading",
    [
        "there is no database in …",
        "… names …, which can't be written",
        "FIELD_ENCRYPTION_KEY is not set, and nothing can be encrypted",
    ],
)
def test_another_heading_is_found(heading: str) -> None:
    """Of words that are nearly a message's."""
    assert not is_in_the_source(heading)


def test_its_headings_are_different() -> None:
    """There are many, and none begins with the words of another."""
    assert len(HEADINGS) > 60
    assert len(set(HEADINGS)) == len(HEADINGS)


def test_its_commands_are_there() -> None:
    """With their options, and with the arguments that they need."""
    found = re.findall(r"`pipelit-agents ([^`]+)`", PAGE.replace("\n", " "))
    assert len(set(found)) > 15
    for line in found:
        command: Any = root()
        for word in re.sub(r'"[^"]*"', "WORD", line).split():
            if word.startswith("--"):
                assert word in {opt for each in command.params for opt in each.opts}, line
            elif hasattr(command, "commands") and word in command.commands:
                command = command.commands[word]
            else:
                assert not hasattr(command, "commands") or command.invoke_without_command, line
