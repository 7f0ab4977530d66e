"""Approvals of tool calls in agents: LangChain's, deep agents, and other middleware around them."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ToolCallRequest,
    ToolErrorMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import InjectedState, InjectedStore, ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from paying import (
    PAY,
    Payments,
    People,
    Run,
    arun,
    asked,
    calling,
    model,
    run,
    told,
)
from pydantic import SecretStr

from pipelit_agents import Approvers, Pipelit
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.middleware import ApprovalMiddleware, CredentialMiddleware
from pipelit_agents.tools import approved_tool

BACKENDS = False
BOTH = pytest.mark.parametrize("go", [run, arun], ids=["sync", "async"])
GO: Any = {"messages": [("user", "go")]}


def asking(people: People, name: str = "send_money", **options: Any) -> ApprovalMiddleware:
    """Middleware that asks alice."""
    return ApprovalMiddleware(people.pipelit, {name: Approvers(["alice"])}, **options)


def agent_of(script: list[AIMessage], tools: list[Any], *middleware: Any) -> Any:
    """An agent of LangChain's."""
    saver = InMemorySaver()
    return create_agent(model(*script), tools, middleware=middleware, checkpointer=saver)


@BOTH
def test_three_calls_are_answered_apart(people: People, paid: Payments, go: Run) -> None:
    """Each call is a question; what was answered stays answered, in whatever order."""
    given = [{"amount": each, "to": "bob"} for each in (1, 2, 3)]
    agent = agent_of([calling(*given)], [paid.tool], asking(people))
    state = go(agent, GO)
    assert sorted(each["arguments"]["amount"] for each in asked(state)) == [1, 2, 3]
    ids = {each.value["arguments"]["amount"]: each.id for each in state["__interrupt__"]}
    people.approve(amount=2)
    assert len(asked(go(agent, None))) == 2
    assert paid == [(2, "bob")]
    people.deny(amount=3, reason="too late")
    assert len(asked(go(agent, Command(resume={ids[1]: True})))) == 1
    people.approve(amount=1)
    state = go(agent, Command(resume=True))
    assert told(state) == [
        "paid 1 to bob",
        "paid 2 to bob",
        "send_money was not run. alice denied the call: too late",
    ]
    assert paid == [(2, "bob"), (1, "bob")]


def test_a_name_that_is_no_tool_is_an_error(people: People, paid: Payments) -> None:
    """At the first model call, before anything runs without an approval."""
    agent = agent_of([calling(PAY)], [paid.tool], asking(people, "sendmoney"))
    with pytest.raises(ConfigurationError, match="rules names 'sendmoney'"):
        run(agent, GO)


def test_two_gates_for_one_tool_are_an_error(people: People, paid: Payments) -> None:
    """They would use up one approval, and the second would refuse."""
    gated = approved_tool(people.pipelit, paid.tool, Approvers(["alice"]))
    with pytest.raises(ConfigurationError, match="asks for approvals already"):
        run(agent_of([calling(PAY)], [gated], asking(people)), GO)


TASK = calling({"description": "pay", "subagent_type": "payer"}, name="task")


@BOTH
def test_a_sub_agent_that_inherits_the_tool_is_refused(
    people: People, paid: Payments, go: Run
) -> None:
    """Sub-agents get an agent's tools without its middleware, so the tool is refused there."""
    spec: Any = {
        "name": "payer",
        "description": "pays",
        "system_prompt": "",
        "model": model(calling(PAY)),
    }
    agent = create_deep_agent(
        model(TASK),
        [paid.tool],
        subagents=[spec],
        middleware=[asking(people)],
        checkpointer=InMemorySaver(),
    )
    with pytest.raises(ConfigurationError, match="it is run without its gate"):
        go(agent, GO)
    assert paid == []


@BOTH
def test_a_sub_agent_with_middleware_of_its_own_asks(
    people: People, paid: Payments, go: Run
) -> None:
    """The agent's middleware lets a sub-agent's tool run that has its own gate."""
    spec: Any = {
        "name": "payer",
        "description": "pays",
        "system_prompt": "",
        "model": model(calling(PAY)),
        "middleware": [asking(people)],
    }
    agent = create_deep_agent(
        model(TASK),
        [paid.tool],
        subagents=[spec],
        middleware=[asking(people)],
        checkpointer=InMemorySaver(),
    )
    (question,) = asked(go(agent, GO))
    assert question["arguments"] == PAY
    assert paid == []
    people.approve()
    assert told(go(agent, None)) == ["done"]
    assert paid == [(90, "bob")]


@BOTH
def test_a_sub_agent_inherits_an_approved_tool(people: People, paid: Payments, go: Run) -> None:
    """A tool made by approved_tool asks wherever it is used."""
    spec: Any = {
        "name": "payer",
        "description": "pays",
        "system_prompt": "",
        "model": model(calling(PAY)),
    }
    gated = approved_tool(people.pipelit, paid.tool, Approvers(["alice"]))
    agent = create_deep_agent(model(TASK), [gated], subagents=[spec], checkpointer=InMemorySaver())
    assert len(asked(go(agent, GO))) == 1
    assert paid == []
    people.approve()
    go(agent, None)
    assert paid == [(90, "bob")]


def edit(arguments: dict[str, Any], name: str = "send_money") -> dict[str, Any]:
    """A reviewer's answer that changes a call."""
    return {"type": "edit", "edited_action": {"name": name, "args": arguments}}


@pytest.mark.parametrize(
    ("go", "mode", "first"),
    [
        pytest.param(run, "batched", True, id="sync-batched-outside"),
        pytest.param(arun, "batched", False, id="async-batched-inside"),
        pytest.param(run, "per_call", False, id="sync-per_call-inside"),
        pytest.param(arun, "per_call", True, id="async-per_call-outside"),
    ],
)
def test_edited_arguments_are_asked_again(
    people: People, paid: Payments, go: Run, mode: Any, first: bool
) -> None:
    """A reviewer who edits 90 to 900 approves nothing: alice is asked for 900."""
    reviewer = HumanInTheLoopMiddleware({"send_money": True}, interrupt_mode=mode)
    both = [reviewer, asking(people)] if first else [asking(people), reviewer]
    agent = agent_of([calling(PAY)], [paid.tool], *both)
    go(agent, GO)
    assert people.open() == []
    answer: Any = edit(PAY | {"amount": 900})
    (question,) = asked(
        go(agent, Command(resume={"decisions": [answer]} if mode == "batched" else answer))
    )
    assert question["arguments"] == PAY | {"amount": 900}
    people.approve(amount=900)
    state = go(agent, Command(resume=True))
    assert paid == [(900, "bob")]
    assert "paid 900 to bob" in told(state)[0]


@pytest.mark.parametrize("first", [True, False], ids=["outside", "inside"])
def test_a_reviewer_cannot_pass_the_gate_by_another_tool(
    people: People, paid: Payments, first: bool
) -> None:
    """A reviewer who turns another call into a payment gets the tool with its gate."""

    @tool
    def note(text: str) -> str:
        """Write something down."""
        return text

    reviewer = HumanInTheLoopMiddleware({"note": True})
    both = [reviewer, asking(people)] if first else [asking(people), reviewer]
    agent = agent_of([calling({"text": "hi"}, name="note")], [note, paid.tool], *both)
    run(agent, GO)
    answer = edit(PAY, "send_money")
    (question,) = asked(run(agent, Command(resume={"decisions": [answer]})))
    assert question["tool"] == "send_money"
    assert paid == []
    people.approve()
    run(agent, None)
    assert paid == [(90, "bob")]


@pytest.mark.parametrize(
    ("mode", "first"), [("batched", True), ("per_call", False)], ids=["batched", "per_call"]
)
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        pytest.param({"type": "approve"}, "asked", id="approve"),
        pytest.param({"type": "reject", "message": "no way"}, "no way", id="reject"),
        pytest.param({"type": "respond", "message": "later"}, "later", id="respond"),
    ],
)
def test_a_reviewers_answer_approves_nothing(
    people: People, paid: Payments, mode: Any, first: bool, answer: Any, outcome: str
) -> None:
    """A reviewer can stop a call; after a reviewer's approval, alice is asked."""
    allowed: Any = ["approve", "edit", "reject", "respond"]
    reviewer = HumanInTheLoopMiddleware(
        {"send_money": {"allowed_decisions": allowed}}, interrupt_mode=mode
    )
    both = [reviewer, asking(people)] if first else [asking(people), reviewer]
    agent = agent_of([calling(PAY)], [paid.tool], *both)
    run(agent, GO)
    state = run(agent, Command(resume={"decisions": [answer]} if mode == "batched" else answer))
    assert paid == []
    if outcome == "asked":
        people.approve()
        assert told(run(agent, None)) == ["paid 90 to bob"]
    else:
        assert people.open() == []
        assert outcome in told(state)[0]


KEY = "sk-bank-0123456789-abcdef"


@pytest.mark.parametrize(
    ("go", "first"), [(run, True), (arun, False)], ids=["sync-outside", "async-inside"]
)
def test_credentials_are_passed_after_the_approval(people: People, go: Run, first: bool) -> None:
    """The tool's secret is in no question, and the tool has it after the approval."""
    people.pipelit.credentials.put("bank", KEY, kind="api", created_by="alice")
    used = []

    @tool
    def send_money(
        amount: int,
        to: str,
        key: Annotated[SecretStr, InjectedToolArg],
        store: Annotated[Any, InjectedStore],
        state: Annotated[Any, InjectedState],
        runtime: ToolRuntime,
    ) -> str:
        """Pay somebody."""
        assert store is not None
        assert state["messages"]
        assert runtime.tool_call_id == "call_1"
        used.append((amount, to, key.get_secret_value() == KEY))
        return "paid"

    secured = CredentialMiddleware(
        people.pipelit.credentials, tools={"send_money": {"key": "bank"}}
    )
    agent = create_agent(
        model(calling(PAY)),
        [send_money],
        middleware=[secured, asking(people)] if first else [asking(people), secured],
        checkpointer=InMemorySaver(),
        store=InMemoryStore(),
    )
    (question,) = asked(go(agent, GO))
    assert question["arguments"] == PAY
    assert used == []
    people.approve()
    assert told(go(agent, None)) == ["paid"]
    assert used == [(90, "bob", True)]


@pytest.mark.parametrize(
    ("go", "first"), [(run, True), (arun, False)], ids=["sync-outside", "async-inside"]
)
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(ToolRetryMiddleware(initial_delay=0.0, jitter=False), id="retry"),
        pytest.param(ToolErrorMiddleware(lambda error, _: type(error).__name__), id="error"),
    ],
)
def test_a_failed_payment_is_not_retried(people: People, go: Run, first: bool, other: Any) -> None:
    """Middleware that retries lets the interrupt pass, and can't pay twice for one approval."""
    tried = []

    @tool
    def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        tried.append(amount)
        raise ConnectionError("lost")

    both = [other, asking(people)]
    agent = agent_of([calling(PAY)], [send_money], *(both if first else both[::-1]))
    assert len(asked(go(agent, GO))) == 1
    assert len(asked(go(agent, Command(resume=True)))) == 1
    people.approve()
    assert "ConnectionError" in told(go(agent, None))[0]
    assert tried == [90]


class Dynamic(AgentMiddleware[Any, Any, Any]):
    """Middleware with a tool that the agent's node doesn't know."""

    def __init__(self, made: BaseTool) -> None:
        super().__init__()
        self.made = made
        self.offered = self.wrapped = True

    @property
    def name(self) -> str:
        """A name of its own."""
        return f"Dynamic({self.offered}, {self.wrapped})"

    def _offering(self, request: Any) -> Any:
        return request.override(tools=[*request.tools, *([self.made] if self.offered else [])])

    def _providing(self, request: Any) -> Any:
        if self.wrapped and request.tool_call["name"] == self.made.name:
            return request.override(tool=self.made)
        return request

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        """Offer the tool."""
        return handler(self._offering(request))

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        """Provide the tool."""
        return handler(self._providing(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        """Offer the tool."""
        return await handler(self._offering(request))

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        """Provide the tool."""
        return await handler(self._providing(request))


@BOTH
def test_a_dynamic_tool_asks(people: People, paid: Payments, go: Run) -> None:
    """Tools that other middleware provides need an approval too; it has to come first."""

    @tool
    def note(text: str) -> str:
        """Write something down."""
        return text

    agent = agent_of([calling(PAY)], [note], Dynamic(paid.tool), asking(people))
    (question,) = asked(go(agent, GO))
    assert (question["tool"], question["arguments"]) == ("send_money", PAY)
    assert paid == []
    people.approve()
    assert told(go(agent, None)) == ["paid 90 to bob"]
    assert paid == [(90, "bob")]
    with pytest.raises(ConfigurationError, match="List ApprovalMiddleware after middleware"):
        go(agent_of([calling(PAY)], [note], asking(people), Dynamic(paid.tool)), GO)


@BOTH
def test_a_tool_that_is_provided_later_asks(people: People, paid: Payments, go: Run) -> None:
    """If other middleware provides the tool behind this one, the call itself has to be approved."""
    offering, providing = Dynamic(paid.tool), Dynamic(paid.tool)
    offering.wrapped, providing.offered = False, False
    agent = agent_of([calling(PAY)], [calling_nothing], offering, asking(people), providing)
    assert len(asked(go(agent, GO))) == 1
    assert len(asked(go(agent, Command(resume=True)))) == 1
    assert paid == []
    people.approve()
    assert told(go(agent, None)) == ["paid 90 to bob"]
    assert paid == [(90, "bob")]


@tool
def calling_nothing(text: str) -> str:
    """Do nothing."""
    return text


def test_a_dynamic_tool_with_odd_arguments_is_refused(people: People) -> None:
    """They can't be displayed."""
    made = ApprovalMiddleware(people.pipelit, {"send_money": Approvers(["alice"])})
    request: Any = ToolCallRequest(
        tool_call=calling({"amount": float("inf")}).tool_calls[0],
        tool=None,
        state={},
        runtime=None,  # type: ignore[arg-type]
    )
    answer = made.wrap_tool_call(request, lambda _: pytest.fail("it ran"))
    assert "can't be displayed" in str(answer)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"rules": ["send_money"]}, "rules has to map", id="list"),
        pytest.param({"rules": {"send_money": ["alice"]}}, "Approvers", id="rule"),
        pytest.param({"agent": "agent_lead"}, "handle", id="agent"),
        pytest.param({"pipelit": None}, "pipelit", id="pipelit"),
    ],
)
def test_a_wrong_argument_is_an_error(pipelit: Pipelit, arguments: Any, error: str) -> None:
    """It names the argument."""
    with pytest.raises(TypeError, match=error):
        ApprovalMiddleware(
            **{"pipelit": pipelit, "rules": {"send_money": Approvers(["alice"])}, **arguments}
        )
    with pytest.raises(ValueError, match="rules is empty"):
        ApprovalMiddleware(pipelit, {})


@BOTH
def test_what_runs_in_an_approved_tool_has_its_own_gate(
    people: People, paid: Payments, go: Run
) -> None:
    """An approved task doesn't approve the payments of the sub-agent that works on it."""
    spec: Any = {
        "name": "payer",
        "description": "pays",
        "system_prompt": "",
        "model": model(calling(PAY)),
        "tools": [paid.tool],
        "middleware": [asking(people)],
    }
    agent = create_deep_agent(
        model(TASK),
        subagents=[spec],
        middleware=[asking(people, "task")],
        checkpointer=InMemorySaver(),
    )
    (question,) = asked(go(agent, GO))
    assert question["tool"] == "task"
    people.approve()
    (question,) = asked(go(agent, Command(resume=True)))
    assert question["tool"] == "send_money"
    assert len(asked(go(agent, Command(resume=True)))) == 1
    assert paid == []
    people.approve()
    state = go(agent, None)
    assert (told(state), paid) == (["done"], [(90, "bob")])


def test_the_agent_is_in_the_question(people: People, paid: Payments) -> None:
    """Each question names the agent of the middleware."""
    agent = agent_of([calling(PAY)], [paid.tool], asking(people, agent=people.agent("lead")))
    assert asked(run(agent, GO))[0]["agent"] == "agent_lead"


def test_other_tools_run_as_before(people: People, paid: Payments) -> None:
    """A tool without a rule needs no approval."""

    @tool
    def note(text: str, runtime: ToolRuntime) -> str:
        """Write something down."""
        return f"{text} {runtime.tool_call_id}"

    agent = agent_of([calling({"text": "hi"}, name="note")], [note, paid.tool], asking(people))
    assert told(run(agent, GO)) == ["hi call_1"]


@BOTH
def test_an_approved_tool_runs_no_other_of_its_name(
    people: People, paid: Payments, go: Run
) -> None:
    """The approval is for one run of the tool, and not for what an agent inside of it calls."""
    inner = create_agent(model(calling(PAY | {"amount": 900})), [paid.tool])

    def send_money(amount: int, to: str) -> str:
        """Pay by an agent."""
        return str(inner.invoke(GO)["messages"][-1].content)

    async def asend_money(amount: int, to: str) -> str:
        return str((await inner.ainvoke(GO))["messages"][-1].content)

    made = StructuredTool.from_function(send_money, asend_money)
    agent = agent_of([calling(PAY)], [made], asking(people))
    go(agent, GO)
    people.approve()
    with pytest.raises(ConfigurationError, match="it is run without its gate"):
        go(agent, None)
    assert paid == []
