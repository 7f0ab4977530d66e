"""Run tasks on child agents and accept only proven answers."""

from __future__ import annotations
