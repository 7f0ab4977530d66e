"""Read the accounts and peerings for a code or a proof."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from sqlalchemy import Connection

from pipelit_agents._words import has_secret_form, may_be_secret, quoted, recordable
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Flag, Open, Query
from pipelit_agents.errors import NotLocalAgent, UserInactive, UserNotFound
from pipelit_agents.protocol.peering_uri import PeerRelation, is_relation
from pipelit_agents.protocol.provisioning_uri import MAX_NAME

__all__ = [
    "AccountRow",
    "PeeringSecret",
    "ProofKey",
    "accounts_of",
    "counted_name",
    "domain_of",
    "find_proof_key",
    "read_accounts",
    "relation_to",
    "require_active_agent",
    "require_local_agent",
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


def counted_name(name: str) -> str:
    """Return the name under which attempts about a peer are counted.

    The ledger stores it in clear. No account has a name in the form of a key, so a digest will do.
    """
    return f"#{hashlib.sha256(name.encode()).hexdigest()}" if has_secret_form(name) else name


@lru_cache(maxsize=64)
def _reading_accounts(count: int) -> Query[AccountRow]:
    names = ", ".join(f":name{number}" for number in range(count))
    return Query(f"{_READ}({names})", AccountRow)


def read_accounts(connection: Open, *names: str) -> dict[str, AccountRow]:
    """Return the rows of accounts by name; a missing account has no entry.

    Some databases accept 999 names in a statement at most. A batch of proofs has up to 400.
    """
    rows = _reading_accounts(len(names)).fetch(connection, _numbered_names(names))
    return {row.username: row for row in rows}


def accounts_of(database: Database, *names: str) -> dict[str, AccountRow]:
    """Return the rows of accounts by name, as ``read_accounts`` does, of this moment."""
    rows = database.fetch(_reading_accounts(len(names)), _numbered_names(names))
    return {row.username: row for row in rows}


def _numbered_names(names: Sequence[str]) -> dict[str, str]:
    return {f"name{number}": name for number, name in enumerate(names)}


def domain_of(rows: Mapping[str, AccountRow], verifier: str, relation: str | None) -> str:
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
    issued: PeeringSecret | None


OWN_SECRET: Final = ProofKey("", "", None)


def find_proof_key(
    connection: Connection,
    rows: Mapping[str, AccountRow],
    username: str,
    verifier: str,
    relation: str | None,
) -> ProofKey:
    """Return which secret an agent proves itself with: its own or a peering's."""
    domain = domain_of(rows, verifier, relation)
    wanted = relation or domain
    issued = _read_peering(connection, username, relation or "", domain) if wanted else None
    return ProofKey(domain, wanted, issued)


def _read_peering(
    connection: Connection, agent: str, relation: str, domain: str
) -> PeeringSecret | None:
    if not domain and not is_relation(relation):
        return None
    names = {"agent": agent, "relation": relation, "domain": domain}
    found = _READ_PEERING.fetch(connection, names)
    return found[0] if found else None


def relation_to(database: Database, username: str, peer: str) -> PeerRelation | None:
    """Return the peerings of an agent and a peer; see ``Agent.relation_to``."""
    with database.reading() as connection:
        rows = read_accounts(connection, username, peer)
        require_local_agent(username, rows.get(username))
        row = rows.get(peer)
        if row is None or not row.domain:
            return None
        issued = _read_peering(connection, username, "", row.domain)
    return PeerRelation(row.domain, row.relation, issued.relation if issued else None)


def require_local_agent(username: str, row: AccountRow | None) -> AccountRow:
    """Require that a handle belongs to an active agent of this database; return its row.

    Raises:
        UserNotFound: No account has that name.
        NotLocalAgent: The account is a person or a peer.
        UserInactive: It was deactivated.
    """
    if row is None:
        typed = "NAME" if may_be_secret(username) else username
        raise UserNotFound(
            f"there is no account {quoted(username)}; see all agents with: pipelit-agents agents "
            f"list; create it with: pipelit-agents agents create {typed} --owner … --purpose …",
            username=recordable(username),
        )
    if row.domain:
        raise NotLocalAgent(
            f"{username!r} is a peer of the domain {row.domain!r}: here it can be verified; "
            "code can act as this agent only in its own domain",
            username=username,
        )
    if row.kind != "agent":
        raise NotLocalAgent(
            f"{username!r} is a person; code can act only as an agent (pipelit-agents agents list)",
            username=username,
        )
    if not row.active:
        raise UserInactive(f"{username!r} was deactivated", username=username)
    return row


def require_active_agent(connection: Open, username: str) -> None:
    """Read the account of a handle, and require that it may act; errors are those above."""
    require_local_agent(username, read_accounts(connection, username, username).get(username))


def why_no_audience(row: AccountRow | None) -> str:
    """Return why this account can verify nobody; an empty string for an active agent."""
    if row is None:
        return "audience unknown"
    if row.domain:
        return "audience is a peer"
    if row.kind != "agent":
        return "audience is a person"
    return "" if row.active else "audience inactive"
