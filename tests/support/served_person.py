"""Graphs that ask a service with the key of the person for whom they run.

For test_server and test_own_keys.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
from typing import Annotated, Any

import httpx
from langchain.agents import AgentState, create_agent
from langchain.tools import InjectedState
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.graphs import SpawnResult, SpawnTask, spawn_and_await, verified_child

pipelit = Pipelit.from_env()
SERVICE = os.environ["KEY_SERVICE_URL"]
# Making one takes longer than a run.
TLS = ssl.create_default_context()


class State(TypedDict, total=False):
    """What was asked, and what the service said.

    Attributes:
        run: The name of the run, for the service.
        ask: Whether each node asks a person before it goes on.
        lie: Whatever a caller writes about the person.
        owner: Whose key the service saw.
    """

    run: str
    ask: bool
    lie: Any
    owner: str
    tasks: list[SpawnTask]
    results: list[SpawnResult]


def send(run: str, token: SecretStr) -> str:
    """Send the key to the service, and return whose it is."""
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
    request = urllib.request.Request(SERVICE + run, headers=headers)  # noqa: S310 - this machine's
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - this machine's
        return str(answer.read().decode())


@pipelit.credentials.inject(token="github", per_person=True)
async def call_service(state: State, *, token: SecretStr) -> State:
    """Calls the service, also before it waits for a person."""
    if state.get("ask"):
        await asyncio.to_thread(send, state["run"], token)
        interrupt("?")
    return {"owner": await asyncio.to_thread(send, state["run"], token)}


graph = StateGraph(State).add_node(call_service).add_edge(START, "call_service").compile()


async def call(state: State) -> State:
    """Calls it as a sub-graph with a configuration of its own."""
    found = await graph.ainvoke(
        {key: state.get(key) for key in ("run", "ask", "lie")}, {"configurable": {"x": 1}}
    )
    return {"owner": found["owner"]}


def plan(state: State) -> State:
    """Gives it to a child."""
    task = {key: state.get(key) for key in ("run", "ask", "lie")}
    return {"tasks": [{"agent": "agent_researcher", "input": task}]}


def gather(state: State) -> State:
    """Takes what the child was told, if it is the same."""
    output: Any = state["results"][0]["output"]
    return {"owner": "/".join(sorted({output["owner"], state["owner"]}))}


child = verified_child(graph, pipelit.agent("agent_researcher"))
children = spawn_and_await(pipelit.agent("agent_lead"), {"agent_researcher": child})
builder = StateGraph(State).add_sequence(
    [("call", call), ("plan", plan), ("children", children), ("gather", gather)]
)
nested = builder.add_edge(START, "call").compile()

auth = pipelit.credentials.http_auth("github", per_person=True)


class Talk(AgentState[Any]):
    """The state of the agent."""

    run: str
    ask: bool
    lie: Any
    owner: str


@pipelit.credentials.tool(token="github", per_person=True)
async def ask_by_header(
    question: str, run: Annotated[str, InjectedState("run")], *, token: SecretStr
) -> str:
    """Asks the service."""
    return await asyncio.to_thread(send, run, token)


async def ask_by_client(question: str, run: Annotated[str, InjectedState("run")]) -> str:
    """Asks the service with a client that fills the header itself."""
    transport = httpx.AsyncHTTPTransport(verify=TLS)
    async with httpx.AsyncClient(transport=transport, auth=auth, timeout=30) as client:
        return (await client.get(SERVICE + run)).text


class Liar(BaseChatModel):
    """A model that was talked into the lie: it says it, and sends it in each call of a tool."""

    @property
    def _llm_type(self) -> str:
        return "liar"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Return itself, which knows the tools."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        lie = messages[0].text
        answers = [each for each in messages if isinstance(each, ToolMessage)]
        if answers:
            owners = {each.text for each in answers if each.status == "success"}
            message = AIMessage("/".join(sorted(owners)))
        else:
            calls = [
                ("ask_by_header", {"question": lie, "person": lie}),
                ("ask_by_header", {"question": lie}),
                ("ask_by_client", {"question": lie, "person": lie, "user_id": lie}),
            ]
            message = AIMessage(
                f"I act for {lie} now: acting_for({lie!r})",
                tool_calls=[
                    {"name": name, "args": args, "id": str(place)}
                    for place, (name, args) in enumerate(calls)
                ],
            )
        return ChatResult(generations=[ChatGeneration(message=message)])


talking = create_agent(Liar(), [ask_by_header, ask_by_client], state_schema=Talk)


async def talk(state: State) -> State:
    """Talks with the agent, in whose first message the lie is."""
    lie = str((state.get("lie") or {}).get("person"))
    found = await talking.ainvoke({"messages": [("user", lie)], "run": state["run"]})  # type: ignore[arg-type]
    return {"owner": found["messages"][-1].text}


agent = StateGraph(State).add_node(talk).add_edge(START, "talk").compile()
