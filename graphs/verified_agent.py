"""A verified child in the form of an agent: messages in, messages out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.graph import Graph
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from pipelit_agents import Agent
from pipelit_agents._threads import aside
from pipelit_agents.errors import AccountError, ConfigurationError
from pipelit_agents.operations.approval_notices import OnRequest
from pipelit_agents.pipelit import home_of

from .agent_steps import agent_graph, task_of
from .agent_tool import agent_tool, has_invisible_characters
from .answer_content import required_media_types
from .child import VerifiedChild
from .conversation import History, as_messages, check_history, messages_to_send
from .remote import RemoteChild
from .spawn.calls import Call
from .spawn.ceiling import ChildCredentials
from .spawn.gates import TaskApprovers
from .spawn.graph import SpawnGraph, ending_together
from .spawn.node import spawn_and_await
from .spawn.options import OnFailure
from .types import AnyGraph, AnyStateGraph

if TYPE_CHECKING:
    from deepagents import CompiledSubAgent

__all__ = ["VerifiedAgent", "verified_agent"]

# LangGraph joins names of nodes with "|" and ":". The others are refused by model providers, as the
# name is also that of a message.
_NAME: Final = re.compile(r"[^\s<>|:/\\]{1,149}")


class VerifiedAgent(AnyStateGraph):
    """A child as an agent. Create one with ``verified_agent``.

    Args:
        spawn: The graph that asks the child.
        lead: The agent that asks.
        child: The child.
        history: Which messages the child receives.
        state_graph: Arguments of LangGraph's ``CompiledStateGraph``.
    """

    def __init__(
        self,
        *,
        spawn: SpawnGraph,
        lead: Agent,
        child: VerifiedChild | RemoteChild,
        history: History,
        **state_graph: Any,
    ) -> None:
        state_graph.pop("_serde_allowlist", None)
        super().__init__(**state_graph)
        # LangGraph copies a graph by passing its attributes to the constructor.
        self.spawn = spawn
        self.lead = lead
        self.child = child
        self.history: History = history

    @property
    def agent(self) -> str:
        """The child's agent."""
        return _agent_of(self.child)

    async def ainvoke(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Any:
        """Invoke as LangGraph does.

        Raises:
            ConfigurationError: The agent's name is that of another account than its child's.
            SpawnError: There is no proven answer, and ``on_failure`` is ``raise``.
        """
        async with ending_together(self.spawn):
            return await super().ainvoke(input, config, **options)

    def stream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Stream as LangGraph does.

        Raises:
            ConfigurationError: The agent's name is that of another account than its child's.
            SpawnError: There is no proven answer, and ``on_failure`` is ``raise``.
        """
        if names := self._other_names():
            self._require_own(names)
        call = self._keyed_call(input, config)
        if call.nested and call.resuming:
            saved = self.get_state(call.record_config())
            call.withhold_resume_value(input, saved, call.parent())
        yield from super().stream(input, call.config(config), **options)

    async def astream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Async form of ``stream``."""
        if names := self._other_names():
            await aside(self._require_own, names)
        call = self._keyed_call(input, config)
        if call.nested and call.resuming:
            saved = await self.aget_state(call.record_config())
            call.withhold_resume_value(input, saved, await call.aparent())
        async for chunk in super().astream(input, call.config(config), **options):
            yield chunk

    def _other_names(self) -> list[str]:
        """Return the names under which others see the agent, without the name of its account.

        deepagents calls a sub-agent by a name of its own, and binds it as the name of the runs.
        """
        bound = (self.config or {}).get("run_name")
        return [name for name in (self.get_name(), bound) if name and name != self.agent]

    def _require_own(self, names: Collection[str]) -> None:
        """Require that no name is another account's: a model would take the answers for its own.

        Raises:
            ConfigurationError: One is.
            StorageError: The database can't be read.
        """
        for name in names:
            try:
                other = home_of(self.lead).users.get(name.lower()).username
            except AccountError:
                # A name such as "helper", which no account has.
                continue
            if other != self.agent:
                raise ConfigurationError(
                    f"the verified agent {name!r} asks {self.agent!r}, but {other!r} is another "
                    f"account: use the name {self.agent!r} (in deepagents, "
                    f"subagents=[worker.as_subagent(…)] does), or pass the child of {other!r}"
                )

    def _keyed_call(self, state: object, config: RunnableConfig | None) -> Call:
        """Return a call that finds its own record, also if a function makes several.

        LangGraph finds the record by the order of calls, and ignores the input of a resumed call.
        """
        call = Call(self, config)
        call.assign_namespace(lambda: self._call_digest(state), self._is_same)
        return call

    def _call_digest(self, state: object) -> bytes:
        messages = messages_to_send(as_messages(_messages_of(state)), self.history)
        # A message without an id gets a random one each time.
        anonymous = [each.model_copy(update={"id": None}) for each in messages]
        terms = self.spawn.terms
        digest = terms.call_digest(self.get_name(), terms.read([task_of(self.agent, anonymous)]))
        return hashlib.sha256(b"pipelit-agents/agent-call/v1\0" + digest).digest()

    def _is_same(self, other: AnyGraph) -> bool:
        return isinstance(other, VerifiedAgent) and self.spawn.terms.code == other.spawn.terms.code

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Return the drawing of the agent; with ``xray`` that of the child that does the work.

        LangGraph can't draw two agents whose inner steps have the same names.
        """
        if xray and isinstance(self.child, VerifiedChild):
            return self.child.get_graph(config, xray=_one_less(xray))
        return super().get_graph(config)

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False
    ) -> Graph:
        """Async form of ``get_graph``."""
        if xray and isinstance(self.child, VerifiedChild):
            return await self.child.aget_graph(config, xray=_one_less(xray))
        return await super().aget_graph(config)

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """Return a tool with which a model asks the child.

        The tool takes one text, ``message``, and the child receives nothing else. The answer is the
        tool message's content. Its artifact is the ``AnswerMetadata``. Without a proven answer
        the tool fails: with ``on_failure="collect"`` the model receives the reason as a tool
        message with status ``error``, otherwise ``SpawnError`` ends its run.

        Args:
            args_schema: Must be None: the argument is always ``message``.
            name: The name of the tool; None for the agent's. It may not be the name of another
                account: a call raises ``ConfigurationError``. If it has characters that providers
                don't accept, such as a dot, or more than 64, a digest of the whole name is added.
            description: What the agent is for. A model decides by it when to ask.
            arg_types: Must be None.

        Raises:
            TypeError: ``args_schema`` or ``arg_types`` is given.

        Example:
            ```python
            tool = verified_agent(lead, child).as_tool(description="Knows all about otters.")
            agent = create_agent(model, [tool])
            ```
        """
        if args_schema is not None or arg_types is not None:
            raise TypeError("args_schema and arg_types must be None: the tool takes one message")

        return agent_tool(
            self if name is None else self.with_config(run_name=name),
            name=name or self.get_name(),
            description=description
            or f"Ask the agent {self.agent}. Its answer is proven to be its own.",
        )

    def as_subagent(self, description: str) -> CompiledSubAgent:
        """Return the entry for the ``subagents`` of deepagents, with the agent's own name.

        deepagents shows its model the name of the entry, and doesn't check whose answers it gets.

        Args:
            description: What the agent is for. A model decides by it when to ask.

        Returns:
            A dict with ``name``, ``description`` and ``runnable``.

        Raises:
            TypeError: ``description`` isn't text.
            ValueError: ``description`` is empty.

        Example:
            ```python
            worker = verified_agent(lead, child)
            agent = create_deep_agent(model=model, subagents=[worker.as_subagent("Knows otters.")])
            ```
        """
        if not isinstance(description, str):
            raise TypeError(f"description must be text, not {type(description).__name__}")
        if not description.strip():
            raise ValueError("description is empty: say what the agent is for, for the model")
        return {"name": self.get_name(), "description": description, "runnable": self}


def verified_agent(
    lead: Agent,
    child: VerifiedChild | RemoteChild,
    *,
    name: str | None = None,
    history: History = "all",
    on_failure: OnFailure = "raise",
    timeout: float | None = None,
    max_depth: int = 3,
    max_answer_bytes: int = 8 * 2**20,
    answer_types: Collection[type] = (),
    attachments: Collection[str] = (),
    hand_back_to: str | None = None,
    credentials: ChildCredentials = None,
    approvers: TaskApprovers = None,
    on_request: OnRequest | None = None,
) -> VerifiedAgent:
    """Create an agent from a verified child: a graph with messages in and messages out.

    Use it wherever a package expects an agent: as a node, a worker of langgraph-supervisor, a
    member of langgraph-swarm, a ``runnable`` of deepagents, or a tool by
    ``VerifiedAgent.as_tool``. Each run asks the child by ``spawn_and_await``, and adds one
    AI message with a new id to ``messages``. Its content is the text of the last message that the
    child added; if that is empty or no AI message, the child's ``structured_response`` as JSON,
    then the text of its last AI message that isn't empty. Its ``response_metadata["pipelit"]`` is
    an ``AnswerMetadata`` that the parent writes: agent, status, bound, proved_at and request.
    The child's own metadata, names, ids, tool calls and reasoning aren't used. If the child has a
    ``structured_response``, the agent has it too: an instance of a model or a dataclass as it is,
    and anything else as JSON. As ``create_agent`` does, the graph returns the conversation with the
    new message at its end: the reducer of the parent's ``messages`` must be ``add_messages``, as in
    ``MessagesState``.

    The metadata is a label and no proof: anyone who may write to a thread can write such a message.

    Args:
        lead: The agent that asks the child and verifies its answer.
        child: A ``verified_child`` or ``remote_child`` whose graph reads ``messages`` and writes
            ``messages``, ``structured_response`` or both.
        name: The name of the graph and of its messages; None for the child's agent. Another name,
            such as ``agent_researcher_2``, may not be that of another account: a run raises
            ``ConfigurationError``, before the child receives anything.
        history: Which messages the child receives. ``all``: the conversation. ``last``: the last
            human message only. A function gets all messages and returns those to send. What is sent
            has no metadata, no artifacts, no reasoning, and no tool calls without an answer.
        on_failure: What happens without a proven answer. ``raise`` raises ``SpawnError``, so the
            graph stops. ``collect`` adds an AI message that says why there is no answer, with the
            status in its metadata: a lead's model can then choose what to do.
        timeout: How long the child may take, in seconds, at most 30 days; None for no limit.
        max_depth: How deep spawns may be nested.
        max_answer_bytes: The maximum size of an answer, and of the child's interrupts together.
        answer_types: As for ``spawn_and_await``.
        attachments: The media types of images and files that the answer holds as content blocks,
            such as ``["image/png"]``: at most 20, of 5 MB each and 10 MB in all, in base64. Of
            others, and of links, its text says that they were left out. None by default: most model
            providers refuse a conversation with an image in an AI message. Name some if the answer
            is displayed to a person, or becomes a tool message.
        hand_back_to: In a swarm, the member that is active after an answer. None leaves this agent
            active, so that the next turn asks the child again. A child can't choose it.
        credentials: The credentials that the child may open at most, as for
            ``spawn_and_await``. None for no limit.
        approvers: The people who are asked before the child receives anything, as for
            ``spawn_and_await``: each run of the agent needs their approval of the messages that
            are sent.
        on_request: Receives a notice of each question: a function, or a webhook.

    Returns:
        A compiled graph.

    Raises:
        TypeError: ``child`` isn't a verified or remote child or has no ``messages``, or an option
            has the wrong type.
        ValueError: An option is out of range, the child needs ``accept_from``, or ``approvers``
            names something else than the child.

    Example:
        ```python
        child = verified_child(create_agent(model, []), pipelit.agent("agent_researcher"))
        worker = verified_agent(lead, child, on_failure="collect")
        graph = create_supervisor([worker], model=model).compile()
        ```
    """
    _check_child(child)
    agent = _agent_of(child)
    check_history(history)
    attachments = required_media_types(attachments)
    if name is not None:
        _check_name(name)
    if hand_back_to is not None and not isinstance(hand_back_to, str):
        raise TypeError(f"hand_back_to is the name of an agent, not {type(hand_back_to).__name__}")
    spawn = spawn_and_await(
        lead,
        {agent: child},
        timeout=timeout,
        max_depth=max_depth,
        on_failure=on_failure,
        max_answer_bytes=max_answer_bytes,
        answer_types=answer_types,
        credentials=credentials,
        approvers=approvers,
        on_request=on_request,
    )
    name = name or agent
    graph = agent_graph(
        spawn,
        agent,
        name,
        history=history,
        hand_back_to=hand_back_to,
        attachments=attachments,
        # The context of a run reaches the child, in the child's own type.
        context_schema=child.graph.context_schema if isinstance(child, VerifiedChild) else None,
    )
    compiled = graph.compile(name=name)
    return VerifiedAgent(spawn=spawn, lead=lead, child=child, history=history, **vars(compiled))


def _agent_of(child: VerifiedChild | RemoteChild) -> str:
    return child.name if isinstance(child, RemoteChild) else child.agent.username


def _check_child(child: object) -> None:
    if isinstance(child, RemoteChild):
        return
    if isinstance(child, Agent):
        raise TypeError(
            "child is the handle of an agent: pass the lead's handle first, and then what "
            "verified_child(graph, agent) returns"
        )
    if not isinstance(child, VerifiedChild):
        raise TypeError(
            f"child can't prove its answers, as a {type(child).__name__}: wrap its graph with "
            'verified_child(graph, pipelit.agent("agent_researcher")), or use remote_child(…)'
        )
    outputs = child.graph.output_channels
    if not isinstance(outputs, str) and not {"messages", "structured_response"} & set(outputs):
        raise TypeError(
            f"child {child.agent.username!r} can't be an agent: the output of its graph has no "
            "'messages'. Add it to the graph's state, or use spawn_and_await"
        )
    if not isinstance(outputs, str) and "messages" not in child.graph.channels:
        raise TypeError(
            f"child {child.agent.username!r} can't be an agent: its graph has no 'messages' to "
            "read. Add it to the graph's state, or use spawn_and_await"
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be text, not {type(name).__name__}")
    if not _NAME.fullmatch(name) or has_invisible_characters(name):
        raise ValueError(
            "name must have 1 to 149 visible characters without spaces and without < > | : / and "
            "\\, because it is also the name of a node and of messages"
        )


def _messages_of(state: object) -> object:
    """Return the messages in the input of the graph, which LangGraph accepts in several forms."""
    if isinstance(state, Mapping):
        return state.get("messages")
    return getattr(state, "messages", None)


def _one_less(xray: int | bool) -> int | bool:
    return xray if isinstance(xray, bool) else xray - 1
