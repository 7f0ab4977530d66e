"""Follow a page of the documentation from top to bottom, as its reader does.

The reader is in a folder in which README's set-up was typed. A page may have:

- `sh` blocks. `pip install` lines aren't typed: what they name has to be installed here, as after
  `pip install` in a sentence. Lines that start with `pipelit-agents` are typed. Other commands
  need a test of the page's own.
- files: `python` blocks whose first line is a path in a comment, such as `# child.py`, and blocks
  in any language after a line that is a path and a colon, such as "`langgraph.json`:".
- other `python` blocks: one program, typed in pieces. A name that a block defines is known to those
  after it.
- a `text` block after a `python` block: what that block prints, and nothing else. `…` in it means
  any text within a line. A block without one prints nothing.

Commands and blocks can import pipelit-agents and what the page's `pip install` lines bring. All
else is hidden, though it is installed here.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from textwrap import dedent

import fresh
from paths import ROOT
from requirements import hidden_from, offered_extras, parsed

DOCS = ROOT / "docs"
FOLDER = DOCS / "integrations"
# Where pages are that may have code.
_HOMES = ("README.md", "docs/*.md", "docs/how-to/*.md", "docs/integrations/*.md")
_FENCE = re.compile(
    r"(?:^`(?P<path>[\w./-]+)`:\n\n)?"
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_INLINE = re.compile(r"`(pip install [^`\n]+)`")
_FILE = re.compile(r"# ([\w./-]+\.py)\n")
_OURS = ("FIELD_", "PIPELIT_", "LANGSMITH_", "LANGGRAPH_", "LANGCHAIN_", "OPENAI_", "ANTHROPIC_")
# Types the pieces as one program, and marks where each ends.
_TYPE = """
import json as _json, sys as _sys
for _name, _code in _json.loads(_sys.argv.pop()):
    exec(compile(_code, _name, "exec", dont_inherit=True), globals())
    print("\\x00", flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A block between two fences.

    Attributes:
        language: The words after the first fence.
        code: What is in it.
        line: The line of the page on which its code begins.
        path: The file that it is, or an empty text.
    """

    language: str
    code: str
    line: int
    path: str


@dataclass(frozen=True)
class Piece:
    """A piece of the program, what the page says that it prints, and the line where it begins."""

    code: str
    prints: str
    line: int = 1


@dataclass(frozen=True)
class Page:
    """What is in the blocks of a page.

    Attributes:
        files: The files that its reader writes, by their path.
        pieces: The pieces of its program.
        commands: What its reader types, without `pip install`.
        installs: The requirements of its `pip install`.
        python: All its `python` blocks: those that are files, and the pieces.
    """

    name: str
    files: dict[str, str]
    pieces: list[Piece]
    commands: list[str]
    installs: list[str]
    python: list[Block] = field(default_factory=list)


def pages_with_code() -> list[Path]:
    """Return every page that has a `python` block."""
    found = [file for home in _HOMES for file in sorted(ROOT.glob(home))]
    return [
        file
        for file in found
        if any(each.language == "python" for each in blocks(file.read_text()))
    ]


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in order.

    Raises:
        AssertionError: A fence isn't closed, or isn't alone on its line.
    """
    found = []
    for match in _FENCE.finditer(text):
        code = dedent(match["code"])
        language = match["language"].strip()
        commented = _FILE.match(code) if language == "python" else None
        path = match["path"] or (commented[1] if commented else "")
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(language, code, line, path))
    assert text.count("```") == 2 * len(found), "a fence that begins or ends no block"
    return found


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
    for block in blocks(text):
        where = f"{name}.md:{block.line}"
        if block.language == "python":
            page.python.append(block)
        if block.path:
            page.files[block.path] = block.code
            json.loads(block.code if block.language == "json" else "0")
        elif block.language == "python":
            page.pieces.append(Piece(block.code, "", block.line))
        elif block.language == "text":
            assert previous == "python", f"{where}: {block.code!r} follows no block that prints it"
            page.pieces[-1] = Piece(page.pieces[-1].code, block.code, page.pieces[-1].line)
        else:
            assert block.language == "sh", (
                f"{where}: a block in {block.language or 'no language'!r}"
            )
            for line in block.code.replace("\\\n", " ").splitlines():
                _add_command(page, line)
        previous = "file" if block.path else block.language
    for command in _INLINE.findall(text):
        _add_command(page, command)
    return page


def installs(text: str) -> list[str]:
    """Return the requirements that a page's `pip install` lines name, on a page of any form."""
    page = Page("", {}, [], [], [])
    for block in blocks(text):
        if block.language.split()[:1] == ["sh"]:
            for line in block.code.replace("\\\n", " ").splitlines():
                if "pip install" in line:
                    _add_command(page, line)
    for command in _INLINE.findall(text):
        _add_command(page, command)
    return page.installs


def _add_command(page: Page, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[:3] == ["python", "-m", "pip"]:
        words = words[2:]
    if words[:2] == ["pip", "install"]:
        if "&&" in words:
            words = words[: words.index("&&")]
            _add_command(page, line.partition("&&")[2])
        page.installs.extend(each for each in words[2:] if not each.startswith("-"))
    elif words:
        page.commands.append(line)


def missing(page: Page) -> list[str]:
    """Return the requirements of a page that aren't installed here, with their extras."""
    found = []
    for name, extras in map(parsed, page.installs):
        distribution(name)
        found += sorted(extras - offered_extras(name))
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
        each.code
        for each in blocks((ROOT / "README.md").read_text())
        if each.language == "sh" and "pipelit-agents init" in each.code
    )
    for line in code.splitlines():
        type_command(line, folder, environment())
    return folder


def type_command(
    line: str, folder: Path, variables: Mapping[str, str], hidden: Sequence[str] = ()
) -> str:
    """Type a command of `pipelit-agents`; what it prints."""
    words = shlex.split(line, comments=True)
    assert words[0] == "pipelit-agents", f"{line!r} needs a test of the page's own"
    done = fresh.run(fresh.AGENTS, variables, *words[1:], folder=folder, hidden=hidden)
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
    hidden = hidden_from(page.installs)
    for line in page.commands:
        type_command(line, folder, given, hidden)
    if not page.pieces:
        return
    # Behind as many empty lines as on the page, so that a traceback names the page's line.
    codes = [
        (f"{page.name}.md, block {number}", "\n" * (each.line - 1) + each.code)
        for number, each in enumerate(page.pieces, 1)
    ]
    done = fresh.run(_TYPE, given, json.dumps(codes), folder=folder, hidden=hidden)
    printed = done.stdout.split("\0\n")
    at = page.pieces[min(len(printed), len(page.pieces)) - 1].line
    where = f"block {len(printed)} of {page.name}.md, line {at}"
    assert done.returncode == 0, f"{where}: {done.stderr}{unnamed(done.stderr, hidden)}"
    assert len(printed) == len(page.pieces) + 1, f"{where}: the page ends there"
    for number, (piece, said) in enumerate(zip(page.pieces, printed[:-1], strict=True), 1):
        expected = ".*".join(map(re.escape, piece.prints.split("…")))
        assert re.fullmatch(expected, said), (
            f"block {number} of {page.name}.md, line {piece.line}, prints:\n{said}\n"
            f"and the page says:\n{piece.prints}"
        )


def unnamed(error: str, hidden: Sequence[str]) -> str:
    """Return a hint if an import failed because the page doesn't name a package."""
    for each in re.findall(r"No module named '([\w.]+)'", error):
        if any(each == name or each.startswith(f"{name}.") for name in hidden):
            return f"no `pip install` line of the page brings {each!r}"
    return ""
