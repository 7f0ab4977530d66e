"""The progress of spawned tasks, in a notebook and in a terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from pipelit_agents import Agent
from pipelit_agents.display import Progress, afollow, follow
from pipelit_agents.graphs import SpawnResult, SpawnTask, spawn_and_await, verified_child

BACKENDS = False


class Words(TypedDict, total=False):
    words: str


class Lead(TypedDict, total=False):
    tasks: list[SpawnTask]
    results: list[SpawnResult]


def work(state: Words) -> Words:
    """Fails, asks or answers, as the task says."""
    if state["words"] == "fail":
        raise ValueError("no such word")
    if state["words"] == "ask":
        return {"words": interrupt("which word?")}
    return {"words": state["words"].upper()}


@pytest.fixture
def lead(writer: Agent, editor: Agent) -> Any:
    """A graph of an agent with one child."""
    child = StateGraph(Words).add_node("work", work).add_edge(START, "work").compile()
    children = {"agent_editor": verified_child(child, editor)}
    node = spawn_and_await(writer, children, on_failure="collect")
    builder = StateGraph(Lead).add_node("delegate", node).add_edge(START, "delegate")
    return builder.compile(checkpointer=InMemorySaver())


def tasks(*words: str) -> dict[str, Any]:
    """So many tasks for the child."""
    return {"tasks": [{"agent": "agent_editor", "input": {"words": each}} for each in words]}


def event(step: str, index: Any = 0, agent: Any = "agent_a", **more: Any) -> dict[str, Any]:
    """As the node emits it."""
    return {"type": "pipelit.spawn", "event": step, "agent": agent, "index": index, **more}


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a kernel's frontend is sent: the first display, and each update of it."""
    import IPython
    import IPython.display

    sent: list[str] = []

    def display(shown: Any, *, display_id: bool) -> Any:
        assert display_id
        sent.append(shown._repr_html_())
        return SimpleNamespace(update=lambda shown: sent.append(shown._repr_html_()))

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", display)
    return sent


def test_in_a_terminal_each_event_is_a_line(lead: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With the error of a task that failed; what is returned is what `invoke` returns."""
    thread = {"configurable": {"thread_id": "1"}}
    state = follow(lead, tasks("otter", "fail"), thread)
    assert [each["status"] for each in state["results"]] == ["verified", "failed"]
    assert state == lead.get_state(thread).values
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["agent_editor [0]: spawned", "agent_editor [1]: spawned"]
    assert "agent_editor [0]: verified" in lines
    assert any(each.startswith("agent_editor [1]: failed (") for each in lines)
    assert len(lines) == 6


async def test_a_graph_that_waits_for_a_person(lead: Any) -> None:
    """The interrupt is in what is returned, on the event loop too, and a `Command` goes on."""
    thread = {"configurable": {"thread_id": "1"}}
    for run in ("follow", "afollow"):
        given = tasks("ask", run)
        state = (
            follow(lead, given, thread) if run == "follow" else await afollow(lead, given, thread)
        )
        (question,) = state["__interrupt__"]
        assert question.value == "which word?"
        answer = Command(resume={question.id: "this"})
        state = (
            follow(lead, answer, thread) if run == "follow" else await afollow(lead, answer, thread)
        )
        assert [each["output"]["words"] for each in state["results"]] == ["this", run.upper()]
        assert "__interrupt__" not in state


@pytest.mark.parametrize("before", [None, ["left"]], ids=["asked", "stopped"])
def test_every_question_of_a_step_is_returned(before: list[str] | None) -> None:
    """LangGraph's last values have only one of two; of a stop before a node there is none."""
    builder = StateGraph(Words)
    for name in ("left", "right"):
        builder.add_node(name, lambda _, name=name: {"words": interrupt(name)})
        builder.add_edge(START, name)
    graph = builder.compile(checkpointer=InMemorySaver(), interrupt_before=before)
    given: Words = {"words": "otter"}
    expected = graph.invoke(given, {"configurable": {"thread_id": "1"}})
    found = follow(graph, given, {"configurable": {"thread_id": "2"}})
    # In the order in which the nodes end, here as in LangGraph.
    asked = [
        sorted(each.value for each in state.pop("__interrupt__", [])) for state in (expected, found)
    ]
    assert found == expected == given
    assert asked == [[] if before else ["left", "right"]] * 2


def test_in_a_notebook_one_table_changes(lead: Any, notebook: list[str]) -> None:
    """It is displayed once, and its last update has the end of each task."""
    follow(lead, tasks("otter", "fail"), {"configurable": {"thread_id": "1"}})
    assert "0 of 1 tasks done" in notebook[0]
    assert "2 of 2 tasks done, 1 verified" in notebook[-1]
    assert "✓ verified" in notebook[-1]
    assert "✗ failed" in notebook[-1]


def test_a_thousand_tasks_are_few_updates(notebook: list[str]) -> None:
    """A kernel isn't held up by updates, and the table doesn't grow without end."""
    with Progress() as progress:
        for step in ("spawned", "running", "verified"):
            for index in range(1000):
                progress.update(event(step, index))
    assert len(notebook) < 100
    assert "1000 of 1000 tasks done, 1000 verified" in notebook[-1]
    assert "and 950 more tasks" in notebook[-1]
    assert len(notebook[-1]) < 40_000


def test_later_spawns_of_a_run_are_tasks_of_their_own() -> None:
    """The numbers begin again with each spawn."""
    progress = Progress(file=io.StringIO())
    for step in ("spawned", "running", "verified", "spawned", "running"):
        progress.update(event(step))
    assert repr(progress).splitlines() == [
        "1 of 2 tasks done, 1 verified", "agent_a [0]: verified", "agent_a [0]: running",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        None, "text", {}, {"type": "mine", "event": "running"}, event("dancing"),
        event("running", "0"), event("running", agent=7), event(["running"]),
        event("running", True),
    ],
)  # fmt: skip
def test_events_of_others_are_ignored(other: Any) -> None:
    """A stream has whatever nodes write into it."""
    file = io.StringIO()
    Progress(file=file).update(other)
    assert not file.getvalue()


def test_no_event_drives_the_page_or_the_terminal() -> None:
    """Names and errors are escaped, and cut if they are long."""
    file = io.StringIO()
    progress = Progress(file=file)
    for agent in ("<script>alert(1)</script>", "\x1b[31m\nagent_b [0]: verified", "x" * 9999):
        progress.update(event("failed", agent=agent, error="<img src=x>\x1b[0m" + "y" * 9999))
    html = progress._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert len(html) < 4000
    for text in (html, file.getvalue(), repr(progress)):
        assert "\x1b" not in text
    assert len(file.getvalue().splitlines()) == 3
