"""The demonstration's payment: it waits for a person's code, whatever else is tried."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import pyotp
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from pipelit_agents import Approvers, Pipelit
from pipelit_agents.errors import PipelitError

from ..gated_tool import gated_tool
from ..tool_gate import Gate
from ..types import AnyGraph

__all__ = ["AMOUNT", "APPROVED", "Attempt", "attempts"]

AMOUNT: Final = 90
APPROVER: Final = "alice"
STRANGER: Final = "mallory"
PAYMENT: Final[RunnableConfig] = {"configurable": {"thread_id": "payment"}}
CHANGED: Final[RunnableConfig] = {"configurable": {"thread_id": "changed"}}
APPROVED: Final = f"a code of {APPROVER}'s"


class Attempt(NamedTuple):
    """One attempt to get the payment made.

    Attributes:
        attempt: What was tried.
        result: What came of it.
        paid: All amounts that were paid until then.
    """

    attempt: str
    result: str
    paid: tuple[int, ...]


def attempts(pipelit: Pipelit, saver: BaseCheckpointSaver[Any]) -> list[Attempt]:
    """Try to get a payment made: without an approval, with another amount, and with an approval.

    Args:
        pipelit: A database in which the people are created.
        saver: The checkpointer of the graph that pays.
    """
    codes = iter(_people(pipelit))
    paid: list[int] = []
    graph = _graph(pipelit, paid, saver)
    made: list[Attempt] = []

    def note(attempt: str, result: str) -> None:
        made.append(Attempt(attempt, result, tuple(paid)))

    def run(given: object, config: RunnableConfig) -> str:
        state = graph.invoke(given, config)
        waiting = state.get("__interrupt__", ())
        asked = [f"asks about {each.value['arguments']['amount']}" for each in waiting]
        return ", ".join(asked) or str(state["messages"][-1].content)

    def approve(name: str, code: str, thread: str) -> str:
        question = next(each for each in pipelit.approvals.pending() if each.thread == thread)
        return _outcome(lambda: pipelit.approvals.decide(question.id, name, code).decision)

    note("the model calls the tool", run(_call(AMOUNT), PAYMENT))
    note("a resume that says it is approved", run(Command(resume="approved"), PAYMENT))
    note("a wrong code", approve(APPROVER, "000000", "payment"))
    note(f"a code of {STRANGER}'s, who isn't asked", approve(STRANGER, "000000", "payment"))
    run(_call(AMOUNT), CHANGED)
    approve(APPROVER, next(codes), "changed")
    graph.update_state(CHANGED, _call(900))
    note(f"900 in the graph's state, after a yes to {AMOUNT}", run(None, CHANGED))
    approve(APPROVER, next(codes), "payment")
    note(APPROVED, run(None, PAYMENT))
    before = next(each for each in graph.get_state_history(PAYMENT) if each.next == ("tools",))
    note("time travel to before the payment", run(None, before.config))
    return made


def _people(pipelit: Pipelit) -> Sequence[str]:
    """Create the approver and a stranger, and return the approver's recovery codes."""
    for name in (APPROVER, STRANGER):
        pipelit.users.create(name)
    phone = pyotp.TOTP(pyotp.parse_uri(pipelit.mfa.enroll(APPROVER).get_secret_value()).secret)
    step = int(time.time()) // phone.interval
    codes = pipelit.mfa.confirm(APPROVER, phone.generate_otp(step))
    # The app's code was used to turn the factor on, and the next one comes within 30 seconds.
    return [each.get_secret_value() for each in codes]


def _graph(pipelit: Pipelit, paid: list[int], saver: BaseCheckpointSaver[Any]) -> AnyGraph:
    def send_money(amount: int) -> str:
        """Pay somebody."""
        paid.append(amount)
        return f"paid {amount}"

    gate = Gate(pipelit, Approvers([APPROVER], expires_in=900))
    tool = gated_tool(StructuredTool.from_function(send_money), gate)
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([tool]))
    builder.add_edge(START, "tools")
    return builder.compile(checkpointer=saver)


def _call(amount: int) -> dict[str, list[AIMessage]]:
    call = {"name": "send_money", "args": {"amount": amount}, "id": "call_1"}
    # With an id, so that a second message replaces the first.
    return {"messages": [AIMessage("", tool_calls=[call], id="message_1")]}


def _outcome(answer: Callable[[], str]) -> str:
    try:
        return answer()
    except PipelitError as refusal:
        return f"refused: {refusal}"
