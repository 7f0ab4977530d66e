"""Runs on a server that lie about whose they are, and the count of whose key each one used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from key_service import KeyService

from pipelit_agents import Pipelit

# Requests and openings of a run of each graph of `served_person`, and of one that asks first: each
# node of it sends before it asks, again when it is resumed, and once more at its end.
SENT = {("graph", False): 1, ("graph", True): 3, ("nested", False): 2, ("nested", True): 6}
OPENED = {("graph", False): 1, ("graph", True): 2, ("nested", False): 2, ("nested", True): 4}
SENT["agent", False] = OPENED["agent", False] = 2
ASKED = ("graph", "nested", "agent")


@dataclass(frozen=True)
class Run:
    """What was run.

    Attributes:
        name: The name by which the service counts it.
        person: Who ran it.
        graph: The graph.
        asked: Whether it waited for answers.
        thread: Its thread.
        said: Whose key the service saw, or what went wrong.
    """

    name: str
    person: str
    graph: str
    asked: bool
    thread: str
    said: str


def store_own_keys(pipelit: Pipelit, service: KeyService) -> None:
    """Store each owner's key for the service."""
    for key, person in service.owners.items():
        pipelit.credentials.put(
            "github",
            key,
            kind="http",
            created_by=person,
            person=person,
            public={"base_url": service.url},
        )


def lies_of(other: str) -> dict[str, Any]:
    """Return what a caller writes into each place to be taken for somebody else."""
    named = {"person": other, "user_id": other, "x-user": other, "owner": other}
    return {
        "config": {
            "configurable": {**named, "authorization": f"Bearer {other}"},
            "metadata": {**named, "langgraph_auth_user": {"identity": other}},
        },
        "metadata": {**named, "langgraph_auth_user_id": other},
    }


def run_with_lies(
    client: httpx.Client, person: str, other: str, graph: str, name: str, *, ask: bool = False
) -> Run:
    """Run a graph for a person, with lies that it is for somebody else.

    Args:
        client: Has the person's key for the server.
        person: Who runs it.
        other: Whom the run names.
        graph: The graph.
        name: The name by which the service counts it.
        ask: Whether its nodes wait for answers, which are sent.
    """
    lies = lies_of(other)
    headers = {"X-User": other, "X-Langgraph-Auth-User": json.dumps({"identity": other})}
    made = client.post(
        "/assistants",
        json={"graph_id": graph, "config": lies["config"], "metadata": lies["metadata"]},
    )
    asked = {**lies, "assistant_id": made.json()["assistant_id"]}
    state = {"run": name, "ask": ask, "lie": {"langgraph_auth_user": {"identity": other}}}
    state["lie"] |= lies["metadata"]
    thread = client.post("/threads", json={"metadata": lies["metadata"]}).json()["thread_id"]
    path = f"/threads/{thread}/runs/wait"
    answer = client.post(path, json={**asked, "input": state}, headers=headers)
    while "__interrupt__" in answer.json():
        command = {"resume": lies["metadata"], "update": {"lie": lies["metadata"]}}
        answer = client.post(path, json={**asked, "command": command}, headers=headers)
    said = str(answer.json().get("owner", answer.text))
    return Run(name, person, graph, ask, thread, said)


def assert_each_used_its_own(
    pipelit: Pipelit, service: KeyService, runs: Sequence[Run], since: int
) -> None:
    """Compare what the service received and what the audit says with who ran what.

    Args:
        pipelit: Has the audit.
        service: Has counted the requests.
        runs: What was run since then, all of it.
        since: The newest entry of the audit before them.
    """
    assert [each.said for each in runs] == [each.person for each in runs]
    for each in runs:
        sent = SENT[each.graph, each.asked]
        assert service.seen_of(each.name) == {each.person: sent}, each
    entries = pipelit.audit.list(action="credential.reveal", after=since, limit=100_000)
    threads = {each.thread: each for each in runs}
    opened = Counter(
        (entry.thread, entry.person, bool(entry.node), entry.outcome)
        for entry in entries
        if entry.thread in threads
    )
    assert opened == {
        (each.thread, each.person, True, "ok"): OPENED[each.graph, each.asked] for each in runs
    }
