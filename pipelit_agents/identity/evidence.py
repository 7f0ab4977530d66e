"""The results of making and verifying a code: the code, and the evidence of the verification."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pipelit_agents._words import WITHHELD, has_secret_form, recordable
from pipelit_agents.display import html_of
from pipelit_agents.errors import ConfigurationError, UnsealError

__all__ = ["TotpCode", "Verification", "as_evidence", "as_typed", "utc", "why_not_decided"]

_NOT_DECIDED: Final[dict[type[Exception], str]] = {
    ConfigurationError: "a setting is unusable",
    UnsealError: "secret doesn't open",
}


@dataclass(frozen=True, slots=True)
class TotpCode:
    """A short code, for a person or a model to pass on.

    Attributes:
        code: The digits: 6 for a plain code, 8 for an audience code.
        expires_at: The end of its time step, UTC.
        audience: The only agent that may verify it; None for a plain code.
        message: The exact text that it is bound to; None if it isn't bound to a text.
    """

    code: str = field(repr=False)
    expires_at: datetime
    audience: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """The evidence that a peer was verified. A failed verification raises an exception instead.

    Attributes:
        peer: The verified account.
        verifier: The account that verified it.
        kind: ``audience``, ``plain`` or ``proof``.
        step: The time step of the code or proof.
        verified_at: The time of the verification by the ledger's clock, UTC.
        message: The exact text that the peer bound its code to. If it is None, the code shows
            that the peer made it for this verifier, and nothing about any text sent with it.
    """

    peer: str
    verifier: str
    kind: str
    step: int
    verified_at: datetime
    message: str | None = None

    def _repr_html_(self) -> str:
        return html_of(self)


def why_not_decided(error: Exception, otherwise: str) -> str:
    """Return why an error prevented a verification, for the audit."""
    return _NOT_DECIDED.get(type(error), otherwise)


def as_evidence(name: str) -> str:
    """Return a name for the attributes of an error; a name that no account can have is left out."""
    return WITHHELD if has_secret_form(name) else name


def as_typed(name: str) -> str:
    """Return a name for the attributes of an error about input that can't be right."""
    # Arguments may have been swapped, and an account that is named by digits is rare.
    return recordable(name) if name.isdigit() else as_evidence(name)


def utc(at: float) -> datetime:
    """Return the UTC datetime of Unix seconds."""
    return datetime.fromtimestamp(at, UTC)
