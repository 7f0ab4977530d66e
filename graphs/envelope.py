"""What goes to a child and the one thing that comes back: a request and an envelope."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from pipelit_agents.errors import ProofRejected, RequestRefused
from pipelit_agents.protocol.binding import Proof
from pipelit_agents.protocol.usernames import is_username

__all__ = ["Envelope", "SpawnRequest", "from_base64", "to_base64"]

_REQUEST_KEYS: Final = frozenset({"parent", "challenge", "depth", "payload", "proof", "relation"})
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*\Z")
_RELATION: Final = re.compile(r"(?:[0-9a-f]{32})?\Z")
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
        proof: The parent's proof over child, challenge, depth, payload and relation; None where
            the child shares the parent's ``Pipelit`` and doesn't ask.
        relation: The peering that the child has to prove under; empty for none, None where the
            child finds it by the parent's name.
    """

    parent: str
    challenge: bytes
    depth: int
    payload: bytes
    proof: Proof | None
    relation: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """The request as JSON carries it: bytes as base64url without padding."""
        proof = self.proof
        return {
            "parent": self.parent,
            "challenge": to_base64(self.challenge),
            "depth": self.depth,
            "payload": to_base64(self.payload),
            "proof": None if proof is None else {"step": proof.step, "value": proof.value},
            "relation": self.relation or "",
        }

    @classmethod
    def parse(cls, value: Any, child: str) -> SpawnRequest:
        """Reads what came to a child from outside.

        Args:
            value: What :meth:`to_wire` makes.
            child: Who is asked.

        Raises:
            RequestRefused: A field is missing, too much, or has the wrong type.
        """
        try:
            return cls._parse(value, child)
        except (AttributeError, TypeError, ValueError, LookupError, ProofRejected):
            raise RequestRefused(
                "a request holds exactly parent, challenge (32 bytes), depth, payload, proof and "
                "relation; bytes as base64url without padding"
            ) from None

    @classmethod
    def _parse(cls, value: Any, child: str) -> SpawnRequest:
        fields = dict(value)
        if fields.keys() != _REQUEST_KEYS:
            raise ValueError
        parent, depth, relation = fields["parent"], fields["depth"], fields["relation"]
        if type(parent) is not str or not is_username(parent):
            raise ValueError
        if type(depth) is not int or not 0 < depth < _MAX_DEPTH:
            raise ValueError
        if not isinstance(relation, str) or not _RELATION.match(relation):
            raise ValueError
        challenge = from_base64(fields["challenge"])
        if len(challenge) != 32:
            raise ValueError
        given, proof = fields["proof"], None
        if given is not None:
            if given.keys() != {"step", "value"}:
                raise ValueError
            proof = Proof(parent, child, given["step"], given["value"])
        return cls(parent, challenge, depth, from_base64(fields["payload"]), proof, relation)


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

    def to_wire(self) -> dict[str, Any]:
        """The envelope as JSON carries it: the payload as base64url without padding."""
        return self.to_dict() | {"payload": to_base64(self.payload)}

    @classmethod
    def from_wire(cls, value: Any) -> Envelope:
        """Reads what a server answered: an object with an envelope and nothing else.

        Raises:
            ProofRejected: It is no envelope, or more than one.
        """
        fields = dict(value) if type(value) is dict else {}
        envelope = fields.get("envelope")
        if fields.keys() != {"envelope"} or type(envelope) is not dict:
            raise ProofRejected("what came back is no envelope, or more than one")
        try:
            payload = from_base64(envelope.get("payload"))
        except (TypeError, ValueError):
            raise ProofRejected("what came back is no envelope: its payload") from None
        return cls.parse(envelope | {"payload": payload})

    @classmethod
    def parse(cls, value: Any) -> Envelope:
        """Reads what came out of a child.

        Raises:
            ProofRejected: It is no envelope, or more than one.
        """
        # Exact types only, of one copy: nothing in here may answer for itself.
        fields = dict(value) if type(value) is dict else {}
        if set(map(type, fields)) != {str} or fields.keys() != _KEYS:
            raise ProofRejected("what came back is no envelope, or more than one")
        payload, kind = fields["payload"], fields["kind"]
        step, proof = fields["step"], fields["proof"]
        formed = type(payload) is bytes and type(step) is int and type(proof) is str
        if not formed or type(kind) is not str or kind not in ("result", "error"):
            raise ProofRejected("what came back is no envelope: a field has the wrong type")
        return cls(payload, cast(Literal["result", "error"], kind), step, proof)


def to_base64(data: bytes) -> str:
    """Encode bytes for JSON: base64url without padding."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def from_base64(text: Any) -> bytes:
    """Reads what :func:`to_base64` makes, and nothing else.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(text, str) or not _BASE64URL.match(text):
        raise ValueError("no base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64(data) != text:
        # One text for each value: the last character may hold bits that nobody reads.
        raise ValueError("no canonical base64url")
    return data
