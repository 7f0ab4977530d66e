"""Guessing of keys: the same words for every reason, 429 without a look-up, nobody slowed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import httpx
import pytest
from conftest import Clock
from desk_client import client_for
from fastapi import FastAPI
from internals import database_of, few_guesses
from statements import statements

from pipelit_agents import Pipelit
from pipelit_agents.desk import DeskSettings, make_app

WRONG = f"plit_{'0' * 12}_{'A' * 43}"


@pytest.fixture(autouse=True)
def _little_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    few_guesses(monkeypatch, 3)


@pytest.fixture
def sent(pipelit: Pipelit) -> Iterator[list[str]]:
    """The statements that the database gets."""
    with statements(pipelit) as found:
        yield found


def test_every_refusal_has_the_same_words(
    pipelit: Pipelit, desk_keys: dict[str, str], clock: Clock
) -> None:
    """Without a key, and with whatever isn't a valid one, the answer is the same."""
    good = desk_keys["alice"]
    revoked = pipelit.users.issue_api_key("alice", name="revoked")
    pipelit.users.revoke_api_key(revoked.id)
    basic = base64.b64encode(f"alice:{good}".encode()).decode()
    given: dict[str, list[tuple[str, str]]] = {
        "none": [],
        "basic": [("Authorization", f"Basic {basic}")],
        "no scheme": [("Authorization", good)],
        "another scheme": [("Authorization", f"Token {good}")],
        "a scheme alone": [("Authorization", "Bearer")],
        "wrong": [("Authorization", f"Bearer {WRONG}")],
        "revoked": [("Authorization", f"Bearer {revoked.api_key.get_secret_value()}")],
        "cut": [("Authorization", f"Bearer {good[:-1]}")],
        "two words": [("Authorization", f"Bearer {good} {good}")],
        "set-up": [("Authorization", f"Bearer plit_setup_{'A' * 43}")],
        "twice": [("Authorization", f"Bearer {good}")] * 2,
        "a cookie": [("Cookie", f"Authorization=Bearer {good}; session={good}")],
        "another header": [("X-Api-Key", good)],
    }
    answers = {}
    for what, headers in given.items():
        with client_for(make_app(pipelit, DeskSettings(_env_file=None))) as client:
            answer = client.get("/me", headers=headers)
            answers[what] = (answer.status_code, answer.headers["www-authenticate"], answer.text)
            # A key in the address is no key either.
            if what == "none":
                answers["query"] = (
                    (found := client.get("/me", params={"api_key": good})).status_code,
                    found.headers["www-authenticate"],
                    found.text,
                )
    assert set(answers.values()) == {answers["none"]}
    assert answers["none"][:2] == (401, "Bearer")


def test_above_the_budget_the_database_isnt_asked(
    desk_app: FastAPI, desk_keys: dict[str, str], sent: list[str]
) -> None:
    """Guesses above the budget get 429, and cost the database one read of all in five seconds."""
    with client_for(desk_app, WRONG) as guesser:
        assert [guesser.get("/x").status_code for _ in range(5)] == [401] * 3 + [429] * 2
        before = len(sent)
        # What the budget lets through is seen, so more of it would be.
        assert before >= 3
        answers = [guesser.get("/x") for _ in range(20)]
    assert {each.status_code for each in answers} == {429}
    assert len(sent) == before
    assert 1 <= int(answers[0].headers["retry-after"]) <= 5
    assert answers[0].json()["retry_after"] == int(answers[0].headers["retry-after"])


def test_a_guesser_slows_nobody_at_the_same_address(
    desk_app: FastAPI, desk_keys: dict[str, str], client_of: Callable[..., httpx.Client]
) -> None:
    """Valid keys are answered while guesses of their address are refused, on each request."""
    guesser, alice = client_of(WRONG), client_of(desk_keys["alice"])
    for _ in range(6):
        guesser.get("/x")
        assert alice.get("/x").status_code == 404
    assert guesser.get("/x").status_code == 429


def test_a_revoked_key_ends_at_once(
    pipelit: Pipelit, desk_app: FastAPI, desk_keys: dict[str, str]
) -> None:
    """No cache admits a key, not even while its address is over the budget."""
    with client_for(desk_app, WRONG) as guesser, client_for(desk_app, desk_keys["bob"]) as bob:
        for _ in range(5):
            guesser.get("/x")
        assert bob.get("/x").status_code == 404
        pipelit.users.revoke_api_key(desk_keys["bob"].split("_")[1])
        assert bob.get("/x").status_code == 401


def test_a_new_key_may_have_to_wait_for_five_seconds(
    pipelit: Pipelit, desk_app: FastAPI, client_of: Callable[..., httpx.Client]
) -> None:
    """While its address is over the budget, a key that was never used gets 429 at most so long."""
    guesser = client_of(WRONG)
    for _ in range(3):
        guesser.get("/x")
    assert guesser.get("/x").status_code == 429
    new = pipelit.users.issue_api_key("alice", name="new").api_key.get_secret_value()
    # It is newer than what is known of valid keys, and that is read every five seconds.
    refused = client_of(new).get("/x")
    assert (refused.status_code, int(refused.headers["retry-after"]) <= 5) == (429, True)


def test_the_database_that_cant_be_asked_is_no_wrong_key(
    pipelit: Pipelit, operator: httpx.Client, nobody: httpx.Client
) -> None:
    """Nobody is let in, nobody is told that the key is bad, and strangers learn no setting."""
    from sqlalchemy import text

    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE pipelit_api_keys RENAME TO away"))
    answer = operator.get("/x")
    assert answer.status_code == 503
    assert "PIPELIT" not in answer.text
    assert "no such table" not in answer.text
    assert nobody.get("/x").status_code == 401
