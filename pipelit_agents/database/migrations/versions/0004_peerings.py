"""Agents of other domains, the peerings issued to them, and requests that were used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = sa.String(149)


def upgrade() -> None:
    """Adds the columns and makes the tables."""
    op.add_column("pipelit_users", sa.Column("domain", NAME, nullable=False, server_default=""))
    op.add_column(
        "pipelit_users", sa.Column("relation", sa.String(32), nullable=False, server_default="")
    )
    op.create_table(
        "pipelit_peerings",
        sa.Column("relation", sa.String(32), primary_key=True),
        sa.Column("agent", NAME, sa.ForeignKey("pipelit_users.username"), nullable=False),
        sa.Column("domain", NAME, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.UniqueConstraint("agent", "domain", name="pipelit_peerings_agent_domain"),
    )
    op.create_table(
        "pipelit_spent_requests",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index(
        op.f("ix_pipelit_spent_requests_expires_at"), "pipelit_spent_requests", ["expires_at"]
    )
