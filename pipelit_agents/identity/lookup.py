"""Read the accounts and peerings for a code or a proof."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from pipelit_agents.database.fast_path import Flag, Open, Query
from pipelit_agents.protocol.peering_uri import is_relation
from pipelit_agents.protocol.provisioning_uri import MAX_NAME

__all__ = [
    "AccountRow",
    "PeeringSecret",
    "ProofKey",
    "domain_of",
    "find_proof_key",
    "numbered_names",
    "read_accounts",
    "read_peering",
    "reading_accounts",
    "unknown_account",
    "why_no_audience",
]


class AccountRow(NamedTuple):
    """An account, as a code or a proof needs it."""

    username: str
    kind: str
    active: Flag
    totp_secret: str | None
    totp_previous: str | None
    totp_previous_until: float
    domain: str
    relation: str


class PeeringSecret(NamedTuple):
    """A peering's id and its encrypted secret."""

    relation: str
    secret: str


_READ: Final = (
    "SELECT username, kind, active, totp_secret, totp_previous, totp_previous_until, domain, "
    "relation FROM pipelit_users WHERE username IN "
)
# Neither column is ever empty, so an empty parameter matches no row.
_READ_PEERING: Final = Query(
    "SELECT relation, secret FROM pipelit_peerings "
    "WHERE agent = :agent AND (relation = :relation OR domain = :domain)",
    PeeringSecret,
)
# Names in one statement: some databases accept 999 parameters at most.
MAX_NAMES_AT_ONCE: Final = 400


def unknown_account(name: str, *, own: bool) -> str:
    """Return the name under which failures are counted if no code of an account can be right.

    No account has such a name, so these failures lock no account. A real person has one lane for
    authenticated attempts and one for all others, so there are two names here as well.
    """
    lane = "-" if own else "--"
    if len(lane) + len(name) > MAX_NAME:
        # No username contains a "#".
        return f"{lane}#{hashlib.sha256(name.encode()).hexdigest()}"
    return lane + name


@lru_cache(maxsize=64)
def reading_accounts(count: int) -> Query[AccountRow]:
    """Return the query that reads this number of accounts."""
    names = ", ".join(f":name{number}" for number in range(count))
    return Query(f"{_READ}({names})", AccountRow)


def read_accounts(connection: Open, *names: str) -> dict[str, AccountRow]:
    """Return the rows of accounts by name; a missing account has no entry."""
    found = {}
    for some in _chunks(names):
        for row in reading_accounts(len(some)).fetch(connection, numbered_names(some)):
            found[row.username] = row
    return found


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[at : at + MAX_NAMES_AT_ONCE] for at in range(0, len(names), MAX_NAMES_AT_ONCE))


def numbered_names(names: Sequence[str]) -> dict[str, str]:
    """Return the parameters of a statement for these names."""
    return {f"name{number}": name for number, name in enumerate(names)}


def domain_of(rows: Mapping[str, Any], verifier: str, relation: str | None) -> str:
    """Return the domain of a verifier that is a peer in this database, or an empty string."""
    peer = rows.get(verifier)
    return peer.domain if relation is None and peer is not None else ""


class ProofKey(NamedTuple):
    """The secret with which an agent makes a proof.

    Attributes:
        domain: The verifier's domain, if the verifier is a peer; otherwise empty.
        wanted: The peering's id or domain; empty for the agent's own secret.
        issued: The row of the peering, or None.
    """

    domain: str
    wanted: str
    issued: Any


OWN_SECRET: Final = ProofKey("", "", None)


def find_proof_key(
    connection: Connection,
    rows: Mapping[str, Any],
    username: str,
    verifier: str,
    relation: str | None,
) -> ProofKey:
    """Return which secret an agent proves itself with: its own or a peering's."""
    domain = domain_of(rows, verifier, relation)
    wanted = relation or domain
    issued = read_peering(connection, username, relation or "", domain) if wanted else None
    return ProofKey(domain, wanted, issued)


def read_peering(connection: Connection, agent: str, relation: str, domain: str) -> Any:
    """Return the row of a peering that an agent issued, or None."""
    if not domain and not is_relation(relation):
        return None
    names = {"agent": agent, "relation": relation, "domain": domain}
    found = _READ_PEERING.fetch(connection, names)
    return found[0] if found else None


def why_no_audience(row: Any) -> str:
    """Return why a code can't be made for this account; an empty string if it can."""
    if row is None:
        return "audience unknown"
    if row.domain:
        return "audience is a peer"
    if row.kind != "agent":
        return "audience is a person"
    return "" if row.active else "audience inactive"
