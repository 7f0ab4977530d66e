"""The steps of a verified agent: write the child's task, ask the child, add its answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, NotRequired

from langchain_core.messages import AnyMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import EphemeralValue
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from pipelit_agents._threads import aside
from pipelit_agents.errors import SpawnError

from .answer_message import answer_message, no_answer, structured_answer
from .conversation import History, messages_to_send
from .spawn.graph import SpawnGraph
from .spawn.results import SpawnResult, SpawnTask
from .spawn.tasks import Terms, all_answer
from .steps import Step

__all__ = ["agent_graph", "task_of"]

# The nodes.
_ASK: Final = "ask"
_SPAWN: Final = "spawn"
_ANSWER: Final = "answer"
_NOTHING_TO_SEND: Final = "the conversation has no message that can be sent"
_OTHER_RESULT: Final = "the recorded result doesn't answer this conversation"


class _Input(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    # An answer of an earlier turn, which is in the parent's state.
    structured_response: NotRequired[Annotated[Any, EphemeralValue]]


class _Output(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    structured_response: NotRequired[Annotated[Any, EphemeralValue]]


class _SwarmOutput(_Output):
    active_agent: NotRequired[Annotated[str, EphemeralValue]]


class _State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    # Values of one step: what isn't written in a turn isn't in the output of that turn.
    structured_response: NotRequired[Annotated[Any, EphemeralValue]]
    active_agent: NotRequired[Annotated[str, EphemeralValue]]
    tasks: list[SpawnTask]
    results: list[SpawnResult]
    # Whether the parent's state has a structured response of an earlier turn.
    outdated: bool


def agent_graph(
    spawn: SpawnGraph,
    agent: str,
    name: str,
    *,
    history: History,
    hand_back_to: str | None,
    attachments: Collection[str],
    context_schema: type[Any] | None,
) -> StateGraph[Any, Any, Any, Any]:
    """Return the graph of a verified agent.

    Args:
        spawn: The node that asks the child.
        agent: The child's agent.
        name: The name of the messages.
        history: Which messages the child receives.
        hand_back_to: In a swarm, the member that is active after an answer.
        attachments: The media types of images and files that an answer holds.
        context_schema: The type of the context of a run.
    """
    builder = StateGraph(
        _State,
        context_schema=context_schema,
        input_schema=_Input,
        output_schema=_Output if hand_back_to is None else _SwarmOutput,
    )
    builder.add_node(_ASK, _ask_step(agent, history, spawn.terms))
    builder.add_node(_SPAWN, spawn)
    builder.add_node(_ANSWER, _answer_step(spawn, agent, name, hand_back_to, attachments))
    builder.add_edge(START, _ASK)
    builder.add_edge(_ASK, _SPAWN)
    builder.add_edge(_SPAWN, _ANSWER)
    builder.add_edge(_ANSWER, END)
    return builder


def _ask_step(agent: str, history: History, terms: Terms) -> Step:
    """Return the node that writes the child's task."""

    def ask(state: _State, config: RunnableConfig) -> dict[str, object]:
        messages = messages_to_send(state["messages"], history)
        if not messages and terms.on_failure == "raise":
            raise SpawnError(f"{agent} can't be asked: {_NOTHING_TO_SEND}")
        return {
            "tasks": [task_of(agent, messages)] if messages else [],
            "results": [],
            "outdated": state.get("structured_response") is not None,
        }

    return Step(ask, None, _ASK)


def _answer_step(
    spawn: SpawnGraph,
    agent: str,
    name: str,
    hand_back_to: str | None,
    attachments: Collection[str],
) -> Step:
    """Return the node that adds the answer to the messages."""

    def answer(state: _State, config: RunnableConfig) -> dict[str, object]:
        result = _result_in(state, spawn.terms, agent)
        task = state["tasks"][0] if state["tasks"] else None
        update: dict[str, object] = {
            "messages": [answer_message(result, task, name=name, attachments=attachments)],
            "tasks": [],
            "results": [],
        }
        structured = structured_answer(result)
        if structured is not None or (state["outdated"] and result["status"] != "verified"):
            # The parent's structured response of an earlier turn doesn't answer this one.
            update["structured_response"] = structured
        if hand_back_to is not None:
            update["active_agent"] = hand_back_to
        return update

    async def aanswer(state: _State, config: RunnableConfig) -> dict[str, object]:
        # An answer of megabytes takes seconds to read.
        return await aside(answer, state, config)

    return Step(answer, aanswer, _ANSWER)


def _result_in(state: _State, terms: Terms, agent: str) -> SpawnResult:
    """Return the result of the child's task.

    Raises:
        SpawnError: The result isn't one of this task, and ``on_failure`` is ``raise``.
    """
    tasks, results = state["tasks"], state["results"]
    if not tasks:
        return no_answer(agent, _NOTHING_TO_SEND)
    if all_answer(results, terms.read(tasks)):
        return results[0]
    # Somebody wrote to the state of the thread.
    if terms.on_failure == "raise":
        raise SpawnError(f"{agent} has no answer: {_OTHER_RESULT}")
    return no_answer(agent, _OTHER_RESULT)


def task_of(agent: str, messages: Sequence[BaseMessage]) -> SpawnTask:
    """Return the task with which the child gets its messages."""
    return {"agent": agent, "input": {"messages": list(messages)}}
