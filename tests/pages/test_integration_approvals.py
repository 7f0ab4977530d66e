"""docs/integrations/approvals.md, and its commands, which answer what its program leaves open."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import fresh
import pytest
from integration_pages import Piece, environment, follow, read, set_up, type_command, write_files

# Carol and Alice type these at the page's commands.
CODES = Piece(
    "import json, pathlib, phones\n"
    "last = {name: codes[-1] for name, codes in phones.recovery_codes.items()}\n"
    "pathlib.Path('codes').write_text(json.dumps(last))",
    "",
)


@pytest.mark.process
def test_the_page_asks_and_its_commands_answer(tmp_path: Path) -> None:
    """Its program prints what it says, and people answer what it left open at a terminal."""
    page = read("approvals")
    write_files(page, set_up(tmp_path))
    follow(dataclasses.replace(page, pieces=[*page.pieces, CODES], commands=[]), tmp_path)
    codes = json.loads((tmp_path / "codes").read_text())

    listed, shown, approve, deny = page.commands
    (asked,) = json.loads(type_command(f"{listed} --json", tmp_path, environment()))
    assert asked["approvers"] == ["alice", "carol"]
    assert '"amount": 95' in type_command(shown.replace("ID", asked["id"]), tmp_path, environment())
    assert "Approved." in _typed(approve.replace("ID", asked["id"]), tmp_path, codes["carol"])
    # An approval can be denied as long as it isn't used.
    assert "Denied." in _typed(deny.replace("ID", asked["id"]), tmp_path, codes["alice"])


def _typed(line: str, folder: Path, code: str) -> str:
    done = fresh.run(
        fresh.AGENTS, environment(), *shlex.split(line)[1:], folder=folder, typed=f"{code}\n"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
