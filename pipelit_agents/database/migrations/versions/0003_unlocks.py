"""When a peer was unlocked, what a ledger outside calls this database, and longer numbers."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns. A database that is in use gets its name here."""
    op.add_column(
        "pipelit_ledger", sa.Column("unlocks", sa.BigInteger, nullable=False, server_default="0")
    )
    op.add_column(
        "pipelit_epoch", sa.Column("database_id", sa.String(32), nullable=False, server_default="")
    )
    name = sa.text("UPDATE pipelit_epoch SET database_id = :name")
    op.get_bind().execute(name, {"name": secrets.token_hex(16)})
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("pipelit_ledger", "version", type_=sa.BigInteger)
        op.alter_column("pipelit_audit", "id", type_=sa.BigInteger)
        op.execute("ALTER SEQUENCE pipelit_audit_id_seq AS bigint")
