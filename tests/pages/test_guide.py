"""docs/guide.md: every recipe runs as it stands."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pyotp
import pytest
from integration_pages import set_up
from paths import ROOT
from test_readme import run

from pipelit_agents import Pipelit

PAGE = (ROOT / "docs" / "guide.md").read_text()
RECIPES = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's own commands were typed."""
    return set_up(tmp_path_factory.mktemp("guide"))


def test_each_recipe_has_one_block_and_a_test() -> None:
    """A recipe that is added must be run by a test here."""
    assert PAGE.count("```python") == PAGE.count("\n## ") == len(RECIPES) == 14


@pytest.mark.process
def test_a_workflow_delegates_and_goes_on(prepared: Path) -> None:
    """What was proven comes out in task order, and how far it is was told."""
    said = run(RECIPES["A workflow that delegates and goes on"], prepared).splitlines()
    assert said[-1] == "about otters: a lot; about holts: a lot"
    assert sorted(said[:-1]) == [
        f"agent_researcher {index} {event}"
        for index in (0, 1)
        for event in ("running", "spawned", "verified")
    ]


@pytest.mark.process
def test_a_node_that_spawns_is_run_again(prepared: Path) -> None:
    """The call that isn't made again lends its answer to nobody."""
    said = run(RECIPES["A node that spawns and is run again"], prepared).splitlines()
    assert said == ["pay 90", "['list: done', 'pay 90: yes']"]


@pytest.mark.process
def test_a_prebuilt_agent_is_a_child(prepared: Path) -> None:
    """The messages of a prebuilt agent come out of the spawn."""
    assert run(RECIPES["A prebuilt agent as a child"], prepared) == "Otters sleep in holts.\n"


@pytest.mark.process
def test_a_model_asks_other_agents(prepared: Path) -> None:
    """The description says what the child takes, a wrong field is refused, the right one proven."""
    said = run(RECIPES["A model that asks other agents"], prepared).splitlines()
    assert said == [
        "- agent_researcher. Takes text (text).",
        "Not done, and no agent was asked: tasks[0]: agent_researcher takes text (text); not "
        "'question'.",
        '[{"agent": "agent_researcher", "status": "verified", "answer": {"text": "otters sleep in '
        'holts", "longest": "otters"}}]',
    ]


@pytest.mark.process
def test_an_agent_that_was_just_created_is_asked(tmp_path: Path) -> None:
    """The lead's new agent answers, and alice's other agent is refused."""
    answered, refused = run(
        RECIPES["Agents that are created at run time"], set_up(tmp_path)
    ).splitlines()
    assert answered == "verified Otters sleep in holts."
    assert refused.startswith(
        "refused tasks[0].agent 'agent_researcher' isn't an active agent that"
    )


@pytest.mark.process
def test_a_tool_with_a_key(prepared: Path) -> None:
    """The model's schema has no key, and the opening is in the audit."""
    said = run(RECIPES["A tool with a key that no model sees"], prepared).splitlines()
    assert said == [
        "['city']",
        "asked https://weather.example about Bern with 1 header",
        "credential.reveal",
    ]


@pytest.mark.process
def test_a_child_opens_only_what_its_task_needs(prepared: Path) -> None:
    """The spawn's list limits the child, and the task's list narrows it."""
    said = run(RECIPES["A child that opens only what its task needs"], prepared).splitlines()
    assert said == [
        "maps is open",
        "mail is open",
        "credential 'bank': this task may open only 'mail', 'maps'",
        "maps is open",
        "credential 'mail': this task may open only 'maps'",
        "credential 'bank': this task may open only 'maps'",
    ]


@pytest.mark.process
def test_a_key_for_each_person(prepared: Path) -> None:
    """Each run opened its own person's, and nobody's run none."""
    said = run(RECIPES["A key for each person"], prepared).splitlines()
    assert said == [
        "alice with ****8877",
        "bob with ****9789",
        "credential 'github' is opened per person, and nobody is authenti",
        str([(each, "open_issue", "ok" if each else "refused") for each in ("alice", "bob", "")]),
    ]


@pytest.mark.process
def test_context_beside_a_secret(prepared: Path) -> None:
    """The runtime's context and the secret arrive in one node."""
    code = RECIPES["Runtime context beside a secret"]
    assert run(code, prepared) == "in Romansh, with ****9894\n"


@pytest.mark.process
def test_encrypted_checkpoints_and_masked_logs(prepared: Path) -> None:
    """The file holds no state in clear, and the log no key."""
    code = RECIPES["Encrypted checkpoints, masked logs"]
    said = run(f"import sys; sys.stderr = sys.stdout\n{code}", prepared)
    assert said.splitlines() == [
        "asking with ****",
        "in the files: False",
        "with the key: {'diagnosis': 'a cold'}",
    ]


@pytest.mark.process
@pytest.mark.parametrize("approves", [True, False])
def test_a_person_approves(tmp_path: Path, approves: bool) -> None:
    """A wrong code asks again; Alice's pays, and nothing in its place denies."""
    folder = set_up(tmp_path)
    key = (folder / ".env").read_text().partition("=")[2].strip()
    url = f"sqlite:///{folder}/.pipelit/agents.db"
    with Pipelit(database_url=url, encryption_keys=[key]) as pipelit:
        app = pyotp.parse_uri(pipelit.mfa.enroll("alice").get_secret_value())
        assert isinstance(app, pyotp.TOTP)
        # The code before this half minute's, so that this one's is left for the approval.
        pipelit.mfa.confirm("alice", app.at(int(time.time()) - 30))
    said = run(
        RECIPES["A person approves before something is done"],
        folder,
        typed=f"12345678\n{app.now() if approves else ''}\n",
    )
    assert said.count("'pay': 70") == 2
    assert said.splitlines()[-1].endswith("paid 70" if approves else "nothing")


@pytest.mark.process
def test_a_bearer_key_in_front_of_a_service(prepared: Path) -> None:
    """A good key is let in, and whatever else is refused in the same words."""
    asking = """
from fastapi.testclient import TestClient

client = TestClient(app)
key = pipelit.users.issue_api_key("alice", name="a test").api_key.get_secret_value()
print(client.get("/whoami", headers={"Authorization": f"Bearer {key}"}).json())
refusals = {
    (answer.status_code, answer.text, answer.headers["WWW-Authenticate"])
    for header in ({}, *({"Authorization": f"{word} {key}x"} for word in ("Bearer", "Basic", "")))
    for answer in [client.get("/whoami", headers=header)]
}
print(refusals)
"""
    said = run(RECIPES["A Bearer key in front of your own service"] + asking, prepared)
    assert said.splitlines() == [
        "{'name': 'alice'}",
        "{(401, '{\"detail\":\"unauthorized\"}', 'Bearer')}",
    ]


@pytest.mark.process
def test_a_clock_that_the_test_turns(tmp_path: Path) -> None:
    """The recipe for tests needs no settings at all."""
    assert run(RECIPES["Tests of your own graphs"], tmp_path) == "too late\n"


@pytest.mark.process
def test_a_member_reaches_her_own(prepared: Path) -> None:
    """What isn't hers is as if it weren't there, and the last operator stays."""
    said = run(RECIPES["Operators and members"], prepared).splitlines()
    assert said[:4] == [
        "keys.issue mia member",
        "users.read agent_mia member",
        "users.read agent_lead UserNotFound",
        "users.deactivate agent_mia NotPermitted",
    ]
    assert said[4].startswith("'alice' is the last operator: make another person an operator first")
    names = " ".join(said[5:]).split()
    assert names == sorted(names)
    assert {"alice", "agent_lead"} < {*names}
    assert "agent_mia" not in names
