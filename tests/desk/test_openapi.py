"""What the desk answers is what its OpenAPI document says, whatever is sent.

Schemathesis reads the document and makes requests of it, right ones and wrong ones. The names of
what is there are among their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfile
from typing import Any

import httpx
import hypothesis
import pyotp
import pytest
import requests
import schemathesis
from desk_client import client_for
from hypothesis import strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from pipelit_agents import ApprovalRequest, Pipelit
from pipelit_agents.desk import DeskSettings, make_app
from pipelit_agents.errors import AuthenticationError

CALLERS = {"operator": "alice", "member": "bob", "agent": "agent_writer"}
NAMES = ["alice", "bob", "agent_writer", "agent_other"]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


class Home:
    """A desk that is made again when the caller has lost her key by what she has sent."""

    def __init__(self, file: Path, key: str, folder: Path) -> None:
        self._file, self._key, self._folder = file, key, folder
        self._made = ExitStack()
        self._begin()

    def _begin(self) -> None:
        self._made.close()
        copy = self._folder / "agents.db"
        for each in self._folder.glob("agents.db*"):
            each.unlink()
        copyfile(self._file, copy)
        copy.chmod(0o600)
        settings: dict[str, Any] = {"database_url": f"sqlite:///{copy}"}
        self.pipelit = self._made.enter_context(Pipelit(**settings, encryption_keys=[self._key]))
        users = self.pipelit.users
        users.create("bob")
        users.create_agent("agent_other", owner="bob", purpose="takes part")
        self.keys = {
            role: users.issue_api_key(name, name="desk").api_key.get_secret_value()
            for role, name in CALLERS.items()
        }
        self.pipelit.credentials.put("github", "ghp-4711-0815", kind="token", created_by="alice")
        question = self._question()
        # What stands in a path or a body under these names; the rest is what Schemathesis makes.
        self.there = {
            **dict.fromkeys(("username", "owner", "peer"), NAMES),
            "name": ["github"],
            "scope": ["own", "shared"],
            "key_id": [each.id for name in CALLERS.values() for each in users.list_api_keys(name)],
            "id": [question.id],
            "digest": [question.digest],
        }
        self.app = make_app(self.pipelit, DeskSettings(_env_file=None))
        self._clients: dict[str, httpx.Client] = {}

    def _question(self) -> ApprovalRequest:
        """Ask the people, of whom carol alone could approve: a second factor asks for codes."""
        users, mfa = self.pipelit.users, self.pipelit.mfa
        users.create("carol")
        app = pyotp.parse_uri(mfa.enroll("carol").get_secret_value())
        assert isinstance(app, pyotp.TOTP)
        mfa.confirm("carol", app.now())
        return self.pipelit.approvals.request({"pay": 1}, approvers=["alice", "bob", "carol"])

    def client(self, role: str) -> httpx.Client:
        """Return a client whose key is valid."""
        try:
            self.pipelit.users.authenticate(self.keys[role])
        except AuthenticationError:
            self._begin()
        if role not in self._clients:
            made = client_for(self.app, self.keys[role])
            self._clients[role] = self._made.enter_context(made)
        return self._clients[role]

    def close(self) -> None:
        """Close it."""
        self._made.close()


@pytest.fixture(scope="module")
def home(
    peopled_file: Callable[[tuple[str, ...]], Path],
    shared_key: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Home]:
    """A desk with an operator, a member, an agent of each, and two credentials."""
    made = Home(peopled_file(("writer",)), shared_key, tmp_path_factory.mktemp("openapi"))
    yield made
    made.close()


def send(client: httpx.Client, case: schemathesis.Case) -> httpx.Response:
    """Send a case as it would be sent by HTTP."""
    given = case.as_transport_kwargs(base_url="http://localhost")
    for each in ("timeout", "verify"):
        given.pop(each, None)
    prepared = requests.Request(**given).prepare()
    body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
    headers = [
        (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in prepared.headers.items()
        if name.lower() not in ("content-length", "authorization")
    ]
    return client.request(str(prepared.method), str(prepared.url), headers=headers, content=body)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:credential .* has a secret of fewer than 8 characters")
def test_every_answer_is_a_documented_one(home: Home, request: pytest.FixtureRequest) -> None:
    """No request gets a 500, or a status, a content type or a field that isn't in the document."""
    schema = schemathesis.openapi.from_dict(home.app.openapi())
    operations = [each.ok() for each in schema.get_all_operations()]
    most = 100 if request.config.getoption("everywhere") else 6
    seen: Counter[str] = Counter()
    for operation in operations:
        _try(home, operation, most, seen)
    assert set(seen) == {each.label for each in operations}
    assert len(seen) > 30


def _try(home: Home, operation: Any, most: int, seen: Counter[str]) -> None:
    @hypothesis.settings(
        max_examples=most,
        database=None,
        derandomize=most < 10,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(), data=strategies.data())
    def try_it(case: schemathesis.Case, data: strategies.DataObject) -> None:
        role = data.draw(strategies.sampled_from([*CALLERS]))
        for place in (case.path_parameters, case.body):
            for name in sorted(home.there.keys() & (place if isinstance(place, dict) else {})):
                if data.draw(strategies.booleans()):
                    place[name] = data.draw(strategies.sampled_from(home.there[name]))
        answer = send(home.client(role), case)
        seen[operation.label] += 1
        case.validate_response(answer, checks=CHECKS)

    try_it()
