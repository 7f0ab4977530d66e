"""The lanes: in which of them an attempt counts, and their names."""

from __future__ import annotations

from typing import Final

from pipelit_agents._words import quoted
from pipelit_agents.database.fast_path import Statement
from pipelit_agents.ledger.attempts import LaneKind
from pipelit_agents.protocol.usernames import require_username

__all__ = ["lane_name", "read_lane_name"]

# Of a query with the verifier's account as v and the peer's as p.
# A person verifies nobody but herself: no handle acts as one.
VERIFIER_ACTIVE: Final = (
    "(v.active AND v.domain = '' AND (v.kind = 'agent' OR v.username = p.username))"
)
# What it tries is counted apart, so that it closes no lane of those who may verify. Who shows a
# person's code is the peer itself, also where there is no such account.
UNFIT_VERIFIER: Final = (
    f"(:verifier <> :peer AND CASE WHEN {VERIFIER_ACTIVE} THEN 0 ELSE 1 END = 1)"
)
# Peers of other domains have no family here, and a deactivated agent is counted as an unknown name.
IN_FAMILY: Final = "(p.kind = 'agent' AND p.active AND v.root_owner = p.root_owner)"
SHARED_LANE: Final = (
    "CASE WHEN :first THEN 'first' "
    "WHEN :own AND p.kind = 'human' AND p.domain = '' THEN 'self' "
    f"WHEN {IN_FAMILY} THEN 'family' ELSE 'others' END"
)
_OWN_LANES: Final = (
    "FROM pipelit_ledger l JOIN pipelit_users p ON p.username = l.peer "
    "LEFT JOIN pipelit_users v ON v.username = l.subject AND v.active "
    "WHERE l.peer = :peer AND l.scope = 'plain' AND "
)
# Counted and inserted in one transaction, in which attempts about one peer follow each other. The
# lane of a verifier that was deactivated is given to another with what was counted in it; otherwise
# new agents would be new guesses.
GIVE_OWN_LANE: Final = Statement(
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, recent, locked_until, spent_step, "
    "in_a_row, whole_at) SELECT CAST(:peer AS VARCHAR), 'plain', CAST(:verifier AS VARCHAR), 1, "
    f"'', 0, -1, (SELECT COALESCE(max(l.in_a_row), 0) {_OWN_LANES} v.username IS NULL), "
    f"(SELECT COALESCE(max(l.whole_at), 0) {_OWN_LANES} v.username IS NULL) "
    f"WHERE (SELECT count(*) {_OWN_LANES} v.username IS NOT NULL AND NOT {IN_FAMILY}) "
    "< :own_lanes ON CONFLICT DO NOTHING"
)
_LANES: Final[dict[str, LaneKind]] = {"audience": "pair", "plain": "plain", "nobody": "nobody"}
_SHARED: Final = ("self", "family", "others", "first")


def lane_name(scope: str, subject: str) -> str:
    """Return how a lane is called.

    It is ``self``, ``family``, ``others``, ``first``, ``plain:NAME``, ``audience:NAME`` or
    ``nobody:NAME``.
    The row of spent plain codes is in no lane; it is called ``spent``.
    """
    for name, kind in _LANES.items():
        if kind == scope:
            return f"{name}:{subject}"
    return "spent" if scope == "peer" else scope


def read_lane_name(lane: object) -> tuple[str, str]:
    """Return scope and subject of a lane.

    Raises:
        ValueError: There is no lane of that name.
        InvalidUsername: The name in it has another form.
    """
    if lane in (*_SHARED, "spent"):
        return "peer" if lane == "spent" else str(lane), ""
    kind, colon, subject = lane.partition(":") if isinstance(lane, str) else ("", "", "")
    if not colon or kind not in _LANES:
        raise ValueError(
            "lane must be 'self', 'family', 'others', 'first', 'plain:NAME', 'audience:NAME' or "
            f"'nobody:NAME', where NAME is the verifier, not {quoted(lane)}; users.lanes lists them"
        )
    return _LANES[kind], require_username(subject, argument="lane")
