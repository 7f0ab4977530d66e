"""Who may do what: each endpoint for each caller, as the contract of the API says it.

The second factor is off here, and each request is one that the endpoint can answer, or nearly so.
A cell is a status; ``rejected`` is a 403 because of a wrong code, and not of the caller. The column
``code`` says whether the endpoint asks callers whose second factor is on for a code.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import Clock
from desk_client import API, DeskTransport
from fastapi import FastAPI

from pipelit_agents import Pipelit
from pipelit_agents.desk import DeskSettings, make_app

# `{name:value}` is a part of a path: `me` is the caller, `hers` an agent of the member, `another` a
# member who isn't the caller, `new` an account or a name that no other request has, `none` one that
# doesn't exist.
TABLE = """
                                                       code  nobody  operator  member  agent
GET    /me                                                -     401       200     200    200
POST   /setup                                             -     401       401     401    401

GET    /users                                             -     401       200     200    403
GET    /users/{username:me}                               -     401       200     200    403
GET    /users/{username:hers}                             -     401       200     200    403
GET    /users/{username:another}                          -     401       200     404    403
GET    /users/{username:none}                             -     401       404     404    403
POST   /users                                           yes     401       201     403    403
PATCH  /users/{username:new}                            yes     401       200     403    403
POST   /users/{username:new}/deactivate                 yes     401       200     403    403
GET    /users/{username:me}/lanes                         -     401       200     200    403
GET    /users/{username:hers}/lanes                       -     401       200     200    403
GET    /users/{username:another}/lanes                    -     401       200     404    403
POST   /users/{username:new}/unlock                     yes     401       200     403    403
POST   /users/{username:new}/second-factor/reset        yes     401       204     403    403
POST   /users/{username:me}/second-factor/reset         yes     401       403     403    403
POST   /agents                                          yes     401       201     403    403

GET    /users/{username:me}/keys                          -     401       200     200    403
GET    /users/{username:hers}/keys                        -     401       200     404    403
GET    /users/{username:another}/keys                     -     401       200     404    403
POST   /users/{username:me}/keys                        yes     401       201     201    403
POST   /users/{username:hers}/keys                      yes     401       201     404    403
POST   /users/{username:another}/keys                   yes     401       201     404    403
DELETE /users/{username:me}/keys/{key_id:new}           yes     401       204     204    403
DELETE /users/{username:another}/keys/{key_id:new}      yes     401       204     404    403

POST   /me/second-factor                                  -     401       201     201    403
POST   /me/second-factor/confirm                          -     401       422     422    403
POST   /me/second-factor/recovery-codes                   -     401       409     409    403
POST   /me/second-factor/disable                          -     401       409     409    403

GET    /credentials                                       -     401       200     200    403
GET    /credentials/{scope:shared}/{name:known}           -     401       200     200    403
GET    /credentials/{scope:own}/{name:none}               -     401       404     404    403
PUT    /credentials/{scope:shared}/{name:new}           yes     401       201     403    403
PUT    /credentials/{scope:own}/{name:new}              yes     401       201     201    403
DELETE /credentials/{scope:shared}/{name:none}          yes     401       404     403    403
DELETE /credentials/{scope:own}/{name:none}             yes     401       404     404    403
POST   /credentials/{scope:shared}/{name:none}/test       -     401       404     403    403
POST   /credentials/{scope:own}/{name:none}/test          -     401       404     404    403

GET    /approvals                                         -     401       200     200    403
GET    /approvals/register                                -     401       200     403    403
GET    /approvals/{id:none}                               -     401       404     404    403
POST   /approvals/{id:none}/approve                       -     401       404     404    403
POST   /approvals/{id:none}/deny                          -     401       404     404    403

GET    /audit                                             -     401       200     403    403
GET    /audit/export                                      -     401       200     403    403
GET    /audit/head                                        -     401       200     403    403
POST   /audit/verify                                      -     401       200     403    403

GET    /checks                                            -     401       200     403    403
GET    /encryption-keys                                   -     401       200     403    403
GET    /overview                                          -     401       200     200    403
POST   /verify                                            -     401       403     403    rejected
GET    /openapi.json                                      -     401       200     200    200
"""
BODIES: dict[str, dict[str, Any]] = {
    "POST /setup": {"username": "{new}"},
    "POST /users": {"username": "{new}"},
    "PATCH /users/{username}": {"role": "operator"},
    "POST /users/{username}/unlock": {},
    "POST /agents": {"username": "{new}", "owner": "alice", "purpose": "takes part"},
    "POST /users/{username}/keys": {"name": "another"},
    "POST /me/second-factor/confirm": {"code": "no code"},
    "POST /me/second-factor/recovery-codes": {"code": "123456"},
    "POST /me/second-factor/disable": {"code": "123456"},
    "PUT /credentials/{scope}/{name}": {"kind": "llm", "value": "a value that nobody uses"},
    "POST /approvals/{id}/approve": {"code": "123456", "digest": "0" * 64},
    "POST /approvals/{id}/deny": {"digest": "0" * 64},
    "POST /audit/verify": {},
    "POST /verify": {"peer": "agent_of_nobody", "code": "12345678"},
}
COLUMNS = ("code", "nobody", "operator", "member", "agent")
ROLES = COLUMNS[2:]
# What has no valid key: each gets the column "nobody", in the same words.
STRANGERS = ("no key", "wrong key", "revoked key", "expired key", "Basic", "deactivated account")
# Without a key, and outside of the API.
OPEN = {"GET /health", "GET /ready"}
# The description doesn't describe itself.
UNDESCRIBED = {"GET /openapi.json"}
PART = re.compile(r"\{(\w+)(?::(\w+))?\}")


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    method: str
    path: str
    cells: dict[str, str]

    @property
    def route(self) -> str:
        """The endpoint, as the application names it."""
        template = PART.sub(lambda found: f"{{{found[1]}}}", self.path)
        return f"{self.method} {template}"


def _read(table: str) -> Iterator[Row]:
    header, *lines = table.strip("\n").splitlines()
    assert tuple(header.split()) == COLUMNS
    for line in filter(str.strip, lines):
        method, path, *cells = line.split()
        yield Row(method, path, dict(zip(COLUMNS, cells, strict=True)))


ROWS = list(_read(TABLE))


def _named(row: Row) -> str:
    return f"{row.method} {row.path}"


@dataclass(frozen=True)
class Callers:
    """A desk, and what each kind of caller sends as ``Authorization``."""

    home: Pipelit
    app: FastAPI
    transport: DeskTransport
    client: httpx.Client
    headers: dict[str, str]
    numbers: Iterator[int]

    def documented(self, row: Row) -> set[str]:
        """Return the statuses that the API's description has for a line."""
        method, path = row.route.split()
        if row.route in UNDESCRIBED:
            return {"200", "401"}
        return set(self.app.openapi()["paths"][API + path][method.lower()]["responses"])

    def part(self, value: str, caller: str, row: Row) -> str:
        """Return a part of a path: an account, a key, or a name."""
        new = f"new_{next(self.numbers)}"
        match value:
            case "me":
                return {"operator": "alice", "member": "bob"}.get(caller, "agent_of_bob")
            case "hers":
                return "agent_of_bob"
            case "another":
                return "carol"
            case "new" if "{username:" in row.path and "keys" not in row.path:
                return self.home.users.create(new, role="member").username
            case "new" if "keys" in row.path:
                owner = "carol" if "another" in row.path else self.part("me", caller, row)
                return self.home.users.issue_api_key(owner, name=new).id
            case "new":
                return new
            case "none" if "{id:" in row.path:
                return "0" * 32
        return {"none": "nobody_of_this_name"}.get(value, value)

    def send(self, row: Row, caller: str, content: bytes | None = None) -> httpx.Response:
        """Send the request of a line as a caller, or another body."""
        parts = [self.part(each[2], caller, row) for each in PART.finditer(row.path)]
        given = iter(parts)
        path = PART.sub(lambda _: next(given), row.path)
        body = BODIES.get(row.route)
        if body is not None and "{new}" in body.values():
            body = body | {"username": f"new_{next(self.numbers)}"}
        number = next(self.numbers)
        self.transport.address = f"10.0.{number // 250}.{1 + number % 250}"
        headers = {"Authorization": self.headers[caller]} if caller in self.headers else {}
        if content is None:
            return self.client.request(row.method, path, json=body, headers=headers)
        headers["Content-Type"] = "application/json"
        return self.client.request(row.method, path, content=content, headers=headers)


@pytest.fixture(scope="module")
def callers(
    peopled_file: Callable[[tuple[str, ...]], Any], shared_key: str, tmp_path_factory: Any
) -> Iterator[Callers]:
    """One desk for all cells: no request of the table changes what another one gets."""
    file = tmp_path_factory.mktemp("desk") / "agents.db"
    file.write_bytes(peopled_file(()).read_bytes())
    clock = Clock()
    url = f"sqlite:///{file}"
    with Pipelit(database_url=url, encryption_keys=[shared_key], clock=clock) as home:
        users = home.users
        bob = users.create("bob", role="member").api_key.get_secret_value()
        users.create("carol", role="member")
        agent = users.create_agent("agent_of_bob", owner="bob", purpose="takes part")
        home.credentials.put("known", "a value that nobody uses", kind="llm", created_by="alice")
        revoked = users.issue_api_key("bob", name="revoked")
        users.revoke_api_key(revoked.id)
        soon = datetime.fromtimestamp(clock() + 60, UTC)
        expired = users.issue_api_key("bob", name="expired", expires_at=soon)
        clock.advance(timedelta(minutes=2).total_seconds())
        gone = users.create("gone", role="operator")
        users.deactivate("gone")
        alice = users.issue_api_key("alice", name="desk").api_key.get_secret_value()
        headers = {
            "wrong key": f"Bearer {bob[:-4]}{'AAAA' if bob[-4:] != 'AAAA' else 'BBBB'}",
            "revoked key": f"Bearer {revoked.api_key.get_secret_value()}",
            "expired key": f"Bearer {expired.api_key.get_secret_value()}",
            "Basic": f"Basic {_basic('alice', alice)}",
            "deactivated account": f"Bearer {gone.api_key.get_secret_value()}",
            "operator": f"Bearer {alice}",
            "member": f"Bearer {bob}",
            "agent": f"Bearer {agent.api_key.get_secret_value()}",
        }
        app = make_app(home, DeskSettings(_env_file=None))
        transport = DeskTransport(app)
        with httpx.Client(transport=transport, base_url=f"http://localhost{API}") as client:
            yield Callers(home, app, transport, client, headers, itertools.count(1))


def _basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.mark.all_cases
@pytest.mark.parametrize("row", ROWS, ids=_named)
def test_each_caller_gets_what_the_table_says(callers: Callers, row: Row) -> None:
    """The status of each cell; a refusal is a problem document of the right kind."""
    documented = callers.documented(row)
    for caller in (*STRANGERS, *ROLES):
        expected = row.cells["nobody" if caller in STRANGERS else caller]
        answer = callers.send(row, caller)
        status, kind = (
            ("403", "code-rejected") if expected == "rejected" else (expected, "not-permitted")
        )
        assert str(answer.status_code) == status, (caller, answer.text)
        if status == "401":
            assert answer.json() == UNAUTHENTICATED, caller
            assert answer.headers["www-authenticate"] == "Bearer", caller
        elif status == "403":
            assert answer.json()["type"].endswith(f":{kind}"), caller
        if answer.status_code > 400:
            assert answer.headers["content-type"] == "application/problem+json", caller
        assert answer.headers["cache-control"] == "no-store", caller
        assert status in documented, caller


UNAUTHENTICATED = {
    "type": "urn:pipelit-agents:problem:unauthenticated",
    "title": "Unauthorized",
    "status": 401,
    "detail": "a valid API key is needed: Authorization: Bearer plit_…",
}


def routes_of(app: FastAPI) -> set[str]:
    """The endpoints of an application, as its description names them."""
    return {
        f"{method.upper()} {path.removeprefix(API)}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }


def test_each_endpoint_is_in_the_table(callers: Callers) -> None:
    """An endpoint that nobody thought about here isn't left to chance."""
    described = {row.route for row in ROWS} | OPEN
    assert routes_of(callers.app) - described == set()


def test_each_line_of_the_table_is_an_endpoint(callers: Callers) -> None:
    """The table promises nothing that isn't there."""
    assert {row.route for row in ROWS} - routes_of(callers.app) == UNDESCRIBED


def test_the_table_says_which_endpoints_need_a_code(callers: Callers) -> None:
    """Those that take the header, and no others; what is sensitive can't lose it unseen."""
    described = {
        f"{method.upper()} {path.removeprefix(API)}"
        for path, methods in callers.app.openapi()["paths"].items()
        for method, operation in methods.items()
        if any(each["name"] == "Pipelit-Code" for each in operation.get("parameters", ()))
    }
    expected = {row.route for row in ROWS if row.cells["code"] == "yes"}
    assert described == expected & routes_of(callers.app)


@pytest.mark.all_cases
@pytest.mark.parametrize("row", [each for each in ROWS if each.route in BODIES], ids=_named)
def test_who_may_not_call_learns_nothing_about_bodies(callers: Callers, row: Row) -> None:
    """A body that can't be read changes nothing about the refusal of a caller."""
    for caller in ("no key", *ROLES):
        if row.cells.get(caller, "401") in ("401", "403"):
            expected = callers.send(row, caller)
            broken = callers.send(row, caller, content=b'{"username": ')
            found = (broken.status_code, broken.json())
            assert found == (expected.status_code, expected.json()), caller
