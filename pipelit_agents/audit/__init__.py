"""The audit trail: its entries, their numbers, and the seals over them."""

from __future__ import annotations
