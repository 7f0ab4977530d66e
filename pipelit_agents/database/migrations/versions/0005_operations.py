"""Seals of the audit trail, second factors that are being enrolled, and recovery codes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NAME = sa.String(149)


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "pipelit_audit_seals",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last_id", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.Column("sealed_at", sa.Float, nullable=False),
        sa.Column("pruned", sa.String(64), nullable=False, server_default=""),
    )
    op.create_table(
        "pipelit_mfa_pending",
        sa.Column("username", NAME, sa.ForeignKey("pipelit_users.username"), primary_key=True),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "pipelit_recovery_codes",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("username", NAME, sa.ForeignKey("pipelit_users.username"), nullable=False),
        sa.Column("used_at", sa.Float),
    )
    op.create_index(
        op.f("ix_pipelit_recovery_codes_username"), "pipelit_recovery_codes", ["username"]
    )
