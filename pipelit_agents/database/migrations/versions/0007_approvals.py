"""Approvals in tables of their own, and recovery codes under a tag."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAME = sa.String(149)
LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes the tables and adds the columns."""
    op.create_table(
        "pipelit_approvals",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("shown", sa.Text),
        sa.Column("approvers", sa.Text, nullable=False),
        sa.Column("asked_by", NAME, nullable=False),
        sa.Column("thread", NAME, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    )
    op.create_index("pipelit_approvals_digest", "pipelit_approvals", ["digest", "state"])
    op.create_index("pipelit_approvals_open", "pipelit_approvals", ["state", "expires_at"])
    op.create_table(
        "pipelit_approval_answers",
        sa.Column("seq", LONG, primary_key=True, autoincrement=True),
        sa.Column("approval_id", sa.String(36), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("username", NAME, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("factor_kind", sa.String(16), nullable=False),
        sa.Column("factor", sa.String(32), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("mac", sa.String(64), nullable=False),
    )
    for column in ("approval_id", "digest"):
        op.create_index(
            op.f(f"ix_pipelit_approval_answers_{column}"), "pipelit_approval_answers", [column]
        )
    op.create_index(
        "pipelit_approval_answers_person", "pipelit_approval_answers", ["username", "verdict"]
    )
    op.create_table(
        "pipelit_approval_uses",
        sa.Column("approval_id", sa.String(36), primary_key=True),
        sa.Column("used_at", sa.Float, nullable=False),
    )
    # A recovery code is accepted by its tag, which needs the key and the code's second factor.
    op.execute("DELETE FROM pipelit_recovery_codes")
    op.add_column(
        "pipelit_recovery_codes",
        sa.Column("factor", sa.String(32), nullable=False, server_default=""),
    )
    op.add_column(
        "pipelit_recovery_codes",
        sa.Column("mac", sa.String(64), nullable=False, server_default=""),
    )
