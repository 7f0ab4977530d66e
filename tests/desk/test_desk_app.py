"""The application: routers, callers and problems."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from pipelit_agents import Pipelit
from pipelit_agents.desk import app
from pipelit_agents.desk.callers import (
    AgentCaller,
    AnyCaller,
    Home,
    OperatorCaller,
    PersonCaller,
    Sensitive,
)
from pipelit_agents.desk.problems import library_input
from pipelit_agents.errors import UserExists

router = APIRouter(tags=["example"])


class Named(BaseModel):
    """A body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


@router.get("/any")
def any_of_them(caller: AnyCaller) -> dict[str, str]:
    """Who calls."""
    return {"username": caller.user.username, "key": caller.key.id}


@router.get("/people")
def people(caller: PersonCaller) -> str:
    """For people."""
    return caller.role


@router.get("/agents")
def agents(caller: AgentCaller) -> str:
    """For agents."""
    return caller.role


@router.post("/things", status_code=201)
def make(caller: OperatorCaller, factor: Sensitive, home: Home, body: Named) -> str:
    """What is sensitive."""
    if body.name == "taken":
        raise UserExists("it is taken")
    if body.name == "bad":
        with library_input("body.name"):
            raise ValueError("name must be good")
    factor.confirm()
    return home.users.get(caller.user.username).username


@router.post("/forgetful")
def forgetful(factor: Sensitive) -> None:
    """Do what is sensitive without a code."""


@pytest.fixture(autouse=True)
def _example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ROUTERS", (router,))


def test_an_unknown_path_is_a_problem(operator: httpx.Client, nobody: httpx.Client) -> None:
    """Without a key nobody learns which paths there are; with one, an unknown path is a 404."""
    assert nobody.get("/nothing").status_code == 401
    answer = operator.get("/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:pipelit-agents:problem:not-found"


def test_an_endpoint_knows_its_caller(operator: httpx.Client, desk_keys: dict[str, str]) -> None:
    """The caller is the account of the key, with the key's id."""
    answer = operator.get("/any")
    assert answer.json() == {"username": "alice", "key": desk_keys["alice"].split("_")[1]}


def test_a_role_that_isnt_permitted_is_refused(
    operator: httpx.Client, agent: httpx.Client, nobody: httpx.Client
) -> None:
    """Each dependency lets its roles in, and answers 403 to others and 401 without a key."""
    assert operator.get("/people").json() == "operator"
    assert agent.get("/agents").json() == "agent"
    assert agent.get("/people").status_code == 403
    assert operator.get("/agents").json()["type"].endswith(":not-permitted")
    assert nobody.get("/people").status_code == 401


def test_the_library_speaks_for_itself(operator: httpx.Client) -> None:
    """Errors of the library are problems with its words; a field that is refused is named."""
    taken = operator.post("/things", json={"name": "taken"})
    assert (taken.status_code, taken.json()["detail"]) == (409, "it is taken")
    bad = operator.post("/things", json={"name": "bad"})
    assert bad.status_code == 422
    assert bad.json()["errors"] == [{"field": "body.name", "message": "name must be good"}]


def test_a_second_factor_is_needed_where_it_is_on(
    pipelit: Pipelit,
    operator: httpx.Client,
    enrolled: Callable[[str], Callable[[], str]],
) -> None:
    """What is sensitive needs a code of a person who has a factor, and each code serves once."""
    assert operator.post("/things", json={"name": "x"}).status_code == 201
    code_of = enrolled("alice")
    refused = operator.post("/things", json={"name": "x"})
    assert refused.status_code == 403
    assert refused.json()["type"].endswith(":second-factor-required")
    code = code_of()
    for status in (201, 403):
        answer = operator.post("/things", json={"name": "x"}, headers={"Pipelit-Code": code})
        assert answer.status_code == status, answer.text


def test_forgetting_the_second_factor_is_a_fault(operator: httpx.Client) -> None:
    """An endpoint that says it is sensitive and asks for no code fails."""
    assert operator.post("/forgetful").json()["type"].endswith(":unexpected")
