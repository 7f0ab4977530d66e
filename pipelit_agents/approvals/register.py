"""The register of approvals: questions, answers and uses, as rows that only the key can make.

Three tables. A question and an answer each have a tag (HMAC-SHA256 under a key derived from
``FIELD_ENCRYPTION_KEY``); the state of a question is under its tag. A use is written down a second
time in a table to which rows are only ever added. So anyone who can write to the database and
doesn't have the key can't make an approval, and can't turn a used, denied or expired one back
unless they kept a copy of the rows as they were before.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from json import dumps
from time import time
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, NoReturn, cast

from sqlalchemy import Connection, delete, insert, select, text, update

from pipelit_agents._core import Core
from pipelit_agents._run_context import run_context
from pipelit_agents.approvals import tags
from pipelit_agents.approvals.digest import MAX_SHOWN, approval_digest
from pipelit_agents.approvals.values import (
    ApprovalDecision,
    ApprovalRequest,
    State,
    Verdict,
    Vote,
)
from pipelit_agents.database.engine import Database
from pipelit_agents.database.key_match import require_fitting
from pipelit_agents.database.models import (
    ApprovalAnswerRow,
    ApprovalRow,
    ApprovalUseRow,
    UserRow,
)
from pipelit_agents.errors import (
    ApprovalClosed,
    ApprovalNotFound,
    CodeRejected,
    NotPermitted,
    UnsealError,
)
from pipelit_agents.identity.factors import factor_id
from pipelit_agents.protocol.payload import decode
from pipelit_agents.sealing.keyring import Keyring, Sealed
from pipelit_agents.sealing.purposes import approval_purpose, reason_purpose, totp_purpose

__all__ = ["Register", "running_thread", "void_unused"]

OPERATOR: Final = "operator"
# A clock may be set back by so much while the system runs; more is a wrong clock. Seconds.
_SKEW: Final = 30.0
_QUESTIONS: Final = ApprovalRow.__table__
_ANSWERS: Final = ApprovalAnswerRow.__table__
_USE: Final = text(
    "INSERT INTO pipelit_approval_uses (approval_id, used_at) VALUES (:approval_id, :used_at) "
    "ON CONFLICT (approval_id) DO NOTHING"
)
_UNKNOWN: Final = "unknown question"
_FOREIGN: Final = "not under our keys"
_NOT_OURS: Final = (
    "was changed, or was made under a key that is not in FIELD_ENCRYPTION_KEY (any more)"
)
_AGAIN: Final = "ask again, and act on exactly what was shown"
_CLOSED: Final = {
    "approved": "was approved already",
    "denied": "was denied",
    "used": "was approved, and the approval was used",
}


class _Refusal(NamedTuple):
    # For the caller, and for the audit (64 characters).
    words: str
    reason: str
    # Nothing that comes later can make it good.
    ends: bool = False


_USED: Final = _Refusal("it was used before", "used")


class Register:
    """Writes and reads the register of one database.

    Args:
        core: The database, the keys that tag the rows and encrypt what is displayed, and the clock
            that all processes share.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._clock = core.shared_clock

    @property
    def database(self) -> Database:
        """Where it is."""
        return self._database

    # Asking

    def ask(
        self, shown: str, approvers: Sequence[str], *, lifetime: float, asked_by: str, thread: str
    ) -> ApprovalRequest:
        """Store a question; see :meth:`Approvals.request`.

        Args:
            shown: What is to be approved, as its canonical JSON.
            approvers: Who may answer.
            lifetime: For how long, seconds.
            asked_by: Who asks.
            thread: In which LangGraph thread.
        """
        what = decode(shown.encode(), limit=MAX_SHOWN)
        with self._database.writing(durable=True) as connection:
            row = self._insert(
                connection, approval_digest(what), shown, approvers, lifetime, asked_by, thread
            )
            self._record(connection, row.created_at, asked_by, row.id, "approval.request", row)
        return self._request_of(row, what, "pending")

    def _insert(
        self,
        connection: Connection,
        digest: str,
        shown: str | None,
        approvers: Sequence[str],
        lifetime: float,
        asked_by: str,
        thread: str,
        state: State = "pending",
    ) -> Any:
        keyring = self._keyring()
        # A process with another key would make questions that nobody else can read.
        require_fitting(connection, keyring)
        identifier, now = f"apr_{secrets.token_hex(16)}", self._now(connection)
        values: dict[str, Any] = {
            "id": identifier,
            "digest": digest,
            "approvers": dumps(list(dict.fromkeys(approvers))),
            "asked_by": asked_by,
            "thread": _storable(thread),
            "created_at": now,
            "expires_at": now + lifetime,
            "state": state,
            "denied_by": "",
        }
        purpose = approval_purpose(identifier, digest)
        sealed = None if shown is None else Sealed(keyring.seal(shown, purpose), purpose)
        values["mac"] = tags.tag_of(
            keyring, tags.REQUEST, tags.request_fields(SimpleNamespace(**values))
        )
        connection.execute(insert(ApprovalRow).values(values | {"shown": sealed}))
        return SimpleNamespace(**values)

    # Answering

    def factor(self, username: str) -> str:
        """Return what names a person's present second factor; empty where there is none."""
        with self._database.reading() as connection:
            return self._factors(connection, [username]).get(username, _NOBODY).factor

    def require_open(self, identifier: str, username: str, verdict: Verdict) -> str:
        """Make sure that a question can be answered by a person, before a code is spent on it.

        Returns:
            The question's digest.

        Raises:
            ApprovalNotFound: There is no such question.
            ApprovalClosed: It was answered, or has expired.
            NotPermitted: The person isn't asked there.
        """
        with self._database.reading() as connection:
            row, refusal = self._answerable(connection, identifier, username, verdict)
        if refusal is not None:
            self._refuse_answer(identifier, username, verdict, refusal, row)
        digest: str = row.digest
        return digest

    def answer(
        self, identifier: str, vote: Vote, *, only_pending: bool = False
    ) -> ApprovalDecision:
        """Write an answer down, if the question is open still.

        Args:
            identifier: Of the question.
            vote: The answer; its code was checked.
            only_pending: A denial ends the question, and no approval that there is.

        Raises:
            CodeRejected: The person can't answer any more, or has another second factor by now.
            NotPermitted: As :meth:`require_open`.
        """
        decision: ApprovalDecision | None = None
        with self._database.writing(durable=True) as connection:
            # Accounts first, then approvals: whoever locks both does it in this order.
            self._database.lock(connection, f"account:{vote.username}", shared=True)
            found = self._read(connection, identifier)
            if found is not None:
                self._database.lock(connection, f"approval:{found.digest}")
            row, refusal = self._answerable(
                connection, identifier, vote.username, vote.verdict, only_pending=only_pending
            )
            if refusal is None:
                self._require_same_person(connection, vote)
                self._set_state(connection, row, vote.verdict)
                decision = self._write(connection, row, vote)
        if refusal is not None:
            self._refuse_answer(identifier, vote.username, vote.verdict, refusal, row)
        return cast(ApprovalDecision, decision)

    def record(self, digest: str, vote: Vote, *, lifetime: float) -> ApprovalDecision:
        """Write an answer down for which nobody stored a question.

        Raises:
            CodeRejected: As :meth:`answer`.
        """
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, f"account:{vote.username}", shared=True)
            self._database.lock(connection, f"approval:{digest}")
            self._require_same_person(connection, vote)
            names, thread = [vote.username], running_thread()
            row = self._insert(
                connection, digest, None, names, lifetime, vote.username, thread, vote.verdict
            )
            return self._write(connection, row, vote)

    def _write(self, connection: Connection, row: Any, vote: Vote) -> ApprovalDecision:
        keyring, now = self._keyring(), self._now(connection)
        purpose = reason_purpose(row.id, vote.username)
        sealed = Sealed(keyring.seal(vote.reason, purpose), purpose) if vote.reason else None
        values: dict[str, Any] = {
            "approval_id": row.id,
            "digest": row.digest,
            "username": vote.username,
            "verdict": vote.verdict,
            "factor_kind": vote.factor_kind,
            "factor": vote.factor,
            "at": now,
        }
        answer = SimpleNamespace(**values)
        values["mac"] = tags.tag_of(keyring, tags.ANSWER, tags.answer_fields(row, answer))
        connection.execute(insert(ApprovalAnswerRow).values(values | {"reason": sealed}))
        if vote.verdict == "denied" and vote.is_hers:
            self._void(connection, row.digest, vote.username)
        self._record(connection, now, vote.username, vote.username, vote.action, row)
        return self._decision_of(row, answer, vote.reason)

    def _void(self, connection: Connection, digest: str, username: str) -> None:
        # Under the tag of each approval, so that it isn't enough to delete the denial. Who may stop
        # an approval is known only when it is used, by the names that are given then.
        columns = [each for each in _QUESTIONS.c if each.name != "shown"]
        # Whatever the state says: a word that was changed before is no way around this.
        for row in connection.execute(select(*columns).where(ApprovalRow.digest == digest)).all():
            if not self._is_ours(SimpleNamespace(**(row._asdict() | {"state": "approved"}))):
                continue
            names = dict.fromkeys([*tags.approvers_of(row.denied_by), username])
            asked = username in tags.approvers_of(row.approvers)
            self._set_state(
                connection, row, "denied" if asked else "approved", denied_by=dumps(list(names))
            )

    def _answerable(
        self,
        connection: Connection,
        identifier: str,
        username: str,
        verdict: Verdict,
        *,
        only_pending: bool = False,
    ) -> tuple[Any, _Refusal | None]:
        row = self._read(connection, identifier)
        if row is None:
            return None, _Refusal(f"there is no question {identifier!r:.80} here", _UNKNOWN)
        if not self._is_ours(row):
            return None, _Refusal(f"the question {identifier} {_NOT_OURS}", _FOREIGN)
        names = tags.approvers_of(row.approvers)
        if username not in names:
            words = f"{username!r} is not asked here; asked are {', '.join(names)}"
            return row, _Refusal(words, "not asked")
        closed = _closed(row)
        # A person who said yes may say no until it is used.
        changes = verdict == "denied" and row.state == "approved" and not only_pending
        if closed is None or changes:
            closed = self._untimely(row, self._now(connection))
        if closed is None and _was_used(connection, row.id):
            closed = _Refusal(f"the question {row.id} {_CLOSED['used']}", "used")
        return row, closed

    def _untimely(self, row: Any, now: float) -> _Refusal | None:
        # A moment in the future is a wrong clock, then or now. What such a clock made could be
        # good for years, so that it is ended as soon as it is seen.
        if row.created_at > now + _SKEW:
            return _Refusal(
                f"the question {row.id} was asked in the future, at {_iso(row.created_at)}, by the "
                "clock that is used here: the clock was set back",
                "asked in the future",
                ends=True,
            )
        if row.expires_at <= now:
            return _Refusal(
                f"the question {row.id} has expired at {_iso(row.expires_at)}", "expired", ends=True
            )
        return None

    def _require_same_person(self, connection: Connection, vote: Vote) -> None:
        person = self._factors(connection, [vote.username]).get(vote.username, _NOBODY)
        by_code = vote.factor_kind in ("plain", "recovery")
        same = bool(person.factor) and person.factor == vote.factor
        # Reset, enrolled again or deactivated between the check of the code and now.
        if not person.active or (by_code and not same):
            raise CodeRejected(
                "the code was not accepted; wait for the next one",
                peer=vote.username,
                verifier=vote.username,
            )

    def _refuse_answer(
        self, identifier: str, username: str, verdict: Verdict, refusal: _Refusal, row: Any
    ) -> NoReturn:
        action = "approve" if verdict == "approved" else "deny"
        with self._database.writing(durable=refusal.ends) as connection:
            if refusal.ends:
                self._set_state(connection, row, "expired")
            now = self._now(connection)
            self._record(
                connection, now, username, identifier, action, None, refused=refusal.reason
            )
        if refusal.reason == "not asked":
            raise NotPermitted(refusal.words, username=username)
        kind = ApprovalNotFound if refusal.reason in (_UNKNOWN, _FOREIGN) else ApprovalClosed
        raise kind(f"{refusal.words}: ask again", username=username)

    # Using

    def use(self, wanted: str, approvers: Sequence[str], within: float) -> ApprovalDecision:
        """Use an approval up; see :meth:`Approvals.require`."""
        refusal = _Refusal("none of the approvers has approved this", "no approval")
        with self._database.writing(durable=True) as connection:
            digest = wanted
            if tags.is_id(wanted):
                found = self._read(connection, wanted)
                digest = "" if found is None else found.digest
            accounts = [f"account:{each}" for each in approvers]
            self._database.lock(connection, *accounts, shared=True)
            self._database.lock(connection, f"approval:{digest}")
            now = self._now(connection)
            for row in self._candidates(connection, wanted, digest):
                answer = self._good_answer(connection, row, approvers, within, now)
                if isinstance(answer, _Refusal):
                    refusal = answer
                    if refusal.ends:
                        self._set_state(connection, row, "expired")
                elif self._spend(connection, row, now):
                    self._record(connection, now, OPERATOR, row.id, "approval.use", row)
                    return self._decision_of(row, answer, "")
                else:
                    refusal = _USED
            self._record(
                connection, now, OPERATOR, wanted, "approval.use", None, refused=refusal.reason
            )
        raise NotPermitted(f"this may not be done: {refusal.words}; {_AGAIN}")

    def _candidates(self, connection: Connection, wanted: str, digest: str) -> Iterator[Any]:
        which = ApprovalRow.id == wanted if tags.is_id(wanted) else ApprovalRow.digest == digest
        query = select(_QUESTIONS).where(which)
        approved = query.where(ApprovalRow.state == "approved")
        found = connection.execute(approved.order_by(ApprovalRow.created_at, ApprovalRow.id)).all()
        # Where nothing is approved, the newest tells why.
        newest = query.order_by(ApprovalRow.created_at.desc()).limit(1)
        return iter(found or connection.execute(newest).all())

    def _good_answer(
        self,
        connection: Connection,
        row: Any,
        approvers: Sequence[str],
        within: float,
        now: float,
    ) -> Any:
        """The answer by which an approval is good, or a :class:`_Refusal`."""
        if not self._is_ours(row):
            return _Refusal(f"its record {_NOT_OURS}", _FOREIGN)
        if row.state == "pending":
            return _Refusal("nobody has answered yet", "pending")
        refusal = _closed(row) if row.state != "approved" else self._untimely(row, now)
        if refusal is not None:
            return refusal
        refusal = _Refusal(
            "none of the approvers that are named here has approved it", "other approvers"
        )
        asked = tags.approvers_of(row.approvers)
        for name in tags.approvers_of(row.denied_by):
            if name in asked or name in approvers:
                return _Refusal(f"{name!r} denied it afterwards", "denied afterwards")
        people = self._factors(connection, approvers)
        for answer in connection.execute(
            select(_ANSWERS)
            .where(ApprovalAnswerRow.approval_id == row.id)
            .order_by(ApprovalAnswerRow.seq)
        ).all():
            if answer.verdict != "approved" or answer.username not in approvers:
                continue
            why = self._why_not(row, answer, asked, people, within, now)
            why = why or _denial_after(connection, answer, {*asked, *approvers})
            if why is None:
                return answer
            refusal = why
        return refusal

    def _why_not(
        self,
        row: Any,
        answer: Any,
        asked: Sequence[str],
        people: dict[str, _Person],
        within: float,
        now: float,
    ) -> _Refusal | None:
        name = answer.username
        if answer.mac == "":
            return _Refusal(
                f"{name!r} was deactivated, or the second factor was ended, since", "voided"
            )
        fields = tags.answer_fields(row, answer)
        if not tags.tagged(self._keyring(), tags.ANSWER, fields, answer.mac) or name not in asked:
            return _Refusal(f"its answer {_NOT_OURS}", "answer not under our keys")
        if answer.at > now + _SKEW:
            return _Refusal(
                f"it was approved in the future, at {_iso(answer.at)}, by the clock that is used "
                "here: the clock was set back",
                "approved in the future",
                ends=True,
            )
        if answer.at < now - within:
            return _Refusal(
                f"{name!r} approved it at {_iso(answer.at)}, longer ago than is allowed here",
                "approved too long ago",
            )
        person = people.get(name, _NOBODY)
        if not person.active:
            return _Refusal(f"{name!r} was deactivated since", "approver inactive")
        if person.factor != answer.factor or not person.factor:
            return _Refusal(
                f"the second factor by which {name!r} approved it was ended or replaced since",
                "factor ended or replaced",
            )
        return None

    def _spend(self, connection: Connection, row: Any, now: float) -> bool:
        # Two places, each only once: a row that was put back in one of them is not enough.
        first = connection.execute(_USE, {"approval_id": row.id, "used_at": now}).rowcount == 1
        return self._set_state(connection, row, "used") and first

    # Reading

    def get(self, identifier: str) -> ApprovalRequest:
        """Return a question; see :meth:`Approvals.get`."""
        with self._database.reading() as connection:
            row = self._read(connection, identifier)
            if row is None:
                raise ApprovalNotFound(f"there is no question {identifier!r:.80} here: ask again")
            if not self._is_ours(row):
                raise ApprovalNotFound(f"the question {identifier} {_NOT_OURS}: ask again")
            now = self._now(connection)
            used = _was_used(connection, identifier)
            answers = connection.execute(
                select(_ANSWERS)
                .where(ApprovalAnswerRow.approval_id == identifier)
                .order_by(ApprovalAnswerRow.seq)
            ).all()
        state: State = row.state
        if used and state == "approved":
            state = "used"
        elif state in ("pending", "approved") and self._untimely(row, now) is not None:
            state = "expired"
        decisions = tuple(
            self._decision_of(row, answer, self._reason(answer))
            for answer in answers
            if tags.tagged(
                self._keyring(), tags.ANSWER, tags.answer_fields(row, answer), answer.mac
            )
        )
        return self._request_of(row, self._shown(row), state, decisions)

    def pending(self, person: str | None) -> list[ApprovalRequest]:
        """Return the open questions; see :meth:`Approvals.pending`."""
        found = []
        with self._database.reading() as connection:
            now = self._now(connection)
            query = select(_QUESTIONS).where(
                ApprovalRow.state == "pending", ApprovalRow.expires_at > now
            )
            if person is not None:
                query = query.where(ApprovalRow.approvers.contains(f'"{person}"', autoescape=True))
            rows = connection.execute(query.order_by(ApprovalRow.created_at, ApprovalRow.id)).all()
        for row in rows:
            # A question that isn't ours is shown to nobody, and hides no other.
            if not self._is_ours(row) or self._untimely(row, now) is not None:
                continue
            if person is None or person in tags.approvers_of(row.approvers):
                with suppress(UnsealError):
                    found.append(self._request_of(row, self._shown(row), "pending"))
        return found

    # Keys

    def retag(self, keyring: Keyring, *, only_count: bool = False) -> tuple[int, int, int]:
        """Tag under the newest key what was tagged under an older one.

        Returns:
            How many rows were tagged under the newest key, under an older one, and under none.
        """
        counts = {"newest": 0, "older": 0, "foreign": 0}
        for identifier in self._ids():
            with self._database.writing(durable=not only_count) as connection:
                row = self._locked(connection, identifier)
                if row is None:
                    continue
                for table, label, each, fields in _tagged_rows(connection, row):
                    state = tags.state_of(keyring, label, fields, each.mac)
                    counts[state] += 1
                    if state == "older" and not only_count:
                        key = table.seq == each.seq if label == tags.ANSWER else table.id == each.id
                        mac = tags.tag_of(keyring, label, fields)
                        connection.execute(update(table).where(key).values(mac=mac))
        return counts["newest"], counts["older"], counts["foreign"]

    def forget(self, keyring: Keyring) -> list[str]:
        """Delete the questions that no key has tagged, with their answers.

        Returns:
            Their ids.
        """
        gone = []
        for identifier in self._ids():
            with self._database.writing(durable=True) as connection:
                row = self._locked(connection, identifier)
                if row is None or tags.tagged(
                    keyring, tags.REQUEST, tags.request_fields(row), row.mac
                ):
                    continue
                connection.execute(
                    delete(ApprovalAnswerRow).where(ApprovalAnswerRow.approval_id == identifier)
                )
                connection.execute(delete(ApprovalRow).where(ApprovalRow.id == identifier))
            gone.append(identifier)
        return gone

    def _ids(self, page: int = 500) -> Iterator[str]:
        last = ""
        while True:
            with self._database.reading() as connection:
                found = connection.scalars(
                    select(ApprovalRow.id)
                    .where(ApprovalRow.id > last)
                    .order_by(ApprovalRow.id)
                    .limit(page)
                ).all()
            if not found:
                return
            yield from found
            last = found[-1]

    def _locked(self, connection: Connection, identifier: str) -> Any:
        row = self._read(connection, identifier)
        if row is not None:
            self._database.lock(connection, f"approval:{row.digest}")
        return self._read(connection, identifier)

    # Rows

    @staticmethod
    def _read(connection: Connection, identifier: str) -> Any:
        if not tags.is_id(identifier):
            return None
        return connection.execute(
            select(_QUESTIONS).where(ApprovalRow.id == identifier)
        ).one_or_none()

    def _is_ours(self, row: Any) -> bool:
        return tags.tagged(self._keyring(), tags.REQUEST, tags.request_fields(row), row.mac)

    def _set_state(
        self, connection: Connection, row: Any, state: State, *, denied_by: str | None = None
    ) -> bool:
        """Move a question on from the state it was read in; False where it isn't in it any more."""
        values = {"state": state, "denied_by": row.denied_by if denied_by is None else denied_by}
        changed = SimpleNamespace(**(row._asdict() | values))
        mac = tags.tag_of(self._keyring(), tags.REQUEST, tags.request_fields(changed))
        moved = connection.execute(
            update(ApprovalRow)
            .where(
                ApprovalRow.id == row.id,
                ApprovalRow.state == row.state,
                ApprovalRow.mac == row.mac,
            )
            .values(**values, mac=mac)
        )
        return moved.rowcount == 1

    def _factors(self, connection: Connection, names: Iterable[str]) -> dict[str, _Person]:
        rows = connection.execute(
            select(UserRow.username, UserRow.totp_secret, UserRow.active).where(
                UserRow.username.in_(list(names)), UserRow.kind == "human", UserRow.domain == ""
            )
        )
        found = {}
        for row in rows:
            factor = ""
            if row.totp_secret is not None:
                try:
                    secret = self._keyring().unseal(
                        row.totp_secret.token, totp_purpose(row.username)
                    )
                    factor = factor_id(row.username, secret)
                except UnsealError:
                    # Without the key she has none that could be compared.
                    factor = ""
            found[row.username] = _Person(bool(row.active), factor)
        return found

    def _shown(self, row: Any) -> Any:
        if row.shown is None:
            return None
        # The purpose names the digest, so nothing opens here but what was asked.
        purpose = approval_purpose(row.id, row.digest)
        return decode(self._keyring().unseal(row.shown.token, purpose), limit=MAX_SHOWN)

    def _reason(self, answer: Any) -> str:
        if answer.reason is None:
            return ""
        purpose = reason_purpose(answer.approval_id, answer.username)
        return Sealed(answer.reason.token, purpose).unseal(self._keyring())

    @staticmethod
    def _request_of(
        row: Any, shown: Any, state: State, decisions: tuple[ApprovalDecision, ...] = ()
    ) -> ApprovalRequest:
        return ApprovalRequest(
            id=row.id,
            digest=row.digest,
            shown=shown,
            approvers=tags.approvers_of(row.approvers),
            asked_by=row.asked_by,
            thread=row.thread,
            created_at=_utc(row.created_at),
            expires_at=_utc(row.expires_at),
            state=state,
            decisions=decisions,
        )

    @staticmethod
    def _decision_of(row: Any, answer: Any, reason: str) -> ApprovalDecision:
        return ApprovalDecision(
            id=row.id,
            digest=row.digest,
            decision=answer.verdict,
            actor=answer.username,
            factor=answer.factor_kind,
            at=_utc(answer.at),
            expires_at=_utc(row.expires_at),
            approvers=tags.approvers_of(row.approvers),
            asked_by=row.asked_by,
            thread=row.thread,
            reason=reason,
        )

    # Time and audit

    def _now(self, connection: Connection) -> float:
        if self._clock is not None:
            return float(self._clock())
        found = connection.scalar(text(f"SELECT {self._database.server_clock}"))
        return time() if found is None else float(found)

    def _record(
        self,
        connection: Connection,
        now: float,
        actor: str,
        subject: str,
        action: str,
        row: Any,
        *,
        refused: str = "",
    ) -> None:
        outcome, reason = ("refused", refused) if row is None else ("ok", row.digest)
        self._core.record(connection, actor, subject, action, reason, outcome=outcome, at=now)


class _Person(NamedTuple):
    active: bool
    factor: str


_NOBODY: Final = _Person(False, "")


def void_unused(connection: Connection, usernames: Sequence[str]) -> None:
    """End the approvals of people that weren't used: deactivated, or without their second factor.

    The tags of their answers are wiped, so that nothing that is still in the database makes them
    good again. It needs no key: a second factor may be reset because the key is lost. So it doesn't
    go by the state of the question: without the key nobody can tell whether that was changed.
    """
    used = select(ApprovalUseRow.approval_id)
    connection.execute(
        update(ApprovalAnswerRow)
        .where(
            ApprovalAnswerRow.username.in_(usernames),
            ApprovalAnswerRow.verdict == "approved",
            ApprovalAnswerRow.approval_id.not_in(used),
        )
        .values(mac="")
    )


def _tagged_rows(connection: Connection, row: Any) -> Iterator[tuple[Any, str, Any, list[bytes]]]:
    yield ApprovalRow, tags.REQUEST, row, tags.request_fields(row)
    answers = select(_ANSWERS).where(
        ApprovalAnswerRow.approval_id == row.id, ApprovalAnswerRow.mac != ""
    )
    for each in connection.execute(answers).all():
        yield ApprovalAnswerRow, tags.ANSWER, each, tags.answer_fields(row, each)


def _denial_after(connection: Connection, answer: Any, names: set[str]) -> _Refusal | None:
    # The order is that of the rows, not of a clock. Their tags aren't looked at: a denial that
    # somebody planted stops what whoever planted it could delete.
    by = connection.scalar(
        select(ApprovalAnswerRow.username)
        .where(
            ApprovalAnswerRow.digest == answer.digest,
            ApprovalAnswerRow.verdict == "denied",
            ApprovalAnswerRow.factor_kind != "",
            ApprovalAnswerRow.seq > answer.seq,
            ApprovalAnswerRow.username.in_(names),
        )
        .order_by(ApprovalAnswerRow.seq)
        .limit(1)
    )
    return None if by is None else _Refusal(f"{by!r} denied it afterwards", "denied afterwards")


def _was_used(connection: Connection, identifier: str) -> bool:
    used = select(ApprovalUseRow.approval_id).where(ApprovalUseRow.approval_id == identifier)
    return connection.scalar(used) is not None


def _closed(row: Any) -> _Refusal | None:
    if row.state == "pending":
        return None
    if row.state == "expired":
        return _Refusal(f"the question {row.id} has expired", "expired")
    words = _CLOSED.get(row.state, "can't be answered any more")
    return _Refusal(f"the question {row.id} {words}", row.state)


def _storable(thread: str) -> str:
    # As the audit has it: as long as a column, and without what no database takes.
    plain = (c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in thread)
    return "".join(plain)[:149]


def running_thread() -> str:
    """Return the running thread's id, as the register has it."""
    return _storable(run_context().thread)


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _iso(at: float) -> str:
    return _utc(at).isoformat(timespec="seconds")
