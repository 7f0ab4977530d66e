"""A second factor for people: TOTP with an authenticator app, and recovery codes if it is lost."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Connection, delete, func, insert, select, update

from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.first_codes import (
    FIRST_CODE_TRIES,
    SECRET_BYTES,
    count_wrong_code,
    read_pending,
    record_other_moment,
    require_of_this_enrolment,
    step_of_code,
    too_many_first_codes,
    wrong_first_code,
    wrong_moment,
)
from pipelit_agents.accounts.recovery_codes import (
    RecoveryCodes,
    digest_of_code,
)
from pipelit_agents.approvals.arguments import require_approvers
from pipelit_agents.approvals.register import Register, void_unused
from pipelit_agents.approvals.tags import is_digest
from pipelit_agents.approvals.values import ApprovalDecision, Vote
from pipelit_agents.database.key_match import require_fitting
from pipelit_agents.database.models import MfaPendingRow, RecoveryCodeRow, UserRow
from pipelit_agents.errors import (
    CodeRejected,
    NotPermitted,
    SecondFactorError,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.identity.acting import acting_person
from pipelit_agents.identity.evidence import Verification
from pipelit_agents.identity.factors import factor_id, read_code
from pipelit_agents.identity.proofs import NO_PERSON, Verifier
from pipelit_agents.ledger.first_codes import charge_first_code, wait_for_first_code
from pipelit_agents.ledger.rules import Rules
from pipelit_agents.ledger.unlocking import begin_secret
from pipelit_agents.policy import FIRST_CODE_WINDOW
from pipelit_agents.protocol.binding import PERIOD
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.protocol.usernames import require_username
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import pending_purpose, totp_purpose

__all__ = ["Mfa", "MfaStatus"]

OPERATOR: Final = "operator"
# Seconds. An approval without a stored question expires too, even if `within` is longer.
_APPROVAL_TTL: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class MfaStatus:
    """A person's second factor.

    Attributes:
        username: The person.
        on: Whether codes are verified.
        pending: Whether an enrolment waits for its first code.
        recovery_codes: The number of unused recovery codes.
    """

    username: str
    on: bool
    pending: bool
    recovery_codes: int


class Mfa:
    """The second factors of people; ``pipelit.mfa``.

    Args:
        core: The database, the keys that encrypt secrets, and the limits.
        verifier: Verifies codes, with the same limits as for agents.
        register: Stores approvals.
    """

    def __init__(self, core: Core, verifier: Verifier, register: Register) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._clock = core.clock
        self._verifier = verifier
        self._register = register
        self.recovery = RecoveryCodes(core)
        self._limits: Any = {"rules": Rules(core.policy), "clock": core.shared_clock}

    def enroll(self, username: str, *, by: str = OPERATOR) -> SecretStr:
        """Begin the enrolment of a person's second factor; :meth:`confirm` turns it on.

        Another call before :meth:`confirm` begins a new enrolment and discards the previous one.

        Args:
            username: The person.
            by: The requester's name, for the audit.

        Returns:
            The ``otpauth://`` URI, for an authenticator app.

        Raises:
            UserNotFound: There is no such account.
            NotPermitted: It isn't a person's account.
            UserInactive: It was deactivated.
            SecondFactorError: It is on already.
            ConfigurationError: There is no key to encrypt the secret with.
        """
        secret = secrets.token_bytes(SECRET_BYTES)
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=False)
            connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))
            self._insert_pending(connection, name, secret)
            self._core.record(connection, by, name, "mfa.enroll")
        return provisioning_uri(name, secret)

    aenroll = off_the_loop(enroll)

    @discreet
    def confirm(
        self, username: str, code: str, *, enrolled: SecretStr | None = None
    ) -> Sequence[SecretStr]:
        """Turn a second factor on with its first code. Five wrong codes end the enrolment.

        All enrolments of a person share an allowance of 45 wrong first codes a year, 33 of them at
        once. After that, one first code is evaluated about every 33 days. Without this limit,
        anyone who may type first codes could guess forever if enrolments are repeated.

        A code of another time, up to ten minutes away, isn't accepted but doesn't count as a wrong
        code: the phone's clock is off, and the message says by how much. That code is never
        accepted later.

        Args:
            username: The person.
            code: Six digits, as people type them: spaces and dashes are ignored. The code is spent.
            enrolled: The URI that :meth:`enroll` returned for this enrolment. It holds the secret,
                so a caller who has it needn't guess. With it, the code is evaluated even if too
                many first codes were wrong, and a wrong code doesn't count for the year. Pass it
                only if the person who types the code is the one who got the URI, for example at an
                operator's desk.

        Returns:
            Ten recovery codes. They can't be displayed again. Each can be used once instead of a
            code.

        Raises:
            MalformedCode: The input can't be a code; it doesn't count as a wrong code.
            CodeRejected: The code is wrong; the message says how many tries are left. Or it is of
                another time; the message says how far the phone's clock is off.
            PeerLocked: Too many first codes were wrong; ``retry_after`` says when the next one is
                evaluated. This one doesn't count as a wrong code.
            VerificationError: The code can't be spent now because of a limit, so the factor isn't
                on.
            SecondFactorError: There is no enrolment, the factor is on already, or ``enrolled``
                belongs to another enrolment.
            TypeError: ``enrolled`` isn't a ``SecretStr``.
            AccountError: As :meth:`enroll`.
        """
        codes: list[SecretStr] = []
        refused = ""
        kind, plain = read_code(code)
        # Malformed input is refused here, before it could count as a wrong code.
        plain = self._verifier.require_plain_form(
            require_username(username), plain if kind == "plain" else code
        )
        if not isinstance(enrolled, SecretStr | None):
            raise TypeError("enrolled must be what mfa.enroll returned, or left out")
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=False)
            pending = connection.execute(
                select(MfaPendingRow.__table__).where(MfaPendingRow.username == name)
            ).one_or_none()
            if pending is None:
                raise SecondFactorError(
                    f"there is no enrolment for {name!r}: begin one with mfa.enroll or: "
                    f"pipelit-agents mfa enroll {name}",
                    username=name,
                )
            wait = 0.0
            if enrolled is None:
                wait = wait_for_first_code(self._database, connection, name, **self._limits)
            if wait > 0:
                raise too_many_first_codes(name, wait)
            whole = self._keyring().unseal(pending.secret.token, pending_purpose(name))
            secret, revealed = read_pending(whole)
            if enrolled is not None:
                require_of_this_enrolment(name, secret, enrolled)
            now = self._clock()
            step = step_of_code(secret, plain, now)
            ahead = 0 if step is None else step - int(now) // PERIOD
            if step is None:
                if enrolled is None:
                    charge_first_code(self._database, connection, name, **self._limits)
                count_wrong_code(self._core, connection, name, pending.failures + 1)
                refused = wrong_first_code(name, FIRST_CODE_TRIES - pending.failures - 1)
            elif abs(ahead) > FIRST_CODE_WINDOW or step in revealed:
                record_other_moment(self._core, connection, name, secret, {*revealed, step}, now)
                refused = wrong_moment(ahead)
            else:
                purpose = totp_purpose(name)
                sealed = Sealed(self._keyring().seal(secret, purpose), purpose)
                connection.execute(
                    update(UserRow).where(UserRow.username == name).values(totp_secret=sealed)
                )
                # Earlier guesses about this person don't prevent turning the factor on.
                begin_secret(self._database, connection, name, at=self._clock(), **self._limits)
                connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))
                codes = self.recovery.replace(connection, name, secret)
                self._core.record(connection, name, name, "mfa.confirm")
        if not codes:
            raise CodeRejected(refused, peer=name, verifier=name)
        try:
            # The code is spent like any other before this method reports that the factor is on.
            self._verifier.check_person(name, plain, own=True, first=True)
        except BaseException:
            self._take_back(name, whole)
            raise
        return codes

    aconfirm = off_the_loop(confirm)

    @discreet
    def verify(self, username: str, code: str) -> Verification:
        """Verify a person's code and spend it.

        All refusals have the same message. :meth:`status` returns whether a person has a second
        factor, and the audit has the reason of a refusal.

        Call this for a caller whom you have authenticated as this person with a first factor, such
        as an API key. Failures count in the person's own lane ("self"), so nobody else can lock it.
        If anybody may type a code for the person, as in a resumed graph, failures count in the lane
        "others".

        Args:
            username: The person whose code it must be.
            code: Six digits of the authenticator app, or a recovery code, as people type them:
                spaces, dashes, line ends and lower case are ignored.

        Raises:
            CodeRejected: The code is wrong or was spent, or there is no such active person with a
                second factor.
            MalformedCode: The input can't be a code; it doesn't count as an attempt.
            RateLimited: Too many failures in the last minute.
            PeerLocked: Too many failures in a row.
            LedgerUnavailable: Attempts can't be counted, so nothing is accepted.
            InvalidUsername: The username is malformed.
        """
        return self._verify(username, code, own=True)

    averify = off_the_loop(verify)

    def approve(self, username: str, code: str, *, digest: str) -> Verification:
        """Verify a person's code, and record that the person approved the value with this digest.

        ``pipelit.approvals`` also stores the question, its approvers and its expiry. An approval
        recorded here can be used once, within 30 days: see :meth:`require_approved`.

        Args:
            username: The person who approves.
            code: As for :meth:`verify`. It proves who approves, and isn't bound to the digest.
            digest: SHA-256 of the displayed value, 64 hexadecimal digits:
                ``approval_digest(what)``.

        Raises:
            ValueError: The digest is malformed.
            PipelitError: As :meth:`verify`.
        """
        _require_digest(digest)
        name = require_username(username)
        factor = self._register.factor(name)
        found = self._verify(name, code, own=True)
        vote = Vote(name, "approved", found.kind, factor)
        self._register.record(digest, vote, lifetime=_APPROVAL_TTL)
        return found

    aapprove = off_the_loop(approve)

    def deny(self, username: str, code: str | None, *, digest: str) -> Verification | None:
        """Record that a person denied the value with this digest.

        A denial voids unused approvals of this digest by this person, or by another approver of
        the same question.

        Args:
            username: The person who denies.
            code: As for :meth:`verify`; None if the person has no code. A denial without a code is
                recorded, but it voids approvals only inside ``pipelit.acting_for(username)``.
                Otherwise anybody could stop what others approved.
            digest: As for :meth:`approve`.

        Returns:
            The evidence, or None for a denial without a code.

        Raises:
            ValueError: The digest is malformed.
            AccountError: There is no code, and no such active person.
            PipelitError: As :meth:`verify`.
        """
        _require_digest(digest)
        name = require_username(username)
        if code is None:
            self._require_active(name)
            kind = "vouched" if acting_person(self._database) == name else ""
            self._register.record(digest, Vote(name, "denied", kind), lifetime=_APPROVAL_TTL)
            return None
        factor = self._register.factor(name)
        found = self._verify(name, code, own=True)
        vote = Vote(name, "denied", found.kind, factor)
        self._register.record(digest, vote, lifetime=_APPROVAL_TTL)
        return found

    adeny = off_the_loop(deny)

    @discreet
    def disable(self, username: str, code: str) -> None:
        """End a person's second factor and its recovery codes.

        Args:
            username: The person.
            code: As for :meth:`verify`. Without it, anyone at an unlocked terminal could do this.

        Raises:
            PipelitError: As :meth:`verify`.
        """
        self._verify(username, code, own=True)
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=True)
            self._end(connection, name)
            self._core.record(connection, name, name, "mfa.disable")

    adisable = off_the_loop(disable)

    @discreet
    def renew_recovery_codes(self, username: str, code: str) -> Sequence[SecretStr]:
        """Replace the recovery codes with ten new ones.

        Raises:
            PipelitError: As :meth:`verify`.
        """
        self._verify(username, code, own=True)
        with self._database.writing(durable=True) as connection:
            name = self._locked(connection, username, on=True)
            row = self._person(connection, name)
            secret = self._keyring().unseal(row.totp_secret.token, totp_purpose(name))
            codes = self.recovery.replace(connection, name, secret)
            self._core.record(connection, name, name, "mfa.recovery-codes")
        return codes

    arenew_recovery_codes = off_the_loop(renew_recovery_codes)

    def reset(self, username: str, *, by: str = OPERATOR) -> None:
        """End a second factor without a code; for an operator.

        Use it if the person lost phone and recovery codes, or the encryption key was lost.

        Args:
            username: The person.
            by: The requester's name, for the audit.

        Raises:
            UserNotFound: There is no such account.
            NotPermitted: It isn't a person's account.
        """
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, f"account:{require_username(username)}")
            name = self._person(connection, username).username
            self._end(connection, name)
            self._core.record(connection, by, name, "mfa.reset")

    areset = off_the_loop(reset)

    def require_approved(
        self, digest: str, *, approvers: Sequence[str], within: timedelta = timedelta(hours=1)
    ) -> ApprovalDecision:
        """Require that a person approved exactly this, and use up the approval.

        The same as ``pipelit.approvals.require``. Call it in the step that acts. It reads the
        database, not a graph's state: anyone who may resume or update the graph can write the
        state.

        Args:
            digest: The digest of the action, ``approval_digest(…)``.
            approvers: The people whose approval is accepted.
            within: The maximum age of the approval.

        Returns:
            The approval that was used; ``actor`` is the person, ``at`` is the time.

        Raises:
            NotPermitted: As ``approvals.require``; the message says why.
            TypeError: ``approvers`` is one name, or another argument is of another type.
            ValueError: ``approvers`` is empty, or ``within`` is not positive.
        """
        names = require_approvers(approvers)
        if not isinstance(digest, str):
            raise TypeError("digest must be text: approval_digest(what)")
        if not isinstance(within, timedelta):
            raise TypeError("within must be a timedelta, for example timedelta(hours=1)")
        if within <= timedelta(0):
            raise ValueError("within must be more than 0 seconds")
        if not is_digest(digest):
            raise NotPermitted(
                "this isn't a digest, so nobody has approved it: pass approval_digest(what)"
            )
        return self._register.use(digest, names, within.total_seconds())

    arequire_approved = off_the_loop(require_approved)

    def status(self, username: str) -> MfaStatus:
        """Return whether a person has a second factor.

        Raises:
            UserNotFound: There is no such account.
            NotPermitted: It isn't a person's account.
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

    def _verify(self, username: str, code: str, *, own: bool) -> Verification:
        """Verify a person's code and spend it; refusals look the same for every account.

        Args:
            username: The person.
            code: The code as typed.
            own: Whether code acts for this person, so that failures count in the person's own lane.
        """
        name = require_username(username)
        kind, typed = read_code(code)
        if kind == "recovery":
            return self._recover(name, typed)
        with self._database.reading() as connection:
            unfit = _why_unfit(_read_user(connection, name))
        return self._verifier.check_person(name, typed if kind else code, own=own, unfit=unfit)

    def _require_active(self, username: str) -> None:
        with self._database.reading() as connection:
            self._active_person(connection, username)

    def _end(self, connection: Connection, name: str) -> None:
        # Unused approvals by this factor end with it.
        void_unused(connection, [name])
        row = update(UserRow).where(UserRow.username == name)
        connection.execute(row.values(totp_secret=None))
        for each in (MfaPendingRow, RecoveryCodeRow):
            connection.execute(delete(each).where(each.username == name))

    def _take_back(self, name: str, whole: bytes) -> None:
        # The recovery codes weren't returned. Delete them, and make the enrolment pending again.
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, f"account:{name}")
            self._end(connection, name)
            self._insert_pending(connection, name, whole)

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

    def _person(self, connection: Connection, username: str) -> Any:
        name = require_username(username)
        row = _read_user(connection, name)
        if row is None:
            raise UserNotFound(
                f"there is no account {name!r}; create it with: pipelit-agents users create {name}",
                username=name,
            )
        if row.kind != "human" or row.domain:
            raise NotPermitted(
                f"{name!r} isn't a person: an agent's second factor is its own TOTP secret",
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
                f"the second factor of {name!r} is on: end it first with one of its codes: "
                f"pipelit-agents mfa disable {name}",
                username=name,
            )
        return name

    def _locked(self, connection: Connection, username: str, *, on: bool) -> str:
        self._database.lock(connection, f"account:{require_username(username)}")
        return self._require(connection, username, on=on)

    def _recover(self, name: str, code: str) -> Verification:
        # 80 bits can't be guessed, so failures are recorded but lock nobody out.
        now, digest = self._clock(), digest_of_code(name, code)
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, f"account:{name}", shared=True)
            user = _read_user(connection, name)
            unfit = _why_unfit(user)
            sealed = None if unfit else user.totp_secret
            factor = factor_id(name, self._verifier.person_secret(name, sealed))
            row = connection.execute(
                select(RecoveryCodeRow.__table__).where(
                    RecoveryCodeRow.digest == digest, RecoveryCodeRow.username == name
                )
            ).one_or_none()
            used = not unfit and self.recovery.use(connection, row, factor, now)
            reason = "" if used else unfit or "wrong or used"
            self._core.record(
                connection,
                name,
                name,
                "verify.recovery",
                reason,
                outcome="refused" if reason else "ok",
            )
        if reason:
            raise CodeRejected(
                "the recovery code was not accepted: each can be used once",
                peer=name,
                verifier=name,
            )
        at = datetime.fromtimestamp(now, UTC)
        return Verification(name, name, "recovery", int(now) // PERIOD, at)


def _read_user(connection: Connection, name: str) -> Any:
    return connection.execute(
        select(UserRow.__table__).where(UserRow.username == name)
    ).one_or_none()


def _why_unfit(row: Any) -> str:
    """Return why no code of an account can be right; empty for an active person with a factor."""
    if row is None:
        return "unknown account"
    if row.kind != "human" or row.domain:
        return NO_PERSON
    if not row.active:
        return "inactive"
    return "" if row.totp_secret is not None else "no second factor"


def _require_digest(digest: object) -> None:
    if not isinstance(digest, str):
        raise TypeError("digest must be text: approval_digest(what)")
    if not is_digest(digest):
        raise ValueError("digest must be 64 lowercase hexadecimal digits: approval_digest(what)")
