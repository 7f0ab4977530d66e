"""Time steps that were spent ahead of the clock, where an unlock lowered the last spent step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; what was lowered before isn't known."""
    op.add_column(
        "pipelit_ledger", sa.Column("spent_ahead", sa.Text, nullable=False, server_default="")
    )
