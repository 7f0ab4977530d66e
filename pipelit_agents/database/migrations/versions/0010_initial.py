"""All tables of version 0.1.0.

The numbers up to 0009 were used before that version, and aren't used again. Tables that were
migrated to 0010 then are the same as these.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.String(149)
# SQLite's row ids are integers of any length.
LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
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
        sa.Column("domain", NAME, nullable=False, server_default=""),
        sa.Column("relation", sa.String(32), nullable=False, server_default=""),
        sa.Column("totp_generation", sa.BigInteger, nullable=False, server_default="0"),
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
        sa.Column("version", LONG, nullable=False),
        sa.Column("in_a_row", sa.Integer, nullable=False),
        sa.Column("recent", sa.Text, nullable=False),
        sa.Column("locked_until", sa.Float, nullable=False),
        sa.Column("spent_step", sa.BigInteger, nullable=False),
        sa.Column("unlocks", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("whole_at", sa.Float, nullable=False, server_default="0"),
        sa.Column("spent_previous", sa.BigInteger, nullable=False, server_default="-1"),
        sa.Column("spent_ahead", sa.Text, nullable=False, server_default=""),
    )
    op.create_table(
        "pipelit_epoch",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.Column("database_id", sa.String(32), nullable=False, server_default=""),
        sa.Column("clock_offset", sa.Float),
    )
    op.create_table(
        "pipelit_audit",
        sa.Column("id", LONG, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("node", NAME, nullable=False),
        sa.Column("thread", NAME, nullable=False, server_default=""),
    )
    op.create_index("pipelit_audit_subject", "pipelit_audit", ["subject", "id"])
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
        "ix_pipelit_spent_requests_expires_at", "pipelit_spent_requests", ["expires_at"]
    )
    op.create_table(
        "pipelit_audit_seals",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last_id", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.Column("sealed_at", sa.Float, nullable=False),
        sa.Column("pruned", sa.String(64), nullable=False, server_default=""),
        sa.Column("gaps", sa.Text, nullable=False, server_default=""),
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
        sa.Column("factor", sa.String(32), nullable=False, server_default=""),
        sa.Column("mac", sa.String(64), nullable=False, server_default=""),
    )
    op.create_index("ix_pipelit_recovery_codes_username", "pipelit_recovery_codes", ["username"])
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
        sa.Column("denied_by", sa.Text, nullable=False, server_default=""),
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
            f"ix_pipelit_approval_answers_{column}", "pipelit_approval_answers", [column]
        )
    op.create_index(
        "pipelit_approval_answers_person", "pipelit_approval_answers", ["username", "verdict"]
    )
    op.create_table(
        "pipelit_approval_uses",
        sa.Column("approval_id", sa.String(36), primary_key=True),
        sa.Column("used_at", sa.Float, nullable=False),
    )
