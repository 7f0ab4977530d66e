from __future__ import annotations

import json
import re
import runpy
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import root, typed
from typer.testing import Result

from pipelit_agents import Keyring, Pipelit
from pipelit_agents._words import is_wordy
from pipelit_agents.settings import ensure_key

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    """Type a command, without a terminal."""
    return typed


# What the commands made once, by file; each test starts with a copy.
_MADE: dict[str, tuple[int, bytes]] = {}


@pytest.fixture
def ready(run: Run, folder: Path) -> Run:
    """A folder that was set up: alice, and two agents of hers."""
    if _MADE:
        (folder / ".pipelit").mkdir(mode=0o700)
        for name, (mode, content) in _MADE.items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(mode)
        return run
    assert run("init").exit_code == 0
    assert run("users", "create", "alice").exit_code == 0
    for name in ("agent_writer", "agent_editor"):
        done = run("agents", "create", name, "--owner", "alice", "--purpose", "tests")
        assert done.exit_code == 0
    for file in (each for each in folder.rglob("*") if each.is_file()):
        mode = stat.S_IMODE(file.stat().st_mode)
        _MADE[str(file.relative_to(folder))] = (mode, file.read_bytes())
    return run


def told(done: Result) -> Any:
    """The one JSON document that a command printed."""
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Every command with the words that reach it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


PUT_X = ("credentials", "put", "x", "--kind", "k", "--created-by", "alice")
ENDING = ("deactivate", "delete", "revoke", "prune", "reset", "forget")
# The one makes a key of nothing, the other says itself what it couldn't look at.
ALWAYS_WORK = [("keys", "generate"), ("check",)]
EVERY = list(commands(root()))


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_every_command_and_option_has_a_help_text(
    run: Run, path: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command, option or argument without a word of help is a defect.

    The help fits 80 columns. Where something has to be typed, it ends with an example in one line,
    which the command takes.
    """
    monkeypatch.setenv("COLUMNS", "80")
    done = run(*path, "--help")
    assert done.exit_code == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
    typed_words = any(each.required for each in command.params)
    assert command.epilog or not typed_words or path == ("rotate-key",)
    if command.epilog:
        example = command.epilog.rpartition("\n")[2]
        assert f" {example}" in [line.rstrip() for line in done.stdout.splitlines()]
        words = shlex.split(example)
        assert words[: len(path) + 1] == ["pipelit-agents", *path]
        command.make_context(path[-1], words[len(path) + 1 :])
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


def test_every_example_fits_a_line() -> None:
    """Of 80 columns, with one on each side; typer would break a longer one."""
    examples = (command.epilog.rpartition("\n")[2] for _, command in EVERY if command.epilog)
    assert [each for each in examples if len(each) > 78] == []


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_no_secret_is_an_argument(path: tuple[str, ...], command: Any) -> None:
    """What is typed after a command stands in the shell's history and the process list."""
    names = {parameter.name for parameter in command.params}
    assert not names & {"secret", "value", "password", "api_key", "token", "code"}


@pytest.mark.parametrize(
    ("path", "command"),
    [pair for pair in EVERY if not hasattr(pair[1], "commands")],
    ids=[" ".join(path) for path, command in EVERY if not hasattr(command, "commands")],
)
def test_every_command_can_print_json(path: tuple[str, ...], command: Any) -> None:
    """Scripts read JSON, so each command has --json."""
    assert "--json" in {option for parameter in command.params for option in parameter.opts}


def test_an_argument_has_one_name() -> None:
    """In capitals: the usage, the help, the errors and the page show it as it is."""
    for path, command in EVERY:
        for each in command.params:
            if each.param_type_name == "argument":
                assert each.metavar, (path, each.name)
                assert each.metavar == each.metavar.upper(), (path, each.metavar)


def test_the_package_runs_as_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m pipelit_agents` is the command, by its own name."""
    monkeypatch.setattr(sys, "argv", ["pipelit_agents", "users", "list", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pipelit_agents", run_name="__main__")
    assert ended.value.code == 0
    assert "Usage: pipelit-agents users list" in capsys.readouterr().out


def test_a_person_has_a_role(ready: Run) -> None:
    """It is given at creation or later, and shown with the account."""
    made = json.loads(ready("users", "create", "bob", "--json").stdout)
    assert made["role"] == "member"
    assert ready("users", "create", "eve", "--role", "operator").exit_code == 0
    assert ready("users", "role", "bob", "operator").exit_code == 0
    assert json.loads(ready("users", "show", "bob", "--json").stdout)["role"] == "operator"
    listed = json.loads(ready("users", "list", "--json").stdout)
    assert {each["username"]: each["role"] for each in listed}["eve"] == "operator"
    refused = ready("users", "role", "bob", "boss")
    assert (refused.exit_code, "'operator' or 'member'" in refused.stderr) == (1, True)


def test_a_person_has_no_owner_and_no_purpose(ready: Run) -> None:
    """The fields that only agents have aren't shown for people."""
    assert "owner" not in ready("users", "show", "alice").stdout
    assert "owner: alice" in ready("agents", "show", "agent_writer").stdout
    assert "nobody" not in ready("users", "list").stdout


def test_an_agent_has_a_purpose(ready: Run) -> None:
    """A blank one is refused, by the name of the option."""
    done = ready("agents", "create", "agent_x", "--owner", "alice", "--purpose", " ")
    assert done.exit_code == 1
    assert "purpose must say what the agent is for" in done.stderr


def test_an_allowed_name_without_an_account_is_warned_of(ready: Run) -> None:
    """The credential is stored, and the warning is on standard error."""
    words = ["--kind", "llm", "--created-by", "alice", "--allow", "agent_sendr"]
    done = ready("credentials", "put", "openai", *words, stdin="sk-proj-Zq81LmTc40Vx93Rb\n")
    assert done.exit_code == 0
    assert "warning: credential 'openai': allow names 'agent_sendr', which is no" in done.stderr


def test_init_makes_a_private_key_and_a_private_database(run: Run, folder: Path) -> None:
    """The key is in .env, readable by its owner only and not printed; the database beside it."""
    done = run("init")
    key = (folder / ".env").read_text().partition("=")[2].strip()
    Keyring(key)
    assert key not in done.output
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / ".pipelit").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ".pipelit" / "agents.db").stat().st_mode) == 0o600
    assert key.encode() not in (folder / ".pipelit" / "agents.db").read_bytes()


def test_init_never_replaces_a_key(run: Run, folder: Path) -> None:
    """A second init keeps what is there."""
    run("init")
    before = (folder / ".env").read_text()
    assert run("init").exit_code == 0
    assert (folder / ".env").read_text() == before


def test_init_does_not_ask_for_people_again(run: Run) -> None:
    """Once there is a person, the next command is another one."""
    assert told(run("init", "--json"))["next"] == "pipelit-agents users create NAME"
    assert run("users", "create", "alice").exit_code == 0
    assert told(run("init", "--json"))["next"] == "pipelit-agents check"


@pytest.mark.parametrize("below", ["app", "app/src"])
def test_init_below_a_folder_of_ours_names_it(
    run: Run, folder: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still makes another key and database, once, and says so."""
    assert "warning" not in told(run("init", "--json"))
    (folder / below).mkdir(parents=True)
    monkeypatch.chdir(folder / below)
    assert told(run("init", "--json"))["warning"] == (
        f"this folder has its own key and database now, but {folder} was set up before: if you "
        "meant that one, run the commands there"
    )
    assert (folder / below / ".pipelit" / "agents.db").is_file()
    assert (folder / below / ".env").read_text() != (folder / ".env").read_text()
    assert "warning" not in told(run("init", "--json"))


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("FIELD_ENCRYPTION_KEY_FILE=/run/secrets/key", True),
        ("A=1\nexport PIPELIT_DATABASE_URL = postgresql://db/agents", True),
        ("DATABASE_URL=sqlite:///app.db", False),
        ("# FIELD_ENCRYPTION_KEY=", False),
    ],
)
def test_init_below_others_env_says_nothing(
    run: Run, folder: Path, line: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a setting of ours makes the folder above one of ours."""
    (folder / ".env").write_text(f"{line}\n")
    (folder / "app").mkdir()
    monkeypatch.chdir(folder / "app")
    assert ("warning" in told(run("init", "--json"))) == warned


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", ["\n", " ", "\t\n", "export ", "PIPELIT_A", "PIPELIT_A\n"])
def test_init_below_an_env_of_any_text_does_not_hang(
    run: Run, folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may have written the file, in a folder such as /tmp."""
    (folder / ".env").write_text(part * 20_000)
    (folder / "app").mkdir()
    monkeypatch.chdir(folder / "app")
    assert "warning" not in told(run("init", "--json"))


def test_init_with_a_database_elsewhere_makes_no_second_one(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder below uses the same database and key if the environment names them."""
    run("init")
    (folder / "app").mkdir()
    monkeypatch.chdir(folder / "app")
    key = (folder / ".env").read_text().partition("=")[2].strip()
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{folder}/.pipelit/agents.db")
    assert "warning" not in told(run("init", "--json"))


def test_init_keeps_what_else_is_in_the_file(run: Run, folder: Path) -> None:
    """Other settings stay, and the file becomes private."""
    (folder / ".env").write_text("OTHER=1")
    (folder / ".env").chmod(0o644)
    assert run("init").exit_code == 0
    lines = (folder / ".env").read_text().splitlines()
    assert lines[0] == "OTHER=1"
    assert lines[1].startswith("FIELD_ENCRYPTION_KEY=")
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600


def test_init_warns_once_of_a_line_that_is_no_setting(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be another program's, so it is ignored; the settings are read several times."""
    (folder / ".env").write_text("OTHER=1\nno setting of ours\n")
    assert run("init").exit_code == 0
    assert run("users", "create", "alice").exit_code == 0
    assert [each.getMessage() for each in caplog.records] == [
        "warning: line 2 of .env can't be read and is ignored: write NAME=VALUE, or begin the line "
        "with #"
    ] * 2


def test_init_refuses_a_key_that_is_none(run: Run, folder: Path) -> None:
    """A setting that isn't a Fernet key is named, and not overwritten."""
    (folder / ".env").write_text("FIELD_ENCRYPTION_KEY=hunter2\n")
    done = run("init")
    assert done.exit_code == 1
    assert "FIELD_ENCRYPTION_KEY" in done.stderr
    assert "hunter2" not in done.output
    assert not (folder / ".pipelit").exists()


def test_nothing_set_up_names_the_command(run: Run) -> None:
    """Before init, a command says what to run."""
    done = run("users", "create", "alice")
    assert done.exit_code == 1
    assert "pipelit-agents init" in done.stderr


def test_a_code_verifies_once(ready: Run) -> None:
    """What one agent shows, the other verifies; a second time it is refused with exit code 1."""
    code = told(ready("code", "agent_writer", "--audience", "agent_editor", "--json"))["code"]
    good = ready("verify", "agent_editor", "agent_writer", stdin=code + "\n")
    again = ready("verify", "agent_editor", "agent_writer", stdin=code + "\n")
    assert (good.exit_code, again.exit_code) == (0, 1)
    assert again.stderr.startswith("error: the code was not accepted")


def test_a_plain_code_needs_the_option(ready: Run) -> None:
    """An authenticator's code is refused unless --plain says so."""
    code = told(ready("code", "agent_writer", "--json"))["code"]
    assert ready("verify", "agent_editor", "agent_writer", stdin=code).exit_code == 1
    assert ready("verify", "agent_editor", "agent_writer", "--plain", stdin=code).exit_code == 0


def test_a_code_for_a_message_is_good_with_it_alone(ready: Run) -> None:
    """`code --message` and `verify --message` bind to the exact text, and need an audience."""
    bound = ("--audience", "agent_editor", "--message", "pay [bob] 90", "--json")
    code = told(ready("code", "agent_writer", *bound))["code"]
    verify = ("verify", "agent_editor", "agent_writer")
    assert ready(*verify, stdin=code).exit_code == 1
    assert ready(*verify, "--message", "pay eve 90", stdin=code).exit_code == 1
    good = ready(*verify, "--message", "pay [bob] 90", "--json", stdin=code)
    assert told(good)["message"] == "pay [bob] 90"
    done = ready("code", "agent_writer", "--message", "go")
    assert done.exit_code == 1
    assert "name the audience" in done.output


def test_secrets_are_shown_once_and_marked(ready: Run) -> None:
    """The key of a new agent is printed in one line, marked; listing shows four characters."""
    made = ready("agents", "create", "agent_x", "--owner", "alice", "--purpose", "x")
    key = re.search(r"plit_\S+", made.stdout)
    assert key
    assert "Store the API key and the provisioning URI now: they aren't shown again." in made.stdout
    again = ready("agents", "rotate-totp", "agent_x")
    assert "Store the provisioning URI now: it isn't shown again." in again.stdout
    listed = told(ready("users", "keys", "list", "agent_x", "--json"))
    assert listed[0]["masked"] == f"…{key[0][-4:]}"
    assert key[0][:-4] not in json.dumps(listed)


def test_keys_are_issued_and_revoked(ready: Run) -> None:
    """A second key has its expiry, and ends when it is revoked."""
    made = told(
        ready("users", "keys", "issue", "alice", "--name", "ci", "--expires-in", "90d", "--json")
    )
    with Pipelit.from_env() as pipelit:
        assert pipelit.users.authenticate(made["api_key"]).username == "alice"
    assert ready("users", "keys", "revoke", made["id"], "--yes").exit_code == 0
    (_, second) = told(ready("users", "keys", "list", "alice", "--json"))
    assert second["expires_at"]
    assert second["revoked_at"]


def test_a_secret_that_was_typed_as_an_argument_is_not_repeated(ready: Run) -> None:
    """It is refused, with what to do about it, and stands in no message."""
    done = ready(*PUT_X, "sk-abcdefghijklmnop", stdin="another-secret\n")
    assert done.exit_code == 1
    assert "replace it at its issuer" in done.stderr
    assert "abcdefgh" not in done.output + done.stderr
    assert told(ready("credentials", "list", "--json")) == []


SENTINELS = (
    "sk-live-4eC39HqLyjWDarjtT1zdp7dc",
    "12345678",
    "otpauth://totp/a:b?secret=JBSWY3DPEHPK3PXP",
    "-xSENTINEL9-vErYsEcReT7",
    "line1-A7b9\nline2\x1b[31m-C3d5",
    "Tr0ub4dor&3" * 20,
)


def shown_of(sentinel: str, output: str) -> str:
    """What the output shows of a sentinel: a long part of it, or nothing."""
    parts = [sentinel[:12], *(part for part in re.split(r"[\n&=?-]", sentinel) if len(part) > 7)]
    return next((part for part in parts if part in output), "")


def places_of(path: tuple[str, ...], command: Any, sentinel: str) -> list[list[str]]:
    """A command line for each place of a command where somebody may type a secret."""
    arguments = ["nobody" for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    required: list[str] = []
    for each in options:
        if each.required:
            required += [f"{each.opts[0]}={'1d' if each.name == 'before' else 'x'}"]
    good = [*path, *arguments, *required]
    typed = [[*good, "--", sentinel], [*good, sentinel]]
    typed += [[*good, f"--nothing={sentinel}"], [*good, f"--json={sentinel}"]]
    for at in range(len(arguments)):
        others = [*arguments[:at], sentinel, *arguments[at + 1 :]]
        typed.append([*path, *required, "--", *others])
    for each in options:
        if not getattr(each, "is_flag", False):
            left = [word for word in required if not word.startswith(f"{each.opts[0]}=")]
            typed.append([*path, *arguments, *left, f"{each.opts[0]}={sentinel}"])
    return typed


@pytest.mark.slow
def test_no_error_repeats_what_was_typed_where_a_secret_may_be(
    ready: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command's arguments, one too many, an option that isn't there, each option's value."""
    monkeypatch.setattr(sys, "stdin", None)
    turn = failed = 0
    for path, command in EVERY:
        if path in ((), ("mcp",), ("demo",), ("check",), ("keys", "generate"), ("audit", "seal")):
            continue
        often = path in (("verify",), ("agents", "enroll"))
        for place in places_of(path, command, "{}"):
            turn += 1
            for sentinel in SENTINELS if often else [SENTINELS[turn % len(SENTINELS)]]:
                words = [word.replace("{}", sentinel) for word in place]
                # The command that was built once: building it takes longer than most of them.
                with pytest.raises(SystemExit) as ended:
                    EVERY[0][1].main(words, "pipelit-agents")
                output = "".join(capsys.readouterr())
                if ended.value.code:
                    assert not shown_of(sentinel, output), (words, output)
                    failed += 1
    assert failed > 200


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["verify", "agent_editor", "agent_writer", "12345678"], "no command takes a secret"),
        (["agents", "enroll", "there", "otpauth://totp/x", "--domain", "d"], "standard input"),
        (["users", "cretae", "bob"], "no such command (did you mean create?)"),
        (["users", "add", "bob"], "no such command (did you mean create?)"),
        (["credentials", "get", "openai"], "no such command (did you mean show?)"),
        (["users", "7f3a9c2b4d5e6f70"], "if you typed one, replace it"),
        (["users", "create", "bob", "--expire-in", "9d"], "did you mean --expires-in?"),
        (["users"], "create"),
        (["audit", "--limit", "0"], "--limit isn't a whole number of at least 1"),
        (["rotate-key", "--batch", "many"], "--batch isn't a whole number"),
        (["agents", "create", "a", "--owner"], "--owner needs a value"),
        (["agents", "create"], "USERNAME, --owner and --purpose are missing"),
        (["agents", "create", "x", "--owner=alice"], "error: --purpose is missing"),
        (["credentials", "put", "x"], "--kind and --created-by are missing"),
        (["users", "list", "--foo", "bar"], "no option --foo; available options: --json\n"),
        (["users", "list", "--jsn"], "there is no option --jsn (did you mean --json?)\n"),
        (["users", "list", "--password=x"], "--json. no command takes a secret"),
        (["users", "list", "-psecret"], "there is no such option. no command takes a secret"),
        (["check", "--deploy=yes"], "--deploy takes no value"),
        (["init", "#", "a", "key"], "your shell doesn't take # as a comment: leave it out"),
        (["init", "se-cr3t", "#", "a", "key"], "if you typed one, replace it"),
    ],
)
def test_what_cannot_be_read_is_said_in_the_commands_own_words(
    run: Run, words: list[str], says: str
) -> None:
    """The usage, one line of what is wrong, and where the help is."""
    done = run(*words)
    assert done.exit_code == 2
    assert says.lower() in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize(
    "words",
    [
        ["users", "add", "bob"],
        ["users"],
        ["audti"],
        ["users", "create"],
        ["init", "#", ".env", "with", "a", "new", "key"],
    ],
)
def test_a_typing_error_is_no_secret(run: Run, words: list[str]) -> None:
    """The advice to replace a secret is for words that may be one."""
    done = run(*words)
    assert done.exit_code == 2
    assert "secret" not in (done.stdout + done.stderr).partition("error:")[2]


@pytest.mark.parametrize(
    "name", ["hunter2=x", "sk-abcdefghijklmnop", "8f3a1b2c", "a" * 70, "é!", ""]
)
def test_a_field_is_a_name(run: Run, name: str) -> None:
    """What looks like a value is refused as a field's name, and not repeated."""
    done = run(*PUT_X, "--field", name, "--field", "other", stdin="one\ntwo\n")
    assert done.exit_code == 1
    assert "--field takes a field's name" in done.stderr
    assert not name or name not in done.stderr


@pytest.mark.parametrize(
    "name",
    ["user", "aws_secret_access_key", "oauth2-token", "x509.cert", "k8s_token", "clientSecret"],
)
def test_ordinary_names_are_made_of_words(name: str) -> None:
    """With a digit or two; these may be a field's name, and stand in messages."""
    assert is_wordy(name)


def test_a_whole_key_that_is_typed_for_its_id_is_not_repeated(ready: Run) -> None:
    """Who revokes a key has it in the clipboard, all of it."""
    key = told(ready("users", "create", "carol", "--json"))["api_key"]
    done = ready("users", "keys", "revoke", key, "--yes")
    assert done.exit_code == 1
    assert key[-20:] not in done.stderr
    assert "pipelit-agents users keys list" in done.stderr


@pytest.mark.parametrize(
    ("every", "says"),
    [
        ("0s", "at least 1s"),
        ("0d", "at least 1s"),
        ("-1s", "30s, 10m, 2h or 90d"),
        ("0.001s", "30s, 10m, 2h or 90d"),
        ("nan", "30s, 10m, 2h or 90d"),
        ("inf", "30s, 10m, 2h or 90d"),
        ("1", "30s, 10m, 2h or 90d"),
        ("31d", "at most 30d"),
        ("99999d", "at most 30d"),
        ("999999999999s", "30s, 10m, 2h or 90d"),
    ],
)
def test_seals_are_not_made_without_a_pause(run: Run, every: str, says: str) -> None:
    """An interval of nothing would seal as fast as it can; the least one is named."""
    done = run("audit", "seal", f"--every={every}")
    assert done.exit_code == 1
    assert "--every" in done.stderr
    assert says in done.stderr


def test_a_credential_is_sealed_from_standard_input(ready: Run) -> None:
    """The value comes from standard input, is masked everywhere, and is there afterwards."""
    secret = "sk-abcdefghijklmnop"
    put = ("credentials", "put", "openai", "--kind", "llm", "--created-by", "alice")
    done = ready(*put, "--public", "base_url=http://x", "--public", "n=1", stdin=secret + "\n")
    assert done.exit_code == 0, done.output
    (listed,) = told(ready("credentials", "list", "--json"))
    assert listed["masked"] == "…mnop"
    assert listed["public"] == {"base_url": "http://x", "n": 1}
    assert secret not in done.output
    with Pipelit.from_env() as pipelit:
        opened: list[str] = []

        @pipelit.credentials.inject(key="openai")
        def look(*, key: Any) -> None:
            opened.append(key.get_secret_value())

        look()
    assert opened == [secret]


def test_fields_are_read_one_by_one(ready: Run) -> None:
    """Each named field takes a line."""
    put = ("credentials", "put", "db", "--kind", "sql", "--created-by", "alice")
    done = ready(*put, "--field", "user", "--field", "password", stdin="bob\nhunter2hunter2\n")
    assert done.exit_code == 0, done.output
    assert told(ready("credentials", "show", "db", "--json"))["masked"] == "user=…, password=…ter2"


def test_put_and_show_name_the_parts_that_are_searched_for(ready: Run) -> None:
    """In words for a person, as lists in JSON, and a part that can't be is warned of."""
    put = ("credentials", "put", "db", "--kind", "sql", "--created-by", "alice")
    done = ready(*put, stdin="host=db.example.com user=svc password=hunter2 sslpassword=k3y-pass-7")
    for printed in (done, ready("credentials", "show", "db")):
        assert "  searched for: value, sslpassword\n" in printed.output
        assert "  not searched for: password, host, user\n" in printed.output
        assert "store it in a separate field" in printed.output
        assert "hunter2" not in printed.output
    assert "fewer than 8 characters (password)" in done.stderr
    shown = told(ready("credentials", "show", "db", "--json"))
    assert shown["searched"] == ["value", "sslpassword"]
    assert shown["unsearched"] == ["password", "host", "user"]
    plain = ready(*put, stdin="sk-abcdefghijklmnop")
    assert "  searched for: value\n" in plain.output
    assert "not searched for" not in plain.output


@pytest.mark.parametrize("stdin", ["one", "one\n", "one\n\n", "one\ntwo\nthree\n"])
def test_each_field_needs_its_line(ready: Run, stdin: str) -> None:
    """A line that is missing or left over is refused, and nothing is sealed."""
    put = ("credentials", "put", "db", "--kind", "sql", "--created-by", "alice")
    done = ready(*put, "--field", "user", "--field", "password", stdin=stdin)
    assert done.exit_code == 1
    assert "standard input" in done.stderr or "the input is empty" in done.stderr
    assert "one" not in done.stderr.replace("one for each", "")
    assert told(ready("credentials", "list", "--json")) == []


def test_bytes_are_not_sealed_as_something_else(folder: Path, ready: Run) -> None:
    """What is no text is refused, and no byte of it is repeated."""
    put = ["credentials", "put", "b", "--kind", "k", "--created-by", "alice"]
    done = typed(*put, stdin=b"secret\xff\xfe")
    assert done.exit_code == 1
    assert "base64" in done.stderr
    assert "secret" not in done.stderr
    assert "ff" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("1", 1),
        ('{"a": [true, null]}', {"a": [True, None]}),
        ("http://x?a=b", "http://x?a=b"),
        ("", ""),
        ("NaN", "NaN"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_a_public_field_is_json_or_text(ready: Run, typed: str, kept: object) -> None:
    """What parses as JSON is kept as that, and anything else as the text it is."""
    put = ("credentials", "put", "x", "--kind", "k", "--created-by", "alice", "--json")
    assert told(ready(*put, "--public", f"f={typed}", stdin="s"))["public"] == {"f": kept}


@pytest.mark.parametrize(
    ("listing", "named"),
    [
        (None, []),
        ("*.pyc\n", [".env", ".pipelit"]),
        (".env\n", [".pipelit"]),
        ("/.env*\n.pipelit/\n", []),
    ],
)
def test_init_warns_of_what_git_would_take(
    run: Run, folder: Path, listing: str | None, named: list[str]
) -> None:
    """A .gitignore that leaves out the key or the database is told of, and not changed."""
    if listing is not None:
        (folder / ".gitignore").write_text(listing)
    warning = told(run("init", "--json")).get("warning", "")
    assert [name for name in (".env", ".pipelit") if name in warning.split(":")[0]] == named
    if listing is not None:
        assert (folder / ".gitignore").read_text() == listing


def test_a_folder_of_git_without_a_list_is_warned_too(run: Run, folder: Path) -> None:
    """Where git is and no .gitignore, everything would be taken."""
    (folder / ".git").mkdir()
    assert "git may add .env and .pipelit" in told(run("init", "--json"))["warning"]
    assert not (folder / ".gitignore").exists()


def test_init_keeps_a_key_of_the_environment(
    run: Run, folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is set outside needs no .env."""
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    done = run("init")
    assert done.exit_code == 0
    assert key not in done.output
    assert not (folder / ".env").exists()


@pytest.mark.parametrize("words", [["user"], ["users", "create"], ["users", "create", "x", "--no"]])
def test_what_is_no_command_ends_with_2(run: Run, words: list[str]) -> None:
    """A usage error is told apart from a refusal, and says so on standard error only."""
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    ("path", "command"),
    [pair for pair in EVERY if "--yes" in {o for p in pair[1].params for o in p.opts}],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_nothing_is_destroyed_unasked(ready: Run, path: tuple[str, ...], command: Any) -> None:
    """Without a terminal and without --yes it is refused, and in JSON where that was asked for."""
    put = ready("credentials", "put", "alice", *PUT_X[3:], stdin="a-secret-value")
    assert put.exit_code == 0
    (key,) = json.loads(ready("users", "keys", "list", "alice", "--json").stdout)
    words = {"prune": ["--before", "90d"], "forget": [], "revoke": [key["id"]]}
    done = ready(*path, *words.get(path[-1], ["alice"]), "--json")
    assert done.exit_code == 1
    assert "--yes" in json.loads(done.stdout)["error"]["message"]


def test_what_destroys_asks() -> None:
    """Each command whose name says that something ends has --yes, and so asks without it."""
    ending = {path for path, _ in EVERY if path and path[-1] in ENDING}
    asking = {path for path, c in EVERY if "--yes" in {o for p in c.params for o in p.opts}}
    assert ending == asking
    assert len(ending) == 7


@pytest.mark.parametrize(
    ("path", "command"),
    [pair for pair in EVERY if not hasattr(pair[1], "commands") and pair[0] not in ALWAYS_WORK],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_command_fails_in_one_document(
    run: Run, path: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can work, each command prints one JSON document and ends with 1."""
    monkeypatch.setenv("PIPELIT_DATABASE_URL", "nonsense")
    words = ["NoName" for parameter in command.params if parameter.param_type_name == "argument"]
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.required:
            words += [parameter.opts[0], "90d" if parameter.name == "before" else "x"]
    if path == ("demo",):
        words += ["--input", "nothing.txt"]
    if "--yes" in {option for parameter in command.params for option in parameter.opts}:
        words += ["--yes"]
    done = run(*path, *words, "--json", stdin="12345678")
    assert done.exit_code == 1
    assert set(json.loads(done.stdout)["error"]) == {"type", "message"}
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["users", "create", "Alice"], "lower-case letters a-z, digits and the characters _ . -"),
        (["users", "create", "alice"], "already"),
        (["users", "show", "nobody"], "no account 'nobody'"),
        (["users", "deactivate", "alice"], "--yes"),
        (["credentials", "delete", "nothing", "--yes"], "no credential 'nothing'"),
        (["credentials", "put", "x", "--kind", "k", "--created-by", "alice"], "pipe it in"),
        (["agents", "rotate-totp", "agent_writer", "--overlap", "soon"], "10m"),
        (["users", "keys", "revoke", "nokey", "--yes"], "pipelit-agents users keys list"),
        (
            [*PUT_X, "--public", "x"],
            "key",
        ),
        (
            [*PUT_X, "--public", "x=1", "--public", "x=2"],
            "--public 2 has the same name as --public 1",
        ),
        (
            [*PUT_X, "--field", "a", "--field", "a"],
            "--field 2 has the same name as --field 1",
        ),
        (["code", "alice"], "is a person"),
        (["code", "nobody"], "pipelit-agents agents create nobody"),
        (["demo", "--input", "nothing.txt"], "--input"),
        (["demo", "--model", "gpt"], "provider:name"),
    ],
)
def test_what_is_typed_wrong_is_told_in_one_line(ready: Run, words: list[str], says: str) -> None:
    """No traceback: a line on standard error that names the fix, and exit code 1."""
    done = ready(*words)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_errors_are_json_too(ready: Run) -> None:
    """With --json a failure is a document on standard output."""
    done = ready("code", "nobody", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["type"] == "UserNotFound"


def test_a_purpose_cannot_drive_the_terminal(ready: Run) -> None:
    """Markup and control characters in what others wrote are shown, not obeyed."""
    purpose = ":smile: [red]x[/] \x1b[31m\r \u202e end\\"
    ready("agents", "create", "agent_z", "--owner", "alice", "--purpose", purpose)
    done = ready("agents", "list")
    assert ":smile: [red]x[/]" in done.stdout
    assert "\u202e" not in done.stdout
    assert "end\\ " in done.stdout
    assert "\x1b" not in done.stdout
    assert "\\x1b[31m" in done.stdout


def test_deactivating_an_owner_ends_its_agents(ready: Run) -> None:
    """The answer names every account that ended."""
    ended = told(ready("users", "deactivate", "alice", "--yes", "--json"))
    assert ended == {"deactivated": ["agent_editor", "agent_writer", "alice"]}


def test_unlock_and_rotate_say_what_they_did(ready: Run) -> None:
    """An operator's two fixes work from the command line."""
    assert told(ready("agents", "unlock", "agent_writer", "--json")) == {"unlocked": "agent_writer"}
    uri = told(ready("agents", "rotate-totp", "agent_writer", "--json"))["provisioning_uri"]
    assert uri.startswith("otpauth://totp/")


@pytest.mark.process
def test_help_and_version_are_quick_to_load(folder: Path) -> None:
    """Neither loads LangGraph, LangChain or Alembic."""
    code = (
        "import sys\n"
        "from pipelit_agents.cli import app\n"
        "try:\n    app([sys.argv[1]])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print([m for m in ('langgraph', 'langchain_core', 'alembic') if m in sys.modules])"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, option], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().endswith("[]")


def test_init_never_makes_a_second_key_beside_sealed_values(ready: Run, folder: Path) -> None:
    """A lost key is told, and no new one is made that couldn't open what is there."""
    (folder / ".env").unlink()
    done = ready("init")
    assert done.exit_code == 1
    assert "restore the key that encrypted them" in done.stderr
    assert not (folder / ".env").exists()


def test_init_tries_the_key_that_is_there(ready: Run, folder: Path) -> None:
    """A key that isn't the database's is told by init, not by the first command after it."""
    (folder / ".env").write_text(f"FIELD_ENCRYPTION_KEY={Keyring.generate_key()}\n")
    assert "can't decrypt" in ready("init").stderr


def test_a_code_can_be_piped(ready: Run) -> None:
    """Where there is no terminal, `code` prints the code alone, as `verify` reads it."""
    code = ready("code", "agent_writer", "--audience", "agent_editor").stdout
    assert ready("verify", "agent_editor", "agent_writer", stdin=code).exit_code == 0


def test_an_env_file_that_cannot_be_read_is_named(run: Run, folder: Path) -> None:
    """An env file that is no text is one line, not a traceback."""
    (folder / ".env").write_bytes(b"FIELD_ENCRYPTION_KEY=\xff\xfe")
    for words in (["init"], ["users", "list"]):
        done = run(*words)
        assert done.exit_code == 1
        assert done.stderr.startswith("error: .env exists but can't be read")


def test_of_many_at_once_one_makes_the_key(folder: Path) -> None:
    """Twelve threads that all find no key leave one."""
    gate = threading.Barrier(12)

    def make(_: int) -> Path | None:
        gate.wait(10)
        return ensure_key(folder / ".env")

    with ThreadPoolExecutor(12) as pool:
        made = [each for each in pool.map(make, range(12)) if each]
    assert len(made) == 1
    assert (folder / ".env").read_text().count("FIELD_ENCRYPTION_KEY=") == 1


def test_an_accounts_first_key_may_end(ready: Run) -> None:
    """As documented: with --expires-in on both kinds of account."""
    ready("users", "create", "bob", "--expires-in", "90d")
    words = ("--owner", "bob", "--purpose", "x", "--expires-in", "1d")
    ready("agents", "create", "agent_bobs", *words)
    for name in ("bob", "agent_bobs"):
        (key,) = told(ready("users", "keys", "list", name, "--json"))
        assert key["expires_at"]
    assert "duration" in ready("users", "create", "eve", "--expires-in", "soon").stderr


def test_a_redis_without_its_package_is_said(ready: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is missing, the command says which, and shows no traceback."""
    monkeypatch.setenv("PIPELIT_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "redis", None)
    done = ready("verify", "agent_editor", "agent_writer", stdin="12345678")
    assert done.exit_code == 1
    assert "pip install 'pipelit-agents[redis]'" in done.stderr


def test_an_outcome_that_there_isnt_is_refused(ready: Run) -> None:
    """A typing mistake isn't an empty list."""
    assert "'ok' or 'refused'" in ready("audit", "--outcome", "bad").stderr
    assert "or a time" in ready("audit", "--since", "yesterday").stderr


# What was typed where a name belongs


def test_what_was_refused_for_its_form_is_not_repeated(ready: Run) -> None:
    """Neither our own codes and keys nor a password is in an error, in JSON or not."""
    commands = (
        "mfa disable {}",
        "mfa disable {} --json",
        "code {}",
        "users unlock alice --lane {}",
        "users unlock alice --lane={}",
        "users create bob --expires-in {}",
        "credentials show {}",
    )
    for name in (
        "KQZW-TRMA-BXUE-NP27",
        "kqzw-trma-bxue-npqr",
        "JBSW Y3DP EHPK 3PXP JBSW YDPE HPKA PXPJ",
        "493 017",
        "Summerday",
        "Correct horse",
    ):
        for command in commands:
            done = ready(*(each.format(name) for each in command.split()))
            assert done.exit_code != 0
            assert name not in done.output + done.stderr


def test_the_note_about_a_secret_is_there_whatever_else_is_wrong(ready: Run) -> None:
    """More arguments than are taken, or no ordinary word: it is to be replaced."""
    for words in (
        ("credentials", "put", "openai", "sk-proj-9fK2xQ7bLm4RtY8wVz3N"),
        ("credentials", "put", "openai", "hunter"),
        ("credentials", "put", "sk-proj-9fK2xQ7bLm4RtY8wVz3N", "--kind"),
        ("credentials", "put", "openai", "--kind", "llm", "--created-by", "alice", "--value", "x"),
        ("agents", "enroll", "QkFTRTY0LXRleHQtdGhhdC1pcy1sb25n"),
        ("users", "create", "alice", "bob", "--expires-in"),
        ("mfa", "disable", "--json", "alice", "KQZW-TRMA-BXUE-NP27"),
    ):
        done = ready(*words)
        assert done.exit_code == 2
        assert "replace it" in done.stderr
        assert "sk-proj" not in done.stderr


def test_the_note_is_not_there_for_ordinary_words(ready: Run) -> None:
    """A forgotten option says that alone."""
    for words in (
        ("credentials", "put", "openai"),
        ("credentials", "put", "openai", "--nothing"),
        ("agents", "create", "--owner", "alice", "x"),
    ):
        assert "replace it" not in ready(*words).stderr


def test_no_label_of_a_credential_is_a_secret(ready: Run) -> None:
    """Labels are stored in clear and listed, so a secret in its place is refused, unrepeated."""
    for option in ("--kind", "--created-by", "--allow", "NAME"):
        for secret in ("sk-proj-9fK2xQ7bLm4RtY8wVz3N", "KQZW-TRMA-BXUE-NP27"):
            labels = {"--kind": "llm", "--created-by": "alice"}
            labels |= {option: secret} if option != "NAME" else {}
            name = secret if option == "NAME" else "openai"
            words = [word for pair in labels.items() for word in pair]
            done = ready("credentials", "put", name, *words, stdin="s3cret-value-1")
            assert done.exit_code == 1
            assert (option in done.stderr, secret in done.stderr) == (True, False)
    assert told(ready("credentials", "list", "--json")) == []


def test_labels_of_people_and_machines_are_taken(ready: Run) -> None:
    """Names in any language, addresses and small numbers are no secrets."""
    for by in ("alice", "alice@example.org", "Zoë Müller", "ci-job-42", "岡田"):
        put = ("credentials", "put", "x", "--kind", "llm", "--created-by", by)
        assert ready(*put, stdin="s3cret-value-1").exit_code == 0


def test_testing_a_credential_has_an_exit_code_for_each_outcome(ready: Run) -> None:
    """0 for good, 1 for not good, 3 for untested; an agent may be named, and nothing is asked."""
    words = ("--created-by", "alice", "--allow", "agent_writer")
    key, seed = "sk-proj-Zq81LmTc40Vx93Rb", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    for secret, more, outcome, code in (
        (f"otpauth://totp/acme:ann?secret={seed}", ("totp",), "good", 0),
        (key, ("api", "--public", "test_url=http://crm.example.com"), "unanswered", 1),
        (key, ("api",), "untested", 3),
    ):
        put = ready("credentials", "put", "crm", *words, "--kind", *more, stdin=secret)
        assert put.exit_code == 0
        done = ready("credentials", "test", "crm", "--agent", "agent_writer", "--json")
        assert (done.exit_code, json.loads(done.stdout)["outcome"]) == (code, outcome)
        shown = ready("credentials", "test", "crm", "--agent", "agent_writer")
        assert f"  outcome: {outcome}\n" in shown.stdout
        assert not {each for each in (key, seed) if each in done.output + shown.output}
    done = ready("credentials", "test", "crm")
    assert done.exit_code == 1
    assert "no agent was passed" in done.stderr


def test_a_persons_own_credentials_by_command(ready: Run) -> None:
    """They are stored, listed, shown, counted at deactivation, and deleted all at once."""
    of_alice, put = ("--person", "alice"), ("credentials", "put")
    words = ("--kind", "api", "--created-by", "alice")
    for name in ("github", "gitlab"):
        made = told(ready(*put, name, *words, *of_alice, "--json", stdin="own-0123456789-abcd"))
        assert made["person"] == "alice"
    assert "1 person has own credentials" in ready("credentials", "list").stdout
    assert ready(*put, "github", *words, stdin="shared-0123456789-ef").exit_code == 0
    (shared,) = told(ready("credentials", "list", "--json"))
    assert (shared["person"], shared["masked"]) == (None, "…9-ef")
    assert [each["name"] for each in told(ready("credentials", "list", *of_alice, "--json"))] == [
        "github",
        "gitlab",
    ]
    assert told(ready("credentials", "show", "gitlab", *of_alice, "--json"))["masked"] == "…abcd"
    missing = ready("credentials", "show", "gitlab")
    assert missing.exit_code == 1
    assert "no credential 'gitlab'" in missing.output
    refused = ready(*put, "github", *words, "--person", "agent_writer", stdin="own-0123456789-abcd")
    assert "isn't a person" in refused.output
    assert ready("credentials", "delete", "gitlab", *of_alice, "--yes").exit_code == 0
    ended = ready("users", "deactivate", "alice", "--yes")
    assert "credentials list --person alice" in ended.output
    assert "credentials delete --all --person alice" in ended.output
    for wrong in (("--all",), ("github", "--all", *of_alice), ()):
        assert ready("credentials", "delete", *wrong, "--yes").exit_code == 1
    done = ready("credentials", "delete", "--all", *of_alice, "--yes", "--json")
    assert told(done) == {"deleted": 1, "person": "alice"}
    assert told(ready("credentials", "list", *of_alice, "--json")) == []
    assert len(told(ready("credentials", "list", "--json"))) == 1
    entries = ready("audit", "--person", "alice", "--json").stdout.splitlines()
    assert {json.loads(each)["action"] for each in entries} == {
        "credential.put",
        "credential.delete",
    }


# Typing errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["enroll", "alice"], "did you mean agents enroll or mfa enroll?"),
        (["list"], "did you mean users list, users keys list or agents list?"),
        (["users", "rotate-totp"], "did you mean agents rotate-totp?"),
        (["users", "delete", "bob"], "did you mean deactivate?"),
        (["credentials", "remove", "x"], "did you mean delete?"),
        (["approvals", "reject", "ID"], "did you mean deny?"),
        (["mfa", "list"], "did you mean status?"),
        (["audit", "list"], "did you mean pipelit-agents audit, without a command?"),
        (["users", "create", "bob", "--role", "boss"], "--role isn't operator or member"),
        (["credentials", "test", "x", "--timeout", "ten"], "isn't a whole number, such as 10"),
        (["desk", "--port", "99999"], "at most 65535, such as 8440"),
    ],
)
def test_a_typing_error_names_what_was_meant(run: Run, words: list[str], says: str) -> None:
    """A command of another group, the values of an option, and an example of a number."""
    done = run(*words)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "rotate-key" not in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["agents", "create", "Agent", "--owner", "x", "--purpose", "x"], "error: USERNAME "),
        (["users", "role", "alice", "boss"], "error: ROLE must be"),
        (["audit", "--outcome", "bad"], "error: --outcome must be"),
        (["users", "unlock", "alice", "--lane", "foo"], "pipelit-agents users lanes lists them"),
        (["credentials", "list", "--person", "nobody"], "error: --person: there is no account"),
        (["users", "create", "alice"], "pipelit-agents users show alice"),
        (["users", "show", "nobody"], "an agent with pipelit-agents agents create"),
        (["desk", "--public-url", "desk.example"], "error: --public-url: it must be the address"),
        (["desk", "--behind-proxy", "proxy"], "error: --behind-proxy: each must be an address"),
        (["verify", "agent_editor", "agent_writer"], "code agent_writer --audience agent_editor"),
    ],
)
def test_an_error_names_options_and_commands(ready: Run, words: list[str], says: str) -> None:
    """Those of the terminal, not the library's arguments and methods."""
    done = ready(*words, stdin="12345678")
    assert done.exit_code == 1
    assert says in done.stderr
