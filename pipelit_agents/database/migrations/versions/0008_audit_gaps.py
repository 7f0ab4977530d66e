"""Gaps in the audit's numbers that a seal found, and entries that were committed after it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; earlier seals waited until there was no gap."""
    op.add_column(
        "pipelit_audit_seals", sa.Column("gaps", sa.Text, nullable=False, server_default="")
    )
