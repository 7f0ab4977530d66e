"""A second factor for people: TOTP with an authenticator app, and recovery codes if it is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from pydantic import SecretStr
from sqlalchemy import Connection, func, select

from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts import enrolment
from pipelit_agents.accounts.lookup import (
    AccountRow,
    find_active_person,
    find_person,
    read_account,
    why_no_code,
)
from pipelit_agents.accounts.possible_approvers import without_second_factor
from pipelit_agents.accounts.recovery_codes import RecoveryCodes
from pipelit_agents.accounts.typed_codes import read_code
from pipelit_agents.approvals.answers import record_unasked
from pipelit_agents.approvals.approvers import current_factor, read_approvers
from pipelit_agents.approvals.arguments import require_approvers
from pipelit_agents.approvals.tags import is_digest
from pipelit_agents.approvals.usage import use
from pipelit_agents.approvals.values import ApprovalDecision, Verdict, Vote
from pipelit_agents.database.models import MfaPendingRow, RecoveryCodeRow
from pipelit_agents.errors import CodeRejected, NotPermitted, SecondFactorError
from pipelit_agents.identity.acting import acting_person
from pipelit_agents.identity.evidence import Verification
from pipelit_agents.identity.services import Identity
from pipelit_agents.ledger.rules import Rules
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.protocol.usernames import OPERATOR, require_username
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import totp_purpose

__all__ = ["Mfa", "MfaStatus", "no_second_factor"]

T = TypeVar("T")


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
        identity: Verifies codes, with the same limits as for agents.
    """

    def __init__(self, core: Core, identity: Identity) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._identity = identity
        self.recovery: RecoveryCodes = RecoveryCodes(core, identity.secrets)
        self._rules = Rules(core.policy)

    def enroll(self, username: str, *, by: str = OPERATOR) -> SecretStr:
        """Begin the enrolment of a person's second factor; ``confirm`` turns it on.

        Another call before ``confirm`` begins a new enrolment and discards the previous one.

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
        with self._database.writing(durable=True) as connection:
            name = _require_off(self._locked(connection, username))
            secret = enrolment.begin(self._core, connection, name)
            self._core.record(connection, by, name, "mfa.enroll")
        return provisioning_uri(name, secret)

    aenroll: Final = off_the_loop(enroll)

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
            enrolled: The URI that ``enroll`` returned for this enrolment. It holds the secret,
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
            AccountError: As ``enroll``.
        """
        kind, plain = read_code(code)
        # Malformed input is refused here, before it could count as a wrong code.
        plain = self._identity.codes.require_plain_form(
            require_username(username), plain if kind == "plain" else code
        )
        if not isinstance(enrolled, SecretStr | None):
            raise TypeError("enrolled must be what mfa.enroll returned, or left out")
        core, rules = self._core, self._rules
        with self._database.writing(durable=True) as connection:
            name = _require_off(self._locked(connection, username))
            first = enrolment.evaluate(core, rules, connection, name, plain, enrolled)
            if not first.refused:
                enrolment.turn_on(core, rules, connection, name, first.secret)
                codes = self.recovery.replace(connection, name, first.secret)
                core.record(connection, name, name, "mfa.confirm")
        if first.refused:
            raise CodeRejected(first.refused, peer=name, verifier=name)
        try:
            # The code is spent like any other before this method reports that the factor is on.
            self._identity.codes.verify_person(name, plain, own=True, first=True)
        except BaseException:
            enrolment.pend_again(core, name, first)
            raise
        return codes

    aconfirm: Final = off_the_loop(confirm)

    @discreet
    def verify(self, username: str, code: str) -> Verification:
        """Verify a person's code and spend it.

        All refusals have the same message. ``status`` returns whether a person has a second
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

    averify: Final = off_the_loop(verify)

    @discreet
    def approve(self, username: str, code: str, *, digest: str) -> Verification:
        """Verify a person's code, and record that the person approved the value with this digest.

        ``pipelit.approvals`` also stores the question, its approvers and its expiry. An approval
        recorded here can be used once, within 30 days: see ``require_approved``.

        Args:
            username: The person who approves.
            code: As for ``verify``. It proves who approves, and isn't bound to the digest.
            digest: SHA-256 of the displayed value, 64 hexadecimal digits:
                ``approval_digest(what)``.

        Raises:
            ValueError: The digest is malformed.
            PipelitError: As ``verify``.
        """
        _require_digest(digest)
        return self._vote(require_username(username), code, digest, "approved")

    aapprove: Final = off_the_loop(approve)

    @discreet
    def deny(self, username: str, code: str | None, *, digest: str) -> Verification | None:
        """Record that a person denied the value with this digest.

        A denial voids unused approvals of this digest by this person, or by another approver of
        the same question.

        Args:
            username: The person who denies.
            code: As for ``verify``; None if the person has no code. A denial without a code is
                recorded, but it voids approvals only inside ``pipelit.acting_for(username)``.
                Otherwise anybody could stop what others approved.
            digest: As for ``approve``.

        Returns:
            The evidence, or None for a denial without a code.

        Raises:
            ValueError: The digest is malformed.
            AccountError: There is no code, and no such active person.
            PipelitError: As ``verify``.
        """
        _require_digest(digest)
        name = require_username(username)
        if code is None:
            self._require_active(name)
            kind = "vouched" if acting_person(self._database) == name else ""
            record_unasked(self._core, digest, Vote(name, "denied", kind))
            return None
        return self._vote(name, code, digest, "denied")

    adeny: Final = off_the_loop(deny)

    @discreet
    def disable(self, username: str, code: str) -> None:
        """End a person's second factor and its recovery codes.

        Args:
            username: The person.
            code: As for ``verify``. Without it, anyone at an unlocked terminal could do this.

        Raises:
            PipelitError: As ``verify``.
        """
        self._change(username, code, "mfa.disable", enrolment.end)

    adisable: Final = off_the_loop(disable)

    @discreet
    def renew_recovery_codes(self, username: str, code: str) -> Sequence[SecretStr]:
        """Replace the recovery codes with ten new ones.

        Raises:
            PipelitError: As ``verify``.
        """

        def replace(connection: Connection, name: str) -> Sequence[SecretStr]:
            sealed = _require_on(find_active_person(connection, name))
            secret = self._keyring().unseal(sealed.token, totp_purpose(name))
            return self.recovery.replace(connection, name, secret)

        return self._change(username, code, "mfa.recovery-codes", replace)

    arenew_recovery_codes: Final = off_the_loop(renew_recovery_codes)

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
            name = find_person(connection, username).username
            enrolment.end(connection, name)
            self._core.record(connection, by, name, "mfa.reset")

    areset: Final = off_the_loop(reset)

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
        return use(self._core, digest, names, within.total_seconds())

    arequire_approved: Final = off_the_loop(require_approved)

    def status(self, username: str) -> MfaStatus:
        """Return whether a person has a second factor.

        Raises:
            UserNotFound: There is no such account.
            NotPermitted: It isn't a person's account.
        """
        with self._database.reading() as connection:
            row = find_person(connection, username)
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

    astatus: Final = off_the_loop(status)

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
            return self.recovery.verify(name, typed)
        with self._database.reading() as connection:
            unfit = why_no_code(read_account(connection, name))
        return self._identity.codes.verify_person(
            name, typed if kind else code, own=own, unfit=unfit
        )

    def _change(
        self, username: str, code: str, action: str, change: Callable[[Connection, str], T]
    ) -> T:
        """Verify a person's code, and change the second factor that the code belongs to.

        That factor may be reset and another one enrolled while the code is verified. Then the code,
        perhaps of a lost phone, must not change the new factor.
        """
        name = require_username(username)
        factor = current_factor(self._core, name)
        self._verify(name, code, own=True)
        with self._database.writing(durable=True) as connection:
            _require_on(self._locked(connection, name))
            people = read_approvers(self._core, connection, [name])
            if factor and people[name].factor == factor:
                changed = change(connection, name)
                self._core.record(connection, name, name, action)
                return changed
            reason = "factor ended or replaced"
            self._core.record(connection, name, name, action, reason, outcome="refused")
        raise CodeRejected(
            "the code was not accepted; wait for the next one", peer=name, verifier=name
        )

    def _vote(self, name: str, code: str, digest: str, verdict: Verdict) -> Verification:
        factor = current_factor(self._core, name)
        found = self._verify(name, code, own=True)
        vote = Vote(name, verdict, found.kind, factor)
        record_unasked(self._core, digest, vote)
        return found

    def _require_active(self, username: str) -> None:
        with self._database.reading() as connection:
            find_active_person(connection, username)

    def _locked(self, connection: Connection, username: str) -> AccountRow:
        self._database.lock(connection, f"account:{require_username(username)}")
        return find_active_person(connection, username)


def _require_off(person: AccountRow) -> str:
    """Require that a person has no second factor, and return the name."""
    name = person.username
    if person.totp_secret is not None:
        raise SecondFactorError(
            f"the second factor of {name!r} is on: end it first with one of its codes: "
            f"pipelit-agents mfa disable {name}",
            username=name,
        )
    return name


def _require_on(person: AccountRow) -> Sealed:
    """Require that a person has a second factor, and return its encrypted secret."""
    if person.totp_secret is None:
        raise no_second_factor(person.username)
    return person.totp_secret


def no_second_factor(username: str) -> SecondFactorError:
    """Return the error for a person who needs a second factor and has none."""
    return SecondFactorError(without_second_factor(username), username=username)


def _require_digest(digest: object) -> None:
    if not isinstance(digest, str):
        raise TypeError("digest must be text: approval_digest(what)")
    if not is_digest(digest):
        raise ValueError("digest must be 64 lowercase hexadecimal digits: approval_digest(what)")
