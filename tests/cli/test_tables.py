"""Every table of the commands fits 80 columns, with long values and with none."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from command_line import root, typed
from rich.cells import cell_len
from test_mfa import app_of

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.cli.tables import Column, columns_of, show_table
from pipelit_agents.errors import CodeRejected

WIDTH = 80
# 149 characters, which is the most.
LONG = "agent." + "with-a-long_name." * 8 + "x" * 7
OTHER = "b" * 149
TEXT = "reads the incoming invoices, compares them with the orders, and asks a person " * 6
FOREIGN = "岡田さんの請求書を読む" * 20
FILE = f"""
secrets: keys
people: {{carol: {{keys: {{laptop: {{}}}}}}}}
agents: {{{"c" * 149}: {{owner: carol, purpose: "{TEXT}"}}}}
"""
HOOK = ["--webhook", "http://127.0.0.1:9/x", "--credential", "hook"]
# Each command that prints a table: its words, and the fields whose values other commands take.
TABLES: dict[tuple[str, ...], tuple[list[str], set[str]]] = {
    ("users", "list"): ([], {"username", "owner"}),
    ("agents", "list"): ([], {"username", "owner"}),
    ("users", "keys", "list"): ([LONG], {"id"}),
    ("users", "lanes"): ([LONG], {"lane"}),
    ("agents", "lanes"): ([LONG], {"lane"}),
    ("credentials", "list"): ([], {"name"}),
    ("approvals", "list"): ([], {"id", "asked_by"}),
    ("approvals", "notify"): (HOOK, {"id"}),
    ("audit",): (["--limit", "500"], {"actor", "subject", "action"}),
    ("apply",): (["accounts.yaml", "--dry-run"], {"name"}),
}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be run, with its words."""
    if not hasattr(command, "commands") or (path and command.invoke_without_command):
        yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))


def names_in(code: CodeType) -> Iterator[str]:
    """The names that a function's code uses, those of inner functions included."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from names_in(each)


def prints_a_table(function: Any, seen: set[Any] | None = None) -> bool:
    """Whether a function calls ``show_table``, itself or by functions of the commands."""
    function, seen = inspect.unwrap(function), seen or set()
    if function is show_table or function in seen:
        return function is show_table
    seen.add(function)
    return any(
        isinstance(found := function.__globals__.get(name), FunctionType)
        and found.__module__.startswith("pipelit_agents.cli")
        and prints_a_table(found, seen)
        for name in names_in(function.__code__)
    )


def test_every_table_is_tried() -> None:
    """A command that prints a table is in the list above, and no other is."""
    found = {path for path, command in leaves(root()) if prints_a_table(command.callback)}
    assert found == set(TABLES)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The database and its key: accounts with long names, and what tables show of them."""
    file, key = tmp_path_factory.mktemp("tables") / "agents.db", Keyring.generate_key()
    with Pipelit(database_url=f"sqlite:///{file}", encryption_keys=[key]) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        pipelit.users.create(OTHER)
        pipelit.users.create_agent(LONG, owner=OTHER, purpose=TEXT)
        pipelit.users.create_agent("agent_short", owner=LONG, purpose=FOREIGN)
        pipelit.users.create_agent("agent_gone", owner="alice", purpose="x" * 120)
        pipelit.users.deactivate("agent_gone")
        # Nobody's owner, so it is only listed as itself.
        pipelit.users.create_agent("d" * 149, owner="alice", purpose="x")
        pipelit.users.issue_api_key(LONG, name="a laptop with a long name " * 4)
        for _ in range(2):
            with pytest.raises(CodeRejected):
                pipelit.agent("agent_short").verify_peer(LONG, "12345678")
        value, made = "whsec_" + "QUJD" * 10, {"created_by": "alice"}
        pipelit.credentials.put("hook", value, kind="webhook", **made)
        public = {"base_url": f"https://example.com/{'long/' * 30}", "note": TEXT}
        pipelit.credentials.put(
            LONG, value, kind="k" * 60, public=public, allow=[LONG, OTHER, "agent_short"], **made
        )
        for name in ("alice", OTHER):
            pipelit.mfa.confirm(name, app_of(pipelit.mfa.enroll(name)).now())
        pipelit.approvals.request({"note": TEXT}, approvers=["alice"], asked_by=LONG)
        pipelit.approvals.request(FOREIGN, approvers=[OTHER], asked_by="alice")
    return file, key


@pytest.fixture
def command(
    filled: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command where the long values are; its terminal has 80 columns."""
    file, key = filled
    copy = tmp_path / "agents.db"
    copy.write_bytes(file.read_bytes())
    copy.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("FIELD_ENCRYPTION_KEY", key),
        ("PIPELIT_DATABASE_URL", f"sqlite:///{copy}"),
        ("COLUMNS", str(WIDTH)),
    ):
        monkeypatch.setenv(name, value)
    Path("accounts.yaml").write_text(FILE)

    def run(*words: str) -> str:
        done = typed(*words)
        assert not done.stderr, done.stderr
        return done.stdout

    return run


def ids_of(told: str, fields: set[str]) -> set[str]:
    """The values in a JSON document, or in lines of them, that another command takes."""
    documents = json.loads(told) if told.startswith("[") else map(json.loads, told.splitlines())
    return {each[name] for each in documents for name in fields if each[name]}


def require_fitting(shown: str) -> None:
    """Require that no line is too wide, but for a single name that fills it."""
    for line in shown.splitlines():
        assert cell_len(line) <= WIDTH or re.fullmatch(r" *[a-z0-9_.:-]{70,}", line), line


@pytest.mark.parametrize("path", TABLES, ids=" ".join)
def test_long_values_fit(command: Callable[..., str], path: tuple[str, ...]) -> None:
    """No line is wider than the terminal, and every name and id is whole."""
    words, fields = TABLES[path]
    shown = command(*path, *words)
    require_fitting(shown)
    expected = ids_of(command(*path, *words, "--json"), fields)
    if path == ("approvals", "notify"):
        # What failed is due later, so nothing was sent again.
        expected = set(re.findall(r"apr_[0-9a-f]{32}", shown))
    assert expected
    assert not {each for each in expected if each not in shown}
    assert "\x1b" not in shown
    if path == ("approvals", "list"):
        require_fitting(command(*path, "--all"))


def test_no_rows_are_a_sentence(command: Callable[..., str], tmp_path: Path) -> None:
    """Where nothing is, each command says so in words, in one or two lines that fit."""
    (tmp_path / "agents.db").unlink()
    Path("accounts.yaml").write_text("people: {}\n")
    with Pipelit.from_env() as pipelit:
        pipelit.create_schema()
        for path, (words, _) in TABLES.items():
            if LONG in words or path == ("approvals", "notify"):
                continue
            shown = command(*path, *words)
            require_fitting(shown)
            assert re.match("There are no |Everything fits|No question waits", shown), shown
        # What can't be asked about nobody.
        pipelit.users.create("alice")
        pipelit.credentials.put("hook", "whsec_" + "QUJD" * 10, kind="k", created_by="alice")
    assert command("users", "lanes", "alice").startswith("No code of alice has failed")
    assert command("approvals", "notify", *HOOK) == "No notice is due.\n"
    require_fitting(command("users", "keys", "list", "alice"))


def table(capsys: pytest.CaptureFixture[str], rows: list[dict[str, object]], *columns: Any) -> str:
    """What is printed of rows."""
    show_table(rows, columns_of(*columns), as_json=False)
    return capsys.readouterr().out


def test_a_column_that_says_nothing_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its blank value means something, a line below the table says it once."""
    monkeypatch.setenv("COLUMNS", "80")
    columns = Column("id", "id"), "expires_at", "note", Column("active", usual="yes")
    rows = [{"id": each, "expires_at": None, "note": "", "active": True} for each in "ab"]
    shown = table(capsys, rows, *columns)
    assert shown == "  id\n  ──\n  a\n  b\nIn every row: expires: never; active: yes.\n"
    rows[0] |= {"active": False, "note": "n"}
    shown = table(capsys, rows, *columns)
    assert re.search(r"^ +a +n +no$", shown, re.MULTILINE)
    assert re.search(r"^ +b +none +yes$", shown, re.MULTILINE)


@pytest.mark.slow
def test_each_width_of_names_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a table as long as it fits, and then as blocks; a name is whole in both."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    columns = (
        Column("username", "id", head=True),
        Column("owner", "id"),
        "purpose",
        Column("n", "cut"),
    )
    for length in range(1, 150):
        names = "a" * length, "b" * (length // 2 + 1)
        row = {
            "username": names[0],
            "owner": names[1],
            "purpose": TEXT,
            "n": FOREIGN[: length // 3],
        }
        shown = table(capsys, [row], *columns)
        require_fitting(shown)
        assert all(name in shown.split() for name in names), shown


def test_a_value_draws_no_other_field_and_hides_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purpose, which an agent may have chosen, can't look like the rest of its row."""
    columns = Column("username", "id", head=True), Column("owner", "id"), "purpose"
    purpose = "x  owner: alice" + "\x1b[31m" + "\u3164\u2800\ufe0f\u202e" + "a" + "\u0301" * 9
    row: dict[str, object] = {"username": "agent_x", "owner": "mallory", "purpose": purpose}
    for width in (40, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = table(capsys, [row], *columns)
        assert "  owner: alice" not in shown
        escaped = r"x\u0020owner:alice\x1b[31m\u3164\u2800\ufe0f\u202ea"
        assert escaped in "".join(shown.split())
        assert shown.count("\u0301") == 4


@pytest.mark.parametrize("width", range(1, 9))
def test_no_terminal_is_too_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Every character of a text is printed, and none of them ends the command."""
    monkeypatch.setenv("COLUMNS", str(width))
    row: dict[str, object] = {"username": "agent_x", "purpose": "reads宽letters"}
    shown = table(capsys, [row], Column("username", "id", head=True), "purpose")
    assert "reads宽letters" in "".join(shown.split())


def test_a_terminal_gets_colours_unless_it_wants_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the demo: what was refused is red."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows: list[dict[str, object]] = [{"outcome": "refused"}, {"outcome": "ok"}]
    shown = table(capsys, rows, "outcome")
    assert "\x1b[31mrefused" in shown
    assert "\x1b[32mok" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[3", table(capsys, rows, "outcome"))
