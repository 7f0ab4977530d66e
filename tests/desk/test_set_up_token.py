"""The token that makes the first operator: derived, alike in all processes, and used once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from conftest import Clock
from desk_client import API, client_for
from fastapi import APIRouter

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.desk import app, make_app
from pipelit_agents.desk.callers import Home, SetUp
from pipelit_agents.desk.set_up_token import is_set_up_token, set_up_token

router = APIRouter()


@router.post("/setup")
def set_up(home: Home, token: SetUp) -> str:
    """Create the first operator."""
    return home.users.create_first_operator("carol").username


@pytest.fixture(autouse=True)
def _example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "OPEN_ROUTERS", (router,))


@pytest.fixture
def empty(pipelit: Pipelit) -> Pipelit:
    """Accounts without an operator: alice was one, and was deactivated at the shell."""
    pipelit.users.deactivate("alice")
    return pipelit


def token_of(pipelit: Pipelit) -> str:
    """The token that a server prints."""
    found = set_up_token(pipelit)
    assert found is not None
    return found.get_secret_value()


def test_there_is_no_token_while_there_is_an_operator(pipelit: Pipelit) -> None:
    """A server with an operator prints none, and accepts none from before."""
    assert set_up_token(pipelit) is None
    pipelit.users.deactivate("alice")
    token = token_of(pipelit)
    pipelit.users.create("bob")
    assert not is_set_up_token(pipelit, token)


def test_every_process_and_restart_has_the_same_token(
    empty: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """The token comes from the key and the database, so another process accepts it."""
    with Pipelit(**settings, clock=clock) as other:
        assert is_set_up_token(other, token_of(empty))


def test_another_key_makes_another_token(
    empty: Pipelit, settings: dict[str, Any], clock: Clock, key: str
) -> None:
    """Without the key nobody has the token; under an older key it is accepted during a rotation."""
    token = token_of(empty)
    new = Keyring.generate_key()
    for keys, accepted in (([new], False), ([new, key], True)):
        with Pipelit(**settings | {"encryption_keys": keys}, clock=clock) as other:
            assert token_of(other) != token
            assert is_set_up_token(other, token) is accepted


def test_an_old_token_doesnt_come_again(empty: Pipelit) -> None:
    """After its operator was deactivated, a token that was used stays refused."""
    token = token_of(empty)
    empty.users.create_first_operator("carol")
    empty.users.deactivate("carol")
    assert not is_set_up_token(empty, token)
    assert token_of(empty) != token


@pytest.mark.parametrize(
    "end",
    [
        lambda home: home.users.set_role("bob", "member"),
        lambda home: home.users.deactivate("bob"),
    ],
    ids=["another role", "deactivated"],
)
def test_a_token_of_an_old_log_doesnt_come_again(
    empty: Pipelit, end: Callable[[Pipelit], object]
) -> None:
    """Nor where the operator was made of a member, at the shell, and is none any more."""
    empty.users.create("bob", role="member")
    token = token_of(empty)
    empty.users.set_role("bob", "operator")
    end(empty)
    assert not is_set_up_token(empty, token)


@pytest.mark.slow
def test_guesses_dont_keep_the_right_token_out(empty: Pipelit) -> None:
    """Whoever guesses tokens and keys, from the same address, delays only the own refusals."""
    token, desk = token_of(empty), make_app(empty)
    wrong = f"plit_setup_{'A' * 43}"

    async def set_up() -> int:
        transport = httpx.ASGITransport(desk)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def send(sent: str) -> int:
                headers = {"Authorization": f"Bearer {sent}"}
                return (await client.post(f"{API}/setup", headers=headers)).status_code

            guesses = [asyncio.create_task(send(wrong)) for _ in range(200)]
            await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
            status = await send(token)
            for each in guesses:
                each.cancel()
            return status

    assert asyncio.run(set_up()) == 200


@pytest.mark.parametrize(
    "changed",
    [lambda each: each[:-1], lambda each: each + "A", lambda each: each[:-1] + "é", str.upper],
    ids=["cut", "longer", "no ASCII", "upper case"],
)
def test_a_wrong_token_is_refused(empty: Pipelit, changed: Callable[[str], str]) -> None:
    """Whatever isn't the token is no token, and raises nothing."""
    assert not is_set_up_token(empty, changed(token_of(empty)))


def test_the_token_opens_set_up_once_and_nothing_else(empty: Pipelit) -> None:
    """The token makes the first operator; then, and at other endpoints, it is as any wrong key."""
    token = token_of(empty)
    with client_for(make_app(empty), token) as client, client_for(make_app(empty)) as nobody:
        refused = nobody.post("/setup").json()
        assert client.get("/anything").json() == refused
        assert client.post("/setup").json() == "carol"
        again = client.post("/setup")
        assert (again.status_code, again.json()) == (401, refused)


def test_an_api_key_is_no_set_up_token(operator: httpx.Client) -> None:
    """An operator can't set up what is set up, and learns nothing else."""
    assert operator.post(f"http://localhost{API}/setup").status_code == 401
