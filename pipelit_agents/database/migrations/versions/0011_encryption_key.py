"""The row that names the encryption key. Writers fill it: see ``database/key_row.py``."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "pipelit_encryption_key",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("fingerprint", sa.String(12), nullable=False),
        sa.Column("replaced", sa.Text, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    )
