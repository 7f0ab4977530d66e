"""Read the tasks of a spawn, and recognize the results that answer them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from langgraph.types import Command

from pipelit_agents import Agent
from pipelit_agents.errors import (
    PayloadError,
    SpawnError,
)

from ..codec import (
    Acceptance,
    state_to_bytes,
)
from .forms import code_of, form_of
from .results import MAX_LISTED_FAILURES, Order, SpawnResult, make_result

__all__ = ["request_digest"]


class ReadTask(NamedTuple):
    """A task as it is sent, or why it can't be."""

    agent: str
    request: bytes | None
    problem: str | None

    @property
    def digest(self) -> str | None:
        """What results say of it."""
        return None if self.request is None else _sha256(self.request)


class Terms:
    """What a spawn node was built with, as far as it concerns its tasks.

    Args:
        lead: The lead's name.
        kinds: How each child proves its answers.
        remote: The children on other machines.
        on_failure: As for :func:`spawn_and_await`.
        accept: What answers may hold.
        children: The children.
    """

    def __init__(
        self,
        lead: str,
        kinds: Mapping[str, str],
        remote: Collection[str],
        on_failure: str,
        accept: Acceptance,
        children: Mapping[str, Any],
    ) -> None:
        self.lead = lead
        self.kinds = kinds
        self.remote = remote
        self.on_failure = on_failure
        self.accepted = f"{sorted(accept.kinds)} {accept.tool_calls:d}"
        self.forms = {name: form_of(child).hex() for name, child in children.items()}
        self.code = {name: code_of(child) for name, child in children.items()}

    def read(self, tasks: Any) -> list[ReadTask]:
        """Reads the tasks of a state.

        Raises:
            SpawnError: They are no list.
        """
        if not isinstance(tasks, list | tuple):
            raise SpawnError("tasks has to be a list of {'agent': …, 'input': …}")
        return [_read(index, task, self) for index, task in enumerate(tasks)]

    def question(self, name: str, read: list[ReadTask]) -> bytes:
        """A digest of what a call asks, of whom, and as whom, and what it accepts.

        Timeouts and limits are left out, and children that aren't asked: a new version of the graph
        may change them, and goes on.
        """
        fields = [name, self.lead, self.on_failure, self.accepted]
        for each in read:
            kind, form = self.kinds.get(each.agent, "bound"), self.forms.get(each.agent, "")
            fields += [each.agent, kind, form, each.digest or each.problem or ""]
        digest = hashlib.sha256(b"pipelit-agents/spawn-call/v1\0")
        for field in fields:
            data = field.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()


def request_digest(
    input: Any,  # noqa: A002 - the task's key that it is of
    *,
    remote: bool = False,
) -> str:
    """The SHA-256 of a task's input as it is sent to a child, 64 hexadecimal digits.

    Compare it with ``request`` of a :class:`SpawnResult`, to see whether a result answers a task.

    Args:
        input: What a task has as ``input``.
        remote: Whether the child is on another machine. It is sent a form without the names of
            classes.

    Raises:
        PayloadError: It can't be sent.
    """
    return _sha256(state_to_bytes(input, portable=remote))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tasks_of(given: Any) -> Any:
    # LangGraph takes a state in any of its forms. None: the run is only resumed, or told nothing.
    if given is None or isinstance(given, Command):
        return None
    tasks = given.get("tasks") if isinstance(given, Mapping) else getattr(given, "tasks", None)
    has = "tasks" in given if isinstance(given, Mapping) else hasattr(given, "tasks")
    return (tasks or []) if has else None


def _read(index: int, task: Any, terms: Terms) -> ReadTask:
    if not isinstance(task, Mapping) or set(task) != {"agent", "input"}:
        if isinstance(task, Mapping):
            there = f", and has {', '.join(map(str, task)) or 'nothing'}"[:80]
        else:
            there = f", and is a {type(task).__name__}"[:80]
        return ReadTask("", None, f"tasks[{index}] has to be {{'agent': …, 'input': …}}{there}")
    agent = str(task["agent"])[:149]
    problem: str | None = None
    request: bytes | None = None
    try:
        request = state_to_bytes(task["input"], portable=agent in terms.remote)
    except PayloadError as error:
        problem = f"tasks[{index}].input: {error}"
    if not isinstance(task["agent"], str) or task["agent"] not in terms.kinds:
        problem = (
            f"tasks[{index}].agent {str(task['agent'])!r:.80} is no child here; "
            f"the children are {', '.join(sorted(terms.kinds))}"
        )
    return ReadTask(agent, request, problem)


def make_order(index: int, read: ReadTask, depth: int, lead: Agent) -> Order:
    order = Order(
        index=index,
        agent=read.agent,
        request=read.request or b"",
        seed=secrets.token_bytes(32),
        issued_at=lead.now(),
        depth=depth,
    )
    if read.problem is not None:
        order["problem"] = read.problem
    return order


def listed_problems(problems: Iterable[str]) -> str:
    told = list(problems)
    if len(told) > MAX_LISTED_FAILURES:
        told[MAX_LISTED_FAILURES:] = [f"and {len(told) - MAX_LISTED_FAILURES} more"]
    return "; ".join(told)


def why_refused(problems: list[str]) -> str:
    return (
        "this spawn waits for children that aren't among them any more, and goes on when they are: "
        + listed_problems(problems)
    )


_MARK_SIZE: Final = 32


def _mark(agent: str, request: str | None) -> bytes:
    # Of a task, and of a result: whom was asked, and what.
    return hashlib.sha256(f"{agent}\0{request or ''}".encode("utf-8", "surrogatepass")).digest()


def marks_of_all(read: list[ReadTask]) -> bytes:
    return b"".join(_mark(each.agent, each.digest) for each in read)


def mark_of(order: Order) -> bytes:
    return _mark(order["agent"], digest_of(order))


def digest_of(order: Order) -> str | None:
    # An order of nothing isn't sent; JSON of nothing has at least two bytes.
    return _sha256(order["request"]) if order["request"] else None


def split_marks(marks: bytes) -> list[bytes]:
    return [marks[at : at + _MARK_SIZE] for at in range(0, len(marks), _MARK_SIZE)]


def answers(result: Any, index: int, mark: bytes) -> bool:
    """Whether a result answers the task at this place."""
    try:
        return bool(result["index"] == index and _mark(result["agent"], result["request"]) == mark)
    except (KeyError, TypeError, AttributeError):
        return False


def all_answer(results: Any, read: list[ReadTask]) -> bool:
    if not isinstance(results, list | tuple) or len(results) != len(read):
        return False
    marks = split_marks(marks_of_all(read))
    return all(answers(each, index, marks[index]) for index, each in enumerate(results))


def unanswered_result(index: int, task: Any, given: list[SpawnResult], terms: Terms) -> SpawnResult:
    """What is said of a task that has no answer of its own when all children are done."""
    read = _read(index, task, terms)
    if given:
        error = f"what is recorded for tasks[{index}] doesn't answer it; nothing of it is used"
    else:
        error = f"tasks[{index}] was given to a child, and has no answer"
    if read.problem is not None:
        error = f"{error}: {read.problem}"
    result = make_result(read.agent, "failed", error=error)
    return SpawnResult({**result, "index": index, "request": read.digest})


def with_index(order: Order, result: SpawnResult) -> SpawnResult:
    return SpawnResult({**result, "index": order["index"], "request": digest_of(order)})
