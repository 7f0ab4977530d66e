"""Somebody who writes to the database without the key makes no approval of a tool call."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from approving import Approving

from pipelit_agents import Approvers
from pipelit_agents.approvals.calls import Call, CallApprovals
from pipelit_agents.errors import NotPermitted

PAY = Call("send_money", {"to": "bob", "amount": 90}, "call_1", "thread_1", "tools:1", "agent_x")
OTHER = PAY._replace(arguments={"to": "mallory", "amount": 900}, call_id="call_2")
RULE = Approvers(["alice", "bob"], expires_in=900)
TWO = Approvers(["alice", "bob", "carol"], at_least=2, expires_in=900)
LOOSE = Approvers(["alice", "bob", "carol", "mallory"])
QUESTIONS, ANSWERS, USES = (
    "pipelit_approvals",
    "pipelit_approval_answers",
    "pipelit_approval_uses",
)


@pytest.fixture
def calls(approving: Approving) -> CallApprovals:
    """The approvals of tool calls."""
    return approving.pipelit.approvals.calls


def approved(approving: Approving, call: Call = PAY, rule: Approvers = RULE) -> str:
    """The id of the question of a call that enough people have approved."""
    asked = approving.pipelit.approvals.calls.ask(call, rule)
    approving.approve(asked.id, *asked.approvers[: asked.at_least])
    return asked.id


def refused(approving: Approving, says: str, call: Call = PAY, rule: Approvers = RULE) -> None:
    """The call may not start, and the reason is given."""
    with pytest.raises(NotPermitted, match=says):
        approving.pipelit.approvals.calls.start(call, rule)


@pytest.mark.parametrize(
    "change",
    [
        """rule = replace(rule, '"at_least"\\:2', '"at_least"\\:1')""",
        """rule = replace(rule, '"carol"', '"mallory"'), approvers = '["alice", "mallory"]'""",
        "rule = ''",
        "rule = '', call = '', agent = '', starts = 0",
        "rule = '[]'",
        "rule = 'x'",
        "rule = x'00'",
        "agent = 'agent_y'",
        "agent = ''",
        "starts = 1",
        "starts = -1",
        "starts = 'x'",
        "approvers = '[\"alice\"]'",
        "state = 'approved'",
        "state = 'suspended'",
        "thread = 'thread_2'",
        "asked_by = 'carol'",
        "expires_at = expires_at + 1000",
        "mac = ''",
    ],
)
def test_a_changed_question_is_no_question(
    approving: Approving, calls: CallApprovals, change: str
) -> None:
    """Each column is under its tag; the call is asked about again, and others aren't disturbed."""
    asked = calls.ask(PAY, TWO)
    other = calls.ask(OTHER, TWO)
    approving.approve(asked.id, "alice")
    approving.change(f"UPDATE {QUESTIONS} SET {change} WHERE id = :id", id=asked.id)  # noqa: S608 - fixed words
    assert calls.find(PAY) is None
    refused(approving, "nobody was asked about exactly this call", rule=LOOSE)
    with pytest.raises(NotPermitted, match="was changed, or was made with a key"):
        approving.approve(asked.id, "bob")
    assert [each.id for each in approving.pipelit.approvals.pending()] == [other.id]
    again = calls.ask(PAY, TWO)
    assert again.id != asked.id
    refused(approving, "nobody has answered yet", rule=LOOSE)


def test_a_question_is_not_pointed_at_another_call(
    approving: Approving, calls: CallApprovals
) -> None:
    """What was approved for a harmless call doesn't start a harmful one, nor by a swap of tags."""
    harmless = approved(approving)
    harmful = calls.ask(OTHER, RULE)
    kept = approving.rows(QUESTIONS)
    for column in ("call", "mac", "shown", "digest", "id"):
        values = {row["id"]: row[column] for row in kept}
        # The id is swapped by way of another one.
        for old, new in ((harmless, "apr_" + "0" * 32), (harmful.id, harmless)):
            value = new if column == "id" else values[harmless]
            approving.change(
                f"UPDATE {QUESTIONS} SET {column} = :value WHERE id = :id",  # noqa: S608 - fixed words
                value=value,
                id=old,
            )
        with pytest.raises(NotPermitted):
            calls.start(OTHER, RULE)
        approving.change(f"DELETE FROM {QUESTIONS}")  # noqa: S608 - fixed words
        for row in kept:
            names = ", ".join(f'"{name}"' for name in row)
            marks = ", ".join(f":{name}" for name in row)
            approving.change(f"INSERT INTO {QUESTIONS} ({names}) VALUES ({marks})", **row)  # noqa: S608 - fixed words
    calls.start(PAY, RULE)


def test_a_planted_question_hides_none(approving: Approving, calls: CallApprovals) -> None:
    """Rows of the same call are ignored, older ones too, and can't stop people from answering."""
    asked = calls.ask(PAY, RULE)
    (row,) = approving.rows(QUESTIONS)
    for number, changed in enumerate(({"state": "denied"}, {"state": "used"}, {"created_at": 0.0})):
        planted = {**row, "id": f"apr_{number:032}", **changed}
        names = ", ".join(f'"{name}"' for name in planted)
        marks = ", ".join(f":{name}" for name in planted)
        approving.change(f"INSERT INTO {QUESTIONS} ({names}) VALUES ({marks})", **planted)  # noqa: S608 - fixed words
    assert calls.ask(PAY, RULE) == calls.find(PAY) == asked
    approving.approve(asked.id, "alice")
    calls.start(PAY, RULE)


@pytest.mark.parametrize(
    "change",
    [
        "approval_id = :other, digest = (SELECT digest FROM pipelit_approvals WHERE id = :other)",
        "username = 'carol'",
        "verdict = 'approved', approval_id = :other",
    ],
    ids=["moved", "renamed", "moved alone"],
)
def test_an_answer_is_of_its_question_and_person(
    approving: Approving, calls: CallApprovals, change: str
) -> None:
    """Copied to another question, or in another's name, it approves nothing."""
    approved(approving)
    other = calls.ask(OTHER, LOOSE)
    names = "digest, username, verdict, factor_kind, factor, at, reason, mac, approval_id"
    approving.change(
        f"INSERT INTO {ANSWERS} ({names}) SELECT {names} FROM {ANSWERS}"  # noqa: S608 - fixed words
    )
    approving.change(
        f"UPDATE {ANSWERS} SET {change} WHERE seq = (SELECT max(seq) FROM {ANSWERS})",  # noqa: S608 - fixed words
        other=other.id,
    )
    with pytest.raises(NotPermitted):
        calls.start(OTHER, LOOSE)
    found = calls.find(OTHER)
    assert found is not None
    assert (found.state, found.decisions) == ("pending", ())


def test_one_answer_is_not_counted_twice(approving: Approving, calls: CallApprovals) -> None:
    """A copy of alice's answer isn't a second person's."""
    asked = calls.ask(PAY, TWO)
    approving.approve(asked.id, "alice")
    names = "approval_id, digest, username, verdict, factor_kind, factor, at, reason, mac"
    approving.change(f"INSERT INTO {ANSWERS} ({names}) SELECT {names} FROM {ANSWERS}")  # noqa: S608 - fixed words
    refused(approving, "1 of the 2 approvals", rule=TWO)
    assert approving.pipelit.approvals.get(asked.id).state == "pending"


def test_a_used_approval_is_not_restored(approving: Approving, calls: CallApprovals) -> None:
    """Its row of before doesn't start the call again, nor does the deletion of its use."""
    approved(approving)
    before = approving.rows(QUESTIONS)
    calls.start(PAY, RULE)
    after = approving.rows(QUESTIONS)
    approving.put_back(QUESTIONS, before, "id")
    refused(approving, "was approved, and the approval was used")
    found = calls.find(PAY)
    assert found is not None
    assert found.state == "used"
    approving.put_back(QUESTIONS, after, "id")
    approving.change(f"DELETE FROM {USES}")  # noqa: S608 - fixed words
    refused(approving, "the approval was used")
    with pytest.raises(NotPermitted, match="isn't running"):
        calls.suspend(PAY)


def test_a_suspended_call_is_not_restored(approving: Approving, calls: CallApprovals) -> None:
    """Neither its first start nor its second can be repeated."""
    approved(approving)
    states = [approving.rows(QUESTIONS)]
    calls.start(PAY, RULE)
    calls.suspend(PAY)
    states.append(approving.rows(QUESTIONS))
    calls.start(PAY, RULE)
    for rows in states:
        approving.put_back(QUESTIONS, rows, "id")
        refused(approving, "was approved, and the approval was used")


@pytest.mark.parametrize("names", [("alice",), ("alice", "bob")], ids=["pending", "approved"])
def test_a_denied_call_is_not_restored(
    approving: Approving, calls: CallApprovals, names: tuple[str, ...]
) -> None:
    """The denial counts while it is there, also against later approvals."""
    asked = calls.ask(PAY, TWO)
    approving.approve(asked.id, *names)
    before = approving.rows(QUESTIONS)
    approving.pipelit.approvals.deny(asked.id, "bob", approving.code("bob"))
    approving.put_back(QUESTIONS, before, "id")
    refused(approving, "was denied", rule=TWO)
    assert approving.pipelit.approvals.get(asked.id).state == "denied"
    assert approving.pipelit.approvals.pending() == []
    with pytest.raises(NotPermitted, match="was denied"):
        approving.approve(asked.id, "carol")


def test_an_expired_call_is_not_made_longer(approving: Approving, calls: CallApprovals) -> None:
    """The steps are under the tag, with their times."""
    rule = Approvers(["alice"], expires_in=900, escalate_to=Approvers(["bob"], expires_in=900))
    asked = calls.ask(PAY, rule)
    later = asked.expires_at + timedelta(hours=1)
    approving.change(
        f"UPDATE {QUESTIONS} SET expires_at = :later, rule = replace(rule, :old, :new)",  # noqa: S608 - fixed words
        later=later.timestamp(),
        old=f'"until":{asked.expires_at.timestamp()}',
        new=f'"until":{later.timestamp()}',
    )
    assert calls.find(PAY) is None


@pytest.mark.parametrize("suspended", [False, True], ids=["approved", "suspended"])
@pytest.mark.parametrize("ending", ["deactivate", "reset"])
def test_who_left_does_not_come_back(
    approving: Approving, calls: CallApprovals, ending: str, suspended: bool
) -> None:
    """Her answer is void, even if somebody makes her account as it was."""
    approved(approving)
    if suspended:
        calls.start(PAY, RULE)
        calls.suspend(PAY)
    before = approving.rows("pipelit_users")
    if ending == "deactivate":
        approving.pipelit.users.deactivate("alice")
    else:
        approving.pipelit.mfa.reset("alice")
    approving.put_back("pipelit_users", before, "username")
    refused(approving, "'alice' has since been deactivated, or has ended the second factor")


def test_a_result_is_of_its_call(approving: Approving, calls: CallApprovals) -> None:
    """Copied from another call it isn't returned; a changed one isn't either."""
    for call in (PAY, OTHER):
        approved(approving, call)
        calls.start(call, RULE)
        calls.finish(call, call.call_id.encode())
    (first, second) = approving.rows(USES)
    for stored, other in ((first, second), (second, first)):
        approving.change(
            f"UPDATE {USES} SET result = :result WHERE approval_id = :id",  # noqa: S608 - fixed words
            result=stored["result"],
            id=other["approval_id"],
        )
        found: dict[Any, Any] = {call.call_id: calls.result(call) for call in (PAY, OTHER)}
        assert list(found.values()).count(None) == 1
        assert all(value is None or value.decode() == key for key, value in found.items())
        approving.put_back(USES, [first, second], "approval_id")


def test_counts_of_interrupts_decide_nothing(approving: Approving, calls: CallApprovals) -> None:
    """They aren't under the tag; the approval is as good or bad as before."""
    calls.ask(PAY, RULE)
    approving.change(f"UPDATE {QUESTIONS} SET asks = 7, waits = 9")  # noqa: S608 - fixed words
    refused(approving, "nobody has answered yet")
