"""docs/upgrading.md: what two versions do at the same tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from later_migration import add_migration
from paths import ROOT

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import StorageError

PAGE = (ROOT / "docs" / "upgrading.md").read_text()


def test_two_versions_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says of a new version before `init`, and of an old one after it."""
    key = Keyring.generate_key()

    def version() -> Pipelit:
        return Pipelit(database_url=f"sqlite:///{tmp_path}/agents.db", encryption_keys=[key])

    with version() as running:
        running.create_schema()
        running.users.create("alice")
        with monkeypatch.context() as later:
            add_migration(tmp_path / "later", later)
            with version() as newer:
                (tables,) = [each for each in newer.check() if each.name == "tables"]
                assert (tables.ok, tables.fix) == (False, "pipelit-agents init")
                newer.create_schema()
        assert [each.username for each in running.users.list()] == ["alice"]
        running.users.create("bob")
        with version() as started, pytest.raises(StorageError, match="a newer pipelit-agents"):
            started.users.list()


def test_each_version_of_the_change_log_has_a_section() -> None:
    """In the order of the change log."""
    log = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[?(\d[\w.]*)", log, re.MULTILINE)
    assert re.findall(r"^### (\S+)", PAGE, re.MULTILINE) == versions
