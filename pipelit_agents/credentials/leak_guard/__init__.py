"""The leak guard: finds and masks open secrets in whatever leaves a running node."""

from __future__ import annotations
