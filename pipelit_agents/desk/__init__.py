"""The desk: an HTTP API with pages, for the people who run agents and for their agents.

It needs the extra ``desk``: ``pip install 'pipelit-agents[desk]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelit_agents.errors import ConfigurationError

try:
    import fastapi  # noqa: F401 - only whether it is there
except ModuleNotFoundError as _missing:
    raise ConfigurationError(
        f"the desk needs {_missing.name}: pip install 'pipelit-agents[desk]'"
    ) from None

from pipelit_agents.desk.app import make_app
from pipelit_agents.desk.settings import DeskSettings

if TYPE_CHECKING:
    from fastapi import FastAPI as FastAPI

__all__ = ["DeskSettings", "make_app"]
