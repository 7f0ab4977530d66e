"""Approvals of tool calls: rules with steps, the call, and each start with its result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

USES = "pipelit_approval_uses"


def upgrade() -> None:
    """Add the columns. Rows from before have empty ones, and keep their tags."""
    for column in (
        sa.Column("agent", sa.String(149), nullable=False, server_default=""),
        sa.Column("rule", sa.Text, nullable=False, server_default=""),
        sa.Column("call", sa.String(64), nullable=False, server_default=""),
        sa.Column("starts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("asks", sa.Integer, nullable=False, server_default="0"),
        sa.Column("waits", sa.Integer),
    ):
        op.add_column("pipelit_approvals", column)
    some = sa.text("call <> ''")
    op.create_index(
        "pipelit_approvals_call",
        "pipelit_approvals",
        ["call"],
        sqlite_where=some,
        postgresql_where=some,
    )
    start = sa.Column("start", sa.Integer, nullable=False, server_default="1")
    if op.get_bind().dialect.name == "sqlite":
        # SQLite can't change a primary key.
        op.rename_table(USES, f"{USES}_old")
        op.create_table(
            USES,
            sa.Column("approval_id", sa.String(36), primary_key=True),
            sa.Column(
                "start", sa.Integer, primary_key=True, autoincrement=False, server_default="1"
            ),
            sa.Column("used_at", sa.Float, nullable=False),
            sa.Column("result", sa.Text),
        )
        op.execute(
            f"INSERT INTO {USES} (approval_id, used_at) SELECT approval_id, used_at FROM {USES}_old"  # noqa: S608 - fixed words
        )
        op.drop_table(f"{USES}_old")
        return
    # In place, so that what was granted on the table stays granted.
    op.add_column(USES, start)
    op.add_column(USES, sa.Column("result", sa.Text))
    op.drop_constraint(f"{USES}_pkey", USES, type_="primary")
    op.create_primary_key(f"{USES}_pkey", USES, ["approval_id", "start"])
