"""An agent's identity and how it proves it: codes, proofs and the person it acts for."""

from __future__ import annotations
