"""Set-up: the first operator is created once, with the server's token."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pipelit_agents import Pipelit
from pipelit_agents.desk.set_up_token import set_up_token

Client = Callable[..., httpx.Client]


@pytest.fixture
def token(pipelit: Pipelit) -> str:
    """The token of a server whose only operator was deactivated at its shell."""
    pipelit.users.deactivate("alice")
    found = set_up_token(pipelit)
    assert found is not None
    return found.get_secret_value()


def test_the_token_makes_the_first_operator(
    pipelit: Pipelit, client_of: Client, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The key works, the person is an operator, and the audit has the account and no secret."""
    caplog.set_level(logging.DEBUG)
    body = {"username": "olga", "key_expires_at": "2030-01-31T12:00:00Z"}
    made = client_of(token).post("/setup", json=body)
    assert made.status_code == 201
    assert (made.json()["username"], made.json()["role"]) == ("olga", "operator")
    me = client_of(made.json()["api_key"]).get("/me").json()
    assert (me["username"], me["role"]) == ("olga", "operator")
    assert me["key"]["expires_at"] == "2030-01-31T12:00:00Z"
    [entry] = pipelit.audit.list(subject="olga", action="human.create")
    assert (entry.outcome, entry.reason) == ("ok", "operator")
    texts = [str(vars(record)) for record in caplog.records]
    texts += [repr(each) for each in pipelit.audit.list()]
    for secret in (token, made.json()["api_key"]):
        assert not [each for each in texts if secret.split("_", 2)[2] in each]


def test_afterwards_the_token_is_a_wrong_key(client_of: Client, token: str) -> None:
    """In the words, the status and the headers of a key that never was one."""
    assert client_of(token).post("/setup", json={"username": "olga"}).status_code == 201
    used = client_of(token).post("/setup", json={"username": "eve"})
    wrong = client_of(f"plit_0123456789ab_{'A' * 43}").post("/setup", json={"username": "eve"})
    assert (used.status_code, used.json()) == (401, wrong.json())
    assert dict(used.headers) == dict(wrong.headers)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"username": "Olga"}, 422),
        ({"username": "olga", "role": "member"}, 422),
        ({"username": "olga", "key_expires_at": "2001-01-01T00:00:00Z"}, 422),
        ({"username": "alice"}, 409),
        ({"username": "operator"}, 409),
    ],
    ids=str,
)
def test_a_mistake_doesnt_use_the_token(
    client_of: Client, token: str, body: dict[str, str], status: int
) -> None:
    """The operator of the server corrects it, and tries again."""
    assert client_of(token).post("/setup", json=body).status_code == status
    assert client_of(token).post("/setup", json={"username": "olga"}).status_code == 201


def test_the_token_reaches_nothing_else(client_of: Client, token: str) -> None:
    """It is no API key."""
    for path in ("/me", "/users", "/audit"):
        assert client_of(token).get(path).status_code == 401


def test_racing_twins_make_one_operator(pipelit: Pipelit, client_of: Client, token: str) -> None:
    """Of many requests with the token at once, one wins; the others get 401 and make nobody."""
    names = [f"olga{number}" for number in range(6)]
    clients = [client_of(token) for _ in names]

    def send(index: int) -> int:
        return clients[index].post("/setup", json={"username": names[index]}).status_code

    with ThreadPoolExecutor(len(names)) as pool:
        assert sorted(pool.map(send, range(len(names)))) == [201, *[401] * 5]
    made = [each for each in pipelit.users.list() if each.username in names]
    assert [(each.role, each.active) for each in made] == [("operator", True)]
