"""Store the answers of people, and void the approvals that a denial ends."""

from __future__ import annotations

from json import dumps
from typing import Final

from sqlalchemy import insert

from pipelit_agents._core import Core
from pipelit_agents._words import quoted, recordable
from pipelit_agents.approvals import counting, rows, tags
from pipelit_agents.approvals.approvers import NOBODY, read_approvers
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.questions import add_question, running_thread
from pipelit_agents.approvals.refusals import (
    APPROVED_BEFORE,
    FOREIGN,
    NOT_ASKED,
    OUT_OF_TURN,
    UNKNOWN,
    USED,
    Refusal,
    iso,
    refused_as_closed,
    refused_by_time,
)
from pipelit_agents.approvals.values import ApprovalDecision, State, Verdict, Vote
from pipelit_agents.audit.records import recorded_name
from pipelit_agents.database.models import ApprovalAnswerRow, ApprovalRow
from pipelit_agents.errors import ApprovalClosed, ApprovalNotFound, CodeRejected, NotPermitted
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import reason_purpose

__all__ = ["answer", "record_unasked", "require_open"]

# Seconds. An approval without a stored question expires too, even if `within` is longer.
_UNASKED_TTL: Final = 30 * 86_400.0


def require_open(core: Core, identifier: str, username: str, verdict: Verdict) -> None:
    """Require that a person can answer a question, before a code is spent on it.

    Raises:
        ApprovalNotFound: There is no such question.
        ApprovalClosed: It was answered, or has expired.
        NotPermitted: The person isn't one of the approvers, isn't asked now, or has approved.
    """
    with core.database.reading() as connection:
        found = _answerable(Moment.of(core, connection), identifier, username, verdict)
    if isinstance(found, Refusal):
        raise _refused(core, identifier, username, verdict, found)


def answer(
    core: Core, identifier: str, vote: Vote, *, only_pending: bool = False
) -> ApprovalDecision:
    """Store an answer if the question is still open.

    Args:
        core: The database, the keys and the clocks.
        identifier: The question's id.
        vote: The answer; its code was verified.
        only_pending: Whether a denial may end only a pending question, not an approval.

    Raises:
        CodeRejected: The person was deactivated meanwhile, or has another second factor.
        NotPermitted: As ``require_open``.
    """
    with core.database.writing(durable=True) as connection:
        rows.lock_question(core, connection, identifier, [vote.username])
        moment = Moment.of(core, connection)
        found = _answerable(moment, identifier, vote.username, vote.verdict, only_pending)
        if isinstance(found, tags.QuestionRow):
            _require_same_person(moment, vote)
            if not found.rule or vote.verdict == "denied":
                rows.set_state(moment, found, vote.verdict)
            decision = _write(moment, found, vote)
            # Under a rule, this may have been the last approval that a step needs.
            if vote.verdict == "approved" and counting.state_of(moment, found) == "approved":
                rows.set_state(moment, found, "approved")
            return decision
    raise _refused(core, identifier, vote.username, vote.verdict, found)


def record_unasked(core: Core, digest: str, vote: Vote) -> ApprovalDecision:
    """Store an answer to a question that wasn't stored.

    Raises:
        CodeRejected: As ``answer``.
    """
    with core.database.writing(durable=True) as connection:
        rows.lock_question(core, connection, digest, [vote.username])
        moment = Moment.of(core, connection)
        _require_same_person(moment, vote)
        row = add_question(
            moment,
            [tags.Step((vote.username,), 1, 0.0, _UNASKED_TTL)],
            ruled=False,
            asked_by=vote.username,
            thread=running_thread(),
            digest=digest,
            state=vote.verdict,
        )
        return _write(moment, row, vote)


def _answerable(
    moment: Moment, identifier: str, username: str, verdict: Verdict, only_pending: bool = False
) -> tags.QuestionRow | Refusal:
    row = rows.find_question(moment, identifier)
    if isinstance(row, Refusal):
        return row
    names = tags.approvers_of(row.approvers)
    if username not in names:
        message = f"{quoted(username)} is not an approver here; approvers are {', '.join(names)}"
        return Refusal(message, NOT_ASKED)
    state = counting.state_of(moment, row)
    closed = refused_as_closed(row._replace(state=state))
    # A person who approved may deny until the approval is used.
    changes = verdict == "denied" and state in ("approved", "suspended") and not only_pending
    if closed is None or changes:
        closed = refused_by_time(row, moment.now)
    if closed is None and rows.was_used(moment.connection, row):
        closed = Refusal(f"the question {row.id} {USED}", "used")
    if closed is None and row.rule:
        closed = _refused_in_turn(moment, row, username, verdict)
    return closed or row


def _refused_in_turn(
    moment: Moment, row: tags.QuestionRow, username: str, verdict: Verdict
) -> Refusal | None:
    steps = tags.steps_of(row)
    valid, _ = counting.valid_answers(moment, row, {username}, counting.Demand(steps))
    present = tags.step_at(steps, moment.now)
    if username in valid:
        if verdict == "denied":
            return None
        others = ", ".join(each for each in present.people if each != username)
        return Refusal(
            f"{username!r} has approved this already; it waits for {others}",
            APPROVED_BEFORE,
        )
    if username in present.people:
        return None
    later = next((s for s in steps if s.begins > moment.now and username in s.people), None)
    if later is not None:
        return Refusal(
            f"{username!r} is asked from {iso(later.begins)}, if there is no decision before",
            OUT_OF_TURN,
        )
    ended = max(s.until for s in steps if username in s.people)
    return Refusal(
        f"{username!r} was asked until {iso(ended)}; now {', '.join(present.people)} decide",
        OUT_OF_TURN,
    )


def _require_same_person(moment: Moment, vote: Vote) -> None:
    people = read_approvers(moment.core, moment.connection, [vote.username])
    person = people.get(vote.username, NOBODY)
    by_code = vote.factor_kind in ("plain", "recovery")
    same = bool(person.factor) and person.factor == vote.factor
    # Reset, enrolled again or deactivated since the code was verified.
    if not person.active or (by_code and not same):
        raise CodeRejected(
            "the code was not accepted; wait for the next one",
            peer=vote.username,
            verifier=vote.username,
        )


def _write(moment: Moment, question: tags.QuestionRow, vote: Vote) -> ApprovalDecision:
    keyring, purpose = moment.fitting_keyring, reason_purpose(question.id, vote.username)
    row = tags.AnswerRow(
        approval_id=question.id,
        digest=question.digest,
        username=vote.username,
        verdict=vote.verdict,
        factor_kind=vote.factor_kind,
        factor=vote.factor,
        at=moment.now,
        reason=Sealed(keyring.seal(vote.reason, purpose), purpose) if vote.reason else None,
    )
    row = row._replace(mac=keyring.mac(tags.ANSWER, *tags.answer_fields(question, row)))
    values = row._asdict()
    # The database numbers answers.
    del values["seq"]
    moment.connection.execute(insert(ApprovalAnswerRow).values(values))
    if vote.verdict == "denied" and vote.is_authenticated:
        _void(moment, question.digest, vote.username)
    moment.record(vote.username, vote.username, vote.action, question.digest)
    return rows.decision_of(question, row, vote.reason)


def _void(moment: Moment, digest: str, username: str) -> None:
    # Stored under the tag of each approval, so that deleting the denial doesn't undo it. The
    # approvers who count are known only when the approval is used.
    same = ApprovalRow.digest == digest
    for row in rows.read_questions(moment.connection, same, with_shown=False):
        # A call is a question of its own: it isn't denied with another one that is the same. Others
        # in any state, so that changing the state first doesn't avoid this.
        if row.call or not tags.question_is_ours(moment.keyring, row._replace(state="approved")):
            continue
        names = dict.fromkeys([*tags.approvers_of(row.denied_by), username])
        asked = username in tags.approvers_of(row.approvers)
        state: State = "denied" if asked else "approved"
        rows.set_state(moment, row, state, denied_by=dumps(list(names)))


def _refused(
    core: Core, identifier: str, username: str, verdict: Verdict, refusal: Refusal
) -> NotPermitted:
    """Record a refusal, and return the error for the caller."""
    action = "approve" if verdict == "approved" else "deny"
    with core.database.writing(durable=refusal.ends is not None) as connection:
        moment = Moment.of(core, connection)
        if refusal.ends is not None:
            rows.set_state(moment, refusal.ends, "expired")
        actor = recorded_name(connection, username)
        moment.record(actor, identifier, action, refusal.reason, outcome="refused")
    if refusal.reason in (NOT_ASKED, OUT_OF_TURN, APPROVED_BEFORE):
        return NotPermitted(refusal.message, username=recordable(username))
    kind = ApprovalNotFound if refusal.reason in (UNKNOWN, FOREIGN) else ApprovalClosed
    return kind(f"{refusal.message}: ask again", username=username)
