"""Credentials over HTTP: whose they are, what an answer shows, and what a test may reach."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from desk_client import client_for, code_header
from internals import database_of
from sqlalchemy import text

from pipelit_agents import CredentialTest, Keyring, Pipelit
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.desk import DeskSettings, make_app
from pipelit_agents.desk.at_once import AtOnce
from pipelit_agents.desk.credentials import STORING
from pipelit_agents.desk.problems import Problem

SECRET = "crm-0123456789-abcdefghij"


def stored(client: httpx.Client, path: str, **body: Any) -> httpx.Response:
    """Store a credential."""
    return client.put(f"/credentials/{path}", json={"kind": "api", "value": SECRET, **body})


def test_a_credential_is_stored_listed_and_deleted(operator: httpx.Client) -> None:
    """New ones are a 201, replaced ones a 200, and what was deleted is a 404."""
    first = stored(operator, "shared/crm", public={"base_url": "https://crm.example.com"})
    assert first.status_code == 201
    shown = operator.get("/credentials/shared/crm").json()
    assert first.json() == shown | {"warnings": []}
    assert {k: first.json()[k] for k in ("scope", "name", "kind", "masked", "created_by")} == {
        "scope": "shared", "name": "crm", "kind": "api", "masked": "…ghij", "created_by": "alice",
    }  # fmt: skip
    assert first.json()["updated_by"] == "alice"
    assert stored(operator, "shared/crm", value="another-secret-0123").json()["masked"] == "…0123"
    assert stored(operator, "shared/crm").status_code == 200
    assert stored(operator, "shared/a.b_c-d").status_code == 201
    page = operator.get("/credentials", params={"limit": 1}).json()
    assert [each["name"] for each in page["items"]] == ["a.b_c-d"]
    page = operator.get("/credentials", params={"after": page["next"]}).json()
    assert ([each["name"] for each in page["items"]], page["next"]) == (["crm"], None)
    assert operator.get("/credentials", params={"kind": "llm"}).json()["items"] == []
    assert operator.delete("/credentials/shared/crm").status_code == 204
    for answer in (
        operator.get("/credentials/shared/crm"),
        operator.delete("/credentials/shared/crm"),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (
            404,
            "there is no credential 'crm' here",
        )


@pytest.mark.parametrize(
    "name", ["a\nERROR forged", "\x1b[2J", "\u202ex"], ids=["line", "escape", "bidi"]
)
def test_a_field_is_named_in_printable_characters(member: httpx.Client, name: str) -> None:
    """Warnings name fields, and no member writes lines of her own into the server's log."""
    answer = stored(member, "own/crm", value=None, fields={name: "short"})
    assert (answer.status_code, answer.json()["errors"][0]["field"][:11]) == (422, "body.fields")


@pytest.mark.parametrize(
    "large",
    [{"value": "x" * 4_097}, {"value": None, "fields": {"a": "x" * 4_000, "b": "y" * 97}}],
    ids=["one", "several"],
)
def test_a_person_stores_two_large_ones_at_a_time(
    operator: httpx.Client, member: httpx.Client, large: dict[str, Any]
) -> None:
    """Large documents keep the processor from nobody else; what is refused spends no code."""
    with STORING.begin("bob"), STORING.begin("bob"):
        busy = stored(member, "own/crm", **large)
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
        assert stored(operator, "own/crm", **large).status_code == 201
        assert stored(member, "own/crm", value="x" * 4_096).status_code == 201
    assert stored(member, "own/crm", **large).status_code == 200


@pytest.mark.slow
def test_a_list_is_short_whatever_is_stored(member: httpx.Client) -> None:
    """A member can't fill the server's memory with lists of what a large secret consists of."""
    lines = stored(member, "own/lines", value="x\n" * 65_000)
    assert lines.status_code == 201
    assert len(lines.json()["unsearched"]) <= 101
    assert lines.json()["unsearched"][-1] == "… and 64900 more"
    assert len(member.get("/credentials", params={"scope": "own"}).content) < 10_000
    large = stored(member, "own/large", public={"base_url": "https://" + "x" * 20_000})
    assert (large.status_code, large.json()["errors"][0]["field"]) == (422, "body.public")


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        (SECRET, "…ghij"),
        ("elevenchars", "…"),
        ("otpauth://totp/x?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "code=…"),
    ],
    ids=["long", "short", "authenticator"],
)
def test_no_answer_shows_more_than_four_characters(
    operator: httpx.Client, pipelit: Pipelit, value: str, masked: str
) -> None:
    """Not when it is stored, listed, shown, tested, refused or deleted, and no header does."""
    answers = [
        stored(operator, "shared/crm", value=value),
        operator.get("/credentials/shared/crm"),
        operator.get("/credentials"),
        operator.post("/credentials/shared/crm/test"),
        stored(operator, "shared/crm", value=value, nonsense=value),
        stored(operator, "shared/crm", value=[value]),
        stored(operator, "shared/crm", kind=value * 9, value=value),
        stored(operator, "shared/crm", fields={"a": value}),
        operator.delete("/credentials/shared/crm"),
    ]
    assert answers[1].json()["masked"] == masked
    assert [each.status_code for each in answers] == [
        201, 200, 200, 200, 422, 422, 422, 422, 204,
    ]  # fmt: skip
    for each in answers:
        shown = f"{each.text}{dict(each.headers)}"
        assert value not in shown
        assert value[-5:] not in shown
    assert value not in repr(pipelit.audit.list())


def test_an_own_credential_is_the_callers(
    operator: httpx.Client, member: httpx.Client, pipelit: Pipelit
) -> None:
    """Nobody reaches another person's; a shared one of the same name is another credential."""
    assert stored(member, "own/crm").status_code == 201
    assert stored(operator, "shared/crm", value="the-shared-one-9999").status_code == 201
    assert operator.get("/credentials/own/crm").status_code == 404
    assert operator.get("/credentials", params={"scope": "own"}).json()["items"] == []
    assert operator.delete("/credentials/own/crm").status_code == 404
    assert member.get("/credentials/own/crm").json()["masked"] == "…ghij"
    assert member.get("/credentials/shared/crm").json()["masked"] == "…9999"
    assert pipelit.credentials.get("crm", person="bob").created_by == "bob"
    actors = {(e.actor, e.person) for e in pipelit.audit.list(action="credential.put")}
    assert actors == {("bob", "bob"), ("alice", "")}


def test_members_change_and_test_no_shared_credential(
    operator: httpx.Client, member: httpx.Client, agent: httpx.Client
) -> None:
    """The role is asked before the body and before what is there; agents reach none at all."""
    stored(operator, "shared/crm")
    for name in ("crm", "nothing"):
        for answer in (
            stored(member, f"shared/{name}"),
            member.put(f"/credentials/shared/{name}", json={"nonsense": 1}),
            member.delete(f"/credentials/shared/{name}"),
            member.post(f"/credentials/shared/{name}/test", json={"nonsense": 1}),
            agent.get(f"/credentials/shared/{name}"),
            agent.get(f"/credentials/own/{name}"),
            stored(agent, f"own/{name}"),
        ):
            assert answer.status_code == 403, answer.text
            assert answer.json()["type"].endswith(":not-permitted")
    assert agent.get("/credentials").status_code == 403


NO_NAMES: list[str] = [
    "a/b",
    "a%2Fb",
    "%2e%2e",
    ".hidden",
    "A",
    "a b",
    "a%00",
    "é",
    "a" * 150,
    "a:b",
]


def test_a_name_that_no_credential_can_have_is_refused(operator: httpx.Client) -> None:
    """Nothing in a path leads elsewhere; the name isn't a file's, and isn't decoded twice."""
    for name in NO_NAMES:
        for answer in (
            operator.get(f"/credentials/shared/{name}"),
            stored(operator, f"shared/{name}"),
            operator.get(f"/credentials/others/{name}"),
        ):
            assert answer.status_code in (400, 404, 405, 422), (name, answer.text)
        assert operator.get("/credentials").json()["items"] == []


def test_a_sensitive_change_needs_a_code(
    operator: httpx.Client, enrolled: Callable[[str], Callable[[], str]], pipelit: Pipelit
) -> None:
    """The code is spent last: not for a body that can't be stored, nor for what isn't there."""
    code_of = enrolled("alice")
    assert stored(operator, "shared/crm").json()["type"].endswith(":second-factor-required")
    code = code_header(code_of())
    for path, body in (("shared/crm", {"kind": ""}), ("shared/crm", {"nonsense": 1})):
        answer = operator.put(f"/credentials/{path}", json=body, headers=code)
        assert answer.status_code == 422
    assert operator.delete("/credentials/shared/crm", headers=code).status_code == 404
    body = {"kind": "api", "value": SECRET}
    assert operator.put("/credentials/shared/crm", json=body, headers=code).status_code == 201
    assert operator.put("/credentials/shared/crm", json=body, headers=code).status_code == 403
    assert operator.get("/credentials/shared/crm").status_code == 200
    assert operator.delete("/credentials/shared/crm").status_code == 403


def test_members_cant_try_names_in_an_allow_list(
    operator: httpx.Client, member: httpx.Client, pipelit: Pipelit
) -> None:
    """A name of somebody else and one that nobody has look the same; their own are accepted."""
    pipelit.users.create_agent("agent_bobs", owner="bob", purpose="helps")
    words = set()
    for allow in (["alice"], ["nobody"], ["agent_writer"], ["bob", "alice"], ["nobody", "alice"]):
        answer = stored(member, "own/crm", allow=allow)
        words.add((answer.status_code, answer.text))
        tested = member.post("/credentials/own/crm/test", json={"agent": allow[-1]})
        assert tested.status_code == 422
    assert len(words) == 1
    assert stored(member, "own/crm", allow=["bob", "agent_bobs"]).status_code == 201
    assert member.post("/credentials/own/crm/test", json={"agent": "agent_bobs"}).status_code == 200
    assert member.post("/credentials/own/crm/test", json={"agent": "bob"}).status_code == 422
    assert stored(operator, "shared/crm", allow=["agent_writer", "nobody"]).status_code == 201
    assert operator.post("/credentials/shared/crm/test").status_code == 403
    tested = operator.post("/credentials/shared/crm/test", json={"agent": "agent_writer"})
    assert tested.json()["outcome"] == "untested"


def test_what_cant_be_stored_is_a_422_in_the_librarys_words(operator: httpx.Client) -> None:
    """A secret in a public field, a name with the form of a key, and text that can't be encoded."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("shared/crm", {"public": {"api_key": SECRET}}),
        ("shared/plit0123456789abcdefghijkl", {}),
        ("shared/crm", {"kind": "a\u0000b"}),
        ("shared/crm", {"kind": "totp"}),
        ("shared/crm", {"allow": ["Alice"]}),
        ("shared/crm", {"value": None}),
        ("shared/crm", {"value": None, "fields": {}}),
        ("shared/crm", {"value": ""}),
    ]
    for path, body in cases:
        answer = stored(operator, path, **body)
        assert answer.status_code == 422, (path, body, answer.text)
        assert SECRET not in answer.text
    raw = b'{"kind": "api", "value": "\\ud800-a-lone-surrogate-01"}'
    answer = operator.put(
        "/credentials/shared/crm", content=raw, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (200, 201, 400, 422), answer.text


def broken(pipelit: Pipelit, name: str) -> None:
    """Let no key decrypt a shared credential, nor a person's own one of this name."""
    with database_of(pipelit).writing() as connection:
        for table in ("pipelit_credentials", "pipelit_person_credentials"):
            connection.execute(
                text(f"UPDATE {table} SET hint = 'broken', public = :it WHERE name = :name"),  # noqa: S608
                {"name": name, "it": '{"base_url": "https://evil.example"}'},
            )


def test_one_that_no_key_decrypts_is_listed_among_others(
    operator: httpx.Client, member: httpx.Client, pipelit: Pipelit
) -> None:
    """Words are in the place of its secret, and what was bound to the secret isn't shown."""
    for path in ("shared/a", "shared/crm", "shared/z"):
        stored(operator, path)
    stored(member, "own/crm")
    broken(pipelit, "crm")
    for client, scope in ((operator, "shared"), (member, "shared"), (member, "own")):
        items = client.get("/credentials", params={"scope": scope}).json()["items"]
        masked = {each["name"]: (each["masked"], each["readable"]) for each in items}
        assert masked.pop("crm") == ("can't be decrypted", False)
        assert set(masked.values()) <= {("…ghij", True)}
        one = client.get(f"/credentials/{scope}/crm").json()
        assert one == next(each for each in items if each["name"] == "crm")
        assert (one["public"], one["allow"]) == ({}, [])


def test_with_another_databases_key_there_is_no_list(
    pipelit: Pipelit, settings: dict[str, Any], operator: httpx.Client, desk_keys: dict[str, str]
) -> None:
    """The key is what has to be corrected, and not each credential."""
    stored(operator, "shared/crm")
    wrong = settings | {"encryption_keys": [Keyring.generate_key()]}
    with Pipelit(**wrong) as other:
        desk = make_app(other, DeskSettings(_env_file=None))
        with client_for(desk, desk_keys["alice"]) as client:
            for path in ("/credentials", "/credentials/shared/crm"):
                assert client.get(path).status_code == 503


@pytest.mark.parametrize("way", ["replaced", "deleted"])
def test_one_that_no_key_decrypts_can_be_replaced_and_deleted(
    operator: httpx.Client, pipelit: Pipelit, way: str
) -> None:
    """Its name is known to be taken."""
    stored(operator, "shared/crm")
    broken(pipelit, "crm")
    if way == "replaced":
        assert stored(operator, "shared/crm").status_code == 200
        assert operator.get("/credentials/shared/crm").json()["readable"]
    else:
        assert operator.delete("/credentials/shared/crm").status_code == 204


def test_what_the_library_warns_of_is_in_the_answer(
    operator: httpx.Client, member: httpx.Client, recwarn: pytest.WarningsRecorder
) -> None:
    """Python's warnings, which only the server's log would have, get nothing."""
    found = stored(operator, "shared/crm", value="short", allow=["alice", "alcie"]).json()
    first, second = found["warnings"]
    assert "fewer than 8 characters" in first
    assert second == "credential 'crm': allow names 'alcie', which is no account"
    [common] = stored(member, "own/crm", value="password").json()["warnings"]
    assert "an ordinary word" in common
    assert stored(member, "own/crm").json()["warnings"] == []
    assert not recwarn.list


ONLY_NEW = {"If-None-Match": "*"}


def test_a_new_one_never_replaces_another(
    operator: httpx.Client, pipelit: Pipelit, enrolled: Callable[[str], Callable[[], str]]
) -> None:
    """With `If-None-Match: *` one that is there stays as it is, and no code is spent."""
    code = code_header(enrolled("alice")())
    path, body = "/credentials/shared/crm", {"kind": "api", "value": SECRET}
    pipelit.credentials.put("crm", "the-first-one-0001", kind="api", created_by="alice")
    refused = operator.put(path, json=body, headers=ONLY_NEW | code)
    assert (refused.status_code, refused.json()["type"][-7:]) == (412, ":exists")
    assert operator.put(path, json=body, headers={"If-None-Match": '"a"'}).status_code == 422
    assert operator.get(path).json()["masked"] == "…0001"
    path = path.replace("crm", "new")
    assert operator.put(path, json=body, headers=ONLY_NEW | code).status_code == 201


@pytest.mark.parametrize("scope", ["shared", "own"])
def test_of_racing_new_ones_one_is_stored(
    client_of: Callable[..., httpx.Client], desk_keys: dict[str, str], scope: str
) -> None:
    """Each of the others learns that it came too late."""
    clients = [client_of(desk_keys["alice"]) for _ in range(4)]

    def send(index: int) -> tuple[int, int]:
        body = {"kind": "api", "value": f"racing-secret-000{index}"}
        path = f"/credentials/{scope}/crm"
        return clients[index].put(path, json=body, headers=ONLY_NEW).status_code, index

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = sorted(pool.map(send, range(len(clients))))
    assert [status for status, _ in answers] == [201, 412, 412, 412]
    found = clients[0].get(f"/credentials/{scope}/crm").json()
    assert found["masked"] == f"…000{answers[0][1]}"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "https://localhost:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://internal.example:{port}/",
        "https://169.254.169.254/latest/meta-data/",
    ],
)
def test_a_members_test_reaches_nothing_inside(
    member: httpx.Client, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """No connection is made, and the words don't tell an open port from none; a shell could."""
    resolve = socket.getaddrinfo
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *args, **options: resolve("127.0.0.1", *args, **options),
        )
        stored(member, "own/crm", public={"test_url": url.format(port=server.getsockname()[1])})
        found = member.post("/credentials/own/crm/test").json()
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (found["outcome"], found["status"]) == ("unanswered", None)
    assert "can't be resolved to a public address" in found["reason"]


def test_a_member_tries_no_database_and_an_operator_may(
    operator: httpx.Client, member: httpx.Client, pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver takes files of this machine as options, and connects to any address."""
    url = "postgresql+psycopg://ann:long-password-1@127.0.0.1:1/crm?sslkey=/etc/passwd"
    assert stored(member, "own/db", value=url).status_code == 201
    found = member.post("/credentials/own/db/test").json()
    assert (found["outcome"], found["server"]) == ("untested", "")
    asked: list[dict[str, Any]] = []

    async def atest(self: Credentials, name: str, **options: Any) -> CredentialTest:
        asked.append(options)
        return CredentialTest(name, "good", "the service accepts it")

    monkeypatch.setattr(Credentials, "atest", atest)
    stored(operator, "shared/db", value=url)
    stored(operator, "own/db", value=url)
    for scope in ("shared", "own"):
        answer = operator.post(f"/credentials/{scope}/db/test", json={"field": "value"})
        assert answer.json()["name"] == "db:value"
    assert [(each["public_only"], each["person"], each["by"]) for each in asked] == [
        (False, None, "alice"), (False, "alice", "alice"),
    ]  # fmt: skip


async def test_hanging_services_hold_nobody_up(
    desk_app: Any, desk_keys: dict[str, str], pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tests of one person at a time and sixteen of all: more are a 429, others are answered."""
    for name in ("alice", "bob"):
        pipelit.credentials.put("crm", SECRET, kind="api", created_by=name, person=name)
    hang, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def atest(self: Credentials, name: str, **_: Any) -> CredentialTest:
        begun.release()
        await hang.wait()
        return CredentialTest(name, "unanswered", "late")

    monkeypatch.setattr(Credentials, "atest", atest)

    def client(name: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(desk_app),
            base_url="http://localhost/api/v1",
            headers={"Authorization": f"Bearer {desk_keys[name]}"},
        )

    async with client("bob") as bob, client("alice") as alice:
        waiting = [
            asyncio.create_task(bob.post("/credentials/own/crm/test", json={})) for _ in range(2)
        ]
        for _ in waiting:
            await begun.acquire()
        refused = await bob.post("/credentials/own/crm/test", json={})
        assert (refused.status_code, refused.json()["retry_after"]) == (429, 10)
        assert refused.headers["Retry-After"] == "10"
        assert (await bob.get("/credentials/own/crm")).status_code == 200
        other = asyncio.create_task(alice.post("/credentials/own/crm/test", json={}))
        await begun.acquire()
        hang.set()
        answers = await asyncio.gather(*waiting, other)
        assert [each.status_code for each in answers] == [200, 200, 200]
        assert (await bob.post("/credentials/own/crm/test", json={})).status_code == 200


def test_a_bounded_number_runs_at_once() -> None:
    """Of one account and of all; what ends, also by an error, makes room, and nothing is kept."""
    some = AtOnce(1, in_all=2, what="tests", retry_after=1)

    def fail() -> None:
        with some.begin("alice"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with some.begin("alice"), some.begin("bob"):
        for name in ("alice", "carol"):
            with pytest.raises(Problem) as refused, some.begin(name):
                raise AssertionError
            assert (refused.value.status, refused.value.slug) == (429, "busy")
    with some.begin("carol"):
        assert some.running == 1


def test_the_openapi_examples_hold_no_key(operator: httpx.Client, desk_app: Any) -> None:
    """Every endpoint of credentials says what it answers, and no model echoes a secret."""
    document = json.dumps(desk_app.openapi()["components"]["schemas"]["Credential"])
    assert '"value"' not in document
