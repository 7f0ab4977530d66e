"""The protocol in code: the signed, sent and displayed forms. Uses no clock, database or keys."""

from __future__ import annotations
