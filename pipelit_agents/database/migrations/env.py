"""Runs migrations on the connection that the caller gives, inside its transaction."""

from __future__ import annotations

from alembic import context

from pipelit_agents.database.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table="pipelit_version",
    render_as_batch=True,
)
context.run_migrations()
