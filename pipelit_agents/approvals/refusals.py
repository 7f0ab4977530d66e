"""The reasons why a question can't be answered, or why its approval can't be used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from pipelit_agents.approvals.tags import QuestionRow

__all__ = ["Refusal", "refused_as_closed", "refused_by_time"]

# Seconds. A clock that was set back by more than this while the system ran is wrong.
MAX_CLOCK_SKEW: Final = 30.0
UNKNOWN: Final = "unknown question"
FOREIGN: Final = "not under our keys"
NOT_ASKED: Final = "not asked"
OUT_OF_TURN: Final = "out of turn"
APPROVED_BEFORE: Final = "approved before"
NOT_OURS: Final = (
    "was changed, or was made with a key that is not (or no longer) in FIELD_ENCRYPTION_KEY"
)
USED: Final = "was approved, and the approval was used"
_CLOSED: Final = {
    "approved": "was approved already",
    "denied": "was denied",
    "used": USED,
    "suspended": USED,
}


class Refusal(NamedTuple):
    """A reason.

    Attributes:
        message: For the caller.
        reason: For the audit, at most 64 characters.
        ends: The question, if this has ended it for good.
    """

    message: str
    reason: str
    ends: QuestionRow | None = None


def refused_as_closed(row: QuestionRow) -> Refusal | None:
    """Return the reason if a question isn't pending."""
    if row.state == "pending":
        return None
    if row.state == "expired":
        return Refusal(f"the question {row.id} has expired", "expired")
    message = _CLOSED.get(row.state, "can't be answered any more")
    return Refusal(f"the question {row.id} {message}", row.state)


def refused_by_time(row: QuestionRow, now: float) -> Refusal | None:
    """Return the reason if a question has expired, or was asked in the future."""
    # A time in the future means that the clock was or is wrong. Such a question could be valid
    # for years, so it is ended as soon as it is read.
    if row.created_at > now + MAX_CLOCK_SKEW:
        return Refusal(
            f"the question {row.id} was asked in the future, at {iso(row.created_at)}, by the "
            "clock used here: the clock was set back",
            "asked in the future",
            ends=row,
        )
    if row.expires_at <= now:
        return Refusal(
            f"the question {row.id} has expired at {iso(row.expires_at)}", "expired", ends=row
        )
    return None


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
