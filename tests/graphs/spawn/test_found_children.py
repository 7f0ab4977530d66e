"""Functions that hang, raise or lie, and runs that stop: what becomes of each task."""

from __future__ import annotations

import ast
import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from spawning import THREAD, graph_of, parent_of
from test_dynamic_children import Registry, Root, calling, given, outcome, to
from typing_extensions import TypedDict

from pipelit_agents import Agent, Pipelit
from pipelit_agents.accounts.models import User
from pipelit_agents.errors import ConfigurationError, SpawnError, UserNotFound
from pipelit_agents.graphs import created_agents, spawn_and_await, verified_child
from pipelit_agents.graphs.spawn import asking
from pipelit_agents.graphs.steps import Step
from pipelit_agents.tools import SpawnAndAwait

BACKENDS = False
MODES = ["sync", "async"]
COLLECT: dict[str, Any] = {"on_failure": "collect"}


@pytest.fixture
def found(pipelit: Pipelit, lead: Agent) -> Registry:
    """A function that has two children; the lead is there before them."""
    return Registry(pipelit)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging code waits for; it goes on when the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def own(pipelit: Pipelit, lead: Agent) -> list[str]:
    """Two agents that the lead created."""
    for name in ("agent_good", "agent_bad"):
        pipelit.users.create_agent(name, owner="agent_lead", purpose="works")
    return ["agent_good", "agent_bad"]


def run(graph: Any, mode: str, *args: Any) -> Any:
    """Run a graph, sync or async, and never forever."""
    if mode == "sync":
        return graph.invoke(*args)
    return asyncio.run(asyncio.wait_for(graph.ainvoke(*args), 30))


# What the function raises


@pytest.mark.parametrize(
    ("mode", "where", "kind"),
    [
        *(
            (mode, where, kind)
            for mode in MODES
            for where in ("function", "build", "tool")
            for kind in (StopIteration, StopAsyncIteration, GeneratorExit)
        ),
        ("async", "async function", StopIteration),
        ("async", "async function", StopAsyncIteration),
    ],
)
def test_what_ends_iterations_is_an_error(
    lead: Agent, own: list[str], where: str, mode: str, kind: type[BaseException]
) -> None:
    """The run ends with it, and doesn't wait for an answer that can't come."""

    def build(_: object) -> Any:
        raise kind

    async def later(_: str) -> Any:
        raise kind

    find: Any = {"build": created_agents(lead, build=build), "async function": later}.get(
        where, build
    )
    graph = (
        SpawnAndAwait(agent=lead, children=find)
        if where == "tool"
        else parent_of(lead, find, **COLLECT)
    )
    with pytest.raises(RuntimeError, match=f"raised {kind.__name__}"):
        run(graph, mode, given(to("agent_good")))


async def test_a_cancellation_that_the_function_raises_cancels_nothing(lead: Agent) -> None:
    """Neither from its thread nor from its coroutine: it is an error too."""

    def find(_: str) -> Any:
        raise asyncio.CancelledError

    async def later(_: str) -> Any:
        raise asyncio.CancelledError

    for each in (find, later):
        with pytest.raises(RuntimeError, match="raised CancelledError: return None"):
            await parent_of(lead, each).ainvoke(given(to("agent_a")))


# A function that hangs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "where"), [("sync", "function"), ("async", "build"), ("async", "async function")]
)
def test_a_function_that_hangs_has_its_task_refused(
    lead: Agent, own: list[str], pipelit: Pipelit, gate: threading.Event, where: str, mode: str
) -> None:
    """The spawn's timeout holds for each name; the other tasks are done, and the audit says why."""
    good = verified_child(graph_of(), pipelit.agent("agent_good"))

    def find(name: str) -> Any:
        return good if name == "agent_good" else gate.wait()

    async def later(name: str) -> Any:
        return good if name == "agent_good" else await asyncio.Event().wait()

    def build(account: User) -> Any:
        return graph_of() if account.username == "agent_good" else gate.wait()

    by = {"function": find, "build": created_agents(lead, build=build), "async function": later}
    graph = parent_of(lead, by[where], timeout=0.5, **COLLECT)
    refused, done = outcome(run(graph, mode, given(to("agent_bad"), to("agent_good"))))
    assert refused[0] == "refused"
    assert "can't be asked: it wasn't found within 0.5 seconds (timeout=)" in refused[1]
    assert done == ("verified", "X")
    reasons = [each.reason for each in pipelit.audit.list() if each.outcome == "refused"]
    assert reasons == ["child not found in time"]


@pytest.mark.slow
async def test_a_function_that_hangs_holds_no_thread_of_the_loop(
    lead: Agent, found: Registry, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is called for a name only so often; other names are asked for meanwhile."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    monkeypatch.setattr(asking, "MAX_HUNG_EACH", 2)
    began: list[str] = []

    def find(name: str) -> Any:
        if name == "agent_a":
            return found(name)
        began.append(name)
        return gate.wait()

    graph = parent_of(lead, find, timeout=0.2, **COLLECT)
    for _ in range(3):
        (result,) = outcome(await graph.ainvoke(given(to("agent_b"))))
        assert result[0] == "refused"
    assert began == ["agent_b"] * 2
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 30) == "free"
    finder: Any = graph.nodes["delegate"].bound
    assert list((await finder.finder.afind(["agent_a"])).children) == ["agent_a"]


def test_without_a_timeout_the_function_has_a_minute(lead: Agent, found: Registry) -> None:
    """It is never waited for without end."""
    assert asking.Asking(found, None).timeout == asking.FIND_TIMEOUT == 60
    assert asking.Asking(found, 600).timeout == 600


# What it finds


class Uncarried(TypedDict, total=False):
    """An output that can't be carried."""

    q: Any
    a: threading.Thread


@pytest.mark.parametrize("where", ["node", "tool"])
@pytest.mark.parametrize("mode", MODES)
def test_a_built_graph_that_cant_be_a_child_is_refused(
    lead: Agent, own: list[str], pipelit: Pipelit, where: str, mode: str
) -> None:
    """For its task alone, in words that say what to change."""
    bad: Any = StateGraph(Uncarried).add_node("work", lambda _: {}).add_edge(START, "work")

    def build(account: User) -> Any:
        return graph_of() if account.username == "agent_good" else bad.compile()

    find = created_agents(lead, build=build)
    tasks = given(to("agent_good"), to("agent_bad"))
    if where == "tool":
        # What an agent without a child takes is unknown, so it gets a message.
        tasks["tasks"][1] = {"agent": "agent_bad", "message": "x"}
        said = ast.literal_eval(
            run(SpawnAndAwait(agent=lead, children=find), mode, tasks).replace("null", "None")
        )
        results = [(each["status"], each.get("error", "")) for each in said]
    else:
        results = outcome(run(parent_of(lead, find, **COLLECT), mode, tasks))
    assert [status for status, _ in results] == ["verified", "refused"]
    assert "can't be asked: graph: its output can't be carried to a parent" in results[1][1]
    with pytest.raises(TypeError, match="its output can't be carried"):
        find("agent_bad")


def test_a_graph_that_cant_be_read_is_refused(
    lead: Agent, own: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever wrapping it raises; the message is the developer's, and stays out of the result."""

    def raises(*_: object, **__: object) -> Any:
        raise NameError("name 'Secret' is not defined")

    monkeypatch.setattr("pipelit_agents.graphs.spawn.created.verified_child", raises)
    find = created_agents(lead, build=lambda _: graph_of())
    (result,) = outcome(parent_of(lead, find, **COLLECT).invoke(given(to("agent_good"))))
    assert result[0] == "refused"
    assert "its graph can't be read (NameError)" in result[1]
    assert "Secret" not in result[1]


# Runs that stop


class Dies(InMemorySaver):
    """A saver whose process is killed when a given checkpoint was saved."""

    def __init__(self, when: Callable[[dict[str, Any]], bool]) -> None:
        super().__init__()
        self.when: Callable[[dict[str, Any]], bool] | None = when

    def put(self, *args: Any) -> Any:
        """Save, and die once."""
        saved = super().put(*args)
        if self.when is not None and self.when(args[1]["channel_values"]):
            self.when = None
            raise OSError("killed")
        return saved


@pytest.mark.parametrize("turn", ["first", "second"])
@pytest.mark.parametrize("on_failure", ["raise", "collect"])
def test_a_root_run_that_only_saved_its_input_is_resumed(
    lead: Agent, found: Registry, on_failure: Literal["raise", "collect"], turn: str
) -> None:
    """The tasks are still in the input then, and replace those of the turn before."""
    spawn = spawn_and_await(lead, found, on_failure=on_failure)
    saver = Dies(lambda values: "agent_a" in str(values.get("__start__")))
    root = spawn.copy(update={"checkpointer": saver})
    if turn == "second":
        root.invoke(given(to("agent_b", "before")), THREAD)
    with pytest.raises(OSError, match="killed"):
        root.invoke(given(to("agent_a", "one")), THREAD, durability="sync")
    assert outcome(root.invoke(None, THREAD)) == [("verified", "agent_a one")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["dict", "pairs"])
def test_tasks_that_a_command_writes_are_found(
    lead: Agent, found: Registry, mode: str, form: str
) -> None:
    """A root run may begin with a command; its tasks replace those of the turn before."""
    root = spawn_and_await(lead, found, **COLLECT).copy(update={"checkpointer": InMemorySaver()})
    run(root, mode, given(to("agent_b", "before")), THREAD)
    update = given(to("agent_a", "one"))
    if form == "pairs":
        update = list(update.items())
    state = run(root, mode, Command(update=update, goto="plan"), THREAD)
    assert outcome(state) == [("verified", "agent_a one")]


def answered(values: dict[str, Any]) -> bool:
    """Whether all children answered, and the spawn isn't over."""
    return len(values.get("answers") or ()) == 2


@pytest.mark.parametrize("where", ["node", "called", "root"])
@pytest.mark.parametrize(
    ("on_failure", "fails"),
    [("raise", False), ("collect", False), ("collect", True)],
    ids=["raise", "collect", "collect a failure"],
)
def test_an_answer_isnt_used_when_its_agent_is_gone_before_the_join(
    lead: Agent,
    found: Registry,
    where: str,
    on_failure: Literal["raise", "collect"],
    fails: bool,
) -> None:
    """The run stopped between the children and the join: who isn't admitted now is refused."""
    if fails:
        found.has["agent_b"] = verified_child(
            graph_of(lambda _: 1 / 0), found.pipelit.agent("agent_b")
        )
    spawn, saver = spawn_and_await(lead, found, on_failure=on_failure), Dies(answered)
    graph = {
        "node": lambda: parent_of(lead, found, saver, on_failure=on_failure),
        "called": lambda: calling(spawn, saver),
        "root": lambda: spawn.copy(update={"checkpointer": saver}),
    }[where]()
    with pytest.raises(OSError, match="killed"):
        graph.invoke(given(to("agent_a", "one"), to("agent_b", "two")), THREAD, durability="sync")
    kept = found.has.pop("agent_b")
    if on_failure == "collect":
        used, refused = outcome(graph.invoke(None, THREAD))
        assert used == ("verified", "agent_a one")
        assert refused[0] == "refused"
        assert "agent_b" in refused[1]
        return
    with pytest.raises(SpawnError, match="agent_b"):
        graph.invoke(None, THREAD)
    # Nothing is lost when it is admitted again.
    found.has["agent_b"] = kept
    state = graph.invoke(None, THREAD)
    assert [answer for _, answer in outcome(state)] == ["agent_a one", "agent_b two"]
    assert sorted(found.done) == ["agent_a one", "agent_b two"]


# Which function, which lead


@pytest.mark.parametrize("kind", ["partial", "created_agents"])
@pytest.mark.parametrize("tenants", [("A", "A"), ("A", "B")], ids=["one tenant", "two tenants"])
def test_functions_of_two_tenants_share_no_record(
    lead: Agent, own: list[str], pipelit: Pipelit, kind: str, tenants: tuple[str, str]
) -> None:
    """One code with two tenants' values: equal calls end in words, not with the other's answer."""

    def find(tenant: str, _: object) -> Any:
        graph = graph_of(lambda _: {"a": f"{tenant} {interrupt(tenant)}"})
        return graph if kind == "created_agents" else verified_child(graph, agent)

    agent = pipelit.agent("agent_good")
    functions: list[Any] = [partial(find, tenant) for tenant in tenants]
    if kind == "created_agents":
        functions = [created_agents(lead, build=each) for each in functions]
    spawns = [spawn_and_await(lead, each) for each in functions]

    def node(_: Root) -> Root:
        return {"results": [each.invoke(given(to("agent_good")))["results"][0] for each in spawns]}

    builder = StateGraph(Root).add_node("node", node).add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    graph.invoke({}, THREAD)
    if tenants[0] != tenants[1]:
        with pytest.raises(ConfigurationError, match="a different name"):
            graph.invoke(Command(resume="yes"), THREAD)
        return
    graph.invoke(Command(resume="one"), THREAD)
    state = graph.invoke(Command(resume="two"), THREAD)
    assert [answer for _, answer in outcome(state)] == ["A one", "A two"]


def test_all_spawns_of_a_lead_have_one_limit_in_the_audit(
    lead: Agent, pipelit: Pipelit, found: Registry
) -> None:
    """A tool that is made for each request adds nothing to it; another lead has its own."""

    def refused() -> list[str]:
        return [each.actor for each in pipelit.audit.list(limit=1000) if each.outcome == "refused"]

    def nobody(name: str) -> Any:
        raise UserNotFound("there is none", username=name)

    for turn in range(3):
        tasks = given(*(to(f"agent_{turn}_{n}") for n in range(15)))
        spawn_and_await(lead, nobody, **COLLECT).invoke(tasks)
        SpawnAndAwait(agent=pipelit.agent("agent_lead"), children=nobody).invoke(tasks)
    assert len(refused()) == 21
    spawn_and_await(pipelit.agent("agent_a"), nobody, **COLLECT).invoke(given(to("agent_x")))
    assert refused()[21:] == ["agent_a"]


# What is shown and kept


def test_a_child_with_several_graphs_is_shown_to_nobody(lead: Agent, found: Registry) -> None:
    """The function has another graph for each thread: no thread sees its child with another's."""
    graph, shown = parent_of(lead, found, InMemorySaver()), {}
    for tenant in ("t1", "t2"):
        found.has["agent_a"] = found.child("agent_a", graph=tenant)
        config: Any = {"configurable": {"thread_id": tenant}}
        graph.invoke(given(to("agent_a", "pay?")), config)
        (spawn,) = graph.get_state(config, subgraphs=True).tasks
        shown[tenant] = spawn.state.tasks[0].state.config
        if tenant == "t1":
            assert graph.get_state(shown["t1"]).next == ("work",)
    for config in shown.values():
        state = graph.get_state(config)
        assert (state.values, state.next) == ({}, ())


def test_nothing_is_kept_of_names_that_were_asked(lead: Agent, found: Registry) -> None:
    """Calls are counted while they run; afterwards no name takes memory."""
    graph: Any = spawn_and_await(lead, found, **COLLECT)
    graph.invoke(given(*(to(f"agent_{n}") for n in range(30)), to("agent_a")))
    kept = vars(graph.graphs)
    assert "agent_a" in str(kept["_graphs"])
    assert "agent_7'" not in str({key: kept[key] for key in kept if key != "_graphs"})


def test_steps_take_no_lock_when_they_are_compiled() -> None:
    """Else a child that another thread forks meanwhile would wait for it forever (Python 3.11)."""
    assert isinstance(inspect.getattr_static(Step, "deps"), property)
    assert Step(lambda _, config: None, None, "step").deps == []
