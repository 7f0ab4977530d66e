"""The database: tables, migrations, engine and transactions."""

from __future__ import annotations

from pipelit_agents.database.host_migrations import include_name, render_item

__all__ = ["include_name", "render_item"]
