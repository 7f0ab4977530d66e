"""Every page that has Python blocks is found, and followed from top to bottom."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import fresh
import pytest
from integration_pages import (
    DOCS,
    Page,
    Piece,
    blocks,
    environment,
    follow,
    installs,
    missing,
    pages_with_code,
    read,
    set_up,
    write_files,
)
from paths import ROOT, TESTS
from requirements import closure, hidden_from, is_installed

# Runs imports, and prints those that fail.
IMPORT = """
import json, sys
for each in json.loads(sys.argv.pop()):
    try:
        exec(each, {})
    except Exception as error:
        print(json.dumps([each, getattr(error, "name", None), str(error)]))
"""
PAGES = {str(file.relative_to(ROOT)): file for file in pages_with_code()}
# Tests of a page that aren't in tests/pages/, or aren't named after it.
ELSEWHERE = {"docs/shared-database.md": "database/test_host_migrations.py"}


def own_test(page: str) -> Path | None:
    """Return the test of a page that needs more than its blocks, such as a server or a model.

    It is in tests/pages/ and named after the page: ``test_integration_langgraph_server.py`` of
    docs/integrations/langgraph-server.md, ``test_how_to_rotate.py`` of docs/how-to/rotate.md,
    ``test_remote_page.py`` or ``test_remote.py`` of docs/remote.md.
    """
    name = Path(page).stem.lower().replace("-", "_")
    begins = {"integrations": ("integration_", ""), "how-to": ("how_to_",)}
    names = [ELSEWHERE[page]] if page in ELSEWHERE else []
    for each in begins.get(Path(page).parent.name, ("",)):
        names += [f"pages/test_{each}{name}.py", f"pages/test_{each}{name}_page.py"]
    return next((TESTS / each for each in names if (TESTS / each).exists()), None)


def is_followed_there(page: str) -> bool:
    """Whether a page has a test of its own that calls ``follow``."""
    found = own_test(page)
    return bool(found and re.search(r"\bfollow\(", found.read_text()))


@pytest.mark.process
@pytest.mark.all_cases
@pytest.mark.parametrize("page", [each for each in PAGES if not own_test(each)])
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    """What it installs is enough, and its blocks run in order and print what the page says."""
    found = read(PAGES[page].stem, folder=PAGES[page].parent)
    assert found.pieces
    assert missing(found) == []
    write_files(found, set_up(tmp_path))
    follow(found, tmp_path)


@pytest.mark.process
@pytest.mark.all_cases
@pytest.mark.parametrize(
    "page", [each for each in PAGES if own_test(each) and not is_followed_there(each)]
)
def test_a_page_imports_only_what_it_installs(page: str, tmp_path: Path) -> None:
    """Here only its imports run; the blocks are run by its own test, with all that is installed."""
    named = installs(PAGES[page].read_text())
    code = json.dumps(sorted({*imports_of(page)}))
    done = fresh.run(IMPORT, environment(), code, folder=tmp_path, hidden=hidden_from(named))
    assert done.returncode == 0, done.stderr
    failed = [json.loads(line) for line in done.stdout.splitlines()]
    # The client of a service may be named that isn't installed here. What it brings isn't known.
    if any(not is_installed(each) for each in named):
        failed = [each for each in failed if is_anywhere(each[1])]
    problems = [f"`{each}`: {error}" for each, _, error in failed]
    assert not problems, "\n".join([f"{page}: name in `pip install` what these need:", *problems])


def is_anywhere(module: str | None) -> bool:
    """Whether a module that is hidden is installed here."""
    return not module or find_spec(module.partition(".")[0]) is not None


def imports_of(page: str) -> Iterator[str]:
    """The imports of a page's blocks, without those of files that the page has."""
    found = [each for each in blocks(PAGES[page].read_text()) if each.language.startswith("python")]
    own = {Path(each.path).stem for each in found}
    for block in found:
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom):
                if node.module == "__future__":
                    continue
                names = {str(node.module).partition(".")[0]}
            elif isinstance(node, ast.Import):
                names = {each.name.partition(".")[0] for each in node.names}
            else:
                continue
            if not names & own:
                yield ast.unparse(node)


@pytest.mark.parametrize("page", [each for each in PAGES if own_test(each)])
def test_a_page_with_a_test_of_its_own_is_read_there(page: str) -> None:
    """The test names the page's file, or reads the page with the helper."""
    found = own_test(page)
    assert found
    code = found.read_text()
    assert Path(page).name in code or f'read("{Path(page).stem}"' in code


@pytest.mark.process
@pytest.mark.parametrize(
    ("piece", "says"),
    [
        (Piece("print(made, 'and more')", "1\n", 7), "line 7, prints:\n1 and more"),
        (Piece("print(made)", "", 7), "line 7, prints:\n1\n"),
        (Piece("", "1\n", 7), "line 7, prints:\n\nand the page says:\n1"),
        (Piece("print(1 + made)\nraise ValueError(made)", "2\n", 7), "line 8, in <module>"),
        (Piece("import sys; sys.exit()", "", 7), "line 7: the page ends there"),
        (Piece("import structlog", "", 7), "no `pip install` line of the page brings 'structlog'"),
    ],
    ids=["more", "unsaid", "nothing", "fails", "ends", "unnamed"],
)
def test_a_page_that_says_something_else_fails(piece: Piece, says: str, tmp_path: Path) -> None:
    """Another output, a block that fails or ends early, or a package that the page doesn't name."""
    first = Piece("made = 1\nprint('made', made)\nprint('x')", "made …\nx\n")
    with pytest.raises(AssertionError, match=r"block 2 of wrong\.md") as caught:
        follow(Page("wrong", {}, [first, piece], [], []), tmp_path)
    assert says in str(caught.value)


@pytest.mark.process
def test_a_package_that_isnt_named_isnt_installed(tmp_path: Path) -> None:
    """Neither one that was imported before, nor a part of a shared namespace, nor what uses it."""
    code = """
        import importlib.util
        from importlib import import_module

        assert importlib.util.find_spec("langchain") is None
        for name in (
            "langchain.agents",
            "langgraph.checkpoint.sqlite",
            "pipelit_agents.middleware",
        ):
            try:
                import_module(name)
            except ImportError as error:
                print(type(error).__name__, error)
        import_module("langgraph.checkpoint.memory")
        import_module("pipelit_agents.graphs")
    """
    said = """
        ModuleNotFoundError No module named 'langchain'
        ModuleNotFoundError No module named 'langgraph.checkpoint.sqlite'
        ImportError pipelit_agents.middleware needs LangChain: …
    """
    piece = Piece(dedent(code), dedent(said).lstrip())
    follow(Page("core", {}, [piece], [], []), tmp_path)
    named = ["pipelit-agents[langchain]", "langgraph-checkpoint-sqlite"]
    code = "import langchain.agents, langgraph.checkpoint.sqlite, pipelit_agents.middleware"
    follow(Page("more", {}, [Piece(code, "")], [], named), tmp_path)


def test_what_is_installed_brings_what_it_needs() -> None:
    """Also by the extras of a package, and by an extra that names another."""
    assert "sqlalchemy" in closure()
    assert not {"uvicorn", "fastapi", "starlette"} & closure()
    assert {"uvicorn", "fastapi", "starlette"} <= closure("pipelit-agents[desk]>=0.1")
    assert {"uvicorn", "starlette"} <= closure(".[desk]")
    assert "psycopg-binary" in closure("psycopg[binary]")
    assert "psycopg-binary" not in closure("psycopg")


def test_no_block_is_overlooked() -> None:
    """Blocks in lists, blocks with options, and files, are blocks too."""
    listed = "1. a\n\n   ```python\n   x = 1\n   ```\n\n"
    text = f"{listed}```python hl_lines\ny\n```\n\n`a.json`:\n\n```json\n{{}}\n```\n"
    found = [(each.language, each.code, each.line, each.path) for each in blocks(text)]
    assert found == [
        ("python", "x = 1\n", 4, ""),
        ("python hl_lines", "y\n", 8, ""),
        ("json", "{}\n", 14, "a.json"),
    ]
    with pytest.raises(AssertionError, match="fence"):
        blocks("```python\nx\n")
    assert DOCS / "testing.md" in PAGES.values()
