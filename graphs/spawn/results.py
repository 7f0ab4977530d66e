"""The types of a spawn's state, and the results that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NotRequired, TypeAlias

from langgraph.channels import Topic
from langgraph.pregel.remote import RemoteGraph
from typing_extensions import TypedDict

from pipelit_agents import Verification
from pipelit_agents._wording import json_line
from pipelit_agents.protocol.binding import PERIOD

from ..child import MAX_ERROR_TEXT
from ..codec import Read
from ..remote import RemoteChild
from ..types import AnyGraph

__all__ = ["SpawnResult", "SpawnTask"]

# The nodes of a spawn graph besides its children.
JOIN: Final = "join"
PLAN: Final = "plan"
UNASSIGNED: Final = "unassigned"

# How many failures an error message lists. A thousand would fill a log with the same text.
MAX_LISTED_FAILURES: Final = 10
# How much of a child's own error is quoted, in characters.
_MAX_QUOTED: Final = 500

ProofKind: TypeAlias = Literal["bound", "unbound-totp"]
Status: TypeAlias = Literal["verified", "failed", "refused", "timeout", "unreachable"]
Child: TypeAlias = AnyGraph | RemoteGraph | RemoteChild


class SpawnTask(TypedDict):
    """One task.

    Attributes:
        agent: The child.
        input: The input of the child's graph.
        credentials: The only credentials that the child may open for this task, each as
            ``credential`` or ``credential:field``; an empty list for none. It can only narrow what
            the spawn and its own parent allow. Missing or None: nothing is narrowed. A child on
            another machine can't have it.
    """

    agent: str
    input: object
    credentials: NotRequired[Sequence[str] | None]


class SpawnResult(TypedDict):
    """The result of one task.

    Attributes:
        index: The index of the task in ``tasks``, from 0.
        request: The SHA-256 of the request's bytes, 64 hexadecimal digits, as
            ``request_digest`` returns it for the task's ``input``. The child's proof covers
            these bytes. None if the task couldn't be sent.
        agent: The child.
        status: ``verified``; ``failed`` (the child proved that its graph failed, or the task
            can't be sent); ``refused`` (the answer isn't proven, people didn't approve the
            task, or a function as ``children`` has no such child); ``timeout``; ``unreachable`` (a
            remote child's server was unavailable: you can send the task again).
        output: The output of the child's graph; None unless verified.
        error: What went wrong, or None. It never quotes an unproven answer. These are the parent's
            words, unless the status is ``failed`` and ``proved_at`` isn't None: then they are the
            child's own, which may say anything.
        bound: Whether the proof is bound to request and answer; False for ``unbound-totp``.
        proved_at: The time of the proof, ISO 8601 in UTC, or None.
        omitted: The parts of the child's answer that ``output`` lacks, by path: messages and tool
            calls that this parent doesn't accept, and parts of a message's artifact and metadata
            that can't be carried. Missing if nothing was omitted.
    """

    index: int
    request: str | None
    agent: str
    status: Status
    output: Any
    error: str | None
    bound: bool
    proved_at: str | None
    omitted: NotRequired[list[str]]


class SpawnInput(TypedDict):
    """The keys of the parent's state that the node reads."""

    tasks: list[SpawnTask]


class SpawnOutput(TypedDict):
    """The keys of the parent's state that the node writes."""

    results: list[SpawnResult]


class _Answer(TypedDict):
    index: int
    result: SpawnResult


class AnswerUpdate(TypedDict):
    """The update that a child's node writes to the state."""

    answers: list[_Answer]


class SpawnState(TypedDict):
    tasks: list[SpawnTask]
    results: list[SpawnResult]
    # One mark a task, concatenated. Answers are compared with these marks.
    requested: bytes
    # The forms of children that a function found, one a task, concatenated.
    forms: bytes
    answers: Annotated[list[_Answer], Topic(dict)]


class Order(TypedDict):
    index: int
    agent: str
    request: bytes
    seed: bytes
    issued_at: float
    depth: int
    # What the task itself names.
    credentials: NotRequired[list[str]]
    problem: NotRequired[str]
    # Whether the problem is that the agent isn't admitted.
    refused: NotRequired[bool]


def make_result(
    agent: str,
    status: Status,
    *,
    read: Read | None = None,
    error: str | None = None,
    proof: Verification | None = None,
) -> SpawnResult:
    proved_at = None if proof is None else _moment(proof.step)
    # `with_index` sets index and request.
    result = SpawnResult(
        index=-1,
        request=None,
        agent=agent,
        status=status,
        output=None if read is None else read.value,
        error=error,
        bound=proof is not None and proof.kind == "proof",
        proved_at=proved_at,
    )
    if read is not None and read.omitted:
        result["omitted"] = read.omitted
    return result


@lru_cache(maxsize=8)
def _moment(step: int) -> str:
    return datetime.fromtimestamp(step * PERIOD, UTC).isoformat()


def own_words(result: SpawnResult) -> str | None:
    """Return what a child that proved its failure says of it, shortened; None for other results.

    A class of an exception may have any name, and a message any text, so whoever passes it on has
    to mark it as the child's.
    """
    if result["status"] == "failed" and result["proved_at"] is not None:
        return (result["error"] or "")[:_MAX_QUOTED]
    return None


def error_in_words(result: SpawnResult) -> str:
    """Return the error of a result, with the child's own words as one short JSON string."""
    said = own_words(result)
    if said is not None:
        return f"its graph failed with the error {json_line(said or 'no reason')}"
    return result["error"] or "no reason"


def error_text(value: object) -> str:
    if isinstance(value, dict) and set(value) == {"type", "message"}:
        return f"{value['type']}: {value['message']}"[: 2 * MAX_ERROR_TEXT]
    return "the child failed"
