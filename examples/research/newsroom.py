"""The agents: a lead, three researchers who prove their answers, and a tool that publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph

from pipelit_agents import Approvers, Pipelit
from pipelit_agents.graphs import VerifiedChild, verified_child
from pipelit_agents.middleware import ApprovalMiddleware, CredentialMiddleware, SpawnMiddleware

RESEARCHERS = {
    "agent_habits": "Otters sleep in holts by the water, and hunt at dusk.",
    "agent_figures": "An adult otter weighs 7 to 11 kg and eats 1 kg of fish a day.",
    "agent_sources": "See the otter's entry in any field guide to mammals.",
}
LIE = "An otter weighs 300 kg."
PROMPT = (
    "You lead a research. Ask all agents that you have. Then call publish once, with a title and "
    "a short report. Use verified answers only, and name the agents that gave none."
)


class Scripted(BaseChatModel):
    """In place of a chat model: a function that answers the conversation so far."""

    script: Callable[[list[BaseMessage]], AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: object, **options: Any) -> Scripted:
        """Do nothing: the script knows its tools."""
        return self

    def _generate(self, messages: list[BaseMessage], *rest: Any, **options: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script(messages))])


def chat_model(
    pipelit: Pipelit, name: str | None, script: Callable[[list[BaseMessage]], AIMessage]
) -> BaseChatModel:
    """Return a real model with its key from the credentials, or the script."""
    if name is None:
        return Scripted(script=script)
    provider = name.partition(":")[0]
    pipelit.credentials.get(provider)
    return CredentialMiddleware(pipelit.credentials, model=name, credential=provider).model


def researcher(pipelit: Pipelit, name: str, answer: str, model: str | None = None) -> VerifiedChild:
    """Make a researcher, who proves each answer with the secret of its account in ``pipelit``."""
    graph = create_agent(
        chat_model(pipelit, model, lambda messages: AIMessage(answer)),
        system_prompt=f"You are {name}. Answer in one sentence.",
    )
    return verified_child(graph, pipelit.agent(name), accept_from=["agent_lead"])


def publish_into(folder: Path) -> BaseTool:
    """Make the tool that publishes: it writes a file."""

    @tool
    def publish(title: str, text: str) -> str:
        """Publishes a report."""
        (folder / "report.md").write_text(f"# {title}\n\n{text}\n")
        return f"The report is published in {folder.name}/report.md."

    return publish


def lead(
    pipelit: Pipelit,
    folder: Path,
    *,
    model: str | None = None,
    replaced: dict[str, VerifiedChild] | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Make the lead, whose report Alice approves before it is published.

    ``replaced`` has children that answer in place of the real ones.
    """
    children = {
        name: researcher(pipelit, name, answer, model) for name, answer in RESEARCHERS.items()
    }
    children |= replaced or {}
    approval = Approvers(["alice"], expires_in=900)
    return create_agent(
        chat_model(pipelit, model, lead_script),
        [publish_into(folder)],
        system_prompt=PROMPT,
        middleware=[
            SpawnMiddleware(agent=pipelit.agent("agent_lead"), children=children, timeout=120),
            ApprovalMiddleware(pipelit, {"publish": approval}, agent=pipelit.agent("agent_lead")),
        ],
        checkpointer=InMemorySaver(),
    )


def lead_script(messages: list[BaseMessage]) -> AIMessage:
    """Do what a model would: ask everybody, publish what is verified, and say what came of it."""
    last = messages[-1]
    if last.type == "human":
        tasks = [{"agent": name, "message": last.text} for name in RESEARCHERS]
        return _call("spawn_and_await", tasks=tasks)
    if getattr(last, "name", None) == "spawn_and_await":
        results = json.loads(last.text)
        good = [each["answer"] for each in results if each["status"] == "verified"]
        missing = [each["agent"] for each in results if each["status"] != "verified"]
        lines = good + [f"No proven answer came from {name}." for name in missing]
        return _call("publish", title="Otters", text="\n".join(lines))
    return AIMessage(last.text)


def _call(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": name}])
