"""Follow a page of docs/integrations/ from top to bottom, as its reader does.

The reader is in a folder in which README's set-up was typed. A page may have:

- `sh` blocks. `pip install` lines aren't typed: what they name has to be installed here. Lines that
  start with `pipelit-agents` are typed. Other commands need a test of the page's own.
- files: `python` blocks whose first line is a path in a comment, such as `# child.py`, and blocks
  in any language after a line that is a path and a colon, such as "`langgraph.json`:".
- other `python` blocks: one program, typed in pieces. A name that a block defines is known to those
  after it.
- a `text` block after a `python` block: what that block prints, and nothing else. `…` in it means
  any text within a line. A block without one prints nothing.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import fresh
from paths import ROOT

FOLDER = ROOT / "docs" / "integrations"
NAMES = sorted(each.stem for each in FOLDER.glob("*.md"))
_FENCE = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w./-]+\.py)\n")
_OURS = ("FIELD_", "PIPELIT_", "LANGSMITH_", "LANGGRAPH_", "LANGCHAIN_", "OPENAI_", "ANTHROPIC_")
# Types the pieces as one program, and marks where each ends.
_TYPE = """
import json as _json, sys as _sys
for _number, _code in enumerate(_json.loads(_sys.argv.pop())):
    exec(compile(_code, f"block {_number + 1}", "exec", dont_inherit=True), globals())
    print("\\x00", flush=True)
"""


@dataclass(frozen=True)
class Piece:
    """A piece of the program, and what the page says that it prints."""

    code: str
    prints: str


@dataclass(frozen=True)
class Page:
    """What is in the blocks of a page.

    Attributes:
        files: The files that its reader writes, by their path.
        pieces: The pieces of its program.
        commands: What its reader types, without `pip install`.
        installs: The requirements of its `pip install`.
    """

    name: str
    files: dict[str, str]
    pieces: list[Piece]
    commands: list[str]
    installs: list[str]


def read(name: str, replaced: Mapping[str, str] | None = None, *, folder: Path = FOLDER) -> Page:
    """Read a page.

    Args:
        name: Its file, without `.md`.
        replaced: What stands for a text of the page, for example a free port for the page's own.
        folder: Where the page is.

    Raises:
        AssertionError: A block is in none of the languages above, or a `text` block doesn't follow
            a `python` block of the program.
    """
    page = Page(name, {}, [], [], [])
    previous = ""
    text = (folder / f"{name}.md").read_text()
    for old, new in (replaced or {}).items():
        text = text.replace(old, new)
    for path, language, code in _FENCE.findall(text):
        commented = _FILE.match(code) if language == "python" else None
        file = path or (commented[1] if commented else "")
        if file:
            page.files[file] = code
            json.loads(code if language == "json" else "0")
        elif language == "python":
            page.pieces.append(Piece(code, ""))
        elif language == "text":
            assert previous == "python", f"{name}.md: {code!r} follows no block that prints it"
            page.pieces[-1] = Piece(page.pieces[-1].code, code)
        else:
            assert language == "sh", f"{name}.md: a block in {language or 'no language'!r}"
            for line in code.replace("\\\n", " ").splitlines():
                _add_command(page, line)
        previous = "file" if file else language
    return page


def _add_command(page: Page, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[:2] == ["pip", "install"]:
        page.installs.extend(each for each in words[2:] if not each.startswith("-"))
    elif words:
        page.commands.append(line)


def missing(page: Page) -> list[str]:
    """Return the requirements of a page that aren't installed here, with their extras."""
    found = []
    for each in page.installs:
        match = re.match(r"([\w.-]+)(?:\[([\w,.-]+)\])?", each)
        assert match, each
        offered = distribution(match[1]).metadata.get_all("Provides-Extra") or []
        found += [extra for extra in (match[2] or "").split(",") if extra not in {*offered, ""}]
    return found


def environment(**more: str) -> dict[str, str]:
    """Return the environment of somebody who has no settings yet, and some more variables."""
    return {key: kept for key, kept in os.environ.items() if not key.startswith(_OURS)} | more


def set_up(folder: Path) -> Path:
    """Type README's set-up in a folder; once in a process, and then copy what it made."""
    return shutil.copytree(_prepared(), folder, dirs_exist_ok=True)


@cache
def _prepared() -> Path:
    made = tempfile.TemporaryDirectory(prefix="prepared-")
    atexit.register(made.cleanup)
    folder = Path(made.name)
    code = next(
        block
        for _, language, block in _FENCE.findall((ROOT / "README.md").read_text())
        if language == "sh" and "pipelit-agents init" in block
    )
    for line in code.splitlines():
        type_command(line, folder, environment())
    return folder


def type_command(line: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Type a command of `pipelit-agents`; what it prints."""
    words = shlex.split(line, comments=True)
    assert words[0] == "pipelit-agents", f"{line!r} needs a test of the page's own"
    done = fresh.run(fresh.AGENTS, variables, *words[1:], folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_files(page: Page, folder: Path) -> None:
    """Write a page's files into a folder."""
    for path, code in page.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code)


def follow(page: Page, folder: Path, **variables: str) -> None:
    """Type a page's commands and its program, and compare what the program prints.

    Args:
        page: The page.
        folder: A folder of `set_up`, with the files of the page.
        variables: Environment variables, for example `OPENAI_BASE_URL` of a `chat_server`.

    Raises:
        AssertionError: Something failed, or printed something else.
    """
    given = environment(**variables)
    for line in page.commands:
        type_command(line, folder, given)
    if not page.pieces:
        return
    codes = json.dumps([each.code for each in page.pieces])
    done = fresh.run(_TYPE, given, codes, folder=folder)
    printed = done.stdout.split("\0\n")
    assert done.returncode == 0, f"block {len(printed)} of {page.name}.md: {done.stderr}"
    assert len(printed) == len(page.pieces) + 1, f"{page.name}.md ends at block {len(printed)}"
    for piece, said in zip(page.pieces, printed[:-1], strict=True):
        expected = ".*".join(map(re.escape, piece.prints.split("…")))
        assert re.fullmatch(expected, said), f"{page.name}.md prints:\n{said}\nand says:\n{piece}"
