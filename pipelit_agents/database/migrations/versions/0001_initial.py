"""The first tables: users, API keys, credentials, ledger, epoch, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.String(149)


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "pipelit_users",
        sa.Column("username", NAME, primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("owner", NAME, sa.ForeignKey("pipelit_users.username")),
        sa.Column("root_owner", NAME, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("may_create_agents", sa.Boolean, nullable=False),
        sa.Column("totp_secret", sa.Text),
        sa.Column("totp_previous", sa.Text),
        sa.Column("totp_previous_until", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.CheckConstraint("kind IN ('human', 'agent')", name="pipelit_users_kind"),
        sa.CheckConstraint("kind = 'human' OR owner IS NOT NULL", name="pipelit_users_agent_owner"),
    )
    op.create_index("ix_pipelit_users_owner", "pipelit_users", ["owner"])
    op.create_index("pipelit_users_root", "pipelit_users", ["root_owner", "active"])
    op.create_table(
        "pipelit_api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("username", NAME, sa.ForeignKey("pipelit_users.username"), nullable=False),
        sa.Column("name", sa.String(149), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("last_four", sa.String(4), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
        sa.Column("last_used_at", sa.Float),
    )
    op.create_index("ix_pipelit_api_keys_username", "pipelit_api_keys", ["username"])
    op.create_table(
        "pipelit_credentials",
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
    op.create_table(
        "pipelit_ledger",
        sa.Column("peer", NAME, primary_key=True),
        sa.Column("scope", sa.String(8), primary_key=True),
        sa.Column("subject", NAME, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("in_a_row", sa.Integer, nullable=False),
        sa.Column("recent", sa.Text, nullable=False),
        sa.Column("locked_until", sa.Float, nullable=False),
        sa.Column("spent_step", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "pipelit_epoch",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
    )
    op.create_table(
        "pipelit_audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("node", NAME, nullable=False),
    )
    op.create_index("pipelit_audit_subject", "pipelit_audit", ["subject", "id"])
