"""Checks of the tables, and of the connection to a database server."""

from __future__ import annotations

from pipelit_agents.database.maintenance import has_tables, pending_migrations
from pipelit_agents.operations.addresses import clear_postgres
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import (
    Finding,
    NotApplicable,
    listed,
    passed,
    with_notes,
)

__all__ = ["postgres_tls", "tables"]


@deployment_check("tables", why="the code needs the tables of its own version", always=True)
def tables(deployment: Deployment) -> Finding:
    """The tables exist, in the version of this package."""
    database = deployment.installed.database
    if not has_tables(database):
        found = "there are no tables"
        if deployment.database_modes:
            # A new SQLite database is in the log until the log is written back.
            found += "; a copy of an SQLite file without its -wal file has none either"
        return Finding(found, "pipelit-agents init; for a copy, run pipelit-agents backup again")
    if pending_migrations(database):
        return Finding("the tables are older than this package", "pipelit-agents init")
    return passed()


@deployment_check("PostgreSQL TLS", why="others on the network can read the password and the data")
def postgres_tls(deployment: Deployment) -> Finding:
    """Every PostgreSQL address requires TLS, or is on this machine."""
    addresses = deployment.server_addresses()
    found, notes = clear_postgres(addresses, deployment.environ)
    if found:
        return Finding(
            listed(found),
            "…?sslmode=verify-full&sslrootcert=… in its address (sslmode=require encrypts, but "
            "doesn't verify the server's identity)",
        )
    if not any(each.startswith("postgres") for each in addresses.values()):
        raise NotApplicable("no PostgreSQL is used")
    return with_notes(notes)
