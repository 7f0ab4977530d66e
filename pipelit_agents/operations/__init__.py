"""What an operator does: rotate keys and check a deployment."""

from __future__ import annotations
