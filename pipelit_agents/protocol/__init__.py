"""The protocol in code: what is signed, sent and shown, without a clock, database or key store."""

from __future__ import annotations
