"""A second factor for people: TOTP by an authenticator app, and recovery codes for its loss."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipelit_agents.audit import AuditEntry, entry, entry_of, write
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import (
    AuditRow,
    MfaPendingRow,
    RecoveryCodeRow,
    SpentRequestRow,
    UserRow,
)
from pipelit_agents.errors import (
    CodeRejected,
    NotPermitted,
    SecondFactorError,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.fitting import require_fitting
from pipelit_agents.keyring import Keyring, Sealed
from pipelit_agents.ledger.base import begin_secret
from pipelit_agents.names import require_username
from pipelit_agents.otp import totp
from pipelit_agents.proof import PERIOD, same
from pipelit_agents.twins import off_the_loop
from pipelit_agents.verification import (
    PLAIN_DIGITS,
    Verification,
    Verifier,
    provisioning_uri,
    totp_purpose,
)

__all__ = ["Mfa", "MfaStatus", "pending_purpose"]

OPERATOR: Final = "operator"
RECOVERY_CODES: Final = 10
# What RFC 4226 recommends, and short enough for a small QR code.
_SECRET_BYTES: Final = 20
_FIRST_CODE_TRIES: Final = 5
_RECOVERY_FORM: Final = re.compile(r"(?:[A-Z2-7]{4}-){3}[A-Z2-7]{4}\Z")
_WINDOW: Final = 1
_DECADE: Final = 10 * 365 * 86_400.0
_REJECTED: Final = "the code was not accepted; wait for the app's next one, or enrol again"


@dataclass(frozen=True, slots=True)
class MfaStatus:
    """A person's second factor.

    Attributes:
        username: Whose.
        on: Whether codes are checked.
        pending: Whether it is being enrolled: a secret was shown, and no code of it yet.
        recovery_codes: How many recovery codes are left.
    """

    username: str
    on: bool
    pending: bool
    recovery_codes: int


def pending_purpose(username: str) -> str:
    """The place that the secret of a second factor is sealed for until it is on."""
    return f"user:{username}:totp:pending"


class Mfa:
    """The second factors of people; ``pipelit.mfa``.

    Args:
        database: Where the accounts are.
        keyring: Seals secrets; called when one is needed.
        verifier: Checks codes, under the limits that hold for agents too.
        clock: Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        keyring: Callable[[], Keyring],
        verifier: Verifier,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._verifier = verifier
        self._clock = clock

    def enroll(self, username: str, *, by: str = OPERATOR) -> SecretStr:
        """Makes a person's second factor; it is on when :meth:`confirm` has seen a first code.

        Called again before that, it makes another one, and the one before is worth nothing.

        Args:
            username: Whose.
            by: Who asked for it, for the record.

        Returns:
            The ``otpauth://`` URI, for an authenticator app.

        Raises:
            UserNotFound: There is no such account.
            NotPermitted: It is no person's.
            UserInactive: It was deactivated.
            SecondFactorError: It is on already.
            ConfigurationError: There is no key to seal the secret under.
        """
        secret = secrets.token_bytes(_SECRET_BYTES)
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=False)
            connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))
            self._insert_pending(connection, name, secret)
            self._record(connection, by, name, "mfa.enroll")
        return provisioning_uri(name, secret)

    aenroll = off_the_loop(enroll)

    def confirm(self, username: str, code: str) -> Sequence[SecretStr]:
        """Turns a second factor on, by its first code; after five wrong ones it begins anew.

        Args:
            username: Whose.
            code: Six digits. They are spent.

        Returns:
            Ten recovery codes, shown now and never again. Each works once, in the place of a code.

        Raises:
            CodeRejected: The code is wrong.
            VerificationError: The code can't be spent now, so it isn't on; the limits hold here.
            SecondFactorError: Nothing was enrolled, or it is on already.
            AccountError: As :meth:`enroll`.
        """
        codes: list[SecretStr] = []
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=False)
            pending = connection.execute(
                select(MfaPendingRow.__table__).where(MfaPendingRow.username == name)
            ).one_or_none()
            if pending is None:
                raise SecondFactorError(
                    f"nothing was enrolled for {name!r}: begin with mfa.enroll or: "
                    f"pipelit-agents mfa enroll {name}",
                    username=name,
                )
            secret = self._keyring().unseal(pending.secret.token, pending_purpose(name))
            if not _is_code(secret, code, self._clock()):
                self._wrong_first_code(connection, name, pending.failures + 1)
            else:
                place = totp_purpose(name)
                sealed = Sealed(self._keyring().seal(secret, place), place)
                connection.execute(
                    update(UserRow).where(UserRow.username == name).values(totp_secret=sealed)
                )
                # Guesses from before she had this secret can't keep her from turning it on.
                begin_secret(self._database, connection, name, at=self._clock())
                connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))
                codes = self._new_codes(connection, name)
                self._record(connection, name, name, "mfa.confirm")
        if not codes:
            raise CodeRejected(_REJECTED, peer=name, verifier=name)
        try:
            # Spent like any other, before anybody hears that it is on.
            self._verifier.check_person(name, code, own=True)
        except BaseException:
            self._take_back(name, secret)
            raise
        return codes

    aconfirm = off_the_loop(confirm)

    def verify(self, username: str, code: str) -> Verification:
        """Checks a person's code and spends it.

        Call it for somebody whom you have authenticated as this person by a first factor, such as
        her API key. Failures count in her own lane ("self"), so nobody else can lock it. Where
        anybody may type a code for her, as in a resumed graph, they count in the lane "others".

        Args:
            username: Whose it has to be.
            code: Six digits of the authenticator app, or a recovery code.

        Raises:
            SecondFactorError: This person has none.
            CodeRejected: The code is wrong, or was spent.
            RateLimited: Too many failures in the last minute.
            PeerLocked: Too many failures in a row.
            LedgerUnavailable: Attempts can't be counted, so nothing is accepted.
            AccountError: As :meth:`enroll`.
        """
        return self._verify(username, code, own=True)

    averify = off_the_loop(verify)

    def _verify(self, username: str, code: str, *, own: bool) -> Verification:
        """As :meth:`verify`, in a lane of the caller's choice.

        Args:
            username: Whose the code has to be.
            code: As for :meth:`verify`. A recovery code is counted in no lane: it can't be guessed.
            own: Whether the person herself asks, as her first factor has shown. Otherwise anybody
                may, and failures count in the lane that all strangers share, unless the running
                code acts for her.
        """
        with self._database.reading() as connection:
            name = self._require(connection, username, on=True)
        typed = code.strip().upper() if isinstance(code, str) else ""
        if _RECOVERY_FORM.match(typed):
            return self._recover(name, typed)
        return self._verifier.check_person(name, code, own=own)

    def approve(self, username: str, code: str, *, digest: str, _own: bool = True) -> Verification:
        """Checks a person's code, and records that the person approved what has this digest.

        Args:
            username: Who approves.
            code: As for :meth:`verify`. It says who approves, and isn't bound to the digest.
            digest: SHA-256 of what was shown, 64 hexadecimal digits.

        Raises:
            PipelitError: As :meth:`verify`.
        """
        found = self._verify(username, code, own=_own)
        self._note(found.peer, "approve", digest)
        return found

    aapprove = off_the_loop(approve)

    def deny(
        self, username: str, code: str | None, *, digest: str, _own: bool = True
    ) -> Verification | None:
        """Records that a person denied what has this digest.

        Args:
            username: Who denies.
            code: As for :meth:`verify`; None where the person has none at hand. A denial stops
                things, so it counts unproven too.
            digest: As for :meth:`approve`.

        Returns:
            The evidence, or None for a denial that wasn't proven.

        Raises:
            PipelitError: As :meth:`verify`.
        """
        with self._database.reading() as connection:
            name = self._active_person(connection, username).username
        found = None if code is None else self._verify(name, code, own=_own)
        self._note(name, "deny" if found else "deny.unproven", digest)
        return found

    adeny = off_the_loop(deny)

    def disable(self, username: str, code: str) -> None:
        """Ends a person's second factor and its recovery codes.

        Args:
            username: Whose.
            code: As for :meth:`verify`; it is needed, so that who finds an open terminal can't.

        Raises:
            PipelitError: As :meth:`verify`.
        """
        self.verify(username, code)
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=True)
            self._end(connection, name)
            self._record(connection, name, name, "mfa.disable")

    adisable = off_the_loop(disable)

    def renew_recovery_codes(self, username: str, code: str) -> Sequence[SecretStr]:
        """Replaces the recovery codes by ten new ones.

        Raises:
            PipelitError: As :meth:`verify`.
        """
        self.verify(username, code)
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=True)
            codes = self._new_codes(connection, name)
            self._record(connection, name, name, "mfa.recovery-codes")
        return codes

    arenew_recovery_codes = off_the_loop(renew_recovery_codes)

    def reset(self, username: str, *, by: str = OPERATOR) -> None:
        """Ends a second factor without a code; for an operator.

        Args:
            username: Whose: the person lost phone and recovery codes, or the database its key.
            by: Who asked for it, for the record.

        Raises:
            UserNotFound: There is no such account.
            NotPermitted: It is no person's.
        """
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, f"account:{require_username(username)}")
            name = self._person(connection, username).username
            self._end(connection, name)
            self._record(connection, by, name, "mfa.reset")

    areset = off_the_loop(reset)

    def require_approved(
        self, digest: str, *, approvers: Sequence[str], within: timedelta = timedelta(hours=1)
    ) -> AuditEntry:
        """Makes sure that a person approved exactly this, and uses the approval up.

        For the step that acts: it asks the database, and not a graph's state, which whoever may
        resume or update the graph can write.

        Args:
            digest: Of what is about to be done, ``approval_digest(…)``.
            approvers: Who may have approved.
            within: How long ago at the most.

        Returns:
            The approval, as it stands in the audit.

        Raises:
            NotPermitted: Nobody of them did, or it was used before.
            TypeError: ``approvers`` is one name, or another argument is of another type.
        """
        if isinstance(approvers, str):
            raise TypeError("approvers is a list of names, not one name")
        if not isinstance(digest, str):
            raise TypeError("digest has to be text: approval_digest(what)")
        if not isinstance(within, timedelta):
            raise TypeError("within has to be a timedelta, for example timedelta(hours=1)")
        now = self._clock()
        found = (
            select(AuditRow.__table__)
            .where(
                AuditRow.action == "approve",
                AuditRow.outcome == "ok",
                AuditRow.reason == digest,
                AuditRow.actor.in_([require_username(each) for each in approvers]),
                AuditRow.at >= now - within.total_seconds(),
            )
            .order_by(AuditRow.id)
        )
        with self._database.writing(durable=True) as connection:
            for row in connection.execute(found).all():
                named = f"approval\0{row.id}\0{row.at!r}".encode()
                spent = insert(SpentRequestRow).values(
                    digest=hashlib.sha256(named).hexdigest(),
                    # Longer than anybody would call an approval fresh.
                    expires_at=now + _DECADE,
                )
                try:
                    with connection.begin_nested():
                        connection.execute(spent)
                except IntegrityError:
                    continue
                return entry_of(row)
        raise NotPermitted(
            "none of the approvers has approved this, or it was used: ask again, and act on "
            "exactly what was shown"
        )

    arequire_approved = off_the_loop(require_approved)

    def status(self, username: str) -> MfaStatus:
        """Whether a person has a second factor.

        Raises:
            UserNotFound: There is no such account.
            NotPermitted: It is no person's.
        """
        with self._database.reading() as connection:
            row = self._person(connection, username)
            pending = connection.scalar(
                select(func.count())
                .select_from(MfaPendingRow)
                .where(MfaPendingRow.username == row.username)
            )
            left = connection.scalar(
                select(func.count())
                .select_from(RecoveryCodeRow)
                .where(RecoveryCodeRow.username == row.username, RecoveryCodeRow.used_at.is_(None))
            )
        return MfaStatus(row.username, row.totp_secret is not None, bool(pending), left or 0)

    astatus = off_the_loop(status)

    def _end(self, connection: Connection, name: str) -> None:
        row = update(UserRow).where(UserRow.username == name)
        connection.execute(row.values(totp_secret=None))
        for each in (MfaPendingRow, RecoveryCodeRow):
            connection.execute(delete(each).where(each.username == name))

    def _take_back(self, name: str, secret: bytes) -> None:
        # Nobody has seen the recovery codes, and the secret is as pending as it was.
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, f"account:{name}")
            self._end(connection, name)
            self._insert_pending(connection, name, secret)

    def _insert_pending(self, connection: Connection, name: str, secret: bytes) -> None:
        purpose, keyring = pending_purpose(name), self._keyring()
        require_fitting(connection, keyring)
        pending = {
            "username": name,
            "secret": Sealed(keyring.seal(secret, purpose), purpose),
            "failures": 0,
            "created_at": self._clock(),
        }
        connection.execute(insert(MfaPendingRow).values(pending))

    def _note(self, name: str, action: str, digest: str) -> None:
        with self._database.writing(durable=True) as connection:
            self._record(connection, name, name, action, digest)

    def _person(self, connection: Connection, username: str) -> Any:
        name = require_username(username)
        row = connection.execute(
            select(UserRow.__table__).where(UserRow.username == name)
        ).one_or_none()
        if row is None:
            raise UserNotFound(
                f"there is no account {name!r}; make it with: pipelit-agents users create {name}",
                username=name,
            )
        if row.kind != "human" or row.domain:
            raise NotPermitted(
                f"{name!r} is no person: an agent's second factor is its own TOTP secret",
                username=name,
            )
        return row

    def _active_person(self, connection: Connection, username: str) -> Any:
        row = self._person(connection, username)
        if not row.active:
            raise UserInactive(f"{row.username!r} was deactivated", username=row.username)
        return row

    def _require(self, connection: Connection, username: str, *, on: bool) -> str:
        row = self._active_person(connection, username)
        name: str = row.username
        if on and row.totp_secret is None:
            raise SecondFactorError(
                f"{name!r} has no second factor: pipelit-agents mfa enroll {name}", username=name
            )
        if not on and row.totp_secret is not None:
            raise SecondFactorError(
                f"the second factor of {name!r} is on: end it first, with a code of it: "
                f"pipelit-agents mfa disable {name}",
                username=name,
            )
        return name

    def _locked(self, connection: Connection, username: str, *, on: bool) -> str:
        self._database.lock(connection, f"account:{require_username(username)}")
        return self._require(connection, username, on=on)

    def _wrong_first_code(self, connection: Connection, name: str, failures: int) -> None:
        row = MfaPendingRow.username == name
        if failures >= _FIRST_CODE_TRIES:
            connection.execute(delete(MfaPendingRow).where(row))
        else:
            connection.execute(update(MfaPendingRow).where(row).values(failures=failures))
        self._record(connection, name, name, "mfa.confirm", "wrong code", outcome="refused")

    def _new_codes(self, connection: Connection, name: str) -> list[SecretStr]:
        connection.execute(delete(RecoveryCodeRow).where(RecoveryCodeRow.username == name))
        codes = []
        for _ in range(RECOVERY_CODES):
            drawn = base64.b32encode(secrets.token_bytes(10)).decode("ascii")
            code = "-".join(drawn[start : start + 4] for start in range(0, 16, 4))
            values = {"digest": _digest(name, code), "username": name}
            connection.execute(insert(RecoveryCodeRow).values(values))
            codes.append(SecretStr(code))
        return codes

    def _recover(self, name: str, code: str) -> Verification:
        # 80 bits can't be guessed, so that failures are recorded and lock nobody out.
        now = self._clock()
        with self._database.writing(durable=True) as connection:
            used = connection.execute(
                update(RecoveryCodeRow)
                .where(
                    RecoveryCodeRow.digest == _digest(name, code),
                    RecoveryCodeRow.username == name,
                    RecoveryCodeRow.used_at.is_(None),
                )
                .values(used_at=now)
            ).rowcount
            reason, outcome = ("", "ok") if used else ("wrong or used", "refused")
            self._record(connection, name, name, "verify.recovery", reason, outcome=outcome)
        if not used:
            raise CodeRejected(
                "the recovery code was not accepted: each works once", peer=name, verifier=name
            )
        at = datetime.fromtimestamp(now, UTC)
        return Verification(name, name, "recovery", int(now) // PERIOD, at)

    def _record(
        self,
        connection: Connection,
        actor: str,
        subject: str,
        action: str,
        reason: str = "",
        *,
        outcome: str = "ok",
    ) -> None:
        write(
            connection,
            entry(
                at=self._clock(),
                actor=actor,
                subject=subject,
                action=action,
                outcome=outcome,
                reason=reason,
            ),
        )


def _digest(name: str, code: str) -> str:
    return hashlib.sha256(f"{name}\0{code}".encode()).hexdigest()


def _is_code(secret: bytes, code: object, now: float) -> bool:
    present, found = int(now) // PERIOD, False
    for step in range(max(0, present - _WINDOW), present + _WINDOW + 1):
        right = totp(secret, step * PERIOD, digits=PLAIN_DIGITS)
        found |= isinstance(code, str) and same(right, code)
    return found
