"""The roles of people, and the indexes of pages.

The earliest active person becomes an operator, the others members.
"""

from __future__ import annotations

import json
import math

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


PEOPLE = "pipelit_approval_people"
# Indexes by table: the columns, and the condition of partial ones.
INDEXES: dict[str, dict[str, tuple[tuple[str, ...], str | None]]] = {
    "pipelit_users": {
        "pipelit_users_owned": (("owner", "username"), None),
        "pipelit_users_family": (("root_owner", "username"), None),
        "pipelit_users_agents": (("username",), "kind = 'agent'"),
        "pipelit_users_operators": (("username",), "role = 'operator'"),
        "pipelit_users_peers": (("username",), "domain <> ''"),
        "pipelit_users_people": (("username",), "kind = 'human' AND domain = ''"),
    },
    "pipelit_api_keys": {
        "pipelit_api_keys_listed": (("username", "created_at", "id"), None),
        "pipelit_api_keys_expiring": (
            ("expires_at", "id"),
            "revoked_at IS NULL AND expires_at IS NOT NULL",
        ),
        "pipelit_api_keys_expiring_of": (
            ("username", "expires_at", "id"),
            "revoked_at IS NULL AND expires_at IS NOT NULL",
        ),
    },
    "pipelit_credentials": {"pipelit_credentials_kind": (("kind", "name"), None)},
    "pipelit_person_credentials": {
        "pipelit_person_credentials_kind": (("person", "kind", "name"), None)
    },
    "pipelit_ledger": {"pipelit_ledger_locked": (("locked_until",), "locked_until <> 0")},
    "pipelit_approvals": {"pipelit_approvals_asked": (("created_at", "id"), None)},
}


def upgrade() -> None:
    """Add the column, the indexes, and the table that finds the open questions of a person."""
    _add_roles()
    for table, indexes in INDEXES.items():
        for name, (columns, where) in indexes.items():
            some = None if where is None else sa.text(where)
            op.create_index(name, table, list(columns), sqlite_where=some, postgresql_where=some)
    # The new ones begin with the same column.
    op.drop_index("ix_pipelit_users_owner", "pipelit_users")
    op.drop_index("ix_pipelit_api_keys_username", "pipelit_api_keys")
    op.create_table(
        PEOPLE,
        sa.Column("approval_id", sa.String(36), primary_key=True),
        sa.Column("username", sa.String(149), primary_key=True),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index(f"{PEOPLE}_soonest", PEOPLE, ["username", "expires_at", "approval_id"])
    _find_people()


def _add_roles() -> None:
    op.add_column(
        "pipelit_users", sa.Column("role", sa.String(16), nullable=False, server_default="")
    )
    users = sa.table(
        "pipelit_users",
        sa.column("username"),
        sa.column("kind"),
        sa.column("domain"),
        sa.column("active", sa.Boolean),
        sa.column("created_at"),
        sa.column("role"),
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


def _find_people() -> None:
    """Add the people of open questions. What isn't a list of names was planted."""
    connection = op.get_bind()
    people = sa.table(PEOPLE, *map(sa.column, ("approval_id", "username", "expires_at")))
    opened = sa.text(
        "SELECT id, approvers, expires_at FROM pipelit_approvals "
        "WHERE state = 'pending' OR (state = 'approved' AND rule <> '')"
    )
    for identifier, approvers, expires_at in connection.execute(opened).all():
        try:
            names = json.loads(approvers)
        except (TypeError, ValueError):
            continue
        if not isinstance(names, list) or not isinstance(expires_at, int | float):
            continue
        found = {each for each in names if isinstance(each, str) and each.isascii()}
        if found and math.isfinite(expires_at):
            connection.execute(
                sa.insert(people),
                [
                    {"approval_id": identifier, "username": each, "expires_at": expires_at}
                    for each in sorted(found)
                    if len(each) <= 149
                ],
            )
