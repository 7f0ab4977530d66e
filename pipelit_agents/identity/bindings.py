"""Check what a proof is bound to: requests, payloads, kinds, depths, challenges and peerings.

Also check that the answer of a batch is that of the caller's own request.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

from pipelit_agents.protocol.binding import Binding
from pipelit_agents.protocol.peering_uri import is_relation

__all__ = ["ProofRole", "answer_to", "bind", "require_challenge"]

A = TypeVar("A")
R = TypeVar("R")
ProofRole = Literal["spawn-request", "spawn-result"]

_MAX_DEPTH: Final = 2**31
_MAX_KIND_LENGTH: Final = 64


def bind(
    role: ProofRole,
    prover: str,
    verifier: str,
    challenge: bytes,
    request: object,
    depth: object,
    kind: object,
    payload: object,
) -> Binding:
    """Return the binding of a proof, still without a peering.

    Args:
        role: The purpose of the proof.
        prover: The agent that makes it; a checked username.
        verifier: The agent that verifies it; a checked username.
        challenge: The checked challenge.
        request: The exact bytes of the request.
        depth: The depth of the spawn, or None.
        kind: The kind of the payload; of a request, the peering of its answer.
        payload: The exact bytes of the answer, or None.

    Raises:
        TypeError: The request or the payload isn't bytes.
        ValueError: The depth or the kind is malformed.
    """
    if role == "spawn-request" and (type(kind) is not str or (kind and not is_relation(kind))):
        raise ValueError("answer_relation must be the id of a peering, or an empty string")
    # Exact types: a batch waits for each of its items, so no item may run its own code.
    if type(request) is not bytes:
        raise TypeError(f"request must be the exact bytes, not {type(request).__name__}")
    if payload is not None and type(payload) is not bytes:
        raise TypeError(f"payload must be the exact bytes, not {type(payload).__name__}")
    if depth is not None and (type(depth) is not int or not 0 <= depth < _MAX_DEPTH):
        raise ValueError(f"depth must be a whole number from 0 to {_MAX_DEPTH - 1}, or None")
    if type(kind) is not str or len(kind) > _MAX_KIND_LENGTH or not kind.isascii():
        raise ValueError(
            f"kind must be ASCII text of at most {_MAX_KIND_LENGTH} characters, for example "
            "'result'"
        )
    return Binding(
        role=role,
        prover=prover,
        verifier=verifier,
        challenge=challenge,
        depth=depth,
        request=request,
        kind=kind,
        payload=payload,
    )


def require_challenge(challenge: object) -> None:
    """Require the value of a challenge."""
    if type(challenge) is not bytes or len(challenge) != 32:
        raise ValueError("challenge must be the verifier's 32 bytes: the value of its Challenge")


def answer_to(request: A, answered: tuple[A, R]) -> R:
    """Return the answer to a request that was served in a batch.

    So the code that distributes the answers of a batch decides nothing.

    Args:
        request: The request of the caller.
        answered: The request that was served for the caller, and its answer.

    Raises:
        RuntimeError: The answer is another request's.
    """
    served, answer = answered
    if served is not request:
        raise RuntimeError("a batch returned the answer to another request")
    return answer
