"""Decide whose requests a child works on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeAlias, TypedDict

from pipelit_agents import Agent
from pipelit_agents._threads import aside
from pipelit_agents.errors import (
    AccountError,
    ProofRejected,
    RequestRefused,
    RequestStale,
    UserNotFound,
)
from pipelit_agents.pipelit import home_of
from pipelit_agents.protocol.binding import PERIOD, Challenge, Proof

from .envelope import SpawnRequest

__all__ = ["ANYONE", "AcceptFrom", "Anyone", "acheck", "admit", "check"]

# How long a request is valid, in seconds.
REQUEST_LIFETIME: Final = 60.0


STALE: Final = "this request was used before, or is too old: its parent can send the task again"
"""The message of ``RequestStale``, by which a parent recognizes it in an engine's error."""


class Anyone:
    """The type of ``ANYONE``."""

    def __repr__(self) -> str:
        return "ANYONE"


ANYONE: Final = Anyone()
"""For ``accept_from``: the child accepts requests from every caller."""

AcceptFrom: TypeAlias = Sequence[str] | Anyone | None


class _ProvenFields(TypedDict):
    """What the proof of a request covers."""

    challenge: Challenge
    request: bytes
    depth: int
    answer_relation: str


def check(agent: Agent, accept_from: AcceptFrom, request: SpawnRequest) -> None:
    """Check the caller of a child before any node of its graph runs.

    Args:
        agent: The child's agent.
        accept_from: The parents whose requests it accepts.
        request: The request.

    Raises:
        RequestRefused: The child doesn't accept the caller, or the request isn't proven.
        RequestStale: The request is too old.
    """
    if accept_from is None or isinstance(accept_from, Anyone):
        return
    if request.parent not in accept_from or request.proof is None:
        _note_refusal(agent, request, "not in accept_from")
        raise _refusal(agent)
    try:
        agent.verify_request(request.proof, **_proven_fields(agent, request))
    except ProofRejected:
        raise _proof_refusal(agent, request.proof) from None


async def acheck(agent: Agent, accept_from: AcceptFrom, request: SpawnRequest) -> None:
    """Async form of ``check``."""
    if accept_from is None or isinstance(accept_from, Anyone):
        return
    if request.parent not in accept_from or request.proof is None:
        await aside(agent.note_refusal, request.parent, "verify.request", "not in accept_from")
        raise _refusal(agent)
    try:
        await agent.averify_request(request.proof, **_proven_fields(agent, request))
    except ProofRejected:
        raise _proof_refusal(agent, request.proof) from None


def admit(
    agent: Agent, accept_from: AcceptFrom, request: SpawnRequest, identity: str | None
) -> None:
    """Admit a checked request from outside, and mark it as used: a child works on it only once.

    Args:
        agent: The child's agent.
        accept_from: The parents whose requests it accepts.
        request: The request, after ``check``.
        identity: The caller's identity on this server. Empty if the server doesn't authenticate
            callers, None if there is no server.

    Raises:
        RequestRefused: Another account than the proven parent sent the request, or it names a
            peering that isn't its parent's.
        RequestStale: The request was used before.
    """
    if not _may_name_relation(agent, accept_from, request):
        agent.note_refusal(request.parent, "verify.request", "relation of another domain")
        raise _refusal(agent)
    if isinstance(accept_from, Anyone):
        return
    if identity is not None and identity != request.parent:
        reason = "sent by another account" if identity else "the server requires no API key"
        _note_refusal(agent, request, reason)
        raise _refusal(agent)
    if not agent.spend_request(request.parent, request.challenge):
        raise RequestStale(STALE)


def _may_name_relation(agent: Agent, accept_from: AcceptFrom, request: SpawnRequest) -> bool:
    """Return whether the peering that a request names belongs to its parent.

    Otherwise a domain could obtain answers that are proven under the secret of another domain, or
    of this one, and replay them there.
    """
    peer = agent.relation_to(request.parent)
    if peer is not None:
        return request.relation == (peer.ours or "")
    if not request.relation:
        return True
    if not isinstance(accept_from, Anyone):
        return False
    # A child that accepts anyone needs no account of a remote parent. Local parents have one.
    try:
        home_of(agent).users.get(request.parent)
    except UserNotFound:
        return True
    return False


def _proven_fields(agent: Agent, request: SpawnRequest) -> _ProvenFields:
    now = agent.now()
    challenge = Challenge(
        request.challenge,
        prover=request.parent,
        verifier=agent.username,
        issued_at=now - REQUEST_LIFETIME + PERIOD,
        expires_at=now + REQUEST_LIFETIME,
    )
    return {
        "challenge": challenge,
        "request": request.payload,
        "depth": request.depth,
        "answer_relation": request.relation or "",
    }


def _note_refusal(agent: Agent, request: SpawnRequest, reason: str) -> None:
    # A deactivated agent can't write to the audit. The caller is refused regardless.
    with suppress(AccountError):
        agent.note_refusal(request.parent, "verify.request", reason)


def _refusal(agent: Agent) -> RequestRefused:
    return RequestRefused(
        f"{agent.username!r} doesn't accept this caller: accept_from doesn't name it, "
        "or the request isn't proven"
    )


def _proof_refusal(agent: Agent, proof: Proof) -> RequestRefused:
    # Decided by the caller's own time step, so it says nothing about whether the proof is genuine.
    oldest = int((agent.now() - REQUEST_LIFETIME + PERIOD) // PERIOD) - 1
    return RequestStale(STALE) if 0 <= proof.step < oldest else _refusal(agent)
