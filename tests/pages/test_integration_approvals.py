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
    "import json, pathlib\n"
    "last = {name: codes[-1] for name, codes in spare.items()}\n"
    "pathlib.Path('codes').write_text(json.dumps(last))",
    "",
)


@pytest.mark.process
def test_the_page_asks_and_its_commands_answer(tmp_path: Path) -> None:
    """Its program prints what it says, people answer the rest, and the register is whole."""
    page = read("approvals")
    write_files(page, set_up(tmp_path))
    follow(dataclasses.replace(page, pieces=[*page.pieces, CODES], commands=[]), tmp_path)
    codes = json.loads((tmp_path / "codes").read_text())

    listed, shown, approve, deny, *others = page.commands
    open_ = json.loads(type_command(f"{listed} --json", tmp_path, environment()))
    (alices,) = [each["id"] for each in open_ if each["approvers"] == ["alice"]]
    (carols,) = [each["id"] for each in open_ if each["approvers"] == ["carol"]]
    assert '"amount": 95' in type_command(shown.replace("ID", carols), tmp_path, environment())
    assert "Approved." in _typed(approve.replace("ID", carols), tmp_path, codes["carol"])
    assert "Denied." in _typed(deny.replace("ID", alices), tmp_path, codes["alice"])
    for line in others:
        assert "PROBLEM" not in type_command(line, tmp_path, environment())
    assert (tmp_path / "register.jsonl").stat().st_mode & 0o777 == 0o600


def _typed(line: str, folder: Path, code: str) -> str:
    done = fresh.run(
        fresh.AGENTS, environment(), *shlex.split(line)[1:], folder=folder, typed=f"{code}\n"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
