"""The tool form of a spawn: a model sends tasks to agents and receives proven answers."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema, ToolException
from langgraph.pregel import Pregel
from pydantic import Field, SkipValidation
from pydantic_core import to_jsonable_python

from pipelit_agents import Agent
from pipelit_agents._bounds import require_count
from pipelit_agents.errors import SpawnError
from pipelit_agents.graphs import CreatedAgents, SpawnResult, SpawnTask, spawn_and_await

from .identity import AgentTool, Arguments

__all__ = ["SpawnAndAwait"]

_MAX_TASKS: Final = 20


class _Task(Arguments):
    agent: Annotated[str, Field(description="The agent; one of those in the tool's description.")]
    input: Annotated[dict[str, object], Field(description="The input of this agent.")]


class _SpawnArguments(Arguments):
    tasks: Annotated[list[_Task], Field(min_length=1, description="One task for each answer.")]


class SpawnAndAwait(AgentTool):
    """Let the model send tasks to other agents and receive only proven answers.

    The tool uses the node ``spawn_and_await``: children run concurrently, an unproven answer is
    refused, and a child that fails or is missing doesn't affect the others. The answer is JSON with
    one object a task, in order: ``agent``, ``status``, and ``output`` or ``error``. The tool
    message's artifact is the list of ``SpawnResult``.

    Args:
        agent: The agent that sends requests and verifies answers.
        children: As for ``spawn_and_await``.
        timeout: How long one child may take, in seconds.
        max_concurrency: How many children run at once.
        max_depth: How deep spawns may be nested.
        proof: As for ``spawn_and_await``.
        max_answer_bytes: The maximum size of one answer.
        max_tasks: How many tasks one call may have.

    Raises:
        TypeError: A child can't prove its answers, or an option has the wrong type.
        ValueError: An option is out of range.

    Example:
        ```python
        child = verified_child(research_graph, pipelit.agent("agent_researcher"))
        tool = SpawnAndAwait(agent=lead, children={"agent_researcher": child}, timeout=60)
        agent = create_agent(model, [tool])
        ```
    """

    name: str = "spawn_and_await"
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = Field(
        default=_SpawnArguments, exclude=True
    )
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    max_tasks: int = _MAX_TASKS
    spawn: Any = Field(exclude=True, repr=False)

    def __init__(
        self,
        *,
        agent: Agent,
        children: Mapping[str, Any] | Callable[[str], Any],
        timeout: float | None = None,
        max_concurrency: int | None = None,
        max_depth: int = 3,
        proof: Mapping[str, Literal["bound", "unbound-totp"]] | None = None,
        max_answer_bytes: int = 2**20,
        max_tasks: int = _MAX_TASKS,
        **options: Any,
    ) -> None:
        options["max_tasks"] = require_count(max_tasks, "max_tasks")
        options["spawn"] = spawn_and_await(
            agent,
            children,
            timeout=timeout,
            max_concurrency=max_concurrency,
            max_depth=max_depth,
            on_failure="collect",
            proof=proof,
            max_answer_bytes=max_answer_bytes,
        )
        options.setdefault("description", _description(children, max_tasks))
        super().__init__(agent=agent, **options)

    def _run(self, tasks: list[_Task], config: RunnableConfig) -> tuple[str, list[SpawnResult]]:
        try:
            return _tool_answer(self.spawn.invoke(self._spawn_input(tasks), config)["results"])
        except SpawnError as error:
            raise ToolException(f"Not done: {error}.") from error

    async def _arun(
        self, tasks: list[_Task], config: RunnableConfig
    ) -> tuple[str, list[SpawnResult]]:
        try:
            return _tool_answer(
                (await self.spawn.ainvoke(self._spawn_input(tasks), config))["results"]
            )
        except SpawnError as error:
            raise ToolException(f"Not done: {error}.") from error

    def _spawn_input(self, tasks: list[_Task]) -> dict[str, list[SpawnTask]]:
        if len(tasks) > self.max_tasks:
            raise ToolException(
                f"Not done: {len(tasks)} tasks, but at most {self.max_tasks} are allowed at once."
            )
        return {"tasks": [SpawnTask(agent=task.agent, input=task.input) for task in tasks]}


def _tool_answer(results: Sequence[SpawnResult]) -> tuple[str, list[SpawnResult]]:
    answers = [
        {"agent": each["agent"], "status": each["status"]}
        | (
            {"output": _as_json(each["output"])}
            if each["status"] == "verified"
            else {"error": each["error"]}
        )
        for each in results
    ]
    return json.dumps(answers, ensure_ascii=False), list(results)


def _as_json(value: object) -> object:
    """Return a verified output for the model: dates, sets and similar values as JSON."""
    if isinstance(value, BaseMessage):
        return {"type": value.type, "content": value.content}
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [_as_json(each) for each in value]
    return to_jsonable_python(value, bytes_mode="base64", fallback=str)


def _description(children: Mapping[str, object] | Callable[[str], object], most: int) -> str:
    lines = [
        "Send tasks to other agents, all at once, and get their answers. Use only answers with "
        "status 'verified': the agent proved that they are its own. The others contain an error. "
        f"At most {most} tasks a call. The agents:"
    ]
    if not isinstance(children, Mapping):
        named = "that you created" if isinstance(children, CreatedAgents) else "that you know of"
        return "\n".join([*lines, f"- agents {named}, by their full usernames"])
    for name, child in children.items():
        takes = ""
        if isinstance(child, Pregel):
            try:
                fields = child.get_input_jsonschema().get("properties", {})
            except Exception:
                # Pydantic has no schema for the state, as for a plain TypedDict on Python 3.11.
                fields = {}
            takes = f" takes {', '.join(fields)}" if fields else ""
        lines.append(f"- {name}{takes}")
    return "\n".join(lines)
