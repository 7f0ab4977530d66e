"""The agents that a function finds when a task names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, Self

from pipelit_agents import Pipelit, User
from pipelit_agents.graphs import CreatedAgents, SpawnTask

from .child_inputs import ANY_INPUT, UNKNOWN_INPUT, input_of
from .recipients import Recipients, Task, introduced, read_tasks, task_list
from .strict_schemas import strict_object

__all__ = ["FoundRecipients"]

_MAX_LISTED: Final = 50
_NAME: Final[Mapping[str, object]] = {
    "type": "string",
    "description": "The full username of an agent.",
    "pattern": "^[a-z0-9][a-z0-9_.-]{0,148}$",
}


class Asks(Protocol):
    """How a spawn asks the function: only for usernames, with a timeout, on a separate thread."""

    def ask(self, name: str) -> object:
        """Return the child of a name, or something else if it has none."""

    async def aask(self, name: str) -> object:
        """Async form of ``ask``."""


class FoundRecipients(Recipients):
    """The agents for which a function has a child.

    The spawn asks the function too, and refuses a name without a child in its own words. Here it is
    asked only for what an agent takes.

    Args:
        find: The function from a name to a child or None, sync or async. If it has a method
            ``living``, the model sees which agents there are.
        spawn: Asks the function, as the spawn does.
        living: The accounts of the agents that can be asked now.
    """

    is_fixed = False

    def __init__(
        self, find: Callable[[str], Any], spawn: Asks, living: Sequence[User] = ()
    ) -> None:
        self._find = find
        self._spawn = spawn
        self._living = living

    def described_by(self, pipelit: Pipelit) -> Self:
        """Return the same agents with a list of those that can be asked now."""
        living = getattr(self._find, "living", None)
        return type(self)(self._find, self._spawn, living() if callable(living) else ())

    def tasks_schema(self) -> dict[str, object]:
        """Return the strict JSON schema of a list of tasks.

        ``agent`` is a username. What an agent takes is known when it was found, so a task has a
        message, or JSON as text.
        """
        return task_list(
            strict_object({"agent": dict(_NAME), **taken.task_fields()})
            for taken in (UNKNOWN_INPUT, ANY_INPUT)
        )

    def in_words(self) -> str:
        """Return the agents that can be asked now, and that most take a message."""
        whose = " that you created" if isinstance(self._find, CreatedAgents) else ""
        about = f"- agents{whose}, by their full usernames. Most take a message."
        return "\n".join([about, *self._lines()])

    def introduced(self) -> str:
        """Return one line an agent that can be asked now."""
        return "\n".join(self._lines()) or "- none yet"

    def _lines(self) -> list[str]:
        lines = [introduced(each.username, each.purpose) for each in self._living[:_MAX_LISTED]]
        if len(self._living) > _MAX_LISTED:
            lines.append(f"- and {len(self._living) - _MAX_LISTED} more")
        return lines

    def read(self, tasks: Iterable[Task]) -> list[SpawnTask]:
        """Return the tasks as ``spawn_and_await`` takes them.

        Raises:
            InputRefused: A task has an input that its agent doesn't take.
        """
        tasks = list(tasks)
        taken = {name: input_of(self._spawn.ask(name)) for name in _names(tasks)}
        return read_tasks(tasks, taken.__getitem__)

    async def aread(self, tasks: Iterable[Task]) -> list[SpawnTask]:
        """Async form of ``read``."""
        tasks = list(tasks)
        taken = {name: input_of(await self._spawn.aask(name)) for name in _names(tasks)}
        return read_tasks(tasks, taken.__getitem__)


def _names(tasks: Iterable[Task]) -> list[str]:
    return list(dict.fromkeys(task.agent for task in tasks))
