"""The types of a spawn's state, and the results that it returns."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NotRequired

from langgraph.channels import Topic
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from typing_extensions import TypedDict

from pipelit_agents import Verification
from pipelit_agents.protocol.binding import PERIOD

from ..child import MAX_ERROR_TEXT
from ..codec import (
    Read,
)
from ..remote import RemoteChild

__all__ = ["SpawnResult", "SpawnTask"]

# The nodes of a spawn graph besides its children.
JOIN: Final = "join"
PLAN: Final = "plan"
UNASSIGNED: Final = "unassigned"

# How many failures an error tells; a thousand would fill a log with the same words.
MAX_LISTED_FAILURES: Final = 10

ProofKind = Literal["bound", "unbound-totp"]
Status = Literal["verified", "failed", "refused", "timeout", "unreachable"]
Child = Pregel[Any, Any, Any, Any] | RemoteGraph | RemoteChild


class SpawnTask(TypedDict):
    """One task: which child, and the input of its graph."""

    agent: str
    input: Any


class SpawnResult(TypedDict):
    """What is known of one task.

    Attributes:
        index: The place of the task in ``tasks``, from 0.
        request: What was asked: the SHA-256 of the request's bytes, 64 hexadecimal digits, as
            :func:`request_digest` gives it for the task's ``input``. The child's proof covers
            these bytes. None where the task couldn't be sent.
        agent: The child.
        status: ``verified``; ``failed`` (the child proved that its graph failed); ``refused``
            (nothing that came back was proven); ``timeout``; ``unreachable`` (a remote child's
            server was away: it may be asked again).
        output: The output of the child's graph; None unless verified.
        error: What went wrong, or None. Of an unproven answer never its own words.
        bound: Whether the proof is bound to request and answer; False for ``unbound-totp``.
        proved_at: The time of the proof, ISO 8601 in UTC, or None.
        omitted: What of the child's answer isn't in ``output``, by path: messages and calls of
            tools that this parent doesn't accept, and what can't be carried of a message's
            artifact and metadata. Not there where nothing was left out.
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
    """What the node reads of the parent's state."""

    tasks: list[SpawnTask]


class SpawnOutput(TypedDict):
    """What the node writes to the parent's state."""

    results: list[SpawnResult]


class _Answer(TypedDict):
    index: int
    result: SpawnResult


class SpawnState(TypedDict):
    tasks: list[SpawnTask]
    results: list[SpawnResult]
    # A mark for each task, one after another; what is answered is compared with them.
    asked: bytes
    answers: Annotated[list[_Answer], Topic(dict)]


class Order(TypedDict):
    index: int
    agent: str
    request: bytes
    seed: bytes
    issued_at: float
    depth: int
    problem: NotRequired[str]


def make_result(
    agent: str,
    status: Status,
    *,
    read: Read | None = None,
    error: str | None = None,
    proof: Verification | None = None,
) -> SpawnResult:
    proved_at = None if proof is None else _moment(proof.step)
    # Where it belongs is known where it is placed.
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


def error_text(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"type", "message"}:
        return f"{value['type']}: {value['message']}"[: 2 * MAX_ERROR_TEXT]
    return "the child failed"
