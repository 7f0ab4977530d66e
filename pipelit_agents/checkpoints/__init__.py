"""Checkpoints at rest, encrypted under keys derived from ``FIELD_ENCRYPTION_KEY``."""

from __future__ import annotations
