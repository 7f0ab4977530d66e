"""Lanes in the ledger, spent steps of each secret, and how far the clock is from the boot."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# What anybody had counted about a peer becomes the count of the lane that strangers share.
_CARRY_OVER = (
    "INSERT INTO pipelit_ledger "
    "(peer, scope, subject, version, in_a_row, recent, locked_until, spent_step) "
    "SELECT peer, 'others', '', 1, in_a_row, '', 0, -1 FROM pipelit_ledger "
    "WHERE scope = 'peer' AND in_a_row > 0"
)


def upgrade() -> None:
    """Adds the columns. Spent steps stay spent, and counted failures stay counted."""
    op.add_column(
        "pipelit_ledger", sa.Column("whole_at", sa.Float, nullable=False, server_default="0")
    )
    op.add_column(
        "pipelit_ledger",
        sa.Column("spent_previous", sa.BigInteger, nullable=False, server_default="-1"),
    )
    op.add_column(
        "pipelit_users",
        sa.Column("totp_generation", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.add_column("pipelit_epoch", sa.Column("clock_offset", sa.Float))
    op.execute(_CARRY_OVER)
    op.execute("UPDATE pipelit_ledger SET in_a_row = 0, locked_until = 0 WHERE scope = 'peer'")
    op.execute("DELETE FROM pipelit_ledger WHERE scope = 'owner'")
    # Until now one spent step held for both secrets of a rotation.
    op.execute("UPDATE pipelit_ledger SET spent_previous = spent_step")
