"""A verified child by itself: what it takes, whom it works for, what it is made of."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import Clock
from langchain_core.runnables import RunnableConfig
from spawning import NAME, Work, b64, graph_of, upper

from pipelit_agents import Agent, Challenge, Pipelit, Proof
from pipelit_agents.errors import InvalidUsername, ProofRejected, RequestRefused, RequestStale
from pipelit_agents.graphs import ANYONE, Envelope, SpawnRequest, VerifiedChild, verified_child
from pipelit_agents.graphs.codec import state_from_bytes, state_to_bytes
from pipelit_agents.protocol.binding import derive_challenge

PAYLOAD = state_to_bytes({"q": "x"})


def request_of(lead: Agent, **changes: Any) -> dict[str, Any]:
    """A proven request, or a changed one."""
    # Each has a challenge of its own: a child works on one once.
    challenge = secrets.token_bytes(32)
    proof = lead.prove_request(challenge, PAYLOAD, verifier=NAME, depth=1)
    return {
        "parent": lead.username,
        "challenge": b64(challenge),
        "depth": 1,
        "payload": b64(PAYLOAD),
        "proof": {"step": proof.step, "value": proof.value},
        "relation": "",
    } | changes


def checked(lead: Agent, given: dict[str, Any], answer: dict[str, Any], clock: Clock) -> Any:
    """What a parent far away reads of the answer to its request."""
    parsed = Envelope.from_wire(answer)
    challenge = Challenge(
        SpawnRequest.parse(given["request"], NAME).challenge,
        prover=NAME,
        verifier=lead.username,
        issued_at=clock(),
        expires_at=clock() + 60,
    )
    lead.verify_proof(
        Proof(NAME, lead.username, parsed.step, parsed.proof),
        challenge=challenge,
        payload=parsed.payload,
        request=PAYLOAD,
        kind=parsed.kind,
        depth=1,
    )
    return parsed.kind, state_from_bytes(parsed.payload, limit=10**6)


# Construction


@pytest.mark.parametrize(
    ("graph", "says"),
    [(upper, "compiled graph, not function"), (None, "compiled graph, not NoneType")],
)
def test_only_a_compiled_graph_is_made_a_child(researcher: Agent, graph: Any, says: str) -> None:
    """What isn't a compiled graph is refused, with what to do instead."""
    with pytest.raises(TypeError, match=says):
        verified_child(graph, researcher)


def test_a_child_is_not_wrapped_twice(researcher: Agent) -> None:
    """A verified child isn't the graph of another."""
    with pytest.raises(TypeError, match="already a verified child"):
        verified_child(verified_child(graph_of(), researcher), researcher)


@pytest.mark.parametrize(
    "given",
    [{"messages": [("user", "why?")]}, {}, "why?", [("user", "why?")]],
    ids=["messages", "empty", "text", "list"],
)
async def test_a_state_is_no_request(researcher: Agent, given: Any) -> None:
    """Where an agent is expected, a child says what to pass instead of LangGraph's words."""
    child = verified_child(graph_of(), researcher, accept_from=ANYONE)
    says = r'not a state: ask it with spawn_and_await\(lead, {"agent_researcher": child}\), or'
    with pytest.raises(TypeError, match=says):
        child.invoke(given)
    with pytest.raises(TypeError, match=says):
        list(child.stream(given))
    with pytest.raises(TypeError, match=says):
        await child.ainvoke(given)
    with pytest.raises(TypeError, match=says):
        _ = [each async for each in child.astream(given)]
    with pytest.raises(RequestRefused):
        child.invoke({"request": given})


def test_a_name_is_no_handle() -> None:
    """Who answers is given by a handle, not by a name."""
    with pytest.raises(TypeError, match="must be a handle"):
        verified_child(graph_of(), NAME)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("accept", "error"),
    [
        ("agent_lead", TypeError),
        (["Agent_Lead"], InvalidUsername),
        (["agent_lead "], InvalidUsername),
        ([""], InvalidUsername),
        ([None], InvalidUsername),
    ],
)
def test_the_names_in_accept_from_are_checked(
    researcher: Agent, accept: Any, error: type[Exception]
) -> None:
    """A name that no account can have is refused at construction."""
    with pytest.raises(error, match="accept_from"):
        verified_child(graph_of(), researcher, accept_from=accept)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda lead: lead, r'must be a list of usernames: \["NAME"\], not Agent'),
        (lambda lead: "agent_lead", r'must be a list of usernames: \["NAME"\], not str'),
        (lambda lead: 5, r'must be a list of usernames: \["NAME"\], not int'),
        (lambda lead: [lead], r"must be a username, as text, not Agent: pass its \.username"),
    ],
    ids=["handle", "name", "number", "list-of-handles"],
)
def test_accept_from_takes_a_list_of_usernames(
    lead: Agent, researcher: Agent, given: Any, says: str
) -> None:
    """Whatever else is passed, the error shows the form."""
    with pytest.raises((TypeError, InvalidUsername), match=f"^accept_from {says}"):
        verified_child(graph_of(), researcher, accept_from=given(lead))


def test_accept_from_is_copied(lead: Agent, researcher: Agent) -> None:
    """The list that was given can be changed later without letting anybody in."""
    names = ["agent_boss"]
    child = verified_child(graph_of(), researcher, accept_from=names)
    names.append("agent_lead")
    with pytest.raises(RequestRefused):
        child.invoke({"request": request_of(lead)})


def test_an_empty_list_accepts_nobody(lead: Agent, researcher: Agent) -> None:
    """accept_from=[] isn't accept_from=None."""
    child = verified_child(graph_of(), researcher, accept_from=[])
    with pytest.raises(RequestRefused):
        child.invoke({"request": request_of(lead)})


# As a graph of its own


async def test_a_proven_request_gets_a_proven_answer(
    lead: Agent, researcher: Agent, clock: Clock
) -> None:
    """Its envelope verifies at the parent, and holds what the graph answered, sync and async."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    given = {"request": request_of(lead)}
    again = {"request": request_of(lead)}
    for each, answer in ((given, child.invoke(given)), (again, await child.ainvoke(again))):
        assert checked(lead, each, answer, clock) == ("result", {"q": "x", "a": "X"})


async def test_a_failure_is_proven_too(lead: Agent, researcher: Agent, clock: Clock) -> None:
    """A graph that fails answers with an envelope of kind error, sync and async."""

    def fail(_: Work) -> Work:
        raise LookupError("no such book \ud800")

    child = verified_child(graph_of(fail), researcher, accept_from=["agent_lead"])
    given = {"request": request_of(lead)}
    expected = {"type": "LookupError", "message": "no such book ?"}
    again = {"request": request_of(lead)}
    for each, answer in ((given, child.invoke(given)), (again, await child.ainvoke(again))):
        assert checked(lead, each, answer, clock) == ("error", expected)


def test_a_failure_that_cannot_be_told_is_still_one(
    lead: Agent, researcher: Agent, clock: Clock
) -> None:
    """An exception that can't be printed is told by its type."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def fail(_: Work) -> Work:
        raise Unprintable

    child = verified_child(graph_of(fail), researcher, accept_from=["agent_lead"])
    given = {"request": request_of(lead)}
    kind, value = checked(lead, given, child.invoke(given), clock)
    assert (kind, value["type"]) == ("error", "Unprintable")


@pytest.mark.parametrize("payload", [b"", b"[", b'"\xff"', b'{"a":1,"a":2}', b"[" * 99 + b"]" * 99])
def test_a_request_that_is_no_payload_is_a_proven_failure(
    lead: Agent, researcher: Agent, payload: bytes
) -> None:
    """Bytes that can't be read aren't guessed at: no node runs."""
    ran: list[Any] = []
    inner = graph_of(lambda state: ran.append(state) or {})
    child = verified_child(inner, researcher, accept_from=ANYONE)
    answer = child.invoke({"request": request_of(lead, payload=b64(payload))})
    assert Envelope.from_wire(answer).kind == "error"
    assert not ran


class Equal(str):
    """A name that is equal to every name."""

    __hash__ = str.__hash__

    def __eq__(self, _: object) -> bool:
        return True


class Odd(Mapping[str, Any]):
    """A mapping that raises when it is read."""

    def __getitem__(self, key: str) -> Any:
        raise AttributeError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["proof"])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("accept", [["agent_lead"], ANYONE], ids=["listed", "anyone"])
@pytest.mark.parametrize(
    "change",
    [
        {"parent": Equal("agent_boss")},
        {"parent": "Agent_Lead"},
        {"parent": None},
        {"parent": 5},
        {"challenge": bytes(32)},
        {"challenge": "x" * 32},
        {"challenge": ""},
        {"challenge": "A" * 42 + "B"},
        {"challenge": "A" * 43 + "="},
        {"relation": None},
        {"relation": "A" * 32},
        {"depth": 0},
        {"depth": True},
        {"depth": 2**31},
        {"depth": 1.0},
        {"payload": None},
        {"payload": b"{}"},
        {"payload": "e30="},
        {"payload": "e30\n"},
        {"payload": "a"},
        {"proof": []},
        {"proof": Odd()},
        {"proof": {"step": "1", "value": "0" * 64}},
        {"proof": {"step": 1, "value": None}},
        {"agent": "agent_other"},
    ],
    ids=lambda change: "-".join((*change, *(type(each).__name__ for each in change.values()))),
)
async def test_a_malformed_request_is_refused(
    lead: Agent, researcher: Agent, accept: Any, change: dict[str, Any]
) -> None:
    """Wrong types, missing and additional fields are refused before any node runs, for anybody."""
    ran: list[Any] = []
    inner = graph_of(lambda state: ran.append(state) or {})
    child = verified_child(inner, researcher, accept_from=accept)
    given = {"request": request_of(lead, **change)}
    with pytest.raises(RequestRefused):
        child.invoke(given)
    with pytest.raises(RequestRefused):
        await child.ainvoke(given)
    assert not ran


@pytest.mark.parametrize(
    "missing", ["parent", "challenge", "depth", "payload", "proof", "relation"]
)
def test_every_field_of_a_request_is_needed(lead: Agent, researcher: Agent, missing: str) -> None:
    """Nothing in a request has a default."""
    given = request_of(lead)
    del given[missing]
    child = verified_child(graph_of(), researcher, accept_from=ANYONE)
    with pytest.raises(RequestRefused):
        child.invoke({"request": given})


def test_a_request_of_a_deactivated_parent_is_refused(
    pipelit: Pipelit, lead: Agent, researcher: Agent
) -> None:
    """A listed name is not enough: the account must be active."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    given = {"request": request_of(lead)}
    pipelit.users.deactivate("agent_lead")
    with pytest.raises(RequestRefused):
        child.invoke(given)


@pytest.mark.parametrize(
    ("seconds", "kind"), [(-300, RequestRefused), (90, RequestStale), (300, RequestStale)]
)
async def test_an_old_or_early_request_is_refused(
    lead: Agent, researcher: Agent, clock: Clock, seconds: float, kind: type[RequestRefused]
) -> None:
    """A proven request is good for a minute or so; of an old one the child says that it is."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    given = {"request": request_of(lead)}
    clock.advance(seconds)
    with pytest.raises(RequestRefused) as refusal:
        child.invoke(given)
    assert type(refusal.value) is kind
    request = SpawnRequest.parse(given["request"], NAME)
    with pytest.raises(RequestRefused) as refusal:
        await child.acheck(request)
    assert type(refusal.value) is kind


def test_an_old_request_of_somebody_else_is_only_refused(
    lead: Agent, researcher: Agent, clock: Clock
) -> None:
    """Who isn't in accept_from learns nothing else."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_boss"])
    given = {"request": request_of(lead)}
    clock.advance(300)
    with pytest.raises(RequestRefused) as refusal:
        child.invoke(given)
    assert type(refusal.value) is RequestRefused


def test_an_answer_is_bound_to_who_asked(lead: Agent, researcher: Agent, clock: Clock) -> None:
    """An envelope that was made for another parent, challenge or depth doesn't verify."""
    child = verified_child(graph_of(), researcher, accept_from=ANYONE)
    for change in (
        {"parent": "agent_boss"},
        {"challenge": b64(derive_challenge(bytes(32), 1))},
        {"depth": 2},
        {"payload": b64(state_to_bytes({"q": "y"}))},
    ):
        given = {"request": request_of(lead)}
        answer = child.invoke({"request": given["request"] | change})
        with pytest.raises(ProofRejected):
            checked(lead, given, answer, clock)


def test_a_childs_schemas_are_its_graphs(researcher: Agent) -> None:
    """Who looks at a child sees what the graph inside takes and gives."""
    inner = graph_of()
    child = verified_child(inner, researcher)
    assert isinstance(child, VerifiedChild)
    assert child.name == NAME
    assert child.get_input_jsonschema() == inner.get_input_jsonschema()
    assert child.get_output_jsonschema() == inner.get_output_jsonschema()


@dataclass
class Caller:
    """Whom a server shows a graph."""

    identity: str


# Worked on once


def test_a_request_is_worked_on_once(lead: Agent, researcher: Agent) -> None:
    """A request that comes again is refused, whichever copy of the child it reaches."""
    ran: list[Any] = []

    def note(state: Work) -> Work:
        ran.append(state)
        return {"a": "done"}

    given = {"request": request_of(lead)}
    for _ in range(2):
        child = verified_child(graph_of(note), researcher, accept_from=["agent_lead"])
        if not ran:
            child.invoke(given)
            continue
        with pytest.raises(RequestStale):
            child.invoke(given)
    assert len(ran) == 1


@pytest.mark.parametrize("caller", [None, "agent_other"])
def test_a_server_has_to_say_that_the_caller_is_the_parent(
    pipelit: Pipelit, lead: Agent, researcher: Agent, caller: str | None
) -> None:
    """Served without API keys, or reached with another account's: a proof alone isn't enough."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    served = {"graph_id": "child", "langgraph_auth_user": caller and Caller(caller)}
    with pytest.raises(RequestRefused):
        child.invoke({"request": request_of(lead)}, {"configurable": served})
    served["langgraph_auth_user"] = Caller("agent_lead")
    child.invoke({"request": request_of(lead)}, {"configurable": served})


def test_a_childs_graph_sees_nothing_that_no_proof_covers(lead: Agent, researcher: Agent) -> None:
    """What a caller puts beside the request, in the configuration, doesn't reach the graph."""
    seen: list[Any] = []

    def look(_: Work, config: RunnableConfig) -> Work:
        seen.append(config["configurable"])
        return {"a": "x"}

    child = verified_child(graph_of(look), researcher, accept_from=["agent_lead"])
    child.invoke(
        {"request": request_of(lead)}, {"configurable": {"thread_id": "1", "prompt": "obey"}}
    )
    assert "prompt" not in seen[0]
    assert seen[0]["thread_id"] == "1"


def test_a_childs_state_is_written_by_nobody(lead: Agent, researcher: Agent) -> None:
    """Neither sync nor async, nor in bulk: it works on requests."""
    child = verified_child(graph_of(), researcher, accept_from=["agent_lead"])
    with pytest.raises(RequestRefused, match="accepts only requests"):
        child.update_state({"configurable": {"thread_id": "1"}}, {"q": "x"}, as_node="work")


def test_a_child_is_drawn_as_its_graph(researcher: Agent) -> None:
    """Who looks at it sees what works."""
    drawn = verified_child(graph_of(), researcher).get_graph().draw_mermaid()
    assert "work" in drawn
