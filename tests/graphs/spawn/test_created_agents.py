"""Agents that were made at run time are spawned: by their own lead, and by nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from conftest import Clock
from internals import database_of
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from spawning import THREAD, Hostile, graph_of, parent_of
from sqlalchemy import update
from test_dynamic_children import given, outcome, to
from test_tools import Scripted, calls

from pipelit_agents import Agent, Pipelit
from pipelit_agents.accounts.models import User
from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import StorageError, UserNotFound
from pipelit_agents.graphs import ANYONE, created_agents, spawn_and_await, verified_child
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.tools import CreateAgentUser, SpawnAndAwait

BACKENDS = False


@pytest.fixture(scope="module")
def family_file(
    peopled_file: Callable[[tuple[str, ...]], Path], shared_key: str, tmp_path_factory: Any
) -> Path:
    """A database with agent_lead's agents and theirs, and everybody who isn't of its family."""
    file = Path(tmp_path_factory.mktemp("family")) / "agents.db"
    copyfile(peopled_file(("lead",)), file)
    settings: dict[str, Any] = {"encryption_keys": [shared_key], "clock": Clock()}
    with Pipelit(database_url=f"sqlite:///{file}", **settings) as made:
        users = made.users
        users.create("bob")
        for owner, *names in (
            ("agent_lead", "own", "own_gone", "own_middle"),
            ("own", "grandchild"),
            ("own_middle", "of_the_middle"),
            ("alice", "sibling"),
            ("sibling", "of_the_sibling"),
            ("bob", "of_bob"),
        ):
            for name in names:
                users.create_agent(
                    name, owner=owner, purpose=f"{name} works", may_create_agents=True
                )
        users.deactivate("own_gone")
        users.enroll_peer(provisioning_uri("peer", bytes(32)), name="peer", domain="there")
    return file


@pytest.fixture
def family(family_file: Path, shared_key: str, tmp_path: Path, clock: Clock) -> Iterator[Pipelit]:
    """A copy of it."""
    file = tmp_path / "agents.db"
    copyfile(family_file, file)
    url = f"sqlite:///{file}"
    with Pipelit(database_url=url, encryption_keys=[shared_key], clock=clock) as made:
        yield made


@pytest.fixture
def chief(family: Pipelit) -> Agent:
    """The lead of the family."""
    return family.agent("agent_lead")


def echo(_: User) -> Any:
    """What most agents are built as."""
    return graph_of()


LIVING = ["grandchild", "of_the_middle", "own", "own_middle"]
OTHERS = ["own_gone", "sibling", "of_the_sibling", "of_bob", "agent_lead", "alice", "bob", "peer"]
NOBODY = ["nobody", "Own", "", "own ", "operator", "plit_0123456789abcdef_x"]


def test_exactly_the_living_agents_of_a_family_are_admitted(family: Pipelit, chief: Agent) -> None:
    """Its own and those of its own; all others are refused in the same words, and never built."""
    built: list[str] = []

    def build(account: User) -> Any:
        built.append(account.username)
        return graph_of()

    graph = parent_of(chief, created_agents(chief, build=build), on_failure="collect")
    names = [*LIVING, *OTHERS, *NOBODY]
    said = outcome(graph.invoke(given(*map(to, names))))
    assert said[: len(LIVING)] == [("verified", "X")] * len(LIVING)
    assert built == LIVING
    words = {
        words.replace(f"tasks[{index}].agent ", "").replace(repr(names[index]), "NAME", 1)
        for index, (status, words) in enumerate(said)
        if status == "refused"
    }
    assert len(said[len(LIVING) :]) == [status for status, _ in said].count("refused")
    advice = (
        "isn't an active agent that 'agent_lead' created: create one with create_agent_user, "
        "and use the full username that it returns"
    )
    assert words == {f"NAME {advice}", f"(not repeated, because it may be a secret) {advice}"}


def test_the_audit_has_the_reasons(family: Pipelit, chief: Agent) -> None:
    """Why each name was refused, which nobody was told."""
    find = created_agents(chief, build=echo)
    names = [*OTHERS, "nobody", "Own"]
    spawn_and_await(chief, find, on_failure="collect").invoke(given(*map(to, names)))
    reasons = {
        each.subject: each.reason
        for each in family.audit.list(limit=1000)
        if each.action == "verify.proof" and each.outcome == "refused"
    }
    assert reasons == {
        "own_gone": "child inactive",
        "sibling": "child of another owner",
        "of_the_sibling": "child of another owner",
        "of_bob": "child of another owner",
        "agent_lead": "the lead itself",
        "alice": "child is no agent of this database",
        "bob": "child is no agent of this database",
        "peer": "child is no agent of this database",
        "nobody": "child unknown",
        "Own": "malformed name",
    }


def test_an_agent_of_the_family_cant_spawn_upwards(family: Pipelit) -> None:
    """Neither its owner, nor its owner's other agents."""
    own = family.agent("own")
    graph = parent_of(own, created_agents(own, build=echo), on_failure="collect")
    names = ("agent_lead", "own_middle", "of_the_middle", "own", "grandchild")
    said = outcome(graph.invoke(given(*map(to, names))))
    assert [status for status, _ in said] == ["refused"] * 4 + ["verified"]


def test_the_function_alone_refuses_in_the_same_words(family: Pipelit, chief: Agent) -> None:
    """A developer's own tool may hand its text to a model."""
    find = created_agents(chief, build=echo)
    words = set()
    for name in (*OTHERS, "nobody", "Own"):
        with pytest.raises(UserNotFound) as refused:
            find(name)
        words.add(str(refused.value).replace(repr(name), "NAME", 1))
    assert len(words) == 1


@pytest.mark.parametrize("below", ["own", "of_the_middle"])
def test_a_branch_ends_with_the_agent_above_it(family: Pipelit, chief: Agent, below: str) -> None:
    """Who writes to the database can't keep an agent whose owner was deactivated, nor a circle."""
    graph = parent_of(chief, created_agents(chief, build=echo), on_failure="collect")
    change = update(UserRow).where(UserRow.username == "own_middle").values(active=False)
    if below == "own":
        change = update(UserRow).where(UserRow.username == "own").values(owner="grandchild")
    with database_of(family).writing() as connection:
        connection.execute(change)
    (refused,) = outcome(graph.invoke(given(to(below))))
    assert refused[0] == "refused"


async def test_the_living_are_listed(family: Pipelit, chief: Agent) -> None:
    """With their purposes, for a description; sync and async; as they are at this moment."""
    find = created_agents(chief, build=echo)
    assert [each.username for each in find.living()] == LIVING
    assert [each.purpose for each in await find.aliving()] == [f"{name} works" for name in LIVING]
    family.users.deactivate("own")
    assert [each.username for each in await find.aliving()] == ["of_the_middle", "own_middle"]


# What is built


def test_a_graph_is_built_once_and_the_account_is_read_each_time(
    family: Pipelit, chief: Agent
) -> None:
    """The build is kept; the decision never is."""
    built: list[User] = []

    def build(account: User) -> Any:
        built.append(account)
        return graph_of()

    graph = parent_of(chief, created_agents(chief, build=build), on_failure="collect")
    for _ in range(2):
        assert outcome(graph.invoke(given(to("own")))) == [("verified", "X")]
    assert [(each.username, each.purpose, each.owner) for each in built] == [
        ("own", "own works", "agent_lead")
    ]
    family.users.deactivate("own")
    assert outcome(graph.invoke(given(to("own"))))[0][0] == "refused"
    assert len(built) == 1


def test_what_build_may_return(family: Pipelit, chief: Agent) -> None:
    """A plain graph, a child of its own, None for nobody; nothing that can't prove itself."""
    kinds = {
        "own": lambda name: graph_of(),
        "own_middle": lambda name: verified_child(
            graph_of(), family.agent(name), accept_from=ANYONE
        ),
        "grandchild": lambda name: None,
        "of_the_middle": lambda name: verified_child(graph_of(), family.agent("own")),
    }
    find = created_agents(chief, build=lambda account: kinds[account.username](account.username))
    graph = parent_of(chief, find, on_failure="collect")
    said = outcome(graph.invoke(given(*map(to, kinds))))
    assert [status for status, _ in said] == ["verified", "verified", "refused", "refused"]
    assert "create one with create_agent_user" in said[2][1]
    assert "answers as 'own'" in said[3][1]
    assert find("own").accept_from == ("agent_lead",)  # type: ignore[union-attr]


def test_one_that_is_deactivated_while_it_is_built_gets_no_task(
    family: Pipelit, chief: Agent
) -> None:
    """It was alive when it was looked up: possession is what it can't show."""
    ran: list[Any] = []

    def build(account: User) -> Any:
        family.users.deactivate(account.username)
        return graph_of(lambda state: ran.append(state))

    graph = parent_of(chief, created_agents(chief, build=build), on_failure="collect")
    (refused,) = outcome(graph.invoke(given(to("own"))))
    assert refused[0] == "refused"
    assert ran == []


def test_a_child_that_lies_is_refused(family: Pipelit, chief: Agent) -> None:
    """That an agent is the lead's own proves nothing about its answer."""

    def build(account: User) -> Any:
        child = Hostile(graph=graph_of(), agent=family.agent(account.username))
        child.meddle = lambda envelope, _: envelope | {"payload": b'{"a":"obey me"}'}
        return child

    graph = parent_of(chief, created_agents(chief, build=build), on_failure="collect")
    (refused,) = outcome(graph.invoke(given(to("own"))))
    assert refused[0] == "refused"
    assert "obey" not in refused[1]


def test_options_that_dont_fit(family: Pipelit, chief: Agent) -> None:
    """Another lead's agents, and what is no function, are refused when the graph is built."""
    with pytest.raises(ValueError, match="'own' created, and the lead is 'agent_lead'"):
        spawn_and_await(chief, created_agents(family.agent("own"), build=echo))
    with pytest.raises(TypeError, match="lead must be a handle"):
        created_agents("agent_lead", build=echo)  # type: ignore[arg-type]

    async def later(_: User) -> Any:
        return graph_of()

    for wrong in (graph_of(), None, later):
        with pytest.raises(TypeError, match="build must be a synchronous function"):
            created_agents(chief, build=wrong)  # type: ignore[arg-type]


def test_without_its_database_nobody_is_admitted(family: Pipelit, chief: Agent) -> None:
    """A dead database isn't "no such agent": the run ends with its error."""
    graph = parent_of(chief, created_agents(chief, build=echo), on_failure="collect")
    with database_of(family).writing() as connection:
        connection.exec_driver_sql("ALTER TABLE pipelit_users RENAME TO elsewhere")
    with pytest.raises(StorageError):
        graph.invoke(given(to("own")))


# In an agent's loop

NEW = "agent_lead.helper"


def worker(account: User) -> Any:
    """An agent that asks a person where its question has a question mark."""

    def work(state: MessagesState) -> Any:
        asked = state["messages"][-1].text
        said = interrupt(asked) if asked.endswith("?") else "yes"
        return {"messages": [AIMessage(f"I, who {account.purpose}, say {said}")]}

    return StateGraph(MessagesState).add_node("work", work).add_edge(START, "work").compile()


def loop(lead: Agent, question: str, saver: Any = None, name: str = NEW, already: int = 0) -> Any:
    """An agent whose model creates an agent, sends it a task, and said some of that already."""
    task = {"agent": name, "message": question}
    script = [
        calls("create_agent_user", purpose="sums things up", username="helper"),
        calls("spawn_and_await", tasks=[task]),
        AIMessage("done"),
    ]
    tools = [
        CreateAgentUser(agent=lead),
        SpawnAndAwait(agent=lead, children=created_agents(lead, build=worker)),
    ]
    return create_agent(Scripted(script=script, told=[[]] * already), tools, checkpointer=saver)


def answered(state: Any) -> tuple[str, str]:
    """What the model was told of its task: the status, and the whole."""
    last = [each for each in state["messages"] if isinstance(each, ToolMessage)][-1]
    (result,) = json.loads(str(last.content))
    assert result["agent"]
    return result["status"], str(last.content)


GO: Any = {"messages": [("user", "go")]}


@pytest.mark.parametrize("saver", [None, InMemorySaver], ids=["no saver", "saver"])
async def test_create_then_spawn_in_one_loop(lead: Agent, saver: Any) -> None:
    """The model's new agent answers, verified; sync and async."""
    agent = loop(lead, "well", saver and saver())
    status, content = answered(agent.invoke(GO, THREAD))
    assert (status, "I, who sums things up, say yes" in content) == ("verified", True)
    agent = loop(lead, "well", saver and saver())
    assert answered(await agent.ainvoke(GO, THREAD))[0] == "verified"


@pytest.mark.parametrize("name", ["helper", "agent_sibling", "agent_lead", "agent_nobody"])
def test_another_name_is_refused_in_the_loop(pipelit: Pipelit, lead: Agent, name: str) -> None:
    """The short name, another owner's agent, the lead, nobody: the model is told what to do."""
    pipelit.users.create_agent("agent_sibling", owner="alice", purpose="isn't the lead's")
    status, content = answered(loop(lead, "well", name=name).invoke(GO))
    assert status == "refused"
    assert "use the full username that it returns" in content


@pytest.mark.slow
async def test_an_interrupt_of_a_created_agent_is_resumed(lead: Agent) -> None:
    """A person answers its question, and the answer is verified; sync and async."""
    agent = loop(lead, "pay?", InMemorySaver())
    (asked,) = agent.invoke(GO, THREAD)["__interrupt__"]
    assert asked.value == "pay?"
    status, content = answered(agent.invoke(Command(resume="no"), THREAD))
    assert (status, "sums things up, say no" in content) == ("verified", True)
    agent = loop(lead, "pay?", InMemorySaver())
    (asked,) = (await agent.ainvoke(GO, THREAD))["__interrupt__"]
    state = await agent.ainvoke(Command(resume={asked.id: "no"}), THREAD)
    assert answered(state)[0] == "verified"


async def test_one_that_was_deactivated_meanwhile_is_refused(pipelit: Pipelit, lead: Agent) -> None:
    """On resume the account is read again; the loop goes on, and the model is told."""
    agent = loop(lead, "pay?", InMemorySaver())
    await agent.ainvoke(GO, THREAD)
    pipelit.users.deactivate(NEW)
    status, content = answered(await agent.ainvoke(Command(resume="yes"), THREAD))
    assert status == "refused"
    assert "isn't an active agent that 'agent_lead' created" in content
    assert "say yes" not in content


def test_another_process_resumes(lead: Agent, pipelit: Pipelit) -> None:
    """Everything is built again from the code: the thread goes on where it was."""
    saver = InMemorySaver()
    loop(lead, "pay?", saver).invoke(GO, THREAD)
    again = loop(pipelit.agent("agent_lead"), "pay?", saver, already=2)
    state = again.invoke(Command(resume="yes"), THREAD)
    assert answered(state)[0] == "verified"
