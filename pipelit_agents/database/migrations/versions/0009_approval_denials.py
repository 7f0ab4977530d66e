"""Who denied an approval after it was given, under the tag of its question."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; an empty one isn't under the tag, so that earlier tags stay good."""
    op.add_column(
        "pipelit_approvals", sa.Column("denied_by", sa.Text, nullable=False, server_default="")
    )
