from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import fresh
import pytest
from integration_pages import set_up
from openai_server import chat_server
from paths import ROOT, TESTS

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", README, re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
OPENAI = "sk-0123456789-abcdef"


def _environment() -> dict[str, str]:
    ours = ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL", "PIPELIT_REDIS_URL")
    return {name: value for name, value in os.environ.items() if name not in ours}


def run(code: str, folder: Path, typed: str = "", **variables: str) -> str:
    """What a block prints in a folder, when somebody types that."""
    done = fresh.run(code, _environment() | variables, folder=folder, typed=typed)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's own commands were typed."""
    return set_up(tmp_path_factory.mktemp("readme"))


@pytest.mark.process
def test_the_first_block_shows_a_refusal(tmp_path: Path) -> None:
    """The first code runs as it stands, in an empty folder, and two checks are refused."""
    said = run(PYTHON[0], tmp_path).splitlines()
    assert said[0] == "agent_writer made this code for agent_editor"
    assert [line.split(" gets: ")[0] for line in said[1:]] == ["agent_editor", "agent_stranger"]


@pytest.mark.process
def test_the_quickstart_shows_four_characters_of_the_key(prepared: Path) -> None:
    """The tool received the key, and its last four characters are all that is printed of it."""
    said = run(PYTHON[1], prepared)
    assert "Sunny in Bern. (The service received the key ****4567.)" in said
    assert said.splitlines()[-1] == "It is sunny in Bern."
    assert "sk-weather" not in said


@pytest.mark.process
def test_the_agent_block_asks_a_real_model(prepared: Path) -> None:
    """With a server in the place of the provider's, which accepts only the stored key."""
    with chat_server(lambda messages: "In holts.", OPENAI) as chat:
        stored = fresh.run(
            fresh.AGENTS,
            _environment(),
            *shlex.split("credentials put openai --kind llm --created-by alice"),
            folder=prepared,
            typed=f"{OPENAI}\n",
        )
        assert stored.returncode == 0, stored.stderr
        assert run(PYTHON[2], prepared, OPENAI_BASE_URL=chat.base_url) == "In holts.\n"
    assert set(chat.shown) == {OPENAI}


@pytest.mark.process
def test_create_agent_receives_a_verified_answer(prepared: Path) -> None:
    """The lead's model reads what the researcher proved."""
    answer = (
        '{"agent": "agent_researcher", "status": "verified", "answer": "Otters sleep in holts."}'
    )
    assert run(PYTHON[3], prepared) == f"[{answer}]\n"


@pytest.mark.process
def test_a_deep_agent_receives_a_verified_answer(prepared: Path) -> None:
    """The answer of the verified child is that of the sub-agent."""
    assert run(PYTHON[4], prepared) == "Otters sleep in holts.\n"


@pytest.mark.process
def test_the_workflow_ends_verified(prepared: Path) -> None:
    """The node of the README gives a verified result."""
    assert run(PYTHON[5], prepared) == "verified WHY?\n"


@pytest.mark.process
def test_each_person_uses_her_own_key(prepared: Path) -> None:
    """One tool uses Alice's key for Alice, and Dana's for Dana; the file runs twice."""
    for _ in range(2):
        assert run(PYTHON[6], prepared).splitlines() == [
            "alice opens an issue with the key ****8877",
            "dana opens an issue with the key ****9789",
        ]


@pytest.mark.process
@pytest.mark.parametrize("approves", [True, False])
def test_the_payment_waits_for_alice(tmp_path: Path, approves: bool) -> None:
    """The agent pays what she approved in the meantime, and nothing without her."""
    said = run(f"approves = {approves}\n{MEANWHILE}\n{PYTHON[7]}\n{PYTHON[8]}", set_up(tmp_path))
    assert said.startswith("{'amount': 90, 'to': 'bob'}\n")
    assert ("paid 90 to bob" in said) is approves


# What happens in another terminal while the program waits.
MEANWHILE = """
import builtins
import pyotp
from pipelit_agents import Pipelit

other = Pipelit.from_env()
phone = pyotp.parse_uri(other.mfa.enroll("alice").get_secret_value())
code, *_ = other.mfa.confirm("alice", phone.now())


def meanwhile(prompt):
    (waiting,) = other.approvals.pending("alice")
    print(waiting.arguments)
    if approves:
        other.approvals.decide(waiting.id, "alice", code.get_secret_value())


builtins.input = meanwhile
"""


@pytest.mark.process
def test_the_tools_block_names_the_tools(prepared: Path) -> None:
    """The toolkit of the README has the three tools under their names."""
    names = "['get_totp_code', 'verify_peer', 'create_agent_user']"
    assert run(PYTHON[9], prepared).strip() == names


@pytest.mark.process
def test_the_desks_block_makes_the_application(prepared: Path) -> None:
    """It is made of the folder's settings."""
    assert run(PYTHON[10], prepared).strip() == "pipelit-agents desk"


def test_each_use_is_short() -> None:
    """The uses take less than fifteen lines of code each."""
    for code in PYTHON[1:]:
        assert sum(bool(line.strip()) for line in code.splitlines()) < 15


def test_every_page_that_has_code_has_a_test_that_runs_it() -> None:
    """Which blocks are run where: a page with code that isn't named here fails.

    `test_integrations.py` finds those of docs/integrations/ by itself.
    """
    run = {
        "README.md": "test_readme.py",
        "remote.md": "test_remote_page.py",
        "logging.md": "test_logging_page.py",
        "getting-started.md": "test_getting_started.py",
        "answers.md": "test_answers_page.py",
        "concepts.md": "test_concepts_page.py",
        "operations.md": "test_operations.py",
        "shared-database.md": "test_host_migrations.py",
        "testing.md": "test_testing_page.py",
        "desk.md": "test_desk_page.py",
        "migration.md": "test_migration_page.py",
        "protocol.md": "test_protocol_page.py",
    }
    shown = {
        "deployment.md": "set-up of servers",
        "index.md": "the README again",
        "architecture.md": "a drawing, which test_contributing.py compares",
    }
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        if "```" in page.read_text() and page.name not in shown:
            assert page.name in next(TESTS.rglob(run[page.name])).read_text(), page


def test_every_block_is_run() -> None:
    """A block that is added to the README must be run by a test here."""
    assert len(PYTHON) == 11


def test_links_inside_the_repository_lead_somewhere() -> None:
    """Each relative link of the documents names a file that is there."""
    pages = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
    for page in [*pages, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
