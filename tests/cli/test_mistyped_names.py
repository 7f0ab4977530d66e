"""What a person mistypes: each message names the word, and what was meant or what to type."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

import pyotp
import pytest
from command_line import typed
from typer.testing import Result

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.cli import near_names

KEY = "wk-2718281828459045"


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database with a few names, made once."""
    file, key = tmp_path_factory.mktemp("names") / "agents.db", Keyring.generate_key()
    with Pipelit(database_url=f"sqlite:///{file}", encryption_keys=[key]) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        pipelit.users.create("bob")
        pipelit.users.create_agent("agent_lead", owner="alice", purpose="leads")
        pipelit.users.create_agent(
            "agent_helper", owner="agent_lead", purpose="helps", may_create_agents=True
        )
        pipelit.users.create_agent("agent_of_helper", owner="agent_helper", purpose="helps")
        pipelit.credentials.put("weather", KEY, kind="api-key", created_by="alice")
    return file, key


@pytest.fixture
def home(
    furnished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Pipelit]:
    """A copy of it, in the environment of the commands."""
    file, key = tmp_path / "agents.db", furnished[1]
    copyfile(furnished[0], file)
    file.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{file}")
    monkeypatch.setenv("COLUMNS", "80")
    return lambda: Pipelit(database_url=f"sqlite:///{file}", encryption_keys=[key])


def refused(*words: str, stdin: str = "") -> str:
    """The error of a command."""
    done = typed(*words, stdin=stdin)
    assert done.exit_code == 1, done.output
    return done.stderr


def put(*words: str) -> Result:
    """Store a credential."""
    done = typed("credentials", "put", *words, stdin=KEY)
    assert done.exit_code == 0, done.output
    return done


def enroll_acme(home: Callable[[], Pipelit]) -> None:
    """Enrol an agent of another domain."""
    uri = f"otpauth://totp/acme:agent_acme?secret={pyotp.random_base32(64)}&relation={'a' * 32}"
    with home() as pipelit:
        pipelit.users.enroll_peer(uri, name="agent_acme", domain="acme")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["users", "show", "agent_led"], "agent_lead"),
        (["users", "deactivate", "agent_led", "--yes"], "agent_lead"),
        (["users", "keys", "list", "alcie"], "alice"),
        (["agents", "create", "agent_x", "--owner", "alcie", "--purpose", "x"], "alice"),
        (["agents", "list", "--owner", "alcie"], "alice"),
        (["approvals", "list", "--user", "alcie"], "alice"),
        (["approvals", "list", "--user", "alcie", "--all"], "alice"),
        (["mfa", "enroll", "alcie"], "alice"),
        (["code", "agent_led"], "agent_lead"),
        (["mcp", "agent_led"], "agent_lead"),
        (["credentials", "show", "weathr"], "weather"),
        (["credentials", "test", "weathr"], "weather"),
        (["credentials", "test", "weather", "--agent", "agent_led"], "agent_lead"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else words,
)
def test_the_name_that_was_meant_is_suggested(words: list[str], meant: str) -> None:
    """Beside the name that isn't there, and in JSON too."""
    assert f"(did you mean {meant}?)" in refused(*words)
    done = typed(*words, "--json")
    assert f"(did you mean {meant}?)" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.usefixtures("home")
def test_a_secret_of_notices_may_be_mistyped() -> None:
    """It is said before there is a notice that can't be signed."""
    words = ["--webhook", "https://a.example", "--credential", "weathr"]
    done = typed("approvals", "notify", *words)
    assert done.exit_code == 0
    assert "'weathr' (did you mean weather?)" in done.stderr


def test_a_name_is_suggested_from_a_large_database(
    home: Callable[[], Pipelit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first names are compared, and those that begin as the typed name does."""
    monkeypatch.setattr(near_names, "MAX_COMPARED", 2)
    with home() as pipelit:
        for name in ("dora", "erin", "zoe_miller"):
            pipelit.users.create(name)
        pipelit.credentials.put("mail", KEY, kind="api-key", created_by="alice")
        pipelit.credentials.put("storage", KEY, kind="api-key", created_by="alice")
    assert "(did you mean zoe_miller?)" in refused("users", "show", "zoe_miler")
    assert "(did you mean weather?)" in refused("credentials", "show", "weathr")
    assert "did you mean" not in refused("users", "show", "rein")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", ["zebra_crossing", "weather:nothing", "hunter2-hunter2-A9"])
def test_nothing_is_suggested_for_another_word(name: str) -> None:
    """Nor for a credential that is there and has no such field."""
    assert "did you mean" not in refused("credentials", "test", name)


def test_a_deactivated_account_is_not_suggested(home: Callable[[], Pipelit]) -> None:
    """Nobody means it."""
    with home() as pipelit:
        pipelit.users.deactivate("agent_lead")
    assert "did you mean" not in refused("users", "show", "agent_led")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "words",
    [
        ["users", "deactivate", "alcie"],
        ["users", "keys", "revoke", "4f1d09ac2b7e"],
        ["mfa", "reset", "alcie"],
        ["credentials", "delete", "weathr"],
        ["credentials", "delete", "--all", "--person", "alcie"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_not_asked_about(words: list[str]) -> None:
    """A person who confirmed the question would believe that there was something to end."""
    said = refused(*words)
    assert "There is no terminal to ask at" not in said
    assert "there is no" in said or "no API key has the id" in said


@pytest.mark.usefixtures("home")
def test_a_credential_is_deleted_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking whether it is there needs no key."""
    monkeypatch.delenv("FIELD_ENCRYPTION_KEY")
    assert typed("credentials", "delete", "weather", "--yes").exit_code == 0


@pytest.mark.usefixtures("home")
def test_agents_of_an_agent_are_listed() -> None:
    """Directly and indirectly owned ones, as of a person."""

    def owned(owner: str) -> list[str]:
        done = typed("agents", "list", "--owner", owner, "--json")
        return [each["username"] for each in json.loads(done.stdout)]

    assert owned("alice") == ["agent_helper", "agent_lead", "agent_of_helper"]
    assert owned("agent_lead") == ["agent_helper", "agent_of_helper"]
    assert owned("agent_helper") == ["agent_of_helper"]
    assert owned("bob") == []


@pytest.mark.usefixtures("home")
def test_nothing_waits_for_one_person() -> None:
    """Something may wait for another."""
    done = typed("approvals", "list", "--user", "bob")
    assert done.stdout.startswith("No question waits for an answer of bob now.")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--actor", "alcie"], ["--actor: there is no account 'alcie'."]),
        (["--person", "alcie"], ["--person: there is no account 'alcie'."]),
        (["--subject", "weathr"], ["--subject: there is no account or credential 'weathr'."]),
        (["--subject", "sk-0123456789abcdef"], ["--subject: there is no", "may be a secret"]),
        (["--action", "credential"], ["--action credential."]),
        (["--action", "credential.putt"], ["--action credential."]),
        (["--subject", "bob", "--outcome", "refused"], []),
        (["--subject", "weather", "--outcome", "refused"], []),
        (["--actor", "operator", "--outcome", "refused"], []),
        (["--action", "nothing"], []),
    ],
    ids=lambda words: " ".join(words),
)
def test_no_entry_may_be_a_mistyped_filter(words: list[str], says: list[str]) -> None:
    """An audit that seems empty is believed."""
    first, *more = typed("audit", *words).stdout.splitlines()
    assert first == "There are no such entries."
    assert bool(more) == bool(says)
    assert all(each in "\n".join(more) for each in says)


def test_what_other_entries_are_about_is_not_mistyped(home: Callable[[], Pipelit]) -> None:
    """One person's own credential, one that was deleted, and what is neither of the two."""
    with home() as pipelit:
        pipelit.credentials.put("github", KEY, kind="api-key", created_by="bob", person="bob")
        pipelit.credentials.delete("weather")
        pipelit.keys.rotate()
    for name in ("github", "weather", "keys"):
        done = typed("audit", "--subject", name, "--outcome", "refused")
        assert done.stdout == "There are no such entries.\n"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("kind", "meant"),
    [
        ("topt", "totp"),
        ("otp", "totp"),
        ("TOTP", "totp"),
        ("lmm", "llm"),
        ("apikey", "api-key"),
        ("bilingg", "billing"),
    ],
)
def test_a_kind_that_looks_mistyped_is_doubted(kind: str, meant: str) -> None:
    """It is stored all the same, because a kind is a word of one's own."""
    put("invoices", "--kind", "billing", "--created-by", "alice")
    assert f"did you mean {meant}?" in put("x", "--kind", kind, "--created-by", "alice").stderr
    assert json.loads(typed("credentials", "show", "x", "--json").stdout)["kind"] == kind


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ["llm", "api-key", "http", "totp", "webhook", "database", "crm"])
def test_a_kind_of_ones_own_is_not_doubted(kind: str) -> None:
    """Nor one that another credential has."""
    seed = {"stdin": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"}
    words = ("credentials", "put", "x", "--kind", kind, "--created-by", "alice")
    assert typed(*words, **seed).stderr == ""
    put("a", "--kind", "lmm", "--created-by", "alice")
    assert put("b", "--kind", "lmm", "--created-by", "alice").stderr == ""


@pytest.mark.usefixtures("home")
def test_a_name_for_the_record_may_be_mistyped() -> None:
    """The record stays, so the warning says it at once; a name in it isn't needed."""
    said = put("x", "--kind", "llm", "--created-by", "alcie").stderr
    assert said == "warning: --created-by names 'alcie', which isn't an account\n"
    assert put("x", "--kind", "llm", "--created-by", "operator").stderr == ""


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("audience", "says"),
    [
        ("agent_led", "no account here is named 'agent_led' (did you mean agent_lead?)"),
        ("bob", "'bob' is a person"),
        ("agent_helper", ""),
    ],
)
def test_a_code_for_nobody_is_doubted(audience: str, says: str) -> None:
    """The code is made, because an agent of another database may verify it."""
    done = typed("code", "agent_lead", "--audience", audience)
    assert done.exit_code == 0
    assert len(done.stdout.strip()) == 8
    assert says in done.stderr
    assert bool(done.stderr) == bool(says)


def test_a_code_for_a_deactivated_agent_is_doubted(home: Callable[[], Pipelit]) -> None:
    """Nobody can verify it."""
    with home() as pipelit:
        pipelit.users.deactivate("agent_helper")
    said = typed("code", "agent_lead", "--audience", "agent_helper").stderr
    assert said == "warning: --audience: 'agent_helper' was deactivated\n"


def test_a_code_for_a_peer_is_not_doubted(home: Callable[[], Pipelit]) -> None:
    """It verifies the code in its own database."""
    enroll_acme(home)
    with home() as pipelit:
        pipelit.users.issue_peering("agent_lead", domain="acme")
    assert typed("code", "agent_lead", "--audience", "agent_acme").stderr == ""


@pytest.mark.usefixtures("home")
def test_a_verifier_that_is_not_there_is_no_wrong_code() -> None:
    """The person who types the command chose it."""
    said = refused("verify", "agent_led", "agent_helper", stdin="12345678")
    assert "there is no account 'agent_led' (did you mean agent_lead?)" in said


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["users", "keys", "issue", "bob", "--name", " "], "--name must say"),
        (["users", "keys", "issue", "bob", "--name", "x", "--expires-in", "0s"], "--expires-in is"),
        (["users", "create", "dora", "--expires-in", "0s"], "--expires-in is past"),
        (["approvals", "list", "--user", "A b"], "--user "),
        (["agents", "list", "--owner", "A b"], "--owner "),
        (["approvals", "notify", "--webhook", "x", "--credential", "weather"], "--webhook has to"),
        (
            ["approvals", "notify", "--webhook", "https://a.example", "--credential", "a b"],
            "--credential must be",
        ),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_an_error_names_the_option_that_was_typed(words: list[str], says: str) -> None:
    """And not an argument of the library with another name."""
    assert refused(*words).startswith(f"error: {says}")


@pytest.mark.usefixtures("home")
def test_names_like_the_typed_one_stay_in_the_message() -> None:
    """Only the typed word is masked, and not another one that begins in the same way."""
    said = refused("credentials", "test", "weather:nothing")
    assert said == "error: credential 'weather' has no field 'nothing'; it has ['value']\n"
    uri = typed("agents", "peering", "agent_lead", "--domain", "acme").stdout.strip()
    said = refused("agents", "enroll", "agent_lead2", "--domain", "acme", stdin=uri)
    assert "the account in its label is 'agent_lead', not …; enrol that one" in said


@pytest.mark.usefixtures("home")
def test_an_account_that_is_not_there_has_its_commands() -> None:
    """Each can be copied."""
    assert refused("users", "show", "zebra") == (
        "error: there is no account 'zebra'; see all with: pipelit-agents users list; create a "
        "person with pipelit-agents users create, an agent with pipelit-agents agents create\n"
    )


@pytest.mark.usefixtures("home")
def test_a_method_in_a_message_is_the_command_for_it(home: Callable[[], Pipelit]) -> None:
    """With its arguments as they are typed, so that it can be copied."""
    enroll_acme(home)
    fix = refused("code", "agent_lead", "--audience", "agent_acme").rpartition("with ")[2]
    assert fix.strip() == "pipelit-agents agents peering agent_lead --domain acme"
    assert typed(*fix.split()[1:]).exit_code == 0


@pytest.mark.usefixtures("home")
def test_without_an_operator_it_is_said() -> None:
    """Otherwise the next person that is created becomes one without anybody's intent."""
    assert typed("users", "role", "bob", "operator").stdout.count("\n") == 3
    assert "Nobody is an operator" not in typed("users", "role", "alice", "member").stdout
    assert "Nobody is an operator now" in typed("users", "role", "bob", "member").stdout
    assert typed("users", "role", "bob", "operator").exit_code == 0
    said = typed("users", "deactivate", "bob", "--yes").stdout
    assert "pipelit-agents users role NAME operator" in said
    assert json.loads(typed("users", "role", "alice", "member", "--json").stdout)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-h"], "there is no option -h (did you mean --help?)\n"),
        (["users", "list", "-h"], "there is no option -h (did you mean --help?)\n"),
        (["desk", "-h"], "there is no option -h (did you mean --host or --help?)\n"),
        (["approvals", "approve", "ID", "-u", "bob"], "-u (did you mean --user?). No command"),
        (["approvals", "approve", "ID", "-c", "123456"], "there is no option -c. No command takes"),
        (["approvals", "approve", "ID", "-c123456"], "there is no such option. No command takes"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_letter_for_an_option_is_no_secret(words: list[str], says: str) -> None:
    """What follows the letter may be one, and isn't repeated."""
    done = typed(*words)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "123456" not in done.stderr


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", ["my register.jsonl", "it's.jsonl", "$HOME.jsonl"])
def test_a_command_with_a_file_can_be_copied(name: str) -> None:
    """In a shell, whatever the file is called."""
    done = typed("approvals", "export", name, "--json")
    command = shlex.split(json.loads(done.stdout)["next"])
    assert command == ["pipelit-agents", "approvals", "verify", name]
    assert typed(*command[1:]).exit_code == 0
