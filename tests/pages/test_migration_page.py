"""docs/migration.md: the code of before and after, followed from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import InvalidToken
from integration_pages import follow, missing, read, set_up, write_files
from paths import ROOT


@pytest.mark.process
def test_the_code_before_and_after_does_what_the_page_says(tmp_path: Path) -> None:
    """Each block runs in the folder of the set-up, and prints what the page prints."""
    page = read("migration", folder=ROOT / "docs")
    assert missing(page) == []
    write_files(page, set_up(tmp_path))
    follow(page, tmp_path)


def test_a_row_that_cannot_be_decrypted_stops_the_migration_before_it_begins() -> None:
    """SQLite doesn't undo a changed table, so a repeated migration would find another one."""
    text = (ROOT / "docs" / "migration.md").read_text()
    names: dict[str, Any] = {"__name__": "models"}

    def run(code: str) -> None:
        exec(compile(code, "<page>", "exec", dont_inherit=True), names)  # noqa: S102 - our page

    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    old, new, migration = (each for each in blocks if "customers" in each)
    run(old.replace("sqlite:///customers.db", "sqlite://"))
    run(new)
    sql = names["text"]
    with names["engine"].begin() as connection:
        connection.execute(sql("INSERT INTO customers VALUES (3, 'damaged')"))
    with pytest.raises(InvalidToken):
        run(migration)
    with names["engine"].begin() as connection:
        assert len(connection.execute(sql("SELECT id, token FROM customers")).all()) == 3
