"""Rebuild a local child's interrupts in the parent, with ids and values of the parent.

LangGraph finds the answer to an interrupt by its id, which it reads from the exception. A child
that could choose the id could direct an answer to another node. The parent therefore gives each
interrupt an id that only the parent can map back to the child's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Final, TypeGuard, cast

import langgraph.errors
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt

from pipelit_agents.errors import PayloadError

from .codec import read_state, state_to_bytes
from .messages import Acceptance
from .objects import Known

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

# The key of answers by interrupt id, in the configuration of every node of a resumed run. LangGraph
# has no public name for it.
RESUMED: Final = "__pregel_resume_map"
# The key of a function that maps a child's interrupt id to the id that the parent displays.
RENAMED: Final = "__pipelit_renamed"
# The key of an interrupt's response schema that names the agent. JSON Schema ignores unknown keys.
AGENT_KEY: Final = "x-pipelit-agent"
_ID: Final = re.compile(r"[0-9a-f]{32}")


# NodeInterrupt is deprecated and will be removed.
INTERRUPTS: Final = frozenset(
    {GraphInterrupt, getattr(langgraph.errors, "NodeInterrupt", GraphInterrupt)}
)
"""The exact types that LangGraph raises for an interrupt. A child's subclass isn't accepted."""


def interrupts_to_bytes(error: BaseException) -> bytes:
    """Serialize the values of the interrupts in an exception.

    Args:
        error: An exception whose type is in ``INTERRUPTS``.

    Raises:
        PayloadError: A value can't be carried, or the exception holds something else.
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
    """Return a child's interrupts in the parent's form.

    Args:
        error: The child's exception, whose type is in ``INTERRUPTS``.
        agent: The child.
        seed: The secret of the child's task.
        limit: The maximum size of all values together, in bytes.
        known: Classes that values may be rebuilt as.
        accept: Which messages the values may hold.

    Raises:
        PayloadError: The values can't be carried, or are too large.
    """
    held = _interrupts_of(error)
    read = read_state(interrupts_to_bytes(error), limit=limit, known=known, accept=accept)
    contents = cast(list[dict[str, object]], read.value)
    rebuilt = []
    for position, (each, content) in enumerate(zip(held, contents, strict=True)):
        schema = content.get("response_schema")
        if schema is not None and type(schema) is not dict:
            raise PayloadError("an interrupt's response_schema isn't a JSON Schema")
        made = Interrupt(
            content.get("interrupt"), id=_parent_id(getattr(each, "id", ""), seed, position)
        )
        if any(each.name == "response_schema" for each in dataclasses.fields(Interrupt)):
            made.response_schema = {**(schema or {}), AGENT_KEY: agent}
        rebuilt.append(made)
    return GraphInterrupt(tuple(rebuilt))


def child_answers(configurable: Mapping[str, object], seed: bytes) -> dict[str, object]:
    """Return the keys with a child's interrupt answers, for its configuration.

    The answers are under the child's own ids. ``RENAMED`` holds a function that maps such an id
    to the one that the parent displays.

    Args:
        configurable: The ``configurable`` of the parent's node.
        seed: The secret of the child's task.
    """
    renamed: dict[str, object] = {RENAMED: partial(_displayed_id, seed)}
    resumed = configurable.get(RESUMED)
    if not isinstance(resumed, Mapping):
        return renamed
    answers = {
        _permuted(key, seed, inverse=True): value
        for key, value in resumed.items()
        if is_interrupt_id(key)
    }
    # A client that reads the child's namespace sees the child's ids, and may answer by them.
    return renamed | {RESUMED: {**resumed, **answers}}


def _displayed_id(seed: bytes, identifier: object) -> str:
    return _permuted(identifier, seed) if is_interrupt_id(identifier) else ""


def asking_agent(interrupt: Interrupt) -> str | None:
    """Return the agent whose task was interrupted; None for a node of the parent.

    This is the direct child of the parent. If that child spawns too, the interrupt may come from a
    child of the child.
    """
    schema = getattr(interrupt, "response_schema", None)
    name = schema.get(AGENT_KEY) if isinstance(schema, dict) else None
    return name if isinstance(name, str) else None


def _interrupts_of(error: BaseException) -> list[Interrupt]:
    # A static breakpoint has no interrupts.
    held = error.args[0] if error.args else ()
    if type(held) not in (tuple, list) or any(type(each) is not Interrupt for each in held):
        raise PayloadError("a GraphInterrupt has to hold Interrupt objects only")
    return list(held)


def _parent_id(identifier: object, seed: bytes, position: int) -> str:
    if is_interrupt_id(identifier):
        return _permuted(identifier, seed)
    # Such an id can't be resumed, but each interrupt needs a different one.
    label = b"pipelit-agents/unnamed-interrupt/v1\0" + seed + position.to_bytes(4)
    return hashlib.sha256(label).hexdigest()[:32]


def is_interrupt_id(identifier: object) -> TypeGuard[str]:
    """Return whether a value has the form of an interrupt's id."""
    return type(identifier) is str and _ID.fullmatch(identifier) is not None


def _permuted(identifier: str, seed: bytes, *, inverse: bool = False) -> str:
    # One block of AES is a keyed permutation of all ids: no two ids collide, and a child can't
    # choose the result.
    key = hashlib.sha256(b"pipelit-agents/interrupt-id/v1\0" + seed).digest()
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - a single block
    step = cipher.decryptor() if inverse else cipher.encryptor()
    return step.update(bytes.fromhex(identifier)).hex()
