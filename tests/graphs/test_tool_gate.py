"""A tool that runs once, with the arguments that people approved, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from queue import SimpleQueue
from threading import Event
from typing import Annotated, Any

import pytest
from interleaved import halted_before
from internals import database_of, handed_over
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import InjectedToolArg, InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import GraphDrained
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime
from langgraph.runtime import RunControl
from langgraph.types import Command, interrupt
from paying import (
    PAY,
    THREAD,
    Payments,
    People,
    Run,
    arun,
    asked,
    calling,
    model,
    node_of,
    run,
    told,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from spawning import parent_of
from sqlalchemy import update

from pipelit_agents import ApprovalNotice, Approvers
from pipelit_agents.database.models import ApprovalRow
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.graphs import verified_child
from pipelit_agents.graphs.call_arguments import exact_arguments
from pipelit_agents.tools import approved_tool

BACKENDS = False
BOTH = pytest.mark.parametrize("go", [run, arun], ids=["sync", "async"])


def start(*arguments: dict[str, Any]) -> Any:
    """The state in which a model has called the tool."""
    return {"messages": [calling(*arguments or (PAY,))]}


@BOTH
def test_it_waits_and_pays_once(people: People, paid: Payments, go: Run) -> None:
    """The interrupt has the question; a resume without an answer asks again."""
    graph = node_of(approved_tool(people.pipelit, paid.tool, Approvers(["alice"])))
    (question,) = asked(go(graph, start()))
    (request,) = people.open()
    assert question == {
        "type": "pipelit.approval",
        "id": request.id,
        "tool": "send_money",
        "arguments": PAY,
        "digest": request.digest,
        "summary": None,
        "agent": "",
        "approvers": ["alice"],
        "at_least": 1,
        "expires_at": request.expires_at.isoformat(),
        "thread": "1",
    }
    assert asked(go(graph, Command(resume={"username": "alice", "code": "000000"}))) == [question]
    assert asked(go(graph, Command(resume=True))) == [question]
    assert paid == []
    people.approve()
    state = go(graph, None)
    assert told(state) == ["paid 90 to bob"]
    assert paid == [(90, "bob")]


def gated(people: People, paid: Payments, **options: Any) -> Any:
    """A graph whose tool asks alice."""
    saver = options.pop("saver", None)
    rule = Approvers(options.pop("names", ["alice"]), **options)
    return node_of(approved_tool(people.pipelit, paid.tool, rule), saver=saver)


@BOTH
def test_a_denial_is_in_words(people: People, paid: Payments, go: Run) -> None:
    """The model reads by whom, and why."""
    graph = gated(people, paid)
    go(graph, start())
    people.deny(reason="bob has moved")
    state = go(graph, None)
    assert told(state) == ["send_money was not run. alice denied the call: bob has moved"]
    assert state["messages"][-1].status == "error"
    assert paid == []


def test_an_expired_question_is_in_words(people: People, paid: Payments) -> None:
    """It says until when people were asked; another call is another question."""
    graph = gated(people, paid, expires_in=60)
    run(graph, start())
    (request,) = people.open()
    people.clock.advance(61)
    (words,) = told(run(graph, None))
    assert words.startswith("send_money was not run: not approved in time, which was until ")
    assert request.expires_at.isoformat(timespec="seconds") in words
    other = {"configurable": {"thread_id": "2"}}
    run(graph, start(), other)
    people.approve()
    people.clock.advance(61)
    (words,) = told(run(graph, None, other))
    assert words.startswith(
        "send_money was not run: its approval wasn't used in time, which was until "
    )
    assert paid == []


def test_an_approver_who_was_deactivated_approved_nothing(people: People, paid: Payments) -> None:
    """Approvals are counted when the tool would run, so others have to approve."""
    graph = gated(people, paid, names=["alice", "carol"])
    run(graph, start())
    people.approve()
    people.pipelit.users.deactivate("alice")
    assert len(asked(run(graph, None))) == 1
    assert paid == []
    people.approve("carol")
    run(graph, None)
    assert paid == [(90, "bob")]


def test_changed_arguments_are_another_question(people: People, paid: Payments) -> None:
    """A client that writes 900 into the state after the approval of 90 gets another question."""
    graph = gated(people, paid)
    run(graph, start())
    people.approve()
    changed = calling(PAY | {"amount": 900})
    (old,) = graph.get_state(THREAD).values["messages"]
    graph.update_state(
        THREAD, {"messages": [changed.model_copy(update={"id": old.id})]}, "__start__"
    )
    (question,) = asked(run(graph, None))
    assert question["arguments"]["amount"] == 900
    assert paid == []


def test_another_thread_asks_again(people: People, paid: Payments) -> None:
    """An approval is for its thread: the same message elsewhere is another question."""
    graph = gated(people, paid)
    run(graph, start())
    people.approve()
    other = {"configurable": {"thread_id": "2"}}
    assert len(asked(run(graph, start(), other))) == 1
    run(graph, None)
    assert len(asked(run(graph, None, other))) == 1
    assert paid == [(90, "bob")]


def test_a_copied_thread_asks_again(people: People, paid: Payments) -> None:
    """Whoever may copy a thread doesn't copy what was approved in it."""
    saver = InMemorySaver()
    graph = gated(people, paid, saver=saver)
    run(graph, start())
    people.approve()
    copied: Any = {"configurable": {"thread_id": "2"}}
    saver.storage["2"] = deepcopy(saver.storage["1"])
    for (_, *rest), value in list(saver.writes.items()):
        saver.writes["2", *rest] = deepcopy(value)
    for (_, *rest), value in list(saver.blobs.items()):
        saver.blobs["2", *rest] = value
    (question,) = asked(run(graph, None, copied))
    assert (question["thread"], paid) == ("2", [])
    run(graph, None)
    assert len(asked(run(graph, None, copied))) == 1
    assert paid == [(90, "bob")]


def test_a_fork_asks_again(people: People, paid: Payments) -> None:
    """Going back to before the call, after it was paid, doesn't pay again."""
    graph = gated(people, paid)
    run(graph, start())
    people.approve()
    run(graph, None)
    before = next(each for each in graph.get_state_history(THREAD) if each.next == ("tools",))
    fork = graph.update_state(before.config, None)
    assert len(asked(run(graph, None, fork))) == 1
    assert paid == [(90, "bob")]


def test_time_travel_asks_again(people: People, paid: Payments) -> None:
    """LangGraph runs another task from an earlier checkpoint, which needs another approval."""
    graph = gated(people, paid)
    run(graph, start())
    people.approve()
    run(graph, None)
    before = next(each for each in graph.get_state_history(THREAD) if each.next == ("tools",))
    state = run(graph, None, before.config)
    assert paid == [(90, "bob")]
    assert [each["arguments"] for each in asked(state)] == [PAY]


@BOTH
def test_calls_of_one_task_are_answered_apart(people: People, paid: Payments, go: Run) -> None:
    """A plain node runs them in one task, which runs again until all are answered."""
    graph = gated(people, paid)
    given = [{"amount": each, "to": "bob"} for each in (1, 2, 3)]
    go(graph, start(*given))
    # A thread of the node that hasn't begun when another call waits begins at a later resume.
    for _ in range(20):
        if len(people.open()) == 3:
            break
        go(graph, Command(resume=True))
    for number, amount in enumerate((3, 1, 2), 1):
        people.approve(amount=amount)
        for _ in range(20):
            state = go(graph, Command(resume=True))
            if len(paid) == number:
                break
        assert len(asked(state)) == (number < 3)
    assert told(state) == [f"paid {each} to bob" for each in (1, 2, 3)]
    assert paid == [(3, "bob"), (1, "bob"), (2, "bob")]


@BOTH
def test_two_calls_with_one_id_are_one(people: People, paid: Payments, go: Run) -> None:
    """A model that repeats a call under the same id gets one payment for one approval."""
    graph = gated(people, paid)
    message = calling(PAY, PAY)
    message.tool_calls[1]["id"] = message.tool_calls[0]["id"]
    go(graph, {"messages": [message]})
    people.approve()
    state = go(graph, None)
    assert paid == [(90, "bob")]
    assert "paid 90 to bob" in told(state)


class Killed(BaseException):
    """The process ends."""


@BOTH
def test_a_kill_after_the_approval_was_used(people: People, go: Run) -> None:
    """Whether it was paid isn't known, so it isn't paid again, and the model reads that."""
    tried = []

    @tool
    def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        tried.append(amount)
        raise Killed

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    go(graph, start())
    people.approve()
    with pytest.raises(Killed):
        go(graph, None)
    (words,) = told(go(graph, None))
    assert "it isn't known whether it took effect. It isn't run again" in words
    assert tried == [90]


@BOTH
def test_a_tool_that_raises_is_not_run_again(people: People, go: Run) -> None:
    """It may have paid before it failed."""
    tried = []

    @tool
    def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        tried.append(amount)
        raise ConnectionError("the bank's answer was lost")

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    go(graph, start())
    people.approve()
    with pytest.raises(ConnectionError):
        go(graph, None)
    (words,) = told(go(graph, None))
    assert "failed with ConnectionError" in words
    assert "lost" not in words
    assert tried == [90]


class CancelledRun:
    """A run that goes on after the approval, and that its own tool cancels."""

    task: asyncio.Future[Any]

    async def is_cancelled(self, graph: Any) -> None:
        """Run a graph, and require that it ends as cancelled."""
        self.task = asyncio.ensure_future(graph.ainvoke(None, THREAD))
        with pytest.raises(asyncio.CancelledError):
            await self.task


def test_a_cancelled_tool_is_not_run_again(people: People) -> None:
    """A run that is cancelled while it pays may have paid."""
    tried, run = [], CancelledRun()

    @tool
    async def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        tried.append(amount)
        run.task.cancel()
        await asyncio.Event().wait()
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    arun(graph, start())
    people.approve()

    asyncio.run(run.is_cancelled(graph))
    (words,) = told(arun(graph, None))
    assert "It isn't run again" in words
    assert tried == [90]


def test_a_run_that_is_cancelled_before_it_pays_keeps_its_approval(people: People) -> None:
    """The approval is used up in a thread, which goes on: it is given back, and pays later."""
    paid = []

    @tool
    async def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        paid.append((amount, to))
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    arun(graph, start())
    people.approve()
    with halted_before(people.pipelit, "INSERT INTO pipelit_approval_uses") as halt:

        async def cancelled() -> None:
            task = asyncio.ensure_future(graph.ainvoke(None, THREAD))
            assert await asyncio.to_thread(halt.reached.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            halt.release()

        asyncio.run(cancelled())
    assert not paid
    assert told(arun(graph, None)) == ["paid"]
    assert told(arun(graph, None)) == ["paid"]
    assert paid == [(90, "bob")]
    (question,) = people.pipelit.approvals.register.list()
    assert question.state == "used"


@pytest.mark.parametrize("late", [False, True])
def test_a_result_that_nobody_gets_is_taken_back_once(late: bool) -> None:
    """A task is cancelled while the thread works, or with the thread's result on its way."""
    begun, go, back = Event(), Event(), SimpleQueue[str]()

    def work() -> str:
        begun.set()
        assert go.wait(60)
        return "result"

    async def cancelled() -> None:
        asyncio.get_running_loop().set_default_executor(one)
        task = asyncio.ensure_future(handed_over(work, back.put))
        await asyncio.sleep(0)
        assert begun.wait(60)
        if late:
            go.set()
            # The only thread is done, and the loop stands still here.
            one.submit(int).result(60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    one = ThreadPoolExecutor(1)
    asyncio.run(cancelled())
    assert back.get(timeout=60) == "result"
    assert back.empty()


def test_what_a_cancelled_tool_ended_with_is_stored(people: People) -> None:
    """It is cancelled when it has paid, while no thread is free to write that down."""
    busy, run = Event(), CancelledRun()

    @tool
    async def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(one)
        one.submit(busy.wait, 60)
        # When the tool's own steps are done: they wait for nothing.
        loop.call_soon(loop.call_soon, loop.call_soon, run.task.cancel)
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    arun(graph, start())
    people.approve()

    async def cancelled() -> None:
        await run.is_cancelled(graph)
        busy.set()

    one = ThreadPoolExecutor(1)
    asyncio.run(cancelled())
    assert told(arun(graph, None)) == ["paid"]


@BOTH
def test_a_command_is_returned_and_stored(people: People, go: Run) -> None:
    """A tool may return a command; a second run of its task gets the same one."""
    ran = []

    @tool
    def send_money(
        amount: int, to: str, tool_call_id: Annotated[str, InjectedToolCallId]
    ) -> Command[Any]:
        """Pay somebody."""
        ran.append(amount)
        return Command(
            update={"messages": [ToolMessage(f"paid {amount}", tool_call_id=tool_call_id)]}
        )

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    go(graph, start(PAY, PAY | {"amount": 1}))
    people.approve(amount=90)
    assert len(asked(go(graph, None))) == 1
    people.approve(amount=1)
    assert sorted(told(go(graph, None))) == ["paid 1", "paid 90"]
    assert ran == [90, 1]


@pytest.mark.parametrize("wake", [None, Command(resume=True), "id"], ids=["none", "value", "id"])
@BOTH
def test_a_tool_may_interrupt_by_itself(people: People, go: Run, wake: Any) -> None:
    """What woke the gate isn't the answer to the tool's own question."""
    paid = []

    @tool
    def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        account = interrupt("from which account?")
        pin = interrupt("and the branch?")
        paid.append((amount, to, account, pin))
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    state = go(graph, start())
    assert len(asked(go(graph, Command(resume="too early")))) == 1
    state = go(graph, None)
    people.approve()
    if wake == "id":
        wake = Command(resume={state["__interrupt__"][0].id: True})
    state = go(graph, wake)
    assert asked(state) == ["from which account?"]
    state = go(graph, Command(resume={state["__interrupt__"][0].id: "savings"}))
    assert asked(state) == ["and the branch?"]
    state = go(graph, Command(resume="north"))
    assert told(state) == ["paid"]
    assert paid == [(90, "bob", "savings", "north")]


@pytest.mark.parametrize("ending", ["deny", "expire", "deactivate"])
def test_a_tool_that_stopped_at_its_question_was_run(people: People, ending: str) -> None:
    """If its approval ends before it goes on, no words say that nothing was done."""
    done = []

    @tool
    def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        done.append(amount)
        return str(interrupt("from which account?"))

    rule = Approvers(["alice"], expires_in=900)
    graph = node_of(approved_tool(people.pipelit, send_money, rule))
    run(graph, start())
    (question,) = people.open()
    people.approve()
    run(graph, None)
    if ending == "deny":
        people.pipelit.approvals.deny(question.id, "alice", people.code("alice"))
    elif ending == "expire":
        people.clock.advance(900)
    else:
        people.pipelit.users.deactivate("alice")
    (words,) = told(run(graph, Command(resume="savings")))
    assert words.startswith("This call was approved and started before, and stopped at a question")
    assert done == [90]


def test_a_tools_question_can_be_answered_again_after_a_wrong_answer(people: People) -> None:
    """LangGraph refuses a value of the wrong form and saves nothing, so nothing was done."""
    paid = []

    class Account(BaseModel):
        number: int

    @tool
    def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        paid.append(interrupt("from which account?", response_schema=Account).number)
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    run(graph, start())
    people.approve()
    run(graph, None)
    with pytest.raises(ValidationError):
        run(graph, Command(resume={"number": "mine"}))
    assert told(run(graph, Command(resume={"number": 7}))) == ["paid"]
    assert paid == [7]


def test_a_result_that_cannot_be_stored_is_returned_once(people: People, paid: Payments) -> None:
    """A second run of its task reads that it isn't known what the call did."""

    @tool(response_format="content_and_artifact")
    def send_money(amount: int, to: str) -> tuple[str, object]:
        """Pay somebody."""
        paid.append((amount, to))
        return "paid", object()

    made = approved_tool(people.pipelit, send_money, Approvers(["alice"]))
    results = []
    call = calling(PAY).tool_calls[0]

    def node(_: Any) -> None:
        results.extend(made.invoke(call).content for _ in range(2))

    builder = StateGraph(MessagesState).add_node("pay", node).add_edge(START, "pay")
    graph = builder.compile(checkpointer=InMemorySaver())
    run(graph, {"messages": []})
    people.approve()
    run(graph, None)
    assert results[0] == "paid"
    assert "it isn't known whether it took effect" in results[1]
    assert paid == [(90, "bob")]


def test_a_graph_in_a_tool_may_be_stopped_and_resumed(people: People) -> None:
    """A run that is drained while the tool works goes on where it was."""
    paid = []
    control = RunControl()

    def prepare(_: Any) -> None:
        control.request_drain()

    builder = StateGraph(MessagesState).add_node("prepare", prepare)
    builder.add_node("pay", lambda _: paid.append(90)).add_edge("prepare", "pay")
    inner = builder.add_edge(START, "prepare").compile()

    @tool
    def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        inner.invoke({"messages": []})
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    run(graph, start())
    people.approve()
    with pytest.raises(GraphDrained):
        graph.invoke(None, THREAD, control=control)
    assert paid == []
    assert told(run(graph, None)) == ["paid"]
    assert paid == [90]


def test_the_arguments_are_those_of_the_model(people: People) -> None:
    """What the tool hides isn't asked; its defaults are, as the tool will use them."""
    seen = []

    @tool
    def send_money(
        amount: int,
        state: Annotated[Any, InjectedState],
        runtime: ToolRuntime,
        currency: str = "EUR",
        tags: tuple[str, ...] = (),
    ) -> str:
        """Pay somebody."""
        seen.append((amount, currency, len(state["messages"]), runtime.tool_call_id))
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    (question,) = asked(run(graph, start({"amount": 90})))
    assert question["arguments"] == {"amount": 90, "currency": "EUR", "tags": []}
    people.approve()
    assert told(run(graph, None)) == ["paid"]
    assert seen == [(90, "EUR", 1, "call_1")]


def test_a_tool_with_a_json_schema_hides_only_what_langgraph_injects(people: People) -> None:
    """Such a tool takes whatever is sent, as those of MCP servers do."""
    seen = []

    async def call(runtime: Annotated[object, InjectedToolArg] = None, **arguments: Any) -> str:
        seen.append(arguments)
        return "paid"

    schema = {"type": "object", "properties": {"amount": {"type": "integer", "default": 1}}}
    made = StructuredTool(name="send_money", description="Pay.", coroutine=call, args_schema=schema)
    graph = node_of(approved_tool(people.pipelit, made, Approvers(["alice"])))
    sent = {"amount": 90, "note": {"for": ["May"]}, "runtime": "forged"}
    (question,) = asked(arun(graph, start(sent)))
    assert question["arguments"] == {"amount": 90, "note": {"for": ["May"]}}
    people.approve()
    assert told(arun(graph, None)) == ["paid"]
    assert seen == [{"amount": 90, "note": {"for": ["May"]}}]


def test_defaults_are_a_part_of_what_is_approved(people: People) -> None:
    """If the tool's default changes before it runs, people are asked again."""
    paid = []
    saver = InMemorySaver()

    def with_default(account: str) -> Any:
        def send_money(amount: int, account: str = account) -> str:
            """Pay somebody."""
            paid.append((amount, account))
            return "paid"

        return node_of(
            approved_tool(people.pipelit, tool(send_money), Approvers(["alice"])), saver=saver
        )

    run(with_default("alice's"), start({"amount": 90}))
    people.approve()
    (question,) = asked(run(with_default("bob's"), None))
    assert question["arguments"]["account"] == "bob's"
    run(with_default("alice's"), None)
    assert paid == [(90, "alice's")]


def test_a_model_cannot_fill_what_the_tool_hides(people: People) -> None:
    """Values for a hidden parameter are dropped by LangGraph, and never reach the tool."""
    seen = []

    @tool
    def send_money(amount: int, account: Annotated[str, InjectedToolArg] = "mine") -> str:
        """Pay somebody."""
        seen.append((amount, account))
        return "paid"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    (question,) = asked(run(graph, start({"amount": 90, "account": "alice's"})))
    assert question["arguments"] == {"amount": 90}
    people.approve()
    run(graph, None)
    assert seen == [(90, "mine")]


def test_code_beside_the_tool_cannot_change_what_was_approved(people: People) -> None:
    """The tool gets what was approved, even if something changes the message's call meanwhile."""
    message = calling({"to": ["bob"]})
    paid = []

    @tool
    def send_money(to: list[str]) -> str:
        """Pay people."""
        paid.append(to)
        return "paid"

    def turn(arguments: Any) -> bool:
        message.tool_calls[0]["args"]["to"].append("mallory")
        arguments["to"].append("mallory")
        return False

    rule = Approvers(["alice"], when=turn)
    node = ToolNode([approved_tool(people.pipelit, send_money, rule)])
    builder = StateGraph(MessagesState).add_node(
        "tools", lambda _: node.invoke({"messages": [message]})
    )
    graph = builder.add_edge(START, "tools").compile(checkpointer=InMemorySaver())
    run(graph, {"messages": []})
    assert paid == [["bob"]]


def test_only_calls_that_the_rule_names_are_asked(people: People, paid: Payments) -> None:
    """Small payments run at once; a question that was asked counts, whatever the rule says now."""
    limit = [50]
    graph = gated(people, paid, when=lambda arguments: arguments["amount"] > limit[0])
    assert told(run(graph, start({"amount": 5, "to": "bob"}))) == ["paid 5 to bob"]
    other = {"configurable": {"thread_id": "2"}}
    run(graph, start(), other)
    limit[0] = 1000
    assert len(asked(run(graph, None, other))) == 1
    assert paid == [(5, "bob")]


def test_the_agent_is_in_the_question(people: People, paid: Payments) -> None:
    """A person sees which agent wants to pay."""
    made = approved_tool(
        people.pipelit, paid.tool, Approvers(["alice"]), agent=people.agent("lead")
    )
    (question,) = asked(run(node_of(made), start()))
    assert question["agent"] == "agent_lead"
    assert people.open()[0].agent == "agent_lead"


def test_a_run_that_cannot_wait_is_an_error(people: People, paid: Payments) -> None:
    """Without a checkpointer or a thread the answer would have nowhere to arrive."""
    made = approved_tool(people.pipelit, paid.tool, Approvers(["alice"]))
    builder = StateGraph(MessagesState).add_node("tools", ToolNode([made]))
    graph = builder.add_edge(START, "tools").compile()
    for config in ({}, THREAD):
        with pytest.raises(ConfigurationError, match=r"checkpointer, with a thread_id"):
            graph.invoke(start(), config)
    inner = builder.compile(checkpointer=False)
    outer = StateGraph(MessagesState).add_node("inner", lambda state: inner.invoke(state))
    with pytest.raises(ConfigurationError, match=r"checkpointer=False"):
        run(outer.add_edge(START, "inner").compile(checkpointer=InMemorySaver()), start())
    with pytest.raises(ConfigurationError, match=r"checkpointer, with a thread_id"):
        made.invoke({"type": "tool_call", "id": "1", "name": "send_money", "args": PAY})
    with pytest.raises(ConfigurationError, match=r"with the whole call"):
        made.invoke(PAY)
    assert (paid, people.open()) == ([], [])


def test_a_call_that_waits_leaves_no_other_call_behind(people: People) -> None:
    """On an event loop, a call that is being paid ends before the graph is interrupted."""
    paid = []

    @tool
    async def send_money(amount: int, to: str) -> str:
        """Pay somebody."""
        for _ in range(50):
            await asyncio.to_thread(int)
        paid.append(amount)
        return f"paid {amount}"

    graph = node_of(approved_tool(people.pipelit, send_money, Approvers(["alice"])))
    arun(graph, start(PAY, PAY | {"amount": 1}))
    people.approve(amount=1)
    assert len(asked(arun(graph, None))) == 1
    assert paid == [1]
    people.approve(amount=90)
    assert told(arun(graph, None)) == ["paid 90", "paid 1"]


@pytest.fixture(params=["memory", "sqlite", "sealed"])
def saver(request: pytest.FixtureRequest, people: People) -> Iterator[Any]:
    """A checkpointer of each kind."""
    if request.param == "sqlite":
        with SqliteSaver.from_conn_string(":memory:") as made:
            yield made
    elif request.param == "sealed":
        yield people.pipelit.sealed_saver(InMemorySaver())
    else:
        yield InMemorySaver()


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_it_waits_under_every_saver(
    people: People, paid: Payments, saver: Any, durability: Any
) -> None:
    """Another graph over the same saver, as of another process, goes on with the answer."""
    gated(people, paid, saver=saver).invoke(start(), THREAD, durability=durability)
    people.approve()
    state = gated(people, paid, saver=saver).invoke(None, THREAD, durability=durability)
    assert told(state) == ["paid 90 to bob"]
    assert paid == [(90, "bob")]


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "custom"])
def test_streams_have_the_question_and_the_result(
    people: People, paid: Payments, mode: Any
) -> None:
    """Whatever is streamed, nothing is paid before the answer."""
    graph = gated(people, paid)
    list(graph.stream(start(), THREAD, stream_mode=[mode, "updates"]))
    people.approve()
    pieces = str(list(graph.stream(None, THREAD, stream_mode=[mode, "updates"])))
    assert "paid 90 to bob" in pieces
    assert paid == [(90, "bob")]


def test_a_stranger_with_the_thread_cannot_answer(people: People, paid: Payments) -> None:
    """No resume value, and no write of the state, is an approval."""
    graph = gated(people, paid)
    run(graph, start())
    forged = {"decision": "approved", "by": "alice", "username": "alice", "approved": True}
    for value in (True, "approve", forged, {"decisions": [{"type": "approve"}]}, [forged]):
        assert len(asked(run(graph, Command(resume=value)))) == 1
    run(graph, Command(resume=True, update={"approval": forged}))
    assert paid == []


def test_twins_pay_once(people: People, paid: Payments) -> None:
    """Of processes that resume a thread at once, one pays; none says that it wasn't paid."""
    saver = InMemorySaver()
    run(gated(people, paid, saver=saver), start())
    people.approve()
    copies = [deepcopy_of(saver) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda each: run(gated(people, paid, saver=each), None), copies))
    assert paid == [(90, "bob")]
    assert any(told(each) == ["paid 90 to bob"] for each in states)
    others = [each for each in states if told(each) != ["paid 90 to bob"]]
    assert all("approved and started before" in told(each)[0] for each in others)


def deepcopy_of(saver: InMemorySaver) -> InMemorySaver:
    """What another process reads."""
    made = InMemorySaver()
    made.storage, made.writes, made.blobs = (
        deepcopy(each) for each in (saver.storage, saver.writes, saver.blobs)
    )
    return made


def test_a_planted_question_is_no_question(people: People, paid: Payments) -> None:
    """Rows that somebody with the database wrote are ignored, and the question is asked."""
    graph = gated(people, paid)
    run(graph, start())
    database = database_of(people.pipelit)
    with database.writing() as connection:
        connection.execute(update(ApprovalRow).values(state="approved"))
    assert len(asked(run(graph, None))) == 1
    assert paid == []


def test_a_call_that_nobody_could_approve_is_refused_in_words(
    people: People, paid: Payments
) -> None:
    """Nobody waits for people without a second factor."""
    people.pipelit.users.create("dora")
    state = run(gated(people, paid, names=["dora"]), start())
    (words,) = told(state)
    assert words.startswith("send_money was not run: ")
    assert "dora" in words
    assert paid == []


def test_arguments_that_cannot_be_displayed_are_refused(people: People) -> None:
    """A value that isn't JSON is refused before anybody is asked."""

    @tool
    def send_money(amount: float) -> str:
        """Pay somebody."""
        return "paid"

    made = approved_tool(people.pipelit, send_money, Approvers(["alice"]))
    (words,) = told(run(node_of(made), start({"amount": float("nan")})))
    assert "can't be displayed" in words
    assert people.open() == []


def test_two_of_three_have_to_approve(people: People, paid: Payments) -> None:
    """The graph waits until enough people have approved."""
    graph = gated(people, paid, names=["alice", "carol"], at_least=2)
    run(graph, start())
    people.approve("alice")
    (question,) = asked(run(graph, None))
    assert question["at_least"] == 2
    assert paid == []
    people.approve("carol")
    run(graph, None)
    assert paid == [(90, "bob")]


def test_the_rule_of_the_running_code_counts(people: People, paid: Payments) -> None:
    """An approval by somebody whom the present rule doesn't name isn't used."""
    saver = InMemorySaver()
    run(gated(people, paid, saver=saver), start())
    people.approve()
    (words,) = told(run(gated(people, paid, saver=saver, names=["carol"]), None))
    assert words.startswith("send_money was not run: ")
    assert paid == []


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        pytest.param({"amt": 900}, {"amt": 900, "to": "bob"}, id="alias"),
        pytest.param({"amount": 900}, {"amt": 900, "to": "bob"}, id="name"),
        pytest.param({"amount": 1, "amt": 900}, {"amt": 900, "to": "bob"}, id="both"),
        pytest.param({"amt": "9_00"}, {"amt": 900, "to": "bob"}, id="converted"),
        pytest.param({}, {"amt": 5, "to": "bob"}, id="default"),
        pytest.param({"to": "eve", "x": 1}, {"amt": 5, "to": "eve"}, id="unknown"),
    ],
)
def test_no_default_is_shown_for_a_value_that_was_sent(sent: Any, shown: Any) -> None:
    """Nobody reads 5 or 1 where 900 is paid, by whatever names the model sent it."""

    class Payment(BaseModel):
        model_config = ConfigDict(populate_by_name=True)
        amount: int = Field(5, alias="amt")
        to: str = "bob"
        at: float = Field(default_factory=float)

    made = StructuredTool.from_function(print, name="pay", description="", args_schema=Payment)
    exact = exact_arguments(made, sent)
    assert (exact.shown, exact.passed) == (shown, shown)


@BOTH
def test_a_verified_childs_question_surfaces(people: People, paid: Payments, go: Run) -> None:
    """A verified child's tool asks through its parent, and pays after the answer."""
    lead, researcher = people.agent("lead"), people.agent("researcher")
    made = approved_tool(people.pipelit, paid.tool, Approvers(["alice"]), agent=researcher)
    child = verified_child(create_agent(model(calling(PAY)), [made]), researcher)
    graph = parent_of(lead, {"agent_researcher": child}, InMemorySaver())
    task = {"agent": "agent_researcher", "input": {"messages": [("user", "pay")]}}
    (question,) = asked(go(graph, {"tasks": [task]}))
    assert (question["agent"], question["arguments"]) == ("agent_researcher", PAY)
    assert len(asked(go(graph, Command(resume=True)))) == 1
    assert paid == []
    people.approve()
    (result,) = go(graph, None)["results"]
    assert (result["status"], told(result["output"])) == ("verified", ["paid 90 to bob"])
    assert paid == [(90, "bob")]


@BOTH
def test_an_approved_tool_may_call_another(people: People, paid: Payments, go: Run) -> None:
    """Each asks for itself, and the outer one goes on after the inner one was approved."""
    inner = approved_tool(people.pipelit, paid.tool, Approvers(["alice"]))
    call = {"type": "tool_call", "id": "inner", "name": "send_money", "args": PAY}

    def salary(month: str) -> str:
        """Pay a salary."""
        return str(inner.invoke(call).content)

    async def asalary(month: str) -> str:
        return str((await inner.ainvoke(call)).content)

    both = StructuredTool.from_function(salary, asalary)
    graph = node_of(approved_tool(people.pipelit, both, Approvers(["alice"])))
    state = go(graph, {"messages": [calling({"month": "May"}, name="salary")]})
    assert [each["tool"] for each in asked(state)] == ["salary"]
    people.approve()
    assert [each["tool"] for each in asked(go(graph, Command(resume=True)))] == ["send_money"]
    assert len(asked(go(graph, Command(resume=True)))) == 1
    assert paid == []
    people.approve()
    assert told(go(graph, None)) == ["paid 90 to bob"]
    assert paid == [(90, "bob")]


@BOTH
def test_people_are_notified_once_of_a_question(people: People, paid: Payments, go: Run) -> None:
    """Without the arguments; a later run that waits sends again what failed, and nothing else."""
    notices: list[ApprovalNotice] = []

    def failing_first(notice: ApprovalNotice) -> None:
        notices.append(notice)
        if len(notices) == 1:
            raise OSError("no network")

    rule = Approvers(["alice"])
    graph = node_of(approved_tool(people.pipelit, paid.tool, rule, on_request=failing_first))
    (question,) = asked(go(graph, start()))
    for _ in range(3):
        people.clock.advance(600)
        go(graph, None)
    assert [(each.id, each.tool, each.approvers, each.arguments) for each in notices] == [
        (question["id"], "send_money", ("alice",), None)
    ] * 2
    people.approve()
    go(graph, None)
    assert len(notices) == 2
    assert paid == [(90, "bob")]


def test_a_receiver_of_notices_is_checked_when_a_tool_is_wrapped(
    people: People, paid: Payments
) -> None:
    """A wrong one would be found only when somebody is asked."""
    with pytest.raises(TypeError, match=r"on_request must be a function of an ApprovalNotice"):
        approved_tool(
            people.pipelit,
            paid.tool,
            Approvers(["alice"]),
            on_request="https://example.com",  # type: ignore[arg-type]
        )
