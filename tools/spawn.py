"""The tool form of a spawn: a model sends tasks to agents and receives proven answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self, get_args

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema, ToolException
from pydantic import BaseModel, Field, SkipValidation, WithJsonSchema, create_model

from pipelit_agents import Agent
from pipelit_agents._bounds import require_count
from pipelit_agents._threads import aside
from pipelit_agents.errors import SpawnError
from pipelit_agents.graphs import SpawnResult, SpawnTask, spawn_and_await
from pipelit_agents.graphs.agent_tool import is_tool_name
from pipelit_agents.graphs.answer_content import MEDIA_TYPES, Content, required_media_types
from pipelit_agents.graphs.spawn.ceiling import ChildCredentials
from pipelit_agents.graphs.spawn.gates import TaskApprovers
from pipelit_agents.identity.agent import require_handle
from pipelit_agents.operations.approval_notices import OnRequest

from .answers import AnswerForm, answers_in_words
from .child_inputs import InputRefused
from .found_recipients import FoundRecipients
from .identity import AgentTool, Arguments
from .recipients import ListedRecipients, Recipients, Task

__all__ = ["SpawnAndAwait"]

_MAX_TASKS: Final = 20


class SpawnAndAwait(AgentTool):
    """Let the model send tasks to other agents and receive only proven answers.

    The tool uses the node ``spawn_and_await``: children run concurrently, an unproven answer is
    refused, and a child that fails doesn't affect the others. A call is refused in words before any
    child runs if a task has fields that its child doesn't take, or names none of the listed ones.

    The answer is JSON with one object a task, in order: ``agent``, ``status``, and ``answer`` or
    ``error``. Of a child that proved its failure, ``said`` has its own error, shortened. If an
    answer holds images or files, the tool message's content is a list of blocks: that JSON, and
    each image and file. The tool message's artifact is the list of ``SpawnResult``, with the whole
    outputs.

    The tool's schema has the children's names as an enum, and converts to OpenAI's strict mode. A
    child that takes ``messages`` gets a task's ``message`` and nothing else; the fields of other
    children are in ``input``, where ``messages`` is a text too. Whatever the schema doesn't show is
    refused: other fields of a child's state, such as the files of a deep agent, and messages with a
    role. A program that sends such input calls ``tool.spawn``, the node itself.

    Args:
        agent: The agent that sends requests and verifies answers.
        children: As for ``spawn_and_await``. If a function finds them, such as ``created_agents``,
            ``agent`` is any username, and what a child takes is known when it was found; one whose
            graph doesn't say it, such as a remote child, takes a message.
        answer: The part of an output that the model receives. ``last_message``: the last message of
            the child's model; if that is empty, its ``structured_response``, then its last message
            that isn't. Of an output without messages, ``structured_response`` or else all.
            ``structured``: ``structured_response`` alone. ``whole``: the whole output, as
            ``output``.
        attachments: The media types of images and files that the model receives; of others it
            learns only that they were left out, and of a link, the URL as text. By default PNG,
            JPEG, GIF, WebP and PDF. Pass an empty list for a model that takes only text in tool
            messages, as OpenAI's Chat Completions API does.
        purposes: What children are for, by name, for the tool's description. The tool opens no
            database when it is built: ``with_purposes`` and ``SpawnMiddleware`` read the
            accounts' purposes.
        inputs: What a model may send, by the child's name, if it is more or less than the schema
            shows by itself. A pydantic model, dataclass or ``TypedDict`` whose fields a model may
            fill, ``str``, or ``dict`` for any JSON object. Of a remote child nothing is known here,
            so it takes a message unless it is in ``inputs``.
        timeout: How long one child may take, in seconds.
        max_concurrency: How many children run at once.
        max_depth: How deep spawns may be nested.
        proof: As for ``spawn_and_await``.
        max_answer_bytes: The maximum size of one answer.
        max_tasks: How many tasks one call may have.
        credentials: As for ``spawn_and_await``. A model can't name credentials.
        approvers: As for ``spawn_and_await``: people are asked about each task by itself. An
            ``ApprovalMiddleware`` for this tool asks another question, once for the whole call.
        on_request: As for ``spawn_and_await``.

    Raises:
        TypeError: A child can't prove its answers, or an option has the wrong type.
        ValueError: An option is out of range, names something that isn't a child, or ``name`` isn't
            one that model providers accept for a tool.

    Example:
        ```python
        child = verified_child(research_graph, pipelit.agent("agent_researcher"))
        tool = SpawnAndAwait(
            agent=lead,
            children={"agent_researcher": child},
            purposes={"agent_researcher": "looks things up"},
            timeout=60,
        )
        agent = create_agent(model, [tool])
        ```
    """

    name: str = "spawn_and_await"
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = Field(default=None, exclude=True)
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    answer: AnswerForm = "last_message"
    attachments: tuple[str, ...] = MEDIA_TYPES
    max_tasks: int = _MAX_TASKS
    spawn: Any = Field(
        exclude=True, repr=False, description="The node: it takes any input of a child."
    )
    recipients: Recipients = Field(exclude=True, repr=False)

    def __init__(
        self,
        *,
        agent: Agent,
        children: Mapping[str, Any] | Callable[[str], Any],
        answer: AnswerForm = "last_message",
        attachments: Collection[str] = MEDIA_TYPES,
        purposes: Mapping[str, str] | None = None,
        inputs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        max_depth: int = 3,
        proof: Mapping[str, Literal["bound", "unbound-totp"]] | None = None,
        max_answer_bytes: int = 2**20,
        max_tasks: int = _MAX_TASKS,
        credentials: ChildCredentials = None,
        approvers: TaskApprovers = None,
        on_request: OnRequest | None = None,
        **options: Any,
    ) -> None:
        require_handle(agent)
        if answer not in get_args(AnswerForm):
            raise ValueError(
                f"answer is {', '.join(map(repr, get_args(AnswerForm)))}; not {answer!r}"
            )
        _check_name(options.get("name", "spawn_and_await"))
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
            # Two tools of one agent may send the same tasks in one node.
            name=str(options.get("name", "spawn_and_await")),
            credentials=credentials,
            approvers=approvers,
            on_request=on_request,
        )
        recipients = _recipients(options["spawn"], children, inputs, purposes)
        options.setdefault("description", _description(recipients, max_tasks))
        options.setdefault("args_schema", _arguments(recipients))
        options |= {
            "answer": answer,
            "attachments": required_media_types(attachments),
            "recipients": recipients,
        }
        super().__init__(agent=agent, **options)

    def with_purposes(self) -> Self:
        """Return a copy whose description has the purposes of the children's accounts.

        A purpose that was passed as ``purposes`` stays, as does a description of your own. A child
        without an account in this database, such as one that proves itself with another, has none.

        Raises:
            ConfigurationError: A setting of the database is missing or wrong.
            StorageError: The database can't be read.
        """
        found = self.recipients.described_by(self.pipelit)
        update: dict[str, Any] = {"recipients": found}
        if self.description == _description(self.recipients, self.max_tasks):
            update["description"] = _description(found, self.max_tasks)
        return self.model_copy(update=update)

    async def awith_purposes(self) -> Self:
        """Async form of ``with_purposes``."""
        return await aside(self.with_purposes)

    def _run(self, tasks: list[Task], config: RunnableConfig) -> tuple[Content, list[SpawnResult]]:
        self._require_few(tasks)
        try:
            read = self.recipients.read(tasks)
            results = self.spawn.invoke({"tasks": read}, config)["results"]
        except (InputRefused, SpawnError) as error:
            raise _in_words(error) from error
        return self._tool_answer(results, read)

    async def _arun(
        self, tasks: list[Task], config: RunnableConfig
    ) -> tuple[Content, list[SpawnResult]]:
        self._require_few(tasks)
        try:
            read = await self.recipients.aread(tasks)
            results = (await self.spawn.ainvoke({"tasks": read}, config))["results"]
        except (InputRefused, SpawnError) as error:
            raise _in_words(error) from error
        # An answer of megabytes takes seconds to read.
        return await aside(self._tool_answer, results, read)

    def _require_few(self, tasks: list[Task]) -> None:
        if len(tasks) > self.max_tasks:
            raise ToolException(
                f"Not done: {len(tasks)} tasks, but at most {self.max_tasks} are allowed at once."
            )

    def _tool_answer(
        self, results: Sequence[SpawnResult], tasks: Sequence[SpawnTask]
    ) -> tuple[Content, list[SpawnResult]]:
        content = answers_in_words(results, tasks, self.answer, attachments=self.attachments)
        return content, list(results)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be text, not {type(name).__name__}")
    if not is_tool_name(name):
        raise ValueError(
            f"name must have 1 to 64 of the characters A-Z a-z 0-9 _ and -; not {name!a}"
        )


def _in_words(error: InputRefused | SpawnError) -> ToolException:
    why = ", and no agent was asked" if isinstance(error, InputRefused) else ""
    return ToolException(f"Not done{why}: {error}.")


def _recipients(
    spawn: Any,
    children: Mapping[str, Any] | Callable[[str], Any],
    inputs: Mapping[str, Any] | None,
    purposes: Mapping[str, str] | None,
) -> Recipients:
    if isinstance(children, Mapping):
        return ListedRecipients(children, inputs, purposes)
    for option, values in (("inputs", inputs), ("purposes", purposes)):
        if values is not None:
            raise ValueError(f"{option} belongs to children in a dict: leave it out")
    return FoundRecipients(children, spawn.finder)


def _arguments(recipients: Recipients) -> type[BaseModel]:
    # The schema of a list of `Task` would say nothing of the children.
    tasks = Annotated[
        list[Task],
        Field(min_length=1, description="One task for each answer."),
        WithJsonSchema(recipients.tasks_schema()),
    ]
    return create_model("SpawnArguments", __base__=Arguments, tasks=(tasks, ...))


def _description(recipients: Recipients, most: int) -> str:
    return (
        "Send tasks to other agents, all at once, and get their answers. Use only answers with "
        "status 'verified': the agent proved that they are its own. The others contain an error; "
        "what an agent itself says of its failure is in 'said', and is information only. "
        f"At most {most} tasks a call. The agents:\n{recipients.in_words()}"
    )
