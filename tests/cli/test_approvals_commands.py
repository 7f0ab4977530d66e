"""``pipelit-agents approvals``: who may do what is displayed exactly, answered, and looked up."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from command_line import root, typed
from terminal import Terminal
from test_mfa import app_of
from typer.testing import Result

from pipelit_agents import Approvers, Keyring, Pipelit
from pipelit_agents.approvals.calls import Call
from pipelit_agents.exact import exact_json, exact_line, warnings

PAYMENT = {"pay": 90, "to": "bob"}
CALL = Call("send_money", PAYMENT, "call_1", "thread_1", "ns", "agent_writer")


@dataclass
class Office:
    """A database with alice and bob, what opens it, and their recovery codes."""

    file: Path
    key: str
    codes: dict[str, list[str]] = field(default_factory=dict)

    def open(self) -> Pipelit:
        """The library, beside the commands."""
        return Pipelit(database_url=f"sqlite:///{self.file}", encryption_keys=[self.key])

    def ask(self, what: object = PAYMENT, *people: str, **options: Any) -> str:
        """The id of a question."""
        with self.open() as pipelit:
            asked = pipelit.approvals.request(what, approvers=people or ["alice"], **options)
        return asked.id

    def call(self, rule: Approvers) -> str:
        """The id of the question of a tool call."""
        with self.open() as pipelit:
            return pipelit.approvals.calls.ask(CALL, rule).id

    def start(self, rule: Approvers) -> None:
        """Use the approval of the tool call up."""
        with self.open() as pipelit:
            pipelit.approvals.calls.start(CALL, rule)

    def code(self, name: str) -> str:
        """A code that nobody has used; those of an app would have to wait for the next one."""
        return self.codes[name].pop()

    def steal(self, statement: str, *values: object) -> None:
        """Change a row as somebody could who has the database and not the key."""
        with closing(sqlite3.connect(self.file)) as connection, connection:
            assert connection.execute(statement, values).rowcount > 0, statement


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Enrolling people takes longer than most tests, so it is done once."""
    made = Office(tmp_path_factory.mktemp("office") / "agents.db", Keyring.generate_key())
    with made.open() as pipelit:
        pipelit.create_schema()
        for name in ("alice", "bob"):
            pipelit.users.create(name)
            app = app_of(pipelit.mfa.enroll(name))
            codes = pipelit.mfa.confirm(name, app.now())
            made.codes[name] = [code.get_secret_value() for code in codes]
        pipelit.users.create("carol")
    return made


@pytest.fixture
def office(furnished: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """A copy, in the environment of the commands; their terminal has 80 columns."""
    file = tmp_path / "agents.db"
    copyfile(furnished.file, file)
    file.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", furnished.key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{file}")
    monkeypatch.setenv("COLUMNS", "80")
    codes = {name: list(each) for name, each in furnished.codes.items()}
    return Office(file, furnished.key, codes)


def approvals(*words: str, stdin: str = "") -> Result:
    """Type one of the commands."""
    return typed("approvals", *words, stdin=stdin)


def document(done: Result) -> Any:
    """The one JSON document that a command printed."""
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


# List and show


def test_what_waits_is_listed_in_80_columns(office: Office) -> None:
    """The id is complete, so that it can be copied; the rest is folded or cut."""
    asker = "agent_" + "x" * 60
    found = [
        office.ask({"note": "y" * 300}, asked_by=asker, thread="thread_7"),
        office.ask("pay 90", "bob"),
    ]
    done = approvals("list")
    assert "thread_7" in done.stdout
    assert "asked: " in done.stdout
    assert done.exit_code == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
    assert all(each in done.stdout for each in found)
    assert [each["id"] for each in document(approvals("list", "--json"))] == found
    assert [each["id"] for each in document(approvals("list", "--user", "bob", "--json"))] == [
        found[1]
    ]


def test_a_question_whose_program_ended_can_be_ended(office: Office) -> None:
    """The list can't tell which questions those are, so it says how."""
    office.ask()
    assert "To end one: pipelit-agents approvals deny ID --user NAME" in approvals("list").stdout
    assert "approvals deny" not in approvals("list", "--all").stdout
    assert approvals("list", "--user", "bob").stdout.startswith(
        "No question waits for an answer of"
    )


def test_a_question_is_shown_with_its_answers(office: Office) -> None:
    """What is asked comes exactly, then by whom, until when, and who answered with which factor."""
    found = office.ask(PAYMENT, "alice", "bob", thread="t1", asked_by="carol")
    assert approvals("approve", found, "--user", "bob", stdin=office.code("bob")).exit_code == 0
    done = approvals("show", found)
    assert done.stdout.startswith('{\n  "pay": 90,\n  "to": "bob"\n}\n')
    assert "asked by: carol" in done.stdout
    assert "Z: alice, bob (one of them)" in done.stdout
    assert "approved by bob at " in done.stdout
    assert "with a recovery code" in done.stdout
    shown = document(approvals("show", found, "--json"))
    assert (shown["shown"], shown["state"], shown["thread"]) == (PAYMENT, "approved", "t1")
    assert [(each["actor"], each["factor"]) for each in shown["decisions"]] == [("bob", "recovery")]


def test_an_unknown_question_names_the_list(office: Office) -> None:
    """As does one that our keys didn't tag."""
    done = approvals("show", f"apr_{'0' * 32}")
    assert done.exit_code == 1
    assert "see: pipelit-agents approvals list" in done.stderr
    found = office.ask()
    office.steal("UPDATE pipelit_approvals SET approvers = '[\"bob\"]'")
    done = approvals("show", found, "--json")
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "ApprovalNotFound"
    # An id is no secret: the message repeats it.
    assert found in error["message"]
    assert "was changed" in error["message"]


# Approve and deny


def test_the_person_sees_it_before_the_code_is_read(office: Office) -> None:
    """On standard error, so that standard output is one document."""
    found = office.ask()
    done = approvals("approve", found, "--user", "alice", "--json", stdin=office.code("alice"))
    decided = document(done)
    assert (decided["decision"], decided["actor"], decided["factor"], decided["proven"]) == (
        "approved",
        "alice",
        "recovery",
        True,
    )
    assert done.stderr.startswith('{\n  "pay": 90')
    assert f"digest: {decided['digest']}" in done.stderr
    with office.open() as pipelit:
        assert pipelit.approvals.require(decided["digest"], approvers=["alice"]).actor == "alice"


@pytest.mark.process
def test_a_wrong_code_is_asked_for_again(office: Office) -> None:
    """At a terminal, twice; the question is displayed once, and the answer is in words."""
    terminal = Terminal("approvals", "approve", office.ask(), "--user", "alice")
    shown = terminal.until("Code: ")
    assert '"pay": 90' in shown
    # Nothing to scroll back to.
    assert "length" not in shown
    for wrong, said in (("", "no code was typed"), ("000000", "not accepted")):
        terminal.type(f"{wrong}\n")
        assert said in terminal.until("Code: ")
    terminal.type(f"{office.code('alice')}\n")
    code, rest = terminal.end()
    assert code == 0, rest
    assert "with: a recovery code" in rest
    assert terminal.seen.count('"pay": 90') == 1


@pytest.mark.process
def test_the_third_wrong_code_ends_the_command(office: Office) -> None:
    """Somebody who tries out codes has to begin again, and the question stays open."""
    question = office.ask()
    terminal = Terminal("approvals", "deny", question, "--user", "alice")
    for _ in range(3):
        terminal.until("Code: ")
        terminal.type("000000\n")
    code, rest = terminal.end()
    assert code == 1
    assert "error: " in rest
    with office.open() as pipelit:
        assert pipelit.approvals.get(question).state == "pending"


def test_a_denial_has_a_reason(office: Office) -> None:
    """It ends the question; the reason is shown with its odd characters escaped, once."""
    found = office.ask()
    code = office.code("alice")
    reason = 'Größer\u202eals "gut"'
    done = approvals("deny", found, "--user", "alice", "--reason", reason, stdin=code)
    assert done.exit_code == 0
    done = approvals("show", found)
    assert "denied by alice at " in done.stdout
    assert r'because "Größer\u202eals \"gut\""' in done.stdout
    assert document(approvals("list", "--json")) == []


def test_an_approval_can_be_denied_until_it_is_used(office: Office) -> None:
    """By the same command."""
    found = office.ask()
    for command in ("approve", "deny"):
        done = approvals(command, found, "--user", "alice", stdin=office.code("alice"))
        assert done.exit_code == 0
    assert document(approvals("show", found, "--json"))["state"] == "denied"


@pytest.mark.parametrize("command", ["approve", "deny"])
def test_a_closed_question_is_refused_before_a_code_is_read(office: Office, command: str) -> None:
    """The message names the command that shows who answered it."""
    found = office.ask()
    assert approvals("deny", found, "--user", "alice", stdin=office.code("alice")).exit_code == 0
    code = office.code("alice")
    done = approvals(command, found, "--user", "alice", stdin=code)
    assert done.exit_code == 1
    assert f"is denied; for who answered it and when: pipelit-agents approvals show {found}" in (
        done.stderr
    )
    with office.open() as pipelit:
        assert pipelit.mfa.verify("alice", code)


def test_a_person_without_a_second_factor_learns_how_to_get_one(office: Office) -> None:
    """Before the prompt, and nothing is displayed that can't be answered."""
    found = office.ask(PAYMENT, "alice", "carol")
    done = approvals("approve", found, "--user", "carol", stdin="123456")
    assert done.exit_code == 1
    assert "pipelit-agents mfa enroll carol" in done.stderr


def test_somebody_else_is_refused(office: Office) -> None:
    """Bob isn't asked; his code isn't spent, and alice's code isn't bob's."""
    found, code = office.ask(), office.code("bob")
    done = approvals("approve", found, "--user", "bob", stdin=code)
    assert done.exit_code == 1
    assert "not an approver here; approvers are alice" in done.stderr
    with office.open() as pipelit:
        assert pipelit.mfa.verify("bob", code)
    done = approvals("approve", found, "--user", "alice", stdin=office.code("bob"))
    assert done.exit_code == 1
    assert document(approvals("show", found, "--json"))["state"] == "pending"


@pytest.mark.parametrize("command", ["approve", "deny"])
@pytest.mark.parametrize("name", ["bob", "carol", "dora"])
def test_somebody_else_is_refused_before_a_code_is_read(
    office: Office, command: str, name: str
) -> None:
    """Also who has no second factor, or no account; and the question isn't displayed."""
    done = approvals(command, office.ask(), "--user", name, stdin="")
    assert done.exit_code == 1
    assert done.stderr == f"error: '{name}' is not an approver here; approvers are alice\n"


def test_somebody_who_is_asked_later_is_told_so(office: Office) -> None:
    """The next approvers of a rule are approvers; the library says from when."""
    rule = Approvers(["alice"], expires_in=timedelta(hours=1), escalate_to=Approvers(["bob"]))
    done = approvals("approve", office.call(rule), "--user", "bob", stdin=office.code("bob"))
    assert done.exit_code == 1
    assert "'bob' is asked from " in done.stderr


def test_a_question_without_a_requester_is_the_applications(office: Office) -> None:
    """``operator`` is also a role of people, and none of them asked; JSON keeps the name."""
    found = office.ask()
    assert "  asked by: the application\n" in approvals("show", found).stdout
    listed = approvals("list").stdout
    assert "the application" in listed
    assert "operator" not in listed
    assert document(approvals("show", found, "--json"))["asked_by"] == "operator"


def test_one_of_two_approvals_is_not_enough(office: Office) -> None:
    """The command says so; the same person is refused, and the second person decides."""
    found = office.call(Approvers(["alice", "bob"], at_least=2))
    done = approvals("approve", found, "--user", "alice", stdin=office.code("alice"))
    assert "Approved; others have to approve too." in done.stdout
    assert "tool" in document(approvals("list", "--json"))[0]
    done = approvals("approve", found, "--user", "alice", stdin=office.code("alice"))
    assert done.exit_code == 1
    assert "'alice' has approved this already" in done.stderr
    done = approvals("approve", found, "--user", "bob", "--json", stdin=office.code("bob"))
    assert document(done)["state"] == "approved"


def test_a_tool_call_is_listed_by_its_tool(office: Office) -> None:
    """With its steps, each with its people and its time."""
    rule = Approvers(["alice"], expires_in=900, escalate_to=Approvers(["bob"]))
    found = office.call(rule)
    assert "send_money" in approvals("list").stdout
    shown = approvals("show", found).stdout
    assert '"tool": "send_money"' in shown
    assert "agent: agent_writer" in shown
    assert "Z: alice (one of them)" in shown
    assert "Z: bob (one of them)" in shown
    steps = document(approvals("show", found, "--json"))["steps"]
    assert [each["approvers"] for each in steps] == [["alice"], ["bob"]]


def test_all_questions_are_listed(office: Office) -> None:
    """In any state, in 80 columns."""
    denied, pending = office.ask(), office.ask("b")
    assert approvals("deny", denied, "--user", "alice", stdin=office.code("alice")).exit_code == 0
    done = approvals("list", "--all")
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
    assert "denied" in done.stdout
    listed = document(approvals("list", "--all", "--json"))
    assert {each["id"] for each in listed} == {denied, pending}
    assert len(document(approvals("list", "--all", "--limit", "1", "--json"))) == 1


def test_a_call_whose_result_is_not_known_is_shown(office: Office) -> None:
    """After a crash, an operator finds what may have been done."""
    found = office.call(Approvers(["alice"]))
    assert approvals("approve", found, "--user", "alice", stdin=office.code("alice")).exit_code == 0
    assert document(approvals("show", found, "--json"))["used_at"] is None
    office.start(Approvers(["alice"]))
    listed = approvals("list", "--all").stdout
    assert "unfinished" in listed
    assert all(len(line) <= 80 for line in listed.splitlines()), listed
    shown = approvals("show", found)
    assert "state: used, and no result is stored" in shown.stdout
    assert "used at: 20" in shown.stdout
    assert document(approvals("show", found, "--json"))["has_result"] is False


# The register


def test_a_register_is_exported_and_verified(office: Office) -> None:
    """To a private file, or to standard output."""
    office.ask()
    done = document(approvals("export", "register.jsonl", "--json"))
    file = Path("register.jsonl")
    assert (done["records"], file.stat().st_mode & 0o777) == (2, 0o600)
    assert document(approvals("verify", "register.jsonl", "--json"))["whole"] is True
    assert document(approvals("verify", "--against", "register.jsonl", "--json"))["whole"] is True
    assert document(approvals("verify", "--json"))["questions"] == 1
    lines = approvals("export").stdout.splitlines()
    assert [json.loads(each)["type"] for each in lines[1:]] == ["audit", "question", "end"]
    assert "bob" not in "".join(lines)
    assert '"to": "bob"' in approvals("export", "--with-arguments").stdout


def test_a_changed_register_has_exit_code_1(office: Office) -> None:
    """Each problem is a line; what the tags can't show is said too."""
    found = office.ask()
    office.steal("UPDATE pipelit_approvals SET expires_at = 4e9")
    done = approvals("verify")
    assert done.exit_code == 1
    assert f"  PROBLEM: question {found}: isn't tagged with a key" in done.stdout
    assert done.stdout.endswith("More: approvals verify --help\n")
    assert "could have forged" in done.stdout
    failed = approvals("verify", "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["whole"]) == (1, False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", "there.jsonl"], "name a file that doesn't exist yet"),
        (["export", "no/folder.jsonl"], "in a folder that does"),
        (["verify", "missing.jsonl"], "FILE missing.jsonl: No such file"),
        (["verify", "--against", "missing.jsonl"], "--against missing.jsonl: No such file"),
        (["verify", "there.jsonl"], "this isn't an export of the register"),
        (["verify", "--against", "there.jsonl"], "can't be compared with"),
        (["verify", "a", "--against", "b"], "leave out either FILE or --against"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_file_is_refused(office: Office, words: list[str], says: str) -> None:
    """By its name, and with what to do."""
    office.ask()
    Path("there.jsonl").write_bytes(b"\xff")
    done = approvals(*words)
    assert done.exit_code == 1
    assert says in done.stderr


# What misleads


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b[2Jpay 1", r'"\u001b[2Jpay 1"', id="ansi"),
        pytest.param("\x9b2J\x7f", r'"\u009b2J\u007f"', id="c1 and del"),
        pytest.param("\x7f", r'"\u007f"', id="del"),
        pytest.param("90\u202e009", r'"90\u202e009"', id="bidi override"),
        pytest.param("90\u2067\u2069", r'"90\u2067\u2069"', id="bidi isolate"),
        pytest.param("bo\u200bb\u200d\ufeff", r'"bo\u200bb\u200d\ufeff"', id="zero width"),
        pytest.param("bo\u00adb", r'"bo\u00adb"', id="soft hyphen"),
        pytest.param(
            "bob\u3164\u2800\uffa0\ufffc", r'"bob\u3164\u2800\uffa0\ufffc"', id="blank letters"
        ),
        pytest.param("bob\ufe0f\u034f", r'"bob\ufe0f\u034f"', id="invisible marks"),
        pytest.param("\U000e0041\U000e0101", r'"\udb40\udc41\udb40\udd01"', id="tags"),
        pytest.param("9\u0336\u03360", r'"9\u0336\u03360"', id="strokes over a digit"),
        pytest.param(
            "\u00e9" + "\u0301" * 6,
            '"\u00e9' + "\u0301" * 4 + r'\u0301\u0301"',
            id="a tower of marks",
        ),
        pytest.param("pay\u05d0 90", r'"pay\u05d0 90"', id="hebrew"),
        pytest.param("\u0669\u0660", r'"\u0669\u0660"', id="arabic digits"),
        pytest.param("a\u00a0b\u2003c\u2028d", r'"a\u00a0b\u2003c\u2028d"', id="spaces"),
        pytest.param("a" + " " * 18, f'"a{" " * 16}' + r'\u0020\u0020"', id="many spaces"),
        pytest.param("Zürich, 東京, Київ ✓ 🙂", '"Zürich, 東京, Київ ✓ 🙂"', id="plain"),
    ],
)
def test_what_misleads_is_escaped(text: str, shown: str) -> None:
    """In values and in keys; and the result is JSON of the same value."""
    assert exact_json(text) == shown
    value = {text: [text, {"n": 1}]}
    assert json.loads(exact_json(value)) == value
    assert exact_json({text: 1}) == f"{{\n  {shown}: 1\n}}"


def test_a_deep_value_is_no_longer_than_it_is() -> None:
    """Whoever asks could else make gigabytes of indentation of a megabyte, and stop every list."""
    value: object = [0] * 20_000
    for _ in range(60):
        value = {"a": value}
    shown = exact_json(value)
    assert len(shown) < 1.1 * len(json.dumps(value))
    assert json.loads(shown) == value
    assert "\n" not in shown
    assert "\n" in exact_json([0] * 1000)


def test_the_beginning_of_a_value_is_escaped_and_cut() -> None:
    """A line of a list shows no more than fits, and the rest of a long value isn't looked at."""
    assert exact_line({"pay": 90}, 20) == '{"pay": 90}'
    assert exact_line("bob\u202e", 20) == r'"bob\u202e"'
    assert exact_line("x" + " " * 30, 40) == '"x' + " " * 16 + r"\u0020" * 3 + r"\u0…"
    long = exact_line({"a": "\u202e" * 1_000_000}, 200)
    assert (len(long), long[-1]) == (200, "…")


def test_foreign_letters_are_named() -> None:
    """A word of two alphabets is named first, with each of its letters in ASCII."""
    assert warnings({"to": "bob", "sum": "9 € ✓"}) == []
    found = warnings({"to": "p\u0430ypal", "for": "\uff19\U0001d7ff"})
    assert r'(written "p\u0430ypal") mixes letters of CYRILLIC and LATIN' in found[0]
    assert "U+0430 CYRILLIC SMALL LETTER A" in found[1]
    assert "U+FF19 FULLWIDTH DIGIT NINE" in found[1]
    assert "U+1D7FF MATHEMATICAL MONOSPACE DIGIT NINE" in found[1]


def test_what_is_escaped_is_named() -> None:
    """Also controls, which JSON itself escapes; but no line break, and no text of an escape."""
    assert warnings("two\nlines\t\\u001b") == []
    (found,) = warnings("a\u202eb\x1b[1A\x7f")
    assert found.startswith("characters that hide or reorder text are escaped above: U+202E RIGHT")
    assert "U+001B" in found
    assert "U+007F" in found


@pytest.mark.parametrize(
    "text",
    ["90\u201a000", "\u22125", "bank\u2024com", "bank\uff1acom", "a\u2215b", "\u201d, \u201dto"],
    ids=["comma", "minus", "dot", "colon", "slash", "quotes"],
)
def test_signs_that_look_like_others_are_named(text: str) -> None:
    """A minus, a dot or a quote of another kind; a currency and an emoji aren't."""
    (found,) = warnings({text: 1})
    assert found.startswith("signs that aren't ASCII, and may look like others: ")


def test_padding_crowds_out_no_lookalike() -> None:
    """What looks like an ASCII letter is named before what doesn't, however much that is."""
    found = warnings([chr(0x4E00 + each) for each in range(50)] + ["\u0441\u043e\u0440"])
    assert "U+0441 CYRILLIC SMALL LETTER ES" in found[-1]
    assert found[-1].endswith(", and 33 more")


def test_padding_draws_no_line(office: Office) -> None:
    """A terminal wraps a long line, and spaces would draw another fact below."""
    found = office.ask({"note": "x" + " " * 80 + "state: denied"}, thread="1" + " " * 80 + "x")
    done = approvals("show", found)
    assert " " * 17 not in done.stdout
    assert "WARNING: long runs of spaces are escaped above" in done.stdout


def test_a_long_value_has_a_warning(office: Office) -> None:
    """Its beginning may have scrolled away when the code is asked for."""
    words = "the beginning may have scrolled away: read all of it with: pipelit-agents approvals"
    found = office.ask({"a": "pay mallory 900", "b": ["x"] * 200})
    assert f"{words} show {found} | less" in approvals("show", found).stdout
    assert words not in approvals("show", office.ask()).stdout


def test_many_foreign_letters_are_counted() -> None:
    """A long text of another language fills no screen."""
    found = warnings("".join(chr(0x4E00 + each) for each in range(5000)))
    assert found[-1].endswith(", and 4,980 more")
    assert len(warnings(" ".join(f"a\u0430{each}" for each in range(100)))) == 22


def test_a_warning_is_the_last_line(office: Office) -> None:
    """A long value scrolls away, and what the person must know is above the prompt."""
    found = office.ask({"note": "line\n" * 5000, "to": "b\u043eb\x1b[1A"})
    done = approvals("show", found)
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert "WARNING" in lines[-2]
    assert "CYRILLIC SMALL LETTER O" in lines[-2]
    assert "characters in 4 lines" in done.stdout


def test_a_terminal_that_is_not_utf_8_gets_escapes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of an error."""
    found = office.ask("Zürich 🙂")
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as ended:
        root().main(args=["approvals", "show", found])
    assert ended.value.code == 0
    out.seek(0)
    assert out.readline() == '"Z\\u00fcrich \\ud83d\\ude42"\n'
