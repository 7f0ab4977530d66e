"""What a maker and a checker of codes get: a code, and the outcome of a check."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pipelit_agents.display import html_of

__all__ = ["TotpCode", "Verification"]

ProofRole = Literal["spawn-request", "spawn-result"]


@dataclass(frozen=True, slots=True)
class TotpCode:
    """A short code, for a person or a model to pass on.

    Attributes:
        code: Its digits: 6 of a plain code, 8 of an audience code.
        expires_at: The end of its time step, UTC.
        audience: Who alone may check it; None for a plain code.
        message: The exact text that it is bound to; None where it is bound to none.
    """

    code: str = field(repr=False)
    expires_at: datetime
    audience: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """A peer was verified. There is no such object for a peer that wasn't.

    Attributes:
        peer: Who was verified.
        verifier: Who verified.
        kind: ``audience``, ``plain`` or ``proof``.
        step: The time step of the code or proof.
        verified_at: When, by the ledger's clock, UTC.
        message: The exact text that the peer bound its code to. Where it is None, the code says
            that the peer made it for this verifier, and nothing about what was said with it.
    """

    peer: str
    verifier: str
    kind: str
    step: int
    verified_at: datetime
    message: str | None = None

    def _repr_html_(self) -> str:
        return html_of(self)


def utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
