"""The register of approvals: questions, answers and uses. Forging a row needs the key.

There are three tables. Each question and each answer has a tag (HMAC-SHA256 with a key derived
from ``FIELD_ENCRYPTION_KEY``). The tag of a question includes its state. A use is also recorded in
a table whose rows are never changed. So write access to the database without the key isn't enough
to make an approval. Nor is it enough to restore a used, denied or expired one, unless a copy of
the previous rows was kept.
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
# Seconds. A clock that was set back by more than this while the system ran is wrong.
_MAX_CLOCK_SKEW: Final = 30.0
_QUESTIONS: Final = ApprovalRow.__table__
_ANSWERS: Final = ApprovalAnswerRow.__table__
_USE: Final = text(
    "INSERT INTO pipelit_approval_uses (approval_id, used_at) VALUES (:approval_id, :used_at) "
    "ON CONFLICT (approval_id) DO NOTHING"
)
_UNKNOWN: Final = "unknown question"
_FOREIGN: Final = "not under our keys"
_NOT_OURS: Final = (
    "was changed, or was made with a key that is not (or no longer) in FIELD_ENCRYPTION_KEY"
)
_AGAIN: Final = "ask again, and do exactly what was displayed"
_CLOSED: Final = {
    "approved": "was approved already",
    "denied": "was denied",
    "used": "was approved, and the approval was used",
}


class _Refusal(NamedTuple):
    # For the caller.
    words: str
    # For the audit, at most 64 characters.
    reason: str
    # Whether the question has ended for good.
    ends: bool = False


_USED: Final = _Refusal("it was used before", "used")


class Register:
    """Read and write the register of one database.

    Args:
        core: The database, the keys that tag rows and encrypt displayed values, and the clock
            that all processes share.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._clock = core.shared_clock

    @property
    def database(self) -> Database:
        """The database of the register."""
        return self._database

    # Asking

    def ask(
        self, shown: str, approvers: Sequence[str], *, lifetime: float, asked_by: str, thread: str
    ) -> ApprovalRequest:
        """Store a question; see :meth:`Approvals.request`.

        Args:
            shown: The canonical JSON of the value to be approved.
            approvers: The people who may answer.
            lifetime: Seconds until the question expires.
            asked_by: The name of the requester.
            thread: The LangGraph thread of the request.
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
        # With another key, this process would store questions that no other process can read.
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
        """Return the id of a person's current second factor; empty if there is none."""
        with self._database.reading() as connection:
            return self._factors(connection, [username]).get(username, _NOBODY).factor

    def require_open(self, identifier: str, username: str, verdict: Verdict) -> str:
        """Require that a person can answer a question, before a code is spent on it.

        Returns:
            The question's digest.

        Raises:
            ApprovalNotFound: There is no such question.
            ApprovalClosed: It was answered, or has expired.
            NotPermitted: The person isn't one of the approvers.
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
        """Store an answer if the question is still open.

        Args:
            identifier: The question's id.
            vote: The answer; its code was verified.
            only_pending: Whether a denial may end only a pending question, not an approval.

        Raises:
            CodeRejected: The person was deactivated meanwhile, or has another second factor.
            NotPermitted: As :meth:`require_open`.
        """
        decision: ApprovalDecision | None = None
        with self._database.writing(durable=True) as connection:
            # Accounts first, then approvals: all code that locks both uses this order.
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
        """Store an answer to a question that wasn't stored.

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
        # Stored under the tag of each approval, so that deleting the denial doesn't undo it. The
        # approvers who count are known only when the approval is used.
        columns = [each for each in _QUESTIONS.c if each.name != "shown"]
        # In any state, so that changing the state first doesn't avoid this.
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
            words = f"{username!r} is not an approver here; approvers are {', '.join(names)}"
            return row, _Refusal(words, "not asked")
        closed = _closed(row)
        # A person who approved may deny until the approval is used.
        changes = verdict == "denied" and row.state == "approved" and not only_pending
        if closed is None or changes:
            closed = self._untimely(row, self._now(connection))
        if closed is None and _was_used(connection, row.id):
            closed = _Refusal(f"the question {row.id} {_CLOSED['used']}", "used")
        return row, closed

    def _untimely(self, row: Any, now: float) -> _Refusal | None:
        # A time in the future means that the clock was or is wrong. Such a question could be valid
        # for years, so it is ended as soon as it is read.
        if row.created_at > now + _MAX_CLOCK_SKEW:
            return _Refusal(
                f"the question {row.id} was asked in the future, at {_iso(row.created_at)}, by the "
                "clock used here: the clock was set back",
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
        # Reset, enrolled again or deactivated since the code was verified.
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
        """Use up an approval; see :meth:`Approvals.require`."""
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
        # If nothing is approved, the newest question gives the reason.
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
        """Return the answer that makes an approval valid, or a :class:`_Refusal`."""
        if not self._is_ours(row):
            return _Refusal(f"its record {_NOT_OURS}", _FOREIGN)
        if row.state == "pending":
            return _Refusal("nobody has answered yet", "pending")
        refusal = _closed(row) if row.state != "approved" else self._untimely(row, now)
        if refusal is not None:
            return refusal
        refusal = _Refusal("none of the required approvers has approved it", "other approvers")
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
                f"{name!r} has since been deactivated, or has ended the second factor", "voided"
            )
        fields = tags.answer_fields(row, answer)
        if not tags.tagged(self._keyring(), tags.ANSWER, fields, answer.mac) or name not in asked:
            return _Refusal(f"its answer {_NOT_OURS}", "answer not under our keys")
        if answer.at > now + _MAX_CLOCK_SKEW:
            return _Refusal(
                f"it was approved in the future, at {_iso(answer.at)}, by the clock used here: "
                "the clock was set back",
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
            return _Refusal(f"{name!r} has since been deactivated", "approver inactive")
        if person.factor != answer.factor or not person.factor:
            return _Refusal(
                f"the second factor with which {name!r} approved it has since been ended or "
                "replaced",
                "factor ended or replaced",
            )
        return None

    def _spend(self, connection: Connection, row: Any, now: float) -> bool:
        # Recorded in two tables, so restoring a row in one of them isn't enough.
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
            # A forged question isn't displayed, and doesn't hide any other question.
            if not self._is_ours(row) or self._untimely(row, now) is not None:
                continue
            if person is None or person in tags.approvers_of(row.approvers):
                with suppress(UnsealError):
                    found.append(self._request_of(row, self._shown(row), "pending"))
        return found

    # Keys

    def retag(self, keyring: Keyring, *, only_count: bool = False) -> tuple[int, int, int]:
        """Tag rows with the newest key if an older key tagged them.

        Returns:
            The numbers of rows that were tagged with the newest key, an older key, and no key.
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
        """Delete the questions that none of the keys has tagged, with their answers.

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
        """Set a question's state; return False if it isn't in the state it was read in any more."""
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
                    # Without the key there is no factor to compare.
                    factor = ""
            found[row.username] = _Person(bool(row.active), factor)
        return found

    def _shown(self, row: Any) -> Any:
        if row.shown is None:
            return None
        # The purpose contains the digest, so only the value of this question can be decrypted.
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
    """Void the unused approvals of people who were deactivated or have no second factor any more.

    The tags of their answers are erased, so that no other data in the database makes them valid
    again. This needs no key, because a second factor may be reset after the key was lost. So it
    ignores the state of the question: without the key, changes to the state can't be detected.
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
    # Ordered by row, not by clock. The tags aren't verified: an attacker who can insert a denial
    # could delete the approval as well.
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
    # As in the audit: printable ASCII, cut to the size of the column.
    plain = (c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in thread)
    return "".join(plain)[:149]


def running_thread() -> str:
    """Return the running thread's id in the form that the register stores."""
    return _storable(run_context().thread)


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _iso(at: float) -> str:
    return _utc(at).isoformat(timespec="seconds")
