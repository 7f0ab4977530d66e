"""Credentials that are one person's own, and the person for whom an audited action was done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

NAME = sa.String(149)


def upgrade() -> None:
    """Create the table, and add the column."""
    op.create_table(
        "pipelit_person_credentials",
        sa.Column("person", NAME, sa.ForeignKey("pipelit_users.username"), primary_key=True),
        sa.Column("name", NAME, primary_key=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("public", sa.Text, nullable=False),
        sa.Column("allow", sa.Text),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
    )
    op.add_column("pipelit_audit", sa.Column("person", NAME, nullable=False, server_default=""))
