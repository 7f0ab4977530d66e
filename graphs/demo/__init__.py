"""The demonstration: real graphs, a real checkpointer, real files."""

from __future__ import annotations
