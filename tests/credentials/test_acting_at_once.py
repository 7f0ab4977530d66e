"""Whose key each of many runs in one process used, counted from the audit and by a service."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from key_service import KeyService, key_service
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from lying_runs import store_own_keys
from pydantic import SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Pipelit
from pipelit_agents.errors import NobodyAuthenticated

PEOPLE = ("alice", "bob")
# So many threads and so many tasks are in their blocks at one moment, in each turn.
AT_ONCE = 10


class State(TypedDict, total=False):
    """What is passed to a run, and whose key the service saw in it.

    Attributes:
        run: Its name.
        fails: Whether it raises after the first request.
        lie: Somebody else's name.
        owners: Whose the keys were.
    """

    run: str
    fails: bool
    lie: Any
    owners: list[str]


@pytest.fixture
def service(pipelit: Pipelit) -> Iterator[KeyService]:
    """A service for which each person has a key of their own."""
    pipelit.users.create("bob")
    with key_service({f"{name}s-0123456789-abcd": name for name in PEOPLE}) as serving:
        store_own_keys(pipelit, serving)
        yield serving


def planned(kind: str, who: int, turn: int) -> tuple[str, State]:
    """Return for whom a run is and its input: neighbours act for others, and some raise."""
    person = PEOPLE[(who + turn) % 2]
    lie = {"person": PEOPLE[(who + turn + 1) % 2]}
    name = f"{kind}-{who}-{turn}"
    return person, {"run": name, "fails": (who + turn) % 5 == 0, "lie": lie}


@pytest.mark.slow
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.everywhere)])
async def test_runs_at_once_use_their_own_persons_keys(
    pipelit: Pipelit, service: KeyService, count: int
) -> None:
    """Threads and tasks overlap, and some raise in the middle: each acts for its own person."""
    inject = pipelit.credentials.inject(token="github", per_person=True)
    auth = pipelit.credentials.http_auth("github", per_person=True)
    together = threading.Barrier(AT_ONCE, timeout=30)
    tasks_together = asyncio.Barrier(AT_ONCE)
    runs: dict[str, tuple[str, State]] = {}
    turns = count // (2 * AT_ONCE)

    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:

        def send(state: State, token: SecretStr) -> str:
            header = {"Authorization": f"Bearer {token.get_secret_value()}"}
            return client.get(service.url + state["run"], headers=header).text

        @inject
        def by_header(state: State, *, token: SecretStr) -> State:
            together.wait()
            return {"owners": [send(state, token)]}

        @inject
        async def by_header_in_a_task(state: State, *, token: SecretStr) -> State:
            await tasks_together.wait()
            return {"owners": [await asyncio.to_thread(send, state, token)]}

        def by_client(state: State) -> State:
            if state["fails"]:
                raise ZeroDivisionError
            owner = client.get(service.url + state["run"], auth=auth).text
            return {"owners": [*state["owners"], owner]}

        def built(first: Any) -> Any:
            inner = StateGraph(State).add_node("first", first).add_edge(START, "first").compile()
            builder = StateGraph(State).add_sequence([("inner", inner), ("then", by_client)])
            return builder.add_edge(START, "inner").compile()

        def noted(person: str, state: State) -> RunnableConfig:
            runs[state["run"]] = person, state
            lie = PEOPLE[1 - PEOPLE.index(person)]
            return {"configurable": {"thread_id": state["run"], "person": lie}}

        graph, graph_of_tasks = built(by_header), built(by_header_in_a_task)

        def in_a_thread(who: int) -> None:
            for turn in range(turns):
                person, state = planned("thread", who, turn)
                config = noted(person, state)
                with contextlib.suppress(ZeroDivisionError), pipelit.acting_for(person):
                    found = graph.invoke(state, config)
                    assert found["owners"] == [person] * 2
                with pytest.raises(NobodyAuthenticated):
                    inject(lambda *, token: token)()

        async def in_a_task(who: int) -> None:
            for turn in range(turns):
                person, state = planned("task", who, turn)
                config = noted(person, state)
                with contextlib.suppress(ZeroDivisionError), pipelit.acting_for(person):
                    found = await graph_of_tasks.ainvoke(state, config)
                    assert found["owners"] == [person] * 2
                with pytest.raises(NobodyAuthenticated):
                    await asyncio.to_thread(inject(lambda *, token: token))

        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            threads = (
                loop.run_in_executor(pool, partial(in_a_thread, who)) for who in range(AT_ONCE)
            )
            await asyncio.gather(*threads, *(in_a_task(who) for who in range(AT_ONCE)))

    assert len(runs) == count
    sent = {(run, person): 2 - state["fails"] for run, (person, state) in runs.items()}
    assert service.received == sent
    entries = pipelit.audit.list(action="credential.reveal", limit=100_000)
    assert Counter((each.thread, each.person) for each in entries if each.person) == sent
    assert Counter((each.outcome, each.reason) for each in entries) == {
        ("ok", ""): sum(sent.values()),
        ("refused", "nobody authenticated"): count,
    }
