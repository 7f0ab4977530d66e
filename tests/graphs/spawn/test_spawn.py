from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import fresh
import pytest
from conftest import Clock
from internals import database_of
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.config import get_config, get_stream_writer
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from paths import SUPPORT
from pydantic import BaseModel, SecretStr
from spawning import (
    CANARY,
    LEADS,
    NAME,
    THREAD,
    Hostile,
    Lead,
    Work,
    b64,
    graph_of,
    hostile,
    parent_of,
    parents_own,
    tasks,
    upper,
)
from typing_extensions import TypedDict

from pipelit_agents import Agent, Keyring, Pipelit, Secret
from pipelit_agents.errors import (
    ConfigurationError,
    LedgerUnavailable,
    SpawnError,
    StorageError,
    UnsealError,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.graphs import (
    ANYONE,
    Envelope,
    SpawnRequest,
    SpawnResult,
    spawn_and_await,
    verified_child,
)
from pipelit_agents.graphs.codec import state_to_bytes
from pipelit_agents.graphs.spawn.remote import _on_another_loop

Meddle = Callable[[dict[str, Any], SpawnRequest], Any]


@pytest.fixture
def elsewhere(tmp_path: Path, clock: Clock) -> Pipelit:
    """Another database with another key, and agents of the same names."""
    other = Pipelit(
        database_url=f"sqlite:///{tmp_path}/elsewhere/agents.db",
        encryption_keys=[Keyring.generate_key()],
        clock=clock,
    )
    other.create_schema()
    other.users.create("mallory")
    for name in ("agent_lead", NAME):
        other.users.create_agent(name, owner="mallory", purpose="impersonates")
    return other


def statuses(state: dict[str, Any]) -> list[str]:
    """How each task ended."""
    return [result["status"] for result in state["results"]]


def the_error(graph: Any, given: Any, config: Any = None) -> SpawnError:
    """What a parent ends with."""
    with pytest.raises(SpawnError) as caught:
        graph.invoke(given, config)
    return caught.value


# What is honest


@pytest.mark.slow
def test_fifty_children_of_one_identity(lead: Agent, researcher: Agent) -> None:
    """Fifty at once, of one agent: all verified, bound, and in task order."""
    graph = parent_of(lead, {NAME: verified_child(graph_of(), researcher)})
    results = graph.invoke(tasks(*(f"q{n}" for n in range(50))))["results"]
    assert [result["output"]["a"] for result in results] == [f"Q{n}" for n in range(50)]
    assert all(result["status"] == "verified" and result["bound"] for result in results)


async def test_fifty_children_on_the_event_loop(lead: Agent, researcher: Agent) -> None:
    """The same, async."""
    graph = parent_of(lead, {NAME: verified_child(graph_of(), researcher)})
    state = await graph.ainvoke(tasks(*(f"q{n}" for n in range(50))))
    assert [result["output"]["a"] for result in state["results"]] == [f"Q{n}" for n in range(50)]


@pytest.mark.parametrize("on_failure", ["raise", "collect"])
def test_a_state_without_tasks_is_a_mistake(
    lead: Agent, researcher: Agent, on_failure: Literal["raise", "collect"]
) -> None:
    """A state that doesn't declare tasks loses them: the node says so, and doesn't end in peace."""

    class Undeclared(TypedDict, total=False):
        results: list[SpawnResult]

    child = verified_child(graph_of(), researcher)
    builder = StateGraph(Undeclared)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}, on_failure=on_failure))
    builder.add_edge(START, "delegate")
    assert "no 'tasks'" in str(the_error(builder.compile(), {"results": []}))


def test_results_show_themselves_in_a_notebook(lead: Agent, researcher: Agent) -> None:
    """What the state holds is a list with a table; a checkpoint has a plain list of it."""
    saver = InMemorySaver()
    child = verified_child(graph_of(), researcher)
    graph = parent_of(lead, {NAME: child}, saver=saver)
    results = graph.invoke(tasks("x"), THREAD)["results"]
    assert "verified" in results._repr_html_()
    assert type(graph.get_state(THREAD).values["results"]) is list
    assert graph.get_state(THREAD).values["results"] == results


def test_the_time_of_the_proof_is_told(lead: Agent, researcher: Agent, clock: Clock) -> None:
    """A result says when it was proven, in UTC, to the time step."""
    graph = parent_of(lead, {NAME: verified_child(graph_of(), researcher)})
    (result,) = graph.invoke(tasks("x"))["results"]
    assert result["proved_at"] == "2027-01-15T08:00:00+00:00"


def test_a_child_that_fails_proves_its_failure(lead: Agent, researcher: Agent) -> None:
    """The error of an honest child is told, because the child proved it."""

    def fail(_: Work) -> Work:
        raise RuntimeError("no such book")

    child = verified_child(graph_of(fail), researcher)
    (result,) = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))["results"]
    assert result["status"] == "failed"
    assert result["error"] == "RuntimeError: no such book"
    assert result["bound"]


def test_messages_come_back_as_messages(lead: Agent, researcher: Agent) -> None:
    """LangChain messages keep their class, text and tool calls, whose ids become the parent's."""
    call = {"name": "look", "args": {"x": 1}, "id": "1", "type": "tool_call"}

    def talk(state: Work) -> Work:
        assert isinstance(state["q"][0], HumanMessage)
        return {"a": [AIMessage("hello", tool_calls=[call]), *state["q"]]}

    child = verified_child(graph_of(talk), researcher)
    graph = parent_of(lead, {NAME: child}, tool_calls=True)
    (result,) = graph.invoke(tasks([HumanMessage("hi")]))["results"]
    first, second = result["output"]["a"]
    (made,) = first.tool_calls
    assert made["id"] != call["id"]
    assert first == AIMessage("hello", tool_calls=[{**call, "id": made["id"]}], id=first.id)
    assert second == HumanMessage("hi")


# Who may be a child


def test_a_graph_that_cannot_prove_is_refused_at_construction(lead: Agent) -> None:
    """A bare graph or a function is no child; the message says how to make one of it."""
    for child in (graph_of(), upper):
        with pytest.raises(TypeError, match="verified_child"):
            spawn_and_await(lead, {NAME: child})  # type: ignore[dict-item]


def test_a_child_answers_under_its_own_name(lead: Agent, researcher: Agent) -> None:
    """A child under a name that isn't its agent's is refused at construction."""
    says = (
        r"children\['agent_other'\] is the child of 'agent_researcher': use that name as the key, "
        r'or make it with pipelit.agent\("agent_other"\)'
    )
    with pytest.raises(ValueError, match=says):
        spawn_and_await(lead, {"agent_other": verified_child(graph_of(), researcher)})


def test_a_child_of_another_database_says_whom_it_works_for(
    lead: Agent, elsewhere: Pipelit
) -> None:
    """Without accept_from a child of another Pipelit is refused at construction."""
    with pytest.raises(ValueError, match="accept_from"):
        spawn_and_await(lead, {NAME: verified_child(graph_of(), elsewhere.agent(NAME))})


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_concurrency": 0},
        {"max_depth": 0},
        {"on_failure": "ignore"},
        {"proof": {"agent_other": "unbound-totp"}},
        {"proof": {NAME: "none"}},
    ],
)
def test_an_option_out_of_range_is_named(
    lead: Agent, researcher: Agent, options: dict[str, Any]
) -> None:
    """Each option that can't be meant is refused at construction, by its name."""
    with pytest.raises(ValueError, match=next(iter(options))):
        spawn_and_await(lead, {NAME: verified_child(graph_of(), researcher)}, **options)


# What is refused: each of these gets nothing into the parent


def _other_payload(envelope: dict[str, Any], _: SpawnRequest) -> Any:
    payload = envelope["payload"].replace(b"X", b"Y")
    assert payload != envelope["payload"]
    return envelope | {"payload": payload}


def _huge(envelope: dict[str, Any], _: SpawnRequest) -> Any:
    return envelope | {"payload": b'"' + CANARY.encode() + b"x" * 100_000_000 + b'"'}


def _raise(error: BaseException) -> Meddle:
    def meddle(*_: Any) -> Any:
        raise error

    return meddle


class _TwoFaced(dict[str, Any]):
    """A mapping that shows another payload each time it is read."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if key == "payload":
            super().__setitem__("payload", json.dumps({"a": CANARY}).encode())
        return value


def _two_faced(envelope: dict[str, Any], _: SpawnRequest) -> Any:
    return _TwoFaced(envelope | {"payload": b'{"a":"' + CANARY.encode() + b'"}'})


MEDDLERS: dict[str, Meddle] = {
    "no proof": lambda e, _: {k: v for k, v in e.items() if k != "proof"},
    "an empty proof": lambda e, _: e | {"proof": ""},
    "a proof of zeros": lambda e, _: e | {"proof": "0" * 64},
    "a changed result": _other_payload,
    "an error made a result": lambda e, _: e | {"kind": "error"},
    "another step": lambda e, _: e | {"step": e["step"] + 1},
    "a step that is no time": lambda e, _: e | {"step": 2**62},
    "extra keys": lambda e, _: e | {"results": [CANARY]},
    "two envelopes": lambda e, _: [e, e],
    "nothing": lambda *_: None,
    "text": lambda *_: CANARY,
    "a command": lambda *_: Command(update={"note": CANARY}),
    "a parent command": lambda *_: Command(graph=Command.PARENT, update={"note": CANARY}),
    "a text payload": lambda e, _: e | {"payload": e["payload"].decode()},
    "a true step": lambda e, _: e | {"step": True},
    "an unknown kind": lambda e, _: e | {"kind": CANARY},
    "100 MB": _huge,
    "two faces": _two_faced,
    "a bare exception": _raise(RuntimeError(CANARY)),
    "a time-out of its own": _raise(TimeoutError(CANARY)),
    "a raised parent command": _raise(
        ParentCommand(Command(graph=Command.PARENT, update={"note": CANARY}))
    ),
    "a cancellation of its own": _raise(asyncio.CancelledError(CANARY)),
    "an assertion": _raise(AssertionError(CANARY)),
    "a recursion": _raise(RecursionError(CANARY)),
    "a database error": _raise(StorageError(CANARY)),
}


@pytest.mark.parametrize("on_failure", ["collect", "raise"])
@pytest.mark.parametrize("meddler", MEDDLERS)
def test_a_meddled_answer_is_refused_without_a_trace(
    lead: Agent, researcher: Agent, tmp_path: Path, meddler: str, on_failure: Any
) -> None:
    """Refused, and neither output nor words of it in the parent's state, namespaces or streams."""
    path = tmp_path / "checkpoints.db"

    def work(_: Work) -> Work:
        return {"a": f"X{CANARY}"}

    child = hostile(researcher, MEDDLERS[meddler], work)
    chunks: list[Any] = []
    modes = ["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = parent_of(lead, {NAME: child}, saver, on_failure=on_failure)
        try:
            chunks.extend(graph.stream(tasks("x"), THREAD, stream_mode=modes))
        except SpawnError as error:
            assert on_failure == "raise"
            chunks.append((str(error), error.results, error.__cause__, error.__context__))
        state = graph.get_state(THREAD)
    if on_failure == "collect":
        assert statuses(state.values) == ["refused"]
    else:
        assert "results" not in state.values
    assert CANARY.encode() not in parents_own(path)
    assert CANARY not in repr(state.values) + repr(chunks)


@pytest.mark.parametrize("meddler", MEDDLERS)
async def test_a_meddled_answer_is_refused_on_the_event_loop(
    lead: Agent, researcher: Agent, meddler: str
) -> None:
    """The same refusals, async."""
    child = hostile(researcher, MEDDLERS[meddler])
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    state = await graph.ainvoke(tasks("x"))
    assert statuses(state) == ["refused"]
    assert CANARY not in repr(state)


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_child_that_exits_is_refused(
    lead: Agent, researcher: Agent, tmp_path: Path, ending: type[BaseException], timeout: Any
) -> None:
    """Its sys.exit ends neither the process nor its siblings, and says nothing."""
    path = tmp_path / "checkpoints.db"

    def work(state: Work) -> Work:
        if state["q"] == "exit":
            raise ending(CANARY)
        return upper(state)

    child = verified_child(graph_of(work), researcher)
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = parent_of(lead, {NAME: child}, saver, on_failure="collect", timeout=timeout)
        state = graph.invoke(tasks("exit", "x"), THREAD)
    assert statuses(state) == ["refused", "verified"]
    assert CANARY not in repr(state)
    assert CANARY.encode() not in parents_own(path)


# LangGraph's own coroutine of the child's node doesn't let itself be closed, and Python tells it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("deferred", [False, True])
async def test_the_end_of_a_generator_is_a_refusal_on_the_event_loop(
    lead: Agent, researcher: Agent, timeout: Any, deferred: bool
) -> None:
    """A GeneratorExit from a node of the child closes nothing that waits for the child."""

    async def work(state: Work) -> Work:
        if deferred:
            await asyncio.sleep(0)
        if state["q"] == "exit":
            raise GeneratorExit(CANARY)
        return upper(state)

    child = verified_child(graph_of(work), researcher)
    graph = parent_of(lead, {NAME: child}, on_failure="collect", timeout=timeout)
    state = await graph.ainvoke(tasks("exit", "x"))
    assert statuses(state) == ["refused", "verified"]
    assert CANARY not in repr(state)


def test_a_command_to_the_parent_is_refused(lead: Agent, researcher: Agent) -> None:
    """A node of the child that writes the parent's state by Command.PARENT is refused."""

    def write(_: Work) -> Command[Any]:
        return Command(graph=Command.PARENT, update={"note": CANARY}, goto="delegate")

    child = verified_child(graph_of(write), researcher)
    state = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))
    assert statuses(state) == ["refused"]
    assert "note" not in state


def test_what_a_child_writes_to_its_stream_is_not_the_parents(
    lead: Agent, researcher: Agent
) -> None:
    """A child's own custom events don't come out of the parent's stream."""

    def chatter(state: Work) -> Work:
        get_stream_writer()({"said": CANARY})
        return upper(state)

    graph = parent_of(lead, {NAME: verified_child(graph_of(chatter), researcher)})
    assert CANARY not in repr(list(graph.stream(tasks("x"), stream_mode=["custom", "updates"])))


def test_what_a_childs_model_says_is_not_streamed_by_the_parent(
    lead: Agent, researcher: Agent
) -> None:
    """A child's tokens, not yet verified, don't come out of the parent's message stream."""
    model = GenericFakeChatModel(messages=iter([AIMessage(f"{CANARY} {CANARY}")]))

    def talk(_: Work) -> Work:
        model.invoke("hello")
        return {"a": "X"}

    graph = parent_of(lead, {NAME: verified_child(graph_of(talk), researcher)})
    modes = ["messages", "updates"]
    chunks = list(graph.stream(tasks("x"), stream_mode=modes))
    assert chunks
    assert CANARY not in repr(chunks)


def test_an_impostor_of_the_same_name_is_refused(
    lead: Agent, researcher: Agent, elsewhere: Pipelit
) -> None:
    """A child with the name but not the secret is refused before it runs."""
    ran: list[Any] = []
    child = verified_child(
        graph_of(lambda state: ran.append(state) or {}),
        elsewhere.agent(NAME),
        accept_from=ANYONE,
    )
    state = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))
    assert statuses(state) == ["refused"]
    assert not ran


def test_another_identitys_proof_is_refused(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """An answer that another agent of the same database proved is refused."""
    pipelit.users.create_agent("agent_other", owner="alice", purpose="x")
    other = pipelit.agent("agent_other")

    def sign(envelope: dict[str, Any], request: SpawnRequest) -> Any:
        proof = other.prove(
            request.challenge,
            envelope["payload"],
            verifier="agent_lead",
            request=request.payload,
            depth=request.depth,
        )
        return envelope | {"proof": proof.value}

    state = parent_of(lead, {NAME: hostile(researcher, sign)}, on_failure="collect").invoke(
        tasks("x")
    )
    assert statuses(state) == ["refused"]


def test_an_answer_to_a_changed_request_is_refused(lead: Agent, researcher: Agent) -> None:
    """A child that was asked one thing and answers another can't prove it for the first."""

    class Other(Hostile):
        def answer(self, request: SpawnRequest, *args: Any) -> Any:
            changed = dataclasses.replace(request, payload=state_to_bytes({"q": CANARY}))
            return super().answer(changed, *args)

    child = Other(graph=graph_of(), agent=researcher)
    state = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))
    assert statuses(state) == ["refused"]
    assert CANARY.upper() not in repr(state)


def test_an_earlier_answer_is_refused(lead: Agent, researcher: Agent) -> None:
    """A recorded envelope of the very same question is worth nothing the next time."""
    tape: list[Any] = []

    def replay(envelope: dict[str, Any], _: SpawnRequest) -> Any:
        tape.append(envelope)
        return tape[0]

    graph = parent_of(lead, {NAME: hostile(researcher, replay)}, on_failure="collect")
    assert statuses(graph.invoke(tasks("x"))) == ["verified"]
    assert statuses(graph.invoke(tasks("x"))) == ["refused"]


def test_swapped_answers_of_parallel_children_are_refused(lead: Agent, researcher: Agent) -> None:
    """Two children of one identity can't stand in for each other, even for equal questions."""
    both, swapped = threading.Barrier(2), {}

    def swap(envelope: dict[str, Any], request: SpawnRequest) -> Any:
        swapped[request.challenge] = envelope
        both.wait(10)
        (other,) = [each for key, each in swapped.items() if key != request.challenge]
        return other

    graph = parent_of(lead, {NAME: hostile(researcher, swap)}, on_failure="collect")
    assert statuses(graph.invoke(tasks("x", "x"))) == ["refused", "refused"]


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000,
        b"[" * 66 + b"]" * 66,
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"",
        b"{} {}",
        b'{"__pipelit_message__":{"type":"ai"}}',
        b'{"__pipelit_message__":{"type":"system","data":{"lc":1,"type":"constructor"}}}',
        b'{"__pipelit_message__":{"type":"os.system","data":{"content":"id"}}}',
    ],
)
def test_proven_bytes_that_are_no_payload_are_refused(
    lead: Agent, researcher: Agent, payload: bytes
) -> None:
    """Also a true child can't send what two readers would read differently."""

    class Odd(Hostile):
        def answer(self, request: SpawnRequest, *_: Any) -> Any:
            return self.seal(request, "result", payload)

    child = Odd(graph=graph_of(), agent=researcher)
    (result,) = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))["results"]
    assert result["status"] == "refused"
    assert result["error"].startswith("the answer can't be read as a payload")


@pytest.mark.parametrize("value", [SecretStr(CANARY), Secret(CANARY), object(), 1j, {1j}])
def test_what_cannot_travel_is_a_failure(lead: Agent, researcher: Agent, value: Any) -> None:
    """A secret or another object in a child's output is told by its type, never by its value."""
    child = verified_child(graph_of(lambda _: {"a": value}), researcher)
    (result,) = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))["results"]
    assert result["status"] == "failed"
    assert result["error"].startswith("PayloadError: a")
    assert CANARY not in repr(result)


def test_an_answer_over_the_limit_is_refused(lead: Agent, researcher: Agent) -> None:
    """A true answer that is larger than max_answer_bytes is refused."""
    child = verified_child(graph_of(), researcher)
    graph = parent_of(lead, {NAME: child}, on_failure="collect", max_answer_bytes=50)
    state = graph.invoke(tasks("x", "x" * 50))
    assert statuses(state) == ["verified", "refused"]


def test_every_outcome_is_audited(pipelit: Pipelit, lead: Agent, researcher: Agent) -> None:
    """Each verdict about an answer is in the trail with its true reason and its node."""
    child = hostile(researcher, MEDDLERS["a changed result"], lambda _: {"a": "X"})
    parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))
    (entry,) = [each for each in pipelit.audit.list() if each.action == "verify.proof"]
    assert (entry.actor, entry.subject, entry.outcome) == ("agent_lead", NAME, "refused")
    assert (entry.reason, entry.node) == ("wrong proof", NAME)


# Whom a child works for


@pytest.mark.parametrize("accept", [["agent_lead"], ["agent_x", "agent_lead"], ANYONE])
def test_a_listed_parent_is_served(lead: Agent, researcher: Agent, accept: Any) -> None:
    """A child works for whom it names, or for anyone if it says so."""
    child = verified_child(graph_of(), researcher, accept_from=accept)
    assert statuses(parent_of(lead, {NAME: child}).invoke(tasks("x"))) == ["verified"]


def test_an_unlisted_parent_is_refused_before_any_node_runs(lead: Agent, researcher: Agent) -> None:
    """A child does nothing for a caller that it doesn't name."""
    ran: list[Any] = []
    inner = graph_of(lambda state: ran.append(state) or {})
    child = verified_child(inner, researcher, accept_from=["agent_boss"])
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    (result,) = graph.invoke(tasks("x"))["results"]
    assert (result["status"], ran) == ("refused", [])
    assert "accept_from" in result["error"]


def _request(lead: Agent, **changes: Any) -> dict[str, Any]:
    challenge, payload = bytes(range(32)), state_to_bytes({"q": "x"})
    proof = lead.prove_request(challenge, payload, verifier=NAME, depth=1)
    request = {
        "parent": "agent_lead",
        "challenge": b64(challenge),
        "depth": 1,
        "payload": b64(payload),
        "proof": {"step": proof.step, "value": proof.value},
        "relation": "",
    }
    return request | changes


def test_a_child_is_a_graph_of_its_own(lead: Agent, researcher: Agent) -> None:
    """Invoked as a graph, a child answers a proven request with a proven envelope."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    answer = child.invoke({"request": _request(lead)})
    envelope = Envelope.from_wire(answer)
    assert json.loads(envelope.payload) == {"q": "x", "a": "X"}


@pytest.mark.parametrize(
    "changes",
    [
        {"parent": "agent_boss"},
        {"challenge": b64(bytes(32))},
        {"depth": 2},
        {"payload": b64(state_to_bytes({"q": "y"}))},
        {"proof": None},
        {"proof": {"step": 1, "value": "0" * 64}},
        {"proof": {"step": 1}},
        {"proof": "x"},
        {"payload": "text"},
        {"challenge": b64(b"short")},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_changed_request_is_refused_before_any_node_runs(
    lead: Agent, researcher: Agent, changes: dict[str, Any]
) -> None:
    """A request of another, or one that was changed on its way, gets no work done."""
    ran: list[Any] = []
    inner = graph_of(lambda state: ran.append(state) or {})
    child = verified_child(inner, researcher, accept_from=["agent_lead"])
    with pytest.raises(SpawnError):
        child.invoke({"request": _request(lead, **changes)})
    assert not ran


def test_a_child_that_is_served_has_to_say_for_whom(lead: Agent, researcher: Agent) -> None:
    """Reached from outside without accept_from, a child refuses everybody."""
    with pytest.raises(SpawnError, match="accept_from"):
        verified_child(graph_of(), researcher).invoke({"request": _request(lead)})


# Time, depth and number


@pytest.mark.slow
def test_a_child_that_overstays_is_told_so(lead: Agent, researcher: Agent) -> None:
    """Past its time a child is given up, its sibling is verified, and it stops at its next step."""
    release, later = threading.Event(), threading.Event()
    begun = threading.Event()

    def slow(state: Work) -> Work:
        if state["q"] == "slow":
            begun.set()
            release.wait(30)
        return {"a": "done"}

    builder = StateGraph(Work)
    builder.add_node("slow", slow)
    builder.add_node("later", lambda state: later.set() if state["q"] == "slow" else None)
    builder.add_edge(START, "slow")
    builder.add_edge("slow", "later")
    child = verified_child(builder.compile(), researcher)
    graph = parent_of(lead, {NAME: child}, timeout=0.3, on_failure="collect")
    before = threading.active_count()
    try:
        state = graph.invoke(tasks("slow", "quick"))
        assert statuses(state) == ["timeout", "verified"]
        assert state["results"][0]["error"] == "no answer within 0.3 seconds (timeout=)"
        assert begun.is_set()
    finally:
        release.set()
    for thread in threading.enumerate()[before - 1 :]:
        if thread.daemon:
            thread.join(0.5)
    assert not later.is_set()


@pytest.mark.slow
async def test_a_child_that_overstays_is_cancelled(lead: Agent, researcher: Agent) -> None:
    """On the event loop the child is cancelled."""
    cancelled = asyncio.Event()

    async def slow(state: Work) -> Work:
        if state["q"] == "slow":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return {"a": "done"}

    child = verified_child(graph_of(slow), researcher)
    graph = parent_of(lead, {NAME: child}, timeout=0.3, on_failure="collect")
    assert statuses(await graph.ainvoke(tasks("slow", "quick"))) == ["timeout", "verified"]
    assert cancelled.is_set()


def test_no_more_children_than_allowed_run_at_once(lead: Agent, researcher: Agent) -> None:
    """With max_concurrency=2 a third child waits; what the children run isn't throttled."""
    lock, state_of = threading.Lock(), {"now": 0, "most": 0}
    inherited: list[Any] = []
    pairs = threading.Barrier(2)

    def work(_: Work) -> Work:
        inherited.append(get_config().get("max_concurrency"))
        with lock:
            state_of["now"] += 1
            state_of["most"] = max(state_of["most"], state_of["now"])
        pairs.wait(10)
        with lock:
            state_of["now"] -= 1
        return {}

    child = verified_child(graph_of(work), researcher)
    graph = parent_of(lead, {NAME: child}, max_concurrency=2)
    graph.invoke(tasks(*"abcdefgh"))
    assert state_of["most"] == 2
    assert min(inherited) > 1000


def test_a_child_that_spawns_itself_ends(lead: Agent, researcher: Agent) -> None:
    """Nested deeper than max_depth, a spawn ends with an error that says so."""
    depth: list[int] = []

    def again(state: Work) -> Work:
        depth.append(1)
        (result,) = graph.invoke(tasks("x"))["results"]
        return {"a": result["error"]}

    child = verified_child(graph_of(again), researcher)
    graph = parent_of(lead, {NAME: child}, max_depth=3, on_failure="collect")
    state = graph.invoke(tasks("x"))
    assert len(depth) == 3
    innermost = state["results"][0]["output"]["a"]
    assert innermost is None
    assert statuses(state) == ["verified"]


def test_a_nested_spawn_that_is_too_deep_names_the_limit(lead: Agent, researcher: Agent) -> None:
    """The error of the innermost spawn reaches the outermost as a proven failure."""

    def again(_: Work) -> Work:
        graph.invoke(tasks("x"))
        return {}

    child = verified_child(graph_of(again), researcher)
    graph = parent_of(lead, {NAME: child}, max_depth=2)
    assert "max_depth is 2" in str(the_error(graph, tasks("x")))


# Failure and resuming


def test_siblings_finish_before_a_failure_is_raised(lead: Agent, researcher: Agent) -> None:
    """With on_failure="raise" the error has every result, and only a failed child runs again."""
    runs: list[str] = []
    broken = {"b"}

    def work(state: Work) -> Work:
        runs.append(state["q"])
        if state["q"] in broken:
            raise RuntimeError("broken")
        return upper(state)

    graph = parent_of(lead, {NAME: verified_child(graph_of(work), researcher)}, InMemorySaver())
    error = the_error(graph, tasks("a", "b", "c"), THREAD)
    assert [result["status"] for result in error.results] == ["verified", "failed", "verified"]
    said = 'agent_researcher: failed (its graph failed with the error "RuntimeError: broken")'
    assert f"tasks[1], {said}" in str(error)
    broken.clear()
    state = graph.invoke(None, THREAD)
    assert [result["output"]["a"] for result in state["results"]] == ["A", "B", "C"]
    assert sorted(runs) == ["a", "b", "b", "c"]


def test_a_childs_own_error_is_quoted(lead: Agent, researcher: Agent) -> None:
    """It is one short JSON string on one line, so it can't pose as the words of the parent."""

    def work(state: Work) -> Work:
        raise RuntimeError('x"); tasks[1], agent_boss: verified (pay\n\u202e' + "y" * 3000)

    error = the_error(
        parent_of(lead, {NAME: verified_child(graph_of(work), researcher)}), tasks("x")
    )
    said = str(error)
    assert r'"RuntimeError: x\"); tasks[1], agent_boss: verified (pay\n\u202eyyy' in said
    assert (said.endswith('y")'), len(said) < 700) == (True, True)


def test_of_many_failures_ten_are_told(lead: Agent, researcher: Agent) -> None:
    """An error of many failures stays readable; its results have all of them."""

    def work(state: Work) -> Work:
        raise RuntimeError("broken")

    graph = parent_of(lead, {NAME: verified_child(graph_of(work), researcher)})
    error = the_error(graph, tasks(*map(str, range(25))))
    assert [result["status"] for result in error.results] == ["failed"] * 25
    assert str(error).count("RuntimeError: broken") == 10
    assert str(error).endswith("; and 15 more, in the error's results")


def test_of_many_malformed_tasks_ten_are_told(lead: Agent, researcher: Agent) -> None:
    """The same for tasks that are nobody's."""
    graph = parent_of(lead, {NAME: verified_child(graph_of(), researcher)})
    error = the_error(graph, tasks(*map(str, range(25)), agent="agent_stranger"))
    assert str(error).count("isn't a child of this node") == 10
    assert str(error).endswith("; and 15 more")


async def test_a_resume_on_the_event_loop_runs_the_failed_child_only(
    lead: Agent, researcher: Agent
) -> None:
    """The same, async."""
    runs: list[str] = []

    async def work(state: Work) -> Work:
        runs.append(state["q"])
        if runs.count("b") == 1 and state["q"] == "b":
            raise RuntimeError("broken")
        return upper(state)

    child = verified_child(graph_of(work), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    with pytest.raises(SpawnError):
        await graph.ainvoke(tasks("a", "b", "c"), THREAD)
    state = await graph.ainvoke(None, THREAD)
    assert statuses(state) == ["verified"] * 3
    assert sorted(runs) == ["a", "b", "b", "c"]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from spawning import *
from langgraph.checkpoint.sqlite import SqliteSaver
from pipelit_agents import Pipelit
from pipelit_agents.graphs import verified_child

folder, first = sys.argv[2], sys.argv[3] == "first"
pipelit = Pipelit.from_env()

def work(state):
    if first and state["q"] == "c":
        # The other two are done when their answers stand in the file.
        while len(os.listdir(folder)) < 2 or done() < 2:
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGKILL)
    open(f"{folder}/{state['q']}.{'1' if first else '2'}", "w").close()
    return upper(state)

def done():
    import sqlite3
    from contextlib import closing
    with closing(sqlite3.connect(f"{sys.argv[4]}")) as connection, connection:
        return connection.execute(
            "SELECT count(*) FROM writes WHERE channel = 'answers'"
        ).fetchone()[0]

child = verified_child(graph_of(work), pipelit.agent(NAME))
with SqliteSaver.from_conn_string(sys.argv[4]) as saver:
    graph = parent_of(pipelit.agent("agent_lead"), {NAME: child}, saver)
    state = graph.invoke(tasks("a", "b", "c") if first else None, THREAD)
    print([result["output"]["a"] for result in state["results"]])
"""


@pytest.mark.process
def test_a_killed_parent_runs_only_the_missing_child_again(
    lead: Agent, researcher: Agent, database_url: str, key: str, tmp_path: Path
) -> None:
    """After kill -9 with two of three children done, a resume in a new process runs the third."""
    ran = tmp_path / "ran"
    ran.mkdir()
    environment = os.environ | {"FIELD_ENCRYPTION_KEY": key, "PIPELIT_DATABASE_URL": database_url}

    def start(which: str) -> subprocess.CompletedProcess[str]:
        here, saver = str(SUPPORT), str(tmp_path / "checkpoints.db")
        return fresh.run(KILLED, environment, here, str(ran), which, saver)

    assert start("first").returncode == -9
    second = start("second")
    assert second.stdout == "['A', 'B', 'C']\n", second.stderr[-2000:]
    assert sorted(each.name for each in ran.iterdir()) == ["a.1", "b.1", "c.2"]


@pytest.mark.parametrize("timeout", [None, 30])
def test_an_interrupt_inside_a_child_is_resumed(
    lead: Agent, researcher: Agent, timeout: float | None
) -> None:
    """A child asks, the caller answers, and the child's answer is verified."""

    def ask(state: Work) -> Work:
        return {"a": interrupt("which?")} if state["q"] == "ask" else upper(state)

    child = verified_child(graph_of(ask), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), timeout=timeout)
    state = graph.invoke(tasks("x", "ask"), THREAD)
    assert [each.value for each in state["__interrupt__"]] == ["which?"]
    state = graph.invoke(Command(resume="this"), THREAD)
    assert [result["output"]["a"] for result in state["results"]] == ["X", "this"]


async def test_a_question_that_a_child_keeps_to_itself_is_no_answer(
    lead: Agent, researcher: Agent
) -> None:
    """With a thread bound to it the question still surfaces; nobody takes it for a result."""
    builder = StateGraph(Work)
    builder.add_node("ask", lambda _: {"a": interrupt("which?")})
    builder.add_edge(START, "ask")
    own = builder.compile(checkpointer=InMemorySaver()).with_config(
        {"configurable": {"thread_id": "own"}, "recursion_limit": 7}
    )
    graph = parent_of(lead, {NAME: verified_child(own, researcher)}, InMemorySaver())
    other: Any = {"configurable": {"thread_id": "2"}}
    for state in (graph.invoke(tasks("x"), THREAD), await graph.ainvoke(tasks("x"), other)):
        assert [each.value for each in state["__interrupt__"]] == ["which?"]
        assert not state.get("results")


async def test_a_question_asked_beside_an_answer_is_no_answer(
    lead: Agent, researcher: Agent
) -> None:
    """Asked outside any graph, with a thread of its own, while another node writes the output."""
    builder = StateGraph(Work)
    builder.add_node("ask", lambda _: {"q": interrupt("which?")})
    builder.add_node("work", lambda _: {"a": "X"})
    builder.add_edge(START, "ask")
    builder.add_edge(START, "work")
    child = verified_child(builder.compile(checkpointer=InMemorySaver()), researcher)
    request = SpawnRequest("agent_lead", b"c" * 32, 1, state_to_bytes({"q": "x"}), None)
    answers = [
        child.answer(request, {"configurable": {"thread_id": "1"}}),
        await child.aanswer(request, {"configurable": {"thread_id": "2"}}),
    ]
    assert [each["kind"] for each in answers] == ["error", "error"]
    assert b"can't be resumed" in answers[0]["payload"] == answers[1]["payload"]


async def test_a_graph_that_has_its_own_way_to_be_called_is_called_so(
    lead: Agent, researcher: Agent
) -> None:
    """A class that changes ``invoke`` isn't gone around."""
    called = []

    class Careful(CompiledStateGraph[Any, Any, Any, Any]):
        def invoke(self, *args: Any, **more: Any) -> Any:
            called.append("invoke")
            return super().invoke(*args, **more)

        async def ainvoke(self, *args: Any, **more: Any) -> Any:
            called.append("ainvoke")
            return await super().ainvoke(*args, **more)

    graph: Any = graph_of()
    graph.__class__ = Careful
    graph = parent_of(lead, {NAME: verified_child(graph, researcher)})
    for state in (graph.invoke(tasks("x")), await graph.ainvoke(tasks("x"))):
        assert [result["output"]["a"] for result in state["results"]] == ["X"]
    assert called == ["invoke", "ainvoke"]


async def test_two_interrupted_children_get_their_own_answers(
    lead: Agent, researcher: Agent
) -> None:
    """Each of two waiting children gets the answer to its own question."""

    def ask(state: Work) -> Work:
        return {"a": interrupt(state["q"])}

    child = verified_child(graph_of(ask), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    state = await graph.ainvoke(tasks("one", "two"), THREAD)
    answers = {each.id: each.value.upper() for each in state["__interrupt__"]}
    state = await graph.ainvoke(Command(resume=answers), THREAD)
    assert [result["output"]["a"] for result in state["results"]] == ["ONE", "TWO"]


def test_an_interrupt_outlives_hours(lead: Agent, researcher: Agent, clock: Clock) -> None:
    """A person who takes a day to answer doesn't invalidate the spawn."""
    child = verified_child(graph_of(lambda _: {"a": interrupt("?")}), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver(), timeout=30)
    graph.invoke(tasks("x"), THREAD)
    clock.advance(86_400)
    assert statuses(graph.invoke(Command(resume="y"), THREAD)) == ["verified"]


# Accounts that change under way


@pytest.mark.parametrize("who", [NAME, "alice", "agent_lead"])
def test_who_is_deactivated_meanwhile_is_refused(
    pipelit: Pipelit, lead: Agent, researcher: Agent, who: str
) -> None:
    """Deactivating the child, its owner or the lead while the child works refuses its result."""

    def work(state: Work) -> Work:
        pipelit.users.deactivate(who)
        return upper(state)

    child = verified_child(graph_of(work), researcher)
    state = parent_of(lead, {NAME: child}, on_failure="collect").invoke(tasks("x"))
    assert statuses(state) == ["refused"]
    assert "X" not in repr(state["results"])


def test_a_child_that_was_deactivated_before_does_not_run(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """Possession is checked before the run, and an inactive account proves nothing."""
    ran: list[Any] = []
    child = verified_child(graph_of(lambda state: ran.append(state) or {}), researcher)
    pipelit.users.deactivate(NAME)
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    assert statuses(graph.invoke(tasks("x"))) == ["refused"]
    assert not ran


@pytest.mark.parametrize("fault", ["no key", "wrong key", "no tables", "no lead"])
def test_a_fault_of_the_set_up_is_not_the_childs(
    lead: Agent, researcher: Agent, database_url: str, tmp_path: Path, fault: str
) -> None:
    """What the operator has to fix is told as it is, not as an attack by the child."""
    keys = [] if fault == "no key" else [Keyring.generate_key()]
    url = f"sqlite:///{tmp_path}/none.db" if fault in ("no tables", "no lead") else database_url
    with Pipelit(database_url=url, encryption_keys=keys) as broken:
        if fault == "no lead":
            broken.create_schema()
        child = verified_child(graph_of(), broken.agent(NAME))
        graph = parent_of(broken.agent("agent_lead"), {NAME: child}, on_failure="collect")
        expected = {
            "no key": (ConfigurationError, "FIELD_ENCRYPTION_KEY is not set"),
            "wrong key": (UnsealError, "FIELD_ENCRYPTION_KEY"),
            "no tables": (StorageError, "pipelit-agents init"),
            "no lead": (UserNotFound, "agents create agent_lead"),
        }
        kind, words = expected[fault]
        with pytest.raises(kind, match=words):
            graph.invoke(tasks("x"))


def test_a_child_without_an_account_is_told_so(pipelit: Pipelit, lead: Agent) -> None:
    """A child whose account was never made says how to make it."""
    child = verified_child(graph_of(), pipelit.agent("agent_ghost"))
    graph = parent_of(lead, {"agent_ghost": child}, on_failure="collect")
    (result,) = graph.invoke(tasks("x", agent="agent_ghost"))["results"]
    assert result["status"] == "refused"
    assert "pipelit-agents agents create agent_ghost" in result["error"]


def test_an_inactive_lead_is_the_leads_own_error(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """A lead that may not act any more isn't told that its children are at fault."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    pipelit.users.deactivate("agent_lead")
    with pytest.raises(UserInactive, match="agent_lead"):
        graph.invoke(tasks("x"))


@pytest.mark.parametrize("overlap", [timedelta(0), timedelta(minutes=5)])
def test_a_rotation_under_way_does_not_break_a_spawn(
    pipelit: Pipelit, lead: Agent, researcher: Agent, overlap: timedelta
) -> None:
    """A child proves under the secret of the moment, so that its result is good."""

    def work(state: Work) -> Work:
        pipelit.users.rotate_totp(NAME, overlap=overlap)
        return upper(state)

    child = verified_child(graph_of(work), researcher)
    assert statuses(parent_of(lead, {NAME: child}).invoke(tasks("x"))) == ["verified"]


def test_a_broken_ledger_is_not_the_childs_fault(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """Where nothing can be checked the run ends with the storage's error, and nothing is in."""

    def work(state: Work) -> Work:
        with database_of(pipelit).writing() as connection:
            connection.exec_driver_sql("DROP TABLE pipelit_audit")
        return upper(state)

    graph = parent_of(
        lead,
        {NAME: verified_child(graph_of(work), researcher)},
        InMemorySaver(),
        on_failure="collect",
    )
    with pytest.raises((StorageError, LedgerUnavailable)):
        graph.invoke(tasks("x"), THREAD)
    assert "results" not in graph.get_state(THREAD).values


# A child with an authenticator only


def _unbound(lead: Agent, code: Callable[[], Any]) -> Any:
    class Output(BaseModel):
        code: Any = None
        output: Any = None

    class State(BaseModel):
        q: Any = None
        code: Any = None
        output: Any = None

    builder = StateGraph(State, output_schema=Output)
    builder.add_node("work", lambda state: {"code": code(), "output": state.q})
    builder.add_edge(START, "work")
    return parent_of(
        lead, {NAME: builder.compile()}, proof={NAME: "unbound-totp"}, on_failure="collect"
    )


def test_a_plain_code_is_accepted_where_the_parent_says_so(lead: Agent, researcher: Agent) -> None:
    """With unbound-totp an authenticator's code is enough, and the result says it isn't bound."""
    graph = _unbound(lead, lambda: researcher.totp_code().code)
    (result,) = graph.invoke(tasks("x"))["results"]
    assert (result["status"], result["output"], result["bound"]) == ("verified", "x", False)


def test_a_plain_code_is_good_for_one_child_only(lead: Agent, researcher: Agent) -> None:
    """One code, two children: one is verified."""
    graph = _unbound(lead, lambda: researcher.totp_code().code)
    assert sorted(statuses(graph.invoke(tasks("x", "y")))) == ["refused", "verified"]


@pytest.mark.parametrize("code", ["000000", "", None, 123456, CANARY])
async def test_a_wrong_plain_code_is_refused(lead: Agent, researcher: Agent, code: Any) -> None:
    """A wrong or missing code refuses the child's output."""
    state = await _unbound(lead, lambda: code).ainvoke(tasks("x"))
    assert statuses(state) == ["refused"]
    assert CANARY not in repr(state)


def test_an_unbound_child_with_extra_keys_is_refused(lead: Agent, researcher: Agent) -> None:
    """Exactly code and output come out of an unbound child, or nothing."""
    child = graph_of(lambda _: {"a": researcher.totp_code().code})
    graph = parent_of(lead, {NAME: child}, proof={NAME: "unbound-totp"}, on_failure="collect")
    assert statuses(graph.invoke(tasks("x"))) == ["refused"]


# Tasks


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"agent": "agent_stranger", "input": {}}, "'agent_stranger' isn't a child of this node"),
        ({"agent": NAME}, "tasks[0] must be"),
        ({"agent": NAME, "input": {}, "proof": "none"}, "tasks[0] must be"),
        ("text", "tasks[0] must be {'agent': …, 'input': …}, not str"),
        (
            {"agent": NAME, "message": "why?"},
            "and has agent, message: message is for a model's tool, SpawnAndAwait",
        ),
        (
            {"agent": NAME, "input": "why?"},
            'tasks[0].input must be a dict, such as {"messages": [("user", "why?")]}, not str',
        ),
        ({"agent": NAME, "input": {"q": object()}}, "tasks[0].input: q: a value of type object"),
        ({"agent": ["x"], "input": {}}, "isn't a child of this node"),
    ],
    ids=["stranger", "no input", "extra", "text", "message", "text input", "no JSON", "no name"],
)
def test_a_bad_task_is_named(lead: Agent, researcher: Agent, task: Any, says: str) -> None:
    """What is wrong with a task is told: raised before any child runs, or in its result."""
    child = {NAME: verified_child(graph_of(), researcher)}
    good = tasks("x")["tasks"][0]
    assert says in str(the_error(parent_of(lead, child), {"tasks": [task]}))
    state = parent_of(lead, child, on_failure="collect").invoke({"tasks": [task, good]})
    assert statuses(state) == ["failed", "verified"]
    assert says in state["results"][0]["error"]


def test_a_graph_that_takes_text_gets_it(lead: Agent, researcher: Agent) -> None:
    """Only where a child's state has fields must a task's input be a dict."""

    @entrypoint()
    def shout(said: str) -> str:
        return said.upper()

    child = verified_child(shout, researcher)
    sent: Any = {"tasks": [{"agent": NAME, "input": "why?"}]}
    (result,) = parent_of(lead, {NAME: child}).invoke(sent)["results"]
    assert result["output"] == "WHY?"


@pytest.mark.parametrize("none", [[], None])
def test_no_tasks_are_no_results(lead: Agent, researcher: Agent, none: Any) -> None:
    """A turn without tasks doesn't keep the results of the turn before."""
    child = verified_child(graph_of(), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    assert statuses(graph.invoke(tasks("x"), THREAD)) == ["verified"]
    assert graph.invoke({"tasks": none}, THREAD)["results"] == []


def test_a_second_turn_has_its_own_results(lead: Agent, researcher: Agent) -> None:
    """The node can be run again in the same thread."""
    graph = parent_of(lead, {NAME: verified_child(graph_of(), researcher)}, InMemorySaver())
    graph.invoke(tasks("a", "b"), THREAD)
    state = graph.invoke(tasks("c"), THREAD)
    assert [result["output"]["a"] for result in state["results"]] == ["C"]


# LangGraph's conventions


async def test_progress_is_told_on_the_custom_stream(lead: Agent, researcher: Agent) -> None:
    """Spawned, running and the outcome, each with the child's name and index, sync and async."""

    def work(state: Work) -> Work:
        if state["q"] == "fail":
            raise RuntimeError("broken")
        return {"a": "X"}

    def spoil(envelope: dict[str, Any], request: SpawnRequest) -> Any:
        return {} if b"spoil" in request.payload else envelope

    graph = parent_of(lead, {NAME: hostile(researcher, spoil, work)}, on_failure="collect")
    given = tasks("good", "fail", "spoil")
    found = list(graph.stream(given, stream_mode="custom"))
    afound = [event async for event in graph.astream(given, stream_mode="custom")]
    for events in (found, afound):
        assert {event["type"] for event in events} == {"pipelit.spawn"}
        assert {event["agent"] for event in events} == {NAME}
        by_index = {
            index: [event["event"] for event in events if event["index"] == index]
            for index in range(3)
        }
        assert by_index == {
            0: ["spawned", "running", "verified"],
            1: ["spawned", "running", "failed"],
            2: ["spawned", "running", "refused"],
        }


def test_progress_is_told_without_a_parent(lead: Agent, researcher: Agent) -> None:
    """Streamed by itself, the node tells its progress to its own caller."""
    node = spawn_and_await(lead, {NAME: verified_child(graph_of(), researcher)})
    events = [event["event"] for event in node.stream(tasks("x"), stream_mode="custom")]
    assert events == ["spawned", "running", "verified"]


@pytest.mark.parametrize("schema", LEADS)
def test_any_kind_of_parent_state(lead: Agent, researcher: Agent, schema: Any) -> None:
    """TypedDict, dataclass and pydantic parents work, and their other fields stay."""
    builder = StateGraph(schema)
    child = verified_child(graph_of(), researcher)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}))
    builder.add_edge(START, "delegate")
    state = builder.compile().invoke({**tasks("x"), "note": "mine"})
    assert statuses(state) == ["verified"]
    assert state["note"] == "mine"


def test_a_waiting_childs_state_can_be_seen(lead: Agent, researcher: Agent) -> None:
    """get_state(subgraphs=True) reaches the state of a child that waits."""
    child = verified_child(graph_of(lambda _: {"a": interrupt("?")}), researcher)
    graph = parent_of(lead, {NAME: child}, InMemorySaver())
    graph.invoke(tasks("x"), THREAD)
    delegate = graph.get_state(THREAD, subgraphs=True).tasks[0].state
    assert delegate.tasks[0].state.values["q"] == "x"


def test_the_graph_draws_its_children_by_name(lead: Agent, researcher: Agent) -> None:
    """A drawing shows plan, each child under its agent's name, and join."""
    graph = parent_of(lead, {NAME: verified_child(graph_of(), researcher)})
    drawn = graph.get_graph(xray=True).draw_mermaid()
    for name in ("plan", NAME, "join"):
        assert name in drawn


def test_copies_work_as_the_originals(lead: Agent, researcher: Agent) -> None:
    """LangGraph's server copies graphs by class and attributes; copies spawn and answer."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    node = spawn_and_await(lead, {NAME: child.copy()}).copy()
    assert statuses(node.invoke(tasks("x"))) == ["verified"]
    assert child.copy().invoke({"request": _request(lead)})["envelope"]["kind"] == "result"


def test_context_and_configuration_reach_a_child(lead: Agent, researcher: Agent) -> None:
    """A local child sees the caller's configurable, and none of ours in the metadata."""
    seen: list[Any] = []

    def look(state: Work) -> Work:
        seen.append(get_config()["configurable"]["tenant"])
        return upper(state)

    graph = parent_of(lead, {NAME: verified_child(graph_of(look), researcher)}, InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1", "tenant": "t1"}}
    graph.invoke(tasks("x"), config)
    assert seen == ["t1"]
    assert "pipelit" not in repr(graph.get_state(config).metadata)


@pytest.mark.slow
def test_a_retried_node_spawns_anew(lead: Agent, researcher: Agent) -> None:
    """Without a checkpointer a retry runs all children again, with challenges of their own."""
    from langgraph.types import RetryPolicy

    runs: list[int] = []

    def work(state: Work) -> Work:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("once")
        return upper(state)

    builder = StateGraph(Lead)
    child = verified_child(graph_of(work), researcher)
    retry = RetryPolicy(max_attempts=2, initial_interval=0.01, retry_on=SpawnError)
    builder.add_node("delegate", spawn_and_await(lead, {NAME: child}), retry_policy=retry)
    builder.add_edge(START, "delegate")
    assert statuses(builder.compile().invoke(tasks("x"))) == ["verified"]


@pytest.mark.process
def test_strict_msgpack_takes_everything_of_ours(
    lead: Agent, researcher: Agent, database_url: str, key: str
) -> None:
    """Under LANGGRAPH_STRICT_MSGPACK a spawn is saved, interrupted and resumed."""
    code = f"""
import sys, warnings
sys.path.insert(0, {str(SUPPORT)!r})
from spawning import *
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pipelit_agents import Pipelit
from pipelit_agents.graphs import verified_child
pipelit = Pipelit.from_env()
child = verified_child(graph_of(lambda state: {{"a": interrupt("?")}}), pipelit.agent(NAME))
graph = parent_of(pipelit.agent("agent_lead"), {{NAME: child}}, InMemorySaver())
graph.invoke(tasks("x"), THREAD)
print(graph.invoke(Command(resume="y"), THREAD)["results"][0]["output"])
"""
    environment = os.environ | {
        "FIELD_ENCRYPTION_KEY": key,
        "PIPELIT_DATABASE_URL": database_url,
        "LANGGRAPH_STRICT_MSGPACK": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "{'q': 'x', 'a': 'y'}\n", done.stderr[-2000:]
    assert "unregistered" not in done.stderr


def test_an_interrupt_without_a_question_is_no_answer(lead: Agent, researcher: Agent) -> None:
    """LangGraph raises one at a static breakpoint: the child waits, and there is no result."""
    child = hostile(researcher, _raise(GraphInterrupt(())))
    state = parent_of(lead, {NAME: child}, InMemorySaver(), on_failure="collect").invoke(
        tasks("x"), THREAD
    )
    assert "results" not in state


def test_what_a_loop_still_waits_for_keeps_nobody_waiting() -> None:
    """A name that is looked up for ever in a thread of the loop's holds no answer back."""
    looked_up = threading.Event()

    async def work() -> str:
        asyncio.get_running_loop().run_in_executor(None, looked_up.wait)
        return "answered"

    try:
        assert _on_another_loop(work) == "answered"
        assert not looked_up.is_set()
    finally:
        looked_up.set()


def test_possession_is_asked_once_a_second(lead: Agent, researcher: Agent, clock: Clock) -> None:
    """Tasks of one run that begin at one moment share one proof of possession; later ones don't."""
    asked = []

    class Counting(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            asked.append(clock())
            return super().prove_possession(challenge)

    child = Counting(graph=graph_of(), agent=researcher)
    graph = parent_of(lead, {NAME: child}, max_concurrency=1)
    assert statuses(graph.invoke(tasks(*"abcd"))) == ["verified"] * 4
    assert len(asked) == 1
    graph.invoke(tasks("e"))
    assert len(asked) == 2

    def later(state: Work) -> Work:
        clock.advance(1)
        return upper(state)

    child = Counting(graph=graph_of(later), agent=researcher)
    graph = parent_of(lead, {NAME: child}, max_concurrency=1)
    assert statuses(graph.invoke(tasks(*"fgh"))) == ["verified"] * 3
    assert len(asked) == 5


async def test_possession_is_asked_once_by_many_tasks(lead: Agent, researcher: Agent) -> None:
    """On the event loop too, where fifty begin before the first has its answer."""
    asked = []

    class Counting(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            asked.append(challenge)
            return super().prove_possession(challenge)

    graph = parent_of(lead, {NAME: Counting(graph=graph_of(), agent=researcher)})
    assert statuses(await graph.ainvoke(tasks(*map(str, range(50))))) == ["verified"] * 50
    assert len(asked) == 1


async def test_where_none_was_shown_each_waiting_task_is_refused_by_itself(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """Who waits for another task's proof of possession gets its own refusal, and audit row."""

    class Posing(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            return None

    child = Posing(graph=graph_of(), agent=researcher)
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    before = len(pipelit.audit.list())
    assert statuses(await graph.ainvoke(tasks(*"abc"))) == ["refused"] * 3
    assert [each.outcome for each in pipelit.audit.list()[before:]] == ["refused"] * 3


@pytest.mark.parametrize("asks", [1, 2], ids=["before", "with"])
async def test_who_showed_nothing_once_is_asked_again(
    lead: Agent, researcher: Agent, asks: int
) -> None:
    """Before the tasks begin that is held against none; with them, against the one that asked."""
    asked = []

    class Stumbling(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            asked.append(challenge)
            if len(asked) <= asks:
                raise RuntimeError
            return super().prove_possession(challenge)

    child = Stumbling(graph=graph_of(), agent=researcher)
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    found = statuses(await graph.ainvoke(tasks(*map(str, range(20)))))
    assert sorted(found) == ["refused"] * (asks - 1) + ["verified"] * (21 - asks)


@pytest.mark.parametrize("at_once", [1, 2])
async def test_a_child_that_hangs_once_is_asked_again(
    lead: Agent, researcher: Agent, at_once: int
) -> None:
    """What it never answered costs no task of its time, and leaves nothing running on the loop."""
    released = threading.Event()
    asked = []

    class Hanging(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            asked.append(challenge)
            if len(asked) == 1:
                released.wait(30)
            return super().prove_possession(challenge)

    child = Hanging(graph=graph_of(), agent=researcher)
    graph = parent_of(
        lead, {NAME: child}, on_failure="collect", timeout=20, max_concurrency=at_once
    )
    try:
        assert statuses(await graph.ainvoke(tasks(*"abcd"))) == ["verified"] * 4
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        released.set()


@pytest.mark.parametrize("timeout", [None, 30])
async def test_a_child_with_a_thread_of_its_own_keeps_the_callers_configuration(
    lead: Agent, researcher: Agent, timeout: float | None
) -> None:
    """A class that leaves the context behind is told everything by name."""
    seen: list[Any] = []

    def look(state: Work, config: RunnableConfig) -> Work:
        seen.append((config["configurable"]["tenant"], config["recursion_limit"]))
        return upper(state)

    class Apart(Hostile):
        def answer(self, *given: Any) -> Any:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(super().answer, *given).result()

    graph = parent_of(lead, {NAME: Apart(graph=graph_of(look), agent=researcher)}, timeout=timeout)
    config: RunnableConfig = {"configurable": {"tenant": "t1"}, "recursion_limit": 33}
    assert statuses(graph.invoke(tasks("x"), config)) == ["verified"]
    assert seen == [("t1", 33)]


@pytest.mark.slow
async def test_a_child_that_never_shows_anything_holds_up_only_itself(
    lead: Agent, researcher: Agent, writer: Agent
) -> None:
    """It is asked before its tasks begin, and the tasks of another child begin all the same."""
    released = threading.Event()

    class Hanging(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            released.wait(30)

    children = {
        NAME: Hanging(graph=graph_of(), agent=researcher),
        writer.username: verified_child(graph_of(), writer),
    }
    graph = parent_of(lead, children, on_failure="collect", timeout=0.5)
    asked = [{"agent": name, "input": {"q": "a"}} for name in children]
    try:
        assert statuses(await graph.ainvoke({"tasks": asked})) == ["timeout", "verified"]
    finally:
        released.set()


async def test_a_child_that_gets_no_task_is_asked_for_nothing(
    lead: Agent, researcher: Agent
) -> None:
    """Nor is one whose only task can't be sent."""
    asked = []

    class Counting(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            asked.append(challenge)

    child = Counting(graph=graph_of(), agent=researcher)
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    await graph.ainvoke({"tasks": []})
    found = await graph.ainvoke({"tasks": [{"agent": NAME, "input": {"q": object()}}]})
    assert statuses(found) == ["failed"]
    assert not asked


async def test_an_agent_that_ends_in_the_middle_is_believed_no_more(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """Possession was shown, and still each answer asks whether the child is active now."""

    async def end(state: Work) -> Work:
        if state["q"] == "b":
            await asyncio.to_thread(pipelit.users.deactivate, NAME)
        return upper(state)

    graph = parent_of(
        lead,
        {NAME: verified_child(graph_of(end), researcher)},
        on_failure="collect",
        max_concurrency=1,
    )
    assert statuses(await graph.ainvoke(tasks(*"abc"))) == ["verified", "refused", "refused"]
