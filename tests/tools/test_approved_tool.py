"""A copy of a tool that asks people before each call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from paying import PAY, Payments, People, calling, node_of, run, told

from pipelit_agents import Approvers, Pipelit
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.tools import approved_tool

BACKENDS = False


def test_the_copy_looks_like_the_tool(people: People, paid: Payments) -> None:
    """The model sees the same name, description and schema; the tool itself isn't changed."""
    plain = paid.tool
    made = approved_tool(people.pipelit, plain, Approvers(["alice"]))
    assert convert_to_openai_tool(made) == convert_to_openai_tool(plain)
    assert made.model_dump(exclude={"func"}) == plain.model_dump(exclude={"func"})
    assert plain.invoke(PAY) == "paid 90 to bob"


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda made: made.model_copy(), id="copy"),
        pytest.param(lambda made: made.model_copy(deep=True), id="deep"),
        pytest.param(lambda made: made.model_copy(update={"name": "pay"}), id="renamed"),
    ],
)
def test_copies_of_the_copy_ask_too(people: People, paid: Payments, copy: Any) -> None:
    """Packages copy tools, to rename or describe them."""
    made = copy(approved_tool(people.pipelit, paid.tool, Approvers(["alice"])))
    graph = node_of(made)
    run(graph, {"messages": [calling(PAY, name=made.name)]})
    assert paid == []
    people.approve()
    assert told(run(graph, None)) == ["paid 90 to bob"]


def send_money(amount: int, to: str) -> str:
    """Pay somebody."""
    raise AssertionError


async def asend_money(amount: int, to: str) -> str:
    """Pay somebody."""
    raise AssertionError


@pytest.mark.parametrize("function", [send_money, asend_money], ids=["sync", "async"])
def test_a_tool_that_is_made_of_its_function_is_refused(people: People, function: Any) -> None:
    """A package that takes the function, and not the tool, would leave the gate out."""
    rule = Approvers(["alice"])
    made: Any = approved_tool(people.pipelit, tool("send_money")(function), rule)
    other = StructuredTool.from_function(made.func, made.coroutine, name=made.name)
    assert other.args == made.args
    with pytest.raises(ConfigurationError, match="its function was called without the gate"):
        asyncio.run(other.ainvoke(PAY))
    with pytest.raises(ConfigurationError, match="its function was called without the gate"):
        (made.func or made.coroutine)(**PAY)


class Class(BaseTool):
    """A tool whose functions are methods."""

    name: str = "send_money"
    description: str = "Pay somebody."
    paid: list[str] = []

    def _run(self, amount: int, to: str) -> str:
        self.paid.append(to)
        return f"paid {amount} to {to}"

    async def _arun(self, amount: int, to: str) -> str:
        return self._run(amount, to)


def test_a_tool_that_is_made_of_its_methods_is_refused(people: People) -> None:
    """Packages also take the methods, of a tool that is a class."""
    plain = Class()
    made = approved_tool(people.pipelit, plain, Approvers(["alice"]))
    assert convert_to_openai_tool(made) == convert_to_openai_tool(plain)
    other = StructuredTool.from_function(made._run, made._arun, made.name, made.description)
    assert other.args == made.args
    for call in (
        lambda: other.invoke(PAY),
        lambda: asyncio.run(other.ainvoke(PAY)),
        lambda: made._run(**PAY),
        lambda: asyncio.run(made._arun(**PAY)),
    ):
        with pytest.raises(ConfigurationError, match="its function was called without the gate"):
            call()
    assert plain.paid == []
    graph = node_of(made)
    run(graph, {"messages": [calling(PAY)]})
    people.approve()
    assert told(run(graph, None)) == ["paid 90 to bob"]
    assert plain._run(1, "carol") == "paid 1 to carol"


class Own(BaseTool):
    """A tool that runs in a way of its own."""

    name: str = "send_money"
    description: str = "Pay somebody."

    def _run(self, amount: int, to: str) -> str:
        raise AssertionError

    def invoke(self, input: Any, config: Any = None, **_: Any) -> str:  # noqa: A002 - its name
        """Run without LangChain."""
        return self._run(**input["args"])


def test_a_tool_with_its_own_invoke_is_an_error(people: People, paid: Payments) -> None:
    """It could run without passing the gate; a copy of a tool can have one, too."""
    copied = paid.tool
    vars(copied)["ainvoke"] = copied.ainvoke
    for made, name in ((Own(), "invoke"), (copied, "ainvoke")):
        with pytest.raises(ConfigurationError, match=f"its {name} isn't LangChain's"):
            approved_tool(people.pipelit, made, Approvers(["alice"]))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda p, t: approved_tool(None, t, Approvers(["alice"])), "pipelit", id="p"),
        pytest.param(lambda p, t: approved_tool(p, len, Approvers(["alice"])), "@tool", id="tool"),
        pytest.param(lambda p, t: approved_tool(p, t, ["alice"]), "Approvers", id="rule"),
        pytest.param(
            lambda p, t: approved_tool(p, t, Approvers(["alice"]), agent="agent_lead"),
            "handle",
            id="agent",
        ),
    ],
)
def test_a_wrong_argument_is_an_error(
    pipelit: Pipelit, paid: Payments, make: Any, error: str
) -> None:
    """It names the argument."""
    with pytest.raises(TypeError, match=error):
        make(pipelit, paid.tool)


def test_a_tool_with_a_gate_gets_no_second_one(people: People, paid: Payments) -> None:
    """The second gate would find the approval used up."""
    made = approved_tool(people.pipelit, paid.tool, Approvers(["alice"]))
    with pytest.raises(ConfigurationError, match="asks for approvals already"):
        approved_tool(people.pipelit, made.model_copy(), Approvers(["alice"]))
