"""Who an agent is and how it proves that: codes, proofs and the people they act for."""

from __future__ import annotations
