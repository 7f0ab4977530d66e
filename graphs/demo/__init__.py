"""The demonstration, with real graphs, a real checkpointer and real files."""

from __future__ import annotations
