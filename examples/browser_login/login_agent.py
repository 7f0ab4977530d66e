"""The agent: its tool logs in with credentials that the model doesn't see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from browsing import log_in_by_browser, log_in_by_forms
from dotenv import dotenv_values
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph
from pydantic import SecretStr
from shop import USERNAME, Shop

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.middleware import CredentialMiddleware

HERE = Path(__file__).parent
KEY = "FIELD_ENCRYPTION_KEY"
AGENT = "agent_shopper"


def open_folder(folder: Path) -> Pipelit:
    """Open the database of a folder, and make the key, the tables and the accounts it lacks."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = folder / ".env"
    if not settings.exists():
        settings.touch(0o600)
        settings.write_text(f"{KEY}={Keyring.generate_key()}\n")
    pipelit = Pipelit(
        database_url=f"sqlite:///{folder / '.pipelit' / 'agents.db'}",
        encryption_keys=[dotenv_values(settings).get(KEY) or ""],
    )
    pipelit.create_schema()
    pipelit.apply(HERE / "accounts.yaml")
    return pipelit


def store_account(pipelit: Pipelit, shop: Shop) -> None:
    """Store the password, and the seed of the codes, for one agent alone."""
    pipelit.credentials.put(
        "shop",
        shop.password,
        kind="login",
        created_by="alice",
        public={"username": USERNAME, "url": shop.url},
        allow=[AGENT],
    )
    pipelit.credentials.put("shop-codes", shop.uri, kind="totp", created_by="alice", allow=[AGENT])


def orders_tool(pipelit: Pipelit, browser: str | None) -> BaseTool:
    """Make the tool. For the model it has no parameters."""

    @pipelit.credentials.tool(
        agent=pipelit.agent(AGENT),
        url="shop:url",
        username="shop:username",
        password="shop",  # noqa: S106 - the name of a credential
        code="shop-codes:code",
    )
    def read_orders(*, url: str, username: str, password: SecretStr, code: SecretStr) -> str:
        """Logs in to the shop, and returns the page of the orders."""
        fields = {
            "username": username,
            "password": password.get_secret_value(),
            "code": code.get_secret_value(),
        }
        if browser is None:
            return log_in_by_forms(url, fields)
        return log_in_by_browser(browser, url, fields)

    return read_orders


class Scripted(BaseChatModel):
    """In place of a chat model: it reads the orders, and repeats what it reads."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: object, **options: Any) -> Scripted:
        """Do nothing: the script knows its tool."""
        return self

    def _generate(self, messages: list[BaseMessage], *rest: Any, **options: Any) -> ChatResult:
        answer = AIMessage(messages[-1].text)
        if messages[-1].type == "human":
            call = {"name": "read_orders", "args": {}, "id": "1"}
            answer = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def shopper(
    pipelit: Pipelit, browser: str | None, model: str | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Make the agent, with a script or with a model whose key is a credential."""
    chat: BaseChatModel = Scripted()
    if model is not None:
        provider = model.partition(":")[0]
        pipelit.credentials.get(provider)
        chat = CredentialMiddleware(pipelit.credentials, model=model, credential=provider).model
    return create_agent(chat, [orders_tool(pipelit, browser)])
