"""The agents that a model may send tasks to: named in the tool's schema, and checked per task."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Self

from pydantic import Field

from pipelit_agents import Pipelit
from pipelit_agents._wording import json_line
from pipelit_agents._words import quoted
from pipelit_agents.errors import AccountError, PayloadError
from pipelit_agents.graphs import SpawnTask
from pipelit_agents.graphs.spawn.tasks import listed_problems
from pipelit_agents.protocol.payload import decode

from .child_inputs import ChildInput, InputRefused, declared_input, input_of
from .identity import Arguments
from .strict_schemas import strict_object

__all__ = ["ListedRecipients", "Recipients", "Task", "introduced", "read_tasks", "task_list"]

# Of a child's input that a model wrote as text.
_MAX_INPUT_BYTES: Final = 2**20
_MAX_LISTED: Final = 5
# In characters.
_MAX_PURPOSE: Final = 300


class Task(Arguments):
    """A task as a model writes it: one of ``message`` and ``input``."""

    agent: Annotated[str, Field(description="The agent that does the task.")]
    message: Annotated[str | None, Field(description="The text for the agent.")] = None
    input: Annotated[
        dict[str, object] | str | None,
        Field(description="The agent's input, if it takes other fields than a message."),
    ] = None


class Recipients(ABC):
    """The agents that a tool can ask.

    Attributes:
        is_fixed: Whether the same agents can be asked at any time.
    """

    is_fixed: bool = True

    @abstractmethod
    def described_by(self, pipelit: Pipelit) -> Self:
        """Return the same agents with what their accounts say of them.

        Raises:
            StorageError: The database can't be read.
        """

    @abstractmethod
    def tasks_schema(self) -> dict[str, object]:
        """Return the strict JSON schema of a list of tasks."""

    @abstractmethod
    def in_words(self) -> str:
        """Return one line an agent: its name, its purpose, and what it takes."""

    @abstractmethod
    def introduced(self) -> str:
        """Return one line an agent: its name and its purpose."""

    @abstractmethod
    def read(self, tasks: Iterable[Task]) -> list[SpawnTask]:
        """Return the tasks as ``spawn_and_await`` takes them.

        Raises:
            InputRefused: At least one task can't be sent. The message says why, for a model.
        """

    async def aread(self, tasks: Iterable[Task]) -> list[SpawnTask]:
        """Async form of ``read``."""
        return self.read(tasks)


class ListedRecipients(Recipients):
    """The children of a tool that was made with all of them.

    Args:
        children: The children by name.
        inputs: What children take, where the developer names it.
        purposes: What children are for, where the developer names it.

    Raises:
        TypeError: An option is no mapping, or a value has the wrong type.
        ValueError: An option names something that isn't a child.
    """

    def __init__(
        self,
        children: Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        purposes: Mapping[str, str] | None = None,
    ) -> None:
        for option, values in (("inputs", inputs), ("purposes", purposes)):
            if values is not None and not isinstance(values, Mapping):
                raise TypeError(f"{option} must be a dict: {{name of a child: …}}")
            for name in values or {}:
                if name not in children:
                    raise ValueError(
                        f"{option} names {name!r}, which isn't a child; the children are "
                        f"{', '.join(sorted(children))}"
                    )
        for name, purpose in (purposes or {}).items():
            if not isinstance(purpose, str):
                raise TypeError(f"purposes[{name!r}] must be text")
        declared = {name: declared_input(name, kind) for name, kind in (inputs or {}).items()}
        self._inputs = {
            name: declared.get(name) or input_of(child) for name, child in children.items()
        }
        self._purposes = dict(purposes or {})

    def described_by(self, pipelit: Pipelit) -> Self:
        """Return the same children with their accounts' purposes, where none was named."""
        purposes = dict(self._purposes)
        for name in self._inputs.keys() - purposes.keys():
            try:
                purposes[name] = pipelit.users.get(name).purpose
            except AccountError:
                # A graph that isn't an account's, with the proof "unbound-totp" for example.
                continue
        made = type(self)({})
        made._inputs, made._purposes = self._inputs, purposes
        return made

    def tasks_schema(self) -> dict[str, object]:
        """Return the strict JSON schema of a list of tasks.

        ``agent`` is an enum. Agents that take the same are one alternative.
        """
        alternatives: dict[str, tuple[list[str], dict[str, object]]] = {}
        for name, taken in self._inputs.items():
            fields = taken.task_fields()
            names, _ = alternatives.setdefault(json.dumps(fields, sort_keys=True), ([], fields))
            names.append(name)
        return task_list(
            strict_object({"agent": {"type": "string", "enum": names}, **fields})
            for names, fields in alternatives.values()
        )

    def in_words(self) -> str:
        """Return one line a child: its name, its purpose, and what it takes."""
        return "\n".join(
            f"{introduced(name, self._purposes.get(name, ''))}. Takes {taken.in_words()}."
            for name, taken in self._inputs.items()
        )

    def introduced(self) -> str:
        """Return one line a child: its name and its purpose."""
        return "\n".join(introduced(name, self._purposes.get(name, "")) for name in self._inputs)

    def read(self, tasks: Iterable[Task]) -> list[SpawnTask]:
        """Return the tasks as ``spawn_and_await`` takes them.

        Raises:
            InputRefused: A task names no child, or has an input that the child doesn't take.
        """
        return read_tasks(tasks, self._taken)

    def _taken(self, name: str) -> ChildInput:
        if name not in self._inputs:
            raise InputRefused(
                f"there is no agent {quoted(name)}; the agents are "
                f"{', '.join(sorted(self._inputs))}"
            )
        return self._inputs[name]


def introduced(name: str, purpose: str) -> str:
    """Return a line with an agent's name and purpose."""
    purpose = " ".join(purpose.split())[:_MAX_PURPOSE]
    # A JSON string: another model may have written the purpose, and can't add a line of its own.
    return f"- {name}: {json_line(purpose)}" if purpose else f"- {name}"


def task_list(alternatives: Iterable[dict[str, object]]) -> dict[str, object]:
    """Return the JSON schema of a list of tasks, each of which has one of these forms."""
    found = list(alternatives)
    items = found[0] if len(found) == 1 else {"anyOf": found}
    return {"type": "array", "minItems": 1, "items": items}


def read_tasks(tasks: Iterable[Task], taken: Callable[[str], ChildInput]) -> list[SpawnTask]:
    """Return the tasks as ``spawn_and_await`` takes them.

    Args:
        tasks: The tasks.
        taken: Returns what an agent takes, by its name. It raises InputRefused for one that
            can't be asked.

    Raises:
        InputRefused: At least one task can't be sent. The message says why, for a model.
    """
    found: list[SpawnTask] = []
    problems: list[str] = []
    for index, task in enumerate(tasks):
        try:
            found.append(SpawnTask(agent=task.agent, input=_input(task, taken(task.agent))))
        except InputRefused as error:
            problems.append(f"tasks[{index}]: {error}")
    if problems:
        raise InputRefused(listed_problems(problems, _MAX_LISTED))
    return found


def _input(task: Task, taken: ChildInput) -> object:
    if (task.message is None) == (task.input is None):
        raise InputRefused("pass one of message and input")
    try:
        if task.message is not None:
            return taken.from_message(task.message)
        return taken.from_fields(_fields(task.input))
    except InputRefused as error:
        raise InputRefused(f"{task.agent} {error}") from None


def _fields(value: object) -> dict[str, object]:
    why = ""
    if isinstance(value, str):
        try:
            value = decode(value.encode(), limit=_MAX_INPUT_BYTES)
        except (PayloadError, UnicodeEncodeError):
            why = ", and this text isn't JSON"
    if isinstance(value, dict):
        return value
    raise InputRefused(f"takes a JSON object as input{why}")
