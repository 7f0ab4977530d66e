"""The tables of earlier versions, made from the present ones, for tests of migrations."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, text

# The newest first: what takes back a migration, by the revision to which it leads.
_BACK = {
    "0015": (
        "DROP TABLE pipelit_approval_people",
        *(
            f"DROP INDEX pipelit_{name}"
            for name in (
                *("users_owned", "users_family", "users_agents", "users_operators"),
                *("users_peers", "users_people", "api_keys_listed", "api_keys_expiring"),
                *("api_keys_expiring_of", "credentials_kind", "person_credentials_kind"),
                *("ledger_locked", "approvals_asked"),
            )
        ),
        "ALTER TABLE pipelit_users DROP COLUMN role",
        "CREATE INDEX ix_pipelit_users_owner ON pipelit_users (owner)",
        "CREATE INDEX ix_pipelit_api_keys_username ON pipelit_api_keys (username)",
    ),
    "0013": (
        "DROP TABLE pipelit_approval_notices",
        "DROP INDEX pipelit_approvals_call",
        *(
            f"ALTER TABLE pipelit_approvals DROP COLUMN {name}"
            for name in ("agent", "rule", '"call"', "starts", "asks", "waits")
        ),
        "ALTER TABLE pipelit_approval_uses RENAME TO newer",
        "CREATE TABLE pipelit_approval_uses (approval_id VARCHAR(36) NOT NULL, "
        "used_at FLOAT NOT NULL, PRIMARY KEY (approval_id))",
        "INSERT INTO pipelit_approval_uses SELECT approval_id, used_at FROM newer",
        "DROP TABLE newer",
    ),
    "0011": (
        "DROP TABLE pipelit_issued_codes",
        "DROP TABLE pipelit_person_credentials",
        "ALTER TABLE pipelit_audit DROP COLUMN person",
    ),
}


def take_back(connection: Connection, revision: str) -> None:
    """Turn a database of the present version into one of an earlier revision."""
    for each in _until(revision):
        connection.execute(text(each))
    connection.execute(
        text("UPDATE pipelit_version SET version_num = :revision"), {"revision": revision}
    )


def _until(revision: str) -> Iterable[str]:
    for name, statements in _BACK.items():
        yield from statements
        if name == revision:
            return
