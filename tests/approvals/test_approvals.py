"""Approvals in tables of their own: good once, and nobody without the key makes one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfile
from typing import Any, cast

import pytest
from approving import People
from conftest import Clock
from internals import database_of, identity_of
from postgres import PostgresServer
from psycopg import Connection
from sqlalchemy import Engine, create_engine, text
from test_mfa import wrong

from pipelit_agents import Agent, ApprovalDecision, Approvals, Keyring, Pipelit
from pipelit_agents.approvals import approval_digest, tags
from pipelit_agents.errors import (
    ApprovalClosed,
    ApprovalNotFound,
    CodeRejected,
    ConfigurationError,
    InvalidUsername,
    MalformedCode,
    NotPermitted,
    PayloadError,
    PipelitError,
    SecondFactorError,
    StorageError,
    UnsealError,
    UserInactive,
    UserNotFound,
)

BACKENDS = ("sqlite", "postgres")
PAYMENT = {"pay": 90, "to": "bob"}
DIGEST = approval_digest(PAYMENT)
HOUR = timedelta(hours=1)


@dataclass
class Home:
    """A database with people in it, which each test that needs them gets a copy of."""

    key: str
    place: str
    people: People
    now: float


def _moved_in(url: str, place: str) -> Home:
    clock, key = Clock(), Keyring.generate_key()
    with Pipelit(database_url=url, encryption_keys=[key], clock=clock) as made:
        made.create_schema()
        made.users.create("alice")
        return Home(key, place, People(made, clock), clock())


@pytest.fixture(scope="module")
def home_file(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A SQLite file: enrolling three people takes longer than most tests."""
    file = tmp_path_factory.mktemp("people") / "agents.db"
    return _moved_in(f"sqlite:///{file}", str(file))


@pytest.fixture(scope="module")
def home_database(
    postgres_server: PostgresServer, postgres_connection: Connection
) -> Iterator[Home]:
    """A database of PostgreSQL."""
    name = f"people_{uuid.uuid4().hex}"
    postgres_connection.execute(f"CREATE DATABASE {name}")
    yield _moved_in(postgres_server.url(name), name)
    postgres_connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def home(request: pytest.FixtureRequest, backend: str) -> Home | None:
    """The one with people in it, if the test has people."""
    if "people" not in request.fixturenames:
        return None
    kind = "home_database" if backend == "postgres" else "home_file"
    return cast("Home", request.getfixturevalue(kind))


@pytest.fixture
def key(key: str, home: Home | None) -> str:
    """The key of the copied database."""
    return home.key if home else key


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest, home: Home | None, backend: str, tmp_path: Path
) -> Iterator[str]:
    """A copy with people, or our tables."""
    if home is None:
        yield request.getfixturevalue("database_url")
    elif backend == "postgres":
        run = request.getfixturevalue("postgres_connection").execute
        name = f"test_{uuid.uuid4().hex}"
        run(f"CREATE DATABASE {name} TEMPLATE {home.place} STRATEGY file_copy")
        yield request.getfixturevalue("postgres_server").url(name)
        run(f"DROP DATABASE {name} WITH (FORCE)")
    else:
        file = tmp_path / "agents.db"
        copyfile(home.place, file)
        file.chmod(0o600)
        yield f"sqlite:///{file}"


@pytest.fixture
def pipelit(settings: dict[str, Any], clock: Clock, home: Home | None) -> Iterator[Pipelit]:
    """As usual, or the one with people in it."""
    if home:
        clock.now = home.now
    with Pipelit(**settings, clock=clock) as made:
        if home is None:
            made.users.create("alice")
        yield made


@pytest.fixture
def people(pipelit: Pipelit, clock: Clock, home: Home) -> People:
    """People with second factors."""
    return People.again(home.people, pipelit, clock)


@pytest.fixture
def thief(pipelit: Pipelit, database_url: str) -> Iterator[Callable[..., int]]:
    """Somebody who can write to the database and hasn't the key."""
    engine: Engine = create_engine(database_url)

    def change(statement: str, **values: Any) -> int:
        with engine.begin() as connection:
            changed = connection.execute(text(statement), values).rowcount
        assert changed > 0, statement
        return changed

    yield change
    engine.dispose()


@pytest.fixture
def rows(pipelit: Pipelit, database_url: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Reads a table as it is."""
    engine: Engine = create_engine(database_url)

    def read(table: str) -> list[dict[str, Any]]:
        with engine.begin() as connection:
            found = connection.execute(text(f"SELECT * FROM {table}"))  # noqa: S608 - our names
            return [dict(row) for row in found.mappings()]

    yield read
    engine.dispose()


def asked(pipelit: Pipelit, *names: str, what: Any = None) -> str:
    """The id of a question."""
    payment = PAYMENT if what is None else what
    return pipelit.approvals.request(payment, approvers=names or ["alice"]).id


def approved(people: People, *names: str) -> str:
    """The id of a question that alice has approved."""
    found = asked(people.pipelit, *names)
    people.pipelit.approvals.decide(found, "alice", people.code("alice"))
    return found


def refused(pipelit: Pipelit, says: str, *names: str, wanted: str = DIGEST) -> None:
    """Nobody may act on it, and it is said why."""
    with pytest.raises(NotPermitted, match=says):
        pipelit.approvals.require(wanted, approvers=names or ["alice"])


# The way of a question


@pytest.mark.slow
def test_a_question_is_asked_decided_and_used_once(
    pipelit: Pipelit, people: People, clock: Clock
) -> None:
    """By id, by the person who is asked; each step can be looked up and is in the audit."""
    question = pipelit.approvals.request(
        PAYMENT, approvers=["alice", "bob"], expires_in=900, asked_by="mallory", thread="t1"
    )
    assert (question.state, question.shown, question.digest) == ("pending", PAYMENT, DIGEST)
    assert (question.approvers, question.asked_by, question.thread) == (
        ("alice", "bob"),
        "mallory",
        "t1",
    )
    assert question.expires_at == datetime.fromtimestamp(clock() + 900, UTC)
    assert list(pipelit.approvals.pending()) == [question]
    refused(pipelit, "nobody has answered yet")
    decision = pipelit.approvals.decide(question.id, "bob", people.code("bob"))
    assert (decision.decision, decision.actor, decision.factor) == ("approved", "bob", "plain")
    assert decision.proven
    assert pipelit.approvals.pending() == []
    found = pipelit.approvals.get(question.id)
    assert (found.state, found.decisions) == ("approved", (decision,))
    used = pipelit.approvals.require(DIGEST, approvers=["alice", "bob"])
    assert used == decision
    assert pipelit.approvals.get(question.id).state == "used"
    refused(pipelit, "used", "alice", "bob")
    refused(pipelit, "used", "alice", "bob", wanted=question.id)
    told = [
        (e.actor, e.subject, e.action, e.outcome, e.reason)
        for e in pipelit.audit.list()
        if e.action.startswith(("appro", "deny"))
    ]
    assert told == [
        ("mallory", question.id, "approval.request", "ok", DIGEST),
        ("operator", DIGEST, "approval.use", "refused", "pending"),
        ("bob", "bob", "approve", "ok", DIGEST),
        ("operator", question.id, "approval.use", "ok", DIGEST),
        ("operator", DIGEST, "approval.use", "refused", "used"),
        ("operator", question.id, "approval.use", "refused", "used"),
    ]


def test_a_recovery_code_decides_too(pipelit: Pipelit, people: People) -> None:
    """As it is on paper or typed in a hurry; that it was one is kept."""
    code = people.recovery["alice"][0].replace("-", " ").lower()
    decision = pipelit.approvals.decide(asked(pipelit), "alice", f" {code}\n")
    assert (decision.factor, decision.proven) == ("recovery", True)
    assert pipelit.approvals.require(DIGEST, approvers=["alice"]).actor == "alice"


def test_what_is_pending_is_told_by_person(pipelit: Pipelit, people: People, clock: Clock) -> None:
    """Only what the person is asked, and only while it is open; names aren't patterns."""
    pipelit.users.create("a_ice")
    first = asked(pipelit, "alice")
    clock.advance(1)
    second = asked(pipelit, "bob", "alice")
    assert [each.id for each in pipelit.approvals.pending("alice")] == [first, second]
    assert [each.id for each in pipelit.approvals.pending("bob")] == [second]
    assert pipelit.approvals.pending("a_ice") == []
    pipelit.approvals.decide(first, "alice", people.code("alice"))
    assert [each.id for each in pipelit.approvals.pending("alice")] == [second]
    with pytest.raises(InvalidUsername):
        pipelit.approvals.pending("Alice")


def test_what_is_shown_is_stored_encrypted(
    pipelit: Pipelit, people: People, rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    """Neither what is shown nor a reason stands in a row."""
    question = asked(pipelit, what="wire 90 to the otters")
    code = people.code("alice")
    pipelit.approvals.deny(question, "alice", code, reason="otters are broke")
    stored = repr(rows("pipelit_approvals") + rows("pipelit_approval_answers"))
    assert "otters" not in stored
    assert code not in stored
    found = pipelit.approvals.get(question)
    assert found.shown == "wire 90 to the otters"
    assert found.decisions[0].reason == "otters are broke"


async def test_the_twins_do_the_same(pipelit: Pipelit, people: People) -> None:
    """Asked, read, decided, denied and used off the event loop."""
    approvals = pipelit.approvals
    question = await approvals.arequest(PAYMENT, approvers=["alice"])
    assert [each.id for each in await approvals.apending("alice")] == [question.id]
    await approvals.adecide(question.id, "alice", people.code("alice"))
    assert (await approvals.aget(question.id)).state == "approved"
    used = await approvals.arequire(DIGEST, approvers=["alice"])
    assert isinstance(used, ApprovalDecision)
    other = await approvals.arequest("x", approvers=["alice"])
    denied = await approvals.adeny(other.id, "alice", people.code("alice"))
    assert denied.decision == "denied"


# Who may answer


def test_who_is_asked_is_a_person_who_can_answer(
    pipelit: Pipelit, people: People, editor: Agent
) -> None:
    """No agent, no stranger; of several one has to have a second factor, and it is said who not."""
    pipelit.users.create("carol")
    for names, error, says in (
        (["alice", editor.username], NotPermitted, "'agent_editor' isn't a person"),
        (["alice", "nobody"], UserNotFound, "nobody"),
        (["carol"], SecondFactorError, "'carol' has no second factor"),
    ):
        with pytest.raises(error, match=says):
            pipelit.approvals.request(PAYMENT, approvers=names)
    pipelit.approvals.request(PAYMENT, approvers=["carol", "alice"])
    pipelit.users.deactivate("bob")
    with pytest.raises(SecondFactorError, match="'bob' was deactivated"):
        pipelit.approvals.request(PAYMENT, approvers=["bob", "carol"])


def test_only_who_is_asked_decides(pipelit: Pipelit, people: People) -> None:
    """A good code of somebody else is refused before it is spent."""
    question, code = asked(pipelit), people.code("bob")
    with pytest.raises(NotPermitted, match=r"'bob' is not an approver here; approvers are alice"):
        pipelit.approvals.decide(question, "bob", code)
    with pytest.raises(NotPermitted, match="is not an approver here"):
        pipelit.approvals.deny(question, "bob", code)
    pipelit.mfa.verify("bob", code)
    assert pipelit.approvals.get(question).state == "pending"
    entry = next(e for e in reversed(pipelit.audit.list()) if e.action == "deny")
    assert (entry.actor, entry.outcome, entry.reason) == ("bob", "refused", "not asked")


def test_a_wrong_code_decides_nothing(pipelit: Pipelit, people: People, clock: Clock) -> None:
    """Nor one that can't be one; the question stays open."""
    question = asked(pipelit)
    with pytest.raises(CodeRejected):
        pipelit.approvals.decide(question, "alice", wrong(people.apps["alice"], clock))
    with pytest.raises(MalformedCode):
        pipelit.approvals.decide(question, "alice", "12345")
    with pytest.raises(CodeRejected):
        pipelit.approvals.deny(question, "alice", wrong(people.apps["alice"], clock))
    assert pipelit.approvals.get(question).state == "pending"
    refused(pipelit, "nobody has answered")


def test_refusals_of_people_who_cant_approve_look_alike(
    pipelit: Pipelit, people: People, clock: Clock
) -> None:
    """Deactivated, without a second factor, a wrong code: the same words. The audit knows."""
    pipelit.users.create("carol")
    question = asked(pipelit, "alice", "bob", "carol")
    pipelit.users.deactivate("bob")
    said, reasons = set(), []
    for name in ("alice", "bob", "carol"):
        with pytest.raises(CodeRejected) as caught:
            pipelit.approvals.decide(question, name, wrong(people.apps["alice"], clock))
        said.add((type(caught.value), str(caught.value)))
        reasons.append(pipelit.audit.list(limit=1)[0].reason)
    assert len(said) == 1
    assert reasons == ["wrong code", "inactive", "no second factor"]


def test_an_answer_decides_one_question(pipelit: Pipelit, people: People) -> None:
    """The same thing asked twice is two questions, and the code of one is spent."""
    first, second = asked(pipelit), asked(pipelit)
    code = people.code("alice")
    pipelit.approvals.decide(first, "alice", code)
    with pytest.raises(CodeRejected):
        pipelit.approvals.decide(second, "alice", code)
    assert pipelit.approvals.get(second).state == "pending"


@pytest.mark.parametrize("ending", ["approved", "denied", "used", "expired"])
def test_a_closed_question_is_answered_no_more(
    pipelit: Pipelit, people: People, clock: Clock, ending: str
) -> None:
    """An id that was used is refused in words, and no code is spent on it."""
    question = asked(pipelit)
    if ending == "denied":
        pipelit.approvals.deny(question, "alice", people.code("alice"))
    elif ending == "expired":
        clock.advance(8 * 86_400)
    else:
        pipelit.approvals.decide(question, "alice", people.code("alice"))
    if ending == "used":
        pipelit.approvals.require(question, approvers=["alice"])
    code = people.code("alice")
    with pytest.raises(ApprovalClosed, match="ask again") as caught:
        pipelit.approvals.decide(question, "alice", code)
    assert ending in str(caught.value)
    pipelit.mfa.verify("alice", code)


@pytest.mark.parametrize(
    "identifier", ["", "apr_", "apr_" + "0" * 32, "' OR 1=1 --", "apr_é", "x\0"]
)
def test_an_unknown_id_is_refused(pipelit: Pipelit, people: People, identifier: str) -> None:
    """Whatever it is made of."""
    with pytest.raises(ApprovalNotFound):
        pipelit.approvals.get(identifier)
    with pytest.raises(ApprovalNotFound):
        pipelit.approvals.decide(identifier, "alice", people.code("alice"))
    with pytest.raises(NotPermitted):
        pipelit.approvals.require(identifier, approvers=["alice"])


def test_an_attempt_is_the_persons_own_where_code_acts_for_her(
    pipelit: Pipelit, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that strangers who answer as alice are counted apart from alice."""
    seen: list[bool] = []
    verify = identity_of(pipelit).codes.verify_person

    def noted(username: str, code: str, *, own: bool, unfit: str) -> Any:
        seen.append(own)
        return verify(username, code, own=own, unfit=unfit)

    monkeypatch.setattr(identity_of(pipelit).codes, "verify_person", noted)
    pipelit.approvals.decide(asked(pipelit), "alice", people.code("alice"))
    with pipelit.acting_for("bob"):
        pipelit.approvals.deny(asked(pipelit), "alice", people.code("alice"))
    with pipelit.acting_for("alice"):
        pipelit.approvals.decide(asked(pipelit), "alice", people.code("alice"))
    pipelit.mfa.approve("alice", people.code("alice"), digest=DIGEST)
    assert seen == [False, False, True, True]


# Denials


def test_a_denial_afterwards_voids_an_approval(pipelit: Pipelit, people: People) -> None:
    """By the same person, or by another who was asked; of the same thing only."""
    first = approved(people, "alice", "bob")
    other = pipelit.approvals.request("other", approvers=["alice"]).id
    pipelit.approvals.decide(other, "alice", people.code("alice"))
    pipelit.approvals.deny(first, "bob", people.code("bob"), reason="too much")
    assert pipelit.approvals.get(first).state == "denied"
    refused(pipelit, "denied", "alice", "bob")
    pipelit.approvals.require(other, approvers=["alice"])


def test_a_denial_voids_the_same_thing_that_was_asked_elsewhere(
    pipelit: Pipelit, people: People
) -> None:
    """What acts knows the digest only, so a denied one isn't paid by another thread's yes."""
    first = approved(people, "alice", "bob")
    second = asked(pipelit, "bob")
    pipelit.approvals.deny(second, "bob", people.code("bob"))
    refused(pipelit, "denied", "alice", "bob")
    refused(pipelit, "denied", wanted=first)
    assert pipelit.approvals.get(first).state == "denied"


def test_a_denial_by_one_who_was_not_asked_there_counts_where_she_is_named(
    pipelit: Pipelit, people: People
) -> None:
    """What acts names alice and bob: bob's no is a no."""
    pipelit.mfa.approve("alice", people.code("alice"), digest=DIGEST)
    pipelit.mfa.deny("bob", people.code("bob"), digest=DIGEST)
    refused(pipelit, "'bob' denied it afterwards", "alice", "bob")
    pipelit.approvals.require(DIGEST, approvers=["alice"])


@pytest.mark.parametrize("hidden", ["approved", "pending", "used", "expired"])
@pytest.mark.parametrize("proof", ["code", "acting_for"])
def test_a_denial_that_is_deleted_counts_still(
    pipelit: Pipelit, people: People, thief: Callable[..., int], hidden: str, proof: str
) -> None:
    """It is under the tag of each approval, also of one whose state was changed meanwhile."""
    first, second = approved(people), approved(people, "alice", "mallory")
    thief("UPDATE pipelit_approvals SET state = :hidden", hidden=hidden)
    if proof == "code":
        pipelit.mfa.deny("bob", people.code("bob"), digest=DIGEST)
    else:
        with pipelit.acting_for("bob"):
            pipelit.mfa.deny("bob", None, digest=DIGEST)
    thief("DELETE FROM pipelit_approval_answers WHERE verdict = 'denied'")
    thief("UPDATE pipelit_approvals SET state = 'approved' WHERE state <> 'denied'")
    for wanted in (DIGEST, first, second):
        refused(pipelit, "'bob' denied it afterwards", "alice", "bob", wanted=wanted)
    # Bob stops only where he is named.
    pipelit.approvals.require(first, approvers=["alice", "mallory"])


def test_who_denied_is_not_taken_out_of_an_approval(
    pipelit: Pipelit, people: People, thief: Callable[..., int]
) -> None:
    """Without the key no name is taken out, replaced or added, and each denial stays."""
    question = approved(people)
    for name in ("mallory", "bob", "mallory"):
        pipelit.mfa.deny(name, people.code(name), digest=DIGEST)
    thief("DELETE FROM pipelit_approval_answers WHERE verdict = 'denied'")
    refused(pipelit, "'mallory' denied", "alice", "mallory", wanted=question)
    refused(pipelit, "'bob' denied", "alice", "bob", wanted=question)
    for names in ("", '["mallory"]', '["carol"]', "[]", "x", '["mallory", "bob", "alice"]'):
        thief(
            "UPDATE pipelit_approvals SET denied_by = :names WHERE id = :id",
            names=names,
            id=question,
        )
        refused(pipelit, "was changed", wanted=question)


def test_an_unproven_denial_is_not_under_an_approval(pipelit: Pipelit, people: People) -> None:
    """Anybody can say that bob denies it: that stops nothing, also where bob is named."""
    question = approved(people)
    pipelit.mfa.deny("bob", None, digest=DIGEST)
    pipelit.approvals.require(question, approvers=["alice", "bob"])


def test_an_approval_after_a_denial_is_good(pipelit: Pipelit, people: People) -> None:
    """She has thought better of it; and the clock may have been set back in between."""
    question = asked(pipelit)
    pipelit.approvals.deny(question, "alice", people.code("alice"))
    approved(people)
    assert pipelit.approvals.require(DIGEST, approvers=["alice"]).actor == "alice"


def test_a_used_approval_is_denied_no_more(pipelit: Pipelit, people: People) -> None:
    """What was done can't be stopped, and it is said."""
    question = approved(people)
    pipelit.approvals.require(question, approvers=["alice"])
    with pytest.raises(ApprovalClosed, match="was used"):
        pipelit.approvals.deny(question, "alice", people.code("alice"))


def test_a_stranger_stops_nothing_without_a_code(pipelit: Pipelit, people: People) -> None:
    """Naming alice denies nothing; code that acts for her, with her API key, needs no code."""
    question, other = approved(people), asked(pipelit)
    for each in (question, other):
        with pytest.raises(NotPermitted, match="acting_for"):
            pipelit.approvals.deny(each, "alice")
    with pipelit.acting_for("mallory"), pytest.raises(NotPermitted, match="acting_for"):
        pipelit.approvals.deny(question, "alice")
    pipelit.mfa.deny("alice", None, digest=DIGEST)
    assert pipelit.approvals.get(other).state == "pending"
    with pytest.raises(ApprovalClosed):
        pipelit.approvals.deny(question, "alice", unproven=True)
    assert pipelit.approvals.get(question).state == "approved"
    with pipelit.acting_for("alice"):
        denied = pipelit.approvals.deny(question, "alice")
    assert (denied.factor, denied.proven) == ("vouched", False)
    refused(pipelit, "denied")


def test_an_unproven_denial_ends_its_question_alone(pipelit: Pipelit, people: People) -> None:
    """For who asked and can ask again; what alice approved elsewhere stays good."""
    first, second = approved(people), asked(pipelit)
    denied = pipelit.approvals.deny(second, "alice", unproven=True)
    assert (denied.factor, pipelit.approvals.get(second).state) == ("", "denied")
    assert pipelit.approvals.get(first).state == "approved"
    assert pipelit.approvals.require(DIGEST, approvers=["alice"]).id == first


def test_who_was_deactivated_denies_nothing(pipelit: Pipelit, people: People) -> None:
    """With a code, without one, or by an application that acts for her."""
    question, code = asked(pipelit, "alice", "bob"), people.code("alice")
    pipelit.users.deactivate("alice")
    with pytest.raises(CodeRejected):
        pipelit.approvals.deny(question, "alice", code)
    with pipelit.acting_for("alice"), pytest.raises(UserInactive):
        pipelit.approvals.deny(question, "alice")
    with pytest.raises(UserInactive):
        pipelit.mfa.deny("alice", None, digest=DIGEST)
    assert pipelit.approvals.get(question).state == "pending"


# What voids an approval


@pytest.mark.parametrize("how", ["reset", "disabled", "enrolled again", "deactivated"])
def test_an_approval_ends_with_the_second_factor_or_the_account(
    pipelit: Pipelit, people: People, how: str
) -> None:
    """A phone that was stolen, a person who left: what wasn't used by then is void."""
    approved(people)
    if how == "deactivated":
        pipelit.users.deactivate("alice")
    elif how == "disabled":
        pipelit.mfa.disable("alice", people.code("alice"))
    else:
        pipelit.mfa.reset("alice")
    if how == "enrolled again":
        people.enroll("alice")
    refused(pipelit, "deactivated, or has ended the second factor")


@pytest.mark.parametrize("how", ["deactivated", "enrolled again"])
def test_a_code_of_a_factor_that_ends_meanwhile_approves_nothing(
    pipelit: Pipelit, people: People, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Ended between the check of the code and the answer: it is refused like a wrong code."""
    verify = identity_of(pipelit).codes.verify_person

    def ends_after(username: str, code: str, *, own: bool, unfit: str) -> Any:
        found = verify(username, code, own=own, unfit=unfit)
        if how == "deactivated":
            pipelit.users.deactivate("alice")
        else:
            pipelit.mfa.reset("alice")
            monkeypatch.undo()
            people.enroll("alice")
        return found

    question, code = asked(pipelit, "alice", "bob"), people.code("alice")
    monkeypatch.setattr(identity_of(pipelit).codes, "verify_person", ends_after)
    with pytest.raises(CodeRejected):
        pipelit.approvals.decide(question, "alice", code)
    assert pipelit.approvals.get(question).state == "pending"
    refused(pipelit, "nobody has answered", "alice", "bob")


def test_what_was_used_before_is_as_it_was(pipelit: Pipelit, people: People) -> None:
    """A reset afterwards changes nothing about who approved it."""
    question = approved(people)
    pipelit.approvals.require(question, approvers=["alice"])
    pipelit.mfa.reset("alice")
    found = pipelit.approvals.get(question)
    assert (found.state, [each.actor for each in found.decisions]) == ("used", ["alice"])


def test_an_approver_is_one_who_was_asked_and_who_is_named(
    pipelit: Pipelit, people: People
) -> None:
    """One who was taken off the list since doesn't count, nor one who is put on it."""
    question = approved(people, "alice", "bob")
    refused(pipelit, "none of the required approvers", "bob")
    refused(pipelit, "none of the required approvers", "mallory", wanted=question)
    pipelit.approvals.require(question, approvers=["alice"])


def test_an_approval_is_used_within_a_time(pipelit: Pipelit, people: People, clock: Clock) -> None:
    """Longer ago than is allowed here, but not than elsewhere; then it expires altogether."""
    approved(people)
    clock.advance(3601)
    refused(pipelit, "longer ago than is allowed")
    with pytest.raises(NotPermitted, match="longer ago"):
        pipelit.mfa.require_approved(DIGEST, approvers=["alice"])
    assert pipelit.approvals.require(DIGEST, approvers=["alice"], within=2 * HOUR)
    approved(people)
    clock.advance(7 * 86_400)
    with pytest.raises(NotPermitted, match="expired"):
        pipelit.approvals.require(DIGEST, approvers=["alice"], within=30 * 86_400)


# Clocks


@pytest.mark.parametrize("jump", [-(10**8), -3600, 3600, 3600 * 24 * 366 * 20])
def test_a_used_approval_stays_used_whatever_the_clock_does(
    pipelit: Pipelit, people: People, clock: Clock, jump: int
) -> None:
    """There and back again; by digest and by id."""
    question = approved(people)
    pipelit.approvals.require(DIGEST, approvers=["alice"])
    for step in (jump, -jump, -jump, jump):
        clock.advance(step)
        refused(pipelit, "may not be done")
        refused(pipelit, "may not be done", wanted=question)


def test_a_clock_that_is_set_back_revives_nothing(
    pipelit: Pipelit, people: People, clock: Clock
) -> None:
    """What was seen to be expired stays so, approved or not."""
    question, pending = approved(people), asked(pipelit, "bob")
    clock.advance(8 * 86_400)
    refused(pipelit, "has expired at")
    code = people.code("bob")
    with pytest.raises(ApprovalClosed, match="expired"):
        pipelit.approvals.decide(pending, "bob", code)
    clock.advance(-8 * 86_400)
    refused(pipelit, "has expired", wanted=question)
    assert pipelit.approvals.get(question).state == "expired"
    assert pipelit.approvals.get(pending).state == "expired"
    with pytest.raises(ApprovalClosed, match="expired"):
        pipelit.approvals.decide(pending, "bob", people.code("bob"))


def test_what_a_clock_that_was_ahead_made_is_refused_and_named(
    pipelit: Pipelit, people: People, clock: Clock
) -> None:
    """It would be good for years: it is refused, and ended when it is first seen."""
    asked_before = pipelit.approvals.request(PAYMENT, approvers=["alice"], expires_in=366 * 86_400)
    clock.advance(300 * 86_400)
    pipelit.approvals.decide(asked_before.id, "alice", people.code("alice"))
    asked_ahead, open_ahead = approved(people), asked(pipelit, "bob", what="x")
    clock.advance(-300 * 86_400)
    refused(pipelit, "approved in the future", wanted=asked_before.id)
    refused(pipelit, "asked in the future, at 20", wanted=asked_ahead)
    assert open_ahead not in [each.id for each in pipelit.approvals.pending()]
    with pytest.raises(ApprovalClosed, match="asked in the future"):
        pipelit.approvals.decide(open_ahead, "bob", people.code("bob"))
    clock.advance(300 * 86_400 + 60)
    for each in (asked_before.id, asked_ahead):
        refused(pipelit, "expired", wanted=each)


def test_a_clock_may_be_set_back_a_little(pipelit: Pipelit, people: People, clock: Clock) -> None:
    """By what a time server does to a running machine."""
    approved(people)
    clock.advance(-2)
    assert pipelit.approvals.require(DIGEST, approvers=["alice"])


def test_without_a_clock_of_the_tests_it_goes_by_the_databases(
    pipelit: Pipelit, people: People, settings: dict[str, Any]
) -> None:
    """The server's, or the machine's where the database is a file."""
    with Pipelit(**settings) as real:
        before = datetime.now(UTC) - timedelta(seconds=60)
        question = real.approvals.request(PAYMENT, approvers=["alice"], expires_in=HOUR)
        real.approvals.decide(question.id, "alice", people.recovery["alice"][0])
        used = real.approvals.require(DIGEST, approvers=["alice"])
    assert before < question.created_at <= used.at < before + timedelta(minutes=10)


# A thief of the database, who hasn't the key


def test_a_planted_approval_is_none(
    pipelit: Pipelit,
    people: People,
    thief: Callable[..., int],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    """Made up, or with the tags of one that is real."""
    real = approved(people)
    question = next(row for row in rows("pipelit_approvals") if row["id"] == real)
    (answer,) = rows("pipelit_approval_answers")
    planted = "apr_" + "1" * 32
    wanted = approval_digest({"pay": 900, "to": "mallory"})
    for number, (identifier, digest) in enumerate(((planted, wanted), ("apr_" + "2" * 32, DIGEST))):
        del answer["seq"]
        for table, values in (
            ("pipelit_approvals", question | {"id": identifier, "digest": digest}),
            (
                "pipelit_approval_answers",
                answer | {"approval_id": identifier, "digest": digest},
            ),
        ):
            names = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            thief(f"INSERT INTO {table} ({names}) VALUES ({marks})", **values)  # noqa: S608
        refused(pipelit, "was changed, or was made with a key", wanted=identifier)
        answer["seq"] = number
    refused(pipelit, "was changed, or was made with a key", wanted=wanted)
    # By digest the real one is found, and beside the planted one it is good once.
    assert pipelit.approvals.require(DIGEST, approvers=["alice"]).id == real
    refused(pipelit, "may not be done")
    assert [each.id for each in pipelit.approvals.pending()] == []
    with pytest.raises(ApprovalNotFound, match="was changed"):
        pipelit.approvals.get(planted)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("approvals", "state = 'approved'"),
        ("approvals", 'approvers = \'["alice", "mallory"]\''),
        ("approvals", "digest = '" + approval_digest("pay 900") + "'"),
        ("approvals", "expires_at = expires_at + 86400"),
        ("approvals", "created_at = created_at - 1"),
        ("approvals", "thread = 'another'"),
        ("approvals", "asked_by = 'alice'"),
        ("approvals", "mac = ''"),
        ("approvals", "approvers = 'no list'"),
    ],
)
def test_a_changed_question_is_nobodys(
    pipelit: Pipelit, people: People, thief: Callable[..., int], table: str, change: str
) -> None:
    """Alice's code decides only what was asked; mallory isn't asked because a row says so."""
    question = asked(pipelit)
    thief(f"UPDATE pipelit_{table} SET {change}")  # noqa: S608 - the thief's words
    assert pipelit.approvals.pending() == []
    for name in ("alice", "mallory"):
        code = people.code(name)
        with pytest.raises(ApprovalNotFound, match="was changed"):
            pipelit.approvals.decide(question, name, code)
        pipelit.mfa.verify(name, code)
    refused(pipelit, "was changed", "alice", "mallory", wanted=question)
    assert pipelit.audit.list(limit=1)[0].reason == "not under our keys"


@pytest.mark.parametrize(
    "change",
    [
        "at = at + 3000",
        "username = 'bob'",
        "factor = 'x'",
        "factor_kind = 'recovery'",
        "mac = ''",
        "mac = '" + "0" * 64 + "'",
        "verdict = 'denied'",
    ],
)
def test_a_changed_answer_is_no_answer(
    pipelit: Pipelit, people: People, thief: Callable[..., int], change: str
) -> None:
    """Made younger, given to another person, or wiped."""
    approved(people, "alice", "bob")
    thief(f"UPDATE pipelit_approval_answers SET {change}")  # noqa: S608 - the thief's words
    refused(pipelit, "may not be done", "alice", "bob")


@pytest.mark.parametrize("ending", ["used", "denied", "expired"])
def test_an_approval_that_ended_is_not_turned_back(
    pipelit: Pipelit, people: People, clock: Clock, thief: Callable[..., int], ending: str
) -> None:
    """By the words in the rows and without what else was written: the tag is of how it ended."""
    question = approved(people)
    if ending == "used":
        pipelit.approvals.require(DIGEST, approvers=["alice"])
        thief("DELETE FROM pipelit_approval_uses")
    elif ending == "denied":
        pipelit.approvals.deny(question, "alice", people.code("alice"))
        thief("DELETE FROM pipelit_approval_answers WHERE verdict = 'denied'")
    else:
        clock.advance(8 * 86_400)
        refused(pipelit, "expired")
        clock.advance(-8 * 86_400)
    thief("UPDATE pipelit_approvals SET state = 'approved'")
    refused(pipelit, "was changed")
    refused(pipelit, "was changed", wanted=question)


def put_back(thief: Callable[..., int], table: str, copies: list[dict[str, Any]]) -> None:
    """Replaces a table's rows by a copy of them."""
    thief(f"DELETE FROM {table}")  # noqa: S608 - our names
    for row in copies:
        marks = ", ".join(f":{name}" for name in row)
        thief(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", **row)  # noqa: S608


def test_an_older_copy_of_the_rows_is_not_enough(
    pipelit: Pipelit,
    people: People,
    thief: Callable[..., int],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    """Put back after it was used or denied: the use and the denial are written down elsewhere."""
    question = approved(people)
    tables = ("pipelit_approvals", "pipelit_approval_answers")
    before = {table: rows(table) for table in tables}
    pipelit.approvals.require(DIGEST, approvers=["alice"])
    for table in tables:
        put_back(thief, table, before[table])
    refused(pipelit, "used before")
    assert pipelit.approvals.get(question).state == "used"
    with pytest.raises(ApprovalClosed):
        pipelit.approvals.deny(question, "alice", people.code("alice"))
    other = approved(people)
    before = {table: rows(table) for table in tables}
    pipelit.approvals.deny(other, "alice", people.code("alice"))
    put_back(thief, "pipelit_approvals", before["pipelit_approvals"])
    refused(pipelit, "'alice' denied it afterwards", wanted=other)
    # Also if somebody denied it who wasn't asked there, and is named by the code that acts.
    third = approved(people)
    before = {table: rows(table) for table in tables}
    pipelit.mfa.deny("bob", people.code("bob"), digest=DIGEST)
    put_back(thief, "pipelit_approvals", before["pipelit_approvals"])
    refused(pipelit, "'bob' denied it afterwards", "alice", "bob", wanted=third)
    pipelit.approvals.require(third, approvers=["alice"])


def test_who_is_inactive_by_a_write_to_the_table_has_left_too(
    pipelit: Pipelit, people: People, thief: Callable[..., int]
) -> None:
    """However it came about: the account is asked when the approval is used."""
    approved(people)
    thief("UPDATE pipelit_users SET active = false WHERE username = 'alice'")
    refused(pipelit, "'alice' has since been deactivated")


def test_who_left_is_not_brought_back(
    pipelit: Pipelit, people: People, thief: Callable[..., int]
) -> None:
    """Made active again by a write to the table: what was approved before stays void."""
    approved(people)
    pipelit.users.deactivate("alice")
    thief("UPDATE pipelit_users SET active = true WHERE username = 'alice'")
    refused(pipelit, "deactivated")


@pytest.mark.parametrize("planted", ["state", "use", "verdict", "name"])
@pytest.mark.parametrize("ending", ["deactivate", "reset"])
def test_what_is_changed_before_a_person_leaves_keeps_no_approval(
    pipelit: Pipelit, people: People, thief: Callable[..., int], planted: str, ending: str
) -> None:
    """Words that are changed before, and changed back afterwards, bring nothing back."""
    approved(people)
    before, back = {
        "state": (
            "UPDATE pipelit_approvals SET state = 'pending'",
            "UPDATE pipelit_approvals SET state = 'approved'",
        ),
        "use": (
            "INSERT INTO pipelit_approval_uses (approval_id, used_at) "
            "SELECT id, 1 FROM pipelit_approvals",
            "DELETE FROM pipelit_approval_uses",
        ),
        "verdict": (
            "UPDATE pipelit_approval_answers SET verdict = 'denied'",
            "UPDATE pipelit_approval_answers SET verdict = 'approved'",
        ),
        "name": (
            "UPDATE pipelit_approval_answers SET username = 'bob'",
            "UPDATE pipelit_approval_answers SET username = 'alice'",
        ),
    }[planted]
    thief(before)
    getattr(pipelit.users if ending == "deactivate" else pipelit.mfa, ending)("alice")
    thief(back)
    thief("UPDATE pipelit_users SET active = true WHERE username = 'alice'")
    refused(pipelit, "ended")
    if planted == "state":
        refused(pipelit, "deactivated, or has ended the second factor")


@pytest.mark.parametrize("secret", ["NULL", "(SELECT totp_secret FROM pipelit_users u2 "])
def test_another_second_factor_in_her_row_is_not_hers(
    pipelit: Pipelit, people: People, thief: Callable[..., int], secret: str
) -> None:
    """Mallory's, copied to alice, opens nothing; and what alice approved by hers isn't good."""
    approved(people)
    value = secret if secret == "NULL" else f"{secret}WHERE u2.username = 'mallory')"
    thief(f"UPDATE pipelit_users SET totp_secret = {value} WHERE username = 'alice'")  # noqa: S608
    with pytest.raises((UnsealError, CodeRejected)):
        pipelit.approvals.decide(asked(pipelit, "alice", "bob"), "alice", people.code("mallory"))
    refused(pipelit, "second factor with which 'alice' approved it has since been ended")


def test_a_planted_recovery_code_approves_nothing(
    pipelit: Pipelit, people: People, thief: Callable[..., int]
) -> None:
    """A digest of the thief's own choice, with and without the tag of a code that is real."""
    from pipelit_agents.accounts.recovery_codes import digest_of_code

    code = "ABCD-EFGH-IJKL-MNOP"
    question = asked(pipelit)
    thief(
        "INSERT INTO pipelit_recovery_codes (digest, username, factor, mac) "
        "SELECT :digest, username, factor, mac FROM pipelit_recovery_codes "
        "WHERE username = 'alice' LIMIT 1",
        digest=digest_of_code("alice", code),
    )
    with pytest.raises(CodeRejected):
        pipelit.approvals.decide(question, "alice", code)
    thief("UPDATE pipelit_recovery_codes SET mac = ''")
    for each in (code, people.recovery["alice"][0]):
        with pytest.raises(CodeRejected):
            pipelit.approvals.decide(question, "alice", each)
    assert pipelit.approvals.get(question).state == "pending"


def test_a_used_recovery_code_is_not_made_new(
    pipelit: Pipelit, people: People, thief: Callable[..., int]
) -> None:
    """One that was looked up over her shoulder, or one of a factor that was reset."""
    code = people.recovery["alice"][0]
    pipelit.approvals.decide(asked(pipelit), "alice", code)
    thief("UPDATE pipelit_recovery_codes SET used_at = NULL WHERE used_at IS NOT NULL")
    with pytest.raises(CodeRejected):
        pipelit.approvals.decide(asked(pipelit), "alice", code)


def test_what_is_shown_is_what_was_asked(
    pipelit: Pipelit, people: People, thief: Callable[..., int]
) -> None:
    """The ciphertext of a harmless question, put into another's row, is shown to nobody."""
    harmless = asked(pipelit, what="pay 1 to the zoo")
    harmful = asked(pipelit, what="pay 900 to mallory")
    thief(
        "UPDATE pipelit_approvals SET shown = (SELECT a.shown FROM pipelit_approvals a "
        "WHERE a.id = :harmless) WHERE id = :harmful",
        harmless=harmless,
        harmful=harmful,
    )
    with pytest.raises(UnsealError):
        pipelit.approvals.get(harmful)
    assert [each.id for each in pipelit.approvals.pending("alice")] == [harmless]


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "change",
    ["created_at = 'soon'", "expires_at = 9e999", "state = x'00ff'", "approvers = '[[[]]]'"],
)
def test_rows_of_another_form_are_nobodys(
    pipelit: Pipelit, people: People, thief: Callable[..., int], change: str
) -> None:
    """SQLite takes any type in any column; it is refused, and nothing else fails by it."""
    asked(pipelit, what="x")
    good = approved(people)
    thief(f"UPDATE pipelit_approvals SET {change} WHERE id <> '{good}'")  # noqa: S608
    assert pipelit.approvals.pending() == []
    pipelit.approvals.require(good, approvers=["alice"])


def test_the_audit_is_no_approval(pipelit: Pipelit, people: People) -> None:
    """A row that says that alice approved it, however it came there, approves nothing."""
    with database_of(pipelit).writing() as connection:
        connection.execute(
            text(
                "INSERT INTO pipelit_audit (at, actor, subject, action, outcome, reason, run, "
                "node, thread) VALUES (:at, 'alice', 'alice', 'approve', 'ok', :digest, '', '', '')"
            ),
            {"at": 1_800_000_000.0, "digest": DIGEST},
        )
    refused(pipelit, "none of the approvers has approved this")
    with pytest.raises(NotPermitted, match="isn't a digest"):
        pipelit.mfa.require_approved("", approvers=["alice"])


def test_every_field_is_under_the_tag() -> None:
    """Of a question and of an answer; and no end of a field is the beginning of the next."""
    question = {
        "id": "apr_" + "0" * 32,
        "digest": DIGEST,
        "approvers": '["alice"]',
        "asked_by": "operator",
        "thread": "t1",
        "created_at": 1.0,
        "expires_at": 2.0,
        "state": "approved",
        "denied_by": "",
    }
    answer = {
        "approval_id": question["id"],
        "digest": DIGEST,
        "username": "alice",
        "verdict": "approved",
        "factor_kind": "plain",
        "factor": "f",
        "at": 1.5,
    }
    keyring = Keyring(Keyring.generate_key())

    def tags_of(question: dict[str, Any], answer: dict[str, Any]) -> tuple[str, str]:
        asked, given = tags.QuestionRow(**question), tags.AnswerRow(**answer)
        return (
            keyring.mac(tags.REQUEST, *tags.question_fields(asked)),
            keyring.mac(tags.ANSWER, *tags.answer_fields(asked, given)),
        )

    both = tags_of(question, answer)
    assert both[0] != both[1]
    other_id = "apr_" + "1" * 32
    for field, value in {
        "approvers": '["alice","bob"]',
        "asked_by": "mallory",
        "thread": "t2",
        "created_at": 1.1,
        "expires_at": 3.0,
    }.items():
        changed = tags_of(question | {field: value}, answer)
        assert not set(changed) & set(both), field
    moved = tags_of(question | {"id": other_id}, answer | {"approval_id": other_id})
    assert not set(moved) & set(both)
    assert tags_of(question | {"state": "used"}, answer)[0] != both[0]
    assert tags_of(question | {"denied_by": '["bob"]'}, answer)[0] != both[0]
    for field, value in {
        "username": "bob",
        "verdict": "denied",
        "factor_kind": "recovery",
        "factor": "g",
        "at": 1.6,
    }.items():
        assert tags_of(question, answer | {field: value})[1] != both[1], field
    shifted = answer | {"factor_kind": "plai", "factor": "nf"}
    assert tags_of(question, shifted)[1] != both[1]


# Keys


def test_an_older_key_is_good_until_it_is_taken_out(
    pipelit: Pipelit, people: People, settings: dict[str, Any], clock: Clock
) -> None:
    """An approval under it can be used; without the key it is refused in words."""
    newer = Keyring.generate_key()
    both = settings | {"encryption_keys": [newer, *settings["encryption_keys"]]}
    approved(people)
    question = approved(people)
    with Pipelit(**both, clock=clock) as two:
        two.approvals.require(DIGEST, approvers=["alice"])
        assert two.approvals.get(question).state == "approved"
    with Pipelit(**settings | {"encryption_keys": [newer]}, clock=clock) as alone:
        refused(alone, r"not \(or no longer\) in FIELD_ENCRYPTION_KEY", wanted=question)
        with pytest.raises(ApprovalNotFound, match="FIELD_ENCRYPTION_KEY"):
            alone.approvals.get(question)
        with pytest.raises(ConfigurationError, match="refused to encrypt"):
            alone.approvals.request("x", approvers=["alice"])


@pytest.mark.slow
def test_a_rotation_takes_approvals_along(
    pipelit: Pipelit, people: People, settings: dict[str, Any], clock: Clock
) -> None:
    """All that has a tag, recovery codes too, is counted and is good under the newer key."""
    newer = Keyring.generate_key()
    both = settings | {"encryption_keys": [newer, *settings["encryption_keys"]]}
    used, good, opened = approved(people), approved(people), asked(pipelit, what="x")
    pipelit.approvals.require(used, approvers=["alice"])
    denied = asked(pipelit, "bob")
    pipelit.approvals.deny(denied, "bob", people.recovery["bob"][0], reason="no")
    with Pipelit(**both, clock=clock) as rotating:
        before = rotating.keys.status()
        assert (before.newest, before.unreadable, before.older_can_go) == (0, (), False)
        assert rotating.keys.rotate().status.older == 0
        assert rotating.keys.rotate().resealed == 0
    with Pipelit(**settings | {"encryption_keys": [newer]}, clock=clock) as alone:
        after = alone.keys.status()
        assert (after.older, after.unreadable) == (0, ())
        states = [alone.approvals.get(each).state for each in (used, good, opened, denied)]
        assert states == ["used", "approved", "pending", "denied"]
        assert alone.approvals.get(denied).decisions[0].reason == "no"
        alone.approvals.require(good, approvers=["alice"])
        alone.approvals.decide(opened, "alice", people.recovery["alice"][0])
        with pytest.raises(CodeRejected):
            alone.mfa.verify("bob", people.recovery["bob"][0])


def test_what_no_key_has_tagged_is_named_and_can_be_forgotten(
    pipelit: Pipelit, people: People, settings: dict[str, Any], clock: Clock
) -> None:
    """After the key is lost: approvals and recovery codes go, and it is said which."""
    question = approved(people)
    pipelit.mfa.approve("bob", people.code("bob"), digest=DIGEST)
    with Pipelit(**settings | {"encryption_keys": [Keyring.generate_key()]}, clock=clock) as other:
        named = " ".join(other.keys.status().unreadable)
        assert "4 tags of approvals" in named
        assert "30 tags of recovery codes" in named
        forgotten = other.keys.forget_unreadable()
        assert f"approvals {question}" in forgotten
        assert "recovery_codes of alice" in forgotten
        assert other.keys.status().unreadable == ()
    refused(pipelit, "none of the approvers has approved this", "alice", "bob")


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("what", ["approvals", "recovery_codes of"])
def test_nothing_is_forgotten_that_isnt_on_record(
    pipelit: Pipelit, people: People, settings: dict[str, Any], clock: Clock, what: str
) -> None:
    """Nor is it when the process ends between the two."""
    approved(people)
    tables = {"approvals": "pipelit_approvals", "recovery_codes of": "pipelit_recovery_codes"}
    count = text(f"SELECT count(*) FROM {tables[what]}")  # noqa: S608 - our names
    with database_of(pipelit).writing() as connection:
        stored = connection.scalar(count)
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON pipelit_audit "
            f"WHEN NEW.reason LIKE '{what}%' BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with (
        Pipelit(**settings | {"encryption_keys": [Keyring.generate_key()]}, clock=clock) as other,
        pytest.raises(StorageError, match="full"),
    ):
        other.keys.forget_unreadable()
    with database_of(pipelit).reading() as connection:
        assert stored
        assert connection.scalar(count) == stored


# Many at once


def test_of_many_that_act_at_once_one_may(
    pipelit: Pipelit, people: People, settings: dict[str, Any], clock: Clock
) -> None:
    """Of two processes with ten threads each, by digest and by id."""
    question = approved(people)
    with Pipelit(**settings, clock=clock) as other:

        def act(number: int) -> bool:
            here = pipelit if number % 2 else other
            try:
                here.approvals.require(DIGEST if number % 3 else question, approvers=["alice"])
            except NotPermitted:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(act, range(20))) == 1


def test_of_many_answers_at_once_one_decides(
    pipelit: Pipelit, people: People, clock: Clock
) -> None:
    """Ten recovery codes of two people, yes and no: one answer is written down."""
    question = asked(pipelit, "alice", "bob")

    def answer(number: int) -> bool:
        name = ("alice", "bob")[number % 2]
        code = people.recovery[name][number // 2]
        try:
            if number % 3:
                pipelit.approvals.decide(question, name, code)
            else:
                pipelit.approvals.deny(question, name, code)
        except PipelitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(answer, range(10)))
    found = pipelit.approvals.get(question)
    assert len(found.decisions) == answered
    # A no may follow a yes, and nothing follows a no.
    assert [each.decision for each in found.decisions] in (
        ["approved", "denied"],
        ["denied"],
        ["approved"],
    )
    assert found.state == found.decisions[-1].decision


# Arguments


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda a: a.request("x", approvers="alice"), TypeError, "list of usernames.*not str"),
        (lambda a: a.request("x", approvers=5), TypeError, "list of usernames"),
        (lambda a: a.request("x", approvers=[]), ValueError, "approvers is empty"),
        (lambda a: a.request("x", approvers=["Alice"]), InvalidUsername, "approvers"),
        (lambda a: a.request({1: 2}, approvers=["alice"]), PayloadError, "text keys"),
        (lambda a: a.request("x" * 2**21, approvers=["alice"]), PayloadError, "allowed"),
        (lambda a: a.request("x", approvers=["alice"], expires_in=0), ValueError, "expires_in"),
        (lambda a: a.request("x", approvers=["alice"], expires_in=-1), ValueError, "expires_in"),
        (lambda a: a.request("x", approvers=["alice"], expires_in=1e99), ValueError, "366 days"),
        (
            lambda a: a.request("x", approvers=["alice"], expires_in=float("nan")),
            ValueError,
            "more than 0",
        ),
        (lambda a: a.request("x", approvers=["alice"], expires_in="1h"), TypeError, "timedelta"),
        (lambda a: a.request("x", approvers=["alice"], expires_in=True), TypeError, "timedelta"),
        (
            lambda a: a.request("x", approvers=["alice"], asked_by="A B"),
            InvalidUsername,
            "asked_by",
        ),
        (lambda a: a.request("x", approvers=["alice"], thread=5), TypeError, "thread"),
        (lambda a: a.decide(5, "alice", "123456"), TypeError, "id must be text"),
        (lambda a: a.deny("x", "alice", "123456", reason=5), TypeError, "reason must be text"),
        (lambda a: a.deny("x", "alice", reason="x" * 1001), ValueError, "1,000 characters"),
        (lambda a: a.deny("x", "alice", reason="\ud800"), ValueError, "lone surrogate"),
        (lambda a: a.require(DIGEST, approvers="alice"), TypeError, "list of usernames"),
        (lambda a: a.require(DIGEST, approvers=[]), ValueError, "approvers is empty"),
        (lambda a: a.require(PAYMENT, approvers=["alice"]), TypeError, "approval_digest"),
        (lambda a: a.require("pay", approvers=["alice"]), NotPermitted, "approval_digest"),
        (lambda a: a.require(DIGEST, approvers=["alice"], within=0), ValueError, "within"),
    ],
)
@pytest.mark.backends("sqlite")
def test_bad_arguments_are_named(
    pipelit: Pipelit, call: Callable[[Approvals], Any], error: type[Exception], says: str
) -> None:
    """The argument, and what it must be."""
    with pytest.raises(error, match=says):
        call(pipelit.approvals)


@pytest.mark.backends("sqlite")
def test_the_digest_is_of_the_json(pipelit: Pipelit) -> None:
    """The order of keys makes no difference, types do; the old name is the same function."""
    from pipelit_agents.graphs import approval_digest as old

    assert old is approval_digest
    assert approval_digest({"b": 1, "a": [1, 2]}) == approval_digest(
        json.loads('{"a": [1, 2], "b": 1}')
    )
    assert len({approval_digest(each) for each in (1, "1", 1.0, True, [1])}) == 5
