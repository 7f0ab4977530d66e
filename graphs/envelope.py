"""The request to a child, and the envelope with its answer."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from typing_extensions import TypedDict

from pipelit_agents.errors import ProofRejected, RequestRefused
from pipelit_agents.protocol.binding import Proof
from pipelit_agents.protocol.usernames import is_username

from .types import Json

__all__ = ["Envelope", "EnvelopeDict", "Kind", "SpawnRequest", "from_base64", "to_base64"]

_REQUEST_KEYS: Final = frozenset({"parent", "challenge", "depth", "payload", "proof", "relation"})
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*\Z")
_RELATION: Final = re.compile(r"(?:[0-9a-f]{32})?\Z")
_KEYS: Final = frozenset({"payload", "kind", "step", "proof"})
_MAX_DEPTH: Final = 2**31


Kind: TypeAlias = Literal["result", "error"]


class EnvelopeDict(TypedDict):
    """The fields of an envelope, as a local child returns them."""

    payload: bytes
    kind: Kind
    step: int
    proof: str


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """A parent's request to a child.

    Attributes:
        parent: The parent's username.
        challenge: The challenge of the answer's proof, 32 bytes.
        depth: The depth of nested spawns, 1 for the outermost.
        payload: The input of the child's graph, as bytes.
        proof: The parent's proof over child, challenge, depth, payload and relation. None if the
            child shares the parent's ``Pipelit`` and requires no proof.
        relation: The peering under which the child has to prove its answer. Empty for none; None
            if the child finds it by the parent's name.
    """

    parent: str
    challenge: bytes
    depth: int
    payload: bytes
    proof: Proof | None
    relation: str | None = None

    def to_wire(self) -> dict[str, Json]:
        """Return the request for JSON, with bytes as base64url without padding."""
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
    def parse(cls, value: object, child: str) -> SpawnRequest:
        """Parse a request that a child received from outside.

        Args:
            value: A request as ``to_wire`` returns it.
            child: The child's username.

        Raises:
            RequestRefused: A field is missing, unknown, or has the wrong type.
        """
        try:
            return cls._parse(value, child)
        except (AttributeError, TypeError, ValueError, LookupError, ProofRejected):
            raise RequestRefused(
                "a request has to hold exactly parent, challenge (32 bytes), depth, payload, proof "
                "and relation, with bytes as base64url without padding"
            ) from None

    @classmethod
    def _parse(cls, value: object, child: str) -> SpawnRequest:
        fields = dict(cast(Mapping[object, object], value))
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
        sent, proof = fields["proof"], None
        if sent is not None:
            if not isinstance(sent, Mapping) or sent.keys() != {"step", "value"}:
                raise ValueError
            proof = Proof(parent, child, sent["step"], sent["value"])
        return cls(parent, challenge, depth, from_base64(fields["payload"]), proof, relation)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A child's answer with its proof.

    Attributes:
        payload: The exact bytes of the answer.
        kind: ``result``, or ``error`` if the graph failed.
        step: The time step of the proof.
        proof: The proof's value.
    """

    payload: bytes
    kind: Kind
    step: int
    proof: str

    def to_dict(self) -> EnvelopeDict:
        """Return the envelope's fields as a dict."""
        return {
            "payload": self.payload,
            "kind": self.kind,
            "step": self.step,
            "proof": self.proof,
        }

    def to_wire(self) -> dict[str, Json]:
        """Return the envelope for JSON, with the payload as base64url without padding."""
        return {
            "payload": to_base64(self.payload),
            "kind": self.kind,
            "step": self.step,
            "proof": self.proof,
        }

    @classmethod
    def from_wire(cls, value: object) -> Envelope:
        """Parse a server's answer: an object with an envelope and nothing else.

        Raises:
            ProofRejected: The answer isn't exactly one envelope.
        """
        fields = dict(value) if type(value) is dict else {}
        envelope = fields.get("envelope")
        if fields.keys() != {"envelope"} or type(envelope) is not dict:
            raise ProofRejected("the answer isn't exactly one envelope")
        try:
            payload = from_base64(envelope.get("payload"))
        except (TypeError, ValueError):
            raise ProofRejected(
                "the answer isn't an envelope: its payload isn't base64url"
            ) from None
        return cls.parse(envelope | {"payload": payload})

    @classmethod
    def parse(cls, value: object) -> Envelope:
        """Parse the fields of a child's answer.

        Raises:
            ProofRejected: The answer isn't exactly one envelope.
        """
        # Copy once and accept exact types only: a subclass could run code when it is compared.
        fields = dict(value) if type(value) is dict else {}
        if set(map(type, fields)) != {str} or fields.keys() != _KEYS:
            raise ProofRejected("the answer isn't exactly one envelope")
        payload, kind = fields["payload"], fields["kind"]
        step, proof = fields["step"], fields["proof"]
        formed = type(payload) is bytes and type(step) is int and type(proof) is str
        if not formed or type(kind) is not str or kind not in ("result", "error"):
            raise ProofRejected("the answer isn't an envelope: a field has the wrong type")
        return cls(payload, cast(Kind, kind), step, proof)


def to_base64(data: bytes) -> str:
    """Encode bytes for JSON: base64url without padding."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def from_base64(text: object) -> bytes:
    """Decode canonical base64url without padding, as ``to_base64`` returns it.

    Raises:
        ValueError: The text isn't canonical base64url.
    """
    if not isinstance(text, str) or not _BASE64URL.match(text):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64(data) != text:
        # Each value has exactly one text, although the last character may hold unused bits.
        raise ValueError("not canonical base64url")
    return data
