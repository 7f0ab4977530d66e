"""The codes of other services that were handed out: see ``credentials/issued_codes.py``."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "pipelit_issued_codes",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("last_step", sa.BigInteger, nullable=False),
    )
