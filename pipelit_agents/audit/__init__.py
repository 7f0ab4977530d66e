"""The audit trail: its records, their numbers, and the seals over them."""

from __future__ import annotations
