"""docs/integrations/: each page is found, and followed from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration_pages import NAMES, Page, Piece, follow, missing, read, set_up, write_files
from paths import TESTS

# Their blocks are files of an example that needs another Python: test_aegra_page.py compares them,
# and test_aegra.py starts them.
EXAMPLES = {"aegra"}
# The list of the pages has no blocks.
LISTS = {"index"}


def own_test(name: str) -> Path:
    """The file of a page that needs more than its blocks: a server, a scripted model.

    `langgraph-server.md` has `test_integration_langgraph_server.py`.
    """
    return TESTS / "pages" / f"test_integration_{name.replace('-', '_')}.py"


@pytest.mark.process
@pytest.mark.parametrize(
    "name",
    [each for each in NAMES if each not in EXAMPLES | LISTS and not own_test(each).exists()],
)
def test_a_page_does_what_it_says(name: str, tmp_path: Path) -> None:
    """What it installs is installed here, its blocks run in order and print what it says."""
    page = read(name)
    assert page.pieces
    assert page.installs
    assert missing(page) == []
    write_files(page, set_up(tmp_path))
    follow(page, tmp_path)


@pytest.mark.process
@pytest.mark.parametrize(
    "piece",
    [
        Piece("print(made, 'and more')", "1\n"),
        Piece("print(made)", ""),
        Piece("", "1\n"),
        Piece("print(1 + made)\nraise ValueError(made)", "2\n"),
        Piece("import sys; sys.exit()", ""),
    ],
    ids=["more", "unsaid", "nothing", "fails", "ends"],
)
def test_a_page_that_says_something_else_fails(piece: Piece, tmp_path: Path) -> None:
    """A text that isn't printed, or that isn't on the page; a block that fails or ends early."""
    first = Piece("made = 1\nprint('made', made)\nprint('x')", "made …\nx\n")
    follow(Page("right", {}, [first], [], []), tmp_path)
    with pytest.raises(AssertionError, match=r"wrong\.md"):
        follow(Page("wrong", {}, [first, piece], [], []), tmp_path)


def test_a_page_with_a_test_of_its_own_is_followed_there() -> None:
    """The file is named after the page, and follows it with `read` and `follow` of the helper."""
    for name in NAMES:
        if own_test(name).exists():
            code = own_test(name).read_text()
            assert f'read("{name}"' in code
            assert "follow(" in code
            assert missing(read(name)) == []
