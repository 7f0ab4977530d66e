"""A second factor for people: TOTP by an authenticator app, and recovery codes for its loss."""

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
# An approval that nobody asked for expires too, however long ago `within` allows. Seconds.
_APPROVED_FOR: Final = 30 * 86_400.0


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


class Mfa:
    """The second factors of people; ``pipelit.mfa``.

    Args:
        core: The database, the keys that encrypt secrets, and the limits.
        verifier: Checks codes, under the limits that hold for agents too.
        register: Where approvals are written down.
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
        """Turns a second factor on, by its first code; five wrong codes end the enrolment.

        A person's enrolments together may have 45 wrong first codes a year, of which 33 at once;
        then a first code is evaluated once in about 33 days. Otherwise whoever may type first codes
        could guess without end wherever enrolments are begun again and again.

        A code of another moment, up to ten minutes away, isn't accepted and counts as no wrong
        code: the phone's clock is off, and the message says by how much. That code is never
        accepted later.

        Args:
            username: Whose.
            code: Six digits, as people type them: spaces and dashes make no difference. They are
                spent.
            enrolled: What :meth:`enroll` returned for this enrolment. It holds the secret, so
                whoever gives it has nothing to guess: the code is evaluated although too many first
                codes were wrong, and a wrong one isn't counted for the year. Give it only where the
                person who types the code is the one who was shown the URI, as at an operator's
                desk.

        Returns:
            Ten recovery codes, shown now and never again. Each works once, in the place of a code.

        Raises:
            MalformedCode: What was typed can't be a code; it counts as no wrong code.
            CodeRejected: The code is wrong; the message says how many more may be. Or it is of
                another moment; the message says how far the phone's clock is off.
            PeerLocked: Too many first codes were wrong; ``retry_after`` says when the next one is
                evaluated. It counts as no wrong code.
            VerificationError: The code can't be spent now, so it isn't on; the limits hold here.
            SecondFactorError: Nothing was enrolled, it is on already, or ``enrolled`` is of another
                enrolment.
            TypeError: ``enrolled`` is no ``SecretStr``.
            AccountError: As :meth:`enroll`.
        """
        codes: list[SecretStr] = []
        refused = ""
        kind, plain = read_code(code)
        # What can't be a first code is refused here, before it could count as a wrong one.
        plain = self._verifier.require_plain_form(
            require_username(username), plain if kind == "plain" else code
        )
        if not isinstance(enrolled, SecretStr | None):
            raise TypeError("enrolled has to be what mfa.enroll returned, or left out")
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
            wait = 0.0
            if enrolled is None:
                wait = wait_for_first_code(self._database, connection, name, **self._limits)
            if wait > 0:
                raise too_many_first_codes(name, wait)
            whole = self._keyring().unseal(pending.secret.token, pending_purpose(name))
            secret, told = read_pending(whole)
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
            elif abs(ahead) > FIRST_CODE_WINDOW or step in told:
                record_other_moment(self._core, connection, name, secret, {*told, step}, now)
                refused = wrong_moment(ahead)
            else:
                place = totp_purpose(name)
                sealed = Sealed(self._keyring().seal(secret, place), place)
                connection.execute(
                    update(UserRow).where(UserRow.username == name).values(totp_secret=sealed)
                )
                # Guesses from before she had a secret can't keep her from turning it on.
                begin_secret(self._database, connection, name, at=self._clock(), **self._limits)
                connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))
                codes = self.recovery.replace(connection, name, secret)
                self._core.record(connection, name, name, "mfa.confirm")
        if not codes:
            raise CodeRejected(refused, peer=name, verifier=name)
        try:
            # Spent like any other, before anybody hears that it is on.
            self._verifier.check_person(name, plain, own=True, first=True)
        except BaseException:
            self._take_back(name, whole)
            raise
        return codes

    aconfirm = off_the_loop(confirm)

    @discreet
    def verify(self, username: str, code: str) -> Verification:
        """Checks a person's code and spends it.

        All refusals look alike: :meth:`status` says whether a person has a second factor, and the
        audit why a code was refused.

        Call it for somebody whom you have authenticated as this person by a first factor, such as
        her API key. Failures count in her own lane ("self"), so nobody else can lock it. Where
        anybody may type a code for her, as in a resumed graph, they count in the lane "others".

        Args:
            username: Whose it has to be.
            code: Six digits of the authenticator app, or a recovery code, as people type them:
                spaces, dashes, line ends and lower case make no difference.

        Raises:
            CodeRejected: The code is wrong or was spent, or there is no such person, without a
                second factor, or deactivated.
            MalformedCode: What was typed can't be a code; it counts as no attempt.
            RateLimited: Too many failures in the last minute.
            PeerLocked: Too many failures in a row.
            LedgerUnavailable: Attempts can't be counted, so nothing is accepted.
            InvalidUsername: The name has another form.
        """
        return self._verify(username, code, own=True)

    averify = off_the_loop(verify)

    def approve(self, username: str, code: str, *, digest: str) -> Verification:
        """Checks a person's code, and records that the person approved what has this digest.

        ``pipelit.approvals`` stores the question too, with who may answer it and until when. What
        is approved here can be used once, for 30 days at most: see :meth:`require_approved`.

        Args:
            username: Who approves.
            code: As for :meth:`verify`. It says who approves, and isn't bound to the digest.
            digest: SHA-256 of what was shown, 64 hexadecimal digits: ``approval_digest(what)``.

        Raises:
            ValueError: The digest has another form.
            PipelitError: As :meth:`verify`.
        """
        _require_digest(digest)
        name = require_username(username)
        factor = self._register.factor(name)
        found = self._verify(name, code, own=True)
        vote = Vote(name, "approved", found.kind, factor)
        self._register.record(digest, vote, lifetime=_APPROVED_FOR)
        return found

    aapprove = off_the_loop(approve)

    def deny(self, username: str, code: str | None, *, digest: str) -> Verification | None:
        """Records that a person denied what has this digest.

        It voids what this person, or another with whom she was asked, approved of this digest and
        what wasn't used yet.

        Args:
            username: Who denies.
            code: As for :meth:`verify`; None where the person has none at hand. A denial without a
                code is recorded, and voids something only inside ``pipelit.acting_for(username)``:
                otherwise anybody could stop what others approved.
            digest: As for :meth:`approve`.

        Returns:
            The evidence, or None for a denial without a code.

        Raises:
            ValueError: The digest has another form.
            AccountError: There is no code, and no such active person.
            PipelitError: As :meth:`verify`.
        """
        _require_digest(digest)
        name = require_username(username)
        if code is None:
            self._require_active(name)
            kind = "vouched" if acting_person(self._database) == name else ""
            self._register.record(digest, Vote(name, "denied", kind), lifetime=_APPROVED_FOR)
            return None
        factor = self._register.factor(name)
        found = self._verify(name, code, own=True)
        vote = Vote(name, "denied", found.kind, factor)
        self._register.record(digest, vote, lifetime=_APPROVED_FOR)
        return found

    adeny = off_the_loop(deny)

    @discreet
    def disable(self, username: str, code: str) -> None:
        """Ends a person's second factor and its recovery codes.

        Args:
            username: Whose.
            code: As for :meth:`verify`; it is needed, so that who finds an open terminal can't.

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
        """Replaces the recovery codes by ten new ones.

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
            self._core.record(connection, by, name, "mfa.reset")

    areset = off_the_loop(reset)

    def require_approved(
        self, digest: str, *, approvers: Sequence[str], within: timedelta = timedelta(hours=1)
    ) -> ApprovalDecision:
        """Makes sure that a person approved exactly this, and uses the approval up.

        The same as ``pipelit.approvals.require``. For the step that acts: it asks the database, and
        not a graph's state, which whoever may resume or update the graph can write.

        Args:
            digest: Of what is about to be done, ``approval_digest(…)``.
            approvers: Who may have approved.
            within: How long ago at the most.

        Returns:
            The approval that was used; ``actor`` is the person, ``at`` when.

        Raises:
            NotPermitted: As ``approvals.require``; the message says why.
            TypeError: ``approvers`` is one name, or another argument is of another type.
            ValueError: ``approvers`` is empty, or ``within`` is not positive.
        """
        names = require_approvers(approvers)
        if not isinstance(digest, str):
            raise TypeError("digest has to be text: approval_digest(what)")
        if not isinstance(within, timedelta):
            raise TypeError("within has to be a timedelta, for example timedelta(hours=1)")
        if within <= timedelta(0):
            raise ValueError("within must be more than 0 seconds")
        if not is_digest(digest):
            raise NotPermitted(
                "this is no digest, so nobody has approved it: give approval_digest(what)"
            )
        return self._register.use(digest, names, within.total_seconds())

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

    def _verify(self, username: str, code: str, *, own: bool) -> Verification:
        """Checks a person's code and spends it; what is refused looks alike for every account.

        Args:
            username: Whose.
            code: As typed.
            own: Whether code acts for this person, so that the attempt is hers and no stranger's.
        """
        name = require_username(username)
        kind, typed = read_code(code)
        if kind == "recovery":
            return self._recover(name, typed)
        with self._database.reading() as connection:
            unfit = _unfit(_read_user(connection, name))
        return self._verifier.check_person(name, typed if kind else code, own=own, unfit=unfit)

    def _require_active(self, username: str) -> None:
        with self._database.reading() as connection:
            self._active_person(connection, username)

    def _end(self, connection: Connection, name: str) -> None:
        # Whatever this factor approved and nobody has used yet ends with it.
        void_unused(connection, [name])
        row = update(UserRow).where(UserRow.username == name)
        connection.execute(row.values(totp_secret=None))
        for each in (MfaPendingRow, RecoveryCodeRow):
            connection.execute(delete(each).where(each.username == name))

    def _take_back(self, name: str, whole: bytes) -> None:
        # Nobody has seen the recovery codes, and the secret is as pending as it was.
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

    def _recover(self, name: str, code: str) -> Verification:
        # 80 bits can't be guessed, so that failures are recorded and lock nobody out.
        now, digest = self._clock(), digest_of_code(name, code)
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, f"account:{name}", shared=True)
            user = _read_user(connection, name)
            unfit = _unfit(user)
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
                "the recovery code was not accepted: each works once", peer=name, verifier=name
            )
        at = datetime.fromtimestamp(now, UTC)
        return Verification(name, name, "recovery", int(now) // PERIOD, at)


def _read_user(connection: Connection, name: str) -> Any:
    return connection.execute(
        select(UserRow.__table__).where(UserRow.username == name)
    ).one_or_none()


def _unfit(row: Any) -> str:
    """Why no code of an account can be right; nothing for an active person with a second factor."""
    if row is None:
        return "unknown account"
    if row.kind != "human" or row.domain:
        return NO_PERSON
    if not row.active:
        return "inactive"
    return "" if row.totp_secret is not None else "no second factor"


def _require_digest(digest: object) -> None:
    if not isinstance(digest, str):
        raise TypeError("digest has to be text: approval_digest(what)")
    if not is_digest(digest):
        raise ValueError("digest has to be 64 lowercase hexadecimal digits: approval_digest(what)")
