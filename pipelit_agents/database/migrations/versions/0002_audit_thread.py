"""The thread that something was decided in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; of what happened before, no thread is known."""
    op.add_column(
        "pipelit_audit", sa.Column("thread", sa.String(149), nullable=False, server_default="")
    )
