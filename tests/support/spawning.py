"""Parents, children and hostile children that the spawn tests share."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from langgraph.runtime import RunControl
from pydantic import BaseModel
from typing_extensions import TypedDict

from pipelit_agents import Agent
from pipelit_agents.graphs import (
    SpawnRequest,
    SpawnResult,
    SpawnTask,
    VerifiedChild,
    spawn_and_await,
)

NAME = "agent_researcher"
CANARY = "canary-4f1d"
THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}


class Work(TypedDict, total=False):
    """A child's state."""

    q: Any
    a: Any


class Lead(TypedDict, total=False):
    """A parent's state."""

    tasks: list[SpawnTask]
    results: list[SpawnResult]
    note: str


@dataclass
class DataclassLead:
    """The same as a dataclass."""

    tasks: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    note: str = ""


class ModelLead(BaseModel):
    """The same as a pydantic model."""

    tasks: list[Any] = []
    results: list[Any] = []
    note: str = ""


# Every kind of state that a parent may have.
LEADS = [Lead, DataclassLead, ModelLead]


def upper(state: Work) -> Work:
    """What most children do."""
    return {"a": state["q"].upper()}


def graph_of(node: Callable[..., Any] = upper) -> Pregel[Any, Any, Any, Any]:
    """A one-node graph."""
    builder = StateGraph(Work)
    builder.add_node("work", node)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    return builder.compile(name="research")


def parent_of(
    lead: Agent,
    children: dict[str, Any],
    saver: BaseCheckpointSaver[Any] | None = None,
    **options: Any,
) -> Any:
    """A graph with the spawn node in it."""
    builder = StateGraph(Lead)
    builder.add_node("delegate", spawn_and_await(lead, children, **options))
    builder.add_edge(START, "delegate")
    builder.add_edge("delegate", END)
    return builder.compile(checkpointer=saver)


def b64(data: bytes) -> str:
    """Bytes as they stand in JSON."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def tasks(*questions: Any, agent: str = NAME) -> Lead:
    """A parent's input."""
    return {"tasks": [{"agent": agent, "input": {"q": q}} for q in questions]}


class Hostile(VerifiedChild):
    """A child whose envelope somebody meddles with on its way out."""

    meddle: Callable[[dict[str, Any], SpawnRequest], Any] = staticmethod(lambda e, _: e)

    def answer(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> dict[str, Any]:
        """The honest answer, meddled with."""
        return self.meddle(super().answer(request, config, control), request)

    async def aanswer(self, request: SpawnRequest, config: RunnableConfig) -> dict[str, Any]:
        """The honest answer, meddled with."""
        return self.meddle(await super().aanswer(request, config), request)


def hostile(agent: Agent, meddle: Callable[..., Any], node: Callable[..., Any] = upper) -> Hostile:
    """Makes such a child."""
    child = Hostile(graph=graph_of(node), agent=agent)
    child.meddle = meddle
    return child


def parents_own(path: Path) -> bytes:
    """All bytes that stand in the parent's own namespaces of a checkpoint file.

    A child's own namespace has a second step: ``delegate:…|agent_researcher:…``.
    """
    with closing(sqlite3.connect(path)) as connection, connection:
        found = b""
        for table in ("checkpoints", "writes"):
            rows = connection.execute(
                f"SELECT * FROM {table} WHERE checkpoint_ns NOT LIKE '%|%'"  # noqa: S608
            )
            for row in rows:
                found += b"\0".join(
                    cell if isinstance(cell, bytes) else str(cell).encode() for cell in row
                )
    return found
