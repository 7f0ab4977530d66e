"""``python -m pipelit_agents`` is the command ``pipelit-agents``."""

from __future__ import annotations

from pipelit_agents.cli import app

app(prog_name="pipelit-agents")
