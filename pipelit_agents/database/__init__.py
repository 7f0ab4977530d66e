"""Storage: the tables, their migrations, and the engine that opens them."""

from __future__ import annotations

from pipelit_agents.database.host_migrations import include_name, render_item

__all__ = ["include_name", "render_item"]
