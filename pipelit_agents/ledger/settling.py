"""Combine what a ledger of the user's own decided with what the database's ledger decides.

The stricter of the two counts, so no ledger accepts a code that another has spent, and none
evaluates one in a lane that another has locked.
"""

from __future__ import annotations

from typing import NamedTuple

from pipelit_agents.ledger.attempts import Attempt, Proposal
from pipelit_agents.ledger.rules import Peer, Rules, Ruling, State, decide

__all__ = ["Settled", "settle"]


class Settled(NamedTuple):
    """What counts, and what the database's ledger would have decided alone.

    Attributes:
        state: The state to keep in the database.
        ruling: What counts.
        alone: The database's own decision; None if it would have evaluated the code, and the other
            ledger didn't.
    """

    state: State
    ruling: Ruling
    alone: Ruling | None


def settle(
    proposal: Proposal,
    state: State,
    attempt: Attempt,
    peer: Peer,
    rules: Rules,
    now: float,
    *,
    forgotten: int,
) -> Settled:
    """Decide an attempt that another ledger has decided; the arguments are those of ``decide``."""
    proposed, reason, locked = proposal
    lane = rules.seen(state.lane, now, peer.lanes)
    if proposed.verdict in ("limited", "locked"):
        alone = rules.held(lane, state.spent, now)
        wait = proposed.retry_after or 0.0
        if alone is None or wait >= (alone.retry_after or 0.0):
            ruling = Ruling(proposed.verdict, reason, lane, state.spent, retry_after=wait)
        else:
            ruling = alone
        return Settled(state._replace(lane=lane), ruling, alone)
    after, alone = decide(state, attempt, peer, rules, now, forgotten=forgotten)
    ruling = alone
    if proposed.verdict == "rejected" and alone.verdict == "accepted":
        # The other ledger knows of something that the database doesn't.
        ruling = rules.refused(lane, state.spent, reason, now)
    elif proposed.verdict == alone.verdict == "rejected":
        ruling = alone._replace(reason=reason)
    if ruling.verdict == "rejected" and locked is not None:
        ruling = ruling._replace(first_lock=True)
    return Settled(after._replace(lane=ruling.lane, spent=ruling.spent), ruling, alone)
