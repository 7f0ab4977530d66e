"""docs/integrations/approvals-details.md, and its commands, which audit what its program asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from integration_pages import environment, follow, read, set_up, type_command, write_files


@pytest.mark.process
def test_the_page_asks_and_its_commands_audit(tmp_path: Path) -> None:
    """Its program prints what it says, and the register that it leaves is whole."""
    page = read("approvals-details")
    write_files(page, set_up(tmp_path))
    follow(dataclasses.replace(page, commands=[]), tmp_path)
    for line in page.commands:
        assert "PROBLEM" not in type_command(line, tmp_path, environment())
    assert (tmp_path / "register.jsonl").stat().st_mode & 0o777 == 0o600


def test_both_pages_have_the_same_files() -> None:
    """A reader who has those of the first page can go on."""
    first = read("approvals").files
    for path, code in read("approvals-details").files.items():
        assert first[path] == code
