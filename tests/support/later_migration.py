"""A later version of the package, as far as the tables know: one more migration."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

from pipelit_agents.database import schema

_LATER = '''
"""One column more."""

import sqlalchemy as sa
from alembic import op

revision = "9990"
down_revision = "{newest}"


def upgrade() -> None:
    """Add the column."""
    op.add_column("pipelit_users", sa.Column("later", sa.Text, nullable=False, server_default="x"))
'''


def add_migration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package have another migration, so that all tables are older than it.

    Args:
        folder: Where the migrations are copied to; it mustn't exist yet.
        monkeypatch: Ends it.
    """
    newest = max(schema._revisions())
    copytree(schema._MIGRATIONS, folder)
    (folder / "versions" / "9990_later.py").write_text(_LATER.format(newest=newest))
    monkeypatch.setattr(schema, "_MIGRATIONS", folder)
