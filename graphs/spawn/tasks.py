"""Read the tasks of a spawn, and match results to tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import ClassVar, Final, NamedTuple, TypeGuard

from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from pipelit_agents._words import quoted
from pipelit_agents.credentials.limits import require_references
from pipelit_agents.errors import CredentialError, PayloadError, SpawnError

from ..child import VerifiedChild
from ..codec import state_to_bytes
from ..messages import Acceptance
from ..remote import RemoteChild
from ..types import AnyGraph
from .ceiling import REMOTE_OPENS_ITS_OWN, Ceiling
from .forms import code_of, form_of
from .results import MAX_LISTED_FAILURES, Order, ProofKind, SpawnResult

__all__ = [
    "ReadTask",
    "Terms",
    "all_answer",
    "answers",
    "credentials_of",
    "has_other_credentials",
    "listed_problems",
    "mark_of",
    "marks_of_all",
    "request_digest",
    "split_marks",
    "tasks_of",
    "with_index",
]

_MARK_SIZE: Final = 32
# LangGraph refuses them as the input of a graph whose state has fields.
_NO_FIELDS: Final = (str, bytes, int, float)
_CREDENTIALS: Final = "credentials"


class ReadTask(NamedTuple):
    """A task as it is sent, or the reason why it can't be sent.

    Attributes:
        agent: The child.
        request: The bytes of the request. None if there are none to send.
        problem: What is wrong with the task, for people.
        unsent: Identifies a task without a request. Unlike ``problem``, it stays the same when a
            new version words its messages otherwise.
        refused: Whether the problem is that the task's agent isn't admitted.
        credentials: The only credentials that the task lets its child open; None if it names none.
    """

    agent: str
    request: bytes | None
    problem: str | None
    unsent: str = ""
    refused: bool = False
    credentials: frozenset[str] | None = None

    @property
    def digest(self) -> str | None:
        """The value of ``request`` in the task's result."""
        return None if self.request is None else _sha256(self.request)


class Terms:
    """The options of a spawn node that affect its tasks.

    Attributes:
        refuses: Whether the status of a task whose agent isn't a child is ``refused``. It is
            ``failed`` if the developer listed the children.

    Args:
        lead: The lead's name.
        kinds: The kind of proof of each child.
        remote: The names of the children on other machines.
        on_failure: As for ``spawn_and_await``.
        accept: Which messages answers may hold.
        children: The children by name.
        ceiling: The credentials that each child may open at most.
    """

    refuses: ClassVar[bool] = False

    def __init__(
        self,
        lead: str,
        kinds: Mapping[str, ProofKind],
        remote: Collection[str],
        on_failure: str,
        accept: Acceptance,
        children: Mapping[str, AnyGraph | RemoteChild],
        ceiling: Ceiling,
    ) -> None:
        self.lead = lead
        self._ceiling = ceiling
        self.kinds = kinds
        self.remote = remote
        self.on_failure = on_failure
        self.accepted: str = f"{sorted(accept.kinds)} {accept.tool_calls:d}"
        self.forms: dict[str, str] = {
            name: form_of(child).hex() for name, child in children.items()
        }
        self.takes_fields: frozenset[str] = frozenset(
            name for name, child in children.items() if _takes_fields(child)
        )
        self.code: dict[str, tuple[object, ...]] = {
            name: code_of(child) for name, child in children.items()
        }

    def read(self, tasks: object) -> list[ReadTask]:
        """Read the tasks of a state.

        Raises:
            SpawnError: The tasks are not a list.
        """
        if not isinstance(tasks, list | tuple):
            raise SpawnError("tasks must be a list of {'agent': …, 'input': …}")
        return [self.read_task(index, task) for index, task in enumerate(tasks)]

    def read_task(self, index: int, task: object) -> ReadTask:
        """Read one task of a state."""
        if not _is_task(task):
            if isinstance(task, Mapping):
                found = f", and has {', '.join(map(str, task)) or 'nothing'}"[:80]
                if "message" in task:
                    found += (
                        ": message is for a model's tool, SpawnAndAwait; here it is "
                        "input={'messages': [('user', …)]}"
                    )
            else:
                found = f", not {type(task).__name__}"[:80]
            wrong = f"tasks[{index}] must be {{'agent': …, 'input': …}}{found}"
            return ReadTask("", None, wrong, _unsent(task))
        agent = str(task["agent"])[:149]
        request: bytes | None = None
        problem: str | None = None
        unsent, refused = "", False
        credentials: frozenset[str] | None = None
        try:
            request = state_to_bytes(task["input"], portable=agent in self.remote)
        except PayloadError as error:
            problem, unsent = f"tasks[{index}].input: {error}", _unsent(task)
        else:
            if agent in self.takes_fields and isinstance(task["input"], _NO_FIELDS):
                problem = (
                    f'tasks[{index}].input must be a dict, such as {{"messages": [("user", '
                    f'"why?")]}}, not {type(task["input"]).__name__}'
                )
        try:
            named = task.get(_CREDENTIALS)
            credentials = _read_credentials(f"tasks[{index}].{_CREDENTIALS}", named)
        except (CredentialError, TypeError, ValueError) as error:
            request, problem, unsent = None, str(error), _unsent(task)
        limits = credentials is not None or self._ceiling.limits_remote(agent)
        if problem is None and agent in self.remote and limits:
            problem = (
                f"tasks[{index}].agent {agent!r} {REMOTE_OPENS_ITS_OWN}: leave 'credentials' out "
                "of the task, and this child out of credentials= of the spawn"
            )
        if not isinstance(task["agent"], str) or task["agent"] not in self.kinds:
            problem = f"tasks[{index}].agent {quoted(task['agent'])} {self.why_no_child(agent)}"
            refused = self.refuses
        return ReadTask(agent, request, problem, unsent, refused, credentials)

    def why_no_child(self, agent: str) -> str:
        """Return why an agent isn't a child, to follow its name."""
        return f"isn't a child of this node; the children are {', '.join(sorted(self.kinds))}"

    def admits(self, agent: str) -> bool:
        """Return whether the recorded answers of an agent may be used."""
        # The developer listed the children. What one of them proved stays proven.
        return not self.refuses or agent in self.kinds

    def why_not_resumed(self, problems: list[str]) -> str:
        """Return the message for a run that can't be resumed because children were removed."""
        return (
            "this spawn waits for children that were removed; add them again to resume it: "
            + listed_problems(problems)
        )

    def is_same(self, other: Terms, agents: Collection[str]) -> bool:
        """Return whether these agents' children run the same code in both spawns."""
        if type(other) is not type(self):
            return False
        return all(self.code.get(each) == other.code.get(each) for each in agents)

    def record_of_forms(self, agents: Iterable[str]) -> dict[str, bytes]:
        """Return what the record needs about the children's forms; empty if the digest has them."""
        return {}

    def has_other_forms(self, recorded: object, read: list[ReadTask]) -> bool:
        """Return whether a child has another form than when the record was written."""
        return False

    def call_digest(self, name: str, read: list[ReadTask]) -> bytes:
        """Return a digest of a call: its tasks, children, lead and accepted messages.

        Timeouts, limits and unused children are left out. A new version of the graph may change
        them and still resume.
        """
        fields = [name, self.lead, self.on_failure, self.accepted]
        for each in read:
            kind: str = self.kinds.get(each.agent, "bound")
            form = self.forms.get(each.agent, "")
            if each.credentials is not None:
                # The same request with other credentials is another call.
                kind = f"{kind} {sorted(each.credentials)}"
            fields += [each.agent, kind, form, each.digest or each.unsent]
        digest = hashlib.sha256(b"pipelit-agents/spawn-call/v1\0")
        for field in fields:
            data = field.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()


def _takes_fields(child: object) -> bool:
    """Return whether it is known that a child's graph reads its input as fields of a state."""
    graph = child.graph if isinstance(child, VerifiedChild) else child
    # A subclass may read its input itself. A state without fields is one channel of this name,
    # which LangGraph doesn't make public.
    return type(graph) is CompiledStateGraph and "__root__" not in graph.channels


def request_digest(
    input: object,  # noqa: A002 - the task's key that it is of
    *,
    remote: bool = False,
) -> str:
    """Return the SHA-256 of a task's input as it is sent to a child, 64 hexadecimal digits.

    Compare it with ``request`` of a ``SpawnResult`` to see whether a result answers a task.

    Args:
        input: The ``input`` of a task.
        remote: Whether the child is on another machine. A remote child receives a form without
            class names.

    Raises:
        PayloadError: The input can't be sent.
    """
    return _sha256(state_to_bytes(input, portable=remote))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tasks_of(state: object) -> object:
    """Return the tasks in the input of a spawn; None if it has none."""
    # LangGraph accepts a state in several forms. None means that the run is only resumed, or that
    # the input has no tasks.
    if state is None or isinstance(state, Command):
        return None
    tasks = state.get("tasks") if isinstance(state, Mapping) else getattr(state, "tasks", None)
    has = "tasks" in state if isinstance(state, Mapping) else hasattr(state, "tasks")
    return (tasks or []) if has else None


def _read_credentials(argument: str, named: object) -> frozenset[str] | None:
    return None if named is None else require_references(argument, named)


def credentials_of(order: Order) -> frozenset[str] | None:
    """Return the only credentials that an order lets its child open; None if it names none."""
    try:
        return _read_credentials(_CREDENTIALS, order.get(_CREDENTIALS))
    except (CredentialError, TypeError, ValueError):
        # The plan wrote another form, so somebody changed the record: the child may open nothing.
        return frozenset()


def has_other_credentials(recorded: object, read: list[ReadTask]) -> bool:
    """Return whether the recorded tasks, as many as those that were read, name others."""
    tasks = recorded if isinstance(recorded, list | tuple) else ()
    return [each.credentials for each in read] != [_credentials_named_by(each) for each in tasks]


def _credentials_named_by(task: object) -> frozenset[str] | None:
    # As `Terms.read_task` reads them, without the input.
    if not _is_task(task):
        return None
    with suppress(CredentialError, TypeError, ValueError):
        return _read_credentials(_CREDENTIALS, task.get(_CREDENTIALS))
    return None


def _is_task(task: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(task, Mapping) and set(task) - {_CREDENTIALS} == {"agent", "input"}


def _unsent(task: object) -> str:
    # Never the message about it: a reworded message would be another call to a resumed run.
    try:
        return f"malformed {_sha256(state_to_bytes(task))}"
    except PayloadError:
        return "can't be carried"


def listed_problems(problems: Iterable[str], most: int = MAX_LISTED_FAILURES) -> str:
    """Return the first problems in one line, and how many more there are."""
    listed = list(problems)
    if len(listed) > most:
        listed[most:] = [f"and {len(listed) - most} more"]
    return "; ".join(listed)


def _mark(agent: str, request: str | None) -> bytes:
    # A task and its result have the same mark: it covers the agent and the request.
    return hashlib.sha256(f"{agent}\0{request or ''}".encode("utf-8", "surrogatepass")).digest()


def marks_of_all(read: list[ReadTask]) -> bytes:
    """Return the marks of all tasks, concatenated."""
    return b"".join(_mark(each.agent, each.digest) for each in read)


def mark_of(order: Order) -> bytes:
    """Return the mark of an order's task."""
    return _mark(order["agent"], _digest_of(order))


def _digest_of(order: Order) -> str | None:
    # An order without a request isn't sent. The JSON of an empty input has at least two bytes.
    return _sha256(order["request"]) if order["request"] else None


def split_marks(marks: bytes) -> list[bytes]:
    """Return each of the concatenated marks."""
    return [marks[at : at + _MARK_SIZE] for at in range(0, len(marks), _MARK_SIZE)]


def answers(result: SpawnResult, index: int, mark: bytes) -> bool:
    """Return whether a result answers the task with this index and mark.

    The result may be anything that a client wrote to the state.
    """
    try:
        return bool(result["index"] == index and _mark(result["agent"], result["request"]) == mark)
    except (KeyError, TypeError, AttributeError):
        return False


def all_answer(results: object, read: list[ReadTask]) -> bool:
    """Return whether there is one result a task, in order, that answers it."""
    if not isinstance(results, list | tuple) or len(results) != len(read):
        return False
    marks = split_marks(marks_of_all(read))
    return all(answers(each, index, marks[index]) for index, each in enumerate(results))


def with_index(order: Order, result: SpawnResult) -> SpawnResult:
    """Return a result with the index and the digest of its task."""
    return SpawnResult({**result, "index": order["index"], "request": _digest_of(order)})
