"""A local child's interrupts, made again by the parent: with ids, values and a name of its own.

LangGraph finds the answer to an interrupt by its id, and takes the id from the exception. A child
that could choose it would direct an answer to another node, so the parent gives each interrupt an
id that it alone can turn inverse into the child's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import langgraph.errors
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt

from pipelit_agents.errors import PayloadError

from .codec import Acceptance, read_state, state_to_bytes
from .values import Known

__all__ = [
    "INTERRUPTS",
    "RENAMED",
    "RESUMED",
    "asking_agent",
    "child_answers",
    "interrupts_to_bytes",
    "is_interrupt_id",
    "rebuilt_interrupt",
]

# The answers by interrupt id, in the configuration of everything that a resumed run runs. LangGraph
# has no public name for it.
RESUMED: Final = "__pregel_resume_map"
# Below it a child finds out by which id the parent shows an interrupt of its own.
RENAMED: Final = "__pipelit_renamed"
# The key of an interrupt's response schema that names the agent. JSON Schema ignores unknown keys.
AGENT_KEY: Final = "x-pipelit-agent"
_ID: Final = re.compile(r"[0-9a-f]{32}")


# The second is deprecated, and will be gone.
INTERRUPTS: Final = frozenset(
    {GraphInterrupt, getattr(langgraph.errors, "NodeInterrupt", GraphInterrupt)}
)
"""What LangGraph itself raises for an interrupt. A subclass of a child's own is none of them."""


def interrupts_to_bytes(error: BaseException) -> bytes:
    """The values of the interrupts that an exception holds.

    Args:
        error: Of a type in :data:`INTERRUPTS`.

    Raises:
        PayloadError: One of them can't be carried, or it holds something else.
    """
    return state_to_bytes(
        [
            {"interrupt": each.value, "response_schema": getattr(each, "response_schema", None)}
            for each in _interrupts_of(error)
        ]
    )


def rebuilt_interrupt(
    error: BaseException, *, agent: str, seed: bytes, limit: int, known: Known, accept: Acceptance
) -> GraphInterrupt:
    """The parent's own form of a child's interrupts.

    Args:
        error: What the child raised, of a type in :data:`INTERRUPTS`.
        agent: The child.
        seed: The secret of the child's task.
        limit: How many bytes their values may have together.
        known: Classes that values may become again.
        accept: The messages that may be in them.

    Raises:
        PayloadError: They can't be carried, or are too large.
    """
    held = _interrupts_of(error)
    read = read_state(interrupts_to_bytes(error), limit=limit, known=known, accept=accept)
    rebuilt = []
    for position, (each, content) in enumerate(zip(held, read.value, strict=True)):
        schema = content.get("response_schema")
        if schema is not None and type(schema) is not dict:
            raise PayloadError("an interrupt's response_schema is no JSON Schema")
        made = Interrupt(
            content.get("interrupt"), id=_parent_id(getattr(each, "id", ""), seed, position)
        )
        if any(each.name == "response_schema" for each in dataclasses.fields(Interrupt)):
            made.response_schema = {**(schema or {}), AGENT_KEY: agent}
        rebuilt.append(made)
    return GraphInterrupt(tuple(rebuilt))


def child_answers(configurable: Mapping[str, Any], seed: bytes) -> dict[str, Any]:
    """What a child is told of interrupts, to be set in its configuration.

    It finds the answers by the ids that it knows, and by :data:`RENAMED` a function from such an id
    to the one that the parent shows.

    Args:
        configurable: Of the parent's node.
        seed: The secret of the child's task.
    """
    renamed = {RENAMED: partial(_displayed_id, seed)}
    identifier = configurable.get(RESUMED)
    if not isinstance(identifier, Mapping):
        return renamed
    opened = {
        _permuted(key, seed, inverse=True): value
        for key, value in identifier.items()
        if is_interrupt_id(key)
    }
    # A client that reads the child's own namespace sees the child's ids, and may answer by them.
    return renamed | {RESUMED: {**identifier, **opened}}


def _displayed_id(seed: bytes, identifier: Any) -> str:
    return _permuted(identifier, seed) if is_interrupt_id(identifier) else ""


def asking_agent(interrupt: Interrupt) -> str | None:
    """The agent whose task an interrupt comes from; None for one of the parent's own nodes.

    It is the child that this parent asked. Where that child spawns too, another may have asked it.
    """
    schema = getattr(interrupt, "response_schema", None)
    name = schema.get(AGENT_KEY) if isinstance(schema, dict) else None
    return name if isinstance(name, str) else None


def _interrupts_of(error: BaseException) -> list[Any]:
    # A static breakpoint interrupts with nothing.
    identifier = error.args[0] if error.args else ()
    if type(identifier) not in (tuple, list) or any(
        type(each) is not Interrupt for each in identifier
    ):
        raise PayloadError("an interrupt holds something else than interrupts")
    return list(identifier)


def _parent_id(identifier: Any, seed: bytes, position: int) -> str:
    if is_interrupt_id(identifier):
        return _permuted(identifier, seed)
    # Nothing can be resumed by it, but two of them are two.
    label = b"pipelit-agents/unnamed-interrupt/v1\0" + seed + position.to_bytes(4)
    return hashlib.sha256(label).hexdigest()[:32]


def is_interrupt_id(identifier: Any) -> bool:
    """Whether it has the form of an interrupt's id."""
    return type(identifier) is str and _ID.fullmatch(identifier) is not None


def _permuted(identifier: str, seed: bytes, *, inverse: bool = False) -> str:
    # One block of AES is a permutation of all ids: none is lost, and nobody chooses its image.
    key = hashlib.sha256(b"pipelit-agents/interrupt-id/v1\0" + seed).digest()
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - a single block
    step = cipher.decryptor() if inverse else cipher.encryptor()
    return step.update(bytes.fromhex(identifier)).hex()
