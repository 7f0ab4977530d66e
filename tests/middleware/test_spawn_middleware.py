"""Middleware that lets an agent ask others: the tool, and a section of the system prompt."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, LLMToolSelectorMiddleware
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from test_tools import Scripted

from pipelit_agents import Agent, Pipelit, User, middleware
from pipelit_agents.graphs import VerifiedChild, created_agents, verified_child
from pipelit_agents.middleware import SpawnMiddleware
from pipelit_agents.tools import CreateAgentUser

BACKENDS = False
NAME = "agent_researcher"
ASKED = {"agent": NAME, "message": "Where do otters sleep?"}


class Watched(Scripted):
    """A scripted model that keeps the tools it was offered."""

    offered: list[list[Any]] = []

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        self.offered.append(list(tools))
        return self


def model_of(*names: str) -> Watched:
    """A model that asks the researcher by tools of these names, one after the other."""
    tasks = {"tasks": [ASKED]}
    asking = [
        AIMessage("", tool_calls=[{"name": each, "args": tasks, "id": f"call {number}"}])
        for number, each in enumerate(names)
    ]
    return Watched(script=[*asking, AIMessage("done")], told=[], offered=[])


def said(state: Any) -> list[Any]:
    """What the model received of its agents."""
    told = [each for each in state["messages"] if isinstance(each, ToolMessage)]
    return [answer for each in told for answer in json.loads(str(each.content))]


def system(messages: list[BaseMessage]) -> SystemMessage:
    """The system message of a model call."""
    (found,) = [each for each in messages if isinstance(each, SystemMessage)]
    return found


def chat(node: Callable[..., Any]) -> Any:
    """A graph with one node, that takes a message."""
    return StateGraph(MessagesState).add_node("work", node).add_edge(START, "work").compile()


@pytest.fixture
def child(researcher: Agent) -> VerifiedChild:
    """A child that answers."""
    return verified_child(chat(lambda _: {"messages": [AIMessage("in holts")]}), researcher)


VERIFIED = {"agent": NAME, "status": "verified", "answer": "in holts"}
START_STATE: Any = {"messages": [("user", "go")]}


def call_sync(agent: Any) -> Any:
    """Run an agent."""
    return agent.invoke(START_STATE)


async def call_async(agent: Any) -> Any:
    """Run an agent on the event loop."""
    return await agent.ainvoke(START_STATE)


@pytest.mark.parametrize("make", [create_agent, create_deep_agent], ids=["langchain", "deepagents"])
@pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])
async def test_an_agent_asks_another(
    lead: Agent, child: VerifiedChild, make: Any, call: Any
) -> None:
    """The tool is offered and works, and the prompt says whom one can ask and what counts."""
    model = model_of("spawn_and_await")
    spawning = SpawnMiddleware(agent=lead, children={NAME: child})
    state = call(make(model, system_prompt="Be kind.", middleware=[spawning]))
    state = await state if inspect.isawaitable(state) else state
    assert said(state) == [VERIFIED]
    prompt = system(model.told[0]).text
    assert prompt.startswith("Be kind.")
    assert "## `spawn_and_await`" in prompt
    assert 'status is "verified"' in prompt
    assert prompt.endswith(f'- {NAME}: "looks things up"')
    (offered,) = [each for each in model.offered[0] if each.name == "spawn_and_await"]
    assert f'- {NAME}: "looks things up". Takes a message.' in offered.description


@pytest.mark.slow
def test_deepagents_keeps_its_own_task_tool(lead: Agent, child: VerifiedChild) -> None:
    """A deep agent has its own sub-agents beside the verified ones."""
    own = {
        "name": "helper",
        "description": "helps",
        "runnable": chat(lambda _: {"messages": [AIMessage("unproven")]}),
    }
    script = [
        AIMessage(
            "",
            tool_calls=[
                {
                    "name": "task",
                    "args": {"description": "x", "subagent_type": "helper"},
                    "id": "1",
                },
                {"name": "spawn_and_await", "args": {"tasks": [ASKED]}, "id": "2"},
            ],
        ),
        AIMessage("done"),
    ]
    agent = create_deep_agent(
        Watched(script=script, told=[], offered=[]),
        subagents=[own],
        middleware=[SpawnMiddleware(agent=lead, children={NAME: child})],
    )
    told = {
        each.tool_call_id: each.content
        for each in agent.invoke(START_STATE)["messages"]
        if isinstance(each, ToolMessage)
    }
    assert told["1"] == "unproven"
    assert json.loads(told["2"]) == [VERIFIED]


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param(None, id="none"),
        pytest.param("Be kind.", id="text"),
        pytest.param(SystemMessage("Be kind.", id="mine"), id="message"),
        pytest.param(
            SystemMessage(
                [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
            ),
            id="blocks",
        ),
    ],
)
def test_a_system_prompt_of_any_form_gets_the_section(
    lead: Agent, child: VerifiedChild, prompt: Any
) -> None:
    """What the developer wrote comes first and stays as it was; blocks stay blocks."""
    model = model_of()
    spawning = SpawnMiddleware(agent=lead, children={NAME: child})
    create_agent(model, system_prompt=prompt, middleware=[spawning]).invoke(START_STATE)
    found = system(model.told[0])
    if isinstance(prompt, SystemMessage) and isinstance(prompt.content, list):
        first, section = found.content
        assert first == prompt.content[0]
        assert section["text"].startswith("\n\n## `spawn_and_await`")
    else:
        text = getattr(prompt, "content", prompt)
        assert str(found.content).startswith(f"{text}\n\n## `" if text else "## `")
    assert found.id == getattr(prompt, "id", None)


def test_several_have_different_names(lead: Agent, child: VerifiedChild) -> None:
    """Each adds its own tool and its own section."""
    model = model_of("ask_reviewers", "ask_readers")
    both = [
        SpawnMiddleware(agent=lead, children={NAME: child}, name=each, purposes={NAME: each})
        for each in ("ask_reviewers", "ask_readers")
    ]
    state = create_agent(model, middleware=both).invoke(START_STATE)
    assert said(state) == [VERIFIED, VERIFIED]
    prompt = system(model.told[0]).text
    assert prompt.index("## `ask_reviewers`") < prompt.index("## `ask_readers`")
    assert f'- {NAME}: "ask_readers"' in prompt


def test_instructions_of_ones_own(lead: Agent, child: VerifiedChild) -> None:
    """A developer may write the section, or leave it out; anything but text is refused."""
    for text in ("Ask for all facts:", ""):
        model = model_of()
        spawning = SpawnMiddleware(agent=lead, children={NAME: child}, instructions=text)
        create_agent(model, system_prompt="Be kind.", middleware=[spawning]).invoke(START_STATE)
        prompt = system(model.told[0]).text
        assert (f"\n\n{text}\n- {NAME}" in prompt) == bool(text)
        assert (prompt == "Be kind.") == (not text)
        assert "looks things up" in model.offered[0][0].description
    with pytest.raises(TypeError, match="instructions must be text"):
        SpawnMiddleware(agent=lead, children={NAME: child}, instructions=["x"])


def test_a_call_without_the_tool_has_no_section(lead: Agent, child: VerifiedChild) -> None:
    """Where another middleware selected other tools, the prompt doesn't name this one."""

    class Hiding(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(tools=[]))

    model = model_of()
    spawning = SpawnMiddleware(agent=lead, children={NAME: child})
    agent = create_agent(model, system_prompt="Be kind.", middleware=[Hiding(), spawning])
    agent.invoke(START_STATE)
    assert system(model.told[0]).text == "Be kind."


def test_a_tool_selector_may_choose_it(lead: Agent, child: VerifiedChild) -> None:
    """LangChain's selector sees the tool like any other."""

    @tool
    def weather() -> str:
        """Tell the weather."""
        return "dry"

    class Choosing(Watched):
        def with_structured_output(self, schema: Any, **_: Any) -> Any:
            return RunnableLambda(lambda _: {"tools": ["spawn_and_await"]})

    model = model_of("spawn_and_await")
    choosing = LLMToolSelectorMiddleware(model=Choosing(script=[]), max_tools=1)
    spawning = SpawnMiddleware(agent=lead, children={NAME: child})
    agent = create_agent(model, [weather], middleware=[choosing, spawning])
    assert said(agent.invoke(START_STATE)) == [VERIFIED]
    assert [each.name for each in model.offered[0]] == ["spawn_and_await"]


async def test_purposes_are_read_once_and_never_needed(
    lead: Agent, child: VerifiedChild, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts are read at the first model call; without a database the names are enough."""
    spawning = SpawnMiddleware(agent=lead, children={NAME: child})
    model = model_of()
    create_agent(model, middleware=[spawning]).invoke(START_STATE)
    with monkeypatch.context() as patched:
        patched.setattr(type(spawning.tool), "with_purposes", lambda _: pytest.fail("read again"))
        create_agent(later := model_of(), middleware=[spawning]).invoke(START_STATE)
    assert system(later.told[0]) == system(model.told[0])
    with Pipelit(**{**settings, "database_url": "sqlite:////nowhere/agents.db"}) as away:
        unread = SpawnMiddleware(
            agent=away.agent("agent_lead"),
            children={NAME: verified_child(child.graph, away.agent(NAME))},
        )
        for call in (call_sync, call_async):
            model = model_of()
            state = call(create_agent(model, middleware=[unread]))
            state = await state if inspect.isawaitable(state) else state
            assert system(model.told[0]).text.endswith(f"\n- {NAME}")
            assert state["messages"][-1].text == "done"


def test_a_childs_question_stops_the_agent(lead: Agent, researcher: Agent) -> None:
    """An interrupt of a child surfaces in the agent, and a resume brings the proven answer."""
    child = verified_child(
        chat(lambda _: {"messages": [AIMessage(interrupt("sure?"))]}), researcher
    )
    model = model_of("spawn_and_await")
    spawning = SpawnMiddleware(agent=lead, children={NAME: child})
    agent = create_agent(model, middleware=[spawning], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    state = agent.invoke(START_STATE, config)
    assert [each.value for each in state["__interrupt__"]] == ["sure?"]
    assert said(agent.invoke(Command(resume="yes"), config))[0]["answer"] == "yes"


@pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])
async def test_an_agent_that_the_model_creates_is_listed_and_asked(lead: Agent, call: Any) -> None:
    """The next call's prompt names it with its purpose; it answers, and a wrong field is said."""

    def build(account: User) -> Any:
        return chat(lambda _: {"messages": [AIMessage(f"I am {account.username}")]})

    new = "agent_lead.mail"
    asking = [
        ("create_agent_user", {"purpose": "sorts the mail", "username": "mail"}),
        ("spawn_and_await", {"tasks": [{"agent": new, "input": '{"question": "x"}'}]}),
        ("spawn_and_await", {"tasks": [{"agent": new, "message": "x"}, ASKED]}),
    ]
    script = [
        AIMessage("", tool_calls=[{"name": name, "args": args, "id": str(number)}])
        for number, (name, args) in enumerate(asking)
    ]
    model = Watched(script=[*script, AIMessage("done")], told=[], offered=[])
    spawning = SpawnMiddleware(agent=lead, children=created_agents(lead, build=build))
    state = call(create_agent(model, [CreateAgentUser(agent=lead)], middleware=[spawning]))
    state = await state if inspect.isawaitable(state) else state
    _, wrong, told = [each for each in state["messages"] if isinstance(each, ToolMessage)]
    assert (wrong.status, "takes messages" in wrong.content) == ("error", True)
    answer, refused = json.loads(told.content)
    assert answer == {"agent": new, "status": "verified", "answer": f"I am {new}"}
    assert (refused["agent"], refused["status"]) == (NAME, "refused")
    prompts = [system(each).text for each in model.told[:2]]
    assert [new in each for each in prompts] == [False, True]
    assert prompts[1].endswith(f'- {new}: "sorts the mail"')


def test_the_options_are_the_tools(lead: Agent, child: VerifiedChild) -> None:
    """They reach the tool, and an unknown one is an error."""
    spawning = SpawnMiddleware(agent=lead, children={NAME: child}, answer="whole", max_tasks=2)
    assert (spawning.tool.answer, spawning.tool.max_tasks) == ("whole", 2)
    assert spawning.tools == [spawning.tool]
    assert spawning.name == "SpawnMiddleware(spawn_and_await)"
    with pytest.raises(ValueError, match="timeouts"):
        SpawnMiddleware(agent=lead, children={NAME: child}, timeouts=3)


def test_the_package_names_what_it_loads_late() -> None:
    """`dir` and `import` know both names, and no others."""
    assert {"CredentialMiddleware", "SpawnMiddleware"} <= set(dir(middleware))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        middleware.Nothing  # noqa: B018
