"""Verify short codes of agents and people, and spend them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, get_args

from pipelit_agents._core import Core
from pipelit_agents._wording import bindable, in_words
from pipelit_agents._words import quoted, recordable
from pipelit_agents.errors import (
    CodeRejected,
    ConfigurationError,
    LedgerUnavailable,
    MalformedCode,
    PeerLocked,
    RateLimited,
    StorageError,
    UnsealError,
    VerificationError,
)
from pipelit_agents.identity.acting import acts_for
from pipelit_agents.identity.bad_input import BadInput
from pipelit_agents.identity.codes import (
    AUDIENCE_DIGITS,
    CODE_FORMS,
    PLAIN_DIGITS,
    other_kind,
    refuse_holder,
    short_codes,
)
from pipelit_agents.identity.evidence import (
    Verification,
    as_evidence,
    as_typed,
    utc,
    why_not_decided,
)
from pipelit_agents.identity.lookup import (
    counted_name,
    require_local_agent,
    unknown_account,
)
from pipelit_agents.identity.totp_secrets import TotpSecrets
from pipelit_agents.ledger.attempts import Account, Attempt, CodeKind, Decision, Verdict
from pipelit_agents.ledger.common import Ledger
from pipelit_agents.protocol.binding import same
from pipelit_agents.protocol.usernames import OPERATOR, is_handle, is_username, type_of_name

__all__ = ["CodeVerifier"]

NO_PERSON: Final = "no person"
_VERDICTS: Final = get_args(Verdict)


class CodeVerifier:
    """Verify the codes of one database, and spend them.

    Args:
        core: The ledger that counts attempts and spends codes, and the database of the audit.
        secrets: The secrets that codes are made from.
        bad_input: Refuses malformed input.
    """

    def __init__(self, core: Core, secrets: TotpSecrets, bad_input: BadInput) -> None:
        self._core = core
        self._secrets = secrets
        self._bad_input = bad_input

    def verify(
        self, verifier: str, peer: object, code: object, kind: CodeKind, message: object = None
    ) -> Verification:
        """Verify a short code and spend it; see ``Agent.verify_peer``."""
        if kind not in CODE_FORMS:
            raise ValueError(f"kind must be 'audience' or 'plain', not {quoted(kind)}")
        if kind == "plain" and message is not None:
            raise ValueError(
                "message: a plain code is made from the clock alone, so it can't be bound to a "
                "message; leave message out, or ask the peer for an audience code"
            )
        if verifier == OPERATOR:
            require_local_agent(verifier, None)
        if is_handle(peer):
            raise TypeError(f"username must be a username, as text, not {type_of_name(peer)}")
        if not isinstance(peer, str) or not is_username(peer):
            self._bad_input.malformed(
                verifier, recordable(peer), "username: it must be written exactly as the account is"
            )
        if peer == verifier:
            self._bad_input.malformed(verifier, peer, "username: an agent doesn't verify itself")
        refuse_holder(code)
        if not isinstance(code, str) or not CODE_FORMS[kind].match(code):
            digits = PLAIN_DIGITS if kind == "plain" else AUDIENCE_DIGITS
            self._bad_input.malformed(
                verifier,
                peer,
                f"code: {'a plain' if kind == 'plain' else 'an audience'} code is exactly "
                f"{digits} digits 0-9, without spaces{other_kind(code, kind)}",
            )
        if message is None:
            return self._verify(verifier, peer, code, kind)
        try:
            bound = bindable(message)
        except ValueError as error:
            # The message came with the code, so it is refused like a malformed code.
            self._bad_input.malformed(verifier, peer, str(error))
        return self._verify(verifier, peer, code, kind, bound)

    def verify_person(
        self, username: str, code: object, *, own: bool, unfit: str = "", first: bool = False
    ) -> Verification:
        """Verify a person's plain code and spend it. The person is both peer and verifier.

        Args:
            username: The person whose code it must be.
            code: Exactly six digits.
            own: Whether the caller is authenticated as this person. Then failures count in the
                person's own lane, as they do while the running code acts for the person.
                Otherwise they count in the lane that all strangers share.
            unfit: Why no code of this account can be right: it doesn't exist, isn't a person, was
                deactivated, or has no second factor. The code is refused like a wrong one, with
                the same statements and limits. Failures of an authenticated caller, or about an
                agent, aren't counted about this account.
            first: Whether it is the first code of an enrolment, and known to be right.

        Raises:
            VerificationError: As ``Agent.verify_peer``.
        """
        plain = self.require_plain_form(username, code)
        return self._verify(username, username, plain, "plain", own=own, unfit=unfit, first=first)

    def require_plain_form(self, username: str, code: object) -> str:
        """Return a person's plain code if it is six digits.

        Raises:
            MalformedCode: It isn't; this doesn't count as an attempt.
            TypeError: It is an object that holds a code.
        """
        refuse_holder(code)
        if isinstance(code, str) and CODE_FORMS["plain"].match(code):
            return code
        self._core.record_refusal(username, username, "verify", "malformed")
        raise MalformedCode(
            f"code: the authenticator app shows exactly {PLAIN_DIGITS} digits 0-9, and a "
            "recovery code has 16 letters and digits (spaces and dashes make no difference)",
            peer=as_typed(username),
            verifier=as_typed(username),
        )

    def _verify(
        self,
        verifier: str,
        peer: str,
        code: str,
        kind: CodeKind,
        message: str | None = None,
        *,
        own: bool = False,
        unfit: str = "",
        first: bool = False,
    ) -> Verification:
        # An agent's attempt isn't an attempt of the person in whose run it is made.
        if kind == "plain" and not own and verifier == peer:
            # The ledger looks up whether the account is an active person when it decides.
            own = acts_for(self._core.database, peer)
        audience = None if kind == "plain" else verifier
        right: set[int] = set()

        def matches(account: Account | None, steps: range) -> Sequence[int]:
            # Every step is compared with every key, so that the duration reveals nothing.
            relation = account.relation if account else ""
            found = [
                step
                for key in self._secrets.of_account(account)
                for step, made in zip(
                    steps, short_codes(key, steps, peer, audience, relation, message), strict=True
                )
                if same(made, code)
            ]
            right.update(found)
            return found

        named = counted_name(peer)
        attempt = Attempt(counted_name(verifier), named, kind, matches, own, first=first)
        if unfit:
            # Counted in the same lane as agents' attempts about this name, so that a wait
            # doesn't reveal whether it is a person. An agent's own lanes aren't closed by this.
            shared = not own and unfit != NO_PERSON
            counted = named if shared else unknown_account(named, own=own)
            attempt = Attempt(counted, counted, kind, matches, own, named=peer, unfit=unfit)
        try:
            decision = _decide(self._core.ledger(), attempt, right)
        except (ConfigurationError, LedgerUnavailable, UnsealError) as error:
            self._record_undecided(error, verifier, peer, kind)
            raise
        if decision.verdict != "accepted":
            raise _refused(decision, peer, verifier)
        return Verification(peer, verifier, kind, decision.step, utc(decision.at), message)

    def _record_undecided(self, error: Exception, verifier: str, peer: str, kind: CodeKind) -> None:
        """Name the accounts in an error that prevented a decision, and record it."""
        if isinstance(error, LedgerUnavailable):
            error.peer, error.verifier = as_evidence(peer), as_evidence(verifier)
        # The same database would have to record its failure, and would only time out again.
        if not isinstance(error.__cause__, StorageError):
            reason = why_not_decided(error, "ledger unavailable")
            with suppress(StorageError):
                self._core.record_refusal(verifier, peer, f"verify.{kind}", reason)


def _decide(ledger: Ledger, attempt: Attempt, right: set[int]) -> Decision:
    """Return the decision of a ledger, which may be the user's own.

    Args:
        ledger: The ledger.
        attempt: The attempt.
        right: The steps in which its code was found to be right, when the ledger has decided.

    Raises:
        LedgerUnavailable: Its verdict is none of those that there are, or it accepts a code that
            it hasn't found to be right, so nothing is accepted.
    """
    decision = ledger.decide(attempt)
    verdict = getattr(decision, "verdict", decision)
    if verdict not in _VERDICTS:
        raise LedgerUnavailable(
            f"nothing is accepted: the ledger returned the verdict {verdict!r:.40}, which must be "
            f"one of {', '.join(_VERDICTS)}"
        )
    if verdict == "accepted" and decision.step not in right:
        raise LedgerUnavailable(
            f"nothing is accepted: the ledger accepted the code in the step {decision.step!r:.40}, "
            "in which Attempt.matches didn't find it"
        )
    return decision


def _refused(decision: Decision, peer: str, verifier: str) -> VerificationError:
    """Return the error for a code that wasn't accepted."""
    who = {"peer": as_evidence(peer), "verifier": as_evidence(verifier)}
    wait = decision.retry_after or 0.0
    if decision.verdict == "limited":
        return RateLimited(
            f"too many failed codes about {quoted(peer)}: wait {in_words(wait)}",
            retry_after=wait,
            **who,
        )
    if decision.verdict == "locked":
        return PeerLocked(
            f"codes of {quoted(peer)} are not evaluated here for {in_words(wait)}",
            retry_after=wait,
            **who,
        )
    if verifier == peer:
        return CodeRejected("the code was not accepted; wait for the next one", **who)
    return CodeRejected(**who)
