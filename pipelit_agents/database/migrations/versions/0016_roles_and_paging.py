"""The roles of people. The earliest active person becomes an operator, the others members."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and give each person a role."""
    op.add_column(
        "pipelit_users", sa.Column("role", sa.String(16), nullable=False, server_default="")
    )
    users = sa.table(
        "pipelit_users",
        *map(sa.column, ("username", "kind", "domain", "active", "created_at", "role")),
    )
    person = sa.and_(users.c.kind == "human", users.c.domain == "")
    first = (
        sa.select(users.c.username)
        .where(person, users.c.active == sa.true())
        .order_by(users.c.created_at, users.c.username)
        .limit(1)
        .scalar_subquery()
    )
    op.execute(sa.update(users).where(person).values(role="member"))
    op.execute(sa.update(users).where(users.c.username == first).values(role="operator"))
