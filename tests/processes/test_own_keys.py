"""Whose key each of 200 runs on one server used; `test_server` has a short form.

`test_acting_at_once` has the same in one process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from key_service import KeyService, key_service
from langgraph_server import LangGraphServer
from lying_runs import (
    ASKED,
    OPENED,
    Run,
    assert_each_used_its_own,
    run_with_lies,
    store_own_keys,
)
from paths import SUPPORT
from redis_server import until

from pipelit_agents import Keyring, Pipelit

PEOPLE = ("alice", "bob")
RUNS = 200
# A field for seconds comes last.
EVERY_FIVE_SECONDS = "* * * * * */5"
# How often each cron has to run meanwhile.
CRON_RUNS = 3


@pytest.fixture
def keys() -> dict[str, str]:
    """Each person's key for the server."""
    return {}


@pytest.fixture
def service() -> Iterator[KeyService]:
    """Knows whose key is whose."""
    with key_service({f"{name}s-0123456789-abcd": name for name in PEOPLE}) as serving:
        yield serving


@pytest.fixture
def served(
    tmp_path: Path, keys: dict[str, str], service: KeyService
) -> Iterator[tuple[Pipelit, LangGraphServer]]:
    """A server with the graphs, its people and their keys."""
    env = {
        "FIELD_ENCRYPTION_KEY": Keyring.generate_key(),
        "PIPELIT_DATABASE_URL": f"sqlite:///{tmp_path / 'agents.db'}",
        "KEY_SERVICE_URL": service.url,
        # Seconds.
        "CRON_SCHEDULER_SLEEP_TIME": "1",
    }
    stored: dict[str, Any] = {
        "database_url": env["PIPELIT_DATABASE_URL"],
        "encryption_keys": [env["FIELD_ENCRYPTION_KEY"]],
    }
    with Pipelit(**stored) as pipelit:
        pipelit.create_schema()
        for name in (*PEOPLE, "carol"):
            keys[name] = pipelit.users.create(name).api_key.get_secret_value()
        for agent in ("agent_lead", "agent_researcher"):
            pipelit.users.create_agent(agent, owner="alice", purpose="tests")
        store_own_keys(pipelit, service)
        graphs = {name: f"{SUPPORT / 'served_person.py'}:{name}" for name in ASKED}
        with LangGraphServer(tmp_path, graphs, env) as server:
            yield pipelit, server


@pytest.fixture
def clients(
    served: tuple[Pipelit, LangGraphServer], keys: dict[str, str]
) -> Iterator[dict[str, httpx.Client]]:
    """A client of the server for each person."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                httpx.Client(
                    base_url=served[1].url, headers={"Authorization": f"Bearer {key}"}, timeout=120
                )
            )
            for name, key in keys.items()
        }


@pytest.mark.everywhere
def test_200_interleaved_runs_use_their_own_persons_keys(
    served: tuple[Pipelit, LangGraphServer],
    clients: dict[str, httpx.Client],
    keys: dict[str, str],
    service: KeyService,
) -> None:
    """Counted from the audit and by the service: interrupts, resumes, crons, children, lies."""
    pipelit, server = served
    crons = []
    for name in PEOPLE:
        for graph in ASKED:
            thread = clients[name].post("/threads", json={}).json()["thread_id"]
            made = clients[name].post(
                f"/threads/{thread}/runs/crons",
                json={
                    "assistant_id": graph,
                    "schedule": EVERY_FIVE_SECONDS,
                    "input": {"run": f"cron-{name}-{graph}", "lie": {"person": "eve"}},
                    "metadata": {"owner": "eve", "langgraph_auth_user": "eve"},
                },
            )
            crons.append((name, graph, thread, made.json()["cron_id"]))
    order = random.Random(23)  # noqa: S311 - the order of runs is no secret
    kinds = [(name, *kind) for name in PEOPLE for kind in OPENED]
    wanted = [kinds[number % len(kinds)] for number in range(RUNS)]
    order.shuffle(wanted)

    def run(number: int, name: str, graph: str, ask: bool) -> Run:
        # Names nobody, somebody without a key, and the other one.
        other = ("alice" if name == "bob" else "bob", "carol", "eve")[number % 3]
        return run_with_lies(clients[name], name, other, graph, f"run-{number}", ask=ask)

    with ThreadPoolExecutor(12) as pool:
        refused = [
            pool.submit(run_with_lies, clients["carol"], "carol", "alice", graph, f"none-{graph}")
            for graph in ASKED
        ]
        runs = list(pool.map(run, range(RUNS), *zip(*wanted, strict=True)))
    assert_each_used_its_own(pipelit, service, runs, since=0)
    for graph, each in zip(ASKED, refused, strict=True):
        assert "NoPersonalCredential" in each.result().said
        assert not service.seen_of(f"none-{graph}")
    for name, graph, thread, cron in crons:
        until(lambda of=f"cron-{name}-{graph}": sum(service.seen_of(of).values()) >= CRON_RUNS)
        clients[name].delete(f"/runs/crons/{cron}").raise_for_status()
        assert set(service.seen_of(f"cron-{name}-{graph}")) == {name}
        opened = pipelit.audit.list(action="credential.reveal", limit=100_000)
        assert {each.person for each in opened if each.thread == thread} == {name}
    entries = pipelit.audit.list(action="credential.reveal", limit=100_000)
    assert {(each.person, each.outcome, each.reason) for each in entries} == {
        *((name, "ok", "") for name in PEOPLE),
        ("carol", "refused", "no own value"),
    }
    log = server.log()
    for secret in (*keys.values(), *service.owners):
        assert secret not in log
