"""What must be true of a register of approvals, record by record, and of all of them together.

The rules here don't call the code that decides and uses approvals, so that a mistake there doesn't
hide itself. They share the tags with it, and the rule of a question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pipelit_agents.approvals import tags
from pipelit_agents.approvals.digest import approval_digest
from pipelit_agents.approvals.refusals import MAX_CLOCK_SKEW
from pipelit_agents.errors import PayloadError
from pipelit_agents.operations.register_records import (
    Answer,
    Audited,
    Question,
    Record,
    Row,
    Unreadable,
    Use,
    answer_row,
    name_of,
    question_row,
)
from pipelit_agents.operations.register_rows import AUDITED, FORGOTTEN, VOIDING
from pipelit_agents.protocol.payload import Json
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["RegisterReport", "RegisterRules"]

# Problems and notes; more are counted.
MAX_LISTED: Final = 200
# Problems, after which a file isn't read any more.
MAX_COUNTED: Final = 10_000
# Seconds.
_CLOCKS_APART: Final = 600.0
_PROVEN: Final = ("plain", "recovery")
_FOREIGN: Final = (
    "isn't tagged with a key of FIELD_ENCRYPTION_KEY: it was planted or changed without the key, "
    "or its key was removed from FIELD_ENCRYPTION_KEY since"
)


@dataclass(frozen=True, slots=True)
class RegisterReport:
    """The result of verifying a register of approvals.

    Attributes:
        questions: The number of questions that one of the keys has tagged.
        answers: The number of answers that one of the keys has tagged.
        uses: The number of uses of approvals that were tagged so.
        problems: The signs that something was planted, changed or deleted, or that an approval was
            used without the answers that it needs; empty if all is well. At most 200 are listed,
            and the last one counts the others.
        notes: What the register doesn't prove, though it is no sign of a change: for example an
            answer that was voided, or a part of the audit that was pruned.
    """

    questions: int
    answers: int
    uses: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


class _Event(NamedTuple):
    """What the audit and the register both have: an action, what it is about, and when."""

    action: str
    subject: str
    digest: str
    at: float

    def __str__(self) -> str:
        return f"{self.action} of {self.subject} at {iso(self.at)} (digest {self.digest[:12]}…)"


class _Texts:
    """Texts of which the first ones are listed, and the others counted."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._texts: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        self.count += 1
        if len(self._texts) < MAX_LISTED:
            self._texts.append(text)

    def after(self, first: Sequence[str]) -> tuple[str, ...]:
        """Return the listed ones after others, and how many more there are."""
        listed = (*first, *self._texts)[:MAX_LISTED]
        more = len(first) + self.count - len(listed)
        return (*listed, f"and {more:,} more {self._what}") if more else listed


class RegisterRules:
    """Reads the records of one register, in the order of an export, and collects problems.

    Args:
        keyring: The keys of the tags.
        pruned_until: Entries of the audit up to then may have been pruned by a process that has the
            key; Unix seconds, 0 if none was.
    """

    def __init__(self, keyring: Keyring, pruned_until: float = 0.0) -> None:
        self._keyring = keyring
        self._pruned_until = pruned_until
        self._problems = _Texts("problems")
        self._notes = _Texts("notes")
        self._unmatched: Counter[_Event] = Counter()
        self._forgotten: set[str] = set()
        # When a person was last deactivated, or ended the second factor.
        self._left: dict[str, float] = {}
        self._seen: set[str] = set()
        self._calls: set[str] = set()
        self._unpruned = self._approved_by_requester = 0
        self.questions: int = 0
        self.answers: int = 0
        self.uses: int = 0

    def add(self, record: Record) -> None:
        """Read the next record."""
        match record:
            case Question():
                self._question(record)
            case Answer():
                row = record.row
                who = f"the answer {name_of(row.get('seq'))} of {name_of(row.get('username'))}"
                self._without_question(who, row)
            case Use():
                self._without_question("a use", record.row)
            case Audited():
                self._audited(record.row)
            case Unreadable():
                self.problem(
                    f"row {name_of(record.number)} of {record.table} can't be read: pipelit-agents "
                    "wrote no such row"
                )

    @property
    def has_too_many(self) -> bool:
        """Whether there are so many problems that the next one says nothing new."""
        return self._problems.count >= MAX_COUNTED

    def problem(self, text: str) -> None:
        """Add a sign of a change."""
        self._problems.add(text)

    def note(self, text: str) -> None:
        """Add what isn't proven."""
        self._notes.add(text)

    def report(self, others: Sequence[str] = ()) -> RegisterReport:
        """Return the result after the last record.

        Args:
            others: Problems of the whole register, which come first.
        """
        lost = {each.digest for each in self._unmatched if each.subject in self._forgotten}
        for event, count in self._unmatched.items():
            # The entry of an answer names the person, and not the question.
            forgotten = event.subject in self._forgotten or (
                event.digest in lost and not event.action.startswith("approval.")
            )
            times = f" ({count} times)" if count > 1 else ""
            if forgotten:
                self.note(f"the audit has {event}{times}, of a question that was forgotten")
            else:
                self.problem(
                    f"the audit has {event}{times}, and the register hasn't: its row was deleted "
                    "or changed, or the entry was planted"
                )
        if self._approved_by_requester:
            self.note(
                "questions that were approved by the person for whom they were asked, alone or "
                f"with others: {self._approved_by_requester}. Approvers(not_requester=True) "
                "prevents it"
            )
        if self._unpruned:
            self.note(
                f"{self._unpruned} records are from {iso(self._pruned_until)} or earlier, and have "
                "no entry in the audit: those entries were pruned"
            )
        return RegisterReport(
            self.questions,
            self.answers,
            self.uses,
            self._problems.after(others),
            self._notes.after(()),
        )

    def _without_question(self, what: str, row: Row) -> None:
        identifier = name_of(row.get("approval_id"))
        if identifier in self._forgotten:
            self.note(f"{what} belongs to the question {identifier}, which was forgotten")
            return
        self.problem(
            f"{what} belongs to the question {identifier}, which isn't here: the question was "
            "deleted, or this was planted"
        )

    def _audited(self, row: Row) -> None:
        action, subject, digest = row.get("action"), row.get("subject"), row.get("reason")
        if not isinstance(action, str) or not isinstance(subject, str):
            self.problem(f"the audit's entry {name_of(row.get('id'))} isn't in its form")
        elif action == FORGOTTEN:
            self._forgotten.add(subject)
        elif not isinstance(digest, str) or not _is_moment(row.get("at")):
            self.problem(f"the audit's entry {name_of(row.get('id'))} isn't in its form")
        elif action in VOIDING:
            self._left[subject] = max(self._left.get(subject, 0.0), _moment(row["at"]))
        elif action in AUDITED:
            self._unmatched[_Event(action, subject, digest, _moment(row["at"]))] += 1

    def _matched(self, action: str, subject: str, digest: str, at: Json, what: str) -> None:
        event = _Event(action, subject, digest, _moment(at))
        if event in self._unmatched:
            self._unmatched[event] -= 1
            if not self._unmatched[event]:
                del self._unmatched[event]
        elif event.at <= self._pruned_until:
            self._unpruned += 1
        else:
            self.problem(
                f"{what}: the audit has no entry of it ({action} at {iso(event.at)}): the row was "
                "planted or its time was changed, or the entry was deleted"
            )

    def _question(self, question: Question) -> None:
        row = question_row(question.row)
        name = f"question {name_of(question.row.get('id'))}"
        if not tags.question_fields(row):
            self.problem(f"{name}: isn't in the form that pipelit-agents writes: it was planted")
            return
        if row.id in self._seen:
            self.problem(f"{name}: is here twice")
            return
        self._seen.add(row.id)
        if not tags.question_is_ours(self._keyring, row):
            self.problem(f"{name}: {_FOREIGN}")
            return
        self.questions += 1
        if row.call in self._calls:
            self.problem(f"{name}: is a second question about the same tool call")
        if row.call:
            self._calls.add(row.call)
        for each in self._shown(question, row):
            self.problem(f"{name}: {each}")
        answers = [each for each in question.answers if self._answer(each, row, name)]
        counted = [answer_row(each.row) for each in answers]
        self.answers += sum(each.mac != "" for each in counted)
        for each in self._state(row, counted, question.uses):
            self.problem(f"{name}: {each}")
        for use in question.uses:
            self._use(use.row, row, name)
        # An answer to a question that nobody stored has only its own entry.
        own = any(each.verdict == "approved" and each.username == row.asked_by for each in counted)
        unasked = question.known == "none" and [each.username for each in counted] == [row.asked_by]
        if not unasked:
            self._approved_by_requester += own
            self._matched("approval.request", row.id, row.digest, row.created_at, name)

    def _shown(self, question: Question, row: tags.QuestionRow) -> Iterator[str]:
        if question.known == "unreadable":
            yield "what was displayed can't be decrypted: it was changed, or is of another question"
        elif question.known == "here":
            try:
                same = approval_digest(question.shown) == row.digest
            except PayloadError:
                same = False
            if not same:
                yield "what is here as displayed has another digest: it was changed"

    def _answer(self, answer: Answer, question: tags.QuestionRow, name: str) -> bool:
        """Return whether an answer is one that was given, and say why if it isn't."""
        row = answer_row(answer.row)
        what = f"{name}, answer {name_of(answer.row.get('seq'))} of {name_of(row.username)}"
        fields = tags.answer_fields(question, row)
        if not fields:
            self.problem(f"{what}: isn't in the form that pipelit-agents writes: it was planted")
            return False
        voided = row.mac == "" and row.verdict == "approved"
        if not voided and not tags.answer_is_ours(self._keyring, question, row):
            self.problem(f"{what}: {_FOREIGN}")
            return False
        if voided:
            self._voided(what, row)
        if answer.known == "unreadable":
            self.problem(f"{what}: its reason can't be decrypted: it was changed")
        if not _was_asked(question, row):
            self.problem(f"{what}: this person wasn't asked at {iso(row.at)}")
        if row.verdict == "approved" and row.factor_kind not in _PROVEN:
            self.problem(f"{what}: is an approval without a code")
        vote = "approve" if row.verdict == "approved" else _DENIALS.get(row.factor_kind, "deny")
        self._matched(vote, row.username, row.digest, row.at, what)
        return True

    def _voided(self, what: str, row: tags.AnswerRow) -> None:
        # The audit has this machine's time, and the answer the time that all share.
        left = self._left.get(row.username, 0.0) >= row.at - _CLOCKS_APART
        if left or row.at <= self._pruned_until:
            self.note(
                f"{what}: was voided, as this person was deactivated or ended the second factor "
                f"after {iso(row.at)}. Only the audit says that it was given"
            )
        else:
            self.problem(
                f"{what}: its tag was erased, and the audit doesn't say that this person was "
                "deactivated or ended the second factor"
            )

    def _use(self, use: Row, question: tags.QuestionRow, name: str) -> None:
        at = use.get("used_at")
        if not _is_moment(at):
            self.problem(f"{name}: the time of its use isn't a time: it was planted or changed")
            return
        self.uses += 1
        if not _within(_moment(at), question):
            self.problem(f"{name}: was used at {iso(at)}, outside the time of the question")
        self._matched("approval.use", question.id, question.digest, at, f"{name}, its use")

    def _state(
        self, row: tags.QuestionRow, answers: Sequence[tags.AnswerRow], uses: Sequence[Use]
    ) -> Iterator[str]:
        """Say where the state, the answers and the uses don't fit together."""
        approvals = [each for each in answers if each.verdict == "approved"]
        denials = [each for each in answers if each.verdict == "denied"]
        yield from _uses_fit(row, uses)
        given = any(_is_enough(step, approvals) for step in tags.steps_of(row))
        if row.state in ("approved", "used", "suspended") and not given:
            yield f"is {row.state!r} without the approvals that it needs: answers were deleted"
        for use in uses:
            if problem := _wrongly_used(row, approvals, use):
                yield problem
        if denials and row.state != "denied":
            yield f"is {row.state!r}, though it was denied: an older row was restored"
        if row.state == "denied" and not denials and not row.denied_by:
            yield "is 'denied', and nobody's denial is here: it was deleted"
        # A rule's later step can need less than what was given before.
        if row.state == "pending" and approvals and not row.rule:
            yield "is 'pending', though it was approved: an older row was restored"


_DENIALS: Final = {"": "deny.unproven", "vouched": "deny.vouched"}


def _uses_fit(row: tags.QuestionRow, uses: Sequence[Use]) -> Iterator[str]:
    """Say whether the uses are those that the question's tag covers."""
    # A tool call counts its starts; it may be denied, or expire, after one that was interrupted.
    counted = row.starts if row.call else int(row.state == "used")
    found = sorted(name_of(each.row.get("start")) for each in uses)
    wanted = sorted(map(str, range(1, counted + 1)))
    if found == wanted:
        return
    if len(found) > len(wanted):
        yield (
            f"was used {len(found)} times, and its state ({row.state!r}) has {len(wanted)}: an "
            "older row was restored, or a use was planted"
        )
    else:
        yield (
            f"was used {len(wanted)} times by its state ({row.state!r}), and the record of a use "
            "was deleted or changed"
        )


def _wrongly_used(
    row: tags.QuestionRow, approvals: Sequence[tags.AnswerRow], use: Use
) -> str | None:
    """Say why an approval may not have been used when it was."""
    at = use.row.get("used_at")
    if not _is_moment(at):
        # Reported with the use itself.
        return None
    moment = _moment(at) + MAX_CLOCK_SKEW
    valid = [each for each in approvals if each.mac != "" and each.at <= moment]
    begun = [step for step in tags.steps_of(row) if step.begins <= moment]
    if any(_is_enough(step, valid) for step in begun):
        return None
    return f"was used at {iso(at)} without the valid approvals that it needs"


def _is_enough(step: tags.Step, approvals: Sequence[tags.AnswerRow]) -> bool:
    """Return whether enough different people of a step approved."""
    until = step.until + MAX_CLOCK_SKEW
    return len({each.username for each in approvals if each.at <= until} & {*step.people}) >= (
        step.at_least
    )


def _was_asked(question: tags.QuestionRow, row: tags.AnswerRow) -> bool:
    steps = [each for each in tags.steps_of(question) if row.username in each.people]
    if row.verdict == "denied" and steps:
        # Those who approved may deny until the approval is used.
        steps = [steps[0]._replace(until=question.expires_at)]
    return any(
        step.begins - MAX_CLOCK_SKEW <= row.at <= step.until + MAX_CLOCK_SKEW for step in steps
    )


def _within(at: float, question: tags.QuestionRow) -> bool:
    earliest = question.created_at - MAX_CLOCK_SKEW
    return earliest <= at <= question.expires_at + MAX_CLOCK_SKEW


def _is_moment(value: Json) -> bool:
    # JSON has neither NaN nor infinities.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _moment(value: Json) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def iso(at: Json) -> str:
    """Return a time for a message, whatever number it is."""
    try:
        return datetime.fromtimestamp(_moment(at), UTC).isoformat(timespec="seconds")
    except (OSError, OverflowError, ValueError):
        return f"{at!r:.20} s"
