"""Each command that a text of the source names is there: a fix that can't be typed is none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import root
from paths import ROOT

NAME = "pipelit-agents "
NAMED = re.compile(NAME + r"((?:[a-z][a-z'-]* ?)+)([^`,;:.()\n]*)")
# What follows the name of the package in a sentence. Any other word in a message is a command.
PROSE = {"and", "assigned", "can't", "exist", "has", "itself", "never", "sets", "writes", "wrote"}


def texts(source: str) -> Iterator[str]:
    """The texts of a module, with X for each value that is put in; of docstrings, only the code."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = {id(each.value) for each in nodes if isinstance(each, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = (each.value if isinstance(each, ast.Constant) else "X" for each in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            code = re.findall(r"`([^`]+)`", node.value)
            yield from code if id(node) in docstrings else [node.value]


def missing(text: str) -> Iterator[str]:
    """What a text names and nobody can type: commands, and options of commands."""
    for words, rest in NAMED.findall(text):
        command: Any = root()
        for word in words.split():
            below = getattr(command, "commands", None)
            if below is None or (command is root() and word in PROSE):
                break
            command = below.get(word)
            if command is None:
                yield NAME + words.strip()
                break
        if command is not None:
            options = {name for each in command.params for name in each.opts}
            for option in re.findall(r"--[a-z-]+", rest):
                if option not in options:
                    yield f"{NAME}{words.strip()} {option}"


@pytest.mark.slow
def test_each_named_command_is_there() -> None:
    """In messages, fixes and help texts, and on the pages of the desk."""
    wrong = set()
    for folder in ("pipelit_agents", "graphs", "tools"):
        for path in (ROOT / folder).rglob("*.*"):
            source = path.read_text() if path.suffix in (".py", ".js", ".html") else ""
            if NAME in source:
                for text in texts(source) if path.suffix == ".py" else [source]:
                    wrong |= {f"{path.name}: {each}" for each in missing(text)}
    assert sorted(wrong) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("run `pipelit-agents keys rotate`", []),
        ("pipelit-agents users keys issue X --name ci", []),
        ("see: pipelit-agents peers add", ["pipelit-agents peers add"]),
        ("see: pipelit-agents keys rotat.", ["pipelit-agents keys rotat"]),
        ("pipelit-agents code X --audience y", []),
        ("pipelit-agents code X --audienc y", ["pipelit-agents code --audienc"]),
        ("the name that pipelit-agents never assigned", []),
    ],
)
def test_a_command_that_is_not_there_is_found(text: str, wrong: list[str]) -> None:
    """Also by its first word, and by an option."""
    assert list(missing(text)) == wrong
