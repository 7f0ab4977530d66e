"""The application: routers, callers and problems."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from shutil import copyfile

import httpx
import pytest
from desk_client import DeskTransport, client_for, code_header
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from pipelit_agents import Pipelit
from pipelit_agents.desk import DeskSettings, app
from pipelit_agents.desk.callers import (
    AgentCaller,
    AnyCaller,
    Home,
    OperatorCaller,
    PersonCaller,
    Sensitive,
)
from pipelit_agents.desk.problems import library_input
from pipelit_agents.errors import ConfigurationError, StorageError, UserExists

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


def test_failures_count_in_the_persons_own_lane(
    pipelit: Pipelit, operator: httpx.Client, enrolled: Callable[[str], Callable[[], str]]
) -> None:
    """Wrong codes lock nobody else out, and a person whose lane is locked has recovery codes."""
    code_of = enrolled("alice")
    codes = pipelit.mfa.renew_recovery_codes("alice", code_of())
    recovery = codes[0].get_secret_value()
    wrong = operator.post("/things", json={"name": "x"}, headers=code_header("000000"))
    assert (wrong.status_code, wrong.json()["type"]) == (
        403,
        "urn:pipelit-agents:problem:code-rejected",
    )
    assert [each.lane for each in pipelit.users.lanes("alice")] == ["self"]
    statuses = []
    for number in range(12):
        headers = code_header(f"{number:06}")
        statuses.append(operator.post("/things", json={"name": "x"}, headers=headers).status_code)
    limited = operator.post("/things", json={"name": "x"}, headers=code_header(code_of()))
    assert statuses[-1] == 429
    assert (limited.status_code, int(limited.headers["retry-after"]) > 0) == (429, True)
    for status in (201, 403):
        answer = operator.post("/things", json={"name": "x"}, headers=code_header(recovery))
        assert answer.status_code == status


def test_a_code_isnt_spent_on_what_is_refused(
    operator: httpx.Client, enrolled: Callable[[str], Callable[[], str]]
) -> None:
    """A body that isn't accepted and a name that is taken leave the code unused."""
    code = code_header(enrolled("alice")())
    assert operator.post("/things", json={"nome": "x"}, headers=code).status_code == 422
    assert operator.post("/things", json={"name": "taken"}, headers=code).status_code == 409
    assert operator.post("/things", json={"name": "x"}, headers=code).status_code == 201


def test_many_wrong_fields_have_a_short_answer(operator: httpx.Client) -> None:
    """The answer names the first ones, and repeats no value."""
    body = {f"field-{number}": "plit_secret" for number in range(1_000)} | {"x" * 5_000: 1}
    answer = operator.post("/things", json=body)
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 20)
    assert "plit_secret" not in answer.text


def test_desks_of_one_process_stay_apart(
    pipelit: Pipelit,
    operator: httpx.Client,
    desk_keys: dict[str, str],
    migrated_file: Path,
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two desks share their endpoints, and neither accounts nor readiness nor settings."""
    copyfile(migrated_file, tmp_path / "other.db")
    url = f"sqlite:///{tmp_path / 'other.db'}"
    with Pipelit(database_url=url, encryption_keys=[key]) as other:
        named = other.users.create("zoe").api_key.get_secret_value()
        settings = DeskSettings(allowed_hosts=["other.example"], _env_file=None)
        desk = app.make_app(other, settings)
        with client_for(desk, named) as client:
            for _ in range(2):
                assert client.get("/any").json()["username"] == "zoe"
                assert client.post("/things", json={"name": "x"}).json() == "zoe"
                assert operator.post("/things", json={"name": "x"}).json() == "alice"
            assert client.get("/any", headers=_bearer(desk_keys["alice"])).status_code == 401
            assert operator.get("/any", headers=_bearer(named)).status_code == 401
            host = {"Host": "other.example"}
            assert client.get("/any", headers=host).status_code == 200
            assert operator.get("/any", headers=host).status_code == 400
            assert operator.get("http://localhost/ready").status_code == 200
            monkeypatch.setattr(Pipelit, "check_key", _only_of(pipelit))
            assert client.get("http://localhost/ready").status_code == 503


def _only_of(able: Pipelit) -> Callable[[Pipelit], None]:
    def check_key(home: Pipelit) -> None:
        if home is not able:
            raise StorageError("it can't be read")

    return check_key


def _bearer(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"}


def test_routes_of_another_application_arent_guarded(pipelit: Pipelit) -> None:
    """A server may add its own routes to the application, as Aegra does, and they stay its own."""
    desk = app.make_app(pipelit, DeskSettings(_env_file=None))
    own = APIRouter()
    own.add_api_route("/threads", lambda: "own")
    desk.include_router(own)
    with httpx.Client(transport=DeskTransport(desk), base_url="http://evil.example") as client:
        answer = client.get("/threads")
        assert (answer.json(), "content-security-policy" in answer.headers) == ("own", False)
        assert client.get("/api/v1/any").status_code == 400
        assert client.get("/other").status_code == 400


@pytest.mark.parametrize(
    ("package", "module"),
    [("fastapi", "pipelit_agents.desk"), ("uvicorn", "pipelit_agents.desk.serving")],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, module: str
) -> None:
    """Without its packages, the error says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'pipelit-agents\[desk\]'"):
        import_module(module)


def test_forgetting_the_second_factor_is_a_fault(operator: httpx.Client) -> None:
    """An endpoint that says it is sensitive and asks for no code fails."""
    assert operator.post("/forgetful").json()["type"].endswith(":unexpected")
