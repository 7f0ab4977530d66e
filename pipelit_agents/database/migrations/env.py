"""Runs migrations on the connection that the caller gives, inside its transaction."""

from __future__ import annotations

from typing import Any, NoReturn

from alembic import context
from alembic.util import CommandError

from pipelit_agents.database.models import Base


def _refuse() -> NoReturn:
    # What a newer version has written (seals with gaps, approvals, limits) has no older form, and a
    # table without it would make spent codes good and changed entries whole.
    raise CommandError(
        "pipelit-agents has no way back to older tables: restore the copy from before the upgrade "
        "(docs/operations.md, Backups), and then install the older version"
    )


for _each in context.script.walk_revisions():
    _module: Any = _each.module
    _module.downgrade = _refuse

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table="pipelit_version",
    render_as_batch=True,
)
context.run_migrations()
