"""The agent: one graph for all customers, with a tool that uses the key of the run's customer."""

from __future__ import annotations

import re
from typing import Any

import httpx
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph
from pydantic import SecretStr

from pipelit_agents import Pipelit
from pipelit_agents.middleware import CredentialMiddleware

PROMPT = "You help customers of a shop. Look up an order by its number, and answer briefly."


class Scripted(BaseChatModel):
    """In place of a chat model: it looks up the first number that a customer writes."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: object, **options: Any) -> Scripted:
        """Do nothing: the script knows its tool."""
        return self

    def _generate(self, messages: list[BaseMessage], *rest: Any, **options: Any) -> ChatResult:
        last = messages[-1]
        number = re.search(r"\d+", last.text)
        if last.type == "human" and number:
            call = {"name": "look_up_order", "args": {"number": int(number[0])}, "id": "1"}
            answer = AIMessage("", tool_calls=[call])
        elif last.type == "human":
            answer = AIMessage("Which order is it?")
        else:
            answer = AIMessage(last.text)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def order_tool(pipelit: Pipelit) -> BaseTool:
    """Make the tool. A model sees its parameter ``number``, and neither of the other two."""

    @pipelit.credentials.tool(key="crm", url="crm:base_url", per_person=True)
    def look_up_order(number: int, *, key: SecretStr, url: str) -> str:
        """Looks up an order by its number."""
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
        answer = httpx.get(f"{url}/orders/{number}", headers=headers)
        said = answer.json()
        if answer.is_error:
            return f"Order {number}: {said['error']}."
        return f"Order {number}: {said['item']}, {said['state']}."

    return look_up_order


def support_agent(
    pipelit: Pipelit, model: str | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Make the agent, with a script or with a model whose key is a credential."""
    chat: BaseChatModel = Scripted()
    if model is not None:
        provider = model.partition(":")[0]
        pipelit.credentials.get(provider)
        chat = CredentialMiddleware(pipelit.credentials, model=model, credential=provider).model
    return create_agent(
        chat, [order_tool(pipelit)], system_prompt=PROMPT, checkpointer=InMemorySaver()
    )
