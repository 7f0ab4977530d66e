"""The stored form of questions and answers: tags of older rows stay valid, and fields can't mix."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest
from approving import Approving
from earlier_schema import take_back
from sqlalchemy import create_engine

from pipelit_agents import Approvers, Keyring, Pipelit
from pipelit_agents.approvals import tags
from pipelit_agents.errors import NotPermitted

KEYRING = Keyring(urlsafe_b64encode(bytes(range(32))).decode())
QUESTION = tags.QuestionRow(
    id="apr_" + "0123456789abcdef" * 2,
    digest="ab" * 32,
    approvers='["alice", "bob"]',
    asked_by="operator",
    thread="thread_1",
    created_at=1_800_000_000.0,
    expires_at=1_800_000_900.5,
    state="approved",
)
ANSWER = tags.AnswerRow(
    approval_id=QUESTION.id,
    digest=QUESTION.digest,
    username="alice",
    verdict="approved",
    factor_kind="plain",
    factor="00ff" * 8,
    at=1_800_000_030.25,
)
STEPS = (
    '[{"at_least":1,"people":["alice"],"until":1800000300.0},'
    '{"at_least":2,"people":["alice","bob"],"until":1800000900.5}]'
)
CALL = QUESTION._replace(agent="agent_payer", rule=STEPS, call="cd" * 32, starts=1, state="used")


def question_tag(row: tags.QuestionRow) -> str:
    """The tag of a question."""
    return KEYRING.mac(tags.REQUEST, *tags.question_fields(row))


def answer_tag(row: tags.QuestionRow) -> str:
    """The tag of the answer to a question."""
    return KEYRING.mac(tags.ANSWER, *tags.answer_fields(row, ANSWER))


def test_tags_never_change() -> None:
    """The first three were made by the version before the second form; stored rows have them."""
    assert [
        question_tag(QUESTION),
        question_tag(QUESTION._replace(denied_by='["bob"]')),
        answer_tag(QUESTION),
        question_tag(CALL),
        answer_tag(CALL),
    ] == [
        "b482b14706845cb59fe0bc9adc3a41debb03396c74064a6d50df607bfa60c4f9",
        "16192e2b09c6a0a8c74bb3071dd76cf5bbcf79168c5bff5fefd7cbfa2b244cf2",
        "684e217cc87de12701685addbc0e36f8f48e2a0343c8968baa37c8e862954e28",
        "0a3d610f1b372fdbe22f118a279b883a703eae915ef872915fd8a29859d9fc09",
        "b938c417b9d8bd679c136bfd620345ced8ff206f13e8b1adbb481e0bfe3b2cd2",
    ]


CHANGES: dict[str, Any] = {
    "agent": "agent_other",
    "rule": STEPS.replace('"at_least":2', '"at_least":1'),
    "call": "ce" * 32,
    "asked_by": "carol",
    "thread": "thread_2",
    "created_at": 1_799_999_999.0,
    "digest": "ac" * 32,
}


@pytest.mark.parametrize("field", [*CHANGES, "starts", "state", "denied_by"])
def test_every_field_of_the_second_form_is_under_the_tag(field: str) -> None:
    """Of a question, and what is constant of it also of an answer."""
    changed = CHANGES | {"starts": 2, "state": "suspended", "denied_by": '["bob"]'}
    row = CALL._replace(**{field: changed[field]})
    assert tags.question_fields(row)
    assert question_tag(row) != question_tag(CALL)
    if field in CHANGES and field != "digest":
        assert answer_tag(row) != answer_tag(CALL)
    else:
        assert field == "digest" or answer_tag(row) == answer_tag(CALL)


@pytest.mark.parametrize("field", ["agent", "rule", "call", "starts"])
def test_one_new_field_makes_the_second_form(field: str) -> None:
    """No two rows have the same bytes, with whichever fields empty."""
    row = QUESTION._replace(**{field: getattr(CALL, field)})
    assert tags.question_fields(row)[0] == b"v2"
    tagged = {question_tag(row), question_tag(QUESTION), question_tag(CALL)}
    assert len(tagged) == 3
    assert len(tags.question_fields(row)) == len(tags.question_fields(CALL))


@pytest.mark.parametrize(
    "rule",
    [
        "[]",
        "{}",
        "7",
        "null",
        "[7]",
        "[{}]",
        STEPS.replace(",", ", "),
        STEPS.replace("900.5", "900.25"),
        STEPS.replace("300.0", "901.0"),
        STEPS.replace("1800000300.0", "1700000300.0"),
        STEPS.replace("1800000300.0", "NaN"),
        STEPS.replace("1800000300.0", '"x"'),
        STEPS.replace('"at_least":2', '"at_least":3'),
        STEPS.replace('"at_least":2', '"at_least":0'),
        STEPS.replace('"at_least":1', '"at_least":true'),
        STEPS.replace('["alice"]', "[]"),
        STEPS.replace('["alice"]', '"alice"'),
        STEPS.replace('["alice"]', '["Alice"]'),
        STEPS.replace('["alice"]', '["carol"]'),
        STEPS.replace('["alice","bob"]', '["alice","alice"]'),
        STEPS.replace('{"at_least":1', '{"at_least":2,"at_least":1'),
        "[" * 100_000,
    ],
)
def test_a_malformed_rule_has_no_tag(rule: str) -> None:
    """Nothing is read from it, whoever has tagged it."""
    row = CALL._replace(rule=rule)
    assert tags.steps_of(row) == ()
    assert tags.question_fields(row) == []
    assert tags.answer_fields(row, ANSWER) == []


def test_steps_follow_each_other() -> None:
    """The first begins with the question, and the last ends with it."""
    first, second = tags.steps_of(CALL)
    assert first == tags.Step(("alice",), 1, CALL.created_at, 1_800_000_300.0)
    assert second == tags.Step(("alice", "bob"), 2, 1_800_000_300.0, CALL.expires_at)
    at = [tags.step_at([first, second], CALL.created_at + each) for each in (0, 299, 300, 9999)]
    assert at == [first, first, second, second]
    assert tags.steps_of(QUESTION) == (
        tags.Step(("alice", "bob"), 1, QUESTION.created_at, QUESTION.expires_at),
    )


def test_rows_from_before_the_migration_stay_valid(approving: Approving) -> None:
    """Open, approved, denied and used questions are what they were, and a use stays a use."""
    approvals = approving.pipelit.approvals
    pending, good, denied, used = (
        approvals.request(each, approvers=["alice", "bob"]).id for each in "pgdu"
    )
    for each in (good, used):
        approving.approve(each, "alice")
    approvals.require(used, approvers=["alice"])
    approvals.deny(denied, "bob", approving.code("bob"))
    engine = create_engine(approving.url)
    with engine.begin() as connection:
        take_back(connection, "0013")
    engine.dispose()
    with Pipelit(**approving.settings, clock=approving.clock) as migrated:
        migrated.create_schema()
        found = [migrated.approvals.get(each).state for each in (pending, good, denied, used)]
        assert found == ["pending", "approved", "denied", "used"]
        (use,) = approving.rows("pipelit_approval_uses")
        assert (use["approval_id"], use["start"], use["result"]) == (used, 1, None)
        for each in (pending, denied, used):
            with pytest.raises(NotPermitted):
                migrated.approvals.require(each, approvers=["alice", "bob"])
        migrated.approvals.require(good, approvers=["alice"])
        migrated.approvals.decide(pending, "bob", approving.code("bob"))
        migrated.approvals.request("x", approvers=Approvers(["alice"]))
