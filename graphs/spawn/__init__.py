"""Spawning: fan out to children and believe only what they prove."""

from __future__ import annotations
