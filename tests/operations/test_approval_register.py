"""The register of approvals: exported and verified, whatever a thief of the database has done."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from shutil import copyfile

import pyotp
import pytest
from conftest import Clock
from internals import database_of, keyring_of
from sqlalchemy import text
from test_mfa import app_of

from pipelit_agents import Approvers, Keyring, Pipelit, RegisterReport
from pipelit_agents.approvals import approval_digest, tags
from pipelit_agents.approvals.calls import Call
from pipelit_agents.approvals.rows import read_answers, read_question, read_questions
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.operations import register_file

PAYMENT = {"pay": 90, "to": "bob"}
CALL = Call("send_money", PAYMENT, "call_1", "thread_1", "ns")
RULE = Approvers(["alice", "bob", "carol"], at_least=2)


@dataclass
class Office:
    """A database with three people, and the key."""

    file: Path
    key: str
    clock: Clock
    apps: dict[str, pyotp.TOTP] = field(default_factory=dict)
    opened: list[Pipelit] = field(default_factory=list)

    @property
    def pipelit(self) -> Pipelit:
        """The library on this database."""
        if not self.opened:
            self.opened.append(self.other(self.key))
        return self.opened[0]

    def other(self, *keys: str) -> Pipelit:
        """Another one with other keys."""
        url = f"sqlite:///{self.file}"
        return Pipelit(database_url=url, encryption_keys=keys, clock=self.clock)

    def code(self, name: str) -> str:
        """A code that nobody has used."""
        self.clock.advance(30)
        return self.apps[name].at(self.clock())

    def ask(self, *people: str, what: object = None) -> str:
        """The id of a question."""
        asked = PAYMENT if what is None else what
        return self.pipelit.approvals.request(asked, approvers=people or ["alice"]).id

    def approve(self, identifier: str, *people: str) -> str:
        """Let people approve."""
        for name in people or ["alice"]:
            self.pipelit.approvals.decide(identifier, name, self.code(name))
        return identifier

    def used(self) -> str:
        """The id of a question whose approval was used."""
        found = self.approve(self.ask())
        self.pipelit.approvals.require(found, approvers=["alice"])
        return found

    def called(self, call: Call = CALL) -> str:
        """The id of the question of a call that two people approved, and that was started."""
        calls = self.pipelit.approvals.calls
        found = self.approve(calls.ask(call, RULE).id, "alice", "carol")
        calls.start(call, RULE)
        return found

    def steal(self, statement: str, *values: object) -> None:
        """Change rows as somebody could who has the database and not the key."""
        with closing(sqlite3.connect(self.file)) as connection, connection:
            connection.execute(statement, values)
            assert connection.total_changes > 0, statement

    def verify(self) -> RegisterReport:
        """Verify the database."""
        return self.pipelit.approvals.register.verify()

    def export(self, **options: bool) -> list[str]:
        """The lines of an export."""
        lines: list[str] = []
        self.pipelit.approvals.register.export(lines.append, **options)
        return lines


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Enrolling people takes longer than most tests, so it is done once."""
    made = Office(
        tmp_path_factory.mktemp("register") / "agents.db", Keyring.generate_key(), Clock()
    )
    with made.pipelit as pipelit:
        pipelit.create_schema()
        for name in ("alice", "bob", "carol"):
            pipelit.users.create(name)
            made.apps[name] = app_of(pipelit.mfa.enroll(name))
            pipelit.mfa.confirm(name, made.apps[name].at(made.clock()))
    return made


@pytest.fixture
def office(furnished: Office, tmp_path: Path) -> Iterator[Office]:
    """A copy."""
    yield from copied(furnished, tmp_path)


@pytest.fixture(scope="module")
def busy(furnished: Office, tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A database with a question that was asked, answered and used; see ``EXPORT``."""
    (made,) = copied(furnished, tmp_path_factory.mktemp("busy"))
    made.used()
    EXPORT[:] = made.export()
    made.opened.pop().close()
    return made


@pytest.fixture
def robbed(busy: Office, tmp_path: Path) -> Iterator[Office]:
    """A copy of the busy one."""
    yield from copied(busy, tmp_path)


def copied(office: Office, folder: Path) -> Iterator[Office]:
    """A copy of a database; it is closed afterwards."""
    file = folder / "agents.db"
    copyfile(office.file, file)
    file.chmod(0o600)
    made = Office(file, office.key, Clock(office.clock.now), dict(office.apps))
    yield made
    for each in made.opened:
        each.close()


# The lines of an export of the busy database.
EXPORT: list[str] = []


def problem(report: RegisterReport) -> str:
    """All problems, of which there is one at least."""
    assert report.problems, report
    assert not report.whole
    return "\n".join(report.problems)


# A register in which all is well


def test_a_register_of_everything_is_whole(office: Office) -> None:
    """Questions of all kinds and in all states, in the database and in an export."""
    pipelit = office.pipelit
    office.used()
    office.called()
    office.ask()
    approvals = pipelit.approvals
    approvals.deny(office.ask(what="a"), "alice", office.code("alice"), reason="no")
    with pipelit.acting_for("bob"):
        approvals.deny(office.ask("bob", what="b"), "bob")
    approvals.deny(office.ask(what="c"), "alice", unproven=True)
    pipelit.mfa.approve("carol", office.code("carol"), digest=approval_digest("d"))
    pipelit.mfa.deny("carol", None, digest=approval_digest("e"))
    expired = office.ask(what="f")
    twice = office.approve(office.ask("alice", "bob", what="g"))
    approvals.deny(twice, "bob", office.code("bob"))
    office.clock.advance(8 * 86_400)
    with pytest.raises(Exception, match="expired"):
        approvals.decide(expired, "alice", office.code("alice"))
    pipelit.audit.seal()
    for found in (office.verify(), pipelit.approvals.register.verify(office.export())):
        assert (found.problems, found.notes, found.whole) == ((), (), True)
        assert (found.questions, found.answers, found.uses) == (10, 10, 2)


def test_a_call_that_interrupts_itself_is_used_twice(office: Office) -> None:
    """Each start has a use; and so has one that is denied in between."""
    calls = office.pipelit.approvals.calls
    office.called()
    calls.suspend(CALL)
    assert office.verify().problems == ()
    calls.start(CALL, RULE)
    calls.finish(CALL, b"paid")
    assert office.verify().problems == ()
    assert office.verify().uses == 2
    another = CALL._replace(call_id="call_2")
    found = office.called(another)
    calls.suspend(another)
    office.pipelit.approvals.deny(found, "alice", office.code("alice"))
    assert office.verify().problems == ()


def test_an_escalation_is_verified_by_its_steps(office: Office) -> None:
    """Bob is asked after alice, and alone is enough then."""
    rule = Approvers(["alice"], expires_in=60, escalate_to=Approvers(["bob"], expires_in=600))
    calls = office.pipelit.approvals.calls
    found = calls.ask(CALL, rule).id
    office.clock.advance(60)
    office.approve(found, "bob")
    calls.start(CALL, rule)
    assert office.verify().problems == ()


def test_a_denial_after_ones_own_approval_is_in_order(office: Office) -> None:
    """Also when others are asked by then."""
    rule = Approvers(["alice", "carol"], at_least=2, expires_in=60, escalate_to=Approvers(["bob"]))
    found = office.approve(office.pipelit.approvals.calls.ask(CALL, rule).id)
    office.clock.advance(600)
    office.pipelit.approvals.deny(found, "alice", office.code("alice"))
    assert office.verify().problems == ()


def test_an_export_says_who_approved_what(office: Office) -> None:
    """With which factor, when, and that it was used; what was displayed only on demand."""
    found = office.used()
    lines = [json.loads(line) for line in office.export()]
    (question,) = [each for each in lines if each["type"] == "question"]
    assert question["row"]["id"] == found
    assert question["row"]["state"] == "used"
    assert question["shown_is"] == "sealed"
    (answer,) = question["answers"]
    assert (answer["row"]["username"], answer["row"]["factor_kind"]) == ("alice", "plain")
    assert question["uses"][0]["row"]["used_at"] == office.clock()
    assert "pay" not in "".join(office.export())
    (opened,) = [
        each
        for line in office.export(with_arguments=True)
        if (each := json.loads(line))["type"] == "question"
    ]
    assert opened["shown"] == PAYMENT


async def test_the_twins_do_the_same(office: Office) -> None:
    """Off the event loop."""
    register = office.pipelit.approvals.register
    lines: list[str] = []
    office.used()
    assert await register.aexport(lines.append) == len(lines) - 2
    assert (await register.averify(lines)).whole
    assert (await register.averify()).whole
    assert [each.state for each in await register.alist()] == ["used"]


def test_the_newest_questions_are_listed(office: Office) -> None:
    """In any state, by person, and without what our keys didn't tag."""
    first, second, planted = office.ask("alice"), office.ask("bob"), office.ask()
    office.clock.advance(1)
    third = office.used()
    office.steal("UPDATE pipelit_approvals SET state = 'approved' WHERE id = ?", planted)
    register = office.pipelit.approvals.register
    assert {each.id for each in register.list()} == {first, second, third}
    assert [each.id for each in register.list(limit=1)] == [third]
    assert [each.id for each in register.list(person="bob")] == [second]
    with pytest.raises(ValueError, match="limit"):
        register.list(limit=0)


# What a thief of the database does


COPY = f"apr_{'0' * 32}"


# What a thief does to a question that was asked, answered and used, and what is said of it.
THEFTS = {
    "approvers": (
        "UPDATE pipelit_approvals SET approvers = '[\"mallory\"]'",
        "isn't tagged",
    ),
    "state": ("UPDATE pipelit_approvals SET state = 'approved'", "isn't tagged"),
    "expiry": ("UPDATE pipelit_approvals SET expires_at = 4e9", "isn't tagged"),
    "agent": ("UPDATE pipelit_approvals SET agent = 'agent_x'", "isn't tagged"),
    "starts": ("UPDATE pipelit_approvals SET starts = 1", "isn't tagged"),
    "rule": ("UPDATE pipelit_approvals SET rule = '[]'", "in the form"),
    "blob": ("UPDATE pipelit_approvals SET approvers = x'00ff'", "in the form"),
    "blob as id": ("UPDATE pipelit_approvals SET id = x'00ff'", "in the form"),
    "not utf-8": (
        "UPDATE pipelit_approvals SET asked_by = CAST(x'ff' AS TEXT)",
        "row 1 of pipelit_approvals can't be read",
    ),
    "text as time": ("UPDATE pipelit_approvals SET created_at = 'now'", "in the form"),
    "infinity": ("UPDATE pipelit_approvals SET created_at = 9e999", "in the form"),
    "shown": ("UPDATE pipelit_approvals SET shown = 'x'", "can't be decrypted"),
    "shown as blob": ("UPDATE pipelit_approvals SET shown = x'00'", "can't be decrypted"),
    "person": ("UPDATE pipelit_approval_answers SET username = 'bob'", "isn't tagged"),
    "time of an answer": ("UPDATE pipelit_approval_answers SET at = at - 60", "isn't tagged"),
    "factor": (
        "UPDATE pipelit_approval_answers SET factor_kind = 'recovery'",
        "isn't tagged",
    ),
    "answer not utf-8": (
        "UPDATE pipelit_approval_answers SET factor = CAST(x'ff' AS TEXT)",
        "row 1 of pipelit_approval_answers can't be read",
    ),
    "voided": ("UPDATE pipelit_approval_answers SET mac = ''", "its tag was erased"),
    "no answer": ("DELETE FROM pipelit_approval_answers", "answers were deleted"),
    "no use": ("DELETE FROM pipelit_approval_uses", "record of a use"),
    "time of a use": (
        "UPDATE pipelit_approval_uses SET used_at = used_at + 60",
        "the audit has no entry",
    ),
    "use before": ("UPDATE pipelit_approval_uses SET used_at = 1", "outside the time"),
    "use as blob": ("UPDATE pipelit_approval_uses SET used_at = x'00'", "isn't a time"),
    "another start": ("UPDATE pipelit_approval_uses SET start = 2", "record of a use"),
    "use planted": (
        "INSERT INTO pipelit_approval_uses (approval_id, start, used_at) "
        "SELECT approval_id, 2, used_at FROM pipelit_approval_uses",
        "was used 2 times",
    ),
    "use of nothing": (
        "INSERT INTO pipelit_approval_uses (approval_id, used_at) VALUES ('apr_0', 1)",
        "a use belongs to the question apr_0, which isn't here",
    ),
    "no question": ("DELETE FROM pipelit_approvals", "the question was deleted"),
    "no audit of the use": (
        "DELETE FROM pipelit_audit WHERE action = 'approval.use'",
        "its use: the audit has no entry",
    ),
    "no audit of the answer": (
        "DELETE FROM pipelit_audit WHERE action = 'approve'",
        "answer 1 of alice: the audit has no",
    ),
    "no audit of the question": (
        "DELETE FROM pipelit_audit WHERE action = 'approval.request'",
        "(approval.request at",
    ),
    "audit": (
        "UPDATE pipelit_audit SET reason = 'x' WHERE action = 'approve'",
        "the register hasn't",
    ),
    "answer as text": (
        "UPDATE pipelit_approval_answers SET at = 'x'",
        "answer 1 of alice: isn't in",
    ),
    "subject as blob": (
        "UPDATE pipelit_audit SET subject = x'00' WHERE action = 'approve'",
        "isn't in its form",
    ),
    "audit as blob": (
        "UPDATE pipelit_audit SET at = x'00' WHERE action = 'approve'",
        "isn't in its form",
    ),
}


@pytest.mark.parametrize(("statement", "says"), THEFTS.values(), ids=list(THEFTS))
def test_a_change_is_found(robbed: Office, statement: str, says: str) -> None:
    """By the tags, by states that don't fit, or by the audit; in the database and in an export."""
    robbed.steal(statement)
    assert says in problem(robbed.verify())
    exported = robbed.pipelit.approvals.register.verify(robbed.export(with_arguments=True))
    assert says in problem(exported)


@pytest.mark.parametrize("answered", [False, True], ids=["pending", "approved"])
def test_a_restored_row_is_found(office: Office, answered: bool) -> None:
    """A copy of the question from before its use has a tag that is valid."""
    found = office.ask()
    if answered:
        office.approve(found)
    with closing(sqlite3.connect(office.file)) as connection:
        state, mac = connection.execute("SELECT state, mac FROM pipelit_approvals").fetchone()
    if not answered:
        office.approve(found)
    office.pipelit.approvals.require(found, approvers=["alice"])
    office.steal("UPDATE pipelit_approvals SET state = ?, mac = ?", state, mac)
    assert "an older row was restored" in problem(office.verify())
    # If the use is deleted too, the audit has it.
    office.steal("DELETE FROM pipelit_approval_uses")
    assert "the audit has approval.use" in problem(office.verify())


def test_everything_deleted_is_found_by_sealed_entries(office: Office) -> None:
    """Rows and entries: the audit's own seals don't fit any more."""
    found = office.used()
    office.pipelit.audit.seal()
    for table in ("approvals", "approval_answers", "approval_uses"):
        office.steal(f"DELETE FROM pipelit_{table}")  # noqa: S608 - our names
    assert office.verify().problems != ()
    office.steal("DELETE FROM pipelit_audit WHERE reason <> '' AND action LIKE 'appro%'")
    assert "pipelit-agents audit verify" in problem(office.verify())
    assert found


def test_an_older_database_is_found_by_an_export_that_was_kept(
    office: Office, tmp_path: Path
) -> None:
    """Nothing else shows it, because all of it was ours once."""
    pending = office.ask(what="later")
    before = tmp_path / "before.db"
    office.pipelit.backup(before)
    kept_early = office.export()
    office.approve(pending)
    found = office.used()
    kept = office.export()
    register = office.pipelit.approvals.register
    assert register.verify(kept=kept).whole
    assert register.verify(kept=kept_early).whole
    office.opened.pop().close()
    copyfile(before, office.file)
    assert office.verify().whole
    said = problem(office.pipelit.approvals.register.verify(kept=kept))
    assert f"question {found}: is in the export that was kept, and was deleted since" in said
    assert "was 'approved' in the export that was kept, and is 'pending' now" in said
    assert "the answer 1 of alice is in the export" in said


def test_a_kept_export_that_was_edited_is_refused(office: Office) -> None:
    """What isn't in it any more couldn't be missed."""
    office.used()
    kept = office.export()
    del kept[3]
    with pytest.raises(ConfigurationError, match="can't be compared with: the file was changed"):
        office.pipelit.approvals.register.verify(kept=kept)
    with pytest.raises(TypeError, match="leave out either"):
        office.pipelit.approvals.register.verify([], kept=kept)


COPIED = """
    INSERT INTO pipelit_approvals (id, digest, approvers, asked_by, thread, created_at, expires_at,
        state, mac, agent, rule, call, starts)
    SELECT ?, digest, approvers, asked_by, thread, created_at, expires_at, state, mac, agent, rule,
        call, starts FROM pipelit_approvals
"""


def test_a_copied_question_is_found(office: Office) -> None:
    """Its id is under the tag."""
    office.called()
    office.steal(COPIED, COPY)
    assert f"question {COPY}: isn't tagged" in problem(office.verify())


def test_an_answer_of_another_question_is_found(office: Office) -> None:
    """An answer counts for its own question only, even if somebody copies it."""
    office.approve(office.ask())
    other = office.ask()
    office.steal(
        "INSERT INTO pipelit_approval_answers (approval_id, digest, username, verdict, "
        "factor_kind, factor, at, mac) SELECT ?, digest, username, verdict, factor_kind, factor, "
        "at, mac FROM pipelit_approval_answers",
        other,
    )
    assert f"question {other}, answer 2 of alice: isn't tagged" in problem(office.verify())


def test_many_planted_rows_are_counted(office: Office) -> None:
    """The report stays short, and what is ours is verified beside them."""
    office.used()
    office.steal(
        "INSERT INTO pipelit_approvals (id, digest, approvers, asked_by, thread, created_at, "
        "expires_at, state, mac) "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) "
        "SELECT ? || i, '', '', '', '', 0, 0, '', '' FROM n",
        "\x1b[2J\u202e",
    )
    found = office.verify()
    assert (found.questions, found.answers, found.uses) == (1, 1, 1)
    assert len(found.problems) == 201
    assert found.problems[-1] == "and 1,000 more problems"
    assert all(each.isascii() and each.isprintable() for each in found.problems)


def retag(office: Office, question: dict[str, object], answer: dict[str, object]) -> None:
    """Change rows as only a holder of the key can, or a mistake in the library could."""
    keyring = keyring_of(office.pipelit)
    with database_of(office.pipelit).writing() as connection:
        (asked,) = read_questions(connection, with_shown=False)
        (given,) = read_answers(connection, asked.id)
        asked = asked._replace(**question)  # type: ignore[arg-type]
        given = given._replace(**answer)  # type: ignore[arg-type]
        tagged = {
            "q": keyring.mac(tags.REQUEST, *tags.question_fields(asked)),
            "a": keyring.mac(tags.ANSWER, *tags.answer_fields(asked, given)),
        }
        for table, values in (("approvals", question), ("approval_answers", answer)):
            for name, value in values.items():
                statement = f"UPDATE pipelit_{table} SET {name} = :value"  # noqa: S608 - our names
                connection.execute(text(statement), {"value": value})
        connection.execute(text("UPDATE pipelit_approvals SET mac = :q"), tagged)
        connection.execute(text("UPDATE pipelit_approval_answers SET mac = :a"), tagged)


# What the rows of a used approval would be like after a mistake, and what is said of it.
MISTAKES: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "after the end": ({}, {"at": 2e9}, "this person wasn't asked at 2033"),
    "not asked": ({}, {"username": "bob"}, "answer 1 of bob: this person wasn't asked"),
    "no code": ({}, {"factor_kind": "vouched"}, "is an approval without a code"),
    "still pending": ({"state": "pending"}, {}, "is 'pending', though it was approved"),
    "used and pending": ({"state": "pending"}, {}, "was used 1 times, and its state ('pending')"),
    "expired before": (
        {"created_at": 1_799_999_900.0, "expires_at": 1_799_999_990.0},
        {},
        "was used at 2027-01-15T08:00:30+00:00, outside the time of the question",
    ),
    "no denial": ({"state": "denied"}, {}, "nobody's denial is here"),
    "denied": ({}, {"verdict": "denied"}, "is 'used', though it was denied"),
    "no approval": ({}, {"verdict": "denied"}, "without the approvals that it needs"),
    "too late": ({}, {"at": 1_800_100_000.0}, "without the valid approvals that it needs"),
}


@pytest.mark.parametrize(("question", "answer", "says"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_of_our_own_is_found(
    robbed: Office, question: dict[str, object], answer: dict[str, object], says: str
) -> None:
    """Though all tags are valid: the rules of the register don't call the code that decides."""
    retag(robbed, question, answer)
    found = robbed.verify()
    assert says in problem(found)
    assert not any("isn't tagged" in each for each in found.problems)


def test_a_second_question_about_a_call_is_found(office: Office) -> None:
    """Twins that race would have to get the same one."""
    office.called()
    office.steal(COPIED, COPY)
    with database_of(office.pipelit).writing() as connection:
        asked = read_question(connection, COPY)
        assert asked
        mac = keyring_of(office.pipelit).mac(tags.REQUEST, *tags.question_fields(asked))
        statement = text("UPDATE pipelit_approvals SET mac = :mac WHERE id = :id")
        connection.execute(statement, {"mac": mac, "id": COPY})
    assert "a second question about the same tool call" in problem(office.verify())


def test_a_changed_reason_or_value_is_found(office: Office) -> None:
    """A reason in the database, and the displayed value in an export."""
    found = office.ask()
    office.pipelit.approvals.deny(found, "alice", office.code("alice"), reason="no")
    lines = at(-2, '"pay": 90', '"pay": 91')(office.export(with_arguments=True))
    said = problem(office.pipelit.approvals.register.verify(lines))
    assert "what is here as displayed has another digest" in said
    office.steal("UPDATE pipelit_approval_answers SET reason = 'x'")
    assert "its reason can't be decrypted" in problem(office.verify())


# Keys, people and the audit


def test_another_key_verifies_nothing(office: Office) -> None:
    """And says which key is needed."""
    office.used()
    lines = office.export()
    with office.other(Keyring.generate_key()) as stranger:
        said = problem(stranger.approvals.register.verify(lines))
        assert "isn't of a key of FIELD_ENCRYPTION_KEY: add the key of the time" in said
        assert Keyring(office.key).fingerprint() in said
        with pytest.raises(ConfigurationError):
            stranger.approvals.register.export(lines.append)


def test_a_rotation_keeps_the_register(office: Office) -> None:
    """The rows are tagged again; an older export needs the older key."""
    office.used()
    lines = office.export()
    newer = Keyring.generate_key()
    with office.other(newer, office.key) as both:
        both.keys.rotate()
        assert both.approvals.register.verify().problems == ()
        assert both.approvals.register.verify(lines).problems == ()
        assert both.approvals.register.verify(kept=lines).problems == ()
    with office.other(newer) as later:
        assert later.approvals.register.verify().problems == ()
        assert not later.approvals.register.verify(lines).whole


def test_a_person_who_left_is_a_note(office: Office) -> None:
    """An approval that was voided can't be verified, and isn't a sign of a change."""
    office.approve(office.ask())
    office.pipelit.users.deactivate("alice")
    found = office.verify()
    assert found.problems == ()
    assert "answer 1 of alice: was voided" in found.notes[0]


def test_a_requester_who_approved_is_a_note(office: Office) -> None:
    """An auditor who looks for four eyes finds how often there were two."""
    found = office.pipelit.approvals.request(PAYMENT, approvers=["alice"], asked_by="alice").id
    office.approve(found)
    (note,) = [each for each in office.verify().notes if "not_requester" in each]
    assert "alone or with others: 1." in note


def test_a_pruned_audit_is_a_note(office: Office) -> None:
    """The register is older than the audit then."""
    pipelit = office.pipelit
    office.used()
    pipelit.audit.seal()
    office.clock.advance(90 * 86_400)
    office.ask()
    pipelit.audit.seal()
    assert pipelit.audit.prune(datetime.fromtimestamp(office.clock(), UTC) - timedelta(days=1))
    found = office.verify()
    assert found.problems == ()
    assert any("3 records are from" in each and "were pruned" in each for each in found.notes)


def test_forgotten_questions_are_a_note(office: Office) -> None:
    """The operator lost a key, and deleted what no key verifies."""
    office.used()
    newer = Keyring.generate_key()
    with office.other(newer) as later:
        later.keys.forget_unreadable()
        found = later.approvals.register.verify()
        assert not [each for each in found.problems if "audit verify" not in each]
        assert any("of a question that was forgotten" in each for each in found.notes)


def test_unsealed_entries_are_a_note(office: Office) -> None:
    """Until they are sealed, rows can be deleted together with them."""
    office.used()
    assert any("weren't sealed" in each for each in office.verify().notes)
    office.pipelit.audit.seal()
    assert office.verify().notes == ()


# A file that was edited


def edited(lines: list[str], number: int, change: Callable[[str], str]) -> list[str]:
    """The lines with one of them changed."""
    return [*lines[:number], change(lines[number]), *lines[number + 1 :]]


def at(number: int, old: str, new: str) -> Callable[[list[str]], list[str]]:
    """Replace a text in a line."""

    def edit(lines: list[str]) -> list[str]:
        assert old in lines[number]
        return edited(lines, number, lambda line: line.replace(old, new, 1))

    return edit


def line(number: int, text: str) -> Callable[[list[str]], list[str]]:
    """Replace a whole line."""
    return lambda lines: edited(lines, number, lambda _: f"{text}\n")


# How a file is edited, and what is said of it. The last line but one is the question.
EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "cut": (lambda lines: lines[:-1], "without its last line: it was cut"),
    "line removed": (lambda lines: lines[:2] + lines[3:], "was changed after the export"),
    "line twice": (lambda lines: [*lines[:2], *lines[1:]], "was changed after the export"),
    "question twice": (lambda lines: [*lines[:-1], *lines[-2:]], "is here twice"),
    "line after the end": (lambda lines: [*lines, lines[1]], "comes after the end"),
    "line breaks": (
        lambda lines: [each.replace("\n", "\r\n") for each in lines],
        "was changed after the export",
    ),
    "head": (at(0, "false", "true"), "was changed after the export"),
    "factor": (at(-2, '"plain"', '"recovery"'), "answer 1 of alice: isn't tagged"),
    "key twice": (at(-2, '"type"', '"type": "audit", "type"'), "has a key twice"),
    "no object": (line(-2, "[]"), "it isn't a JSON object"),
    "no json": (line(-2, "{"), "it isn't JSON"),
    "empty line": (line(-2, ""), "it isn't JSON"),
    "unknown type": (line(-2, '{"type": "x", "row": {}}'), "its type x is unknown"),
    "no row": (line(-2, '{"type": "use", "row": []}'), 'no object "row"'),
    "no answers": (at(-2, '"answers"', '"replies"'), 'no list "answers"'),
    "use in answers": (at(-2, '"type": "answer"', '"type": "use"'), 'no list "answers"'),
    "a number as a use": (at(-2, '"uses": [', '"uses": [1, '), "it isn't a JSON object"),
    "nan": (at(-2, '"seq": 1', '"seq": NaN'), "which isn't JSON"),
    "huge": (at(-2, '"expires_at": ', f'"expires_at": 1{"0" * 400}'), "in the form"),
    "too huge": (at(-2, '"seq": 1', f'"seq": 1{"0" * 5000}'), "it isn't JSON"),
    "deep": (at(-2, '"seq": 1', f'"seq": {"[" * 100_000}'), "it isn't JSON"),
    "surrogate": (at(-2, '"operator"', r'"\ud800"'), "in the form"),
    "answer of a list": (at(-2, '"seq": 1', '"seq": [[]]'), "was changed after the export"),
    "seal not ascii": (at(-1, '"mac": "', '"mac": "\u00e9'), "isn't of a key"),
    "seal no text": (at(-1, '"mac": "', '"mac": 1, "x": "'), "isn't of a key"),
    "no seal": (line(-1, '{"type": "end"}'), "was changed after the export"),
}


@pytest.mark.parametrize(("edit", "says"), EDITS.values(), ids=list(EDITS))
def test_an_edited_file_is_found(
    busy: Office, edit: Callable[[list[str]], list[str]], says: str
) -> None:
    """Wherever it was edited, and the message says where; no database is read."""
    lines = edit(EXPORT)
    register = busy.pipelit.approvals.register
    assert says in problem(register.verify(lines))
    assert says in problem(register.verify(each.encode() for each in lines))
    assert register.verify(EXPORT).whole


def test_a_file_that_is_not_utf_8_is_found(busy: Office) -> None:
    """By the number of its line."""
    lines = [line.encode() for line in EXPORT]
    lines[2] = b"\xff\xfe" + lines[2]
    assert "line 3: it isn't UTF-8" in problem(busy.pipelit.approvals.register.verify(lines))


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"{}\n", b"\xff", b"[" * 100_000, b"x" * 2**25],
    ids=["empty", "line break", "another object", "not utf-8", "deep", "huge"],
)
def test_another_file_is_refused(busy: Office, content: bytes) -> None:
    """It isn't an export at all."""
    with pytest.raises(ConfigurationError, match="isn't an export"):
        busy.pipelit.approvals.register.verify(BytesIO(content))


def audited() -> Iterator[str]:
    """Entries of an audit that has no end."""
    row = {"action": "approve", "subject": "alice", "reason": "0" * 64, "at": 1.0}
    return repeat(json.dumps({"type": "audit", "row": row}) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (lambda: chain(EXPORT[:1], repeat("{}\n")), "1,000 lines have no record"),
        (lambda: chain(EXPORT[:1], repeat(EXPORT[-2])), "there are too many problems"),
        (lambda: chain(EXPORT[:1], audited()), "it has more than 20,000 records"),
        (lambda: chain(EXPORT, repeat(EXPORT[1])), "comes after the end of the export"),
    ],
    ids=["no records", "one question", "audit", "after the end"],
)
def test_a_file_without_an_end_is_left(
    busy: Office,
    lines: Callable[[], Iterator[str]],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if its first line is that of an export; and it is no export to compare with."""
    monkeypatch.setattr(register_file, "MAX_RECORDS", 20_000)
    register = busy.pipelit.approvals.register
    found = register.verify(lines())
    assert says in problem(found)
    assert len(found.problems) <= 201
    if says != "there are too many problems":
        with pytest.raises(ConfigurationError, match="can't be compared with"):
            register.verify(kept=lines())


def test_empty_lines_after_the_end_are_left(busy: Office) -> None:
    """Some programs add one; endless ones say nothing."""
    assert busy.pipelit.approvals.register.verify(chain(EXPORT, repeat("\n"))).whole


# PostgreSQL


def test_postgres_has_the_same_register(postgres_url: str, busy: Office) -> None:
    """Rows are read by their keys there; and what was changed is found."""
    made = Office(busy.file, busy.key, Clock())
    with Pipelit(database_url=postgres_url, encryption_keys=[made.key], clock=made.clock) as opened:
        made.opened.append(opened)
        opened.create_schema()
        for name in ("alice", "bob", "carol"):
            opened.users.create(name)
            made.apps[name] = app_of(opened.mfa.enroll(name))
            opened.mfa.confirm(name, made.apps[name].at(made.clock()))
        made.used()
        made.called()
        made.opened.clear()
        register = opened.approvals.register
        lines: list[str] = []
        register.export(lines.append)
        for found in (register.verify(), register.verify(lines), register.verify(kept=lines)):
            assert (found.problems, found.questions, found.answers, found.uses) == ((), 2, 3, 2)
        with database_of(opened).writing() as connection:
            connection.execute(text("UPDATE pipelit_approvals SET created_at = 'NaN'"))
            connection.execute(text("DELETE FROM pipelit_approval_uses"))
        assert "in the form" in problem(register.verify())
