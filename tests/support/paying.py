"""People who approve tool calls, a tool that pays, and graphs that run it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyotp
from conftest import Clock
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from test_mfa import app_of
from test_tools import Scripted

from pipelit_agents import Agent, ApprovalRequest, Pipelit

THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}
PAY = {"amount": 90, "to": "bob"}


@dataclass
class People:
    """People with their apps."""

    pipelit: Pipelit
    clock: Clock
    apps: dict[str, pyotp.TOTP] = field(default_factory=dict)

    def enrol(self, *names: str) -> None:
        """Turn on the second factor of people, who are created if they aren't alice."""
        for name in names:
            if name != "alice":
                self.pipelit.users.create(name)
            self.apps[name] = app_of(self.pipelit.mfa.enroll(name))
            self.pipelit.mfa.confirm(name, self.apps[name].at(self.clock()))
        self.clock.advance(30)

    def agent(self, role: str) -> Agent:
        """An agent of alice's."""
        self.pipelit.users.create_agent(f"agent_{role}", owner="alice", purpose="pays")
        return self.pipelit.agent(f"agent_{role}")

    def code(self, name: str) -> str:
        """A code that wasn't used."""
        self.clock.advance(30)
        return self.apps[name].at(self.clock())

    def open(self) -> list[ApprovalRequest]:
        """The questions that wait."""
        return list(self.pipelit.approvals.pending())

    def approve(self, name: str = "alice", **arguments: Any) -> None:
        """Approve the waiting question with these arguments; the only one if none are named."""
        self.pipelit.approvals.decide(self._one(arguments).id, name, self.code(name))

    def deny(self, name: str = "alice", reason: str = "", **arguments: Any) -> None:
        """Deny it."""
        code = self.code(name)
        self.pipelit.approvals.deny(self._one(arguments).id, name, code, reason=reason)

    def _one(self, arguments: dict[str, Any]) -> ApprovalRequest:
        (found,) = [
            each for each in self.open() if arguments.items() <= dict(each.arguments).items()
        ]
        return found


class Payments(list[tuple[int, str]]):
    """What was paid, and the tool that pays."""

    @property
    def tool(self) -> BaseTool:
        """The tool."""

        @tool
        def send_money(amount: int, to: str) -> str:
            """Pay somebody."""
            self.append((amount, to))
            return f"paid {amount} to {to}"

        return send_money


def calling(*arguments: dict[str, Any], name: str = "send_money") -> AIMessage:
    """A message of a model with calls of a tool."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": each, "id": f"call_{number}"}
            for number, each in enumerate(arguments, 1)
        ],
    )


def model(*messages: AIMessage) -> Scripted:
    """A model that says this, and then that it is done."""
    return Scripted(script=[*messages, AIMessage("done")], told=[])


def node_of(*tools: BaseTool, saver: Any = None, **options: Any) -> Any:
    """A graph with a plain node of tools."""
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode(list(tools), **options))
    builder.add_edge(START, "tools")
    return builder.compile(checkpointer=saver or InMemorySaver())


def asked(state: Any) -> list[Any]:
    """What the interrupts of a run ask."""
    return [each.value for each in state.get("__interrupt__", ())]


def told(state: Any) -> list[str]:
    """What the model received of its tools."""
    return [str(each.content) for each in state["messages"] if isinstance(each, ToolMessage)]


def run(graph: Any, given: Any, config: RunnableConfig = THREAD) -> Any:
    """Run a graph."""
    return graph.invoke(given, config)


def arun(graph: Any, given: Any, config: RunnableConfig = THREAD) -> Any:
    """Run a graph on an event loop."""
    return asyncio.run(graph.ainvoke(given, config))


Run = Callable[..., Any]
