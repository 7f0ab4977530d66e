"""Who may call a LangGraph Server, and what of it they see: one real server, two people."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from internals import authentication_of, database_of
from key_service import KeyService, key_service
from langgraph_sdk import Auth
from langgraph_server import LangGraphServer
from lying_runs import ASKED, Run, assert_each_used_its_own, run_with_lies, store_own_keys
from paths import SUPPORT
from redis_server import until
from sqlalchemy import text

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.server import FailureDelay, make_auth

HERE = SUPPORT
# Some second of each year's first day: a cron that doesn't run while this does.
YEARLY = "0 0 1 1 *"
# The application beside the server's: the desk, below a prefix.
WEB = """
from starlette.applications import Starlette
from starlette.routing import Mount

from pipelit_agents import Pipelit
from pipelit_agents.desk import make_app

app = Starlette(routes=[Mount("/desk", make_app(Pipelit.from_env()))])
"""
REFUSED = {"detail": "a valid API key is needed: Authorization: Bearer plit_…"}


@dataclass
class World:
    """A server, and who has keys for it."""

    pipelit: Pipelit
    server: LangGraphServer
    keys: dict[str, str]
    service: KeyService
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def as_(self, name: str) -> httpx.Client:
        """Who calls with a key of that name."""
        if name not in self.clients:
            headers = {"Authorization": f"Bearer {self.keys[name]}"}
            self.clients[name] = httpx.Client(base_url=self.server.url, headers=headers, timeout=60)
        return self.clients[name]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with alice, with bob, and with keys that were good once."""
    directory = tmp_path_factory.mktemp("server")
    env = {
        "FIELD_ENCRYPTION_KEY": Keyring.generate_key(),
        "PIPELIT_DATABASE_URL": f"sqlite:///{directory / 'agents.db'}",
        # Seconds.
        "CRON_SCHEDULER_SLEEP_TIME": "1",
    }
    stored: dict[str, Any] = {
        "database_url": env["PIPELIT_DATABASE_URL"],
        "encryption_keys": [env["FIELD_ENCRYPTION_KEY"]],
    }
    with Pipelit(**stored) as pipelit:
        pipelit.create_schema()
        # A dot, and a word that stores keep for themselves.
        made = {
            name: pipelit.users.create(name).api_key for name in ("alice", "bob.b", "langgraph")
        }
        made["left"] = pipelit.users.create("left").api_key
        pipelit.users.deactivate("left")
        made["revoked"] = pipelit.users.issue_api_key("alice", name="revoked").api_key
        for key in pipelit.users.list_api_keys("alice"):
            if key.name == "revoked":
                pipelit.users.revoke_api_key(key.id)
        with Pipelit(**stored, clock=lambda: 1_700_000_000.0) as before:
            expiry = datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(hours=1)
            issued = before.users.issue_api_key("alice", name="expired", expires_at=expiry)
            made["expired"] = issued.api_key
        keys = {name: key.get_secret_value() for name, key in made.items()}
        for agent in ("agent_lead", "agent_researcher"):
            pipelit.users.create_agent(agent, owner="alice", purpose="tests")
        graphs = {
            "plain": f"{HERE / 'served_plain.py'}:graph",
            **{name: f"{HERE / 'served_person.py'}:{name}" for name in ASKED},
        }
        owners = {f"{name}-0123456789-abcd": name for name in ("alice", "bob.b")}
        with key_service(owners) as service:
            env["KEY_SERVICE_URL"] = service.url
            store_own_keys(pipelit, service)
            (directory / "web.py").write_text(WEB)
            with LangGraphServer(directory, graphs, env, app="./web.py:app") as server:
                world = World(pipelit, server, keys, service)
                yield world
            for client in world.clients.values():
                client.close()


# Who is let in


def test_a_good_key_is_the_identity_that_a_node_sees(world: World) -> None:
    """The account's name is what the server tells the graph, whatever the caller says."""
    for name in ("alice", "bob.b", "langgraph"):
        answer = world.as_(name).post(
            "/runs/wait",
            json={
                "assistant_id": "plain",
                "input": {},
                "config": {"configurable": {"langgraph_auth_user": {"identity": "eve"}}},
            },
        )
        # The server itself forbids to name that key.
        assert answer.status_code in (200, 422)
        answer = world.as_(name).post("/runs/wait", json={"assistant_id": "plain", "input": {}})
        assert (answer.status_code, answer.json()) == (200, {"who": name})


def _refused_headers(world: World) -> dict[str, list[tuple[str, str]]]:
    good = world.keys["alice"]
    basic = base64.b64encode(f"alice:{good}".encode()).decode()
    bearer = {
        "wrong": f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}",
        "cut": good[:-1],
        "longer": f"{good}A",
        "unknown": f"plit_{'0' * 12}_{'A' * 43}",
        "revoked": world.keys["revoked"],
        "expired": world.keys["expired"],
        "of an account that was deactivated": world.keys["left"],
        "two words": f"{good} {good}",
        "huge": "plit_" + "a" * 8000,
        "a name": "alice",
    }
    given = {what: [("Authorization", f"Bearer {key}")] for what, key in bearer.items()}
    return given | {
        "none": [],
        "basic": [("Authorization", f"Basic {basic}")],
        "a token scheme": [("Authorization", f"Token {good}")],
        "a scheme alone": [("Authorization", "Bearer")],
        "no scheme": [("Authorization", good)],
        "twice": [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")],
        "another header": [("X-Api-Key", good)],
        "a cookie": [("Cookie", f"session={good}")],
        "studio": [("X-Auth-Scheme", "langsmith"), ("X-Api-Key", good)],
        "bytes": [("Authorization", "Bearer plït")],
    }


async def test_every_other_key_is_refused_in_the_same_words(world: World) -> None:
    """No, wrong, cut, revoked, expired, Basic and more: one status, one body, the same headers."""
    given = _refused_headers(world)
    async with httpx.AsyncClient(base_url=world.server.url, timeout=60) as client:
        # At once: each refusal after the fifth is held back.
        answers = await asyncio.gather(
            *(
                client.post(
                    "/runs/wait",
                    json={"assistant_id": "plain", "input": {}},
                    headers=[(name, value.encode()) for name, value in headers],
                )
                for headers in given.values()
            )
        )
    for what, answer in zip(given, answers, strict=True):
        assert (answer.status_code, answer.json()) == (401, REFUSED), what
        assert answer.headers.keys() == answers[0].headers.keys(), what


async def test_every_path_but_the_health_check_asks_for_a_key(world: World) -> None:
    """Documents, metrics and what isn't there are as closed as the rest; /ok says only ok."""
    closed = [
        "/", "/info", "/metrics", "/docs", "/openapi.json", "/mcp", "/a2a/plain", "/threads/x",
        "/assistants/plain", "/store/items", "/nothing",
    ]  # fmt: skip
    async with httpx.AsyncClient(base_url=world.server.url, timeout=60) as client:
        answers = await asyncio.gather(*(client.get(path) for path in closed))
        healthy = await client.get("/ok?check_db=1")
        nothing = await client.get("/ui/x")
    assert [answer.status_code for answer in answers] == [401] * len(closed)
    assert healthy.json() == {"ok": True}
    assert nothing.status_code == 404


def test_the_desk_beside_the_server_has_guards_of_its_own(world: World) -> None:
    """The desk answers below its prefix, with its own words; the server's paths aren't guarded."""
    key = {"Authorization": f"Bearer {world.keys['alice']}"}
    desk = f"{world.server.url}/desk"
    assert httpx.get(f"{desk}/ready", timeout=60).json() == {"status": "ok"}
    refused = httpx.get(f"{desk}/api/v1/openapi.json", timeout=60)
    assert (refused.status_code, refused.json()["title"]) == (401, "Unauthorized")
    described = httpx.get(f"{desk}/api/v1/openapi.json", headers=key, timeout=60)
    assert (described.status_code, "content-security-policy" in described.headers) == (200, True)
    misled = httpx.get(f"{desk}/ready/x", headers=key | {"Host": "evil.example"}, timeout=60)
    assert misled.status_code == 400
    own = httpx.get(f"{world.server.url}/ok", headers={"Host": "evil.example"}, timeout=60)
    assert (own.json(), "content-security-policy" in own.headers) == ({"ok": True}, False)


async def test_a_valid_key_doesnt_wait_behind_refusals(world: World) -> None:
    """While refusals of the same source are held back, a good key is answered."""
    async with httpx.AsyncClient(base_url=world.server.url, timeout=60) as client:
        wrong = [asyncio.create_task(client.get("/threads/x")) for _ in range(16)]
        answer = await client.post(
            "/threads/search", json={}, headers={"Authorization": f"Bearer {world.keys['alice']}"}
        )
        assert answer.status_code == 200
        assert not all(each.done() for each in wrong)
        await asyncio.gather(*wrong)


def test_failures_lock_nobody_out(world: World) -> None:
    """However many wrong keys name an account's key id, its key stays good."""
    good = world.keys["alice"]
    wrong = f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}"
    for key in (wrong, good):
        answer = httpx.post(
            f"{world.server.url}/threads/search",
            json={},
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )
        assert answer.status_code == (200 if key == good else 401)


def test_a_key_that_is_revoked_is_refused_at_once(world: World) -> None:
    """The server remembers no key that was good."""
    issued = world.pipelit.users.issue_api_key("alice", name="short")
    key = issued.api_key.get_secret_value()
    for status in (200, 401):
        answer = httpx.post(
            f"{world.server.url}/threads/search",
            json={},
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )
        assert answer.status_code == status
        world.pipelit.users.revoke_api_key(key.split("_")[1])


def test_a_database_that_cant_be_asked_is_no_wrong_key(world: World) -> None:
    """Where keys can't be verified nobody is let in, and nobody is told that the key is bad."""
    with database_of(world.pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE pipelit_api_keys RENAME TO away"))
    try:
        answer = world.as_("alice").post("/threads/search", json={})
    finally:
        with database_of(world.pipelit).writing() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO pipelit_api_keys"))
    assert answer.status_code == 503
    assert "can't be verified" in answer.text
    assert world.as_("alice").post("/threads/search", json={}).status_code == 200


# What is whose


@dataclass
class Things:
    """What alice made."""

    thread: str
    run: str
    assistant: str
    cron: str


@pytest.fixture(scope="module")
def things(world: World) -> Things:
    """A thread with a run, an assistant, a cron and a store item of alice's."""
    alice = world.as_("alice")
    # She can't give it away, nor make it the server's own.
    claims = {"owner": "bob.b", "created_by": "system"}
    thread = alice.post("/threads", json={"metadata": claims}).json()["thread_id"]
    run = {"assistant_id": "plain", "input": {}}
    alice.post(f"/threads/{thread}/runs/wait", json=run).raise_for_status()
    (made,) = alice.get(f"/threads/{thread}/runs").json()
    assistant = alice.post("/assistants", json={"graph_id": "plain", "metadata": claims}).json()
    cron = alice.post("/runs/crons", json=run | {"schedule": YEARLY, "metadata": claims}).json()
    item = {"namespace": ["mine"], "key": "k", "value": {"secret": "canary-alice"}}
    alice.put("/store/items", json=item).raise_for_status()
    return Things(thread, made["run_id"], assistant["assistant_id"], cron["cron_id"])


RUN = {"assistant_id": "plain", "input": {}}
REACHES = [
    ("GET", "/threads/{thread}", None),
    ("PATCH", "/threads/{thread}", {"metadata": {"owner": "bob.b"}}),
    ("POST", "/threads", {"thread_id": "{thread}", "if_exists": "do_nothing"}),
    ("POST", "/threads/{thread}/copy", None),
    ("GET", "/threads/{thread}/state", None),
    ("POST", "/threads/{thread}/state", {"values": {"who": "eve"}}),
    ("GET", "/threads/{thread}/history", None),
    ("POST", "/threads/{thread}/history", {}),
    ("GET", "/threads/{thread}/runs", None),
    ("GET", "/threads/{thread}/runs/{run}", None),
    ("GET", "/threads/{thread}/runs/{run}/join", None),
    ("POST", "/threads/{thread}/runs/{run}/cancel", None),
    ("POST", "/runs/cancel", {"thread_id": "{thread}", "run_ids": ["{run}"]}),
    ("POST", "/threads/{thread}/runs", RUN),
    ("POST", "/threads/{thread}/runs/wait", RUN),
    ("POST", "/threads/prune", {"thread_ids": ["{thread}"]}),
    ("POST", "/threads/{thread}/runs/crons", RUN | {"schedule": YEARLY}),
    ("GET", "/assistants/{assistant}", None),
    ("GET", "/assistants/{assistant}/graph", None),
    ("GET", "/assistants/{assistant}/schemas", None),
    ("POST", "/assistants/{assistant}/versions", {}),
    ("POST", "/assistants/{assistant}/latest", {"version": 1}),
    ("PATCH", "/assistants/{assistant}", {"name": "eve's"}),
    ("POST", "/assistants", {"assistant_id": "{assistant}", "graph_id": "plain"}),
    ("POST", "/runs/wait", {"assistant_id": "{assistant}", "input": {}}),
    ("POST", "/runs/batch", [{"assistant_id": "{assistant}", "input": {}}]),
    ("POST", "/runs/crons", {"assistant_id": "{assistant}", "schedule": YEARLY}),
    ("GET", "/runs/crons/{cron}", None),
    ("PATCH", "/runs/crons/{cron}", {"enabled": False}),
    ("DELETE", "/runs/crons/{cron}", None),
    ("DELETE", "/assistants/{assistant}", None),
    ("DELETE", "/threads/{thread}/runs/{run}", None),
    ("DELETE", "/threads/{thread}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REACHES)
def test_what_another_made_is_not_there(
    world: World, things: Things, method: str, path: str, body: Any
) -> None:
    """Reading, changing, running, copying, deleting what is alice's: for bob it isn't there."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.format_map(vars(things))
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        return [filled(each) for each in value] if isinstance(value, list) else value

    answer = world.as_("bob.b").request(method, filled(path), json=filled(body))
    assert answer.status_code in (404, 409)


def test_of_what_another_made_nothing_changed(world: World, things: Things) -> None:
    """After all that bob tried, alice's things are there and hers."""
    alice = world.as_("alice")
    thread = alice.get(f"/threads/{things.thread}").json()
    assert (thread["metadata"]["owner"], thread["values"]) == ("alice", {"who": "alice"})
    assert "created_by" not in thread["metadata"]
    assert len(alice.get(f"/threads/{things.thread}/runs").json()) == 1
    assistant = alice.get(f"/assistants/{things.assistant}").json()
    assert (assistant["metadata"]["owner"], assistant["name"]) == ("alice", "Untitled")
    assert "created_by" not in assistant["metadata"]
    assert alice.get(f"/runs/crons/{things.cron}").json()["enabled"]


@pytest.mark.parametrize("path", ["/runs/{run}/stream", "/stream"])
def test_a_stream_of_anothers_thread_holds_an_error_alone(
    world: World, things: Things, path: str
) -> None:
    """Listening to what is alice's: the stream ends with an error, before any event of hers."""
    url = f"/threads/{things.thread}{path.format(run=things.run)}"
    with world.as_("bob.b").stream("GET", url) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("event:")]
    assert lines == ["event: error"]


@pytest.mark.parametrize("what", ["threads", "assistants", "runs/crons"])
def test_a_search_finds_ones_own(world: World, things: Things, what: str) -> None:
    """Searching and counting, also by alice's name, finds bob nothing of hers."""
    bob = world.as_("bob.b")
    for body in ({}, {"metadata": {"owner": "alice"}}):
        found = bob.post(f"/{what}/search", json=body).json()
        assert {each.get("metadata", {}).get("owner") for each in found} <= {"bob.b", None}
        assert bob.post(f"/{what}/count", json=body).json() == len(found)
    assert world.as_("alice").post(f"/{what}/search", json={}).json()


def test_the_servers_own_assistants_are_for_all_to_run_and_for_none_to_change(
    world: World,
) -> None:
    """Each graph's own assistant is found by everyone; nobody may change or delete it."""
    bob = world.as_("bob.b")
    (found,) = bob.post("/assistants/search", json={"graph_id": "plain"}).json()
    path = f"/assistants/{found['assistant_id']}"
    assert bob.patch(path, json={"name": "bob's"}).status_code == 404
    assert bob.delete(path).status_code == 404


def test_a_store_has_a_room_for_each(world: World, things: Things) -> None:
    """Whatever namespace bob names, also alice's own, it is inside his."""
    alice, bob = world.as_("alice"), world.as_("bob.b")
    for namespace in ("mine", "alice.mine", "user:alice.mine"):
        item = bob.get("/store/items", params={"namespace": namespace, "key": "k"})
        assert item.json() is None, namespace
    for prefix in ([], ["user:alice"], ["alice"]):
        found = bob.post("/store/items/search", json={"namespace_prefix": prefix})
        assert "canary-alice" not in found.text
        listed = bob.post("/store/namespaces", json={"prefix": prefix}).json()["namespaces"]
        assert {namespace[0] for namespace in listed} <= {"user:bob:b"}
    bob.request("DELETE", "/store/items", json={"namespace": ["user:alice", "mine"], "key": "k"})
    item = alice.get("/store/items", params={"namespace": "mine", "key": "k"}).json()
    assert item["value"] == {"secret": "canary-alice"}


def test_what_a_node_stores_for_itself_is_nobodys(world: World) -> None:
    """A node has the whole store: a caller reaches of it what stands under the caller's label."""
    for name in ("alice", "bob.b"):
        label = f"user:{name.replace('.', ':')}"
        world.as_(name).post("/runs/wait", json=RUN).raise_for_status()
        got = [
            world.as_(name).get("/store/items", params={"namespace": namespace, "key": "caller"})
            for namespace in ("notes", "everyone", f"{label}.notes")
        ]
        assert [each.json() and each.json()["value"] for each in got] == [
            {"who": name}, None, {"who": name},
        ]  # fmt: skip


# By itself


def test_a_source_that_keeps_failing_waits_longer() -> None:
    """Five failures are free; then a tenth of a second, doubled, and two at the most."""
    delay = FailureDelay()
    waits = [delay.note("here", 1000.0 + count) for count in range(12)]
    assert waits == [0.0] * 5 + [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert delay.note("elsewhere", 1012.0) == 0.0
    assert delay.note("here", 1100.0) == 0.0


def test_what_is_kept_of_sources_is_bounded() -> None:
    """A million addresses make no million entries; who fails now is what is remembered."""
    delay = FailureDelay()
    for count in range(6):
        delay.note("loud", 1000.0 + count)
    for source in range(5000):
        delay.note(f"10.0.{source}", 1010.0)
        delay.note("loud", 1010.0)
    assert len(delay._failures) == 4096
    assert delay.note("loud", 1011.0) == 2.0


def test_the_owner_filter_can_be_left_to_the_deployer(world: World) -> None:
    """Without it the server has no rule of ours, and asks for a key all the same."""
    made = make_auth(world.pipelit, owner_filter=False)
    assert isinstance(made, Auth)
    assert not made._global_handlers
    assert authentication_of(made) is not None


def test_no_identity_is_taken_from_a_thread_id(world: World) -> None:
    """A run on a thread that isn't there makes one of the caller's own."""
    thread = str(uuid.uuid4())
    bob = world.as_("bob.b")
    bob.post(f"/threads/{thread}/runs/wait", json=RUN | {"if_not_exists": "create"})
    assert bob.get(f"/threads/{thread}").json()["metadata"]["owner"] == "bob.b"
    assert world.as_("alice").get(f"/threads/{thread}").status_code == 404


async def test_a_flood_is_refused_unseen_and_a_valid_key_isnt(world: World) -> None:
    """Over its budget a source gets 429 and Retry-After (RFC 6585), and bob's key from it 200."""
    async with httpx.AsyncClient(
        base_url=world.server.url, timeout=60, limits=httpx.Limits(max_connections=None)
    ) as client:
        wrong = [
            asyncio.create_task(
                client.get("/threads/x", headers={"Authorization": f"Bearer plit_{n:012x}_x"})
            )
            for n in range(150)
        ]
        await asyncio.wait(wrong, return_when=asyncio.FIRST_COMPLETED)
        headers = {"Authorization": f"Bearer {world.keys['bob.b']}"}
        answer = await client.post("/threads/search", json={}, headers=headers)
        assert answer.status_code == 200
        answers = await asyncio.gather(*wrong)
    unseen = [answer for answer in answers if answer.status_code == 429]
    assert 20 < len(unseen) < 150
    for answer in unseen:
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        assert "try again in" in answer.json()["detail"]
    assert {answer.status_code for answer in answers} == {401, 429}


# Last, when all of the above has run


def test_no_key_is_in_anything_that_the_server_wrote(world: World) -> None:
    """Log, threads, store: none of the keys that were sent is in a file, nor a blocked loop."""
    written = [path for path in world.server.directory.rglob("*") if path.is_file()]
    assert world.server.directory / "server.log" in written
    for path in written:
        content = path.read_bytes()
        for name, key in world.keys.items():
            assert key[-43:].encode() not in content, (path.name, name)
    assert "Blocking call" not in world.server.log()
    assert "BlockingError" not in world.server.log()


# Whose credentials a run opens


def newest_entry(world: World) -> int:
    """The number of the newest entry of the audit."""
    return max((each.id for each in world.pipelit.audit.list(limit=1)), default=0)


def test_each_run_uses_its_own_persons_key(world: World) -> None:
    """Interleaved, resumed, in sub-graphs, children and agents, by crons, and whatever it says."""
    since, people = newest_entry(world), ("alice", "bob.b")
    kinds = [("graph", True), ("nested", True), ("agent", False)]
    calls = [(name, *kind) for kind in kinds for name in people] * 2
    crons = []
    for name in people:
        thread = world.as_(name).post("/threads", json={}).json()["thread_id"]
        made = world.as_(name).post(
            f"/threads/{thread}/runs/crons",
            json={
                "assistant_id": "nested",
                "schedule": "* * * * * *",
                "input": {"run": f"cron-{name}", "lie": {"person": "eve"}},
                "metadata": {"owner": "eve", "langgraph_auth_user": "eve"},
            },
        )
        crons.append((name, made.json()["cron_id"]))

    def run(number: int, name: str, graph: str, ask: bool) -> Run:
        other = "alice" if name == "bob.b" else "bob.b"
        return run_with_lies(world.as_(name), name, other, graph, f"{number}-{name}", ask=ask)

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(run, range(len(calls)), *zip(*calls, strict=True)))
    assert_each_used_its_own(world.pipelit, world.service, runs, since)
    for name, cron in crons:
        until(lambda name=name: world.service.seen_of(f"cron-{name}"))
        assert set(world.service.seen_of(f"cron-{name}")) == {name}
        assert world.as_(name).delete(f"/runs/crons/{cron}").status_code == 204
    # Nobody's own, and so nobody else's.
    refused = run_with_lies(world.as_("langgraph"), "langgraph", "alice", "nested", "none")
    assert "NoPersonalCredential" in refused.said
    assert not world.service.seen_of("none")
