"""The leak guard: find and mask open secrets in values that leave a running node."""

from __future__ import annotations
