"""What callers try who may not: names they shouldn't learn, codes they stole, keys they stole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from conftest import Clock
from desk_client import API, code_header
from fastapi import FastAPI
from statements import statements

from pipelit_agents import Pipelit
from pipelit_agents.errors import CodeRejected

Client = Callable[..., httpx.Client]
Enroll = Callable[[str], Callable[[], str]]
KEY_ID = "0123456789ab"
PEER = (
    "otpauth://totp/pipelit-agents:agent_remote?secret=GAYTEMZUGU3DOOBZMFRGGZDFMYYDCMRT"
    "&issuer=pipelit-agents"
)
BODIES: dict[str, dict[str, Any]] = {"POST /users/{username}/keys": {"name": "x"}}


# Names that a member shouldn't learn


@pytest.mark.parametrize(
    "route",
    [
        "GET /users/{username}",
        "GET /users/{username}/lanes",
        "GET /users/{username}/keys",
        "POST /users/{username}/keys",
        "DELETE /users/{username}/keys/{key_id}",
    ],
)
@pytest.mark.parametrize("theirs", ["alice", "carol", "agent_writer", "gone_carol"])
def test_a_member_cant_tell_what_is_not_hers_from_what_isnt_there(
    pipelit: Pipelit, member: httpx.Client, route: str, theirs: str
) -> None:
    """The status, the words, the headers and the statements are the same."""
    pipelit.users.create("carol")
    pipelit.users.create("gone_carol")
    pipelit.users.deactivate("gone_carol")
    method, path = route.split()
    found = []
    # The first request of a key is recorded.
    member.get("/me")
    for name in ("nobody", theirs):
        path_of_name = path.format(username=name, key_id=KEY_ID)
        with statements(pipelit) as sent:
            answer = member.request(method, path_of_name, json=BODIES.get(route))
        words = {**answer.json(), "detail": answer.json()["detail"].replace(name, "NAME")}
        headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
        found.append((answer.status_code, words, headers, sent))
    assert found[0][0] == 404
    assert found[0] == found[1]


def test_a_key_id_of_another_person_is_as_unknown_as_any(
    pipelit: Pipelit, member: httpx.Client, desk_keys: dict[str, str]
) -> None:
    """Under the own path, another person's key id gets what one gets that nobody has."""
    theirs = desk_keys["alice"].split("_")[1]
    known = member.delete(f"/users/bob/keys/{theirs}")
    unknown = member.delete(f"/users/bob/keys/{KEY_ID}")
    assert (known.status_code, unknown.status_code) == (404, 404)
    assert known.json()["detail"].replace(theirs, KEY_ID) == unknown.json()["detail"]
    assert pipelit.users.authenticate(desk_keys["alice"])


def test_a_member_learns_nothing_from_lists(pipelit: Pipelit, member: httpx.Client) -> None:
    """Neither owners nor cursors lead to other people's accounts."""
    pipelit.users.create_agent("agent_of_bob", owner="bob", purpose="p")
    for params in ({"owner": "alice"}, {"owner": "nobody"}):
        assert member.get("/users", params=params).json() == {"items": [], "next": None}
    page = member.get("/users", params={"after": "agent_p"}).json()
    assert [each["username"] for each in page["items"]] == ["bob"]


# Codes


def test_a_code_is_spent_once_by_racing_requests(
    pipelit: Pipelit, client_of: Client, desk_keys: dict[str, str], enrolled: Enroll
) -> None:
    """Of many requests with the same code at once, one acts."""
    headers = code_header(enrolled("alice")())
    clients = [client_of(desk_keys["alice"]) for _ in range(5)]

    def send(index: int) -> int:
        body = {"username": f"dave{index}"}
        return clients[index].post("/users", json=body, headers=headers).status_code

    with ThreadPoolExecutor(len(clients)) as pool:
        assert sorted(pool.map(send, range(len(clients)))) == [201, 403, 403, 403, 403]
    made = [each for each in pipelit.users.list() if each.username.startswith("dave")]
    assert len(made) == 1


def test_a_recovery_code_is_spent_once_by_racing_requests(
    pipelit: Pipelit, client_of: Client, desk_keys: dict[str, str], enrolled: Enroll, clock: Clock
) -> None:
    """As another code."""
    code_of = enrolled("alice")
    [code, *_] = pipelit.mfa.renew_recovery_codes("alice", code_of())
    headers = code_header(code.get_secret_value())
    clients = [client_of(desk_keys["alice"]) for _ in range(4)]

    def send(client: httpx.Client) -> int:
        return client.post("/users/bob/unlock", headers=headers).status_code

    with ThreadPoolExecutor(len(clients)) as pool:
        assert sorted(pool.map(send, clients)) == [200, 403, 403, 403]


def test_codes_and_secrets_are_in_no_log_and_no_problem(
    pipelit: Pipelit,
    operator: httpx.Client,
    enrolled: Enroll,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Right, wrong and malformed ones, in the header and in the body; nor in the audit."""
    caplog.set_level(logging.DEBUG)
    code_of = enrolled("alice")
    secrets = [code_of(), "918273", "not-a-code-at-all", "ABCD-EFGH-2345-6723", "9" * 80]
    texts = []
    for secret in secrets:
        for answer in (
            operator.post("/users", json={"username": "NO"}, headers=code_header(secret)),
            operator.post("/users/bob/unlock", headers=code_header(secret)),
            operator.post("/me/second-factor/disable", json={"code": secret, "more": secret}),
            operator.post("/me/second-factor/confirm", json={"code": secret}),
            operator.post("/me/second-factor/recovery-codes", json={"code": [secret]}),
        ):
            assert answer.status_code >= 400 or answer.json()["username"] == "bob"
            texts.append(answer.text)
    texts += [str(vars(record)) for record in caplog.records]
    texts += [repr(entry) for entry in pipelit.audit.list()]
    for secret in secrets:
        assert not [each for each in texts if secret in each]


@pytest.mark.slow
def test_what_is_shown_once_is_in_no_log_and_nowhere_else(
    pipelit: Pipelit, operator: httpx.Client, desk_app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """No endpoint that reads shows a key or a secret again."""
    caplog.set_level(logging.DEBUG)
    agent = {"username": "agent_b", "owner": "bob", "purpose": "p"}
    shown = [
        operator.post("/users", json={"username": "carol"}).json()["api_key"],
        operator.post("/agents", json=agent).json()["api_key"],
        operator.post("/users/bob/keys", json={"name": "x"}).json()["api_key"],
        operator.post("/me/second-factor").json()["secret"],
    ]
    parts = [each.split("_", 2)[-1] for each in shown]
    texts = [str(vars(record)) for record in caplog.records]
    for path, methods in desk_app.openapi()["paths"].items():
        if "get" in methods:
            for name in ("alice", "bob", "carol", "agent_b"):
                filled = path.removeprefix(API).format_map(_Filled(username=name))
                texts.append(operator.get(filled).text)
    for part in parts:
        assert not [each for each in texts if part in each]


class _Filled(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "0123456789ab"


# Stolen keys


def test_a_thief_of_a_key_without_the_phone(
    pipelit: Pipelit,
    member: httpx.Client,
    client_of: Client,
    desk_keys: dict[str, str],
    enrolled: Enroll,
) -> None:
    """What someone can do who has only the key of a member whose second factor is on.

    They read what the member reads: the account, the agents, masked keys, locks. They can revoke
    the member's keys, the stolen one too, because a stolen key has to end soon: that keeps the
    member out until an operator issues another key, and lets nobody in. They can type wrong codes
    until the member's own lane is locked; a recovery code works meanwhile, and an operator unlocks.
    They can't issue a key, so nothing is left to them after the key is revoked. They can't disable
    or replace the second factor, nor renew its recovery codes.
    """
    enrolled("bob")
    thief = client_of(desk_keys["bob"])
    for path in ("/me", "/users", "/users/bob/keys", "/users/bob/lanes"):
        assert thief.get(path).status_code == 200
    refused = thief.post("/users/bob/keys", json={"name": "mine now"})
    assert refused.json()["type"].endswith(":second-factor-required")
    assert thief.post("/me/second-factor").status_code == 409
    assert thief.post("/me/second-factor/confirm", json={"code": "123456"}).status_code == 409
    for path in ("disable", "recovery-codes"):
        answer = thief.post(f"/me/second-factor/{path}", json={"code": "000000"})
        assert answer.status_code == 403
    assert pipelit.mfa.status("bob").on
    own = desk_keys["bob"].split("_")[1]
    assert member.delete(f"/users/bob/keys/{own}").status_code == 204
    assert thief.get("/me").status_code == 401


def test_a_thief_of_a_key_without_a_second_factor(
    pipelit: Pipelit, operator: httpx.Client, client_of: Client, desk_keys: dict[str, str]
) -> None:
    """What someone can do who has the key of a member without a second factor: all she can.

    They can issue keys of their own, which the list shows to her, and they can enrol a second
    factor of theirs, which keeps her from what is sensitive. An operator resets that factor and
    revokes the keys. So a second factor is what limits a stolen key.
    """
    thief = client_of(desk_keys["bob"])
    made = thief.post("/users/bob/keys", json={"name": "theirs"}).json()
    assert thief.post("/me/second-factor").status_code == 201
    assert operator.post("/users/bob/second-factor/reset").status_code == 204
    assert not pipelit.mfa.status("bob").pending
    for info in operator.get("/users/bob/keys").json()["items"]:
        assert operator.delete(f"/users/bob/keys/{info['id']}").status_code == 204
    assert client_of(made["api_key"]).get("/me").status_code == 401
    assert thief.get("/me").status_code == 401


def test_wrong_codes_of_a_thief_lock_only_the_persons_own_lane(
    pipelit: Pipelit,
    member: httpx.Client,
    client_of: Client,
    desk_keys: dict[str, str],
    enrolled: Enroll,
    clock: Clock,
) -> None:
    """Recovery codes still work there, and so do codes that others verify."""
    code_of = enrolled("bob")
    [recovery, *_] = pipelit.mfa.renew_recovery_codes("bob", code_of())
    thief = client_of(desk_keys["bob"])
    for _ in range(11):
        thief.post("/users/bob/keys", json={"name": "x"}, headers=code_header("000000"))
        clock.advance(20)
    locked = member.post("/users/bob/keys", json={"name": "x"}, headers=code_header(code_of()))
    assert (locked.status_code, "retry-after" in locked.headers) == (429, True)
    headers = code_header(recovery.get_secret_value())
    assert member.post("/users/bob/keys", json={"name": "x"}, headers=headers).status_code == 201
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", "000000")
    assert [each.lane for each in pipelit.users.lanes("bob")] == ["self"]


def test_a_codes_owner_is_the_caller(
    operator: httpx.Client, member: httpx.Client, enrolled: Enroll
) -> None:
    """A code of another person opens nothing, with either person's key."""
    of_alice, of_bob = enrolled("alice"), enrolled("bob")
    assert operator.post("/users/bob/unlock", headers=code_header(of_bob())).status_code == 403
    body = {"name": "x"}
    answer = member.post("/users/bob/keys", json=body, headers=code_header(of_alice()))
    assert answer.status_code == 403


# Agents


def test_an_agents_key_tries_everything(
    pipelit: Pipelit, agent: httpx.Client, desk_app: FastAPI
) -> None:
    """It reads who it is; every other endpoint refuses it before it looks at what was sent.

    A prompt-injected model with the key of its agent reaches no account, key or second factor, not
    even those of its owner or its own, and nothing changes.
    """
    before = [each.username for each in pipelit.users.list()]
    allowed = {("get", f"{API}/me"), ("post", f"{API}/verify"), ("get", f"{API}/openapi.json")}
    for path, methods in desk_app.openapi()["paths"].items():
        for method in set(methods) - {"parameters"}:
            if (method, path) in allowed or path == f"{API}/setup":
                continue
            filled = path.removeprefix(API).format_map(_Filled(username="agent_writer"))
            for sent in ({}, {"json": {"name": "x"}}, {"json": ["nonsense"]}):
                if method in ("get", "delete") and sent:
                    continue
                answer = agent.request(method, filled, **sent, headers=code_header("123456"))
                assert answer.status_code == 403, (method, path)
                assert answer.json()["type"].endswith(":not-permitted")
    assert [each.username for each in pipelit.users.list()] == before
    assert {each.name for each in pipelit.users.list_api_keys("agent_writer")} == {
        "first key",
        "desk",
    }


def test_a_peers_key_reaches_nothing(
    pipelit: Pipelit, client_of: Client, desk_app: FastAPI
) -> None:
    """An agent of another domain may have a key for a server here, and is no agent of this one."""
    pipelit.users.enroll_peer(PEER, name="agent_remote", domain="there")
    key = pipelit.users.issue_api_key("agent_remote", name="server").api_key
    peer = client_of(key.get_secret_value())
    for path, methods in desk_app.openapi()["paths"].items():
        if path in ("/health", "/ready", f"{API}/setup"):
            continue
        for method in methods:
            filled = path.removeprefix(API).format_map(_Filled(username="agent_remote"))
            answer = peer.request(method, filled)
            assert (answer.status_code, answer.json()["type"][-13:]) == (403, "not-permitted")


# Operators who act at once


def test_two_operators_cant_end_each_other(
    pipelit: Pipelit, client_of: Client, desk_keys: dict[str, str]
) -> None:
    """Both demote the other one at the same time: one stays."""
    pipelit.users.set_role("bob", "operator")
    alice, bob = client_of(desk_keys["alice"]), client_of(desk_keys["bob"])
    jobs = [(alice, "bob"), (bob, "alice")]

    def send(job: tuple[httpx.Client, str]) -> int:
        client, other = job
        return client.post(f"/users/{other}/deactivate").status_code

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(send, jobs))
    assert answers[0] == 200
    assert answers[1] in (401, 403, 409)
    assert sum(pipelit.users.get(each).active for each in ("alice", "bob")) == 1
