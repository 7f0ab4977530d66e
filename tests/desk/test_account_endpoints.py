"""The endpoints of accounts, API keys and second factors: what each answers and changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pyotp
import pytest
from conftest import Clock
from desk_client import client_for, code_header
from pydantic import SecretStr

from pipelit_agents import Agent, Pipelit, VerificationPolicy
from pipelit_agents.desk import DeskSettings, make_app
from pipelit_agents.errors import AuthenticationError, CodeRejected

Client = Callable[..., httpx.Client]
Enroll = Callable[[str], Callable[[], str]]


def actors(pipelit: Pipelit, action: str) -> list[tuple[str, str]]:
    """Who did something to whom, the newest first."""
    return [(each.actor, each.subject) for each in pipelit.audit.list(action=action)][::-1]


def changes(pipelit: Pipelit) -> list[str]:
    """What was done, without the use of API keys."""
    return [each.action for each in pipelit.audit.list() if each.action != "authenticate"]


def kind_of(answer: httpx.Response) -> tuple[int, str]:
    """The status and the kind of a problem."""
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def test_an_account_that_is_not_there_is_said_in_words_for_the_pages(
    operator: httpx.Client, member: httpx.Client
) -> None:
    """Without methods and commands, whoever asks and wherever the name is."""
    agent = {"username": "agent_x", "owner": "alcie", "purpose": "x"}
    for answer in (
        operator.get("/users/alcie"),
        operator.get("/users/alcie/keys"),
        operator.get("/users/alcie/lanes"),
        operator.post("/users/alcie/keys", json={"name": "laptop"}),
        operator.post("/agents", json=agent),
        member.get("/users/alcie"),
    ):
        assert answer.json()["detail"] == "there is no account 'alcie' here", answer.url


# me


def test_me_is_the_account_of_the_key(member: httpx.Client, desk_keys: dict[str, str]) -> None:
    """Its role, its second factor, and the key of this request, masked."""
    me = member.get("/me").json()
    key_id, secret = desk_keys["bob"].split("_", 2)[1:]
    assert (me["username"], me["kind"], me["role"]) == ("bob", "human", "member")
    assert me["second_factor"] == {"on": False, "pending": False, "recovery_codes": 0}
    assert (me["key"]["id"], me["key"]["name"]) == (key_id, "desk")
    assert me["key"]["masked"] == f"…{secret[-4:]}"
    assert secret not in str(me)


def test_an_agent_has_no_second_factor_of_a_person(agent: httpx.Client) -> None:
    """Its own is its TOTP secret, which nobody sees again."""
    me = agent.get("/me").json()
    assert (me["username"], me["kind"], me["role"]) == ("agent_writer", "agent", "")
    assert (me["owner"], me["second_factor"]) == ("alice", None)


# accounts


def test_accounts_are_listed_in_pages(pipelit: Pipelit, operator: httpx.Client) -> None:
    """By name, each once, with a cursor for those that follow."""
    pipelit.users.create_agent("agent_of_bob", owner="bob", purpose="p")
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = operator.get("/users", params={"limit": 1} | after).json()
        found += [each["username"] for each in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == ["agent_of_bob", "agent_writer", "alice", "bob"]
    some = operator.get("/users", params={"kind": "agent", "owner": "bob"}).json()
    assert [each["username"] for each in some["items"]] == ["agent_of_bob"]


def test_a_member_lists_the_own_tree(pipelit: Pipelit, member: httpx.Client) -> None:
    """Also what the own agents own, and never another person's agents, whatever is asked."""
    pipelit.users.create_agent("agent_of_bob", owner="bob", purpose="p")
    pipelit.users.create_agent("agent_below", owner="agent_of_bob", purpose="p")
    for params, names in (
        ({}, ["agent_below", "agent_of_bob", "bob"]),
        ({"owner": "agent_of_bob"}, ["agent_below"]),
        ({"owner": "alice"}, []),
    ):
        page = member.get("/users", params=params).json()
        assert ([each["username"] for each in page["items"]], page["next"]) == (names, None)


def test_a_new_person_has_the_key_that_is_shown_once(
    pipelit: Pipelit, operator: httpx.Client
) -> None:
    """The key works, the audit names who asked, and no other endpoint shows it."""
    body = {"username": "carol", "role": "operator", "key_expires_at": "2030-01-31T12:00:00+01:00"}
    made = operator.post("/users", json=body)
    assert (made.status_code, made.json()["role"]) == (201, "operator")
    key = made.json()["api_key"]
    assert pipelit.users.authenticate(key).username == "carol"
    assert actors(pipelit, "human.create")[0] == ("alice", "carol")
    [info] = operator.get("/users/carol/keys").json()["items"]
    assert info["expires_at"] == "2030-01-31T11:00:00Z"
    assert key.split("_", 2)[2] not in operator.get("/users/carol/keys").text


def test_a_new_agent_has_secrets_that_are_shown_once(
    pipelit: Pipelit, operator: httpx.Client, clock: Clock
) -> None:
    """An authenticator app reads the URI, and the audit names who asked."""
    body = {"username": "agent_b", "owner": "bob", "purpose": "looks", "may_create_agents": False}
    made = operator.post("/agents", json=body)
    assert made.status_code == 201
    answer = made.json()
    assert pipelit.users.authenticate(answer["api_key"]).username == "agent_b"
    app = pyotp.parse_uri(answer["provisioning_uri"])
    assert app.name == "agent_b"
    assert answer["qr_svg"].startswith("<svg ")
    assert answer["qr_svg"].endswith("</svg>")
    found = operator.get("/users/agent_b").json()
    assert (found["owner"], found["created_by"]) == ("bob", "alice")
    assert (found["purpose"], found["may_create_agents"]) == ("looks", False)
    assert actors(pipelit, "agent.create")[0] == ("alice", "agent_b")


def test_a_role_and_an_agent_change(pipelit: Pipelit, operator: httpx.Client) -> None:
    """A person gets another role, an agent another purpose or right, and the audit has both."""
    assert operator.patch("/users/bob", json={"role": "operator"}).json()["role"] == "operator"
    changed = operator.patch("/users/agent_writer", json={"purpose": "edits"}).json()
    assert (changed["purpose"], changed["may_create_agents"]) == ("edits", True)
    changed = operator.patch("/users/agent_writer", json={"may_create_agents": False}).json()
    assert (changed["purpose"], changed["may_create_agents"]) == ("edits", False)
    assert actors(pipelit, "user.role") == [("alice", "bob")]
    assert actors(pipelit, "agent.change") == [("alice", "agent_writer")] * 2


SENSELESS: list[tuple[dict[str, Any], int]] = [
    ({}, 422),
    ({"role": None}, 422),
    ({"role": "owner"}, 422),
    ({"role": "member", "purpose": "p"}, 422),
    ({"username": "bob2"}, 422),
    ({"purpose": ""}, 422),
    ({"purpose": " "}, 422),
    ({"may_create_agents": "yes"}, 422),
    ({"purpose": "p"}, 409),
]


def test_a_change_that_makes_no_sense_changes_nothing(operator: httpx.Client) -> None:
    """Nothing is converted or guessed; bob is a person, so he has no purpose."""
    before = operator.get("/users/bob").json()
    for body, status in SENSELESS:
        assert operator.patch("/users/bob", json=body).status_code == status, body
    assert operator.get("/users/bob").json() == before


def test_the_last_operator_stays(pipelit: Pipelit, operator: httpx.Client) -> None:
    """She can't be made a member or be deactivated; with another operator both work."""
    assert kind_of(operator.patch("/users/alice", json={"role": "member"})) == (409, "conflict")
    assert kind_of(operator.post("/users/alice/deactivate")) == (409, "conflict")
    assert pipelit.users.get("alice").role == "operator"
    pipelit.users.set_role("bob", "operator")
    assert operator.patch("/users/alice", json={"role": "member"}).json()["role"] == "member"
    # From the next request on.
    assert kind_of(operator.post("/users/bob/deactivate")) == (403, "not-permitted")


def test_deactivation_ends_keys_at_once(
    pipelit: Pipelit, operator: httpx.Client, member: httpx.Client
) -> None:
    """Of the person and of the agents."""
    pipelit.users.create_agent("agent_of_bob", owner="bob", purpose="p")
    ended = operator.post("/users/bob/deactivate")
    assert ended.json() == {"deactivated": ["agent_of_bob", "bob"]}
    assert member.get("/me").status_code == 401
    assert set(actors(pipelit, "user.deactivate")) == {("alice", "bob"), ("alice", "agent_of_bob")}
    assert operator.post("/users/bob/deactivate").json() == {"deactivated": []}
    assert kind_of(operator.patch("/users/bob", json={"role": "member"})) == (409, "conflict")
    assert kind_of(operator.post("/users/bob/keys", json={"name": "x"})) == (409, "conflict")


def test_locks_are_seen_and_ended(
    pipelit: Pipelit, operator: httpx.Client, member: httpx.Client, enrolled: Enroll, clock: Clock
) -> None:
    """Wrong codes of bob's own lock his own lane, which an operator unlocks."""
    enrolled("bob")
    for _ in range(10):
        member.post("/me/second-factor/disable", json={"code": "000000"})
        clock.advance(20)
    locked = member.post("/me/second-factor/disable", json={"code": "000000"})
    assert kind_of(locked) == (429, "too-many-attempts")
    assert int(locked.headers["retry-after"]) == locked.json()["retry_after"] > 0
    [lane] = member.get("/users/bob/lanes").json()["items"]
    assert (lane["lane"], lane["failures"]) == ("self", 10)
    assert lane["locked_until"] is not None
    assert operator.post("/users/bob/unlock", json={"lane": "self"}).json()["still_locked"] == []
    assert operator.get("/users/bob/lanes").json()["items"] == []
    assert actors(pipelit, "user.unlock") == [("alice", "bob")]


def test_lanes_come_in_pages(
    pipelit: Pipelit, operator: httpx.Client, writer: Agent, clock: Clock
) -> None:
    """By name, from the cursor on."""
    for name in ("agent_a", "agent_b", "agent_c"):
        pipelit.users.create_agent(name, owner="alice", purpose="p")
        with pytest.raises(CodeRejected):
            pipelit.agent(name).verify_peer("agent_writer", "00000000")
    first = operator.get("/users/agent_writer/lanes", params={"limit": 2}).json()
    rest = operator.get("/users/agent_writer/lanes", params={"after": first["next"]}).json()
    assert [e["lane"] for e in first["items"]] == ["audience:agent_a", "audience:agent_b"]
    assert [e["lane"] for e in rest["items"]] == ["audience:agent_c"]
    assert rest["next"] is None


def test_a_lost_phone_is_reset_by_somebody_else(
    pipelit: Pipelit, operator: httpx.Client, enrolled: Enroll
) -> None:
    """An operator ends another person's factor, and never the own one without its code."""
    enrolled("bob")
    assert operator.post("/users/bob/second-factor/reset").status_code == 204
    assert not pipelit.mfa.status("bob").on
    assert actors(pipelit, "mfa.reset") == [("alice", "bob")]
    code_of = enrolled("alice")
    own = operator.post("/users/alice/second-factor/reset", headers=code_header(code_of()))
    assert kind_of(own) == (403, "not-permitted")
    assert pipelit.mfa.status("alice").on
    agents = operator.post("/users/agent_writer/second-factor/reset")
    assert agents.status_code == 403


# API keys


def test_a_key_is_shown_once_and_revoked(
    pipelit: Pipelit, member: httpx.Client, client_of: Client
) -> None:
    """Its holder uses it until it is revoked; the list has it masked all the time."""
    made = member.post("/users/bob/keys", json={"name": "laptop"}).json()
    another = client_of(made["api_key"])
    assert another.get("/me").json()["key"]["id"] == made["id"]
    listed = member.get("/users/bob/keys")
    assert {e["name"] for e in listed.json()["items"]} == {"first key", "desk", "laptop"}
    assert made["api_key"].split("_", 2)[2] not in listed.text
    for _ in range(2):
        assert member.delete(f"/users/bob/keys/{made['id']}").status_code == 204
    assert another.get("/me").status_code == 401
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(made["api_key"])
    assert actors(pipelit, "key.issue")[0] == ("bob", "bob")
    assert actors(pipelit, "key.revoke") == [("bob", "bob")] * 2


def test_a_key_belongs_to_the_account_of_its_path(
    pipelit: Pipelit, operator: httpx.Client, desk_keys: dict[str, str]
) -> None:
    """Under another account's path its id is unknown, also to an operator."""
    key_id = desk_keys["bob"].split("_")[1]
    for name in ("alice", "agent_writer"):
        assert operator.delete(f"/users/{name}/keys/{key_id}").status_code == 404
    assert pipelit.users.authenticate(desk_keys["bob"]).username == "bob"


# Second factor


def test_a_second_factor_is_enrolled_confirmed_and_ended(
    pipelit: Pipelit, member: httpx.Client, clock: Clock
) -> None:
    """The secret and the recovery codes are shown once; each step needs a code that wasn't used."""
    enrolment = member.post("/me/second-factor")
    assert enrolment.status_code == 201
    app = pyotp.parse_uri(enrolment.json()["provisioning_uri"])
    assert isinstance(app, pyotp.TOTP)
    assert (app.name, app.secret) == ("bob", enrolment.json()["secret"])
    assert member.get("/me").json()["second_factor"]["pending"]

    code = app.at(int(clock()))
    confirmed = member.post("/me/second-factor/confirm", json={"code": code})
    assert len(set(confirmed.json()["recovery_codes"])) == 10
    assert member.get("/me").json()["second_factor"] == {
        "on": True,
        "pending": False,
        "recovery_codes": 10,
    }
    assert kind_of(member.post("/me/second-factor")) == (409, "conflict")
    again = member.post("/me/second-factor/recovery-codes", json={"code": code})
    assert kind_of(again) == (403, "code-rejected")
    clock.advance(30)
    code = app.at(int(clock()))
    renewed = member.post("/me/second-factor/recovery-codes", json={"code": code})
    assert not set(renewed.json()["recovery_codes"]) & set(confirmed.json()["recovery_codes"])
    old = {"code": confirmed.json()["recovery_codes"][0]}
    assert kind_of(member.post("/me/second-factor/disable", json=old)) == (403, "code-rejected")
    new = {"code": renewed.json()["recovery_codes"][0]}
    assert member.post("/me/second-factor/disable", json=new).status_code == 204
    assert not pipelit.mfa.status("bob").on


def test_without_a_second_factor_no_code_is_counted(pipelit: Pipelit, member: httpx.Client) -> None:
    """There is nothing to disable or renew, so nothing is guessed."""
    for path in ("disable", "recovery-codes"):
        answer = member.post(f"/me/second-factor/{path}", json={"code": "000000"})
        assert kind_of(answer) == (409, "conflict")
    assert pipelit.users.lanes("bob") == []


# What is sensitive

SENSITIVE: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/users", {"username": "dave"}),
    ("PATCH", "/users/bob", {"role": "operator"}),
    ("POST", "/users/bob/deactivate", None),
    ("POST", "/users/bob/unlock", None),
    ("POST", "/users/bob/second-factor/reset", None),
    ("POST", "/agents", {"username": "agent_d", "owner": "bob", "purpose": "p"}),
    ("POST", "/users/alice/keys", {"name": "another"}),
    ("POST", "/users/bob/keys", {"name": "another"}),
    ("DELETE", "/users/bob/keys/{key_id}", None),
]


@pytest.mark.parametrize(
    ("method", "path", "body"), SENSITIVE, ids=[f"{each[0]} {each[1]}" for each in SENSITIVE]
)
def test_what_is_sensitive_needs_the_code_of_who_asks(
    pipelit: Pipelit,
    operator: httpx.Client,
    desk_keys: dict[str, str],
    enrolled: Enroll,
    method: str,
    path: str,
    body: dict[str, Any] | None,
) -> None:
    """Without one nothing happens; another person's is none; with one it happens once."""
    path = path.replace("{key_id}", desk_keys["bob"].split("_")[1])
    code_of, of_bob = enrolled("alice"), enrolled("bob")

    def send(code: str | None) -> httpx.Response:
        headers = {} if code is None else code_header(code)
        return operator.request(method, path, json=body, headers=headers)

    before = changes(pipelit)
    refused = send(None)
    assert kind_of(refused) == (403, "second-factor-required")
    assert changes(pipelit) == before
    assert kind_of(send(of_bob())) == (403, "code-rejected")
    code = code_of()
    assert send(code).status_code in (200, 201, 204)
    if path != "/users":
        assert kind_of(send(code))[0] in (403, 409)


PAST = "2001-01-01T00:00:00Z"
BOUND_TO_FAIL: list[tuple[str, str, dict[str, Any] | None, int]] = [
    ("POST", "/users", {"username": "bob"}, 409),
    ("POST", "/users", {"username": "NO"}, 422),
    ("POST", "/users", {"username": "sk-0a1b2c3d4e5f6a7b8c9d"}, 422),
    ("POST", "/users", {"username": "eve", "key_expires_at": PAST}, 422),
    ("PATCH", "/users/nobody", {"role": "member"}, 404),
    ("PATCH", "/users/alice", {"role": "member"}, 409),
    ("PATCH", "/users/agent_writer", {"role": "member"}, 403),
    ("PATCH", "/users/bob", {"purpose": "p"}, 409),
    ("POST", "/users/nobody/deactivate", None, 404),
    ("POST", "/users/alice/deactivate", None, 409),
    ("POST", "/users/bob/unlock", {"lane": "no lane"}, 422),
    ("POST", "/users/agent_writer/second-factor/reset", None, 403),
    ("POST", "/agents", {"username": "bob", "owner": "bob", "purpose": "p"}, 409),
    ("POST", "/agents", {"username": "agent_x", "owner": "nobody", "purpose": "p"}, 404),
    ("POST", "/agents", {"username": "agent_x", "owner": "agent_small", "purpose": "p"}, 403),
    ("POST", "/users/nobody/keys", {"name": "x"}, 404),
    ("POST", "/users/bob/keys", {"name": "x", "expires_at": PAST}, 422),
    ("POST", "/users/bob/keys", {"name": " "}, 422),
    ("DELETE", "/users/bob/keys/000000000000", None, 404),
]


def test_no_code_is_spent_on_what_can_not_succeed(
    pipelit: Pipelit, operator: httpx.Client, enrolled: Enroll
) -> None:
    """Each request is refused first, and its code is still good for another."""
    small = {"owner": "alice", "purpose": "p", "may_create_agents": False}
    pipelit.users.create_agent("agent_small", **small)
    headers = code_header(enrolled("alice")())
    for method, path, body, status in BOUND_TO_FAIL:
        answer = operator.request(method, path, json=body, headers=headers)
        assert answer.status_code == status, (method, path, body, answer.text)
        assert kind_of(answer)[1] != "code-rejected", (method, path, body)
    assert operator.post("/users/bob/unlock", headers=headers).status_code == 200


def test_no_code_is_spent_where_the_quota_is_used_up(
    settings: dict[str, Any], clock: Clock, desk_keys: dict[str, str], enrolled: Enroll
) -> None:
    """Alice has an agent already, and no more are allowed."""
    headers = code_header(enrolled("alice")())
    policy = VerificationPolicy(agents_per_owner=1)
    with Pipelit(**settings, clock=clock, policy=policy) as home:
        desk = make_app(home, DeskSettings(_env_file=None))
        with client_for(desk, desk_keys["alice"]) as client:
            body = {"username": "agent_x", "owner": "alice", "purpose": "p"}
            refused = client.post("/agents", json=body, headers=headers)
            assert kind_of(refused) == (409, "conflict")
            assert client.post("/users/bob/unlock", headers=headers).status_code == 200


def test_a_recovery_code_is_a_code_too(
    pipelit: Pipelit, operator: httpx.Client, clock: Clock
) -> None:
    """Once."""
    app = pyotp.parse_uri(pipelit.mfa.enroll("alice").get_secret_value())
    assert isinstance(app, pyotp.TOTP)
    recovery: list[SecretStr] = list(pipelit.mfa.confirm("alice", app.at(int(clock()))))
    headers = code_header(recovery[0].get_secret_value())
    assert operator.post("/users/bob/unlock", headers=headers).status_code == 200
    again = operator.post("/users/bob/unlock", headers=headers)
    assert kind_of(again) == (403, "code-rejected")
