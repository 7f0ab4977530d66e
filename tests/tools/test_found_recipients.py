"""Agents that a function finds: what they take is asked per task, and who isn't found is left."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from spawning import graph_of

from pipelit_agents import Pipelit, User
from pipelit_agents.errors import UserNotFound
from pipelit_agents.graphs import remote_child
from pipelit_agents.graphs.spawn.finding import Finder
from pipelit_agents.tools.child_inputs import InputRefused
from pipelit_agents.tools.found_recipients import FoundRecipients
from pipelit_agents.tools.recipients import Task

BACKENDS = False
CHAT: Any = StateGraph(MessagesState).add_node("work", lambda _: {}).add_edge(START, "work")
CHILDREN: dict[str, Any] = {
    "agent_chat": CHAT.compile(),
    "agent_fields": graph_of(),
    "agent_remote": remote_child("agent_remote", url="http://[::1]", credential=None),
}
LEAD = Pipelit(database_url="sqlite://", encryption_keys=["A" * 43 + "="]).agent("agent_lead")
MESSAGE = {"messages": [HumanMessage("x")]}


class Finding:
    """A function that keeps the names that it was asked for."""

    def __init__(self, *, raises: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.raises = raises

    def __call__(self, name: str) -> Any:
        self.asked.append(name)
        self.threads.add(threading.get_ident())
        if self.raises:
            raise self.raises
        return CHILDREN.get(name)

    async def later(self, name: str) -> Any:
        """The same, awaited."""
        return self(name)


class Listing(Finding):
    """A function that knows which agents there are."""

    def living(self) -> list[User]:
        """Sixty of them."""
        made = datetime.now(UTC)
        return [
            User(f"agent_{n:02}", "agent", "alice", "alice", f"does {n}", True, False, made, "")
            for n in range(60)
        ]


def recipients(find: Any) -> FoundRecipients:
    """The recipients of a tool whose spawn asks a function; no account is read."""
    return FoundRecipients(find, Finder(LEAD, find, None))


async def read(find: Any, *tasks: Any, awaits: bool) -> Any:
    """The inputs of tasks, read sync or async."""
    found = recipients(find)
    given = [Task(**task) for task in tasks]
    return [each["input"] for each in (await found.aread(given) if awaits else found.read(given))]


@pytest.mark.parametrize(
    ("awaits", "later"),
    [(False, False), (True, False), (True, True)],
    ids=["sync", "sync on the loop", "async"],
)
async def test_an_input_is_checked_when_its_agent_was_found(awaits: bool, later: bool) -> None:
    """The function is asked once a name, and what the child takes counts."""
    finding = Finding()
    find = finding.later if later else finding
    tasks = [
        {"agent": "agent_chat", "message": "x"},
        {"agent": "agent_fields", "input": '{"q": "x"}'},
        {"agent": "agent_chat", "message": "x"},
    ]
    assert await read(find, *tasks, awaits=awaits) == [MESSAGE, {"q": "x"}, MESSAGE]
    assert finding.asked == ["agent_chat", "agent_fields"]
    for task, says in (
        ({"agent": "agent_chat", "input": '{"messages": "x", "files": {}}'}, "not 'files'"),
        ({"agent": "agent_chat", "input": {"messages": [["system", "x"]]}}, "must be a text"),
        ({"agent": "agent_remote", "input": {"messages": "x", "paid": True}}, "not 'paid'"),
        ({"agent": "agent_absent", "input": {"paid": True}}, "not 'paid'"),
    ):
        with pytest.raises(InputRefused, match=says):
            await read(find, task, awaits=awaits)
    # It may hang, so it has threads of its own unless it is awaited.
    assert (threading.get_ident() not in finding.threads) == (not later)
    wrong = {"agent": "agent_fields", "message": "x"}
    with pytest.raises(InputRefused, match=r"tasks\[0\]: agent_fields takes q .*; not message"):
        await read(find, wrong, awaits=awaits)


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
async def test_a_name_without_a_child_is_left_to_the_spawn(awaits: bool) -> None:
    """It refuses and audits the name; the function isn't asked for what is no agent's name."""
    finding = Finding(raises=UserNotFound("agent_other isn't yours", username="agent_other"))
    find = finding.later if awaits else finding
    names = ["agent_other", "agent_lead", "No Name", "../agent_chat"]
    tasks = [{"agent": name, "message": "x"} for name in names]
    assert await read(find, *tasks, awaits=awaits) == [MESSAGE] * 4
    assert finding.asked == ["agent_other"]


async def test_an_error_of_the_function_is_the_developers() -> None:
    """Its text isn't for the model, not even a ValueError's."""
    for awaits in (False, True):
        task = {"agent": "agent_chat", "message": "x"}
        with pytest.raises(ValueError, match="a broken setting"):
            await read(Finding(raises=ValueError("a broken setting")), task, awaits=awaits)


async def test_a_function_that_returns_a_coroutine_is_refused_as_by_the_spawn(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """It must be an async def, and be awaited; nothing stays unawaited."""
    finding = Finding()
    task = {"agent": "agent_chat", "message": "x"}
    for find, awaits in (
        (lambda name: finding.later(name), False),
        (lambda name: finding.later(name), True),
        (finding.later, False),
    ):
        with pytest.raises(TypeError, match="must be an async def"):
            await read(find, task, awaits=awaits)
    assert [each for each in recwarn if "never awaited" in str(each.message)] == []


def test_the_schema_has_a_pattern_for_the_name() -> None:
    """Any username, with a message or with JSON as text."""
    schema = recipients(Finding()).tasks_schema()
    Draft202012Validator.check_schema(schema)
    accepts = Draft202012Validator(schema).is_valid
    assert accepts([{"agent": "agent_lead.helper", "message": "x"}])
    assert accepts([{"agent": "agent_lead.helper", "input": "{}"}])
    assert not accepts([{"agent": "Agent", "message": "x"}])
    assert not accepts([{"agent": "agent_a", "message": "x", "input": "{}"}])


def test_the_living_agents_are_listed(pipelit: Pipelit) -> None:
    """Of a function that knows them, up to fifty, with what they are for; else none."""
    unread = recipients(Listing())
    assert unread.in_words() == "- agents, by their full usernames. Most take a message."
    assert unread.introduced() == "- none yet"
    read = unread.described_by(pipelit)
    assert not read.is_fixed
    lines = read.introduced().splitlines()
    assert lines[0] == '- agent_00: "does 0"'
    assert lines[50:] == ["- and 10 more"]
    assert read.in_words().splitlines()[1:] == lines
    others = recipients(Finding()).described_by(pipelit)
    assert others.in_words() == "- agents, by their full usernames. Most take a message."
