"""What goes to a child and the one thing that comes back: a request and an envelope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from pipelit_agents.errors import ProofRejected, RequestRefused
from pipelit_agents.names import is_username
from pipelit_agents.proof import Proof

__all__ = ["Envelope", "SpawnRequest"]

_KEYS: Final = frozenset({"payload", "kind", "step", "proof"})
_MAX_DEPTH: Final = 2**31


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """What a parent asks of a child.

    Attributes:
        parent: Who asks.
        challenge: What the answer's proof has to answer, 32 bytes.
        depth: How deep in nested spawns, 1 for the outermost.
        payload: The input of the child's graph, as bytes.
        proof: The parent's proof over child, challenge, depth and payload; None where the child
            shares the parent's ``Pipelit`` and doesn't ask.
    """

    parent: str
    challenge: bytes
    depth: int
    payload: bytes
    proof: Proof | None

    @classmethod
    def parse(cls, value: Any, child: str) -> SpawnRequest:
        """Reads what came to a child from outside.

        Args:
            value: A mapping of the fields; the proof a mapping of ``step`` and ``value``, or None.
            child: Who is asked.

        Raises:
            RequestRefused: A field is missing, too much, or has the wrong type.
        """
        try:
            fields = dict(value)
            given = fields.pop("proof")
            proof = None
            if given is not None:
                proof = Proof(fields["parent"], child, given["step"], given["value"])
            request = cls(**fields, proof=proof)
        except (AttributeError, TypeError, ValueError, LookupError, ProofRejected):
            request = None
        if request is None or not (
            type(request.parent) is str
            and is_username(request.parent)
            and type(request.challenge) is bytes
            and len(request.challenge) == 32
            and type(request.depth) is int
            and 0 < request.depth < _MAX_DEPTH
            and type(request.payload) is bytes
        ):
            raise RequestRefused(
                "a request holds parent, challenge (32 bytes), depth, payload (bytes) and proof"
            )
        return request


@dataclass(frozen=True, slots=True)
class Envelope:
    """A child's one exit.

    Attributes:
        payload: The answer's exact bytes.
        kind: ``result``, or ``error`` for a graph that failed.
        step: The time step of the proof.
        proof: The proof's value.
    """

    payload: bytes
    kind: Literal["result", "error"]
    step: int
    proof: str

    def to_dict(self) -> dict[str, Any]:
        """The envelope as it leaves the child."""
        return {
            "payload": self.payload,
            "kind": self.kind,
            "step": self.step,
            "proof": self.proof,
        }

    @classmethod
    def parse(cls, value: Any) -> Envelope:
        """Reads what came out of a child.

        Raises:
            ProofRejected: It is no envelope, or more than one.
        """
        # Exact types only, of one copy: nothing in here may answer for itself.
        fields = dict(value) if type(value) is dict else {}
        if not all(type(key) is str for key in fields) or fields.keys() != _KEYS:
            raise ProofRejected("what came back is no envelope, or more than one")
        payload, kind = fields["payload"], fields["kind"]
        step, proof = fields["step"], fields["proof"]
        formed = type(payload) is bytes and type(step) is int and type(proof) is str
        if not formed or type(kind) is not str or kind not in ("result", "error"):
            raise ProofRejected("what came back is no envelope: a field has the wrong type")
        return cls(payload, cast(Literal["result", "error"], kind), step, proof)
