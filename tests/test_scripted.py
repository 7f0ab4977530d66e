"""The model of `pipelit_agents.testing`, whose replies a test writes."""

from __future__ import annotations

import fresh
import pytest
from integration_pages import environment
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from pipelit_agents.testing import ScriptedModel, tool_call


def pay(to: str, amount: int) -> str:
    """Pay somebody."""
    return f"paid {amount} to {to}"


def test_an_agent_follows_the_script() -> None:
    """It calls the tool with these arguments, and then says the text."""
    model = ScriptedModel(tool_call("pay", to="bob", amount=90), "Bob has his 90.")
    messages = create_agent(model, [pay]).invoke({"messages": [("user", "Pay bob.")]})["messages"]
    assert [each.text for each in messages] == ["Pay bob.", "", "paid 90 to bob", "Bob has his 90."]


async def test_it_streams_and_runs_in_a_loop() -> None:
    """The ways of a model that LangChain makes of one."""
    model = ScriptedModel("one", AIMessage("two"), "three")
    assert (await model.ainvoke("?")).text == "one"
    assert "".join([each.text for each in model.stream("?")]) == "two"
    assert "".join([each.text async for each in model.astream("?")]) == "three"


def test_a_tool_is_called_twice_under_two_numbers() -> None:
    """A result belongs to one call."""
    (first,), (second,) = tool_call("pay").tool_calls, tool_call("pay").tool_calls
    assert first["name"] == second["name"] == "pay"
    assert first["id"] != second["id"]


def test_a_script_that_ends_says_so() -> None:
    """One reply was written, and the model is called twice."""
    model = ScriptedModel("one")
    model.invoke("?")
    with pytest.raises(IndexError, match="no reply for call 2 of this model"):
        model.invoke("?")


def test_a_reply_of_another_type_is_refused() -> None:
    """The error names which."""
    with pytest.raises(TypeError, match="reply 2 must be a text or an AIMessage, not 90"):
        ScriptedModel("one", 90)  # type: ignore[arg-type]


@pytest.mark.process
def test_it_needs_no_pytest() -> None:
    """A program that isn't a test can have it."""
    code = "import sys; sys.modules['pytest'] = None; import pipelit_agents.testing as t; "
    done = fresh.run(f"{code} print(t.ScriptedModel('hello').invoke('?').text)", environment())
    assert done.stdout == "hello\n", done.stderr
