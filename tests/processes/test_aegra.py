"""Children on Aegra: what ``examples/compose`` starts, without Docker, and what gets lost there.

Aegra needs Python 3.12, so it runs in an environment that ``make aegra`` makes.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from aegra_environment import interpreter, is_ready
from aegra_server import AegraServer, Balancer
from paths import ROOT, SUPPORT
from postgres import PostgresServer
from psycopg import Connection
from redis_server import RedisServer, until
from spawning import parent_of

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.graphs import remote_child

EXAMPLE = ROOT / "examples" / "compose"
READER = "agent_reader"
# How often Aegra looks for runs whose worker is dead. How long a worker is given stays as it is, as
# a busy machine would lose living ones.
WORKERS = {"REAPER_INTERVAL_SECONDS": "1"}
# The server is all tests', so that Aegra may not have as many connections as it would take.
POOLS = {
    "SQLALCHEMY_POOL_SIZE": "10",
    "SQLALCHEMY_MAX_OVERFLOW": "10",
    "LANGGRAPH_MIN_POOL_SIZE": "1",
    "LANGGRAPH_MAX_POOL_SIZE": "10",
}
READY = is_ready()
needs_aegra = pytest.mark.skipif(
    not READY, reason="" if READY else f"Aegra isn't installed: make aegra ({interpreter()})"
)


@dataclass
class World:
    """Two processes of Aegra behind one address, and the lead's side."""

    folder: Path
    env: dict[str, str]
    pipelit: Pipelit
    servers: tuple[AegraServer, AegraServer]
    url: str
    key: str
    database: str

    def ask(self, texts: list[str], graph: str = READER) -> list[Any]:
        """The results for some texts."""
        child = remote_child(READER, url=self.url, credential="reader-server", graph=graph)
        lead = parent_of(
            self.pipelit.agent("agent_lead"),
            {READER: child},
            timeout=180,
            max_concurrency=40,
            on_failure="collect",
        )
        tasks = [{"agent": READER, "input": {"text": text}} for text in texts]

        async def ask() -> list[Any]:
            # Forty at a time: `invoke` has as few threads as the machine has processors.
            found: list[Any] = (await lead.ainvoke({"tasks": tasks}))["results"]
            # As where a loop goes on: a busy server may still be deleting threads.
            if others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
            return found

        return asyncio.run(ask())

    def expire_leases(self, server: AegraServer) -> None:
        """Let the half minute pass in which a dead process is believed to be alive."""
        with psycopg.connect(self.database) as connection:
            connection.execute(
                "UPDATE runs SET lease_expires_at = now() - interval '1 second' "
                "WHERE claimed_by LIKE %s",
                [f"%-{server.process.pid}-worker-%"],
            )

    def left(self) -> dict[str, int]:
        """How many rows of threads, runs and checkpoints are there."""
        tables = ("thread", "runs", "checkpoints", "checkpoint_blobs", "checkpoint_writes")
        with psycopg.connect(self.database) as connection:
            counted = (
                connection.execute(f"SELECT count(*) FROM {each}").fetchone()  # noqa: S608
                for each in tables
            )
            return {each: row[0] for each, row in zip(tables, counted, strict=True) if row}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    postgres_connection: Connection,
    redis_server: RedisServer,
) -> Iterator[World]:
    """The example's parts: both databases, Redis, accounts from the file, two servers."""
    folder = tmp_path_factory.mktemp("aegra") / "example"
    shutil.copytree(EXAMPLE, folder)
    # A second graph of the same agent, for what the example's is too quick.
    shutil.copy(SUPPORT / "aegra_reader.py", folder / "graphs" / "slow.py")
    config = (folder / "aegra.json").read_text()
    added = config.replace('"graphs": {', '"graphs": {"slow": "./graphs/slow.py:slow", ')
    (folder / "aegra.json").write_text(added)
    # Two processes may have tests of this module.
    names = tuple(f"{each}_{os.getpid()}" for each in ("aegra_runs", "aegra_accounts"))
    for name in names:
        postgres_connection.execute(f"CREATE DATABASE {name}")
    runs, accounts = (postgres_server.url(name) for name in names)
    env = {
        "FIELD_ENCRYPTION_KEY": Keyring.generate_key(),
        "PIPELIT_DATABASE_URL": accounts,
        "DATABASE_URL": runs,
        "REDIS_BROKER_ENABLED": "true",
        "ENV_MODE": "PRODUCTION",
        "REDIS_URL": redis_server.url,
        "RAN": str(folder / "ran"),
        **POOLS,
        **WORKERS,
    }
    (folder / "ran").touch()
    first, second = (AegraServer(folder, env, f"aegra-{each}") for each in (1, 2))
    with (
        Pipelit(database_url=accounts, encryption_keys=[env["FIELD_ENCRYPTION_KEY"]]) as pipelit,
        Balancer(first.port, second.port) as balancer,
    ):
        pipelit.create_schema()
        pipelit.apply(folder / "accounts.yaml")
        key = (folder / "keys" / "agent_lead" / "aegra.key").read_text()
        try:
            # One after the other: the first makes Aegra's tables.
            first.start()
            second.start()
            yield World(folder, env, pipelit, (first, second), balancer.url, key, runs)
        finally:
            for each in (first, second):
                if hasattr(each, "process"):
                    each.kill()
    for name in names:
        postgres_connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@needs_aegra
@pytest.mark.parametrize("key", ["", "plit_000000000000_" + "A" * 43, "x"], ids=repr)
def test_a_wrong_key_is_401(world: World, key: str) -> None:
    """Aegra calls our handler: without a good key nothing is answered, with one it is."""
    for headers, status in (
        ({"Authorization": f"Bearer {key}"} if key else {}, 401),
        ({"Authorization": f"Bearer {world.key}"}, 200),
    ):
        answer = httpx.post(f"{world.url}/threads/search", json={}, headers=headers, timeout=60)
        assert answer.status_code == status


@needs_aegra
def test_two_hundred_children_are_verified_and_leave_nothing(world: World) -> None:
    """In order, over two processes with Redis; no thread, run or checkpoint stays."""
    found = world.ask([f"otters swim in rivers {number}" for number in range(200)])
    assert Counter(each["status"] for each in found) == {"verified": 200}
    assert all(each["bound"] for each in found)
    assert [each["index"] for each in found] == list(range(200))
    assert found[7]["output"] == {"words": 3, "about": ["otters", "swim", "rivers"]}
    assert set(world.left().values()) == {0}


@needs_aegra
def test_the_examples_lead_prints_proven_answers(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its script, with the settings of the Compose file."""
    for name in ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL"):
        monkeypatch.setenv(name, world.env[name])
    monkeypatch.setenv("READER_URL", world.url)
    monkeypatch.syspath_prepend(world.folder)
    importlib.import_module("lead").main(["Owls hunt at night.", "Otters swim."])
    assert capsys.readouterr().out.splitlines() == [
        "verified | {'words': 3, 'about': ['owls', 'hunt', 'night']}",
        "verified | {'words': 2, 'about': ['otters', 'swim']}",
    ]
    assert world.pipelit.apply(world.folder / "accounts.yaml") == []


@needs_aegra
def test_a_caller_that_isnt_the_lead_gets_no_work(world: World) -> None:
    """Another account's key, also for the server's own thread: the child refuses, nobody works."""
    other = world.pipelit.users.issue_api_key("alice", name="hers")
    world.pipelit.credentials.put("alices", other.api_key, kind="api-key", created_by="alice")
    child = remote_child(READER, url=world.url, credential="alices", graph="slow")
    lead = world.pipelit.agent("agent_lead")
    graph = parent_of(lead, {READER: child}, timeout=60, on_failure="collect")
    task = {"agent": READER, "input": {"text": "not hers"}}
    (result,) = graph.invoke({"tasks": [task]})["results"]
    assert (result["status"], result["output"]) == ("refused", None)
    assert "not hers" not in (world.folder / "ran").read_text()


@needs_aegra
def test_of_a_killed_process_each_run_is_lost_and_none_is_worked_on_twice(world: World) -> None:
    """The survivor's are verified; the lost ones are unreachable, and verified when sent again."""
    texts = [f"task {number}" for number in range(40)]
    ran = world.folder / "ran"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(world.ask, texts, "slow")
        # More than the thirty that one process works on, so that both have some.
        until(lambda: len(ran.read_text().splitlines()) == len(texts))
        world.servers[0].kill()
        world.expire_leases(world.servers[0])
        (world.folder / "go").touch()
        found = asked.result()
    statuses = Counter(each["status"] for each in found)
    assert set(statuses) == {"verified", "unreachable"}, statuses
    for text, each in zip(texts, found, strict=True):
        if each["status"] == "verified":
            assert each["output"] == {"text": text.upper()}
        else:
            assert (each["output"], each["bound"]) == (None, False)
            assert "you can send the task again" in each["error"]
    assert Counter(ran.read_text().splitlines()) == dict.fromkeys(texts, 1)
    assert set(world.left().values()) == {0}
    lost = [text for text, each in zip(texts, found, strict=True) if each["output"] is None]
    assert [each["error"] for each in world.ask(lost, "slow")] == [None] * len(lost)


@needs_aegra
def test_no_key_is_in_a_log(world: World) -> None:
    """Last: of all that both processes wrote, nothing is a key."""
    keys = [world.key, world.env["FIELD_ENCRYPTION_KEY"]]
    for each in world.servers:
        assert not [key for key in keys if key[-40:] in each.log()]


# What Docker would start


def test_the_compose_file_names_what_is_there() -> None:
    """Its files, its services, and the settings that both sides read."""
    compose = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        for other in service.get("depends_on", {}):
            assert other in services
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            there = source in compose["volumes"] or (EXAMPLE / source).exists()
            assert there, source
        for secret in service.get("secrets", ()):
            assert secret in compose["secrets"]
    servers = [name for name in services if name.startswith("aegra-")]
    gateway = (EXAMPLE / "Caddyfile").read_text()
    assert re.findall(r"aegra-\d(?=:2026)", gateway) == servers
    # Aegra's tables are made by one of them.
    makes = [services[each]["environment"]["RUN_MIGRATIONS_ON_STARTUP"] for each in servers]
    assert sorted(makes) == ["false", "true"]


def test_the_image_has_the_version_that_is_tested() -> None:
    """The Dockerfile asks for the same Aegra as the tests' environment."""
    wanted = re.findall(r'"(aegra-api[^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert re.findall(r"'(aegra-api[^']*)'", (EXAMPLE / "Dockerfile").read_text()) == wanted
